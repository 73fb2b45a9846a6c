//! Questions of gateways' agents, which a receiver's program answers in place.

use std::net::IpAddr;

use fairlead_abi::{
    Ask, AskedFlow, CONTROL_PORT, Count, DeliveryKey, DropReason, Header, HeldFlows, SipKey,
    message::{MAGIC, TAG_WORD, answer, message_kind, message_tag},
};
use fairlead_tests::packets::{
    Counts, IpPacket, Run,
    build::{self, Carried, Tcp, flags, udp},
    report::TRANSMIT,
    tables::service_key,
};

use super::node::*;

pub const KEY: SipKey = SipKey { k0: 0x0123_4567_89ab_cdef, k1: 42 };
pub const KEY_NUMBER: u32 = 7;
const FROM: u16 = 40_000;

pub fn about(vip: IpAddr, outer: IpAddr) -> DeliveryKey {
    let key = service_key(vip, port::FORMERS, TCP);
    DeliveryKey {
        outer: outer.into(),
        vip: key.vip,
        port: key.port.to_be_bytes(),
        protocol: TCP,
        family: key.family,
        padding: 0,
    }
}

pub fn header(kind: u8, count: u8) -> Header {
    Header { magic: MAGIC, kind, count, key: KEY_NUMBER, nonce: 99, tag: 0 }
}

/// The bytes of a message, with its tag.
pub fn sealed(mut words: Vec<u64>) -> Vec<u8> {
    words[TAG_WORD] = message_tag(KEY, &words);
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

pub fn count(kind: u8, about: DeliveryKey, flows: u32) -> Count {
    Count { header: header(kind, 0), about, flows, ..Count::default() }
}

fn asked(client: IpAddr, sequence: u32, said: u8) -> AskedFlow {
    AskedFlow {
        client: client.into(),
        client_port: FROM.to_be_bytes(),
        flags: flags::ACK,
        answer: said,
        sequence: sequence.to_be_bytes(),
        ..AskedFlow::default()
    }
}

/// As a gateway's agent sends it, and as it comes back.
pub fn packets(vip: IpAddr, question: &[u8], answer: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (gateway, pod) = (of_family(GATEWAYS, vip), of_family(POD, vip));
    let there = build::ip(gateway, pod, udp(CONTROL_PORT, CONTROL_PORT, question));
    let unchecked = build::Udp { checksum: false, ..udp(CONTROL_PORT, CONTROL_PORT, answer) };
    let back = build::ip(pod, gateway, Carried::Udp(unchecked));
    let frame = incoming(IpPacket { ttl: 61, ..there }).bytes();
    let mut out = incoming(back).bytes();
    let macs = [&frame[6..12], &frame[..6]].concat();
    out[..12].copy_from_slice(&macs);
    (frame, out)
}

fn receiver() -> Node {
    let node = Node::receiver();
    node.lab.set_key(KEY_NUMBER, &KEY).unwrap();
    node
}

#[test]
fn whose_flows_are_is_said_of_each() {
    let mut node = receiver();
    for vip in VIPS.map(ip) {
        node.connect(vip, port::FORMERS, FROM);
        let (client, about) = (of_family(CLIENTS, vip), about(vip, of_family(POD, vip)));
        let stranger = of_family(["192.0.2.99", "2001:db8:5::99"], vip);
        let message = |kind, said: [u8; 3], held| {
            let mut ask = Ask { count: count(kind, about, held), ..Ask::default() };
            ask.count.header.count = 3;
            ask.flows[0] = asked(client, 1000, said[0]);
            ask.flows[1] = asked(stranger, 1000, said[1]);
            // Of the same ports, but another connection's numbers.
            ask.flows[2] = asked(client, 1 << 30, said[2]);
            sealed(ask.words().to_vec())
        };
        let said = [answer::MINE, answer::NOT_MINE, answer::CANT_SAY];
        let question = message(message_kind::ASK, [answer::NONE; 3], 0);
        let (frame, out) = packets(vip, &question, &message(message_kind::ANSWER, said, u32::MAX));
        node.row("an ask", &frame, Then::Transmit(out), Counts::default());
    }
    node.judge(2);
}

#[test]
fn how_many_flows_there_are_is_said_as_the_agent_counted() {
    let mut node = receiver();
    for vip in VIPS.map(ip) {
        let about = about(vip, of_family(POD, vip));
        let message = |kind, flows| sealed(count(kind, about, flows).words().to_vec());
        let row = |node: &mut Node, what: &str, flows| {
            let (frame, out) =
                packets(vip, &message(message_kind::ASK, 0), &message(message_kind::ANSWER, flows));
            node.row(what, &frame, Then::Transmit(out), Counts::default());
        };
        row(&mut node, "not counted", u32::MAX);
        let now = node.lab.ticks().unwrap();
        let held = |valid| HeldFlows { flows: 5, counted: now.into(), valid, ..HeldFlows::default() };
        node.lab.set_held(&about, &held(1_000_000)).unwrap();
        row(&mut node, "counted", 5);
        node.lab.set_held(&about, &held(0)).unwrap();
        row(&mut node, "counted long ago", u32::MAX);
        // Three seconds ago, by a clock of a thousand ticks.
        let counted = now.wrapping_sub(3000).into();
        let seen = HeldFlows { counted, rate: 1000, connections: 1 << 40, ..held(1_000_000) };
        node.lab.set_held(&about, &seen).unwrap();
        let (frame, _) = packets(vip, &message(message_kind::ASK, 0), &[]);
        let answer = node.lab.ingress(&frame).unwrap().frame;
        let words = answer[answer.len() - size_of::<Count>()..].as_chunks::<8>().0;
        let words: Vec<u64> = words.iter().map(|&word| u64::from_le_bytes(word)).collect();
        let said = Count::of(words.try_into().unwrap());
        assert_eq!((said.flows, said.connections), (5, 1 << 40));
        assert!((300..3000).contains(&said.age), "{}", said.age);
    }
    node.judge(6);
}

#[test]
fn what_is_forged_damaged_or_from_a_stranger_gets_no_answer() {
    let mut node = receiver();
    for vip in VIPS.map(ip) {
        let (pod, gateway) = (of_family(POD, vip), of_family(GATEWAYS, vip));
        let good = count(message_kind::ASK, about(vip, pod), 0);
        let to_pod = |from, message: &[u8]| {
            incoming(build::ip(from, pod, udp(CONTROL_PORT, CONTROL_PORT, message))).bytes()
        };
        let sealed_of = |count: Count| sealed(count.words().to_vec());
        let whole = sealed_of(good);
        for byte in (0..whole.len()).step_by(5) {
            let mut damaged = whole.clone();
            damaged[byte] ^= 0x10;
            node.drops(&format!("damaged at {byte}"), &to_pod(gateway, &damaged), DropReason::BadMessage);
        }
        let other_key = Count { header: Header { key: 8, ..good.header }, ..good };
        let answer = Count { header: header(message_kind::ANSWER, 0), ..good };
        let elsewhere = Count { about: about(vip, of_family(OWNER, vip)), ..good };
        for (what, count) in
            [("an unknown key", other_key), ("an answer", answer), ("about another endpoint", elsewhere)]
        {
            node.drops(what, &to_pod(gateway, &sealed_of(count)), DropReason::BadMessage);
        }
        node.drops("too short", &to_pod(gateway, &whole[..72]), DropReason::BadMessage);
        node.passes("a stranger's", &to_pod(of_family(CLIENTS, vip), &whole));
        let far = build::ip(gateway, of_family(FAR, vip), udp(CONTROL_PORT, CONTROL_PORT, &whole));
        node.passes("to nobody here", &incoming(far).bytes());
    }
    node.judge(44);
}

#[test]
fn a_receiver_that_lost_flows_cant_say_what_it_doesnt_hold() {
    let mut node = receiver();
    node.lab.lose_flows().unwrap();
    let vip = ip(VIPS[0]);
    let message = |kind, state| {
        let whole = count(kind, about(vip, of_family(POD, vip)), if state == 0 { 0 } else { u32::MAX });
        sealed(Count { state, ..whole }.words().to_vec())
    };
    let question = message(message_kind::ASK, Count::CAN_SAY);
    let (frame, out) = packets(vip, &question, &message(message_kind::ANSWER, Count::CANT_SAY));
    node.row("a poll", &frame, Then::Transmit(out), Counts::default());
    node.judge(1);
}

#[test]
fn what_came_to_current_is_taken_unseen_after_flows_were_lost() {
    let mut node = receiver();
    let vip = ip(VIPS[0]);
    let packet = build::ip(ip(CLIENTS[0]), vip, Tcp { payload: vec![1], ..tcp_ack() });
    let by = |kind| fairlead_abi::mark(hash(ip(CLIENTS[0]), FROM, port::FORMERS), kind, false);
    let frame = |kind| {
        let outer = build::ipip(ip(GATEWAYS[0]), ip(POD[0]), &packet);
        incoming(IpPacket { id: by(kind), ..outer }).bytes()
    };
    let run = |node: &mut Node, kind| -> Run { node.lab.ingress(&frame(kind)).unwrap() };
    assert_eq!(run(&mut node, fairlead_abi::kind::CURRENT).action, TRANSMIT);
    node.lab.lose_flows().unwrap();
    assert_eq!(run(&mut node, fairlead_abi::kind::FORMER).action, TRANSMIT, "others may know it");
    assert_ne!(run(&mut node, fairlead_abi::kind::CURRENT).action, TRANSMIT, "the pod is to judge");
    assert_eq!(node.lab.half_open().unwrap().len(), 1);
}

fn tcp_ack() -> Tcp {
    build::tcp(FROM, port::FORMERS, flags::ACK)
}
