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
use crate::world;
use judge::Moved;
use promises::counted;
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

    let Played { record, ends, outcome } = play(&stage, &teller)?;
    let mut broken = Vec::new();
    let mut reports = record.per_event();
    // Of one that failed it can't be told what it would have come to.
    reports.truncate(ends.len());
    for ((act, end), (event, report)) in
        story::story().iter().zip(&ends).zip(record.events.iter().zip(&reports))
    {
        broken.extend(promises::broken(act.promise, report));
        broken.extend(promises::misplaced(event, end.at, act.settles, &end.zones, &record.requests));
    }
    teller.table(&reports);
    outcome?;
    teller.verdict(&broken, began.elapsed());
    if options.json {
        println!("{}", serde_json::json!({ "events": reports, "broken_promises": broken }));
    }
    if options.keep {
        teller.commands(&stage)?;
        let Stage { world, agents, .. } = stage;
        agents.keep();
        world.keep()?;
    }
    Ok(broken.is_empty())
}

/// Removes what `--keep` left, and what owners left that were killed; returns what there was, in words.
pub fn down() -> Result<String> {
    let kept = world::kept()?;
    kept.iter().try_for_each(|id| world::remove(id))?;
    Ok(removed(&kept, &world::remove_abandoned()?))
}

fn removed(kept: &[String], abandoned: &[String]) -> String {
    let worlds = |ids: &[String], which: &str| {
        (!ids.is_empty())
            .then(|| format!("{} {which} ({})", counted(ids.len() as u64, "world"), ids.join(", ")))
    };
    let told = [worlds(kept, "that ran on"), worlds(abandoned, "whose owner was killed")];
    let told: Vec<_> = told.into_iter().flatten().collect();
    if told.is_empty() {
        return "nothing was left running".to_owned();
    }
    format!("removed {}", told.join(" and "))
}

/// When an act's time was over, and who should have served in it.
struct End {
    at: Duration,
    zones: promises::Expected,
}

/// What was played.
struct Played {
    /// With moved connections marked.
    record: Record,
    /// Of the acts that were finished.
    ends: Vec<End>,
    /// Why the rest was not.
    outcome: Result<()>,
}

/// Plays all acts under the load, or those before one that fails.
fn play(stage: &Stage, teller: &Teller) -> Result<Played> {
    let load = Load::start(stage.world.clients(), stage.target()?, Mix::default())?;
    let (over, moved) = (AtomicBool::new(false), Moved::default());
    let mut ends = Vec::new();
    let outcome = thread::scope(|scope| {
        let judge = scope.spawn(|| judge::judge(stage, &load, &over, &moved));
        let acts = story::story();
        let played = acts.iter().try_for_each(|act| {
            ends.push(play_one(stage, &load, &moved, teller, act)?);
            Ok(())
        });
        over.store(true, Ordering::Release);
        let judged = judge.join().expect("the judge doesn't panic");
        played.and(judged)
    });
    let so_far = load.so_far();
    let (mut record, stopped) = match load.stop() {
        Ok(record) => (record, Ok(())),
        Err(error) => (so_far, Err(error)),
    };
    moved.mark(&mut record.requests);
    Ok(Played { record, ends, outcome: outcome.and(stopped) })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_removed_is_told() {
        let ids = |ids: &[&str]| ids.iter().map(|&id| id.to_owned()).collect::<Vec<_>>();
        assert_eq!(removed(&[], &[]), "nothing was left running");
        assert_eq!(removed(&ids(&["fl-1-1"]), &[]), "removed 1 world that ran on (fl-1-1)");
        assert_eq!(
            removed(&ids(&["fl-1-1"]), &ids(&["fl-2-1", "fl-3-1"])),
            "removed 1 world that ran on (fl-1-1) and 2 worlds whose owner was killed (fl-2-1, fl-3-1)"
        );
    }
}
