//! When something was, for a process that comes later: its age is right however the wall clock is set.

use std::{fs, time::Duration};

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// The kernel's name for the time from one boot to the next.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A moment of this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Which boot it was after.
    boot: String,
    /// How long after it, sleep included.
    since_boot: Duration,
}

impl Moment {
    /// Now; `None` where the kernel doesn't say.
    pub(crate) fn now() -> Option<Self> {
        let boot = fs::read_to_string(BOOT_ID).ok()?.trim().to_owned();
        let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?.into();
        Some(Self { boot, since_boot })
    }

    /// How long this was before `now`; `None` where the machine was started anew since.
    pub(crate) fn age(&self, now: &Self) -> Option<Duration> {
        (self.boot == now.boot).then(|| now.since_boot.checked_sub(self.since_boot)).flatten()
    }

    #[cfg(test)]
    pub(crate) fn after(self, time: Duration) -> Self {
        Self { since_boot: self.since_boot + time, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_hold_within_a_boot() {
        let at = |boot: &str, seconds| Moment { boot: boot.into(), since_boot: Duration::from_secs(seconds) };
        assert_eq!(at("a", 5).age(&at("a", 65)), Some(Duration::from_mins(1)));
        assert_eq!(at("a", 5).age(&at("b", 65)), None);
        assert_eq!(at("a", 65).age(&at("a", 5)), None);
        let (before, after) = (Moment::now().unwrap(), Moment::now().unwrap());
        assert!(before.age(&after).unwrap() < Duration::from_mins(1));
    }
}
