//! Probes leave as a gateway's tunnel packets, by the mark of their socket.

use fairlead_abi::{Encap, Family, PROBE_MARK, ProbeTarget, Roles};
use fairlead_tests::packets::{
    IpPacket,
    build::{self, flags, gue, ipip, tcp, udp},
    report::hex,
};

use super::node::*;

const REDIRECT: u32 = 7;
const SHOT: u32 = 2;
const GOES_ON: u32 = u32::MAX;

fn target(outer: &str, encap: Encap) -> ProbeTarget {
    let outer = ip(outer);
    ProbeTarget {
        outer: outer.into(),
        encap: encap as u8,
        family: Family::of(&outer) as u8,
        ..ProbeTarget::default()
    }
}

fn node(roles: u32) -> Node {
    let mut tables = tables();
    let encaps = [Encap::Ipip, Encap::Gue];
    let targets = FAR.into_iter().flat_map(|outer| encaps.map(|encap| target(outer, encap)));
    tables.probes = (0x00c0_ff01..).zip(targets).collect();
    Node::with(&settings(roles), &tables)
}

/// What is encapsulated for the probe `number`.
fn outer(number: u32, probe: &IpPacket) -> IpPacket {
    let gue_port = 0xc000 | (number & 0x3fff) as u16;
    let (tunnels, far) = (TUNNELS.map(ip), FAR.map(ip));
    match number & 0xff {
        1 => ipip(tunnels[0], far[0], probe),
        2 => gue(tunnels[0], far[0], gue_port, probe),
        3 => ipip(tunnels[1], far[1], probe),
        _ => gue(tunnels[1], far[1], gue_port, probe),
    }
}

#[test]
fn each_is_encapsulated_to_its_target_and_routed_there() {
    let mut node = node(Roles::GATEWAY);
    for (vip, number) in VIPS.map(ip).into_iter().flat_map(|vip| (1..=4).map(move |n| (vip, 0x00c0_ff00 + n)))
    {
        let source = of_family(["198.51.100.1", "2001:db8:77::1"], vip);
        for probe in
            [build::ip(source, vip, tcp(1, 80, flags::SYN)), build::ip(source, vip, udp(1, 80, b"?"))]
        {
            // From an interface of a VLAN it comes tagged; the one that it goes on by tags it anew.
            for hop in [HOP, TAGGED[0], TAGGED[1]] {
                let run =
                    node.lab.egress(&outgoing(&hop, probe.clone()).bytes(), PROBE_MARK | number).unwrap();
                let expected = outgoing(&HOP, outer(number, &probe)).bytes();
                assert_eq!((run.action, hex(&run.frame)), (REDIRECT, hex(&expected)), "{number:x} {vip}");
            }
        }
    }
}

#[test]
fn a_probe_without_a_target_is_sent_to_nobody() {
    let mut node = node(Roles::GATEWAY);
    let frame = outgoing(&HOP, build::ip(ip(TUNNELS[0]), ip(VIPS[0]), tcp(1, 80, flags::SYN))).bytes();
    assert_eq!(node.lab.egress(&frame, PROBE_MARK | 5).unwrap().action, SHOT);
    assert_eq!(node.lab.egress(&frame, PROBE_MARK).unwrap().action, SHOT);
}

#[test]
fn other_marks_and_other_roles_are_left_alone() {
    let frame = outgoing(&HOP, build::ip(ip(TUNNELS[0]), ip(VIPS[0]), tcp(1, 80, flags::SYN))).bytes();
    let probe = PROBE_MARK | 0x00c0_ff01;
    for (roles, mark) in
        [(Roles::GATEWAY, 0), (Roles::GATEWAY, probe ^ 0x0100_0000), (Roles::RECEIVER, probe)]
    {
        let run = node(roles).lab.egress(&frame, mark).unwrap();
        assert_eq!((run.action, run.frame), (GOES_ON, frame.clone()), "roles {roles}, mark {mark:#x}");
    }
}
