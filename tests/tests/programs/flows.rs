//! What a receiver remembers: half-open, unproven, established, closing.

use fairlead_abi::{DropReason, FlowEntry, FlowState, Roles};
use fairlead_tests::packets::{
    Lab,
    build::{Tcp, flags, tcp, udp},
    report::{DROP, PASS, TRANSMIT},
};

use super::{
    node::*,
    story::{CLIENT_PORT, SEQUENCE, Story},
};

#[test]
fn a_handshake_establishes_a_flow() {
    for vip in VIPS {
        let mut story = Story::new(vip);
        story.arrives(story.segment(flags::SYN, 0));
        story.holds(Some(story.entry(FlowState::HalfOpen, 0)), None, TCP);
        // Before the SYN-ACK there is nothing that an ACK could fit, not even 0 + 1.
        story.arrives(story.segment(flags::ACK, 1));
        story.holds(Some(story.entry(FlowState::HalfOpen, 0)), None, TCP);
        assert!(story.answers_tcp(flags::SYN_ACK, SEQUENCE));
        story.holds(Some(story.entry(FlowState::HalfOpen, SEQUENCE)), None, TCP);
        for wrong in [SEQUENCE, SEQUENCE.wrapping_add(2), 12345] {
            assert_eq!(story.arrives(story.segment(flags::ACK, wrong)), PASS, "the pod's kernel judges it");
            story.holds(Some(story.entry(FlowState::HalfOpen, SEQUENCE)), None, TCP);
        }
        story.arrives(story.segment(flags::ACK, SEQUENCE.wrapping_add(1)));
        story.holds(None, Some(story.entry(FlowState::Established, SEQUENCE)), TCP);
    }
}

#[test]
fn a_flow_that_is_not_known_is_proven_by_the_endpoints_answer() {
    for vip in VIPS {
        let mut story = Story::new(vip);
        assert!(!story.answers_tcp(flags::ACK, 1), "nobody's packet is rewritten");
        story.arrives(story.segment(flags::ACK, 99));
        story.holds(Some(story.entry(FlowState::Unproven, 0)), None, TCP);
        story.arrives(story.segment(flags::ACK, 100));
        story.holds(Some(story.entry(FlowState::Unproven, 0)), None, TCP);
        assert!(story.answers_tcp(flags::ACK, 1));
        story.holds(None, Some(story.entry(FlowState::Established, 1)), TCP);

        let mut story = Story::new(vip);
        story.arrives(udp(CLIENT_PORT, port::IPIP_V4, b"?"));
        story.holds(Some(story.entry(FlowState::Unproven, 0)), None, UDP);
        assert!(story.answers(|from| udp(from, CLIENT_PORT, b"!").into()));
        story.holds(None, Some(story.entry(FlowState::Established, 0)), UDP);
        story.arrives(udp(CLIENT_PORT, port::IPIP_V4, b"?"));
        story.holds(None, Some(story.entry(FlowState::Established, 0)), UDP);
    }
}

#[test]
fn a_refusal_proves_nothing_and_an_end_is_an_end() {
    for vip in VIPS {
        let mut story = Story::new(vip);
        story.arrives(story.segment(flags::ACK, 99));
        assert!(story.answers_tcp(flags::RST, 99), "the RST comes from the VIP");
        story.holds(Some(story.entry(FlowState::Unproven, 0)), None, TCP);
        assert!(story.answers_tcp(flags::FIN | flags::ACK, 5));
        story.holds(None, Some(story.entry(FlowState::Closing, 5)), TCP);
    }
}

#[test]
fn a_clients_reset_begins_nothing() {
    let mut story = Story::new(VIPS[0]);
    assert_eq!(story.arrives(story.segment(flags::RST, 0)), PASS, "it is delivered");
    story.holds(None, None, TCP);
    story.arrives(story.segment(flags::SYN, 0));
    assert!(story.answers_tcp(flags::SYN_ACK, SEQUENCE));
    story.arrives(story.segment(flags::RST | flags::ACK, SEQUENCE.wrapping_add(1)));
    story.holds(Some(story.entry(FlowState::HalfOpen, SEQUENCE)), None, TCP);
}

#[test]
fn only_the_endpoint_says_which_number_comes_next() {
    let mut story = Story::new(VIPS[0]);
    story.connects();
    let next = |story: &Story| story.lab.flows().unwrap()[&story.key(TCP)].client_sequence;
    let before = next(&story);
    // A number that fits, from whomever.
    let lie = Tcp { sequence: before + (1 << 26), ..story.segment(flags::ACK, SEQUENCE) };
    assert_eq!(story.arrives(lie), PASS);
    assert_eq!(next(&story), before);
    let word = |from| Tcp { acknowledged: 7777, ..tcp(from, CLIENT_PORT, flags::ACK) }.into();
    assert!(story.answers(word));
    assert_eq!(next(&story), 7777);
    let silent = |from| Tcp { acknowledged: 9, ..tcp(from, CLIENT_PORT, flags::RST) }.into();
    assert!(story.answers(silent));
    assert_eq!(next(&story), 7777, "without ACK the number says nothing");
}

#[test]
fn a_clients_reset_of_the_right_number_ends_a_flow() {
    let mut story = Story::new(VIPS[0]);
    story.connects();
    let state = |story: &Story| story.lab.flows().unwrap()[&story.key(TCP)].state;
    let reset = |story: &Story, apart: u32| {
        let next = story.lab.flows().unwrap()[&story.key(TCP)].client_sequence;
        Tcp { sequence: next + apart, ..story.segment(flags::RST, 0) }
    };
    story.arrives(reset(&story, 1));
    assert_eq!(state(&story), FlowState::Established as u8, "a stranger's guess");
    assert_eq!(story.arrives(reset(&story, 0)), PASS);
    assert_eq!(state(&story), FlowState::Closing as u8);
}

#[test]
fn what_is_forged_ends_no_flow_and_the_endpoint_does() {
    for (vip, end) in VIPS.into_iter().flat_map(|vip| [(vip, flags::FIN | flags::ACK), (vip, flags::RST)]) {
        let mut story = Story::new(vip);
        story.connects();
        // That the client has ended says nothing of the endpoint.
        for (forged, client_ended) in [(flags::RST, 0), (flags::FIN | flags::ACK, 1), (flags::SYN_ACK, 1)] {
            let segment = story.segment(forged, 1);
            story.arrives(Tcp { sequence: segment.sequence + 1, ..segment });
            let established = story.entry(FlowState::Established, SEQUENCE);
            story.holds(None, Some(FlowEntry { client_ended, ..established }), TCP);
        }
        let closing = FlowEntry { client_ended: 1, ..story.entry(FlowState::Closing, 7) };
        assert!(story.answers_tcp(end, 7));
        story.holds(None, Some(closing), TCP);
        assert!(story.answers_tcp(flags::ACK, 7), "what the pod still says is rewritten");
        story.arrives(story.segment(flags::ACK, 8));
        story.holds(None, Some(closing), TCP);
    }
}

#[test]
fn a_connection_of_the_same_ports_takes_the_place_of_one_that_closed() {
    let mut story = Story::new(VIPS[0]);
    story.connects();
    story.answers_tcp(flags::FIN | flags::ACK, 7);
    story.arrives(story.segment(flags::SYN, 0));
    assert!(story.answers_tcp(flags::SYN_ACK, 500));
    let closing = story.entry(FlowState::Closing, 7);
    story.holds(Some(story.entry(FlowState::HalfOpen, 500)), Some(closing), TCP);
    story.arrives(story.segment(flags::ACK, 501));
    story.holds(None, Some(story.entry(FlowState::Established, 500)), TCP);
}

#[test]
fn a_flood_of_syns_leaves_an_established_flow_alone() {
    let mut story = Story::new(VIPS[0]);
    story.connects();
    for number in 0..40_000_u32 {
        let client = std::net::Ipv4Addr::from(0x0a00_0000 + number).into();
        assert_eq!(story.arrives_from(client, tcp(1, port::IPIP_V4, flags::SYN)), PASS);
    }
    story.arrives(story.segment(flags::SYN, 0));
    let flows = story.lab.flows().unwrap();
    let (key, entry) = flows.iter().next().unwrap();
    assert_eq!((flows.len(), *key), (1, story.key(TCP)));
    assert_eq!(entry.state, FlowState::Established as u8);
    assert!(story.lab.half_open().unwrap().len() <= 16_384, "an LRU");
}

#[test]
fn a_full_table_refuses_new_flows_and_keeps_the_old_ones() {
    let mut story = Story::new(VIPS[0]);
    story.lab = Lab::with_flows(&settings(Roles::RECEIVER), &tables(), 1).unwrap();
    story.connects();
    let old = story.lab.flows().unwrap();
    story.vip = ip(VIPS[1]);
    assert_eq!(story.arrives(story.segment(flags::SYN, 0)), PASS);
    assert!(story.answers_tcp(flags::SYN_ACK, SEQUENCE));
    let before = story.lab.counts().unwrap();
    for _ in 0..3 {
        assert_eq!(story.arrives(story.segment(flags::ACK, SEQUENCE.wrapping_add(1))), DROP);
    }
    let counts = story.lab.counts().unwrap().since(&before);
    assert_eq!(counts.drops[&DropReason::FlowsFull].packets, 3);
    assert_eq!(story.lab.flows().unwrap(), old);
    assert!(story.answers_tcp(flags::ACK, 1), "an answer is rewritten all the same");
}

#[test]
fn a_flow_that_was_lost_is_known_again_though_the_table_is_full() {
    let mut story = Story::new(VIPS[0]);
    story.lab = Lab::with_flows(&settings(Roles::RECEIVER), &tables(), 1).unwrap();
    story.connects();
    story.vip = ip(VIPS[1]);
    let arrives = |story: &mut Story, sequence, acknowledged| {
        story.arrives_marked(Tcp { sequence, ..story.segment(flags::ACK, acknowledged) })
    };
    story.lab.lose_flows().unwrap();
    for number in 0..2 {
        assert_eq!(arrives(&mut story, 7, SEQUENCE), PASS, "packet {number} before the pod's word");
    }
    assert!(story.answers_tcp(flags::ACK, SEQUENCE));
    story.lab.find_flows().unwrap();
    assert_eq!(story.lab.flows().unwrap().len(), 1, "there is no room");
    assert_eq!(arrives(&mut story, 8, SEQUENCE), PASS, "the pod has answered");
    assert_eq!(arrives(&mut story, 8 + (1 << 28), SEQUENCE), TRANSMIT, "another connection's");
}

#[test]
fn the_same_ports_at_another_vip_are_another_flow() {
    let mut story = Story::new(VIPS[0]);
    story.connects();
    // Port 87 of the VIP leads to the same pod and port.
    story.arrives(Tcp { acknowledged: 5, ..tcp(CLIENT_PORT, port::LOCAL, flags::ACK) });
    let half = story.lab.half_open().unwrap()[&story.key(TCP)];
    assert_eq!((half.port, half.state), (port::LOCAL.to_be_bytes(), FlowState::Unproven as u8));
    let flow = story.lab.flows().unwrap()[&story.key(TCP)];
    assert_eq!((flow.port, flow.state), (port::IPIP_V4.to_be_bytes(), FlowState::Established as u8));
}
