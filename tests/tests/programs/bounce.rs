//! What a receiver doesn't know goes back to its gateway, and on from there: bounces, guesses, and where they end.

use std::net::IpAddr;

use fairlead_abi::{
    Address, DropReason, Encap, Family, Flow, FlowEvent, NO_BACKEND, Roles, Slot, kind, mark, slot_of,
};
use fairlead_tests::packets::{
    Carried, Counts, IpPacket, Lab,
    build::{self, flags, gue, ipip, tcp, udp},
    report::TRANSMIT,
    tables::service_key,
};

use super::node::*;

/// The client's port.
pub const FROM: u16 = 40_000;

/// A client's packet to a service with former backends, and where its slot leads.
pub struct Case {
    pub vip: IpAddr,
    pub port: u16,
    protocol: u8,
}

impl Case {
    pub fn packet(&self) -> IpPacket {
        let carried: Carried = match self.protocol {
            TCP => tcp(FROM, self.port, flags::ACK).into(),
            _ => udp(FROM, self.port, b"ahoy").into(),
        };
        build::ip(of_family(CLIENTS, self.vip), self.vip, carried)
    }

    /// The same after the gateway has taken it.
    fn taken(&self) -> IpPacket {
        IpPacket { ttl: 63, ..self.packet() }
    }

    pub fn hash(&self) -> u32 {
        hash(of_family(CLIENTS, self.vip), FROM, self.port)
    }

    fn slot(&self) -> Slot {
        let tables = tables();
        let slots = &tables.service(&service_key(self.vip, self.port, self.protocol)).slots;
        slots[slot_of(self.hash(), slots.len() as u32) as usize]
    }

    /// What the program counts for a packet to its backend `number`.
    fn counts(&self, number: u16, bytes: usize) -> Counts {
        let (service, first) = counted(self.vip, self.port, self.protocol);
        Counts::of_forward(service, first + u32::from(number), bytes, false)
    }

    /// The tunnel packet to backend `number` of [`four_backends`], of a kind; or, the other way, as it comes back.
    fn tunnel(&self, number: u16, kind: u8, back: bool) -> IpPacket {
        let backend = four_backends()[usize::from(number)];
        let own = ip(TUNNELS[usize::from(backend.family == Family::V6 as u8)]);
        let far = IpAddr::from(backend.outer);
        let (from, to) = if back { (far, own) } else { (own, far) };
        let outer = if backend.encap == Encap::Gue as u8 {
            gue(from, to, 0xc000 | (self.hash() & 0x3fff) as u16, &self.taken())
        } else {
            ipip(from, to, &self.taken())
        };
        IpPacket { id: mark(self.hash(), kind, back), ..outer }
    }
}

/// A tunnel packet from another gateway to this node's pod.
pub fn to_pod(case: &Case, id: u16, packet: &IpPacket) -> [IpPacket; 2] {
    let pod = of_family(POD, case.vip);
    let gateway = of_family(GATEWAYS, case.vip);
    [ipip(gateway, pod, packet), gue(gateway, pod, 0xc001, packet)].map(|outer| IpPacket { id, ..outer })
}

pub fn cases(port: u16, protocols: &[u8]) -> Vec<Case> {
    let of_vip = |vip| protocols.iter().map(move |&protocol| Case { vip: ip(vip), port, protocol });
    VIPS.into_iter().flat_map(of_vip).collect()
}

/// The steps that follow one another: the kind of mark, and the backend.
fn steps(slot: Slot) -> Vec<(u8, u16)> {
    let [a, b, c] = slot.formers;
    vec![(kind::CURRENT, slot.current), (kind::FORMER, a), (kind::FORMER + 1, b), (kind::LAST, c)]
}

#[test]
fn what_comes_back_goes_to_one_former_after_the_other() {
    let mut node = Node::gateway();
    for case in cases(port::FORMERS, &[TCP]) {
        for pair in steps(case.slot()).windows(2) {
            let (back, (kind, number)) = (case.tunnel(pair[0].1, pair[0].0, true), pair[1]);
            for vlans in [&[][..], &[9]] {
                let frame = incoming(back.clone()).tagged(vlans).bytes();
                let out = outgoing(&HOP, case.tunnel(number, kind, false)).bytes();
                let bytes = frame.len();
                let counts = case.counts(number, bytes).and(FlowEvent::SentOn);
                node.row(&format!("after {pair:?}"), &frame, Then::Transmit(out), counts);
            }
        }
        let (kind, number) = *steps(case.slot()).last().unwrap();
        let frame = incoming(case.tunnel(number, kind, true)).bytes();
        let counts = Counts::default().and(FlowEvent::SentOn).and(FlowEvent::Unclaimed);
        node.row("nobody knows it", &frame, Then::Drop(DropReason::Unclaimed), counts);
    }
    node.judge(14);
}

#[test]
fn a_flow_of_udp_ends_where_it_began() {
    let mut node = Node::gateway();
    for case in cases(port::RECENT, &[UDP]) {
        let steps = steps(case.slot());
        let frame = incoming(case.packet()).bytes();
        let out = outgoing(&HOP, case.tunnel(steps[0].1, kind::CURRENT, false)).bytes();
        node.row("marked", &frame, Then::Transmit(out), case.counts(steps[0].1, frame.len()));
        for pair in steps.windows(2) {
            let frame = incoming(case.tunnel(pair[0].1, pair[0].0, true)).bytes();
            let out = outgoing(&HOP, case.tunnel(pair[1].1, pair[1].0, false)).bytes();
            let counts = case.counts(pair[1].1, frame.len()).and(FlowEvent::SentOn);
            node.row("on", &frame, Then::Transmit(out), counts);
        }
        let (kind, number) = steps[3];
        let frame = incoming(case.tunnel(number, kind, true)).bytes();
        let current = case.slot().current;
        let out = outgoing(&HOP, case.tunnel(current, kind::UNMARKED, false)).bytes();
        let counts = case.counts(current, frame.len()).and(FlowEvent::SentOn);
        node.row("at last it is the current one's", &frame, Then::Transmit(out), counts);
    }
    node.judge(10);
}

#[test]
fn who_does_not_answer_is_passed_over() {
    let mut node = Node::gateway();
    for case in cases(port::SILENT, &[TCP]) {
        let slot = case.slot();
        let answers = |number: u16| number == 0 || number == 3;
        let mut way = steps(slot).into_iter();
        let (kind, number) = way.find(|(_, number)| answers(*number)).unwrap();
        let mut counts = case.counts(number, incoming(case.packet()).bytes().len());
        for _ in steps(slot).into_iter().take_while(|step| step.1 != number) {
            counts.event(FlowEvent::PassedOver);
        }
        let frame = incoming(case.packet()).bytes();
        let out = outgoing(&HOP, case.tunnel(number, kind, false)).bytes();
        node.row("to the first that answers", &frame, Then::Transmit(out), counts);
        // A new connection has no other place to go.
        let syn = build::ip(of_family(CLIENTS, case.vip), case.vip, tcp(FROM, case.port, flags::SYN));
        let frame = incoming(syn.clone()).bytes();
        let backend = four_backends()[usize::from(slot.current)];
        let (own, far) = (ip(TUNNELS[usize::from(backend.family == Family::V6 as u8)]), backend.outer);
        let inner = IpPacket { ttl: 63, ..syn };
        let outer = match backend.encap == Encap::Gue as u8 {
            true => gue(own, IpAddr::from(far), 0xc000 | (case.hash() & 0x3fff) as u16, &inner),
            false => ipip(own, IpAddr::from(far), &inner),
        };
        let (service, first) = counted(case.vip, case.port, TCP);
        let counts = Counts::of_forward(service, first + u32::from(slot.current), frame.len(), true);
        node.row("a SYN", &frame, Then::Transmit(outgoing(&HOP, outer).bytes()), counts);
    }
    node.judge(4);
}

/// A gateway whose cache has one entry, of the client's flow.
fn guessing(case: &Case, number: u16) -> Node {
    let mut tables = tables();
    let key = service_key(case.vip, case.port, case.protocol);
    let [[a, b], [c, d]] = [FROM.to_be_bytes(), case.port.to_be_bytes()];
    let client = Address::from(of_family(CLIENTS, case.vip));
    tables.cache.push((key, Flow { client, ports: [a, b, c, d] }, number));
    Node::with(&settings(Roles::GATEWAY), &tables)
}

#[test]
fn what_is_cached_is_tried_first_and_forgotten_where_it_was_wrong() {
    let mut rows = 0;
    for case in cases(port::FORMERS, &[TCP, UDP]) {
        let slot = case.slot();
        let guess = slot.formers[1];
        let mut node = guessing(&case, guess);
        for vlans in [&[][..], &[9]] {
            let frame = incoming(case.packet()).tagged(vlans).bytes();
            let out = outgoing(&HOP, case.tunnel(guess, kind::GUESS, false)).bytes();
            let counts = case.counts(guess, frame.len()).and(FlowEvent::Guess);
            node.row("a guess", &frame, Then::Transmit(out), counts);
        }
        let frame = incoming(case.tunnel(guess, kind::GUESS, true)).bytes();
        let out = outgoing(&HOP, case.tunnel(slot.current, kind::CURRENT, false)).bytes();
        let counts = case.counts(slot.current, frame.len()).and(FlowEvent::SentOn).and(FlowEvent::Forgotten);
        node.row("the guess was wrong", &frame, Then::Transmit(out), counts);
        let kind = if case.protocol == TCP { kind::CURRENT } else { kind::UNMARKED };
        let frame = incoming(case.packet()).bytes();
        let out = outgoing(&HOP, case.tunnel(slot.current, kind, false)).bytes();
        node.row("not guessed any more", &frame, Then::Transmit(out), case.counts(slot.current, frame.len()));
        node.judge(4);
        rows += 4;
    }
    assert_eq!(rows, 16);
}

#[test]
fn what_is_nobodys_goes_to_current_and_a_new_connection_is_no_old_one() {
    for case in cases(port::FORMERS, &[TCP]) {
        let slot = case.slot();
        let mut node = guessing(&case, NO_BACKEND);
        let frame = incoming(case.packet()).bytes();
        let out = outgoing(&HOP, case.tunnel(slot.current, kind::UNMARKED, false)).bytes();
        node.row("nobody's", &frame, Then::Transmit(out), case.counts(slot.current, frame.len()));
        let syn = build::ip(of_family(CLIENTS, case.vip), case.vip, tcp(FROM, case.port, flags::SYN));
        let before = node.lab.counts().unwrap();
        node.lab.ingress(&incoming(syn).bytes()).unwrap();
        let counts = node.lab.counts().unwrap().since(&before);
        assert_eq!(counts.events.get(&FlowEvent::Forgotten), Some(&1));
        let out = outgoing(&HOP, case.tunnel(slot.current, kind::CURRENT, false)).bytes();
        node.row("marked again", &frame, Then::Transmit(out), case.counts(slot.current, frame.len()));
        node.judge(2);
    }
}

#[test]
fn damaged_marks_change_nothing() {
    let mut node = Node::both();
    for case in cases(port::FORMERS, &[TCP, UDP]) {
        let good = mark(case.hash(), kind::CURRENT, false);
        for id in [good ^ 0x8000, good ^ 0x10, 1, 7, mark(case.hash() ^ 1, kind::CURRENT, false)] {
            for outer in to_pod(&case, id, &case.packet()) {
                node.drops(&format!("mark {id:#x}"), &incoming(outer).bytes(), DropReason::BadMark);
            }
        }
        for outer in to_pod(&case, mark(case.hash(), kind::CURRENT, true), &case.packet()) {
            node.drops("of the other direction", &incoming(outer).bytes(), DropReason::BadMark);
        }
        let back = case.tunnel(0, kind::CURRENT, true);
        let forged = IpPacket { id: back.id ^ 0x4000, ..back };
        node.drops("a forged bounce", &incoming(forged).bytes(), DropReason::BadMark);
        assert!(node.lab.flows().unwrap().is_empty() && node.lab.half_open().unwrap().is_empty());
    }
    node.judge(52);
}

#[test]
fn a_gateways_own_endpoints_are_asked_before_others() {
    let mut node = Node::both();
    for case in cases(port::TWO_LOCAL, &[TCP]) {
        // Whatever the slot: this node's backends are passed by, the third one is elsewhere.
        let far = steps(case.slot()).into_iter().find(|(_, number)| *number == 2).unwrap();
        let outer = ipip(ip(TUNNELS[0]), ip(FAR[0]), &case.taken());
        let outer = IpPacket { id: mark(case.hash(), far.0, false), ..outer };
        let frame = incoming(case.packet()).bytes();
        let out = outgoing(&HOP, outer).bytes();
        node.row("not known here", &frame, Then::Transmit(out), case.counts(2, frame.len()));
        node.connect(case.vip, case.port, FROM);
        let (pod, client) = (of_family(POD, case.vip), of_family(CLIENTS, case.vip));
        let delivered = build::ip(client, pod, tcp(FROM, POD_PORT, flags::ACK));
        let back = ipip(ip(FAR[0]), ip(TUNNELS[0]), &case.taken());
        let first = steps(case.slot())[0];
        if first.1 == 2 {
            let back = IpPacket { id: mark(case.hash(), kind::CURRENT, true), ..back };
            let frame = incoming(back).bytes();
            let out = incoming(IpPacket { ttl: 63, ..delivered }).bytes();
            let mut counts = case.counts(steps(case.slot())[1].1, frame.len()).and(FlowEvent::SentOn);
            counts.event(FlowEvent::Claimed);
            node.row("came back, and is known here", &frame, Then::Pass(out), counts);
        } else {
            let out = Then::Pass(incoming(delivered).bytes());
            node.row("known here", &frame, out, case.counts(first.1, frame.len()));
        }
        node.lab.clear_flows().unwrap();
    }
    node.judge(4);
}

#[test]
fn bounces_are_limited() {
    let limited = fairlead_abi::Settings { bounces_per_second: 5, ..settings(Roles::RECEIVER) };
    let mut node = Node::with(&limited, &tables());
    let case = &cases(port::FORMERS, &[TCP])[0];
    let [outer, _] = to_pod(case, mark(case.hash(), kind::CURRENT, false), &case.packet());
    let sent_back = |node: &mut Node, frame: &[u8]| node.lab.ingress(frame).unwrap().action == TRANSMIT;
    let frame = incoming(outer).bytes();
    let count = (0..50).filter(|_| sent_back(&mut node, &frame)).count();
    assert!((5..20).contains(&count), "{count}");

    let gateway = settings(Roles::GATEWAY);
    let of_a_prefix = fairlead_abi::Settings { bounces_per_prefix: 7, ..gateway };
    for limited in [of_a_prefix, fairlead_abi::Settings { bounces_in_all: 7, ..gateway }] {
        let mut node = Node::with(&limited, &tables());
        let frame = incoming(case.tunnel(case.slot().current, kind::CURRENT, true)).bytes();
        let count = (0..50).filter(|_| sent_back(&mut node, &frame)).count();
        assert!((7..=14).contains(&count), "{count}: within a second, or two");
        let drops = node.lab.counts().unwrap().drops[&DropReason::BounceLimited].packets;
        assert_eq!(drops as usize, 50 - count);
    }
}

#[test]
fn what_is_claimed_counts_no_more() {
    let limited =
        fairlead_abi::Settings { bounces_per_prefix: 7, bounces_in_all: 7, ..settings(Roles::GATEWAY) };
    let mut node = Node::with(&limited, &tables());
    let case = &cases(port::FORMERS, &[TCP])[0];
    let client = Address::from(of_family(CLIENTS, case.vip));
    let frame = incoming(case.tunnel(case.slot().current, kind::CURRENT, true)).bytes();
    let sent_on = |lab: &mut Lab| (0..20).filter(|_| lab.ingress(&frame).unwrap().action == TRANSMIT).count();
    // Once a second all begins anew.
    let given_back = |node: &mut Node| {
        sent_on(&mut node.lab);
        let nothing = sent_on(&mut node.lab);
        node.lab.give_back(&client, 3).unwrap();
        (nothing, sent_on(&mut node.lab))
    };
    let mut tries = std::iter::repeat_with(|| given_back(&mut node)).take(10);
    assert!(tries.any(|tried| tried == (0, 3)), "three are sent on again");
}
