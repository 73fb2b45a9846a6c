//! The time that all processes of this machine agree on, and that nobody sets.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Time since some moment that is the same for all processes.
#[must_use]
pub fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every kernel has this clock").into()
}
