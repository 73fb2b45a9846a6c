//! Random and spoilt packets through the programs and through the model, in verdict, bytes, counters and flows.
//!
//! `FAIRLEAD_SEED` repeats a run, `FAIRLEAD_PACKETS` sets how many packets each node gets. The first difference is
//! printed as a row.

use std::{collections::BTreeSet, env, fmt::Write as _, time::Instant};

use anyhow::Result;
use fairlead_abi::{FlowEvent, Roles, Settings};
use fairlead_tests::packets::{
    Counts, Lab, Run, Tables,
    model::{Flows, Fragments, Model},
    random::{Rng, mutate, packet, reply, scene, settings},
    report::{DROP, Row, action_name, hex, outcome},
};

/// Packets for each of the three nodes; together more than two million.
const PACKETS: usize = 800_000;
/// Packets between two comparisons of counters and flows.
const BATCH: usize = 1000;

/// From so many on, everything that can happen at a node must have happened.
const ENOUGH: usize = 200_000;

/// What can happen at a gateway.
const AT_GATEWAY: &[&str] = &[
    "ingress PASS as it was",
    "ingress REDIRECT changed",
    "ingress TX changed",
    "bad_mark",
    "bad_source",
    "event forgotten",
    "event guess",
    "event named_server",
    "event passed_over",
    "event sent_on",
    "event fragment_held",
    "event unclaimed",
    "extension_header",
    "fragment",
    "fragment_before_first",
    "fragment_overlaps",
    "fragment_tiny",
    "icmp_unrelated",
    "inconsistent",
    "looped",
    "malformed",
    "no_backend",
    "no_next_hop",
    "not_allowed",
    "port_not_served",
    "too_big",
    "too_big_silent",
    "truncated",
    "ttl_expired",
    "unclaimed",
    "unsupported_protocol",
];

/// What can happen at a receiver.
const AT_RECEIVER: &[&str] = &[
    "ingress PASS as it was",
    "ingress PASS changed",
    "egress action 4294967295 as it was",
    "egress action 4294967295 changed",
    "bad_mark",
    "bad_tunnel",
    "event bounced",
    "event fragment_held",
    "extension_header",
    "fragment",
    "fragment_overlaps",
    "fragment_tiny",
    "icmp_unrelated",
    "malformed",
    "not_delivered",
    "stranger_tunnel",
    "truncated",
    "unsupported_protocol",
];

/// What happens at a node.
#[derive(Clone)]
enum Event {
    /// A frame comes in by the NIC.
    In(Vec<u8>),
    /// An endpoint's frame leaves.
    Out(Vec<u8>),
}

/// A node, twice.
struct Pair {
    lab: Lab,
    model: Model,
    settings: Settings,
    tables: Tables,
    /// What has happened: verdicts (or whether a reply was rewritten), and reasons of drops.
    seen: BTreeSet<String>,
}

impl Pair {
    fn new(roles: u32) -> Result<Self> {
        let (settings, tables) = (settings(roles), scene());
        let lab = Lab::new(&settings, &tables)?;
        Ok(Self { lab, model: Model::new(&settings, &tables), settings, tables, seen: BTreeSet::new() })
    }

    /// One event; the row where they differ in verdict or bytes.
    fn step(&mut self, event: &Event) -> Result<Option<Row>> {
        let (what, frame, run, expected) = match event {
            Event::In(frame) => {
                let (action, bytes) = self.model.ingress(frame);
                let run = self.lab.ingress(frame)?;
                self.lab.early();
                ("ingress", frame, run, Run { action, frame: bytes })
            }
            Event::Out(frame) => {
                let expected = Run { action: u32::MAX, frame: self.model.egress(frame) };
                ("egress", frame, self.lab.egress(frame, 0)?, expected)
            }
        };
        let changed = if run.frame == *frame { "as it was" } else { "changed" };
        self.seen.insert(format!("{what} {} {changed}", action_name(run.action)));
        let same = run.action == expected.action && (run.action == DROP || run.frame == expected.frame);
        Ok((!same).then(|| Row {
            what: format!("{what}, roles {}", self.settings.roles),
            frame: frame.clone(),
            expected: outcome(expected.action, &expected.frame),
            got: outcome(run.action, &run.frame),
        }))
    }

    /// Begins anew, without flows.
    fn restart(&mut self) -> Result<()> {
        self.model = Model::new(&self.settings, &self.tables);
        self.lab.fill_cache(&self.tables)?;
        self.lab.clear_flows()
    }

    /// All counters but that of claims, which are limited by time.
    fn counts(&self) -> Result<Counts> {
        let mut counts = self.lab.counts()?;
        counts.events.remove(&FlowEvent::Claimed);
        Ok(counts)
    }

    /// Where flows differ.
    fn flows(&self) -> Result<(Flows, Flows)> {
        let mut got = Flows { established: self.lab.flows()?, half_open: self.lab.half_open()? };
        for entry in got.established.values_mut().chain(got.half_open.values_mut()) {
            (entry.seen, entry.claimed) = (0, 0);
        }
        Ok((self.model.flows.clone(), got))
    }

    /// Where what is known of fragments differs.
    fn fragments(&self) -> Result<(Fragments, Fragments)> {
        let mut got = self.lab.fragments()?;
        got.values_mut().for_each(|first| first.seen_ns = 0);
        Ok((self.model.fragments.clone(), got))
    }

    /// All of `events` from a node without flows; the first difference, if any.
    fn batch(&mut self, events: &[Event]) -> Result<Option<String>> {
        self.restart()?;
        let before = self.counts()?;
        for (number, event) in events.iter().enumerate() {
            if let Some(row) = self.step(event)? {
                return self.explain(&events[..=number], &row.to_string()).map(Some);
            }
        }
        let counts = self.counts()?.since(&before);
        self.seen.extend(counts.drops.keys().map(|reason| reason.name().to_owned()));
        self.seen.extend(counts.events.keys().map(|event| format!("event {}", event.name())));
        let (expected, got) = self.flows()?;
        let (firsts, got_firsts) = self.fragments()?;
        if counts == self.model.counts && expected == got && firsts == got_firsts {
            return Ok(None);
        }
        self.explain(events, "counters or flows").map(Some)
    }

    /// The same again, step by step: text about the first event on which anything differs.
    fn explain(&mut self, events: &[Event], difference: &str) -> Result<String> {
        self.restart()?;
        let mut before = self.counts()?;
        for (number, event) in events.iter().enumerate() {
            self.model.counts = Default::default();
            let row = self.step(event)?;
            let now = self.counts()?;
            let counts = now.since(&before);
            before = now;
            let (expected, got) = self.flows()?;
            let (firsts, got_firsts) = self.fragments()?;
            if row.is_none() && counts == self.model.counts && expected == got && firsts == got_firsts {
                continue;
            }
            let (Event::In(frame) | Event::Out(frame)) = event;
            let mut text = match row {
                Some(row) => row.to_string(),
                None => format!("in: {}", hex(frame)),
            };
            writeln!(text, "\nexpected counts {:?}\n     got counts {counts:?}", self.model.counts)?;
            let tables = [
                ("FLOWS", expected.established, got.established),
                ("HALF_OPEN", expected.half_open, got.half_open),
            ];
            for (table, expected, got) in tables {
                for key in expected.keys().chain(got.keys()).collect::<BTreeSet<_>>() {
                    let (expected, got) = (expected.get(key), got.get(key));
                    if expected != got {
                        writeln!(text, "{table} {key:?}\nexpected {expected:?}\n     got {got:?}")?;
                    }
                }
            }
            for key in firsts.keys().chain(got_firsts.keys()).collect::<BTreeSet<_>>() {
                let (expected, got) = (firsts.get(key), got_firsts.get(key));
                if expected != got {
                    writeln!(text, "FRAGMENTS {key:?}\nexpected {expected:?}\n     got {got:?}")?;
                }
            }
            writeln!(text, "event {number} of its batch")?;
            return Ok(text);
        }
        Ok(format!("a difference that does not come again: {difference}"))
    }
}

fn number_from(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

/// Random packets at a node with `roles`.
fn run(roles: u32) {
    let seed = number_from("FAIRLEAD_SEED").unwrap_or_else(rand_seed);
    let packets = number_from("FAIRLEAD_PACKETS").map_or(PACKETS, |number| usize::try_from(number).unwrap());
    println!("FAIRLEAD_SEED={seed} roles={roles}");
    let mut rng = Rng::new(seed ^ u64::from(roles) << 56);
    let mut pair = Pair::new(roles).unwrap();
    let begin = Instant::now();
    for _ in 0..packets.div_ceil(BATCH) {
        let events: Vec<Event> = (0..BATCH).map(|_| event(&mut rng, roles)).collect();
        if let Some(difference) = pair.batch(&events).unwrap() {
            panic!("FAIRLEAD_SEED={seed}\n{difference}");
        }
    }
    println!("{packets} packets in {:.1?}", begin.elapsed());
    let of = |role, list: &'static [&str]| if roles & role != 0 { list } else { &[] };
    let expected = of(Roles::GATEWAY, AT_GATEWAY).iter().chain(of(Roles::RECEIVER, AT_RECEIVER));
    let missing: Vec<_> = expected.filter(|what| !pair.seen.contains(**what)).collect();
    assert!(packets < ENOUGH || missing.is_empty(), "never seen: {missing:?}, of {:?}", pair.seen);
}

fn event(rng: &mut Rng, roles: u32) -> Event {
    if roles & Roles::RECEIVER != 0 && rng.once_in(6) {
        return Event::Out(reply(rng));
    }
    let mut frame = packet(rng);
    if rng.once_in(2) {
        mutate(rng, &mut frame);
    }
    Event::In(frame)
}

fn rand_seed() -> u64 {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap();
    Rng::new(now.as_nanos() as u64).next()
}

#[test]
fn a_gateway_does_what_the_model_says() {
    run(Roles::GATEWAY);
}

#[test]
fn a_receiver_does_what_the_model_says() {
    run(Roles::RECEIVER);
}

#[test]
fn a_node_with_both_roles_does_what_the_model_says() {
    run(Roles::GATEWAY | Roles::RECEIVER);
}
