//! What the prober did, for metrics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use fairlead_core::model::ProbeState;

use super::ask::{Failure, Outcome};

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident;)*) => {
        /// What the prober counts; shared with whoever shows it.
        #[derive(Debug, Default)]
        pub struct Counters {
            $(pub(super) $name: AtomicU64,)*
        }

        /// [`Counters`] at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Snapshot {
            $($(#[doc = $doc])* pub $name: u64,)*
        }

        impl Counters {
            /// What they say now; each by itself, not all at one instant.
            #[must_use]
            pub fn snapshot(&self) -> Snapshot {
                Snapshot { $($name: self.$name.load(Relaxed),)* }
            }
        }

        impl Snapshot {
            /// Names and values, in the order of the fields.
            #[must_use]
            pub fn values(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

counters! {
    /// Targets that are probed (now).
    targets;
    /// Of them, those whose state is bad (now).
    bad;
    /// Probes that have begun and not ended (now).
    in_flight;
    /// Probes that were begun.
    begun;
    /// That passed.
    passed;
    /// That were refused.
    refused;
    /// That were not answered in time.
    timed_out;
    /// Whose connection was lost, or could not be made for another reason.
    disconnected;
    /// That were answered with another status than 200 to 399.
    bad_status;
    /// Whose answer was no HTTP, or whose TLS handshake failed.
    bad_answer;
    /// That this node could not send; they say nothing about the endpoint.
    unsent;
    /// That were due and left out, because of the limits on rate and concurrency.
    skipped;
    /// Targets that became good, also for the first time.
    flips_to_good;
    /// Targets that became bad.
    flips_to_bad;
    /// Times that results were published.
    published;
    /// Outer destinations that could not be written into the table of probe targets (now).
    unwritten;
}

impl Counters {
    pub(super) fn count(&self, outcome: &Outcome) {
        let counter = match outcome {
            Outcome::Passed => &self.passed,
            Outcome::Failed(Failure::Refused) => &self.refused,
            Outcome::Failed(Failure::Timeout) => &self.timed_out,
            Outcome::Failed(Failure::Disconnected) => &self.disconnected,
            Outcome::Failed(Failure::Status(_)) => &self.bad_status,
            Outcome::Failed(Failure::NotHttp | Failure::Tls) => &self.bad_answer,
            Outcome::Unsent(_) => &self.unsent,
        };
        add(counter, 1);
    }

    pub(super) fn count_flip(&self, to: ProbeState) {
        match to {
            ProbeState::Good => add(&self.flips_to_good, 1),
            ProbeState::Bad => add(&self.flips_to_bad, 1),
            ProbeState::Unknown => {}
        }
    }
}

pub(super) fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Relaxed);
}

pub(super) fn set(gauge: &AtomicU64, to: usize) {
    gauge.store(u64::try_from(to).unwrap_or(u64::MAX), Relaxed);
}
