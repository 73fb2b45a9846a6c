//! A shard's endpoints, judged one by one for one port of one VIP.

use std::net::IpAddr;
use std::sync::Arc;

use fairlead_abi::{Encap, Family};

use super::{NotTaken, Verdict};
use crate::model::{
    Declarations, Endpoint, ProbeKind, ProbeState, Protocol, Service, ServiceHealth, ServicePort, Shard,
};

/// What is planned: one port at one VIP.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target<'a> {
    pub(super) service: &'a Service,
    pub(super) vip: IpAddr,
    pub(super) port: &'a ServicePort,
}

/// An endpoint that could hold a slot.
#[derive(Clone, Debug)]
pub(super) struct Candidate<'a> {
    pub(super) of: &'a Endpoint,
    pub(super) shard: u16,
    pub(super) outer: IpAddr,
    pub(super) endpoint: IpAddr,
    pub(super) port: u16,
    pub(super) encap: Encap,
    /// The API server's word, unless somebody drains it.
    pub(super) ready: bool,
    /// The probes' word: false only where they fail.
    pub(super) passes: bool,
    /// It is for other zones, and those that are for this one suffice.
    pub(super) elsewhere: bool,
}

/// The endpoints of all shards; those that can't hold a slot apart, with the reason.
pub(super) fn candidates<'a>(
    target: Target<'a>,
    declared: &Declarations,
    health: Option<&ServiceHealth>,
) -> (Vec<Candidate<'a>>, Vec<NotTaken>) {
    let mut candidates = Vec::new();
    let mut not_taken = Vec::new();
    for (number, shard) in (0..=u16::MAX).zip(target.service.shards.iter()) {
        for endpoint in shard.endpoints.iter() {
            match candidate(target, declared, health, number, shard, endpoint) {
                Ok(candidate) => candidates.push(candidate),
                Err(verdict) => not_taken.push(NotTaken {
                    shard: number,
                    pod: Arc::clone(&endpoint.pod),
                    address: endpoint.addresses().next(),
                    verdict,
                }),
            }
        }
        not_taken.extend(shard.rejected.iter().map(|rejected| NotTaken {
            shard: number,
            pod: Arc::clone(&rejected.pod),
            address: rejected.address,
            verdict: Verdict::Rejected(rejected.why),
        }));
    }
    candidates.sort_unstable_by_key(|candidate| candidate.outer);
    not_taken.sort_unstable_by(|a, b| (a.shard, &a.pod, a.address).cmp(&(b.shard, &b.pod, b.address)));
    (candidates, not_taken)
}

fn candidate<'a>(
    target: Target<'a>,
    declared: &Declarations,
    health: Option<&ServiceHealth>,
    number: u16,
    shard: &'a Shard,
    endpoint: &'a Endpoint,
) -> Result<Candidate<'a>, Verdict> {
    let family = Family::of(&target.vip);
    let port = match endpoint.ports.get(&target.port.name) {
        Some(&port) if port != 0 => port,
        _ => return Err(Verdict::NoPort),
    };
    let of_family = endpoint.address(family);
    if of_family.is_none() && !shard.spec.options.endpoint_owns_vip {
        return Err(Verdict::NoAddressOfFamily);
    }
    let here = is_here(declared, shard, endpoint);
    if !endpoint.receiver && !here {
        return Err(Verdict::NoReceiver);
    }
    let outer = outer(declared, endpoint, family, here).ok_or(Verdict::NoTunnelFamily)?;
    let probed = shard.spec.options.probe.over(&declared.probe).kind != ProbeKind::None;
    Ok(Candidate {
        of: endpoint,
        shard: number,
        outer,
        endpoint: of_family.unwrap_or(outer),
        port,
        encap: if here { Encap::Local } else { declared.here.tunnel.encap() },
        ready: endpoint.takes_new(),
        passes: !(probed && fails(target, endpoint, health)),
        elsewhere: false,
    })
}

/// Whether this node delivers to the endpoint itself.
pub(super) fn is_here(declared: &Declarations, shard: &Shard, endpoint: &Endpoint) -> bool {
    declared.here.receiver
        && endpoint.node == declared.here.node
        && shard.cluster == declared.here.place.cluster
}

/// The outer destination: the endpoint's address in the VIP's family if there is a tunnel of it, else in the other. On
/// this node no tunnel is needed, but where there is one the address is the same as on the group's other gateways.
fn outer(declared: &Declarations, endpoint: &Endpoint, family: Family, here: bool) -> Option<IpAddr> {
    let other = match family {
        Family::V4 => Family::V6,
        Family::V6 => Family::V4,
    };
    let has_tunnel = |family| match family {
        Family::V4 => declared.here.tunnel_v4,
        Family::V6 => declared.here.tunnel_v6,
    };
    let by_tunnel = [family, other]
        .into_iter()
        .filter(|&family| has_tunnel(family))
        .find_map(|family| endpoint.address(family));
    by_tunnel.or_else(|| if here { endpoint.probed_at(family) } else { None })
}

/// Whether the probes of this port fail. UDP isn't probed itself: it follows the TCP port of the same number, else it
/// fails when all TCP ports do.
fn fails(target: Target<'_>, endpoint: &Endpoint, health: Option<&ServiceHealth>) -> bool {
    let Some(health) = health else { return false };
    let Some(address) = endpoint.probed_at(Family::of(&target.vip)) else { return false };
    let bad = |port: &ServicePort| health.get(address, &port.name).state == ProbeState::Bad;
    if target.port.protocol == Protocol::Tcp {
        return bad(target.port);
    }
    let mut tcp = target.service.ports.iter().filter(|port| port.protocol == Protocol::Tcp).peekable();
    match target.service.ports.iter().find(|p| p.protocol == Protocol::Tcp && p.port == target.port.port) {
        Some(twin) => bad(twin),
        None => tcp.peek().is_some() && tcp.all(bad),
    }
}
