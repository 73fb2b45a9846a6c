//! The gateway forwards: every encapsulation, family and protocol, with all that may stand before the ports.

use std::net::IpAddr;

use fairlead_abi::{kind, mark};
use fairlead_tests::packets::{
    Carried, Counts, IpPacket,
    build::{self, Tcp, flags, gue, ipip, tcp, udp},
};

use super::node::*;

/// The packet as it is between the outer headers: one hop older.
fn inner(packet: &IpPacket) -> IpPacket {
    IpPacket { ttl: packet.ttl - 1, ..packet.clone() }
}

/// The outer packet that the backend of a service port gets.
fn outer(packet: &IpPacket, from: u16, to: u16) -> IpPacket {
    let gue_port = || 0xc000 | (hash(packet.source, from, to) & 0x3fff) as u16;
    let id = mark_of_current(packet, from, to);
    let (packet, far) = (inner(packet), FAR.map(ip));
    let outer = match to {
        port::IPIP_V4 | port::OTHER_INTERFACE | port::TAGGED | port::TWICE_TAGGED => {
            ipip(ip(TUNNELS[0]), far[0], &packet)
        }
        port::IPIP_V6 => ipip(ip(TUNNELS[1]), far[1], &packet),
        port::GUE_V4 => gue(ip(TUNNELS[0]), far[0], gue_port(), &packet),
        port::GUE_V6 => gue(ip(TUNNELS[1]), far[1], gue_port(), &packet),
        _ => panic!("no tunnel to {to}"),
    };
    IpPacket { id, ..outer }
}

const TUNNEL_PORTS: [u16; 4] = [port::IPIP_V4, port::IPIP_V6, port::GUE_V4, port::GUE_V6];

fn tcp_or_udp(protocol: u8, from: u16, to: u16, tcp_flags: u8) -> Carried {
    match protocol {
        TCP => Carried::Tcp(Tcp { payload: b"ahoy".to_vec(), ..tcp(from, to, tcp_flags) }),
        _ => Carried::Udp(udp(from, to, b"ahoy")),
    }
}

/// Adds the row of a packet that is forwarded.
fn forwarded(node: &mut Node, what: &str, packet: &IpPacket, from: u16, to: u16, vlans: &[u16], opens: bool) {
    let frame = incoming(packet.clone()).tagged(vlans).bytes();
    let hop = match to {
        port::OTHER_INTERFACE => OTHER,
        port::TAGGED => TAGGED[0],
        port::TWICE_TAGGED => TAGGED[1],
        _ => HOP,
    };
    let out = outgoing(&hop, outer(packet, from, to)).bytes();
    let protocol = if matches!(packet.carried, Carried::Tcp(_)) { TCP } else { UDP };
    let (service, backend) = counted(packet.destination, to, protocol);
    let then = if to == port::OTHER_INTERFACE { Then::Redirect(out) } else { Then::Transmit(out) };
    node.row(what, &frame, then, Counts::of_forward(service, backend, frame.len(), opens));
}

#[test]
fn by_every_encapsulation_from_and_to_any_vlan() {
    let mut node = Node::gateway();
    for vip in VIPS.map(ip) {
        let client = of_family(CLIENTS, vip);
        let ports = [&TUNNEL_PORTS[..], &[port::TAGGED, port::TWICE_TAGGED]].concat();
        for (to, protocol) in ports.into_iter().flat_map(|to| [(to, TCP), (to, UDP)]) {
            for vlans in [&[][..], &[7], &[7, 4094]] {
                let packet = build::ip(client, vip, tcp_or_udp(protocol, 40_000, to, flags::ACK));
                let what = format!("{protocol} to {vip} port {to}, VLANs {vlans:?}");
                forwarded(&mut node, &what, &packet, 40_000, to, vlans, false);
            }
        }
    }
    node.judge(72);
}

#[test]
fn with_options_extension_headers_and_odd_fields() {
    let mut node = Node::gateway();
    let to = port::GUE_V6;
    let row = |node: &mut Node, what: &str, packet: IpPacket| {
        let opens =
            matches!(&packet.carried, Carried::Tcp(segment) if segment.flags & flags::SYN_ACK == flags::SYN);
        forwarded(node, what, &packet, 1, to, &[], opens);
    };
    for vip in VIPS.map(ip) {
        let packet = |carried: Carried| build::ip(of_family(CLIENTS, vip), vip, carried);
        for protocol in [TCP, UDP] {
            let plain = packet(tcp_or_udp(protocol, 1, to, flags::ACK));
            for words in 1..=10 {
                let options = vec![1; 4 * words];
                row(&mut node, &format!("{words} words of options"), IpPacket { options, ..plain.clone() });
            }
            for count in 1..=4 {
                let chain = [(0, 6), (60, 14), (43, 22), (60, 254)];
                let extensions =
                    chain[..count].iter().map(|&(kind, length)| (kind, vec![0; length])).collect();
                row(
                    &mut node,
                    &format!("{count} extension headers"),
                    IpPacket { extensions, ..plain.clone() },
                );
            }
            row(&mut node, "TTL 255", IpPacket { ttl: 255, ..plain.clone() });
            row(&mut node, "TTL 2", IpPacket { ttl: 2, ..plain.clone() });
            row(&mut node, "TOS", IpPacket { tos: 0xb9, id: 0xffff, ..plain.clone() });
            row(&mut node, "without DF", IpPacket { fragment: 0, ..plain.clone() });
        }
        for tcp_flags in 0..=0xff {
            row(&mut node, &format!("TCP flags {tcp_flags:#x}"), packet(tcp_or_udp(TCP, 1, to, tcp_flags)));
        }
        let none = build::Udp { checksum: false, ..udp(1, to, b"") };
        row(&mut node, "UDP without checksum or data", packet(none.into()));
        let full = Tcp { payload: vec![0xa5; 1500 - 48 - 40 - 20], ..tcp(1, to, flags::ACK) };
        if vip.is_ipv6() {
            row(&mut node, "exactly the path's MTU", packet(full.into()));
        }
    }
    node.judge(500);
}

#[test]
fn a_lowered_ttl_leaves_a_right_checksum_whatever_it_was() {
    let mut node = Node::gateway();
    let vip = ip(VIPS[0]);
    for ttl in [2, 64, 255] {
        for id in 0..=0xffff {
            let packet = build::ip(ip(CLIENTS[0]), vip, tcp(1, port::IPIP_V4, flags::ACK));
            let packet = IpPacket { id, ttl, ..packet };
            // Where a carry comes and goes, and some of the others.
            let carries = matches!(packet.bytes()[10..12], [0xfd..=0xff, 0 | 1 | 0xfe | 0xff]);
            if carries || id % 331 == 0 {
                forwarded(&mut node, &format!("id {id}, TTL {ttl}"), &packet, 1, port::IPIP_V4, &[], false);
            }
        }
    }
    node.judge(600);
}

#[test]
fn out_of_another_interface_and_with_padding_behind_it() {
    let mut node = Node::gateway();
    for vip in VIPS.map(ip) {
        let packet = build::ip(of_family(CLIENTS, vip), vip, tcp(1, port::OTHER_INTERFACE, flags::SYN));
        forwarded(&mut node, "the hop is elsewhere", &packet, 1, port::OTHER_INTERFACE, &[], true);

        let packet = build::ip(of_family(CLIENTS, vip), vip, udp(1, port::IPIP_V4, b"x"));
        let (mut frame, mut out) =
            (incoming(packet.clone()), outgoing(&HOP, outer(&packet, 1, port::IPIP_V4)));
        let counts = |bytes| {
            let (service, backend) = counted(vip, port::IPIP_V4, UDP);
            Counts::of_forward(service, backend, bytes, false)
        };
        let bytes = frame.bytes().len();
        frame.padding = vec![0xee; 17];
        out.padding.clone_from(&frame.padding);
        node.row("Ethernet padding is no data", &frame.bytes(), Then::Transmit(out.bytes()), counts(bytes));
    }
    node.judge(4);
}

#[test]
fn a_jumbo_frame_of_several_pages() {
    let mut tables = tables();
    for service in &mut tables.services {
        service.backends.iter_mut().for_each(|backend| backend.mtu = 9000);
    }
    let mut node = Node::with(&settings(fairlead_abi::Roles::GATEWAY), &tables);
    for (vip, to) in VIPS.map(ip).into_iter().flat_map(|vip| TUNNEL_PORTS.map(|to| (vip, to))) {
        let segment = Tcp { payload: vec![0x5a; 8800], ..tcp(1, to, flags::ACK) };
        let packet = build::ip(of_family(CLIENTS, vip), vip, segment);
        forwarded(&mut node, &format!("9 KB to {vip} port {to}"), &packet, 1, to, &[], false);
    }
    node.judge(8);
}

#[test]
fn an_icmp_error_goes_to_the_backend_of_the_flow_that_it_quotes() {
    let mut node = Node::gateway();
    for vip in VIPS.map(ip) {
        let (client, router) = (of_family(CLIENTS, vip), of_family(["192.0.2.254", "2001:db8:fe::1"], vip));
        let kinds: &[u8] = if vip.is_ipv4() { &[3, 11, 12] } else { &[1, 2, 3, 4] };
        for (to, protocol) in TUNNEL_PORTS.into_iter().flat_map(|to| [(to, TCP), (to, UDP)]) {
            for &kind in kinds {
                let sent = build::ip(vip, client, tcp_or_udp(protocol, to, 40_000, flags::ACK));
                let error = quoting(kind, &sent.bytes());
                let packet = build::ip(router, vip, error);
                let frame = incoming(packet.clone()).bytes();
                let out = outer_for(client, &packet, to, protocol);
                let (service, backend) = counted(vip, to, protocol);
                let counts = Counts::of_forward(service, backend, frame.len(), false);
                let out = outgoing(&HOP, out).bytes();
                node.row(&format!("ICMP {kind} of port {to}"), &frame, Then::Transmit(out), counts);
            }
        }
    }
    node.judge(56);
}

fn quoting(kind: u8, quote: &[u8]) -> Carried {
    Carried::Icmp { kind, code: 0, rest: [0, 0, 4, 0], payload: quote.to_vec() }
}

/// The outer packet of an ICMP error: steered by the quoted flow of `client`, whoever sends the error.
fn outer_for(client: IpAddr, packet: &IpPacket, to: u16, protocol: u8) -> IpPacket {
    let mut outer = outer(packet, 40_000, to);
    if protocol == TCP {
        outer.id = mark(hash(client, 40_000, to), kind::CURRENT, false);
    }
    if let Carried::Udp(datagram) = &mut outer.carried {
        datagram.source = 0xc000 | (hash(client, 40_000, to) & 0x3fff) as u16;
    }
    outer
}
