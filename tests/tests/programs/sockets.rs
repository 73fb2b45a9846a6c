//! What a receiver finds out by the sockets of its endpoints, where its own tables say nothing.

use std::net::IpAddr;

use fairlead::dataplane::socket_offsets;
use fairlead_abi::message::answer;
use fairlead_abi::{
    Address, Count, FlowEntry, FlowKey, FlowState, HeldFlows, OWN_NAMESPACE, Roles, Settings, SocketOffsets,
    kind, mark,
};
use fairlead_tests::packets::{
    Lab,
    build::{self, Tcp, flags, ipip, tcp},
    pod::beside_a_pod,
    report::{DROP, PASS, TRANSMIT},
};

use super::{ask, by_hand::*, node::*};

const OPEN: (FlowState, u8) = (FlowState::Established, 0);

#[test]
fn whose_a_flow_is_its_socket_says() {
    play(|scene| {
        scene.node.lab.set_key(ask::KEY_NUMBER, &ask::KEY).unwrap();
        let said = |answer| Said { answer, state: Count::CAN_SAY, flows: Count::UNKNOWN };
        let listener = scene.listen();
        let none = Tcp { acknowledged: 7, ..tcp(0, 0, flags::ACK) };
        let (mut connection, stream) = scene.connect(&listener);
        for lost in [false, true] {
            if lost {
                scene.node.lab.lose_flows().unwrap();
            }
            let ack = connection.segment(flags::ACK);
            assert_eq!(scene.asks(&ack), said(answer::MINE));
            // Nobody but its client knows its numbers: it mustn't become nobody's.
            assert_eq!(scene.asks(&none), said(answer::CANT_SAY));
            assert_eq!(
                (scene.entry(), scene.node.lab.half_open().unwrap().len()),
                (None, 0),
                "it was only asked"
            );
        }
        // What was counted may not be all there is.
        let about = ask::about(scene.vip, ip(POD[0]));
        let now = scene.node.lab.ticks().unwrap();
        for (flows, told) in [(0, Count::UNKNOWN), (3, 3)] {
            let held = HeldFlows { flows, counted: now.into(), valid: 1_000_000, ..HeldFlows::default() };
            scene.node.lab.set_held(&about, &held).unwrap();
            assert_eq!(scene.asks(&connection.segment(flags::ACK)).flows, told);
        }
        scene.node.lab.find_flows().unwrap();
        // Of another VIP, the socket is not this one's.
        let other = FlowEntry {
            vip: ip(PASSING_VIPS[0]).into(),
            state: FlowState::Established as u8,
            ..FlowEntry::default()
        };
        scene.node.lab.set_flow(&scene.key(), &other).unwrap();
        assert_eq!(scene.asks(&connection.segment(flags::ACK)).answer, answer::NOT_MINE);
        scene.node.lab.clear_flows().unwrap();

        drop(stream);
        connection.hears_the_end();
        connection.send(flags::ACK);
        connection.ends();
        let last = connection.segment(flags::ACK);
        assert_eq!(scene.asks(&last).answer, answer::NOT_MINE, "TIME_WAIT");
    });
}

#[test]
fn a_connection_that_no_entry_is_of_is_known_by_its_socket() {
    play(|scene| {
        let listener = scene.listen();
        let (connection, _stream) = scene.connect(&listener);
        let ack = connection.segment(flags::ACK);
        let entry = scene.is_known("an ACK", ack.clone(), OPEN);
        assert_eq!((entry.client_sequence, entry.sequence), (connection.next, connection.expects));
        let data = Tcp { payload: vec![1; 100], ..ack.clone() };
        scene.is_known("data", data, OPEN);
        let keepalive = Tcp { sequence: ack.sequence.wrapping_sub(1), ..ack.clone() };
        scene.is_known("a keepalive", keepalive, OPEN);
        let late = Tcp { sequence: ack.sequence.wrapping_sub(50_000), ..ack.clone() };
        scene.is_known("what comes late", late, OPEN);
        scene.is_known("a FIN", connection.segment(flags::FIN | flags::ACK), (FlowState::Established, 1));
        let reset = Tcp { acknowledged: 0, ..connection.segment(flags::RST) };
        scene.node.lab.clear_flows().unwrap();
        assert_eq!((scene.arrives(kind::FORMER, reset), scene.entry()), (PASS, None), "it begins nothing");

        // The other VIP's ports, or somebody else's numbers.
        for without in [flags::FIN, 0] {
            scene.is_unknown("one number alone", &connection.segment(without));
        }
        for apart in [1 << 21, 1 << 31, 0_u32.wrapping_sub(1 << 21)] {
            let strange = Tcp { sequence: ack.sequence.wrapping_add(apart), ..ack.clone() };
            scene.is_unknown("another sequence number", &strange);
            let strange = Tcp { acknowledged: ack.acknowledged.wrapping_add(apart), ..ack.clone() };
            scene.is_unknown("another acknowledgement number", &strange);
        }
        let unsent = Tcp { acknowledged: ack.acknowledged.wrapping_add(1), ..ack.clone() };
        scene.is_unknown("what was not sent yet", &unsent);

        // An entry that it doesn't fit is of a connection of the same ports that is over.
        let before = FlowEntry { client_sequence: 1 << 30, sequence: 1 << 29, ..entry };
        scene.node.lab.set_flow(&scene.key(), &before).unwrap();
        assert_eq!(scene.arrives(kind::CURRENT, ack.clone()), PASS);
        assert_eq!(scene.entry().unwrap().client_sequence, connection.next);
        // Of another VIP, it may be the socket's, unless that has ended.
        let other = FlowEntry { vip: ip(PASSING_VIPS[0]).into(), ..before };
        scene.node.lab.set_flow(&scene.key(), &other).unwrap();
        assert_eq!(scene.arrives(kind::FORMER, ack.clone()), TRANSMIT);
        assert_eq!(scene.entry(), Some(other));
        let ended = FlowEntry { state: FlowState::Closing as u8, ..other };
        scene.node.lab.set_flow(&scene.key(), &ended).unwrap();
        assert_eq!(scene.arrives(kind::FORMER, ack), PASS);
        assert_eq!(scene.entry().unwrap().vip, scene.vip.into());
    });
}

#[test]
fn how_far_a_connection_has_ended_stands_in_its_entry() {
    play(|scene| {
        let listener = scene.listen();
        let (mut connection, stream) = scene.connect(&listener);
        connection.ends();
        scene.is_known("CLOSE_WAIT", connection.segment(flags::ACK), (FlowState::Established, 1));
        drop(stream);
        connection.hears_the_end();
        scene.is_known("LAST_ACK", connection.segment(flags::ACK), (FlowState::Closing, 1));
        connection.send(flags::ACK);
        scene.node.lab.clear_flows().unwrap();
        let ack = connection.segment(flags::ACK);
        wait("the socket stays", || {
            let action = scene.arrives(kind::FORMER, ack.clone());
            scene.node.lab.clear_flows().unwrap();
            action == TRANSMIT
        });
        scene.is_unknown("no socket", &ack);

        // The same ports once more; now the pod ends first.
        let (mut connection, stream) = scene.connect(&listener);
        drop(stream);
        connection.hears_the_end();
        let before = connection.segment(flags::ACK);
        scene.is_known("FIN_WAIT1 or 2", before, (FlowState::Closing, 0));
        connection.send(flags::ACK);
        connection.ends();
        scene.node.lab.clear_flows().unwrap();
        scene.is_unknown("TIME_WAIT", &connection.segment(flags::ACK));
    });
}

#[test]
fn a_handshake_is_known_by_the_ack_of_its_syn_ack_alone() {
    for cookies in ["1", "2"] {
        play(|scene| {
            scene.pod.sysctl("ipv4/tcp_syncookies", cookies).unwrap();
            let listener = scene.listen();
            scene.is_unknown("a listener", &Tcp { acknowledged: 7, ..tcp(0, 0, flags::ACK) });
            let (_hand, heard) = scene.half_open();
            let (sequence, acknowledged) = (FIRST.wrapping_add(1), heard.sequence.wrapping_add(1));
            let ack = Tcp { sequence, acknowledged, ..tcp(0, 0, flags::ACK) };
            // Of cookies, up to four numbers in a row are valid.
            for apart in [4, 1 << 24, 1 << 31, 0_u32.wrapping_sub(4)] {
                let strange = Tcp { acknowledged: acknowledged.wrapping_add(apart), ..ack.clone() };
                scene.is_unknown("a living connection's, where the SYN was forged", &strange);
            }
            scene.is_unknown("a reset", &Tcp { flags: flags::RST, ..ack.clone() });
            scene.is_unknown("a reset with ACK", &Tcp { flags: flags::RST | flags::ACK, ..ack.clone() });
            let entry = scene.is_known("the ACK", ack.clone(), OPEN);
            assert_eq!((entry.client_sequence, entry.sequence), (sequence, heard.sequence));
            scene.is_known("data with it", Tcp { payload: vec![1; 10], ..ack }, OPEN);
            drop(listener);
        });
    }
}

#[test]
fn a_half_open_entry_that_a_forged_syn_left_hides_no_living_connection() {
    play(|scene| {
        let listener = scene.listen();
        let (connection, _stream) = scene.connect(&listener);
        let syn = Tcp { sequence: 1 << 30, ..tcp(FROM, port::FORMERS, flags::SYN) };
        let outer = ipip(ip(GATEWAYS[0]), ip(POD[0]), &build::ip(scene.client(), scene.vip, syn));
        assert_eq!(scene.node.lab.ingress(&incoming(outer).bytes()).unwrap().action, PASS);
        assert_eq!(scene.node.lab.half_open().unwrap().len(), 1);
        assert_eq!(scene.arrives(kind::FORMER, connection.segment(flags::ACK)), PASS);
        assert_eq!(scene.node.lab.half_open().unwrap().len(), 0);
        assert_eq!(scene.entry().unwrap().client_sequence, connection.next);
    });
}

#[test]
fn after_flows_were_lost_sockets_judge_where_they_can_be_seen() {
    play(|scene| {
        let listener = scene.listen();
        let (connection, _stream) = scene.connect(&listener);
        scene.node.lab.lose_flows().unwrap();
        let strange =
            Tcp { sequence: connection.next.wrapping_add(1 << 30), ..connection.segment(flags::ACK) };
        scene.is_unknown("another's, which the slot's current endpoint gets", &strange);
        scene.is_known("its own", connection.segment(flags::ACK), OPEN);
        scene.node.lab.clear_flows().unwrap();
        // A number that is no namespace's: then there is no socket.
        scene.node.lab.set_namespace(&ip(POD[0]).into(), 1 << 20).unwrap();
        scene.is_unknown("in no namespace", &connection.segment(flags::ACK));
    });
}

#[test]
fn where_there_is_no_room_connections_that_are_there_go_on_and_new_ones_are_refused() {
    play(|scene| {
        let settings = Settings { sockets: socket_offsets().unwrap(), ..settings(Roles::RECEIVER) };
        scene.node.lab = Lab::with_flows(&settings, &tables(), 1).unwrap();
        follow(&mut scene.node, &POD.map(ip));
        let some = FlowKey { client_port: [0, 1], ..scene.key() };
        scene.node.lab.set_flow(&some, &FlowEntry::default()).unwrap();
        let listener = scene.listen();
        let (hand, heard) = scene.half_open();
        let (next, expects) = (FIRST.wrapping_add(1), heard.sequence.wrapping_add(1));
        let connection = Connection { hand, next, expects };
        let ack = connection.segment(flags::ACK);
        assert_eq!(scene.arrives(kind::CURRENT, ack.clone()), DROP);
        assert_eq!(scene.node.lab.half_open().unwrap().len(), 0);
        connection.send(flags::ACK);
        let _stream = listener.accept().unwrap();
        assert_eq!(scene.arrives(kind::CURRENT, ack.clone()), PASS);
        let known = scene.node.lab.half_open().unwrap();
        assert_eq!(known[&scene.key()].state, FlowState::Established as u8);
        assert_eq!(scene.arrives(kind::CURRENT, ack.clone()), PASS, "by its entry");
        // There it may be another VIP's, too.
        let other =
            build::ip(scene.client(), scene.vip, Tcp { source: FROM, destination: port::IPIP_V4, ..ack });
        let id = mark(hash(scene.client(), FROM, port::IPIP_V4), kind::FORMER, false);
        let outer = build::IpPacket { id, ..ipip(ip(GATEWAYS[0]), ip(POD[0]), &other) };
        assert_eq!(scene.node.lab.ingress(&incoming(outer).bytes()).unwrap().action, TRANSMIT);
        assert_eq!(scene.node.lab.half_open().unwrap()[&scene.key()].port, port::FORMERS.to_be_bytes());
    });
}

#[test]
fn where_nobody_knows_the_namespace_no_socket_is_found() {
    let settings = Settings { sockets: socket_offsets().unwrap_or_default(), ..settings(Roles::RECEIVER) };
    let addresses: Vec<IpAddr> = POD.into_iter().chain(CLIENTS).map(ip).collect();
    beside_a_pod(&addresses, |pod| {
        let mut scene = Scene { node: Node::with(&settings, &tables()), pod, vip: ip(VIPS[0]) };
        let listener = scene.listen();
        let (connection, _stream) = scene.connect(&listener);
        scene.is_unknown("unseen", &connection.segment(flags::ACK));
        scene.node.lab.set_namespace(&Address::from(ip(POD[0])), OWN_NAMESPACE).unwrap();
        scene.is_unknown("the node's own", &connection.segment(flags::ACK));
    })
    .unwrap();
}

#[test]
fn where_the_kernel_refuses_to_look_sockets_up_all_else_works() {
    let nowhere = SocketOffsets { rcv_nxt: u32::MAX / 8, ..SocketOffsets::default() };
    let mut node = Node::with(&Settings { sockets: nowhere, ..settings(Roles::RECEIVER) }, &tables());
    assert!(node.lab.blind().is_some());
    node.connect(ip(VIPS[0]), port::FORMERS, FROM);
    assert_eq!(node.lab.flows().unwrap().len(), 1);
}
