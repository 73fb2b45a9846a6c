//! Ranges of clients: who is outside of all of them is refused, whatever he sends, and costs nobody else anything.

use std::net::IpAddr;

use fairlead_abi::{DropReason, FlowEvent, Roles, ServiceEntry, kind, mark};
use fairlead_tests::packets::{
    Carried, Counts, Frame, IpPacket, Tables,
    build::{self, Tcp, flags, gue, ipip, tcp, udp},
    tables::service_key,
};
use ipnet::IpNet;

use super::node::*;

const FROM: u16 = 40_000;

/// A range of each IP version with the clients in it, and an address beside each end of it.
const RANGES: [&str; 2] = ["192.0.2.48/28", "2001:db8:5::/48"];
const FIRST: [&str; 2] = ["192.0.2.48", "2001:db8:5::"];
const LAST: [&str; 2] = ["192.0.2.63", "2001:db8:5:ffff:ffff:ffff:ffff:ffff"];
const BELOW: [&str; 2] = ["192.0.2.47", "2001:db8:4:ffff:ffff:ffff:ffff:ffff"];
const ABOVE: [&str; 2] = ["192.0.2.64", "2001:db8:6::"];

/// The node's tables, where some ports let in only these ranges.
fn restricted(ports: &[u16], ranges: &[&str]) -> Tables {
    let mut tables = tables();
    for service in tables.services.iter_mut().filter(|service| ports.contains(&service.key.port)) {
        service.flags |= ServiceEntry::RESTRICTED;
        let of_family = |range: &IpNet| range.addr().is_ipv4() == service.key.vip.is_v4();
        let ranges = ranges.iter().map(|range| range.parse().unwrap()).filter(of_family);
        tables.allowed.extend(ranges.map(|range| (service.key, range)));
    }
    tables
}

fn node(roles: u32, ports: &[u16], ranges: &[&str]) -> Node {
    Node::with(&settings(roles), &restricted(ports, ranges))
}

fn gateway(ranges: &[&str]) -> Node {
    node(Roles::GATEWAY, &[port::IPIP_V4], ranges)
}

/// What clients send: in the fast path, and with tags or options in the other.
fn frames(client: IpAddr, vip: IpAddr, carried: &Carried) -> Vec<(&'static str, IpPacket, Vec<u16>)> {
    let packet = build::ip(client, vip, carried.clone());
    let options = IpPacket {
        options: if vip.is_ipv4() { vec![1; 8] } else { vec![] },
        extensions: if vip.is_ipv4() { vec![] } else { vec![(60, vec![0; 6])] },
        ..packet.clone()
    };
    vec![("as it is", packet.clone(), vec![]), ("tagged", packet, vec![7]), ("with options", options, vec![])]
}

/// Each kind of packet that a client sends to a port.
fn kinds(to: u16) -> [(u8, Carried); 3] {
    [
        (TCP, tcp(FROM, to, flags::SYN).into()),
        (TCP, tcp(FROM, to, flags::ACK).into()),
        (UDP, udp(FROM, to, b"ahoy").into()),
    ]
}

/// It goes to the only backend of [`port::IPIP_V4`], or of a port as that.
fn goes(node: &mut Node, what: &str, packet: &IpPacket, tags: &[u16], (to, protocol): (u16, u8)) {
    let id = mark_of_current(packet, FROM, to);
    let frame = incoming(packet.clone()).tagged(tags).bytes();
    let inner = IpPacket { ttl: packet.ttl - 1, ..packet.clone() };
    let outer = IpPacket { id, ..ipip(ip(TUNNELS[0]), ip(FAR[0]), &inner) };
    let (service, backend) = counted(packet.destination, to, protocol);
    let opens =
        matches!(&packet.carried, Carried::Tcp(segment) if segment.flags & flags::SYN_ACK == flags::SYN);
    let counts = Counts::of_forward(service, backend, frame.len(), opens);
    node.row(what, &frame, Then::Transmit(outgoing(&HOP, outer).bytes()), counts);
}

#[test]
fn clients_within_a_range_are_let_in_and_others_refused() {
    let mut node = gateway(&RANGES);
    for vip in VIPS.map(ip) {
        for (protocol, carried) in kinds(port::IPIP_V4) {
            for client in [CLIENTS, FIRST, LAST].map(|pair| of_family(pair, vip)) {
                for (how, packet, tags) in frames(client, vip, &carried) {
                    goes(&mut node, &format!("{client} {how}"), &packet, &tags, (port::IPIP_V4, protocol));
                }
            }
            for client in [BELOW, ABOVE].map(|pair| of_family(pair, vip)) {
                for (how, packet, tags) in frames(client, vip, &carried) {
                    let frame = incoming(packet).tagged(&tags).bytes();
                    node.drops(&format!("{client} {how}"), &frame, DropReason::NotAllowed);
                }
            }
        }
        // Another port of the same VIP has no ranges, and one that nobody serves is not served to anybody.
        let stranger = of_family(ABOVE, vip);
        let elsewhere = build::ip(stranger, vip, tcp(FROM, port::NARROW, flags::SYN));
        goes(&mut node, "another port", &elsewhere, &[], (port::NARROW, TCP));
        let unserved = incoming(build::ip(stranger, vip, tcp(FROM, port::NONE, flags::SYN))).bytes();
        node.drops("a port that is not served", &unserved, DropReason::PortNotServed);
    }
    node.judge(94);
}

#[test]
fn it_is_the_first_reason_why_a_packet_is_dropped() {
    let all = [port::NO_RING, port::NO_HOP, port::EMPTY_SLOTS, port::ASTRAY, port::IPIP_V4];
    let mut node = node(Roles::GATEWAY, &all, &RANGES);
    for vip in VIPS.map(ip) {
        for to in all {
            let packet = build::ip(of_family(ABOVE, vip), vip, tcp(FROM, to, flags::ACK));
            for tags in [&[][..], &[9]] {
                let spent = IpPacket { ttl: 1, ..packet.clone() };
                for packet in [packet.clone(), spent] {
                    node.drops(
                        &format!("{to}"),
                        &incoming(packet).tagged(tags).bytes(),
                        DropReason::NotAllowed,
                    );
                }
            }
        }
        for source in if vip.is_ipv4() { ["127.0.0.1", VIPS[0]] } else { ["::1", VIPS[1]] } {
            let forged = build::ip(ip(source), vip, tcp(FROM, port::IPIP_V4, flags::SYN));
            node.drops(source, &incoming(forged).bytes(), DropReason::NotAllowed);
        }
    }
    node.judge(44);
}

#[test]
fn the_ranges_of_a_service_are_its_own() {
    let mut tables = restricted(&[port::IPIP_V4, port::NARROW], &[]);
    for (number, vip) in VIPS.map(ip).into_iter().enumerate() {
        let range: IpNet = RANGES[number].parse().unwrap();
        tables.allowed.push((service_key(vip, port::NARROW, TCP), range));
        // A wide one around it, and one within it.
        let wide = if number == 0 { "192.0.0.0/16" } else { "2001:db8::/32" };
        let within = if number == 0 { "192.0.2.50/32" } else { "2001:db8:5::50/128" };
        for range in [wide, within] {
            tables.allowed.push((service_key(vip, port::NARROW, UDP), range.parse().unwrap()));
        }
    }
    let mut node = Node::with(&settings(Roles::GATEWAY), &tables);
    for vip in VIPS.map(ip) {
        let client = of_family(CLIENTS, vip);
        for (_, carried) in kinds(port::IPIP_V4) {
            let frame = incoming(build::ip(client, vip, carried)).bytes();
            node.drops("nobody is let in", &frame, DropReason::NotAllowed);
        }
        let to = (port::NARROW, TCP);
        goes(&mut node, "its own", &build::ip(client, vip, tcp(FROM, port::NARROW, flags::SYN)), &[], to);
        for client in [CLIENTS, ABOVE] {
            let packet = build::ip(of_family(client, vip), vip, udp(FROM, port::NARROW, b"ahoy"));
            goes(&mut node, "around and within", &packet, &[], (port::NARROW, UDP));
        }
        let outside = if vip.is_ipv4() { "192.1.2.50" } else { "2001:db9:5::50" };
        let frame = incoming(build::ip(ip(outside), vip, udp(FROM, port::NARROW, b"ahoy"))).bytes();
        node.drops("outside of both", &frame, DropReason::NotAllowed);
    }
    node.judge(14);
}

#[test]
fn an_error_is_the_flows_that_it_speaks_of_whoever_sends_it() {
    let mut node = gateway(&RANGES);
    for vip in VIPS.map(ip) {
        let (client, stranger) = (of_family(CLIENTS, vip), of_family(ABOVE, vip));
        let error = |of: IpAddr, from: IpAddr| {
            let reply = build::ip(vip, of, tcp(port::IPIP_V4, FROM, flags::ACK)).bytes();
            let kind = if vip.is_ipv4() { 11 } else { 3 };
            build::ip(from, vip, Carried::Icmp { kind, code: 0, rest: [0; 4], payload: reply })
        };
        let packet = error(client, stranger);
        let frame = incoming(packet.clone()).bytes();
        let inner = IpPacket { ttl: packet.ttl - 1, ..packet };
        let id = mark(hash(client, FROM, port::IPIP_V4), kind::CURRENT, false);
        let outer = IpPacket { id, ..ipip(ip(TUNNELS[0]), ip(FAR[0]), &inner) };
        let (service, backend) = counted(vip, port::IPIP_V4, TCP);
        let counts = Counts::of_forward(service, backend, frame.len(), false);
        let sent = Then::Transmit(outgoing(&HOP, outer).bytes());
        node.row("of a flow that is allowed, from a router that isn't", &frame, sent, counts);
        let frame = incoming(error(stranger, client)).bytes();
        node.drops("of a flow that isn't allowed", &frame, DropReason::NotAllowed);
        // Who may ask a VIP whether it is there is not the services' affair.
        let (request, reply) = if vip.is_ipv4() { (8, 0) } else { (128, 129) };
        let echo = |kind| Carried::Icmp { kind, code: 0, rest: [0, 1, 0, 1], payload: b"ahoy".to_vec() };
        let frame = incoming(build::ip(stranger, vip, echo(request))).bytes();
        let answer = Frame::new(ROUTER_MAC, NIC_MAC, build::ip(vip, stranger, echo(reply))).bytes();
        node.row(
            "an echo request",
            &frame,
            Then::Transmit(answer),
            Counts::of_answer(vip_id(vip), frame.len()),
        );
    }
    node.judge(6);
}

#[test]
fn all_fragments_of_a_datagram_are_refused_as_its_first_one() {
    for roles in [Roles::GATEWAY, Roles::GATEWAY | Roles::RECEIVER] {
        let mut node = node(roles, &[port::IPIP_V4, port::LOCAL], &RANGES);
        for (vip, to) in VIPS.map(ip).into_iter().flat_map(|vip| [(vip, port::IPIP_V4), (vip, port::LOCAL)]) {
            let stranger = of_family(BELOW, vip);
            let data = vec![7; 4000];
            let of_udp = IpPacket { fragment: 0, ..build::ip(stranger, vip, udp(FROM, to, &data)) };
            let of_tcp = build::ip(stranger, vip, Tcp { payload: data, ..tcp(FROM, to, flags::ACK) });
            for (id, whole) in (0x700 + to..).zip([of_udp, of_tcp]) {
                let parts = whole.fragments(1400, id);
                let last = incoming(parts[2].clone()).bytes();
                node.row("before the first one nobody knows", &last, Then::Hold, Counts::default());
                for (number, part) in parts.iter().enumerate() {
                    let frame = incoming(part.clone()).bytes();
                    node.drops(&format!("fragment {number} to {to}"), &frame, DropReason::NotAllowed);
                }
            }
        }
        node.judge(32);
    }
}

#[test]
fn an_endpoint_of_this_node_is_as_far_away_as_others() {
    let mut node = node(Roles::GATEWAY | Roles::RECEIVER, &[port::LOCAL, port::TWO_LOCAL], &RANGES);
    for (vip, to) in VIPS.map(ip).into_iter().flat_map(|vip| [(vip, port::LOCAL), (vip, port::TWO_LOCAL)]) {
        for (_, carried) in kinds(to) {
            for client in [BELOW, ABOVE].map(|pair| of_family(pair, vip)) {
                let frame = incoming(build::ip(client, vip, carried.clone())).bytes();
                node.drops(&format!("{client} to {to}"), &frame, DropReason::NotAllowed);
            }
        }
    }
    assert_eq!(node.lab.flows().unwrap().len() + node.lab.half_open().unwrap().len(), 0);
    node.judge(24);
}

#[test]
fn what_comes_back_from_a_receiver_is_refused_too() {
    let mut node = node(Roles::GATEWAY, &[port::FORMERS], &RANGES);
    for vip in VIPS.map(ip) {
        for (name, pair) in [("refused", ABOVE), ("sent on", CLIENTS)] {
            let client = of_family(pair, vip);
            let packet = build::ip(client, vip, tcp(FROM, port::FORMERS, flags::ACK));
            let id = mark(hash(client, FROM, port::FORMERS), kind::CURRENT, true);
            for outer in
                [ipip(ip(FAR[0]), ip(TUNNELS[0]), &packet), gue(ip(FAR[1]), ip(TUNNELS[1]), 1, &packet)]
            {
                let frame = incoming(IpPacket { id, ..outer }).bytes();
                if name == "refused" {
                    node.drops("of a client that isn't allowed any more", &frame, DropReason::NotAllowed);
                } else {
                    let run = node.lab.ingress(&frame).unwrap();
                    assert_eq!(run.action, fairlead_tests::packets::report::TRANSMIT, "{client} is allowed");
                }
            }
        }
    }
    node.judge(4);
}

#[test]
fn a_connection_id_lets_nobody_in() {
    let mut tables = restricted(&[port::FORMERS], &RANGES);
    for vip in VIPS.map(ip) {
        let key = service_key(vip, port::FORMERS, UDP);
        let service = tables.services.iter_mut().find(|service| service.key == key).unwrap();
        service.flags |= ServiceEntry::QUIC;
        tables.server_ids.push((key, [5; 8], 2));
    }
    let mut node = Node::with(&settings(Roles::GATEWAY), &tables);
    let named = [&[0x40, 0][..], &[5; 8], &[0; 30]].concat();
    for vip in VIPS.map(ip) {
        for client in [BELOW, ABOVE].map(|pair| of_family(pair, vip)) {
            for (how, packet, tags) in frames(client, vip, &udp(FROM, port::FORMERS, &named).into()) {
                let frame = incoming(packet).tagged(&tags).bytes();
                node.drops(&format!("{client} {how}"), &frame, DropReason::NotAllowed);
            }
        }
        let frame =
            incoming(build::ip(of_family(CLIENTS, vip), vip, udp(FROM, port::FORMERS, &named))).bytes();
        let before = node.lab.counts().unwrap();
        node.lab.ingress(&frame).unwrap();
        let counts = node.lab.counts().unwrap().since(&before);
        assert_eq!(counts.events.get(&FlowEvent::NamedServer), Some(&1), "one who is allowed");
    }
    node.judge(12);
}

#[test]
fn ranges_as_wide_and_as_narrow_as_can_be() {
    let (narrow, half) = (["192.0.2.50/32", "2001:db8:5::50/128"], ["128.0.0.0/1", "::/1"]);
    let mut node = gateway(&narrow);
    for vip in VIPS.map(ip) {
        let to = (port::IPIP_V4, TCP);
        let packet = |client| build::ip(client, vip, tcp(FROM, port::IPIP_V4, flags::SYN));
        goes(&mut node, "the only one", &packet(of_family(CLIENTS, vip)), &[], to);
        let neighbour = of_family(["192.0.2.51", "2001:db8:5::51"], vip);
        node.drops("its neighbour", &incoming(packet(neighbour)).bytes(), DropReason::NotAllowed);
    }
    node.judge(4);
    let mut node = gateway(&half);
    for vip in VIPS.map(ip) {
        let packet = |client| build::ip(client, vip, tcp(FROM, port::IPIP_V4, flags::SYN));
        goes(&mut node, "in the half", &packet(of_family(CLIENTS, vip)), &[], (port::IPIP_V4, TCP));
        let other = of_family(["100.64.0.1", "9000::1"], vip);
        node.drops("in the other half", &incoming(packet(other)).bytes(), DropReason::NotAllowed);
    }
    node.judge(4);
}
