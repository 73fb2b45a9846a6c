//! Which ranges of an index space are free.
//!
//! A range that packets may still be reading is not free yet: it *cools* for [`GRACE`](super::GRACE). Claims are
//! tolerant of what is in use already, because what is read back from a kernel may overlap.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

/// Free, cooling and used ranges; best fit.
#[derive(Clone, Debug)]
pub(in crate::planner) struct Blocks {
    /// Start to length; neighbours are joined.
    free: BTreeMap<u32, u32>,
    /// The same, by length.
    by_length: BTreeSet<(u32, u32)>,
    /// (Free from then on, start) to length.
    cooling: BTreeMap<(Duration, u32), u32>,
}

impl Blocks {
    /// All of it free.
    pub(in crate::planner) fn new(space: Range<u32>) -> Self {
        let mut blocks = Self { free: BTreeMap::new(), by_length: BTreeSet::new(), cooling: BTreeMap::new() };
        blocks.release(space.start, space.end.saturating_sub(space.start));
        blocks
    }

    /// Takes the shortest free range that is long enough.
    pub(in crate::planner) fn take(&mut self, length: u32) -> Option<u32> {
        let &(_, start) = self.by_length.range((length, 0)..).next()?;
        self.claim(start, length);
        Some(start)
    }

    /// Whether all of the range is free.
    pub(in crate::planner) fn is_free(&self, start: u32, length: u32) -> bool {
        self.free.range(..=start).next_back().is_some_and(|(&from, &long)| {
            u64::from(start) + u64::from(length) <= u64::from(from) + u64::from(long)
        })
    }

    /// Marks as used whatever of the range is free.
    pub(in crate::planner) fn claim(&mut self, start: u32, length: u32) {
        let end = start.saturating_add(length);
        let before = self.free.range(..=start).next_back().map(|(&from, &long)| (from, long));
        let within = self.free.range(start..end).map(|(&from, &long)| (from, long));
        let touched: BTreeSet<(u32, u32)> = before.into_iter().chain(within).collect();
        for (from, long) in touched {
            let to = from + long;
            if to <= start {
                continue;
            }
            self.forget(from, long);
            self.remember(from, start.saturating_sub(from));
            self.remember(to.min(end.max(from)), to.saturating_sub(end));
        }
    }

    /// Makes a used range free.
    pub(in crate::planner) fn release(&mut self, start: u32, length: u32) {
        if length == 0 {
            return;
        }
        let (mut from, mut to) = (start, start + length);
        if let Some((&left, &long)) = self.free.range(..start).next_back()
            && left + long == from
        {
            self.forget(left, long);
            from = left;
        }
        if let Some(&long) = self.free.get(&to) {
            self.forget(to, long);
            to += long;
        }
        self.remember(from, to - from);
    }

    /// Makes a used range free from some time on.
    pub(in crate::planner) fn cool(&mut self, start: u32, length: u32, until: Duration) {
        if length > 0 {
            self.cooling.insert((until, start), length);
        }
    }

    /// Makes free what has cooled.
    pub(in crate::planner) fn warm(&mut self, now: Duration) {
        while let Some((&(until, start), &length)) = self.cooling.first_key_value()
            && until <= now
        {
            self.cooling.pop_first();
            self.release(start, length);
        }
    }

    /// When something becomes free.
    pub(in crate::planner) fn next_free(&self) -> Option<Duration> {
        self.cooling.keys().next().map(|&(until, _)| until)
    }

    /// Keeps cooling what another view of the same space keeps cooling, as far as it is free here.
    pub(in crate::planner) fn cool_as(&mut self, other: &Self) {
        for (&(until, start), &length) in &other.cooling {
            if self.is_free(start, length) {
                self.claim(start, length);
                self.cool(start, length, until);
            }
        }
    }

    /// How much is free.
    pub(in crate::planner) fn free(&self) -> u64 {
        self.free.values().map(|&length| u64::from(length)).sum()
    }

    fn remember(&mut self, start: u32, length: u32) {
        if length > 0 {
            self.free.insert(start, length);
            self.by_length.insert((length, start));
        }
    }

    fn forget(&mut self, start: u32, length: u32) {
        self.free.remove(&start);
        self.by_length.remove(&(length, start));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free(blocks: &Blocks) -> Vec<(u32, u32)> {
        let listed: BTreeSet<(u32, u32)> = blocks.free.iter().map(|(&start, &long)| (long, start)).collect();
        assert_eq!(listed, blocks.by_length);
        blocks.free.iter().map(|(&start, &long)| (start, long)).collect()
    }

    #[test]
    fn takes_the_shortest_that_fits() {
        let mut blocks = Blocks::new(1..101);
        blocks.claim(11, 10);
        blocks.claim(41, 10);
        assert_eq!(free(&blocks), [(1, 10), (21, 20), (51, 50)]);
        assert_eq!(blocks.take(11), Some(21));
        assert_eq!(blocks.take(9), Some(32));
        assert_eq!(blocks.take(51), None);
        assert_eq!(free(&blocks), [(1, 10), (51, 50)]);
    }

    #[test]
    fn neighbours_are_joined() {
        let mut blocks = Blocks::new(0..30);
        blocks.claim(0, 30);
        blocks.release(0, 10);
        blocks.release(20, 10);
        blocks.release(10, 10);
        assert_eq!(free(&blocks), [(0, 30)]);
    }

    #[test]
    fn claims_of_what_is_used_already_do_no_harm() {
        let mut blocks = Blocks::new(0..30);
        blocks.claim(5, 10);
        blocks.claim(0, 20);
        blocks.claim(25, 100);
        assert_eq!(free(&blocks), [(20, 5)]);
        assert!(blocks.is_free(20, 5) && !blocks.is_free(19, 2) && !blocks.is_free(24, 2));
    }

    #[test]
    fn what_cools_is_free_later() {
        let mut blocks = Blocks::new(0..10);
        blocks.claim(0, 10);
        blocks.cool(0, 10, Duration::from_secs(1));
        blocks.warm(Duration::from_millis(999));
        assert_eq!((blocks.free(), blocks.next_free()), (0, Some(Duration::from_secs(1))));
        blocks.warm(Duration::from_secs(1));
        assert_eq!((blocks.free(), blocks.next_free()), (10, None));
    }
}
