//! Fragments: all of a datagram go where its first one went, and what can't be placed is held or refused.

use std::net::IpAddr;

use fairlead_abi::{DropReason, FlowEvent, FragmentEntry, MOST_HELD, kind, mark};
use fairlead_tests::packets::{
    Carried, Counts, IpPacket,
    build::{self, Tcp, flags, ipip, tcp, udp},
    report::hex,
};

use super::node::*;

const FROM: u16 = 40_000;
const ID: u16 = 0x1234;
/// Bytes of what each fragment carries.
const SIZE: usize = 1400;

/// A client's datagram of three fragments.
fn datagram(vip: IpAddr, to: u16) -> IpPacket {
    let data: Vec<u8> = (0..4000_u16).map(|byte| byte as u8).collect();
    IpPacket { fragment: 0, ..build::ip(of_family(CLIENTS, vip), vip, udp(FROM, to, &data)) }
}

/// Its fragments.
fn parts(vip: IpAddr, to: u16) -> Vec<IpPacket> {
    datagram(vip, to).fragments(SIZE, ID)
}

/// A fragment as it leaves the gateway for the only backend of [`port::IPIP_V4`].
fn sent(fragment: &IpPacket, mark: u16) -> Then {
    let inner = IpPacket { ttl: 63, ..fragment.clone() };
    let outer = IpPacket { id: mark, ..ipip(ip(TUNNELS[0]), ip(FAR[0]), &inner) };
    Then::Transmit(outgoing(&HOP, outer).bytes())
}

fn forwarded(vip: IpAddr, protocol: u8, frame: &[u8], opens: bool) -> Counts {
    let (service, backend) = counted(vip, port::IPIP_V4, protocol);
    Counts::of_forward(service, backend, frame.len(), opens)
}

#[test]
fn all_go_to_the_backend_of_the_first() {
    let mut node = Node::gateway();
    for vip in VIPS.map(ip) {
        for (number, part) in parts(vip, port::IPIP_V4).iter().enumerate() {
            let frame = incoming(part.clone()).bytes();
            let counts = forwarded(vip, UDP, &frame, false);
            node.row(&format!("fragment {number}"), &frame, sent(part, 0), counts);
        }
        for flags in [flags::SYN, flags::ACK] {
            let segment = Tcp { payload: vec![7; 3000], ..tcp(FROM, port::IPIP_V4, flags) };
            let whole = build::ip(of_family(CLIENTS, vip), vip, segment);
            let mark = mark_of_current(&whole, FROM, port::IPIP_V4);
            for (number, part) in whole.fragments(SIZE, ID + 1 + u16::from(flags)).iter().enumerate() {
                let frame = incoming(part.clone()).bytes();
                let opens = number == 0 && flags == flags::SYN;
                let counts = forwarded(vip, TCP, &frame, opens);
                node.row(&format!("of TCP, {number}"), &frame, sent(part, mark), counts);
            }
        }
    }
    node.judge(18);
}

#[test]
fn one_that_comes_before_the_first_is_held() {
    let mut node = Node::gateway();
    for vip in VIPS.map(ip) {
        let parts = parts(vip, port::IPIP_V4);
        let frames: Vec<_> = parts.iter().map(|part| incoming(part.clone()).bytes()).collect();
        for number in [2, 1] {
            node.row("too early", &frames[number], Then::Hold, Counts::default());
            let held = node.lab.early();
            assert_eq!(held.len(), 1);
            assert_eq!((hex(&held[0].frame), held[0].ifindex), (hex(&frames[number]), NIC));
        }
        for number in [0, 1, 2] {
            let counts = forwarded(vip, UDP, &frames[number], false);
            node.row("in time", &frames[number], sent(&parts[number], 0), counts);
        }
        // Only its own datagram's first one helps.
        let other_id = incoming(datagram(vip, port::IPIP_V4).fragments(SIZE, ID + 1).swap_remove(1));
        node.row("of another datagram", &other_id.bytes(), Then::Hold, Counts::default());
        let neighbour = if vip.is_ipv4() { "192.0.2.51" } else { "2001:db8:5::51" };
        let other_client = IpPacket { source: ip(neighbour), ..parts[1].clone() };
        node.row("of another client", &incoming(other_client).bytes(), Then::Hold, Counts::default());
        for held in node.lab.early() {
            assert!(!node.lab.fragments().unwrap().contains_key(&held.datagram));
        }
    }
    node.judge(14);
}

#[test]
fn one_that_can_not_be_held_is_dropped() {
    let mut node = Node::gateway();
    for vip in VIPS.map(ip) {
        let jumbo = datagram(vip, port::IPIP_V4).fragments(MOST_HELD, ID).swap_remove(1);
        let jumbo = IpPacket { carried: Carried::Raw(17, vec![0; MOST_HELD]), ..jumbo };
        node.drops("too long to be held", &incoming(jumbo).bytes(), DropReason::FragmentBeforeFirst);
    }
    let early = incoming(parts(ip(VIPS[0]), port::IPIP_V4).swap_remove(1)).bytes();
    let before = node.lab.counts().unwrap();
    for _ in 0..1000 {
        node.lab.ingress(&early).unwrap();
    }
    let counts = node.lab.counts().unwrap().since(&before);
    let held = node.lab.early().len();
    assert!((100..1000).contains(&held), "{held}");
    assert_eq!(counts.events[&FlowEvent::FragmentHeld], held as u64);
    assert_eq!(counts.drops[&DropReason::FragmentBeforeFirst].packets, 1000 - held as u64);
    node.judge(2);
}

#[test]
fn what_was_known_of_a_datagram_is_forgotten() {
    let mut node = Node::gateway();
    let parts = parts(ip(VIPS[0]), port::IPIP_V4);
    node.lab.ingress(&incoming(parts[0].clone()).bytes()).unwrap();
    let (key, first) = node.lab.fragments().unwrap().pop_first().unwrap();
    let seen_ns = first.seen_ns - FragmentEntry::LIFE_NS - 1;
    node.lab.set_fragment(&key, &FragmentEntry { seen_ns, ..first }).unwrap();
    node.row("too late", &incoming(parts[1].clone()).bytes(), Then::Hold, Counts::default());
    node.judge(1);
}

#[test]
fn tiny_and_overlapping_ones_are_refused() {
    let mut node = Node::gateway();
    for vip in VIPS.map(ip) {
        let client = of_family(CLIENTS, vip);
        let segment = Tcp { options: vec![1; 20], ..tcp(FROM, port::IPIP_V4, flags::SYN) };
        let segment = Tcp { payload: vec![0; 100], ..segment };
        let segment = build::ip(client, vip, segment);
        for size in [8, 16, 24, 32] {
            let first = segment.fragments(size, 1).swap_remove(0);
            node.drops("without all of TCP's header", &incoming(first).bytes(), DropReason::FragmentTiny);
        }
        for number in [1, 2] {
            let within = segment.fragments(8, 1).swap_remove(number);
            node.drops("within TCP's header", &incoming(within).bytes(), DropReason::FragmentTiny);
        }
        let mut uneven = parts(vip, port::IPIP_V4);
        for part in &mut uneven[..2] {
            part.carried = Carried::Raw(17, vec![0; 100]);
            node.drops("of an uneven length", &incoming(part.clone()).bytes(), DropReason::FragmentTiny);
        }
        uneven[2].carried = Carried::Raw(17, vec![]);
        node.drops("empty", &incoming(uneven[2].clone()).bytes(), DropReason::FragmentTiny);

        let first = incoming(parts(vip, port::IPIP_V4).swap_remove(0)).bytes();
        let counts = forwarded(vip, UDP, &first, false);
        node.row("a first one", &first, sent(&parts(vip, port::IPIP_V4)[0], 0), counts);
        for size in [8, 64, SIZE - 8] {
            let overlaps = datagram(vip, port::IPIP_V4).fragments(size, ID).swap_remove(1);
            node.drops("over the first", &incoming(overlaps).bytes(), DropReason::FragmentOverlaps);
        }
        let echo = Carried::Icmp {
            kind: if vip.is_ipv4() { 8 } else { 128 },
            code: 0,
            rest: [0; 4],
            payload: vec![0; 99],
        };
        for part in build::ip(client, vip, echo).fragments(64, 9) {
            node.drops("of an echo request", &incoming(part).bytes(), DropReason::Fragment);
        }
        let last = Carried::Raw(17, vec![0; 64]);
        let beyond = datagram(vip, port::IPIP_V4).fragments(8, 9).swap_remove(1);
        let beyond = match vip {
            IpAddr::V4(_) => IpPacket { fragment: 0x1fff, carried: last, ..beyond },
            IpAddr::V6(_) => {
                IpPacket { extensions: vec![(44, vec![0xff, 0xf8, 0, 0, 0, 9])], carried: last, ..beyond }
            }
        };
        node.drops("beyond 64 KiB", &incoming(beyond).bytes(), DropReason::Malformed);
    }
    node.judge(32);
}

#[test]
fn an_ipv6_packet_that_is_its_only_fragment_is_whole() {
    let mut node = Node::gateway();
    let vip = ip(VIPS[1]);
    for _ in 0..2 {
        let packet = build::ip(ip(CLIENTS[1]), vip, udp(FROM, port::IPIP_V4, b"ahoy"));
        let atomic = packet.fragments(SIZE, ID).swap_remove(0);
        let frame = incoming(atomic.clone()).bytes();
        let counts = forwarded(vip, UDP, &frame, false);
        node.row("atomic", &frame, sent(&atomic, 0), counts);
    }
    assert!(node.lab.fragments().unwrap().is_empty());
    node.judge(2);
}

#[test]
fn those_for_no_vip_pass() {
    let mut node = Node::both();
    for vip in VIPS.map(ip) {
        let other = if vip.is_ipv4() { ip("203.0.113.11") } else { ip("2001:db8:100::11") };
        let whole = build::ip(of_family(CLIENTS, vip), other, udp(FROM, port::IPIP_V4, &[0; 3000]));
        for part in whole.fragments(SIZE, ID) {
            node.passes("no VIP", &incoming(part).bytes());
        }
    }
    assert!(node.lab.fragments().unwrap().is_empty());
    node.judge(6);
}

#[test]
fn a_receiver_rewrites_them_as_the_whole_datagram() {
    for endpoint in [POD, OWNER] {
        let mut node = Node::receiver();
        for vip in VIPS.map(ip) {
            let sent = parts(vip, port::IPIP_V4);
            let delivered = if endpoint == OWNER {
                sent.clone()
            } else {
                let data: Vec<u8> = (0..4000_u16).map(|byte| byte as u8).collect();
                let whole =
                    build::ip(of_family(CLIENTS, vip), of_family(POD, vip), udp(FROM, POD_PORT, &data));
                IpPacket { fragment: 0, ..whole }.fragments(SIZE, ID)
            };
            let frame = |part: &IpPacket| incoming(ipip(ip(GATEWAYS[0]), ip(endpoint[0]), part)).bytes();
            node.row("too early", &frame(&sent[1]), Then::Hold, Counts::default());
            assert_eq!(hex(&node.lab.early()[0].frame), hex(&frame(&sent[1])));
            for (sent, delivered) in sent.iter().zip(&delivered) {
                let out = incoming(delivered.clone()).bytes();
                node.row("to the endpoint", &frame(sent), Then::Pass(out), Counts::default());
            }
        }
        node.judge(8);
    }
}

#[test]
fn a_receiver_sends_them_back_as_the_first() {
    let mut node = Node::receiver();
    for vip in VIPS.map(ip) {
        let hash = hash(of_family(CLIENTS, vip), FROM, port::IPIP_V4);
        let tunnel = |part: &IpPacket, mark| IpPacket { id: mark, ..ipip(ip(GATEWAYS[0]), ip(POD[0]), part) };
        let whole = build::ip(
            of_family(CLIENTS, vip),
            vip,
            Tcp { payload: vec![1; 3000], ..tcp(FROM, port::IPIP_V4, flags::ACK) },
        );
        let parts = whole.fragments(SIZE, ID);
        for part in &parts {
            let frame = incoming(tunnel(part, mark(hash, kind::CURRENT, false))).bytes();
            let back = ipip(ip(POD[0]), ip(GATEWAYS[0]), part);
            let back = IpPacket { id: mark(hash, kind::CURRENT, true), ..back };
            let back = build::Frame::new(ROUTER_MAC, NIC_MAC, back).bytes();
            let counts = Counts::default().and(FlowEvent::Bounced);
            node.row("of an unknown flow", &frame, Then::Transmit(back), counts);
        }
        let forged = incoming(tunnel(&parts[1], mark(!hash, kind::CURRENT, false))).bytes();
        node.drops("a forged mark", &forged, DropReason::BadMark);
        // What the endpoint must take waits for the first fragment that it must take.
        node.row("overtakes", &incoming(tunnel(&parts[1], 0)).bytes(), Then::Hold, Counts::default());
        node.lab.ingress(&incoming(tunnel(&parts[0], 0)).bytes()).unwrap();
        let mut delivered = parts[1].clone();
        delivered.destination = of_family(POD, vip);
        let out = incoming(delivered).bytes();
        node.row("taken", &incoming(tunnel(&parts[1], 0)).bytes(), Then::Pass(out), Counts::default());
    }
    node.judge(12);
}

#[test]
fn replies_leave_in_the_vips_name() {
    let mut node = Node::receiver();
    for vip in VIPS.map(ip) {
        let (client, pod) = (of_family(CLIENTS, vip), of_family(POD, vip));
        let asks = build::ip(client, vip, udp(FROM, port::IPIP_V4, b"?"));
        node.lab.ingress(&incoming(ipip(ip(GATEWAYS[0]), ip(POD[0]), &asks)).bytes()).unwrap();
        let whole =
            |from, port| IpPacket { fragment: 0, ..build::ip(from, client, udp(port, FROM, &[5; 3000])) };
        let (before, after) = (whole(pod, POD_PORT), whole(vip, port::IPIP_V4));
        let (before, after) = (before.fragments(SIZE, ID), after.fragments(SIZE, ID));
        let mut leaves = |before: &IpPacket, after: &IpPacket| {
            let frame = |packet: &IpPacket| outgoing(&HOP, packet.clone()).bytes();
            let run = node.lab.egress(&frame(before), 0).unwrap();
            assert_eq!(hex(&run.frame), hex(&frame(after)));
        };
        leaves(&before[1], &before[1]);
        for (before, after) in before.iter().zip(&after) {
            leaves(before, after);
        }
        let strange = whole(pod, POD_PORT + 1).fragments(SIZE, ID + 1);
        strange.iter().for_each(|part| leaves(part, part));
    }
}

/// What is noted of one direction says nothing of the other, were addresses and identification the same.
#[test]
fn a_replys_first_fragment_is_no_clients() {
    let mut node = Node::both();
    for vip in VIPS.map(ip) {
        let (client, pod) = (of_family(CLIENTS, vip), of_family(POD, vip));
        let parts = parts(vip, port::IPIP_V4);
        node.lab.ingress(&incoming(parts[0].clone()).bytes()).unwrap();
        let noted = node.lab.fragments().unwrap();
        let (key, first) = noted.into_iter().find(|(key, _)| key.source == client.into()).unwrap();
        // As an endpoint at the client's address would have it that answers somebody at the VIP's.
        let reply = FragmentEntry { address: pod.into(), outcome: FragmentEntry::REPLY, ..first };
        node.lab.set_fragment(&key, &reply).unwrap();
        node.row("a client's", &incoming(parts[1].clone()).bytes(), Then::Hold, Counts::default());

        let answer = IpPacket { fragment: 0, ..build::ip(pod, client, udp(POD_PORT, FROM, &[5; 3000])) };
        let later = outgoing(&HOP, answer.fragments(SIZE, ID).swap_remove(1)).bytes();
        let key = fairlead_abi::FragmentKey { source: pod.into(), destination: client.into(), ..key };
        for outcome in [FragmentEntry::TAKEN, FragmentEntry::ELSEWHERE, FragmentEntry::SENT_BACK] {
            node.lab.set_fragment(&key, &FragmentEntry { address: vip.into(), outcome, ..first }).unwrap();
            assert_eq!(hex(&node.lab.egress(&later, 0).unwrap().frame), hex(&later), "{outcome}");
        }
    }
    node.judge(2);
}
