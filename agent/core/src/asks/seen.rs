//! Which flows were seen lately: two Bloom filters that take turns.
//!
//! No flood makes it forget a flow before its time; what a flood does is to make it take some flows for seen that were
//! not: at 200,000 new ones a second 1 in 100,000, at a million 1 in 30. Those cost tokens, and no connection.

use std::time::Duration;

/// How long a filter is filled: what was noted is known for one to two turns. A client that has a connection sends again
/// within 200 ms to 1 s at first (RFC 6298, and Linux).
const TURN: Duration = Duration::from_secs(2);

/// 2 MiB each.
const BITS: u64 = 1 << 24;

/// Bits of a flow.
const EACH: usize = 6;

/// See the module.
#[derive(Debug)]
pub(super) struct Seen {
    filling: Box<[u64]>,
    before: Box<[u64]>,
    since: Duration,
}

impl Default for Seen {
    fn default() -> Self {
        let empty = || vec![0; (BITS / 64) as usize].into_boxed_slice();
        Self { filling: empty(), before: empty(), since: Duration::ZERO }
    }
}

impl Seen {
    /// Notes a flow by its hash, and says whether it was seen before.
    pub(super) fn note(&mut self, hash: u64, now: Duration) -> bool {
        self.turn(now);
        let places: [u64; EACH] = std::array::from_fn(|n| {
            let step = (hash >> 32) | 1;
            hash.wrapping_add(step.wrapping_mul(n as u64)) % BITS
        });
        let has = |filter: &[u64]| places.iter().all(|&bit| filter[word(bit)] & 1 << (bit % 64) != 0);
        let seen = has(&self.filling) || has(&self.before);
        for bit in places {
            self.filling[word(bit)] |= 1 << (bit % 64);
        }
        seen
    }

    fn turn(&mut self, now: Duration) {
        let elapsed = now.saturating_sub(self.since);
        if elapsed < TURN {
            return;
        }
        std::mem::swap(&mut self.filling, &mut self.before);
        self.filling.fill(0);
        if elapsed >= 2 * TURN {
            self.before.fill(0);
        }
        self.since = now;
    }
}

fn word(bit: u64) -> usize {
    usize::try_from(bit / 64).expect("within BITS")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stable::Stable;

    fn hash(n: u64) -> u64 {
        Stable::new(n).finish()
    }

    #[test]
    fn what_was_noted_is_known_for_a_turn_and_forgotten_after_two() {
        let mut seen = Seen::default();
        let at = |ms| TURN + Duration::from_millis(ms);
        assert!(!seen.note(hash(1), at(0)));
        assert!(seen.note(hash(1), at(1999)));
        assert!(seen.note(hash(1), at(3998)));
        assert!(!seen.note(hash(1), at(13_000)));
        assert!(!seen.note(hash(2), at(13_000)));
        assert!(seen.note(hash(2), at(14_999)), "over the turn");
    }

    #[test]
    fn a_flood_takes_nothing_from_it() {
        let mut seen = Seen::default();
        assert!(!seen.note(hash(0), Duration::ZERO));
        let wrong = (1..=400_000).filter(|&n| seen.note(hash(n), Duration::from_secs(1))).count();
        assert!(wrong < 10, "{wrong} taken for seen");
        assert!(seen.note(hash(0), Duration::from_secs(3)));
    }
}
