//! The prober at work: one task that keeps the schedule and the verdicts, and a task for each probe on its way.
//!
//! In come targets, the latest wins; out goes a [`Health`] whenever a state flips. Targets that stay keep their
//! verdict and their schedule, whatever else changes.

use std::collections::{BTreeMap, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use fairlead_core::model::{Health, ObjectName, Probe, ProbeState};
use futures::FutureExt;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::ask::{Ask, Outcome, Question};
use super::counters::{add, set};
use super::judge::Judge;
use super::numbers::Numbers;
use super::schedule::{Pace, Queue, next};
use super::{Counters, ServiceTargets, Settings, Target, Targets, Way};
use crate::dataplane::Probes;

mod follow;

/// How long to wait for more flips after the first: endpoints of one node fall together.
const GATHER: Duration = Duration::from_millis(2);
/// The least time between two publications.
const REST: Duration = Duration::from_millis(20);
/// How often numbers are tended.
const TEND: Duration = Duration::from_secs(1);
/// Probes of one target on their way, at most.
const OVERLAP: u32 = 8;

/// A prober at work.
pub(super) struct Probing<A> {
    asker: A,
    concurrency: usize,
    seed: u64,
    numbers: Numbers,
    started: Instant,
    counters: Arc<Counters>,
    services: BTreeMap<ObjectName, Probed>,
    /// By a number that is never used again, so that late answers and old schedules find nobody.
    watched: HashMap<u64, Watched>,
    next_id: u64,
    queue: Queue,
    pace: Pace,
    /// The pace's word: nothing is begun before.
    held_until: Option<Instant>,
    /// Dropped with this, which ends the probes on their way.
    on_their_way: JoinSet<(u64, u64, Outcome)>,
    health: Health,
    /// What was known before the first targets came.
    remembered: Arc<Health>,
    publish_at: Option<Instant>,
    published: Option<Instant>,
    tend_at: Instant,
}

/// A service that is probed.
struct Probed {
    targets: Arc<ServiceTargets>,
    /// Of its targets, in their order.
    ids: Vec<u64>,
}

/// A target that is probed.
struct Watched {
    service: ObjectName,
    targets: Arc<ServiceTargets>,
    /// In `targets`.
    at: usize,
    judge: Judge,
    /// Since when the judge's state holds.
    since: Duration,
    /// Probes begun.
    begun: u64,
    on_their_way: u32,
}

impl Watched {
    fn target(&self) -> &Target {
        &self.targets.targets[self.at]
    }

    fn probe(&self) -> Probe {
        Probe { state: self.judge.state(), since: self.since }
    }
}

impl<A: Ask> Probing<A> {
    pub(super) fn new(
        asker: A,
        settings: &Settings,
        numbers: Numbers,
        started: Instant,
        counters: Arc<Counters>,
    ) -> Self {
        let now = Instant::now();
        Self {
            asker,
            concurrency: settings.concurrency as usize,
            seed: settings.seed,
            numbers,
            started,
            counters,
            services: BTreeMap::new(),
            watched: HashMap::new(),
            next_id: 0,
            queue: Queue::default(),
            pace: Pace::new(settings.per_second, now),
            held_until: None,
            on_their_way: JoinSet::new(),
            health: Health::default(),
            remembered: Arc::default(),
            publish_at: None,
            published: None,
            tend_at: now,
        }
    }

    pub(super) async fn run(
        mut self,
        mut targets: watch::Receiver<Arc<Targets>>,
        health: watch::Sender<Arc<Health>>,
    ) {
        self.remembered = Arc::clone(&health.borrow());
        // The first value counts as seen where the receiver is not fresh.
        targets.mark_changed();
        loop {
            let wake_at = self.wake_at();
            tokio::select! {
                biased;
                changed = targets.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let wanted = Arc::clone(&targets.borrow_and_update());
                    self.follow(&wanted);
                }
                Some(answered) = self.on_their_way.join_next() => {
                    self.hear(answered);
                    while let Some(answered) = self.on_their_way.try_join_next() {
                        self.hear(answered);
                    }
                }
                () = self.numbers.links_changed() => self.tend_at = Instant::now(),
                () = sleep_until(wake_at) => {}
            }
            let now = Instant::now();
            self.begin_due(now);
            self.publish(now, &health);
            self.tend(now);
        }
    }

    /// When there is something to do, even if nothing is heard.
    fn wake_at(&self) -> Instant {
        let due = self.queue.peek().map(|(due, _)| self.held_until.map_or(due, |until| due.max(until)));
        // Where too many are on their way, the next answer wakes.
        let due = due.filter(|_| self.on_their_way.len() < self.concurrency);
        due.into_iter().chain(self.publish_at).fold(self.tend_at, Instant::min)
    }

    /// Begins what is due, the longest overdue first, as far as the limits let it.
    fn begin_due(&mut self, now: Instant) {
        self.held_until = None;
        while let Some((due, id)) = self.queue.peek().filter(|(due, _)| *due <= now) {
            if !self.watched.contains_key(&id) {
                self.queue.pop();
                continue;
            }
            if self.on_their_way.len() >= self.concurrency {
                break;
            }
            if let Err(when) = self.pace.take(now) {
                self.held_until = Some(when);
                break;
            }
            self.queue.pop();
            self.begin(id, due, now);
        }
        set(&self.counters.in_flight, self.on_their_way.len());
    }

    fn begin(&mut self, id: u64, due: Instant, now: Instant) {
        let Some(watched) = self.watched.get_mut(&id) else { return };
        let target = &watched.targets.targets[watched.at];
        let (next_due, missed) = next(due, target.spec.interval, now);
        self.queue.push(next_due, id);
        add(&self.counters.skipped, missed);
        if watched.on_their_way >= OVERLAP {
            add(&self.counters.skipped, 1);
            return;
        }
        let (to, mark) = match target.way {
            Way::Direct(to) => (to, None),
            Way::Through(outer) => match self.numbers.get(&outer) {
                Some(number) => (target.vip, Some(Probes::mark(number))),
                None => {
                    add(&self.counters.unsent, 1);
                    return;
                }
            },
        };
        let question = Question {
            to,
            vip: target.vip,
            mark,
            kind: target.spec.kind,
            path: Arc::clone(&target.spec.path),
            timeout: target.spec.timeout,
        };
        watched.begun += 1;
        watched.on_their_way += 1;
        add(&self.counters.begun, 1);
        let (number, asker) = (watched.begun, self.asker.clone());
        self.on_their_way.spawn(async move {
            // A fault of a probe's must not take its place among those on their way for ever.
            let asked = AssertUnwindSafe(asker.ask(question)).catch_unwind().await;
            let outcome = asked.unwrap_or_else(|_| {
                tracing::error!("a probe broke off: a fault of fairlead's, please report it");
                Outcome::Unsent(std::io::Error::other("the probe broke off"))
            });
            (id, number, outcome)
        });
    }

    /// Judges an answer.
    fn hear(&mut self, answered: Result<(u64, u64, Outcome), JoinError>) {
        let (id, number, outcome) = match answered {
            Ok(answered) => answered,
            Err(error) => {
                tracing::error!(%error, "a probe broke off");
                return;
            }
        };
        self.counters.count(&outcome);
        let Some(watched) = self.watched.get_mut(&id) else { return };
        watched.on_their_way -= 1;
        let passed = match outcome {
            Outcome::Passed => true,
            Outcome::Failed(_) => false,
            Outcome::Unsent(error) => {
                let to = watched.target().address;
                tracing::debug!(service = %watched.service, endpoint = %to, %error, "a probe was not sent");
                return;
            }
        };
        let spec = &watched.targets.targets[watched.at].spec;
        if !watched.judge.take(number, passed, spec) {
            return;
        }
        let now = Instant::now();
        watched.since = now.saturating_duration_since(self.started);
        let (probe, target) = (watched.probe(), watched.target());
        tracing::debug!(
            service = %watched.service, endpoint = %target.address, port = %target.port, state = ?probe.state, ?outcome,
            "an endpoint's state flipped"
        );
        self.health.set(&watched.service, target.address, &target.port, probe);
        self.counters.count_flip(probe.state);
        self.publish_soon(now);
    }

    fn publish_soon(&mut self, now: Instant) {
        let earliest = self.published.map_or(now, |published| published + REST);
        self.publish_at = self.publish_at.or(Some(earliest.max(now + GATHER)));
    }

    fn publish(&mut self, now: Instant, health: &watch::Sender<Arc<Health>>) {
        if self.publish_at.is_none_or(|at| now < at) {
            return;
        }
        (self.publish_at, self.published) = (None, Some(now));
        add(&self.counters.published, 1);
        health.send_replace(Arc::new(self.health.clone()));
    }

    fn tend(&mut self, now: Instant) {
        if now < self.tend_at {
            return;
        }
        self.tend_at = now + TEND;
        let (unwritten, why) = self.numbers.tend(now);
        set(&self.counters.unwritten, unwritten);
        let bad = |watched: &&Watched| watched.judge.state() == ProbeState::Bad;
        set(&self.counters.bad, self.watched.values().filter(bad).count());
        if let Some(error) = why {
            tracing::warn!(unwritten, %error, "endpoints can't be probed: their tunnels can't be written");
        }
        self.queue.shrink(self.watched.len(), |id| self.watched.contains_key(&id));
    }
}
