//! Whom restricted services let in: the ranges of clients in `ALLOWED`.
//!
//! They stand under the service's id. Ranges are there before packets ask for them, and go when packets no longer do.
//! This comes before all else and waits for no room elsewhere: a service that has to stay as it was lets nobody in
//! who is not allowed. Where there is no room for all ranges, clients of those that are left out are refused.

use std::collections::BTreeSet;

use fairlead_abi::{ServiceEntry, ServiceKey};
use ipnet::IpNet;

use super::Work;
use crate::planner::installed::{GRACE, Live};
use crate::planner::{Action, Full, Installed, Map, ServiceTable};

impl Work<'_> {
    /// Restricts what is published already as it is wanted.
    pub(super) fn restrict(&mut self) {
        self.forget_stray_ranges();
        let (wanted, installed) = (self.wanted, self.installed);
        let live =
            wanted.services.iter().filter_map(|(key, table)| Some((key, table, installed.live.get(key)?)));
        let unsettled = live.filter(|(_, table, live)| live.settled.as_ref() != Some(*table));
        let services: Vec<(&ServiceKey, &ServiceTable, &Live, Vec<IpNet>)> = unsettled
            .map(|(key, table, live)| (key, &**table, live, installed.missing_ranges(live, table)))
            .collect();
        if !self.space.has_ranges(services.iter().map(|(.., missing)| missing.len()).sum()) {
            // What nobody asks for any more makes room.
            self.forget_ranges();
        }
        for (key, table, live, missing) in services {
            let value = installed.entry(live.spot);
            self.put_ranges(key, value.id, missing);
            let flags = value.flags & !ServiceEntry::RESTRICTED | table.flags & ServiceEntry::RESTRICTED;
            if flags != value.flags {
                let (bucket, entry) = live.spot;
                self.actions.push(Action::SetEntryFlags { bucket, entry, flags });
            }
        }
    }

    /// Takes away what stands under ids that no published service has: the next to get such an id lets in its own clients only.
    fn forget_stray_ranges(&mut self) {
        let installed = self.installed;
        if installed.allowed.is_empty() {
            return;
        }
        let ids: BTreeSet<u32> = installed.live.values().map(|live| installed.entry(live.spot).id).collect();
        let strays = installed.allowed.iter().filter(|(service, _)| !ids.contains(service));
        let strays = strays.flat_map(|(&service, ranges)| {
            ranges.iter().map(move |&range| Action::RemoveRange { service, range })
        });
        self.remove_ranges(strays.collect());
    }

    /// Puts ranges of a service, as many as there is room for.
    pub(super) fn put_ranges(&mut self, key: &ServiceKey, service: u32, ranges: Vec<IpNet>) {
        let room = self.space.ranges(ranges.len());
        if room < ranges.len() {
            self.unallowed += ranges.len() - room;
            self.short_of_ranges.insert(*key);
        }
        let put = |range| Action::PutRange { service, range };
        self.actions.extend(ranges.into_iter().take(room).map(put));
    }

    /// Takes away what published services don't want, unless that is done already.
    pub(super) fn forget_ranges(&mut self) {
        let installed = self.installed;
        if installed.allowed.is_empty() || std::mem::replace(&mut self.forgot_ranges, true) {
            return;
        }
        let mut unwanted = Vec::new();
        for (key, live) in &installed.live {
            let service = installed.entry(live.spot).id;
            let Some(ranges) = installed.allowed.get(&service) else { continue };
            let kept = self.wanted.services.get(key).and_then(|table| table.allowed.as_deref());
            let is_unwanted = |range: &&IpNet| kept.is_none_or(|kept| kept.binary_search(range).is_err());
            let ranges = ranges.iter().filter(is_unwanted);
            unwanted.extend(ranges.map(|&range| Action::RemoveRange { service, range }));
        }
        self.remove_ranges(unwanted);
    }

    fn remove_ranges(&mut self, removals: Vec<Action>) {
        self.space.free_ranges(removals.len());
        self.actions.extend(removals);
    }

    /// Why ranges are left out, if some are. What this plan frees they get soon.
    pub(super) fn unallowed(&mut self) -> Option<Full> {
        if self.unallowed == 0 {
            return None;
        }
        if self.actions.iter().any(|action| matches!(action, Action::RemoveRange { .. })) {
            self.wait_until(self.now + GRACE);
        }
        let capacity = self.installed.capacities.source_ranges;
        let needed = self.space.used_ranges() + self.unallowed;
        Some(Full { map: Map::Allowed, needed: needed as u64, capacity: capacity.into(), retry_at: None })
    }
}

impl Installed {
    /// The ranges that a published service wants and doesn't have.
    fn missing_ranges(&self, live: &Live, table: &ServiceTable) -> Vec<IpNet> {
        let there = self.allowed.get(&self.entry(live.spot).id);
        let is_missing = |range: &&IpNet| there.is_none_or(|there| !there.contains(range));
        table.allowed.iter().flatten().filter(is_missing).copied().collect()
    }
}
