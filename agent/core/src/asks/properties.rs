//! Whatever the network does to questions and answers, and whoever sends what.

use std::collections::{BTreeMap, BTreeSet};

use fairlead_abi::message::{ASK_FLOWS, answer};
use fairlead_abi::{Address, AskedFlow, Flow};
use proptest::prelude::*;

use super::letters::WAITS;
use super::pending::{KEPT, MOST_FLOWS};
use super::world::*;
use super::*;
use crate::stable::Stable;

/// Numbers for the network's whims.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = Stable::new(self.0).bytes(b"dice").finish();
        (self.0 >> 16) % n
    }
}

/// What the network does, in percent and milliseconds.
#[derive(Clone, Copy, Debug)]
struct Network {
    lost: u64,
    doubled: u64,
    slowest: u64,
    /// From then on it is a good one.
    until: u64,
}

/// What is on its way, by when it arrives.
#[derive(Default)]
struct OnTheWay {
    messages: BTreeMap<(u64, usize), (Address, Vec<u8>)>,
    sent: usize,
}

impl OnTheWay {
    fn send(&mut self, network: Network, dice: &mut Dice, at: u64, (of, message): (Address, &[u8])) {
        let bad = at < network.until;
        if bad && dice.below(100) < network.lost {
            return;
        }
        let copies = 1 + usize::from(bad && dice.below(100) < network.doubled);
        for _ in 0..copies {
            let arrives = at + if bad { dice.below(network.slowest) } else { 1 };
            self.sent += 1;
            self.messages.insert((arrives, self.sent), (of, message.to_vec()));
        }
    }

    fn arrived(&mut self, at: u64) -> Option<(Address, Vec<u8>)> {
        let first = *self.messages.first_key_value().filter(|((arrives, _), _)| *arrives <= at)?.0;
        self.messages.remove(&first)
    }
}

/// A service whose clients send again every 200 ms until their flow is settled.
struct Simulation {
    asker: Asker,
    receivers: Receivers,
    clients: BTreeSet<u32>,
    network: Network,
    dice: Dice,
    questions: OnTheWay,
    answers: OnTheWay,
    /// Who said "not mine" of a flow, and said so in time.
    no: BTreeSet<(Flow, Address)>,
    mine: BTreeMap<Flow, Address>,
    nobodys: BTreeSet<Flow>,
    backends: u8,
}

impl Simulation {
    fn step(&mut self, at: u64) -> Result<(), TestCaseError> {
        for &n in self.clients.iter().filter(|&&n| (at + u64::from(n) * 7).is_multiple_of(200)) {
            if !self.mine.contains_key(&flow(n)) && !self.nobodys.contains(&flow(n)) {
                self.asker.event(service(), asked(n), ms(at));
            }
        }
        while let Some((to, question)) = self.questions.arrived(at) {
            if let Some(answer) = self.receivers.answer(to, &question) {
                self.answers.send(self.network, &mut self.dice, at, (to, &answer));
            }
        }
        while let Some((from, message)) = self.answers.arrived(at) {
            self.deliver(from, &message, at);
        }
        for output in self.asker.poll(ms(at)) {
            self.judge(output, at)?;
        }
        Ok(())
    }

    fn deliver(&mut self, from: Address, message: &[u8], at: u64) {
        let taken = self.asker.counters().answers;
        self.asker.received(message, from, ms(at));
        if self.asker.counters().answers > taken && !self.receivers.new.contains(&from) {
            let count = usize::from(header(message).count);
            let (words, _) = letters::opened(message).unwrap();
            for &words in words[10..].as_chunks::<4>().0.iter().take(count) {
                let said = AskedFlow::of(words);
                if said.answer == answer::NOT_MINE {
                    self.no.insert((asker::flow_of(service(), said.client, said.client_port), from));
                }
            }
        }
    }

    fn judge(&mut self, output: Output, at: u64) -> Result<(), TestCaseError> {
        match output {
            Output::Send { to, message } => {
                self.questions.send(self.network, &mut self.dice, at, (to, &message));
            }
            Output::Mine { flow, outer, .. } => {
                prop_assert_eq!(self.receivers.owners.get(&flow), Some(&outer));
                self.mine.insert(flow, outer);
            }
            Output::Nobodys { flow, .. } => {
                prop_assert!(!self.receivers.owners.contains_key(&flow));
                prop_assert!(
                    (0..self.backends).all(|n| self.no.contains(&(flow, outer(n)))),
                    "not all said so"
                );
                self.nobodys.insert(flow);
            }
            Output::Claimed { .. } => prop_assert!(false, "nobody claimed"),
            Output::Forget { .. } | Output::Silent { .. } | Output::Strange { .. } => {}
        }
        Ok(())
    }
}

fn network() -> impl Strategy<Value = Network> {
    let numbers = (0u64..60, 0u64..50, 1u64..400, 0u64..4000);
    numbers.prop_map(|(lost, doubled, slowest, until)| Network { lost, doubled, slowest, until })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn an_owner_that_answers_is_found_and_nobodys_is_only_what_all_refuse(
        network in network(),
        count in 1u8..30,
        owners in prop::collection::vec(any::<u8>(), 1..40),
        dead in prop::collection::btree_set(0u8..30, 0..3),
        new in prop::collection::btree_set(0u8..30, 0..3),
        random in any::<u64>(),
    ) {
        let asker = asker_of(OLD, Limits::default(), random);
        let clients: BTreeSet<u32> = (0..).take(owners.len()).collect();
        let mut receivers = Receivers::new();
        // A third of the flows are nobody's.
        let owned = clients.iter().zip(&owners).filter(|&(_, owner)| owner % 3 != 0);
        receivers.owners = owned.map(|(&n, owner)| (flow(n), outer(owner % count))).collect();
        receivers.dead = dead.iter().map(|&n| outer(n)).collect();
        receivers.new = new.iter().map(|&n| outer(n)).collect();
        let mut simulation = Simulation {
            asker, receivers, clients, network, dice: Dice(random), backends: count,
            questions: OnTheWay::default(),
            answers: OnTheWay::default(),
            no: BTreeSet::new(),
            mine: BTreeMap::new(),
            nobodys: BTreeSet::new(),
        };
        simulation.asker.serve(service(), backends(count), true, ms(0));
        for at in 0..15_000 {
            if at % 2500 == 0 {
                let Simulation { asker, receivers, .. } = &mut simulation;
                announce(asker, receivers, at);
            }
            simulation.step(at)?;
        }
        let Simulation { receivers, mine, nobodys, clients, .. } = simulation;
        let heard = (0..count).map(outer).all(|n| !receivers.dead.contains(&n) && !receivers.new.contains(&n));
        for n in clients {
            match receivers.owners.get(&flow(n)) {
                Some(owner) if receivers.dead.contains(owner) => {}
                Some(owner) => prop_assert_eq!(mine.get(&flow(n)), Some(owner)),
                None => prop_assert_eq!(nobodys.contains(&flow(n)), heard),
            }
        }
    }

    #[test]
    fn forged_messages_change_only_counters(
        damage in prop::collection::vec((0usize..80, 0u8..8, any::<bool>()), 1..60),
        garbage in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..1200), 0..20),
        strangers in prop::collection::vec(0u8..40, 0..10),
    ) {
        let mut asker = asker(OLD, Limits::default());
        let mut receivers = Receivers::new();
        asker.serve(service(), backends(5), true, ms(0));
        receivers.owners.insert(flow(2), outer(3));
        asker.event(service(), asked(1), ms(10));
        asker.event(service(), asked(2), ms(10));
        let questions: Vec<(Address, Vec<u8>)> = asker.poll(ms(12)).into_iter().filter_map(|output| match output {
            Output::Send { to, message } => Some((to, message)),
            _ => None,
        }).collect();
        let answers: Vec<(Address, Vec<u8>)> =
            questions.iter().map(|(to, question)| (*to, receivers.answer(*to, question).unwrap())).collect();
        let before = asker.counters();
        let mut sent = 0;
        let mut forge = |asker: &mut Asker, from: Address, message: &[u8]| {
            asker.received(message, from, ms(13));
            sent += 1;
        };
        for (to, question) in &questions {
            forge(&mut asker, *to, question);
        }
        for (place, bit, at_its_end) in damage {
            for (from, answer) in &answers {
                let mut answer = answer.clone();
                let place = if at_its_end { answer.len() - 1 - place } else { place };
                answer[place] ^= 1 << bit;
                forge(&mut asker, *from, &answer);
            }
        }
        for message in garbage {
            forge(&mut asker, outer(1), &message);
        }
        for stranger in strangers {
            for (from, answer) in answers.iter().filter(|(from, _)| *from != outer(stranger)) {
                forge(&mut asker, outer(stranger), answer);
                forge(&mut asker, *from, &answer[..answer.len() - 8]);
            }
        }
        let after = asker.counters();
        let refused = |c: Counters| c.malformed + c.unasked + c.strangers + c.forged;
        prop_assert_eq!(refused(after) - refused(before), sent);
        let (malformed, unasked, strangers, forged) = (0, 0, 0, 0);
        prop_assert_eq!(
            Counters { malformed, unasked, strangers, forged, ..after },
            Counters { malformed, unasked, strangers, forged, ..before }
        );
        prop_assert_eq!(asker.poll(ms(13)), []);
        prop_assert_eq!(asker.pending(), 2);
        for (from, answer) in &answers {
            asker.received(answer, *from, ms(14));
        }
        let found = exchange(&mut asker, &receivers, ms(14));
        let mine = Output::Mine { service: service(), flow: flow(2), outer: outer(3) };
        prop_assert_eq!(found, [mine]);
        let nobodys = Output::Nobodys { service: service(), flow: flow(1) };
        let found = run(&mut asker, &receivers, 14, 11_000);
        prop_assert_eq!(found, [(10_014, nobodys)]);
    }

    #[test]
    fn polling_when_due_is_polling_often_enough(
        events in prop::collection::btree_map(0u64..3000, 0u32..50, 0..100),
        count in 0u8..20,
    ) {
        let mut often = asker(OLD, Limits::default());
        let mut when_due = asker(OLD, Limits::default());
        let receivers = Receivers::new();
        often.serve(service(), backends(count), true, ms(0));
        when_due.serve(service(), backends(count), true, ms(0));
        for at in 0..13_500 {
            if at % 5000 == 0 {
                announce(&mut often, &receivers, at);
                announce(&mut when_due, &receivers, at);
            }
            if let Some(&n) = events.get(&at) {
                often.event(service(), asked(n), ms(at));
                when_due.event(service(), asked(n), ms(at));
            }
            let found = exchange(&mut often, &receivers, ms(at));
            let due = when_due.due().is_some_and(|due| due <= ms(at));
            let found_when_due = if due { exchange(&mut when_due, &receivers, ms(at)) } else { Vec::new() };
            prop_assert_eq!(found, found_when_due);
        }
        prop_assert_eq!(often.counters(), when_due.counters());
    }
}

/// What may wait, whatever came: flows asked for, and the questions for them.
fn assert_bounded(asker: &Asker, limits: Limits, backends: u64) {
    let (asked, settled) = asker.held();
    assert!(asked <= MOST_FLOWS && settled <= MOST_FLOWS);
    let Rate { per_second, burst } = limits.in_all;
    let most = u64::from(burst) + backends + u64::from(per_second) * (KEPT.as_secs() + 1);
    assert!(asked as u64 * backends <= most, "{asked}");
    let most = u64::from(burst) + backends + u64::from(per_second) * (WAITS.as_secs() + 1);
    assert!(asker.questions_waiting() as u64 <= most);
}

#[test]
fn a_flood_is_bounded_and_doesnt_keep_clients_from_being_asked_for() {
    let in_all = Rate { per_second: 2000, burst: 2000 };
    let limits = Limits { in_all, ..Limits::default() };
    let mut asker = asker(OLD, limits);
    let mut receivers = Receivers::new();
    asker.serve(service(), backends(5), true, ms(0));
    let mut dice = Dice(1);
    let mut found = BTreeSet::new();
    receivers.owners = (0..20).map(|n| (flow(n), outer(2))).collect();
    // 200 packets a millisecond, each of another flow, for ten seconds.
    for at in 0..10_000 {
        for _ in 0..200 {
            let stray = u32::try_from(1000 + dice.below(1 << 31)).unwrap();
            asker.event(service(), AskedFlow { flags: 0x14, ..asked(stray) }, ms(at));
        }
        // Clients that have a connection come at any time of the flood, and send again as TCP does.
        for n in (0..20).filter(|n| !found.contains(&flow(*n))) {
            let since = at.checked_sub(2000 + u64::from(n) * 100);
            if since.is_some_and(|since| [0, 200, 600, 1400, 3000].contains(&since)) {
                asker.event(service(), asked(n), ms(at));
            }
        }
        for output in exchange(&mut asker, &receivers, ms(at)) {
            if let Output::Mine { flow, .. } = output {
                found.insert(flow);
            }
        }
        assert_bounded(&asker, limits, 5);
    }
    assert_eq!(found.len(), 20);
    let counters = asker.counters();
    assert!(counters.asked * 5 <= 2000 + 5 + 2000 * 10, "{counters:?}");
    assert!(counters.questions <= counters.asked * 5 && counters.put_off > 1_900_000, "{counters:?}");
}

#[test]
fn questions_without_answers_are_bounded() {
    let limits = Limits::default();
    let mut asker = asker(OLD, limits);
    asker.serve(service(), backends(200), true, ms(0));
    let mut questions = 0;
    for at in 0..16_000 {
        for n in 0..5 {
            asker.event(service(), asked(u32::try_from(at * 5 + n).unwrap() % 7000), ms(at));
        }
        questions += asker.poll(ms(at)).len();
        assert_bounded(&asker, limits, 200);
    }
    assert!(asker.counters().unanswered > 0 && questions * ASK_FLOWS > 200_000);
    for at in 16_000..30_000 {
        asker.poll(ms(at));
    }
    assert_eq!(asker.held(), (0, 0), "all is forgotten");
}
