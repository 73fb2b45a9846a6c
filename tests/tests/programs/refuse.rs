//! The gateway drops, each time for the right reason, or passes what is none of its business.

use fairlead_abi::{DropReason, GUE_PORT, Roles};
use fairlead_tests::packets::{
    Carried, Counts, Frame, IpPacket, Lab,
    build::{self, flags, gue, ipip, tcp, udp},
    report::DROP,
};

use super::node::*;

#[test]
fn what_services_lack() {
    let mut node = Node::gateway();
    let rows = [
        (port::NO_RING, DropReason::NoBackend),
        (port::EMPTY_SLOTS, DropReason::NoBackend),
        (port::FREE_BACKEND, DropReason::NoBackend),
        (port::NO_HOP, DropReason::NoNextHop),
        (port::GONE_HOP, DropReason::NoNextHop),
        (port::ASTRAY, DropReason::Inconsistent),
        (port::LOCAL, DropReason::Inconsistent), // without the receiver's role
        (port::NONE, DropReason::PortNotServed),
    ];
    for (vip, (to, reason)) in VIPS.map(ip).into_iter().flat_map(|vip| rows.map(|row| (vip, row))) {
        for vlans in [&[][..], &[3]] {
            let packet = |carried: Carried| {
                incoming(build::ip(of_family(CLIENTS, vip), vip, carried)).tagged(vlans).bytes()
            };
            node.drops(&format!("TCP to {vip} port {to}"), &packet(tcp(1, to, flags::SYN).into()), reason);
            node.drops(&format!("UDP to {vip} port {to}"), &packet(udp(1, to, b"").into()), reason);
        }
    }
    node.judge(64);
}

#[test]
fn what_no_router_or_host_may_send() {
    let mut node = Node::gateway();
    for vip in VIPS.map(ip) {
        let client = of_family(CLIENTS, vip);
        for carried in [Carried::from(tcp(1, port::IPIP_V4, flags::SYN)), udp(1, port::GUE_V6, b"").into()] {
            let packet = build::ip(client, vip, carried.clone());
            for ttl in [0, 1] {
                let frame = incoming(IpPacket { ttl, ..packet.clone() }).bytes();
                node.drops(&format!("TTL {ttl}"), &frame, DropReason::TtlExpired);
            }
            let sources: &[&str] = if vip.is_ipv4() {
                &[
                    "0.0.0.0",
                    "0.1.2.3",
                    "127.0.0.1",
                    "127.255.0.1",
                    "224.0.0.1",
                    "239.1.1.1",
                    "240.0.0.1",
                    "255.255.255.255",
                    VIPS[0],
                ]
            } else {
                &["::", "::1", "ff02::1", "ff0e::1", VIPS[1]]
            };
            for source in sources {
                let frame = incoming(build::ip(ip(source), vip, carried.clone())).bytes();
                node.drops(&format!("from {source}"), &frame, DropReason::BadSource);
            }
        }
    }
    node.judge(36);
}

#[test]
fn headers_that_contradict_themselves() {
    let mut node = Node::gateway();
    let packet = build::ip(ip(CLIENTS[0]), ip(VIPS[0]), tcp(1, port::IPIP_V4, flags::SYN));
    let frame = incoming(packet).bytes();
    let with = |changes: &[(usize, u8)]| {
        let mut frame = frame.clone();
        changes.iter().for_each(|&(at, value)| frame[at] = value);
        frame
    };
    for words in 0..5 {
        node.drops("a header of fewer than five words", &with(&[(14, 0x40 | words)]), DropReason::Malformed);
    }
    for length in 0..20 {
        node.drops(
            "a packet shorter than its header",
            &with(&[(16, 0), (17, length)]),
            DropReason::Malformed,
        );
    }
    node.drops("options longer than the packet", &with(&[(14, 0x4f), (17, 59)]), DropReason::Malformed);
    for length in 20..40 {
        node.drops("no room for TCP's header", &with(&[(17, length)]), DropReason::Truncated);
    }
    node.drops("a packet longer than its frame", &with(&[(17, 41)]), DropReason::Truncated);
    node.drops("the longest packet", &with(&[(16, 255), (17, 255)]), DropReason::Truncated);

    let packet = build::ip(ip(CLIENTS[1]), ip(VIPS[1]), udp(1, port::IPIP_V4, b""));
    let extended = IpPacket { extensions: vec![(60, vec![0; 14])], ..packet.clone() };
    let mut frame = incoming(extended).bytes();
    frame[19] = 8;
    node.drops("extension headers longer than the packet", &frame, DropReason::Malformed);
    for length in 0..8 {
        let mut frame = incoming(packet.clone()).bytes();
        frame[19] = length;
        node.drops("no room for UDP's header", &frame, DropReason::Truncated);
    }
    node.judge(56);
}

#[test]
fn extension_headers_and_protocols() {
    let mut node = Node::gateway();
    let v6 = build::ip(ip(CLIENTS[1]), ip(VIPS[1]), udp(1, port::IPIP_V4, b"12345678"));
    let chain = |kinds: &[(u8, usize)]| {
        let extensions = kinds.iter().map(|&(kind, length)| (kind, vec![0; length])).collect();
        incoming(IpPacket { extensions, ..v6.clone() }).bytes()
    };
    node.drops(
        "a fragment header as the fifth",
        &chain(&[(60, 6), (60, 6), (60, 6), (60, 6), (44, 6)]),
        DropReason::ExtensionHeader,
    );
    node.drops("two fragment headers", &chain(&[(44, 6), (60, 6), (44, 6)]), DropReason::Malformed);
    node.drops("five extension headers", &chain(&[(60, 6); 5]), DropReason::ExtensionHeader);
    node.drops("an extension header of 264 bytes", &chain(&[(0, 262)]), DropReason::ExtensionHeader);
    for vip in VIPS.map(ip) {
        for protocol in [0xfd, 47, 50, 51, 132, 4, 41, 59, if vip.is_ipv4() { 58 } else { 1 }] {
            let carried = Carried::Raw(protocol, vec![8; 40]);
            let frame = incoming(build::ip(of_family(CLIENTS, vip), vip, carried)).bytes();
            node.drops(&format!("protocol {protocol} to {vip}"), &frame, DropReason::UnsupportedProtocol);
        }
    }
    node.judge(22);
}

#[test]
fn what_is_for_no_vip_passes_unchanged() {
    let mut node = Node::gateway();
    let others = ["203.0.113.11", "2001:db8:100::11"].map(ip);
    for (destination, vip) in others.into_iter().zip(VIPS.map(ip)) {
        let client = of_family(CLIENTS, vip);
        let packets = [
            Carried::from(tcp(1, port::IPIP_V4, flags::SYN)),
            udp(1, port::IPIP_V4, b"x").into(),
            udp(1, GUE_PORT, b"x").into(),
            Carried::Icmp {
                kind: if vip.is_ipv4() { 8 } else { 128 },
                code: 0,
                rest: [0; 4],
                payload: vec![],
            },
            Carried::Raw(47, vec![0; 20]),
            Carried::Raw(if vip.is_ipv4() { 4 } else { 41 }, vec![0; 20]),
        ];
        for carried in packets {
            let packet = build::ip(client, destination, carried);
            for packet in
                [IpPacket { ttl: 1, ..packet.clone() }, IpPacket { fragment: 0x2000, ..packet.clone() }]
            {
                for vlans in [&[][..], &[1], &[1, 2]] {
                    node.passes("no VIP", &incoming(packet.clone()).tagged(vlans).bytes());
                }
            }
            let mut cut = incoming(packet).bytes();
            cut.pop();
            node.passes("no VIP, and cut", &cut);
        }
        let to_vip = build::ip(client, vip, tcp(1, port::IPIP_V4, flags::SYN));
        node.passes("three VLAN tags", &incoming(to_vip.clone()).tagged(&[1, 2, 3]).bytes());
        let mut wrong = incoming(to_vip).bytes();
        wrong[12..14].copy_from_slice(if vip.is_ipv4() { &[0x86, 0xdd] } else { &[8, 0] });
        node.passes("the other family's EtherType", &wrong);
        wrong[12..14].copy_from_slice(&[8, 6]);
        node.passes("ARP's EtherType", &wrong);
    }
    node.judge(90);
}

#[test]
fn ports_that_a_vip_passes_and_what_it_still_drops() {
    let mut node = Node::gateway();
    for vip in PASSING_VIPS.map(ip) {
        let packet = |carried: Carried| incoming(build::ip(of_family(CLIENTS, vip), vip, carried)).bytes();
        node.passes("TCP to a port that is not served", &packet(tcp(1, 80, flags::SYN).into()));
        node.passes("UDP to a port that is not served", &packet(udp(1, 80, b"").into()));
        node.drops("GRE", &packet(Carried::Raw(47, vec![0; 8])), DropReason::UnsupportedProtocol);
    }
    node.judge(6);
}

#[test]
fn our_own_tunnel_packets_that_come_back() {
    for roles in [Roles::GATEWAY, Roles::GATEWAY | Roles::RECEIVER] {
        // Where this node's own tunnel source is not among the gateways that it takes packets from.
        let mut tables = tables();
        tables.gateways = GATEWAYS.map(|gateway| gateway.parse::<std::net::IpAddr>().unwrap().into()).into();
        let mut node = Node::with(&settings(roles), &tables);
        let inner = build::ip(ip(CLIENTS[0]), ip(VIPS[0]), tcp(1, port::IPIP_V4, flags::SYN));
        for (own, far) in TUNNELS.into_iter().zip(FAR) {
            for packet in [ipip(ip(own), ip(far), &inner), gue(ip(own), ip(far), 0xc000, &inner)] {
                node.drops("our own", &incoming(packet.clone()).bytes(), DropReason::Looped);
                node.drops("our own, tagged", &incoming(packet).tagged(&[9]).bytes(), DropReason::Looped);
            }
            let other = of_family(GATEWAYS, ip(own));
            if roles == Roles::GATEWAY {
                node.passes("another gateway's", &incoming(ipip(other, ip(far), &inner)).bytes());
            }
            node.passes(
                "a stranger's",
                &incoming(gue(of_family(CLIENTS, ip(own)), ip(far), 1, &inner)).bytes(),
            );
            node.passes(
                "no tunnel packet of ours",
                &incoming(build::ip(ip(own), ip(far), udp(1, 53, b""))).bytes(),
            );
        }
        node.judge(12);
    }
}

#[test]
fn without_headroom_it_is_dropped() {
    let mut lab = Lab::new(&settings(Roles::GATEWAY), &tables()).unwrap();
    for vip in VIPS.map(ip) {
        let frame =
            incoming(build::ip(of_family(CLIENTS, vip), vip, tcp(1, port::GUE_V6, flags::SYN))).bytes();
        let before = lab.counts().unwrap();
        let run = lab.ingress_with_less_headroom(&frame, 200).unwrap();
        assert_eq!(run.action, DROP);
        let counts = lab.counts().unwrap().since(&before);
        assert_eq!(counts, Counts::of_drop(DropReason::NoHeadroom, frame.len()));
    }
}

#[test]
fn frames_too_short_for_any_header_pass() {
    let mut node = Node::both();
    let frame = Frame::new(NIC_MAC, ROUTER_MAC, build::ip(ip(CLIENTS[0]), ip(VIPS[0]), udp(1, 80, b"")));
    node.passes("nothing but an Ethernet header", &frame.bytes()[..14]);
    node.passes("nothing but a tag", &frame.tagged(&[1]).bytes()[..15]);
    node.judge(2);
}
