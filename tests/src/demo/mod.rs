//! The demo: nine clusters in three regions, one VIP, real requests, and things that are taken away.
//!
//! Builds the `stage`, plays the `story` under a load, and says whether the `promises` were kept. What people read
//! goes to standard output, or to standard error where standard output is to be one JSON document.

mod judge;
mod place;
mod promises;
mod report;
mod stage;
mod story;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::load::{Load, Mix, Record, statistics};
use judge::Moved;
use report::Teller;
use stage::Stage;
use story::{Act, WATCHED};

/// How the demo is to be run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The world stays afterwards.
    pub keep: bool,
    /// Standard output is one JSON document.
    pub json: bool,
}

/// Runs it; false if a promise was broken.
pub fn run(options: &Options) -> Result<bool> {
    let began = Instant::now();
    let teller = Teller::new(options.json);
    teller.title("One VIP, three regions, nine clusters");
    let stage = Stage::build()?;
    teller.world(&stage, began.elapsed());
    stage.wait_until_served(Duration::from_secs(60))?;
    teller.services(&stage)?;

    let (record, ends) = play(&stage, &teller)?;
    let mut broken = Vec::new();
    let reports = record.per_event();
    for (number, act) in story::story().iter().enumerate() {
        broken.extend(promises::broken(act.promise, &reports[number]));
        let (event, expected) = (&record.events[number], &ends[number]);
        broken.extend(promises::misplaced(
            event,
            expected.at,
            act.settles,
            &expected.zones,
            &record.requests,
        ));
    }
    teller.table(&reports);
    teller.verdict(&broken, began.elapsed());
    if options.json {
        println!("{}", serde_json::json!({ "events": reports }));
    }
    if options.keep {
        teller.commands(&stage)?;
        let Stage { world, agents, .. } = stage;
        agents.keep();
        world.keep()?;
    }
    Ok(broken.is_empty())
}

/// Removes what `--keep` left; returns how many worlds that were.
pub fn down() -> Result<usize> {
    let kept = crate::world::kept()?;
    kept.iter().try_for_each(|id| crate::world::remove(id))?;
    Ok(kept.len())
}

/// When an act's time was over, and who should have served in it.
struct End {
    at: Duration,
    zones: promises::Expected,
}

/// Plays all acts under the load; returns its record, with moved connections marked, and the acts' ends.
fn play(stage: &Stage, teller: &Teller) -> Result<(Record, Vec<End>)> {
    let load = Load::start(stage.world.clients(), stage.target()?, Mix::default())?;
    let (over, moved) = (AtomicBool::new(false), Moved::default());
    let ends = thread::scope(|scope| {
        let judge = scope.spawn(|| judge::judge(stage, &load, &over, &moved));
        let acts = story::story();
        let ends: Result<Vec<_>> =
            acts.iter().map(|act| play_one(stage, &load, &moved, teller, act)).collect();
        over.store(true, Ordering::Release);
        judge.join().expect("the judge doesn't panic")?;
        ends
    })?;
    let mut record = load.stop()?;
    moved.mark(&mut record.requests);
    Ok((record, ends))
}

fn play_one(stage: &Stage, load: &Load, moved: &Moved, teller: &Teller, act: &Act) -> Result<End> {
    teller.act(act);
    load.event(&act.name);
    let began = Instant::now();
    let more = (act.action)(stage).with_context(|| format!("event {}", act.name))?;
    teller.more(more.as_deref());
    let zones = stage.expected()?;
    thread::sleep((act.settles + WATCHED).saturating_sub(began.elapsed()));
    let end = End { at: load.now(), zones };
    let mut so_far = load.so_far();
    moved.mark(&mut so_far.requests);
    if let Some(report) = statistics::per_event(&so_far.events, &so_far.requests).last() {
        teller.outcome(report);
    }
    Ok(end)
}
