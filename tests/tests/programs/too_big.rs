//! Packets that the path does not carry: the sender is told how big they may be.

use fairlead_abi::{DropReason, Roles};
use fairlead_tests::packets::{
    Carried, Counts, Frame, IpPacket,
    build::{self, Tcp, flags, tcp, udp},
};

use super::node::*;

/// What tells the sender of `packet` that `mtu` is the most.
fn told(packet: &IpPacket, mtu: u16) -> IpPacket {
    let v4 = packet.source.is_ipv4();
    let [a, b] = mtu.to_be_bytes();
    let (kind, code, quoted) = if v4 { (3, 4, 128) } else { (2, 0, 256) };
    let payload = packet.bytes()[..quoted].to_vec();
    let message = Carried::Icmp { kind, code, rest: [0, 0, a, b], payload };
    IpPacket { fragment: 0, ..build::ip(packet.destination, packet.source, message) }
}

/// A packet of `length` bytes to a port of a VIP.
fn packet_of(length: usize, vip: std::net::IpAddr, to: u16, protocol: u8) -> IpPacket {
    let headers = if vip.is_ipv4() { 20 } else { 40 } + if protocol == TCP { 20 } else { 8 };
    let payload: Vec<u8> = (0..length - headers).map(|i| (i * 7 % 251) as u8).collect();
    let carried = match protocol {
        TCP => Carried::Tcp(Tcp { payload, ..tcp(1, to, flags::ACK) }),
        _ => Carried::Udp(udp(1, to, &payload)),
    };
    IpPacket { tos: 0x48, ttl: 33, ..build::ip(of_family(CLIENTS, vip), vip, carried) }
}

#[test]
fn the_sender_is_told_what_the_path_carries() {
    let mut node = Node::gateway();
    let mtus = [
        (port::IPIP_V4, 1480),
        (port::IPIP_V6, 1460),
        (port::GUE_V4, 1472),
        (port::GUE_V6, 1452),
        (port::NARROW, NARROW_MTU - 20),
    ];
    for (vip, (to, mtu)) in VIPS.map(ip).into_iter().flat_map(|vip| mtus.map(|row| (vip, row))) {
        for protocol in [TCP, UDP] {
            for (length, vlans) in
                [(mtu + 1, &[][..]), (mtu + 1, &[8]), (1500, &[8, 9]), (3400, &[]), (9000, &[])]
            {
                let packet = packet_of(length.into(), vip, to, protocol);
                let frame = incoming(packet.clone()).tagged(vlans).bytes();
                let out = Frame::new(ROUTER_MAC, NIC_MAC, told(&packet, mtu)).tagged(vlans).bytes();
                let counts = Counts::of_drop(DropReason::TooBig, frame.len());
                node.row(&format!("{length} bytes to {vip} port {to}"), &frame, Then::Transmit(out), counts);
            }
        }
    }
    node.judge(100);
}

#[test]
fn up_to_the_limit_it_is_forwarded() {
    let mut node = Node::gateway();
    // Untagged ones take the fast path, tagged ones the slow one.
    for (vip, vlans) in VIPS.map(ip).into_iter().flat_map(|vip| [(vip, &[][..]), (vip, &[1])]) {
        let packet = packet_of(usize::from(NARROW_MTU) - 20, vip, port::NARROW, UDP);
        let frame = incoming(packet.clone()).tagged(vlans).bytes();
        let inner = IpPacket { ttl: 32, ..packet };
        let out = outgoing(&HOP, build::ipip(ip(TUNNELS[0]), ip(FAR[0]), &inner)).bytes();
        let (service, backend) = counted(vip, port::NARROW, UDP);
        let counts = Counts::of_forward(service, backend, frame.len(), false);
        node.row("as big as may be", &frame, Then::Transmit(out), counts);
    }
    node.judge(4);
}

#[test]
fn nobody_is_told_who_allows_fragments_or_speaks_of_an_error() {
    let mut node = Node::gateway();
    let packet = IpPacket { fragment: 0, ..packet_of(500, ip(VIPS[0]), port::NARROW, TCP) };
    node.drops("without DF", &incoming(packet).bytes(), DropReason::TooBigSilent);
    for vip in VIPS.map(ip) {
        let client = of_family(CLIENTS, vip);
        let quote = build::ip(vip, client, udp(port::NARROW, 1, &[0; 500])).bytes();
        let kind = if vip.is_ipv4() { 3 } else { 1 };
        let error = Carried::Icmp { kind, code: 1, rest: [0; 4], payload: quote };
        let frame = incoming(build::ip(client, vip, error)).bytes();
        node.drops("an ICMP error", &frame, DropReason::TooBigSilent);
    }
    node.judge(3);
}

#[test]
fn a_path_for_less_than_the_quote_is_silent() {
    let mut tables = tables();
    for service in &mut tables.services {
        service.backends.iter_mut().for_each(|backend| backend.mtu = 90);
    }
    let mut node = Node::with(&settings(Roles::GATEWAY), &tables);
    for (vip, quoted) in VIPS.map(ip).into_iter().zip([128, 256]) {
        let packet = packet_of(quoted - 1, vip, port::IPIP_V4, UDP);
        node.drops("shorter than the quote", &incoming(packet).bytes(), DropReason::TooBigSilent);
        let packet = packet_of(quoted, vip, port::IPIP_V4, UDP);
        let frame = incoming(packet.clone()).bytes();
        let out = Frame::new(ROUTER_MAC, NIC_MAC, told(&packet, 70)).bytes();
        let counts = Counts::of_drop(DropReason::TooBig, frame.len());
        node.row("as long as the quote", &frame, Then::Transmit(out), counts);
    }
    node.judge(4);
}
