//! Echo requests are answered, errors that speak of nothing of ours are dropped, and there is a limit.

use std::time::{Duration, Instant};

use fairlead_abi::{DropReason, Roles};
use fairlead_tests::packets::{
    Carried, Counts, Frame, IpPacket,
    build::{self, flags, tcp, udp},
    report::TRANSMIT,
};

use super::node::*;

fn message(kind: u8, code: u8, payload: &[u8]) -> Carried {
    Carried::Icmp { kind, code, rest: [0x12, 0x34, 0, 1], payload: payload.to_vec() }
}

/// Types of echo request and reply.
fn echo(vip: std::net::IpAddr) -> (u8, u8) {
    if vip.is_ipv4() { (8, 0) } else { (128, 129) }
}

#[test]
fn an_echo_request_is_answered() {
    let mut node = Node::gateway();
    let vips = VIPS.map(ip).into_iter().zip([1, 2]).chain(PASSING_VIPS.map(ip).into_iter().zip([3, 4]));
    for (vip, id) in vips {
        let (client, (request, reply)) = (of_family(CLIENTS, vip), echo(vip));
        for length in [0, 1, 2, 56, 1000, 1472, 4000] {
            for vlans in [&[][..], &[1], &[1, 2]] {
                let payload = vec![0xc3; length];
                let asked = build::ip(client, vip, message(request, 0, &payload));
                let asked = IpPacket { ttl: 7, tos: 0x20, id: 99, ..asked };
                let answer = build::ip(vip, client, message(reply, 0, &payload));
                let answer = IpPacket { ttl: 64, tos: 0x20, id: 99, ..answer };
                let frame = incoming(asked).tagged(vlans).bytes();
                let out = Frame::new(ROUTER_MAC, NIC_MAC, answer).tagged(vlans).bytes();
                let what = format!("echo of {length} bytes, VLANs {vlans:?}");
                node.row(&what, &frame, Then::Transmit(out), Counts::of_answer(id, frame.len()));
            }
        }
        let asked = build::ip(client, vip, message(request, 0, b"x"));
        let answer = build::ip(vip, client, message(reply, 0, b"x"));
        let with = |packet: &IpPacket| IpPacket {
            options: vec![1; 8],
            extensions: vec![(60, vec![0; 14])],
            ..packet.clone()
        };
        let frame = incoming(with(&asked)).bytes();
        let out = Frame::new(ROUTER_MAC, NIC_MAC, with(&answer)).bytes();
        let counts = Counts::of_answer(id, frame.len());
        node.row("echo behind options", &frame, Then::Transmit(out), counts);
    }
    node.judge(80);
}

#[test]
fn other_messages_are_not_understood() {
    let mut node = Node::gateway();
    for vip in VIPS.map(ip) {
        let (request, _) = echo(vip);
        let errors: &[u8] = if vip.is_ipv4() { &[3, 11, 12] } else { &[1, 2, 3, 4] };
        for kind in (0..=255).filter(|kind| *kind != request && !errors.contains(kind)) {
            let packet = build::ip(of_family(CLIENTS, vip), vip, message(kind, 0, &[0; 60]));
            node.drops(&format!("ICMP {kind}"), &incoming(packet).bytes(), DropReason::UnsupportedProtocol);
        }
        let packet = build::ip(of_family(CLIENTS, vip), vip, message(request, 1, b""));
        node.drops("echo with a code", &incoming(packet).bytes(), DropReason::UnsupportedProtocol);
    }
    node.judge(500);
}

#[test]
fn no_answer_goes_to_what_is_no_host() {
    let mut node = Node::gateway();
    let sources =
        ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", VIPS[0], "::", "::1", "ff02::1", VIPS[1]];
    for source in sources.map(ip) {
        let vip = of_family(VIPS, source);
        let frame = incoming(build::ip(source, vip, message(echo(vip).0, 0, b""))).bytes();
        node.drops(&format!("echo from {source}"), &frame, DropReason::BadSource);
    }
    node.judge(9);
}

/// Quotes that speak of no flow of a service.
fn unrelated(vip: std::net::IpAddr) -> Vec<(&'static str, Vec<u8>)> {
    let client = of_family(CLIENTS, vip);
    let other = of_family(["203.0.113.99", "2001:db8:100::99"], vip);
    let sent = build::ip(vip, client, tcp(port::IPIP_V4, 1, flags::ACK));
    let header = if vip.is_ipv4() { 20 } else { 40 };
    let mut rows = vec![
        ("nothing", vec![]),
        ("somebody else's", build::ip(other, client, tcp(port::IPIP_V4, 1, flags::ACK)).bytes()),
        ("the client's own", build::ip(client, vip, tcp(1, port::IPIP_V4, flags::ACK)).bytes()),
        ("a port that is not served", build::ip(vip, client, udp(port::NONE, 1, b"")).bytes()),
        ("a protocol without ports", build::ip(vip, client, Carried::Raw(47, vec![0; 8])).bytes()),
        ("another version", [&[0x90], &sent.bytes()[1..]].concat()),
        ("half a header", sent.bytes()[..header / 2].to_vec()),
        ("seven bytes of payload", sent.bytes()[..header + 7].to_vec()),
    ];
    if vip.is_ipv4() {
        rows.push(("a later fragment", IpPacket { fragment: 1, ..sent.clone() }.bytes()));
        rows.push(("a header of four words", [&[0x44], &sent.bytes()[1..]].concat()));
    } else {
        rows.push(("a fragment", IpPacket { extensions: vec![(44, vec![0; 6])], ..sent }.bytes()));
    }
    rows
}

#[test]
fn errors_that_speak_of_no_flow() {
    let mut node = Node::gateway();
    for vip in VIPS.map(ip) {
        let kind = if vip.is_ipv4() { 3 } else { 1 };
        for (what, quote) in unrelated(vip) {
            let packet = build::ip(of_family(CLIENTS, vip), vip, message(kind, 1, &quote));
            let mut frame = incoming(packet);
            node.drops(what, &frame.bytes(), DropReason::IcmpUnrelated);
            // What stands behind the packet does not belong to it.
            frame.padding = vec![0x45; 60];
            node.drops(what, &frame.bytes(), DropReason::IcmpUnrelated);
        }
    }
    node.judge(38);
}

#[test]
fn an_error_follows_its_flow_into_the_same_drops() {
    let mut node = Node::gateway();
    let rows = [
        (port::NO_RING, DropReason::NoBackend),
        (port::NO_HOP, DropReason::NoNextHop),
        (port::ASTRAY, DropReason::Inconsistent),
    ];
    for (vip, (from, reason)) in VIPS.map(ip).into_iter().flat_map(|vip| rows.map(|row| (vip, row))) {
        let quote = build::ip(vip, of_family(CLIENTS, vip), tcp(from, 1, flags::ACK)).bytes();
        let kind = if vip.is_ipv4() { 3 } else { 1 };
        let packet = build::ip(of_family(CLIENTS, vip), vip, message(kind, 1, &quote));
        node.drops("of a service that lacks something", &incoming(packet).bytes(), reason);
    }
    node.judge(6);
}

#[test]
fn a_limit_of_nothing_answers_nothing() {
    let settings = fairlead_abi::Settings { icmp_per_second: 0, ..settings(Roles::GATEWAY) };
    let mut node = Node::with(&settings, &tables());
    for vip in VIPS.map(ip) {
        let client = of_family(CLIENTS, vip);
        let request = build::ip(client, vip, message(echo(vip).0, 0, b""));
        node.drops("echo", &incoming(request).bytes(), DropReason::IcmpLimited);
        let big = build::ip(client, vip, udp(1, port::NARROW, &[0; 500]));
        node.drops("too big", &incoming(big).bytes(), DropReason::TooBigSilent);
    }
    node.judge(4);
}

#[test]
fn the_limit_lets_a_seconds_worth_through_and_fills_again() {
    let settings = fairlead_abi::Settings { icmp_per_second: 5, ..settings(Roles::GATEWAY) };
    let mut node = Node::with(&settings, &tables());
    // The limit is per CPU.
    let mut here = nix::sched::CpuSet::new();
    here.set(nix::sched::sched_getcpu().unwrap()).unwrap();
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &here).unwrap();
    let frame = incoming(build::ip(ip(CLIENTS[0]), ip(VIPS[0]), message(8, 0, b""))).bytes();
    let mut answered = || node.lab.ingress(&frame).unwrap().action == TRANSMIT;
    let begin = Instant::now();
    let at_once = (0..200).take_while(|_| answered()).count();
    let earned = begin.elapsed().as_secs_f64() * 5.0;
    assert!(at_once >= 5 && at_once as f64 <= 5.0 + earned + 1.0, "{at_once} of 5 in {:?}", begin.elapsed());
    let empty = Instant::now();
    while !answered() {
        assert!(empty.elapsed() < Duration::from_secs(10), "no token came back");
    }
    assert!(empty.elapsed() < Duration::from_secs(5), "a token every 200 ms: {:?}", empty.elapsed());
}
