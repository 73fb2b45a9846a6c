//! When to probe: who is due, and how much may be begun at once.
//!
//! A target is due every interval, whether or not its last probe has been answered: an endpoint that falls silent
//! is bad after `fall` intervals and one timeout. Where more is due than may be begun, the longest overdue goes
//! first, and everybody's probes become rarer alike. No clock is read here.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use tokio::time::Instant;

/// How long probes may be begun faster than the limit, after less was begun: timers are only so exact.
const BURST: Duration = Duration::from_millis(10);

/// How long after it is known a target is first probed: anywhere in its interval, but always the same place.
pub(super) fn phase(seed: u64, target: impl Hash, interval: Duration) -> Duration {
    let mut hasher = DefaultHasher::new();
    (seed, target).hash(&mut hasher);
    let part = u128::from(hasher.finish() >> 32);
    // Intervals are below an hour, so this is far from overflowing.
    Duration::from_nanos(u64::try_from((interval.as_nanos() * part) >> 32).unwrap_or(u64::MAX))
}

/// When a target that was due at `due` is due again, and how many probes were left out meanwhile.
pub(super) fn next(due: Instant, interval: Duration, now: Instant) -> (Instant, u64) {
    let interval = interval.max(Duration::from_millis(1));
    let late = now.saturating_duration_since(due);
    let missed = u32::try_from(late.as_nanos() / interval.as_nanos()).unwrap_or(u32::MAX);
    match due.checked_add(interval.saturating_mul(missed.saturating_add(1))) {
        Some(at) => (at, u64::from(missed)),
        None => (now + interval, u64::from(missed)),
    }
}

/// Who is due when. Removed targets stay in it until they would be due.
#[derive(Debug, Default)]
pub(super) struct Queue {
    heap: BinaryHeap<Reverse<(Instant, u64)>>,
}

impl Queue {
    pub(super) fn push(&mut self, due: Instant, id: u64) {
        self.heap.push(Reverse((due, id)));
    }

    /// The longest overdue.
    pub(super) fn peek(&self) -> Option<(Instant, u64)> {
        self.heap.peek().map(|Reverse(first)| *first)
    }

    pub(super) fn pop(&mut self) {
        self.heap.pop();
    }

    /// Drops those that `stays` doesn't know, where they are the most.
    pub(super) fn shrink(&mut self, known: usize, stays: impl Fn(u64) -> bool) {
        if self.heap.len() > 2 * known + 1024 {
            self.heap.retain(|Reverse((_, id))| stays(*id));
        }
    }
}

/// The limit of probes per second.
#[derive(Debug)]
pub(super) struct Pace {
    each: Duration,
    /// When the next one would be begun if all were spread evenly.
    next: Instant,
}

impl Pace {
    pub(super) fn new(per_second: u32, now: Instant) -> Self {
        Self { each: Duration::from_secs(1) / per_second.max(1), next: now }
    }

    /// Whether one may be begun; if not, from when on.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), Instant> {
        if self.next > now + BURST {
            return Err(self.next - BURST);
        }
        self.next = self.next.max(now) + self.each;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn phases_fill_the_interval_evenly_and_stay() {
        let phases: Vec<Duration> = (0..1000).map(|target| phase(7, target, SECOND)).collect();
        let again: Vec<Duration> = (0..1000).map(|target| phase(7, target, SECOND)).collect();
        assert_eq!(phases, again);
        for tenth in 0..10 {
            let within = phases.iter().filter(|phase| phase.as_millis() / 100 == tenth).count();
            assert!((60..140).contains(&within), "{within} of 1000 in tenth {tenth}");
        }
        assert_ne!(phase(7, 1, SECOND), phase(8, 1, SECOND), "gateways differ");
        assert!(phases.iter().all(|phase| *phase < SECOND));
    }

    #[test]
    fn keeps_its_beat() {
        let due = Instant::now();
        assert_eq!(next(due, SECOND, due), (due + SECOND, 0));
        assert_eq!(next(due, SECOND, due + 999 * MS), (due + SECOND, 0));
        assert_eq!(next(due, SECOND, due + 1000 * MS), (due + 2 * SECOND, 1));
        assert_eq!(next(due, SECOND, due + 3500 * MS), (due + 4 * SECOND, 3));
        assert_eq!(next(due, Duration::ZERO, due), (due + MS, 0), "no interval doesn't mean no end");
    }

    #[test]
    fn the_longest_overdue_goes_first() {
        let now = Instant::now();
        let mut queue = Queue::default();
        queue.push(now + 2 * MS, 1);
        queue.push(now, 2);
        queue.push(now + MS, 3);
        let mut order = Vec::new();
        while let Some((_, id)) = queue.peek() {
            queue.pop();
            order.push(id);
        }
        assert_eq!(order, [2, 3, 1]);
    }

    #[test]
    fn removed_targets_do_not_pile_up() {
        let now = Instant::now();
        let mut queue = Queue::default();
        (0..5000).for_each(|id| queue.push(now, id));
        queue.shrink(10, |id| id < 10);
        assert_eq!(queue.heap.len(), 10);
    }

    #[test]
    fn paces() {
        let start = Instant::now();
        let mut pace = Pace::new(1000, start);
        let (mut now, mut begun) = (start, 0);
        while now < start + SECOND {
            match pace.take(now) {
                Ok(()) => begun += 1,
                Err(when) => {
                    assert!(when > now);
                    now = when;
                }
            }
        }
        assert!((1000..=1011).contains(&begun), "{begun}");
        // Rest isn't saved up beyond the burst.
        now += 10 * SECOND;
        let burst = std::iter::repeat_with(|| pace.take(now)).take_while(Result::is_ok).count();
        assert_eq!(burst, 11);
    }
}
