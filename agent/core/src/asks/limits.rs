//! How much is asked: token buckets in all and per client prefix, and past half of either only for flows seen twice.
//!
//! A flood of packets without a connection must not keep those that have one from being asked for: a client that has a
//! connection sends again, a flood's invented tuples don't come twice. All memory is of a fixed size; prefixes that
//! fall on the same bucket share it, which makes the limit tighter, never wider.

use std::time::Duration;

use fairlead_abi::Address;

use super::seen::Seen;
use crate::stable::Stable;

/// A token bucket's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Tokens that come back in a second.
    pub per_second: u32,
    /// Tokens of a full bucket.
    pub burst: u32,
}

/// Limits on what an agent sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Flows asked for per client prefix (/24, /56).
    pub per_prefix: Rate,
    /// Flows asked for in all, each counted once per backend that is asked: that is what receivers and the network
    /// have to carry. A flow is asked for whole while a token is left, so at most one flow is above it.
    pub in_all: Rate,
    /// Questions for counts alone; those by which nodes are watched are not limited.
    pub counts: Rate,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            per_prefix: Rate { per_second: 1000, burst: 2000 },
            in_all: Rate { per_second: 200_000, burst: 200_000 },
            counts: Rate { per_second: 10_000, burst: 1000 },
        }
    }
}

/// How full a bucket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Full,
    PastHalf,
    Empty,
}

/// A token bucket: the time at which it would be full again, nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bucket(u64);

impl Bucket {
    pub(super) fn level(self, rate: Rate, now: Duration) -> Level {
        let (used, size) = (self.0.saturating_sub(ns(now)), rate.size());
        if rate.per_second == 0 || used.saturating_add(rate.each()) > size {
            Level::Empty
        } else if used >= size / 2 {
            Level::PastHalf
        } else {
            Level::Full
        }
    }

    pub(super) fn take(&mut self, rate: Rate, tokens: u64, now: Duration) {
        self.0 = self.0.max(ns(now)).saturating_add(rate.each().saturating_mul(tokens));
    }

    /// When it has a token.
    pub(super) fn ready(self, rate: Rate) -> Duration {
        Duration::from_nanos(self.0.saturating_add(rate.each()).saturating_sub(rate.size()))
    }
}

impl Rate {
    /// Nanoseconds until a token comes back.
    fn each(self) -> u64 {
        1_000_000_000_u64.div_ceil(u64::from(self.per_second.max(1)))
    }

    /// Nanoseconds until an empty bucket is full.
    fn size(self) -> u64 {
        self.each() * u64::from(self.burst)
    }
}

fn ns(at: Duration) -> u64 {
    u64::try_from(at.as_nanos()).unwrap_or(u64::MAX)
}

/// Whether a flow is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Granted,
    /// Past half, and not seen before.
    PutOff,
    LimitedByPrefix,
    LimitedInAll,
}

/// Buckets for prefixes; 8 bytes each.
const PREFIXES: usize = 1 << 16;

/// The state of all limits on asks.
#[derive(Debug)]
pub(super) struct Gate {
    limits: Limits,
    seed: u64,
    prefixes: Box<[Bucket]>,
    in_all: Bucket,
    seen: Seen,
}

impl Gate {
    /// `seed` is not known outside, or prefixes could be chosen that share a bucket with a victim's.
    pub(super) fn new(limits: Limits, seed: u64) -> Self {
        let prefixes = vec![Bucket::default(); PREFIXES].into_boxed_slice();
        Self { limits, seed, prefixes, in_all: Bucket::default(), seen: Seen::default() }
    }

    /// Whether the flow with this hash may be asked for at `backends` backends; what is granted is paid for. `again`:
    /// it was asked for before, so it has been seen.
    pub(super) fn admit(
        &mut self,
        (client, flow): (Address, u64),
        backends: usize,
        again: bool,
        now: Duration,
    ) -> Admission {
        let Limits { per_prefix, in_all, .. } = self.limits;
        let place = place(self.seed, client);
        let by_prefix = self.prefixes[place].level(per_prefix, now);
        let level = by_prefix.max(self.in_all.level(in_all, now));
        if level != Level::Full {
            let seen = self.seen.note(flow, now) || again;
            match (level, seen) {
                (Level::Empty, _) if by_prefix == Level::Empty => return Admission::LimitedByPrefix,
                (Level::Empty, _) => return Admission::LimitedInAll,
                (_, false) => return Admission::PutOff,
                (_, true) => {}
            }
        }
        self.prefixes[place].take(per_prefix, 1, now);
        self.in_all.take(in_all, backends as u64, now);
        Admission::Granted
    }
}

fn place(seed: u64, client: Address) -> usize {
    let prefix = if client.is_v4() { &client.bytes[..15] } else { &client.bytes[..7] };
    let hash = Stable::new(seed).bytes(prefix).finish();
    usize::try_from(hash % PREFIXES as u64).expect("less than PREFIXES")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATE: Rate = Rate { per_second: 10, burst: 4 };

    fn gate(per_prefix: Rate, in_all: Rate) -> Gate {
        Gate::new(Limits { per_prefix, in_all, ..Limits::default() }, 0)
    }

    fn client(n: u8) -> Address {
        Address::v4([192, 0, n, 1])
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    const WIDE: Rate = Rate { per_second: 1_000_000, burst: 1_000_000 };

    #[test]
    fn past_half_only_what_was_seen_before() {
        let mut gate = gate(RATE, WIDE);
        let mut admit = |flow, at| gate.admit((client(1), flow), 1, false, ms(at));
        assert_eq!([1, 2].map(|flow| admit(flow, 0)), [Admission::Granted; 2]);
        assert_eq!([3, 4].map(|flow| admit(flow, 0)), [Admission::PutOff; 2]);
        assert_eq!([3, 4].map(|flow| admit(flow, 50)), [Admission::Granted; 2]);
        assert_eq!(admit(3, 50), Admission::LimitedByPrefix);
        assert_eq!(admit(5, 500), Admission::Granted, "tokens come back");
    }

    #[test]
    fn prefixes_have_their_own_limit_and_one_in_all() {
        let mut gate = gate(RATE, Rate { per_second: 10, burst: 300 });
        for n in 0..100 {
            let admission = gate.admit((client(1), n), 1, true, ms(0));
            assert_eq!(admission == Admission::Granted, n < 4, "{n}");
        }
        assert_eq!(gate.admit((client(2), 7), 200, true, ms(0)), Admission::Granted);
        assert_eq!(gate.admit((client(3), 8), 200, true, ms(0)), Admission::Granted, "whole, though above");
        assert_eq!(gate.admit((client(4), 9), 1, true, ms(0)), Admission::LimitedInAll);
        let v6 = |last| Address::v6([0x20, 1, 0xd, 0xb8, 0, 0, 1, last, 0, 0, 0, 0, 0, 0, 0, last]);
        assert_eq!(place(9, v6(1)), place(9, v6(2)), "a /56");
        assert_ne!(place(9, client(1)), place(9, client(2)));
    }

    #[test]
    fn a_rate_of_0_asks_nothing() {
        let mut gate = gate(Rate { per_second: 0, burst: 10 }, WIDE);
        assert_eq!(gate.admit((client(1), 1), 1, true, ms(9999)), Admission::LimitedByPrefix);
    }

    proptest! {
        #[test]
        fn a_limit_holds_in_every_window(
            steps in prop::collection::vec((0u64..400, 1u64..4), 1..200),
            per_second in 1u32..50,
            burst in 1u32..20,
        ) {
            let rate = Rate { per_second, burst };
            let (mut bucket, mut now, mut taken) = (Bucket::default(), 0, Vec::new());
            for (wait, tokens) in steps {
                now += wait;
                if bucket.level(rate, ms(now)) != Level::Empty {
                    bucket.take(rate, tokens, ms(now));
                    taken.push((now, tokens));
                } else {
                    let ready = bucket.ready(rate);
                    prop_assert!(ready > ms(now));
                    prop_assert!(bucket.level(rate, ready) != Level::Empty);
                }
            }
            for (n, &(from, _)) in taken.iter().enumerate() {
                let mut sum = 0;
                for &(to, tokens) in &taken[n..] {
                    sum += tokens;
                    // At most three tokens at once, the first of which was there.
                    let most = u64::from(burst) * 1000 + (to - from) * u64::from(per_second) + 2000;
                    prop_assert!(sum * 1000 <= most, "{} in {} ms", sum, to - from);
                }
            }
        }
    }
}
