//! What varies by flow: the backend, the outer source and GUE's source port.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fairlead_abi::{Encap, Roles, TunnelSource};
use fairlead_tests::packets::{
    Carried, Lab, Service,
    build::{self, flags, tcp},
    tables::{backend, service_key},
};

use super::node::*;

/// Clients that differ in their last bytes or their port only.
fn clients(vip: IpAddr, count: u32) -> impl Iterator<Item = (IpAddr, u16)> {
    (0..count).map(move |number| {
        let (address, port) = if number % 2 == 0 { (number, 50_000) } else { (7, number as u16) };
        let client: IpAddr = match vip {
            IpAddr::V4(_) => Ipv4Addr::from(0x0a00_0000 + address).into(),
            IpAddr::V6(_) => {
                Ipv6Addr::from(0x2001_0db8_0005_0000_0000_0000_0000_0000 + u128::from(address)).into()
            }
        };
        (client, port)
    })
}

fn syn(vip: IpAddr, (client, from): (IpAddr, u16), to: u16) -> Vec<u8> {
    incoming(build::ip(client, vip, tcp(from, to, flags::SYN))).bytes()
}

#[test]
fn backends_get_equal_shares_and_a_flow_keeps_its_own() {
    const BACKENDS: u32 = 20;
    const FLOWS: u32 = 40_000;
    let mut tables = tables();
    tables.services.retain(|service| service.key.port == 0);
    for vip in VIPS.map(ip) {
        let key = service_key(vip, port::IPIP_V4, TCP);
        let far = (1..=BACKENDS as u8)
            .map(|n| backend(Ipv4Addr::new(192, 0, 2, n), Encap::Ipip, 1, 1500))
            .collect();
        tables.services.push(Service::new(id_of(&key), key, 251, far));
    }
    let mut lab = Lab::new(&settings(Roles::GATEWAY), &tables).unwrap();
    for vip in VIPS.map(ip) {
        let before = lab.counts().unwrap();
        for (number, client) in clients(vip, FLOWS).enumerate() {
            let first = lab.ingress(&syn(vip, client, port::IPIP_V4)).unwrap().frame;
            if number % 100 == 0 {
                // An ICMP error of the flow goes the same way.
                let sent = build::ip(vip, client.0, tcp(port::IPIP_V4, client.1, flags::ACK)).bytes();
                let kind = if vip.is_ipv4() { 3 } else { 1 };
                let error = Carried::Icmp { kind, code: 1, rest: [0; 4], payload: sent };
                let router = of_family(["192.0.2.254", "2001:db8:fe::1"], vip);
                let second = lab.ingress(&incoming(build::ip(router, vip, error)).bytes()).unwrap().frame;
                assert_eq!(first[30..34], second[30..34], "the outer destination of {client:?}");
            }
        }
        let counts = lab.counts().unwrap().since(&before);
        let connections: Vec<u64> = counts.backends.values().map(|counter| counter.connections).collect();
        assert_eq!(connections.len(), BACKENDS as usize);
        assert_eq!(connections.iter().sum::<u64>(), u64::from(FLOWS));
        // 251 slots over 20 backends are 12 or 13 each (4 %); the rest is chance (2.2 % at one sigma).
        let mean = f64::from(FLOWS / BACKENDS);
        let worst = connections.iter().map(|&n| (n as f64 / mean - 1.0).abs()).fold(0.0, f64::max);
        assert!(worst < 0.12, "{worst}: {connections:?}");
    }
}

#[test]
fn outer_sources_fill_the_tunnel_prefix_and_nothing_else() {
    let mut settings = settings(Roles::GATEWAY);
    settings.tunnel_v4 = source("198.51.100.16", [0, 0, 0, 0x0f]);
    settings.tunnel_v6 = source("2001:db8:77:0:1:2::", [0xff; 4]);
    let mut lab = Lab::new(&settings, &tables()).unwrap();
    for (vip, to) in VIPS.map(ip).into_iter().flat_map(|vip| [(vip, port::IPIP_V4), (vip, port::GUE_V4)]) {
        let mut seen = BTreeMap::<[u8; 4], u32>::new();
        for client in clients(vip, 16_000) {
            let frame = lab.ingress(&syn(vip, client, to)).unwrap().frame;
            *seen.entry(frame[26..30].try_into().unwrap()).or_default() += 1;
        }
        assert_eq!(
            seen.keys().copied().collect::<Vec<_>>(),
            (16..32).map(|n| [198, 51, 100, n]).collect::<Vec<_>>()
        );
        assert!(seen.values().all(|&count| (800..1200).contains(&count)), "{seen:?}");
    }
    for (vip, to) in VIPS.map(ip).into_iter().flat_map(|vip| [(vip, port::IPIP_V6), (vip, port::GUE_V6)]) {
        let mut seen = BTreeSet::new();
        for client in clients(vip, 4000) {
            let frame = lab.ingress(&syn(vip, client, to)).unwrap().frame;
            assert_eq!(frame[22..34], [0x20, 1, 0x0d, 0xb8, 0, 0x77, 0, 0, 0, 1, 0, 2]);
            seen.insert(frame[34..38].to_vec());
        }
        assert!(seen.len() > 3990, "{} of 4000", seen.len());
    }
}

fn source(address: &str, vary: [u8; 4]) -> TunnelSource {
    TunnelSource { address: ip(address).into(), vary, padding: 0 }
}

#[test]
fn gue_ports_vary_among_the_dynamic_ones() {
    let mut node = Node::gateway();
    for (vip, (to, at)) in
        VIPS.map(ip).into_iter().flat_map(|vip| [(port::GUE_V4, 34), (port::GUE_V6, 54)].map(|r| (vip, r)))
    {
        let mut seen = BTreeSet::new();
        for client in clients(vip, 4000) {
            let frame = syn(vip, client, to);
            let (first, again) =
                (node.lab.ingress(&frame).unwrap().frame, node.lab.ingress(&frame).unwrap().frame);
            assert_eq!(first, again, "a flow keeps its port");
            let port = u16::from_be_bytes([first[at], first[at + 1]]);
            assert!(port >= 0xc000, "{port}");
            seen.insert(port);
        }
        // 4000 of 16,384 at random: 3549 different ones are expected.
        assert!(seen.len() > 3400, "{} different ports", seen.len());
    }
}
