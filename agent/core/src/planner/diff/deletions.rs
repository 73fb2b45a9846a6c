//! What is no longer wanted, and when it may go.
//!
//! Service entries go at once: lookups then miss them. What they named goes when no packet can be reading it any
//! more, by a later plan: that is decided here, from what the mirror says about when it was last named.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Work;
use crate::planner::Action;
use crate::planner::installed::{GRACE, Spot};

impl Work<'_> {
    /// Everything that goes.
    pub(super) fn delete(&mut self) {
        self.unpublish();
        self.forget_ranges();
        self.clear_leftovers();
        self.clear_orphans();
        self.clear_hops();
        self.forget_deliveries();
        self.forget_gateways();
        self.unmark_buckets();
    }

    fn unpublish(&mut self) {
        let installed = self.installed;
        for (key, live) in &installed.live {
            if !self.wanted.services.contains_key(key) || self.moved_or_new.contains(key) {
                for passed in installed.passed(key, live.spot.0) {
                    *self.space.passing.entry(passed).or_default() -= 1;
                }
                self.unpublish_spot(live.spot);
                self.forget_server_ids(live);
            }
        }
        // A stray may be all that lookups find of a wanted service; it stays until that is published.
        for &spot in installed.strays.keys() {
            let key = installed.entry(spot).key();
            let replaced = key.is_none_or(|key| {
                !self.wanted.services.contains_key(&key)
                    || installed.live.contains_key(&key)
                    || self.moved_or_new.contains(&key)
            });
            if replaced {
                self.unpublish_spot(spot);
            }
        }
    }

    fn unpublish_spot(&mut self, (bucket, entry): Spot) {
        self.actions.push(Action::UnpublishEntry { bucket, entry });
        // Then its backends are to be cleared.
        self.wait_until(self.now + GRACE);
    }

    /// Backends that their services no longer want.
    fn clear_leftovers(&mut self) {
        let (wanted, installed) = (self.wanted, self.installed);
        for (key, live) in &installed.live {
            let Some(table) = wanted.services.get(key) else { continue };
            let settled = live.settled.as_ref() == Some(table);
            if settled || !self.has_ring(live, table) || self.moved_or_new.contains(key) {
                continue;
            }
            let leftovers: Vec<u32> = self.leftovers(live, table).collect();
            // Where a slot or a server ID names one yet, this plan only takes that away.
            if !self.names(live, &leftovers) && !self.has_server_ids(live, &leftovers) {
                self.clear_when(&leftovers, live.quiet_at);
            }
        }
    }

    fn clear_orphans(&mut self) {
        // Some of them may be a stray's, and it may be found by lookups.
        if !self.installed.strays.is_empty() {
            self.wait_until(self.now + GRACE);
            return;
        }
        let orphans: Vec<(u32, Duration)> = self.installed.orphans.iter().map(|(&i, &at)| (i, at)).collect();
        let servers: BTreeSet<u32> =
            self.installed.server_ids.values().map(|server| server.backend).collect();
        for (index, quiet_at) in orphans {
            if servers.contains(&index) {
                self.wait_until(self.now + GRACE);
            } else {
                self.clear_when(&[index], quiet_at);
            }
        }
    }

    fn clear_when(&mut self, backends: &[u32], quiet_at: Duration) {
        if backends.is_empty() {
            return;
        }
        if quiet_at > self.now {
            self.wait_until(quiet_at);
            return;
        }
        self.actions.extend(backends.iter().map(|&index| Action::ClearBackend { index }));
        // Then their hops are to be cleared.
        self.wait_until(self.now + GRACE);
    }

    fn clear_hops(&mut self) {
        let installed = self.installed;
        for (index, hop) in (0u32..).zip(&installed.hops).skip(1) {
            let unused = installed.hop_users[index as usize] == 0 && !self.space.used_hops.contains(&index);
            if hop.ifindex == 0 || !unused {
                continue;
            }
            match installed.quiet_hops.get(&index) {
                Some(&quiet_at) if quiet_at > self.now => self.wait_until(quiet_at),
                _ => self.actions.push(Action::ClearHop { index }),
            }
        }
    }

    /// Lookups need not go on from a bucket that nothing passes any more.
    fn unmark_buckets(&mut self) {
        let installed = self.installed;
        let touched = self.space.passing.keys().copied().chain(installed.misflagged.iter().copied());
        let touched: BTreeSet<u32> = touched.collect();
        for bucket in touched {
            let change = self.space.passing.get(&bucket).copied().unwrap_or(0);
            let passing = i64::from(installed.passing[bucket as usize]) + change;
            let marked = installed.buckets[bucket as usize].overflowed != 0
                || installed.misflagged.contains(&bucket)
                || self.space.overflowed.contains(&bucket);
            if passing == 0 && marked {
                self.actions.push(Action::SetOverflowed { bucket, value: 0 });
            }
        }
    }
}
