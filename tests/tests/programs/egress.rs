//! The pod's replies leave in the VIP's name, with right checksums and an MSS that the tunnel carries.

use std::net::IpAddr;

use fairlead_abi::Roles;
use fairlead_tests::packets::{
    Carried, IpPacket,
    build::{self, Tcp, Udp, flags, ipip, tcp, udp},
    report::hex,
};

use super::node::*;

/// TC_ACT_UNSPEC: the next program goes on.
const GOES_ON: u32 = u32::MAX;
const CLIENT_PORT: u16 = 40_000;

/// A receiver that knows a TCP and a UDP flow of each family.
fn receiver() -> Node {
    let mut node = Node::receiver();
    for vip in VIPS.map(ip) {
        let client = of_family(CLIENTS, vip);
        let syn = build::ip(client, vip, tcp(CLIENT_PORT, port::IPIP_V4, flags::SYN));
        let datagram = build::ip(client, vip, udp(CLIENT_PORT, port::IPIP_V4, b"?"));
        for packet in [syn, datagram] {
            node.lab.ingress(&incoming(ipip(ip(GATEWAYS[0]), ip(POD[0]), &packet)).bytes()).unwrap();
        }
    }
    node
}

/// The pod sends `before`; `after` leaves.
#[track_caller]
fn leaves(node: &mut Node, before: &IpPacket, after: &IpPacket, vlans: &[u16]) {
    let frame = |packet: &IpPacket| outgoing(&HOP, packet.clone()).tagged(vlans).bytes();
    let counts = node.lab.counts().unwrap();
    let run = node.lab.egress(&frame(before), 0).unwrap();
    assert_eq!((run.action, hex(&run.frame)), (GOES_ON, hex(&frame(after))), "{before:?}");
    assert_eq!(node.lab.counts().unwrap(), counts);
}

#[track_caller]
fn unchanged(node: &mut Node, packet: &IpPacket) {
    leaves(node, packet, packet, &[]);
}

/// The pod's packet and the VIP's, of whatever `carried` makes for a source port.
fn both(vip: IpAddr, carried: impl Fn(u16) -> Carried) -> (IpPacket, IpPacket) {
    let client = of_family(CLIENTS, vip);
    let before = build::ip(of_family(POD, vip), client, carried(POD_PORT));
    (before, build::ip(vip, client, carried(port::IPIP_V4)))
}

#[test]
fn replies_of_both_families_and_protocols() {
    let mut node = receiver();
    for vip in VIPS.map(ip) {
        let payloads = [vec![], vec![1], b"ahoy".to_vec(), vec![0xff; 1400]];
        for (payload, vlans) in
            payloads.into_iter().flat_map(|p| [(p.clone(), &[][..]), (p.clone(), &[1]), (p, &[1, 2])])
        {
            let (before, after) = both(vip, |from| {
                Tcp { payload: payload.clone(), ..tcp(from, CLIENT_PORT, flags::ACK) }.into()
            });
            leaves(&mut node, &before, &after, vlans);
            let (before, after) = both(vip, |from| udp(from, CLIENT_PORT, &payload).into());
            leaves(&mut node, &before, &after, vlans);
            let unusual = |packet: &IpPacket| IpPacket {
                ttl: 1,
                tos: 4,
                options: vec![1; 8],
                extensions: vec![(60, vec![0; 14])],
                ..packet.clone()
            };
            leaves(&mut node, &unusual(&before), &unusual(&after), vlans);
        }
        let none = |from| Udp { checksum: false, ..udp(from, CLIENT_PORT, b"x") }.into();
        let (before, after) = both(vip, none);
        leaves(&mut node, &before, &after, &[]);
    }
}

#[test]
fn every_checksum_of_udp() {
    let mut node = receiver();
    for vip in VIPS.map(ip) {
        for word in (0..=0xffff_u16).step_by(7).chain(0..=0x1000) {
            let (before, after) = both(vip, |from| udp(from, CLIENT_PORT, &word.to_be_bytes()).into());
            leaves(&mut node, &before, &after, &[]);
        }
    }
}

#[test]
fn the_mss_of_a_syn_ack_is_lowered_wherever_it_stands() {
    let mut node = receiver();
    let rows: [(&[u8], &[u8]); 9] = [
        (&[2, 4, 0x05, 0xb4], &[2, 4, 0x05, 0x78]), // 1460 becomes 1400
        (&[1, 2, 4, 0x05, 0xb4, 1, 1, 1], &[1, 2, 4, 0x05, 0x78, 1, 1, 1]), // at an odd offset
        (&[1, 1, 1, 2, 4, 0x23, 0x28, 0], &[1, 1, 1, 2, 4, 0x05, 0x78, 0]),
        (&[3, 3, 7, 2, 4, 0xff, 0xff, 0], &[3, 3, 7, 2, 4, 0x05, 0x78, 0]),
        (
            &[4, 2, 8, 10, 0, 1, 2, 3, 4, 5, 6, 7, 2, 4, 0x22, 0x60],
            &[4, 2, 8, 10, 0, 1, 2, 3, 4, 5, 6, 7, 2, 4, 0x05, 0x78],
        ),
        (&[2, 4, 0x05, 0x78], &[2, 4, 0x05, 0x78]), // 1400 stays
        (&[2, 4, 0x02, 0x18], &[2, 4, 0x02, 0x18]), // 536 is never raised
        (&[0, 2, 4, 0xff, 0xff, 0, 0, 0], &[0, 2, 4, 0xff, 0xff, 0, 0, 0]), // behind the end of options
        (&[3, 0, 2, 4, 0xff, 0xff, 0, 0], &[3, 0, 2, 4, 0xff, 0xff, 0, 0]), // behind one that has no length
    ];
    for (vip, (offered, left)) in VIPS.map(ip).into_iter().flat_map(|vip| rows.map(|row| (vip, row))) {
        let carried = |from, options: &[u8]| {
            Carried::Tcp(Tcp { options: options.to_vec(), ..tcp(from, CLIENT_PORT, flags::SYN_ACK) })
        };
        let client = of_family(CLIENTS, vip);
        let before = build::ip(of_family(POD, vip), client, carried(POD_PORT, offered));
        let after = build::ip(vip, client, carried(port::IPIP_V4, left));
        leaves(&mut node, &before, &after, &[]);
    }
    for vip in VIPS.map(ip) {
        let segment =
            |from| Tcp { options: vec![2, 4, 0xff, 0xff], ..tcp(from, CLIENT_PORT, flags::ACK) }.into();
        let (before, after) = both(vip, segment);
        leaves(&mut node, &before, &after, &[]);
    }
}

#[test]
fn what_belongs_to_no_flow_is_left_alone() {
    let mut node = receiver();
    for vip in VIPS.map(ip) {
        let (client, pod) = (of_family(CLIENTS, vip), of_family(POD, vip));
        let stranger = of_family(["192.0.2.99", "2001:db8:5::99"], vip);
        unchanged(&mut node, &build::ip(pod, stranger, tcp(POD_PORT, CLIENT_PORT, flags::SYN_ACK)));
        unchanged(&mut node, &build::ip(stranger, client, udp(POD_PORT, CLIENT_PORT, b"")));
        unchanged(&mut node, &build::ip(pod, client, tcp(POD_PORT + 1, CLIENT_PORT, flags::ACK)));
        unchanged(&mut node, &build::ip(pod, client, udp(POD_PORT, CLIENT_PORT + 1, b"")));
        let echo = Carried::Icmp {
            kind: if vip.is_ipv4() { 8 } else { 128 },
            code: 0,
            rest: [0; 4],
            payload: vec![0; 64],
        };
        unchanged(&mut node, &build::ip(pod, client, echo));
        unchanged(&mut node, &build::ip(pod, client, Carried::Raw(47, vec![0; 64])));
    }
    let fragment = build::ip(ip(POD[0]), ip(CLIENTS[0]), udp(POD_PORT, CLIENT_PORT, &[0; 64]));
    unchanged(&mut node, &IpPacket { fragment: 0x2001, ..fragment });
}

#[test]
fn a_gateway_that_receives_nothing_rewrites_nothing() {
    let mut node = Node::new(Roles::GATEWAY);
    let (before, _) = both(ip(VIPS[0]), |from| tcp(from, CLIENT_PORT, flags::SYN_ACK).into());
    unchanged(&mut node, &before);
}

#[test]
fn an_endpoint_that_owns_the_vip_has_its_mss_lowered_too() {
    let mut node = Node::receiver();
    let (vip, client) = (ip(VIPS[0]), ip(CLIENTS[0]));
    let syn = build::ip(client, vip, tcp(CLIENT_PORT, port::IPIP_V4, flags::SYN));
    node.lab.ingress(&incoming(ipip(ip(GATEWAYS[0]), ip(OWNER[0]), &syn)).bytes()).unwrap();
    let offered = |mss: u16| {
        let [a, b] = mss.to_be_bytes();
        build::ip(
            vip,
            client,
            Tcp { options: vec![2, 4, a, b], ..tcp(port::IPIP_V4, CLIENT_PORT, flags::SYN_ACK) },
        )
    };
    leaves(&mut node, &offered(1460), &offered(MSS), &[]);
}

/// An ICMP error about what the client sent to `to`, as `from` says it.
fn error(from: IpAddr, to: (IpAddr, u16), protocol: u8, kind: u8) -> IpPacket {
    let client = of_family(CLIENTS, from);
    let carried: Carried = match protocol {
        TCP => tcp(CLIENT_PORT, to.1, flags::SYN).into(),
        _ => udp(CLIENT_PORT, to.1, b"?").into(),
    };
    // The quote's transport checksum is the one that arrived: of the pod's address and port.
    let arrived: Carried = match protocol {
        TCP => tcp(CLIENT_PORT, POD_PORT, flags::SYN).into(),
        _ => udp(CLIENT_PORT, POD_PORT, b"?").into(),
    };
    let arrived = build::ip(client, of_family(POD, from), arrived).bytes();
    let mut quote = build::ip(client, to.0, carried).bytes();
    let header = if from.is_ipv4() { 20 } else { 40 };
    let sum = header + if protocol == TCP { 16 } else { 6 };
    quote[sum..sum + 2].copy_from_slice(&arrived[sum..sum + 2]);
    build::ip(from, client, Carried::Icmp { kind, code: 3, rest: [0; 4], payload: quote })
}

#[test]
fn an_icmp_error_about_a_clients_packet_speaks_of_the_vip() {
    let mut node = receiver();
    for vip in VIPS.map(ip) {
        let pod = of_family(POD, vip);
        let router = of_family(["192.0.2.254", "2001:db8:fe::1"], vip);
        let kinds: &[u8] = if vip.is_ipv4() { &[3, 11, 12] } else { &[1, 2, 3, 4] };
        for (&kind, protocol) in kinds.iter().flat_map(|kind| [(kind, TCP), (kind, UDP)]) {
            for vlans in [&[][..], &[1, 2]] {
                let before = error(pod, (pod, POD_PORT), protocol, kind);
                let after = error(vip, (vip, port::IPIP_V4), protocol, kind);
                leaves(&mut node, &before, &after, vlans);
                // What a node on the way says, it says in its own name.
                let before = error(router, (pod, POD_PORT), protocol, kind);
                let after = error(router, (vip, port::IPIP_V4), protocol, kind);
                leaves(&mut node, &before, &after, vlans);
            }
        }
        let echo = if vip.is_ipv4() { 8 } else { 128 };
        unchanged(&mut node, &error(pod, (pod, POD_PORT), UDP, echo));
        unchanged(&mut node, &error(pod, (pod, POD_PORT + 1), UDP, kinds[0]));
        let to_another = error(pod, (pod, POD_PORT), UDP, kinds[0]);
        let other = of_family(["192.0.2.99", "2001:db8:5::99"], vip);
        unchanged(&mut node, &IpPacket { destination: other, ..to_another });
    }
    let flows = (node.lab.flows().unwrap().len(), node.lab.half_open().unwrap().len());
    assert_eq!(flows, (0, 4), "errors prove nothing");
}
