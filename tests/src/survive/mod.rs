//! Do connections survive? Thousands of them are opened, something happens, and each is asked whether it still lives.
//!
//! The `stage` is a world with two regions; its pods run our own [`server`], which tells connections apart and
//! writes down whose it held. For each of the `events` a [`fleet`] is opened, the event happens, the fleet is asked, and the
//! [`judge`] compares what clients saw with what servers wrote. One event after the other in the same world.

pub mod clock;
mod events;
pub mod fleet;
mod flood;
pub mod identity;
pub mod judge;
pub mod logs;
pub mod outcome;
pub mod pattern;
mod random;
mod report;
pub mod server;
mod stage;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use events::{Action, Event};
use fleet::{Fleet, Mix, Ports, Record};
use judge::Row;
use logs::Logs;
use report::Teller;
use stage::Stage;

/// How it is to be run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Only these events; all if there is none.
    pub events: Vec<String>,
    /// Connections of each protocol that are open before an event, at least.
    pub connections: usize,
    /// Of the random mix.
    pub seed: u64,
    /// Packets of each flood.
    pub flood: u64,
    /// Standard output is one JSON document.
    pub json: bool,
}

/// Names of all events, in order.
#[must_use]
pub fn names() -> Vec<&'static str> {
    events::events().iter().map(|event| event.name).collect()
}

/// Runs it; false if a connection broke that had a living endpoint. An error ends it, but what was seen till then is told.
pub fn run(options: &Options) -> Result<bool> {
    let began = Instant::now();
    let events = chosen(&options.events)?;
    let teller = Teller::new(options.json);
    let stage = Stage::build()?;
    teller.begin(&stage, options, began.elapsed());
    let mut rows = Vec::new();
    let played = play_all(&stage, &events, options, |event, of_event, unopened, took| {
        teller.rows(event, &of_event, unopened, took);
        rows.extend(of_event);
    });
    if played.is_ok() {
        teller.verdict(&rows, began.elapsed());
    }
    if options.json {
        let failure = played.as_ref().err().map(|error| format!("{error:#}"));
        println!("{}", document(&rows, options.seed, failure));
    }
    played?;
    Ok(rows.iter().all(|row| row.lost() == 0))
}

/// For programs; `failure` stands there only if there was one.
fn document(rows: &[Row], seed: u64, failure: Option<String>) -> Value {
    let mut document = json!({ "rows": rows, "seed": seed });
    if let Some(failure) = failure {
        document["failure"] = failure.into();
    }
    document
}

/// One event after the other; each one's rows, connections that did not come about, and how long it took.
fn play_all(
    stage: &Stage,
    events: &[Event],
    options: &Options,
    mut each: impl FnMut(&Event, Vec<Row>, usize, Duration),
) -> Result<()> {
    let mut ports = Ports::default();
    for event in events {
        let began = Instant::now();
        let played = play(stage, event, options, &mut ports);
        let played = played.with_context(|| format!("event {}", event.name))?;
        each(event, judge::rows(&played), played.record.unopened, began.elapsed());
    }
    Ok(())
}

/// Plays one event in a world of its own, with so many connections of each protocol.
pub fn play_alone(event: &str, connections: usize) -> Result<Played> {
    let events = chosen(&[event.to_owned()])?;
    let options = Options { events: Vec::new(), connections, seed: 0, flood: 20_000, json: false };
    play(&Stage::build()?, &events[0], &options, &mut Ports::default())
}

/// What there is to judge after an event.
#[derive(Debug, Default)]
pub struct Played {
    /// As in the report.
    pub event: &'static str,
    /// Flows of UDP came to gateways that have no memory of where they were.
    pub moves_datagrams: bool,
    /// What clients saw.
    pub record: Record,
    /// What servers wrote.
    pub logs: Logs,
    /// Questions that gateways asked of receivers meanwhile.
    pub asked: u64,
}

fn chosen(names: &[String]) -> Result<Vec<Event>> {
    let mut events = events::events();
    for name in names {
        ensure!(
            events.iter().any(|event| event.name == name),
            "no event {name}; there are {}",
            self::names().join(", ")
        );
    }
    events.retain(|event| names.is_empty() || names.iter().any(|name| name == event.name));
    Ok(events)
}

/// One event from the opening of a fleet to its end; the world is as before afterwards.
fn play(stage: &Stage, event: &Event, options: &Options, ports: &mut Ports) -> Result<Played> {
    (event.before)(stage)?;
    stage.wait_until_calm()?;
    let asked = stage.asked();
    let clients = stage.world.clients();
    let each = options.connections.div_ceil(clients.len());
    let mix = if event.idle { Mix::idle } else { Mix::of };
    // Flows of both IP versions are one protocol.
    let fleet = Fleet::open(clients, stage.target()?, mix(each), ports)?;
    match event.action {
        Action::World(action) => action(stage)?,
        Action::Fleet(action) => action(stage, &fleet)?,
        Action::Seeded(action) => action(stage, options.seed)?,
        Action::Flood(action) => action(stage, options.flood)?,
    }
    stage.wait_until_calm()?;
    let record = fleet.end()?;
    let (logs, asked) = (stage.logs()?, since(&asked, &stage.asked()));
    stage.mend()?;
    let Event { name, moves_datagrams, .. } = *event;
    Ok(Played { event: name, moves_datagrams, record, logs, asked })
}

/// By how much counters have grown; one that is smaller than before has begun anew.
fn since(before: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>) -> u64 {
    let grown = |(host, count): (&String, &u64)| {
        count.checked_sub(before.get(host).copied().unwrap_or(0)).unwrap_or(*count)
    };
    now.iter().map(grown).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_chosen_by_name_and_have_names_of_their_own() {
        let all = names();
        assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), all.len());
        assert_eq!(chosen(&[]).unwrap().len(), all.len());
        let two = chosen(&["ring_resized".to_owned(), "nothing".to_owned()]).unwrap();
        assert_eq!(two.iter().map(|event| event.name).collect::<Vec<_>>(), ["nothing", "ring_resized"]);
        let error = chosen(&["ring".to_owned()]).err().unwrap().to_string();
        assert!(error.contains("no event ring") && error.contains("ring_resized"), "{error}");
    }

    #[test]
    fn counters_that_began_anew_count_from_there() {
        let counts = |a, b| BTreeMap::from([("a".to_owned(), a), ("b".to_owned(), b)]);
        assert_eq!(since(&counts(5, 5), &counts(7, 3)), 5);
        assert_eq!(since(&BTreeMap::new(), &counts(1, 1)), 2);
    }
}
