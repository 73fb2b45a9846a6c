//! Which shards have come back, and how far they are let in.
//!
//! The only memory of the planner. A shard that had no usable endpoint and has one again would otherwise get its whole
//! share at once, on caches that are cold. What is seen for the first time isn't returning: a start must not ramp.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fairlead_abi::ServiceKey;

use crate::model::{Declarations, Tuning};

/// The shards of one service, by port and cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct History {
    shards: BTreeMap<(ServiceKey, Arc<str>), Presence>,
    /// As they were before a pass that has begun, as far as it has not noted them.
    before: BTreeMap<(ServiceKey, Arc<str>), Presence>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    Gone,
    /// Since then, and for so long before; what has returned fully isn't distinguished from what was always there.
    Returning {
        since: Duration,
        before: Duration,
    },
    There,
}

/// How far a shard is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// Fully.
    Full,
    /// In part.
    Step { step: u32, of: u32, next: Duration },
}

impl Entry {
    /// From 0 to 1.
    pub(super) fn part(self) -> f64 {
        match self {
            Self::Full => 1.0,
            Self::Step { step, of, .. } => f64::from(step) / f64::from(of + 1),
        }
    }
}

impl History {
    /// A shard was let in by steps when it was last planned with, by an agent before this one, `age` before `now`.
    pub(super) fn resume(
        &mut self,
        (key, cluster): (ServiceKey, &Arc<str>),
        step: u32,
        (age, now): (Duration, Duration),
        tuning: &Tuning,
    ) {
        // The step had begun, at the latest.
        let each = tuning.return_duration / tuning.return_steps.max(1);
        let before = each * step.saturating_sub(1).min(tuning.return_steps) + age;
        self.shards.insert((key, Arc::clone(cluster)), Presence::Returning { since: now, before });
    }

    /// Begins a pass over all ports and shards of the service.
    pub(super) fn begin(&mut self) {
        self.before = std::mem::take(&mut self.shards);
    }

    /// Ends a pass: a shard that it didn't note has gone, like one without endpoints. One of a cluster that is not
    /// declared any more, or of a port that no shard has, is forgotten.
    pub(super) fn end(&mut self, declared: &Declarations) {
        let ports: BTreeSet<ServiceKey> = self.shards.keys().map(|(key, _)| *key).collect();
        for (shard, _) in std::mem::take(&mut self.before) {
            if ports.contains(&shard.0) && declared.clusters.contains_key(&shard.1) {
                self.shards.insert(shard, Presence::Gone);
            }
        }
    }

    /// Notes whether a shard can take connections now, and says how far it is let in.
    pub(super) fn note(
        &mut self,
        key: ServiceKey,
        cluster: &Arc<str>,
        able: bool,
        now: Duration,
        tuning: &Tuning,
    ) -> Entry {
        let shard = (key, Arc::clone(cluster));
        let before = self.before.remove(&shard);
        let first = if able { Presence::There } else { Presence::Gone };
        let presence = self.shards.entry(shard).or_insert(before.unwrap_or(first));
        *presence = match (*presence, able) {
            (_, false) => Presence::Gone,
            (Presence::Gone, true) => Presence::Returning { since: now, before: Duration::ZERO },
            (before, true) => before,
        };
        let Presence::Returning { since, before } = *presence else { return Entry::Full };
        match step(now.saturating_sub(since).saturating_add(before), tuning) {
            Some((step, until_next)) => Entry::Step { step, of: tuning.return_steps, next: now + until_next },
            None => {
                *presence = Presence::There;
                Entry::Full
            }
        }
    }
}

/// The step, from 1, and how long it lasts yet; `None` once the way is gone.
fn step(elapsed: Duration, tuning: &Tuning) -> Option<(u32, Duration)> {
    if tuning.return_steps == 0 || elapsed >= tuning.return_duration {
        return None;
    }
    let each = tuning.return_duration / tuning.return_steps;
    let done = (1..tuning.return_steps).take_while(|&steps| each * steps <= elapsed).count();
    let step = u32::try_from(done).expect("fewer than return_steps") + 1;
    let end = if step == tuning.return_steps { tuning.return_duration } else { each * step };
    Some((step, end.saturating_sub(elapsed).max(Duration::from_nanos(1))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairlead_abi::{Address, Family, protocol};

    fn note(history: &mut History, able: bool, ms: u64) -> Entry {
        let key = ServiceKey::new(Address::v4([192, 0, 2, 1]), 80, protocol::TCP, Family::V4);
        history.note(key, &Arc::from("a"), able, Duration::from_millis(ms), &Tuning::default())
    }

    fn at_step(step: u32, next_ms: u64) -> Entry {
        Entry::Step { step, of: 4, next: Duration::from_millis(next_ms) }
    }

    #[test]
    fn what_is_new_is_let_in_at_once() {
        assert_eq!(note(&mut History::default(), true, 0), Entry::Full);
    }

    #[test]
    fn what_comes_back_is_let_in_by_steps() {
        let mut history = History::default();
        assert_eq!(note(&mut history, false, 0), Entry::Full);
        assert_eq!(note(&mut history, true, 500), at_step(1, 1500));
        assert_eq!(note(&mut history, true, 1499), at_step(1, 1500));
        assert_eq!(note(&mut history, true, 1500), at_step(2, 2500));
        assert_eq!(note(&mut history, true, 4400), at_step(4, 4500));
        assert_eq!(note(&mut history, true, 4500), Entry::Full);
        assert_eq!(note(&mut history, true, 4501), Entry::Full);
        let parts = [at_step(1, 0), at_step(4, 0), Entry::Full].map(Entry::part);
        assert_eq!(parts, [0.2, 0.8, 1.0]);
    }

    #[test]
    fn who_was_coming_back_goes_on_with_it() {
        let key = ServiceKey::new(Address::v4([192, 0, 2, 1]), 80, protocol::TCP, Family::V4);
        let (age, now) = (Duration::from_millis(600), Duration::from_millis(10));
        let mut history = History::default();
        history.resume((key, &Arc::from("a")), 2, (age, now), &Tuning::default());
        assert_eq!(note(&mut history, true, 10), at_step(2, 410));
        assert_eq!(note(&mut history, true, 410), at_step(3, 1410));
        assert_eq!(note(&mut history, true, 2410), Entry::Full);
        let long_ago = Duration::from_secs(3600);
        history.resume((key, &Arc::from("a")), 2, (long_ago, now), &Tuning::default());
        assert_eq!(note(&mut history, true, 10), Entry::Full);
    }

    #[test]
    fn who_goes_again_starts_again() {
        let mut history = History::default();
        note(&mut history, false, 0);
        note(&mut history, true, 100);
        note(&mut history, false, 3000);
        assert_eq!(note(&mut history, true, 3500), at_step(1, 4500));
    }

    #[test]
    fn a_clock_that_jumps_back_does_no_harm() {
        let mut history = History::default();
        note(&mut history, false, 5000);
        assert_eq!(note(&mut history, true, 5000), at_step(1, 6000));
        assert_eq!(note(&mut history, true, 1000), at_step(1, 2000));
    }
}
