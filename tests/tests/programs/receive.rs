//! The receiver unwraps what gateways send and rewrites it for the endpoint; the same for endpoints on a gateway.

use std::net::IpAddr;

use fairlead_abi::{DropReason, FlowEvent};
use fairlead_tests::packets::{
    Carried, Counts, IpPacket,
    build::{self, Tcp, Udp, flags, gue, ipip, tcp, udp},
};

use super::node::*;

/// A client's packets to a port, by any kind of transport.
fn packets(client: IpAddr, to: IpAddr, port: u16) -> Vec<IpPacket> {
    let data: Vec<u8> = (0..77).collect();
    let segment = Tcp { payload: data.clone(), ..tcp(40_000, port, flags::ACK) };
    let carried: [Carried; 5] = [
        tcp(40_000, port, flags::SYN).into(),
        segment.into(),
        udp(40_000, port, &data).into(),
        udp(40_000, port, b"").into(),
        Udp { checksum: false, ..udp(40_000, port, &data) }.into(),
    ];
    let mut packets: Vec<IpPacket> =
        carried.into_iter().map(|carried| build::ip(client, to, carried)).collect();
    let unusual = IpPacket {
        ttl: 1,
        tos: 0x12,
        id: 0x3456,
        options: vec![1; 4],
        extensions: vec![(60, vec![0; 6])],
        ..packets[1].clone()
    };
    packets.push(unusual);
    packets
}

/// The outer packets that may bring `inner` to an endpoint of this node.
fn tunnels(inner: &IpPacket, endpoints: [&str; 2]) -> Vec<IpPacket> {
    let ways = GATEWAYS.into_iter().zip(endpoints);
    ways.flat_map(|(gateway, endpoint)| {
        [ipip(ip(gateway), ip(endpoint), inner), gue(ip(gateway), ip(endpoint), 0xffff, inner)]
    })
    .collect()
}

#[test]
fn every_tunnel_is_taken_off_and_the_packet_becomes_the_pods() {
    let mut node = Node::receiver();
    for vip in VIPS.map(ip) {
        let (client, pod) = (of_family(CLIENTS, vip), of_family(POD, vip));
        let both = packets(client, vip, port::IPIP_V4).into_iter().zip(packets(client, pod, POD_PORT));
        for (sent, delivered) in both {
            for (outer, vlans) in
                tunnels(&sent, POD).into_iter().flat_map(|o| [(o.clone(), &[][..]), (o, &[3, 4])])
            {
                let frame = incoming(outer).tagged(vlans).bytes();
                let out = incoming(delivered.clone()).tagged(vlans).bytes();
                node.row("to the pod", &frame, Then::Pass(out), Counts::default());
            }
        }
    }
    node.judge(96);
}

#[test]
fn whole_packets_in_plain_tunnels_need_no_slow_path() {
    let mut node = Node::receiver();
    node.lab.take_slow_path_away().unwrap();
    for vip in VIPS.map(ip) {
        let (client, pod) = (of_family(CLIENTS, vip), of_family(POD, vip));
        let both = packets(client, vip, port::IPIP_V4).into_iter().zip(packets(client, pod, POD_PORT));
        for (sent, delivered) in both {
            for outer in tunnels(&sent, POD) {
                let frame = incoming(outer.clone()).bytes();
                if sent.options.is_empty() {
                    let out = incoming(delivered.clone()).bytes();
                    node.row("the rule", &frame, Then::Pass(out), Counts::default());
                } else {
                    node.drops("options or extension headers", &frame, DropReason::Inconsistent);
                }
                let tagged = incoming(outer).tagged(&[3]).bytes();
                node.drops("a tag", &tagged, DropReason::Inconsistent);
            }
        }
    }
    node.judge(96);
}

#[test]
fn an_endpoint_that_owns_the_vip_gets_the_packet_as_it_is() {
    let mut node = Node::receiver();
    for vip in VIPS.map(ip) {
        for sent in packets(of_family(CLIENTS, vip), vip, port::IPIP_V4) {
            for outer in tunnels(&sent, OWNER) {
                let out = incoming(sent.clone()).bytes();
                node.row("to the owner", &incoming(outer).bytes(), Then::Pass(out), Counts::default());
            }
        }
    }
    node.judge(48);
}

#[test]
fn a_checksum_of_udp_that_becomes_zero_is_sent_as_ones() {
    let mut node = Node::receiver();
    let mut seen = 0;
    for vip in VIPS.map(ip) {
        let (client, pod) = (of_family(CLIENTS, vip), of_family(POD, vip));
        // All values of one word: one of them makes the sum 0.
        for word in 0..=0xffff_u16 {
            let packet = |to, port| build::ip(client, to, udp(1, port, &word.to_be_bytes()));
            let delivered = incoming(packet(pod, POD_PORT)).bytes();
            if delivered[delivered.len() - 4..delivered.len() - 2] != [0xff, 0xff] && word % 256 != 0 {
                continue;
            }
            seen += usize::from(word % 256 != 0);
            for outer in tunnels(&packet(vip, port::IPIP_V4), POD) {
                let then = Then::Pass(delivered.clone());
                node.row(&format!("payload {word:#x}"), &incoming(outer).bytes(), then, Counts::default());
            }
        }
    }
    assert!(seen >= 1, "no payload made a sum of zero");
    node.judge(2000);
}

/// An ICMP error about a packet from `sender`'s port, as a router on the way to the client says it; the quote is cut
/// to `quoted` bytes. Its transport checksum stays that of what the client was sent: `original`.
fn error(
    kind: u8,
    to: IpAddr,
    sender: (IpAddr, u16),
    protocol: u8,
    quoted: usize,
    original: &[u8],
) -> (IpPacket, Vec<u8>) {
    let client = of_family(CLIENTS, to);
    let carried: Carried = match protocol {
        TCP => Tcp { payload: vec![1; 40], ..tcp(sender.1, 40_000, flags::ACK) }.into(),
        _ => udp(sender.1, 40_000, &[1; 52]).into(),
    };
    let mut quote = build::ip(sender.0, client, carried).bytes();
    let header = if to.is_ipv4() { 20 } else { 40 };
    let sum = header + if protocol == TCP { 16 } else { 6 };
    if !original.is_empty() {
        quote[sum..sum + 2].copy_from_slice(&original[sum..sum + 2]);
    }
    let router = of_family(["192.0.2.254", "2001:db8:fe::1"], to);
    let message = Carried::Icmp { kind, code: 4, rest: [0, 0, 5, 0x78], payload: quote[..quoted].to_vec() };
    (build::ip(router, to, message), quote)
}

#[test]
fn an_icmp_error_speaks_of_the_pods_packet() {
    let mut node = Node::receiver();
    for vip in VIPS.map(ip) {
        let pod = of_family(POD, vip);
        let (kinds, header): (&[u8], usize) =
            if vip.is_ipv4() { (&[3, 11, 12], 20) } else { (&[1, 2, 3, 4], 40) };
        for (&kind, protocol) in kinds.iter().flat_map(|kind| [(kind, TCP), (kind, UDP)]) {
            for quoted in [header + 8, header + 20, header + 60] {
                let (sent, quote) = error(kind, vip, (vip, port::IPIP_V4), protocol, quoted, &[]);
                let (delivered, _) = error(kind, pod, (pod, POD_PORT), protocol, quoted, &quote);
                for outer in tunnels(&sent, POD) {
                    let out = Then::Pass(incoming(delivered.clone()).bytes());
                    let what = format!("ICMP {kind} of {protocol}, {quoted} bytes quoted");
                    node.row(&what, &incoming(outer).bytes(), out, Counts::default());
                }
                for outer in tunnels(&sent, OWNER) {
                    let out = Then::Pass(incoming(sent.clone()).bytes());
                    node.row("ICMP to the owner", &incoming(outer).bytes(), out, Counts::default());
                }
            }
        }
    }
    assert!(
        node.lab.flows().unwrap().is_empty() && node.lab.half_open().unwrap().is_empty(),
        "errors make no flows"
    );
    node.judge(300);
}

#[test]
fn what_is_not_delivered() {
    let mut node = Node::receiver();
    for vip in VIPS.map(ip) {
        let client = of_family(CLIENTS, vip);
        let served = build::ip(client, vip, tcp(1, port::IPIP_V4, flags::SYN));
        let other_port = build::ip(client, vip, udp(1, port::GUE_V4, b""));
        let other_vip = build::ip(client, of_family(PASSING_VIPS, vip), tcp(1, port::IPIP_V4, flags::SYN));
        for packet in [&other_port, &other_vip] {
            for outer in tunnels(packet, POD) {
                node.drops("a pair that it doesn't know", &incoming(outer).bytes(), DropReason::NotDelivered);
            }
        }
        for outer in tunnels(&served, FAR) {
            node.passes("an endpoint of another node, or somebody else's tunnel", &incoming(outer).bytes());
        }
        let (unknown, _) = error(if vip.is_ipv4() { 3 } else { 1 }, vip, (vip, port::NONE), TCP, 60, &[]);
        for outer in tunnels(&unknown, POD) {
            node.drops("an error of such a pair", &incoming(outer).bytes(), DropReason::NotDelivered);
        }
        let echo = Carried::Icmp {
            kind: if vip.is_ipv4() { 8 } else { 128 },
            code: 0,
            rest: [0; 4],
            payload: vec![0; 60],
        };
        for outer in tunnels(&build::ip(client, vip, echo), POD) {
            node.drops("an echo request", &incoming(outer).bytes(), DropReason::IcmpUnrelated);
        }
        for outer in tunnels(&build::ip(client, vip, Carried::Raw(47, vec![0; 9])), POD) {
            node.drops("GRE", &incoming(outer).bytes(), DropReason::UnsupportedProtocol);
        }
    }
    node.judge(48);
}

#[test]
fn strangers_tunnel_packets() {
    for (mut node, roles) in [(Node::receiver(), "receiver"), (Node::both(), "both")] {
        for vip in VIPS.map(ip) {
            let inner = build::ip(of_family(CLIENTS, vip), vip, tcp(1, port::IPIP_V4, flags::SYN));
            for (stranger, (pod, far)) in
                CLIENTS.map(ip).into_iter().zip(POD.map(ip).into_iter().zip(FAR.map(ip)))
            {
                for vlans in [&[][..], &[1]] {
                    let frame = |outer| incoming(outer).tagged(vlans).bytes();
                    node.drops(roles, &frame(ipip(stranger, pod, &inner)), DropReason::StrangerTunnel);
                    node.drops(roles, &frame(gue(stranger, pod, 1, &inner)), DropReason::StrangerTunnel);
                    node.passes(roles, &frame(ipip(stranger, far, &inner)));
                    node.passes(roles, &frame(gue(stranger, far, 1, &inner)));
                }
                node.passes("no tunnel at all", &incoming(build::ip(stranger, pod, udp(1, 53, b""))).bytes());
            }
        }
        node.judge(36);
    }
}

#[test]
fn damaged_tunnel_packets() {
    let mut node = Node::receiver();
    let inner = VIPS.map(|vip| {
        build::ip(of_family(CLIENTS, ip(vip)), ip(vip), tcp(1, port::IPIP_V4, flags::SYN)).bytes()
    });
    for (gateway, pod) in GATEWAYS.map(ip).into_iter().zip(POD.map(ip)) {
        let mut row = |what: &str, carried: Carried, reason| {
            let packet = build::ip(gateway, pod, carried);
            node.drops(what, &incoming(packet.clone()).bytes(), reason);
            if gateway.is_ipv4() {
                let is_udp = matches!(packet.carried, Carried::Udp(_));
                let fragment = incoming(IpPacket { fragment: 0x2000, ..packet }).bytes();
                if is_udp {
                    node.passes(
                        "a fragment of UDP, which may have any bytes where a port would be",
                        &fragment,
                    );
                } else {
                    node.drops("a fragment", &fragment, DropReason::Fragment);
                }
            }
        };
        row("IPv6 that says IPv4", Carried::Raw(4, inner[1].clone()), DropReason::BadTunnel);
        row("IPv4 that says IPv6", Carried::Raw(41, inner[0].clone()), DropReason::BadTunnel);
        for version in (0..16).filter(|version| ![4, 6].contains(version)) {
            let payload = vec![version << 4; 60];
            row("no IP", Carried::Raw(4, payload.clone()), DropReason::BadTunnel);
            row("GUE of variant 0 or no IP", udp(1, 6080, &payload).into(), DropReason::BadTunnel);
        }
        row("GUE of nothing", udp(1, 6080, b"").into(), DropReason::BadTunnel);
        row("IPIP of nothing", Carried::Raw(4, vec![]), DropReason::BadTunnel);
        let fragment =
            IpPacket { fragment: 0x2000, ..build::ip(ip(CLIENTS[0]), ip(VIPS[0]), udp(1, 80, b"1234")) };
        row("a tiny fragment inside", Carried::Packet(Box::new(fragment)), DropReason::FragmentTiny);
        let twice =
            ipip(ip(CLIENTS[0]), ip(VIPS[0]), &build::ip(ip(CLIENTS[0]), ip(VIPS[0]), udp(1, 80, b"")));
        row("a tunnel in a tunnel", Carried::Packet(Box::new(twice)), DropReason::UnsupportedProtocol);
    }
    node.judge(90);
}

#[test]
fn congestion_marked_on_the_way_is_the_packets() {
    let mut node = Node::receiver();
    for vip in VIPS.map(ip) {
        let carried = || tcp(40_000, port::IPIP_V4, flags::ACK);
        let inner = |tos| IpPacket { tos, ..build::ip(of_family(CLIENTS, vip), vip, carried()) };
        let delivered = |tos| IpPacket {
            tos,
            ..build::ip(of_family(CLIENTS, vip), of_family(POD, vip), tcp(40_000, POD_PORT, flags::ACK))
        };
        // DSCP stays the inner one's; only both bits together are a mark.
        let rows = [
            (0x48, 0xff, None),
            (0x49, 0xff, Some(0x4b)),
            (0x4a, 0x03, Some(0x4b)),
            (0x4b, 0x03, Some(0x4b)),
        ];
        let unmarked = [0x00, 0x01, 0x02, 0xfe].map(|outer| (0x4a, outer, Some(0x4a)));
        for (tos, marked, arrives) in rows.into_iter().chain(unmarked) {
            for outer in tunnels(&inner(tos), POD) {
                let frame = incoming(IpPacket { tos: marked, ..outer }).bytes();
                let what = format!("TOS {tos:#x} in {marked:#x}");
                match arrives {
                    None => node.drops(&what, &frame, DropReason::BadTunnel),
                    Some(tos) => {
                        let out = Then::Pass(incoming(delivered(tos)).bytes());
                        node.row(&what, &frame, out, Counts::default());
                    }
                }
            }
        }
    }
    node.judge(64);
}

#[test]
fn an_endpoint_on_the_gateways_own_node_is_served_without_leaving_it() {
    let mut node = Node::both();
    for vip in VIPS.map(ip) {
        let (client, pod) = (of_family(CLIENTS, vip), of_family(POD, vip));
        let both = packets(client, vip, port::LOCAL).into_iter().zip(packets(client, pod, POD_PORT));
        for ((sent, delivered), vlans) in both.flat_map(|row| [(row.clone(), &[][..]), (row, &[1])]) {
            let protocol = if matches!(sent.carried, Carried::Tcp(_)) { TCP } else { UDP };
            let opens = matches!(&sent.carried, Carried::Tcp(segment) if segment.flags == flags::SYN);
            let (service, backend) = counted(vip, port::LOCAL, protocol);
            let frame = incoming(sent).tagged(vlans).bytes();
            let counts = Counts::of_forward(service, backend, frame.len(), opens);
            let then = Then::Pass(incoming(delivered.clone()).tagged(vlans).bytes());
            if protocol == UDP || opens {
                node.row("here", &frame, then, counts);
                continue;
            }
            let nobodys = Counts::default().and(FlowEvent::Unclaimed);
            node.row("of no connection", &frame, Then::Drop(DropReason::Unclaimed), nobodys);
            node.connect(vip, port::LOCAL, 40_000);
            node.row("of a connection", &frame, then, counts);
            node.lab.clear_flows().unwrap();
        }
        let kind = if vip.is_ipv4() { 3 } else { 2 };
        let (sent, quote) = error(kind, vip, (vip, port::LOCAL), TCP, 60, &[]);
        let (delivered, _) = error(kind, pod, (pod, POD_PORT), TCP, 60, &quote);
        let (service, backend) = counted(vip, port::LOCAL, TCP);
        let frame = incoming(sent).bytes();
        let counts = Counts::of_forward(service, backend, frame.len(), false);
        let nobodys = Counts::default().and(FlowEvent::Unclaimed);
        node.row("an ICMP error about nothing", &frame, Then::Drop(DropReason::Unclaimed), nobodys);
        node.connect(vip, port::LOCAL, 40_000);
        node.row("an ICMP error", &frame, Then::Pass(incoming(delivered).bytes()), counts);
        // A node with both roles forwards the rest, and unwraps what other gateways send.
        let sent = build::ip(client, vip, tcp(1, port::IPIP_V4, flags::ACK));
        let delivered = build::ip(client, pod, tcp(1, POD_PORT, flags::ACK));
        for outer in tunnels(&sent, POD) {
            let then = Then::Pass(incoming(delivered.clone()).bytes());
            node.row("unwrapped", &incoming(outer).bytes(), then, Counts::default());
        }
        let frame = incoming(sent.clone()).bytes();
        let id = mark_of_current(&sent, 1, port::IPIP_V4);
        let outer = ipip(ip(TUNNELS[0]), ip(FAR[0]), &IpPacket { ttl: 63, ..sent });
        let out = outgoing(&HOP, IpPacket { id, ..outer }).bytes();
        let (service, backend) = counted(vip, port::IPIP_V4, TCP);
        let counts = Counts::of_forward(service, backend, frame.len(), false);
        node.row("forwarded", &frame, Then::Transmit(out), counts);
    }
    node.judge(36);
}
