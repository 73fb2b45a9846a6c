//! Fragments that came before their datagram's first one: held for a while, a bounded number of them.
//!
//! In come frames and datagrams whose first fragment has come; out go the frames that may now be sent again. Generic over
//! what names a datagram and what a frame is: nothing of them is looked into.

use std::{collections::BTreeMap, time::Duration};

/// So long a fragment waits for its first one. What a path reorders is less than a round trip apart.
const WAIT: Duration = Duration::from_secs(1);
/// Datagrams at most, those included whose fragments were sent again within this time.
const DATAGRAMS: usize = 1024;
/// Fragments of one of them at most: 64 KiB in packets of 1,280 bytes.
const OF_DATAGRAM: usize = 64;
/// How often fragments of one of them are sent again at most: some may come too early once more, where another node has to have
/// its first one too, but not for ever.
const SENT_AGAIN: usize = 2 * OF_DATAGRAM;
/// Fragments in all; each may have 3 KiB.
const IN_ALL: usize = 2048;

/// What is held, and what became of what was.
#[derive(Debug)]
pub struct Waiting<K, F> {
    datagrams: BTreeMap<K, Datagram<F>>,
    held: usize,
    counters: Counters,
}

#[derive(Debug)]
struct Datagram<F> {
    frames: Vec<F>,
    sent: usize,
    until: Duration,
}

/// Fragments that came too early, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Their first one came, and they were sent again.
    pub sent_again: u64,
    /// Those of them that came in at a gateway by an interface that can't send frames of programs: lost, but for those of
    /// this node's own endpoints.
    pub not_transmitted: u64,
    /// Their first one came, but too many wait to be sent again.
    pub queue_full: u64,
    /// It didn't come.
    pub expired: u64,
    /// There was no room.
    pub no_room: u64,
    /// The kernel refused to take them again.
    pub refused: u64,
}

impl Counters {
    /// Each with its name.
    pub const fn rows(&self) -> [(&'static str, u64); 6] {
        let Self { sent_again, not_transmitted, queue_full, expired, no_room, refused } = *self;
        [
            ("sent_again", sent_again),
            ("not_transmitted", not_transmitted),
            ("queue_full", queue_full),
            ("expired", expired),
            ("no_room", no_room),
            ("refused", refused),
        ]
    }
}

impl<K, F> Default for Waiting<K, F> {
    fn default() -> Self {
        Self { datagrams: BTreeMap::new(), held: 0, counters: Counters::default() }
    }
}

impl<K: Ord, F> Waiting<K, F> {
    /// Holds a frame, if there is room.
    pub fn add(&mut self, datagram: K, frame: F, now: Duration) {
        let known = self.datagrams.get(&datagram).map(|datagram| datagram.frames.len());
        let has_room = known.map_or(self.datagrams.len() < DATAGRAMS, |frames| frames < OF_DATAGRAM);
        if !has_room || self.held == IN_ALL {
            self.counters.no_room += 1;
            return;
        }
        let begun = || Datagram { frames: Vec::new(), sent: 0, until: now + WAIT };
        self.datagrams.entry(datagram).or_insert_with(begun).frames.push(frame);
        self.held += 1;
    }

    /// Takes the frames of the datagrams whose first fragment has come, in the order in which they came.
    pub fn take(&mut self, has_come: impl Fn(&K) -> bool) -> Vec<F> {
        let mut frames = Vec::new();
        for (key, datagram) in &mut self.datagrams {
            let after = datagram.sent + datagram.frames.len();
            if datagram.sent < after && after <= SENT_AGAIN && has_come(key) {
                datagram.sent = after;
                frames.append(&mut datagram.frames);
            }
        }
        self.held -= frames.len();
        frames
    }

    /// Lets go what has waited long enough.
    pub fn expire(&mut self, now: Duration) {
        let before = self.held;
        self.datagrams.retain(|_, datagram| now < datagram.until);
        self.held = self.datagrams.values().map(|datagram| datagram.frames.len()).sum();
        self.counters.expired += (before - self.held) as u64;
    }

    /// Whether nothing is held or remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.datagrams.is_empty()
    }

    /// What became of those that were not taken.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATER: Duration = Duration::from_millis(999);

    #[test]
    fn fragments_wait_for_their_own_first_one_and_leave_in_order() {
        let mut waiting = Waiting::default();
        for (datagram, frame) in [(1, 'c'), (2, 'x'), (1, 'b')] {
            waiting.add(datagram, frame, Duration::ZERO);
        }
        assert_eq!(waiting.take(|_| false), []);
        assert_eq!(waiting.take(|&datagram| datagram == 1), ['c', 'b']);
        assert_eq!(waiting.take(|&datagram| datagram == 1), []);
        assert_eq!(waiting.take(|_| true), ['x']);
        waiting.expire(WAIT);
        assert!(waiting.is_empty());
        assert_eq!(waiting.counters(), Counters::default());
    }

    #[test]
    fn those_that_come_too_early_again_and_again_are_let_go() {
        let (mut waiting, mut sent) = (Waiting::default(), 0);
        for _ in 0..1000 {
            waiting.add(1, 'a', Duration::ZERO);
            sent += waiting.take(|_| true).len();
        }
        assert_eq!(sent, SENT_AGAIN);
    }

    #[test]
    fn a_datagram_waits_for_a_second_from_its_first_fragment_on() {
        let mut waiting = Waiting::default();
        waiting.add(1, 'a', Duration::ZERO);
        waiting.add(1, 'b', LATER);
        waiting.add(2, 'x', LATER);
        waiting.expire(LATER);
        assert_eq!(waiting.counters(), Counters::default());
        waiting.expire(WAIT);
        assert_eq!(waiting.counters(), Counters { expired: 2, ..Counters::default() });
        assert_eq!(waiting.take(|_| true), ['x']);
    }

    #[test]
    fn datagrams_and_fragments_are_bounded() {
        let mut waiting = Waiting::default();
        for frame in 0..OF_DATAGRAM + 3 {
            waiting.add(0, frame, Duration::ZERO);
        }
        assert_eq!(waiting.counters().no_room, 3);
        for datagram in 1..DATAGRAMS + 2 {
            waiting.add(datagram, 0, Duration::ZERO);
        }
        assert_eq!(waiting.counters().no_room, 5);
        for frame in 0..IN_ALL {
            waiting.add(1 + frame % (DATAGRAMS - 1), frame, Duration::ZERO);
        }
        assert_eq!(waiting.take(|_| true).len(), IN_ALL);
        waiting.expire(WAIT);
        waiting.add(1, 0, WAIT);
        assert_eq!(waiting.take(|_| true), [0]);
    }
}
