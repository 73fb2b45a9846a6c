//! Packets of every kind, cut at every byte: never forwarded, never delivered, and dropped for the right reason.

use fairlead_abi::DropReason;
use fairlead_tests::packets::{
    Carried, IpPacket,
    build::{self, flags, gue, ipip, tcp, udp},
};

use super::node::*;

/// Rows for all prefixes: up to the end of the IP header they are nobody's, behind it `reason`.
fn cut(node: &mut Node, what: &str, frame: &[u8], headers: usize, reason: DropReason) {
    for length in 14..frame.len() {
        let what = format!("{what}, cut at {length}");
        if length < headers {
            node.passes(&what, &frame[..length]);
        } else {
            node.drops(&what, &frame[..length], reason);
        }
    }
}

fn packets(vip: std::net::IpAddr) -> Vec<(&'static str, IpPacket)> {
    let client = of_family(CLIENTS, vip);
    let sent = build::ip(vip, client, tcp(port::IPIP_V4, 1, flags::ACK)).bytes();
    let (echo, unreachable) = if vip.is_ipv4() { (8, 3) } else { (128, 1) };
    let icmp = |kind, payload: Vec<u8>| Carried::Icmp { kind, code: 0, rest: [0; 4], payload };
    let mut packets = vec![
        ("TCP", build::ip(client, vip, tcp(1, port::IPIP_V4, flags::SYN))),
        ("UDP", build::ip(client, vip, udp(1, port::GUE_V6, b"ahoy"))),
        ("echo request", build::ip(client, vip, icmp(echo, b"ahoy".to_vec()))),
        ("ICMP error", build::ip(client, vip, icmp(unreachable, sent))),
    ];
    for (_, packet) in packets.clone() {
        if vip.is_ipv4() {
            packets.push(("with options", IpPacket { options: vec![1; 12], ..packet }));
        } else {
            packets.push((
                "with extension headers",
                IpPacket { extensions: vec![(0, vec![0; 6]), (60, vec![0; 14])], ..packet },
            ));
        }
    }
    packets
}

#[test]
fn a_gateway_forwards_no_part_of_a_packet() {
    let mut node = Node::both();
    for vip in VIPS.map(ip) {
        let header = if vip.is_ipv4() { 20 } else { 40 };
        for ((what, packet), vlans) in
            packets(vip).into_iter().flat_map(|row| [(row.clone(), &[][..]), (row, &[5, 6])])
        {
            let frame = incoming(packet).tagged(vlans).bytes();
            cut(&mut node, what, &frame, 14 + 4 * vlans.len() + header, DropReason::Truncated);
        }
    }
    node.judge(1000);
}

#[test]
fn a_receiver_delivers_no_part_of_a_packet() {
    let mut node = Node::receiver();
    for (vip, gateway) in VIPS.map(ip).into_iter().flat_map(|vip| GATEWAYS.map(|gateway| (vip, ip(gateway))))
    {
        let header = if gateway.is_ipv4() { 20 } else { 40 };
        for (what, packet) in packets(vip) {
            let pod = of_family(POD, gateway);
            let frame = incoming(ipip(gateway, pod, &packet)).bytes();
            cut(&mut node, &format!("IPIP, {what}"), &frame, 14 + header, DropReason::BadTunnel);
            // GUE is known by its port.
            let frame = incoming(gue(gateway, pod, 0xc000, &packet)).bytes();
            cut(&mut node, &format!("GUE, {what}"), &frame, 14 + header + 4, DropReason::BadTunnel);
        }
    }
    node.judge(2000);
}

#[test]
fn a_receiver_delivers_no_part_of_a_packet_in_a_whole_tunnel_packet() {
    let mut node = Node::receiver();
    for (vip, gateway) in VIPS.map(ip).into_iter().flat_map(|vip| GATEWAYS.map(|gateway| (vip, ip(gateway))))
    {
        let header = if vip.is_ipv4() { 20 } else { 40 };
        let protocol = if vip.is_ipv4() { 4 } else { 41 };
        for (what, packet) in packets(vip) {
            let whole = packet.bytes();
            for length in 0..whole.len() {
                let outer = build::ip(
                    gateway,
                    of_family(POD, gateway),
                    Carried::Raw(protocol, whole[..length].to_vec()),
                );
                let frame = incoming(outer).bytes();
                let reason = if length < header { DropReason::BadTunnel } else { DropReason::Truncated };
                node.drops(&format!("{what}, cut at {length}"), &frame, reason);
            }
        }
    }
    node.judge(1000);
}
