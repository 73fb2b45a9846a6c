//! How fast a backend's connections are opened, by what its receiver counts.

use std::time::Duration;

use fairlead_abi::Count;

use super::polls::Holding;

/// A rate is taken over so long at least: counts are some seconds apart, and their times known to some milliseconds.
const OVER: Duration = Duration::from_secs(4);

/// One that is so old says nothing.
const LATELY: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Opening {
    since: Option<(u64, Duration)>,
    /// Per second.
    rate: Option<f64>,
}

impl Opening {
    /// A receiver said so.
    pub(super) fn counted(&mut self, holding: &Holding) {
        if holding.flows == Count::UNKNOWN {
            return;
        }
        let (connections, at) = (holding.connections, holding.at);
        match self.since {
            Some((before, then)) if before <= connections => {
                let elapsed = at.saturating_sub(then);
                if elapsed < OVER {
                    return;
                }
                #[expect(clippy::cast_precision_loss, reason = "connections of some seconds")]
                let opened = (connections - before) as f64;
                self.rate = Some(opened / elapsed.as_secs_f64());
            }
            // It has begun anew, and what it opened before says nothing of how fast.
            _ => self.rate = None,
        }
        self.since = Some((connections, at));
    }

    /// New connections per second, if they were counted lately.
    pub(super) fn rate(&self, now: Duration) -> Option<f64> {
        let (_, at) = self.since?;
        self.rate.filter(|_| now < at + LATELY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_of_what_was_counted_lately() {
        let mut opening = Opening::default();
        let mut count = |flows, connections, ms| {
            let at = Duration::from_millis(ms);
            opening.counted(&Holding { flows, connections, at });
            opening.rate(at)
        };
        assert_eq!(count(0, 1000, 1000), None, "since when?");
        assert_eq!(count(0, 1000, 1010), None, "the same count");
        assert_eq!(count(5, 1090, 5500), Some(20.0));
        assert_eq!(count(Count::UNKNOWN, 0, 10_000), Some(20.0), "nothing new");
        assert_eq!(count(5, 1090, 10_000), Some(0.0));
        assert_eq!(count(5, 7, 14_500), None, "its agent is another one");
        assert_eq!(count(5, 52, 19_000), Some(10.0));
        assert_eq!(opening.rate(Duration::from_secs(48)), Some(10.0));
        assert_eq!(opening.rate(Duration::from_secs(49)), None, "long ago");
    }
}
