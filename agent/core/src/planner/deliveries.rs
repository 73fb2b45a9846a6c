//! What this node's receiver delivers: its own endpoints, for every VIP and port they serve.
//!
//! Each endpoint also by itself, so that a stranger's tunnel packet for it is told from one that is none of ours.
//! All of them, ready or not: a draining endpoint keeps its connections. Under each of the endpoint's addresses,
//! because gateways choose the tunnel's family.

use std::net::IpAddr;

use fairlead_abi::{Address, Delivery, DeliveryKey, ENDPOINT_OWNS_VIP, Encap, Family, overhead};

use super::candidates::is_here;
use crate::model::{Declarations, Endpoint, Protocol, Service, Shard};

/// The deliveries of one service.
pub(super) fn deliveries(service: &Service, declared: &Declarations) -> Vec<(DeliveryKey, Delivery)> {
    let mut all = Vec::new();
    if !declared.here.receiver {
        return all;
    }
    for shard in service.shards.iter() {
        for endpoint in shard.endpoints.iter().filter(|endpoint| is_here(declared, shard, endpoint)) {
            all.extend(of_endpoint(service, shard, endpoint, declared));
        }
    }
    all
}

fn of_endpoint(
    service: &Service,
    shard: &Shard,
    endpoint: &Endpoint,
    declared: &Declarations,
) -> Vec<(DeliveryKey, Delivery)> {
    let owns_vip = shard.spec.options.endpoint_owns_vip;
    let mut all = Vec::new();
    for vip in service.vips.iter() {
        let family = Family::of(&vip);
        if !owns_vip && endpoint.address(family).is_none() {
            continue;
        }
        for port in service.served_at(vip) {
            let Some(&target) = endpoint.ports.get(&port.name).filter(|&&target| target != 0) else {
                continue;
            };
            // Where its replies come from: who owns the VIP is rewritten neither here nor there.
            let (address, target) = match endpoint.address(family) {
                Some(address) if !owns_vip => (address, target),
                _ => (vip, port.port),
            };
            let delivery = Delivery {
                endpoint: address.into(),
                port: target.to_be_bytes(),
                mss: if port.protocol == Protocol::Tcp { mss(declared.here.tunnel_mtu, family) } else { 0 },
                flags: if owns_vip { ENDPOINT_OWNS_VIP } else { 0 },
                padding: [0; 3],
            };
            all.extend(endpoint.addresses().map(|outer| {
                let key = DeliveryKey {
                    outer: Address::from(outer),
                    vip: vip.into(),
                    port: port.port.to_be_bytes(),
                    protocol: port.protocol.number(),
                    family: family as u8,
                    padding: 0,
                };
                (key, delivery)
            }));
        }
    }
    if !all.is_empty() {
        let alone = |outer: IpAddr| (DeliveryKey::endpoint_only(outer.into()), Delivery::default());
        all.extend(endpoint.addresses().map(alone));
    }
    all
}

/// The largest segment that every tunnel carries: later packets of the connection may come from another gateway, by
/// another family and encapsulation than the first.
fn mss(tunnel_mtu: u16, inner: Family) -> u16 {
    const TCP: u16 = 20;
    let ip = match inner {
        Family::V4 => 20,
        Family::V6 => 40,
    };
    tunnel_mtu.saturating_sub(overhead(Encap::Gue, Family::V6) + ip + TCP)
}

#[cfg(test)]
#[path = "deliveries_tests.rs"]
mod tests;
