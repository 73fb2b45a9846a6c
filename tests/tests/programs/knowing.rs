//! What a receiver knows, by what it takes and what it sends back: connections by their numbers, and nothing by what was forged.

use std::thread;
use std::time::{Duration, Instant};

use fairlead_abi::{FlowEntry, FlowEvent, FlowState, kind, mark};
use fairlead_tests::packets::{
    Counts, IpPacket, Lab,
    build::{self, Tcp, flags, tcp},
    report::{PASS, TRANSMIT},
};

use super::{
    bounce::{FROM, cases, to_pod},
    node::*,
};

#[test]
fn a_receiver_sends_back_what_it_does_not_know() {
    let mut node = Node::receiver();
    for case in cases(port::FORMERS, &[TCP, UDP]) {
        for step in kind::CURRENT..=kind::LAST {
            for outer in to_pod(&case, mark(case.hash(), step, false), &case.packet()) {
                let id = mark(case.hash(), step, true);
                let back =
                    IpPacket { id, source: outer.destination, destination: outer.source, ..outer.clone() };
                let frame = incoming(IpPacket { ttl: 9, ..outer }).bytes();
                let mut out = incoming(back).bytes();
                let macs: Vec<u8> = [&frame[6..12], &frame[..6]].concat();
                out[..12].copy_from_slice(&macs);
                let counts = Counts::default().and(FlowEvent::Bounced);
                node.row(&format!("kind {step}"), &frame, Then::Transmit(out), counts);
            }
        }
        assert!(node.lab.flows().unwrap().is_empty() && node.lab.half_open().unwrap().is_empty());
    }
    node.judge(40);
}

#[test]
fn a_receiver_takes_what_it_knows_and_claims_it() {
    let mut node = Node::receiver();
    for case in cases(port::FORMERS, &[TCP]) {
        node.connect(case.vip, case.port, FROM);
        let pod = of_family(POD, case.vip);
        let delivered = build::ip(of_family(CLIENTS, case.vip), pod, tcp(FROM, POD_PORT, flags::ACK));
        let then = || Then::Pass(incoming(delivered.clone()).bytes());
        for step in [kind::CURRENT, kind::GUESS] {
            for outer in to_pod(&case, mark(case.hash(), step, false), &case.packet()) {
                node.row("known", &incoming(outer).bytes(), then(), Counts::default());
            }
        }
        let [outer, by_gue] = to_pod(&case, mark(case.hash(), kind::FORMER, false), &case.packet());
        let counts = Counts::default().and(FlowEvent::Claimed);
        let (claimed, began) = (incoming(outer).bytes(), Instant::now());
        node.row("claimed", &claimed, then(), counts);
        if began.elapsed() > Duration::from_millis(50) {
            // A busy machine: by now it may be claimed again. Then it was just now.
            thread::sleep(Duration::from_millis(100));
            node.lab.ingress(&claimed).unwrap();
        }
        node.row("once in a while", &incoming(by_gue).bytes(), then(), Counts::default());
        // Its ports may be another connection's before the gateway hears of it.
        node.lab.clear_flows().unwrap();
        node.connect(case.vip, case.port, FROM);
        let last =
            |to, port| build::ip(of_family(CLIENTS, case.vip), to, tcp(FROM, port, flags::FIN | flags::ACK));
        let [outer, _] = to_pod(&case, mark(case.hash(), kind::FORMER, false), &last(case.vip, case.port));
        let then = Then::Pass(incoming(last(pod, POD_PORT)).bytes());
        node.row("its end isn't claimed", &incoming(outer).bytes(), then, Counts::default());
        // Another connection of the same ports, which somebody else has.
        for (sequence, acknowledged) in [(1 << 28, 0), (0, 1 << 28), (1 << 31, 1 << 31)] {
            let segment = Tcp { sequence, acknowledged, ..tcp(FROM, case.port, flags::ACK) };
            let packet = build::ip(of_family(CLIENTS, case.vip), case.vip, segment);
            let [outer, _] = to_pod(&case, mark(case.hash(), kind::CURRENT, false), &packet);
            let run = node.lab.ingress(&incoming(outer).bytes()).unwrap();
            assert_eq!(run.action, TRANSMIT, "{sequence} {acknowledged} goes back");
        }
    }
    node.judge(14);
}

/// Much may come at once before the endpoint's first word, and little of that fits by chance.
#[test]
fn after_a_silence_a_burst_is_known_and_a_stranger_is_not() {
    let mut node = Node::receiver();
    for case in cases(port::FORMERS, &[TCP]) {
        node.connect(case.vip, case.port, FROM);
        let (key, known) = node.lab.flows().unwrap().pop_first().unwrap();
        let mut arrives = |state: FlowState, tcp_flags, sent: i64, got: i64| {
            // The last packet was one of long ago.
            node.lab.set_flow(&key, &FlowEntry { state: state as u8, seen: 0, ..known }).unwrap();
            let far = |from: u32, by: i64| from.wrapping_add_signed(by.try_into().unwrap());
            let (sequence, acknowledged) = (far(known.client_sequence, sent), far(known.sequence, got));
            let segment = Tcp { sequence, acknowledged, ..tcp(FROM, case.port, tcp_flags) };
            let packet = build::ip(of_family(CLIENTS, case.vip), case.vip, segment);
            let [outer, _] = to_pod(&case, mark(case.hash(), kind::CURRENT, false), &packet);
            node.lab.ingress(&incoming(outer).bytes()).unwrap().action
        };
        let (open, closing) = (FlowState::Established, FlowState::Closing);
        let rows = [
            (open, flags::ACK, 0, 1, PASS, "what comes next"),
            (open, flags::ACK, -1, 1, PASS, "a keepalive"),
            (open, flags::ACK, -(1 << 19), 1, PASS, "sent once more"),
            (open, flags::ACK, (1 << 20) - 1, (1 << 18) - 1, PASS, "the endpoint's last one was large"),
            (open, flags::ACK, 0, -(1 << 20), PASS, "the endpoint's last ones were lost"),
            (open, flags::ACK, 3 << 20, 1, PASS, "of a burst"),
            (open, flags::ACK, (1 << 24) - 1, 0, PASS, "the end of a burst"),
            (open, flags::ACK, (1 << 24) - 1, (1 << 17) - 1, PASS, "after a large one"),
            (open, flags::ACK, 1 << 24, 0, TRANSMIT, "too far ahead"),
            (open, flags::ACK, 1 << 20, 1 << 17, TRANSMIT, "a burst that acknowledges what wasn't sent"),
            (open, flags::ACK, 1 << 20, -1, TRANSMIT, "a burst that acknowledges old things"),
            (open, flags::ACK, -(1 << 19) - 1, 1, TRANSMIT, "too old"),
            (open, flags::ACK, 0, 1 << 18, TRANSMIT, "acknowledges what wasn't sent"),
            (open, flags::ACK, 0, -(1 << 20) - 1, TRANSMIT, "acknowledges old things"),
            (open, flags::RST, (1 << 20) - 1, 0, PASS, "without acknowledgement"),
            (open, flags::RST, 1 << 20, 0, TRANSMIT, "no burst without acknowledgement"),
            (closing, flags::ACK, (1 << 20) - 1, 0, PASS, "after its end"),
            (closing, flags::ACK, 1 << 20, 0, TRANSMIT, "no burst after its end"),
        ];
        for (state, tcp_flags, sent, got, then, what) in rows {
            assert_eq!(arrives(state, tcp_flags, sent, got), then, "{what}");
        }
        node.lab.clear_flows().unwrap();
    }
}

#[test]
fn a_forged_syn_makes_nothing_known() {
    let mut node = Node::receiver();
    for case in cases(port::FORMERS, &[TCP]) {
        let client = of_family(CLIENTS, case.vip);
        let arrives = |lab: &mut Lab, segment: Tcp, id| {
            let [outer, _] = to_pod(&case, id, &build::ip(client, case.vip, segment));
            lab.ingress(&incoming(outer).bytes()).unwrap().action
        };
        let marked = mark(case.hash(), kind::CURRENT, false);
        arrives(&mut node.lab, tcp(FROM, case.port, flags::SYN), 0);
        let ack = |acknowledged| Tcp { acknowledged, sequence: 1, ..tcp(FROM, case.port, flags::ACK) };
        assert_eq!(arrives(&mut node.lab, ack(1), marked), TRANSMIT, "no SYN-ACK has left");
        let answer = Tcp { sequence: 1000, ..tcp(POD_PORT, FROM, flags::SYN_ACK) };
        let answer = build::ip(of_family(POD, case.vip), client, answer);
        node.lab.egress(&outgoing(&HOP, answer).bytes(), 0).unwrap();
        assert_eq!(arrives(&mut node.lab, ack(5000), marked), TRANSMIT, "the real one's packet");
        let reset = |sequence| Tcp { sequence, ..tcp(FROM, case.port, flags::RST) };
        assert_eq!(arrives(&mut node.lab, reset(7), marked), TRANSMIT, "a reset of somebody else");
        assert_eq!(arrives(&mut node.lab, reset(1001), marked), PASS, "of who sent the SYN");
        assert_eq!(arrives(&mut node.lab, ack(1001), marked), PASS, "its own ACK");
        assert_eq!(node.lab.flows().unwrap().len(), 1);
        node.lab.clear_flows().unwrap();
    }
}

/// Who has ended a connection may use its ports again at once, and begins 65,537 bytes on.
#[test]
fn after_both_ends_the_next_connection_of_the_ports_is_another() {
    let mut node = Node::receiver();
    for case in cases(port::FORMERS, &[TCP]) {
        let client = of_family(CLIENTS, case.vip);
        let reaches = |lab: &mut Lab, tcp_flags, sent: u32| {
            let (_, known) = lab.flows().unwrap().pop_first().unwrap();
            let (sequence, acknowledged) = (known.client_sequence.wrapping_add(sent), known.sequence);
            let segment = Tcp { sequence, acknowledged, ..tcp(FROM, case.port, tcp_flags) };
            let marked = mark(case.hash(), kind::CURRENT, false);
            let [outer, _] = to_pod(&case, marked, &build::ip(client, case.vip, segment));
            lab.ingress(&incoming(outer).bytes()).unwrap().action == PASS
        };
        let end = |lab: &mut Lab| {
            let last = tcp(POD_PORT, FROM, flags::FIN);
            lab.egress(&outgoing(&HOP, build::ip(of_family(POD, case.vip), client, last)).bytes(), 0)
                .unwrap();
        };
        for client_first in [true, false] {
            node.connect(case.vip, case.port, FROM);
            if !client_first {
                end(&mut node.lab);
                assert!(reaches(&mut node.lab, flags::ACK, (1 << 20) - 1), "it goes on sending");
            }
            assert!(reaches(&mut node.lab, flags::FIN | flags::ACK, 0));
            if client_first {
                assert!(reaches(&mut node.lab, flags::ACK, 1 << 26), "there may be much on its way");
                end(&mut node.lab);
            }
            assert!(reaches(&mut node.lab, flags::ACK, 1), "the last word");
            assert!(!reaches(&mut node.lab, flags::ACK, 65_538), "another connection");
            node.lab.clear_flows().unwrap();
        }
    }
}
