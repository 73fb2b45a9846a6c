//! What was done in the kernel, done in the mirror.

use std::time::Duration;

use fairlead_abi::{Backend, Hop, Ring, ServerKey, ServiceEntry, ServiceKey};

use super::{GRACE, Installed, Live, Spot, in_use};
use crate::planner::Action;

impl Installed {
    /// Notes that `action` was carried out. `now` is when, at the latest; what the action made unreachable is used again
    /// only [`GRACE`] after it.
    pub fn apply(&mut self, action: &Action, now: Duration) {
        for blocks in [&mut self.slots, &mut self.regions, &mut self.ids] {
            blocks.warm(now);
        }
        match *action {
            Action::WriteHop { index, hop } => self.write_hop(index, hop),
            Action::ClearHop { index } => self.clear_hop(index),
            Action::WriteBackend { index, backend } | Action::SetBackendHop { index, backend } => {
                self.write_backend(index, backend, now);
            }
            Action::ClearBackend { index } => self.clear_backend(index, now),
            Action::WriteSlots { first, ref slots } => {
                self.slots.claim(first, slots.len());
                self.unnamed.insert(first, (slots.len(), slots.hash));
            }
            Action::SetOverflowed { bucket, value } => {
                self.buckets[bucket as usize].overflowed = value;
                self.check_flag(bucket);
            }
            Action::PublishEntry { bucket, entry, value, room } => {
                self.publish((bucket, entry), value, room, now);
            }
            Action::SwitchRing { bucket, entry, ring } => self.switch_ring((bucket, entry), ring, now),
            Action::SetEntryFlags { bucket, entry, flags } => {
                self.buckets[bucket as usize].entries[entry].flags = flags;
                self.unsettle_spot((bucket, entry));
            }
            Action::UnpublishEntry { bucket, entry } => self.unpublish((bucket, entry), now),
            Action::PutServerId { key, server } => {
                let before = self.server_ids.insert(key, server);
                self.server_id_changed(&key, before.is_some_and(|before| before != server), now);
            }
            Action::RemoveServerId { key } => {
                let before = self.server_ids.remove(&key);
                self.server_id_changed(&key, before.is_some(), now);
            }
            Action::PutRange { service, range } => {
                self.allowed.entry(service).or_default().insert(range);
            }
            Action::RemoveRange { service, range } => {
                if let Some(ranges) = self.allowed.get_mut(&service) {
                    ranges.remove(&range);
                    if ranges.is_empty() {
                        self.allowed.remove(&service);
                    }
                }
            }
            Action::PutDelivery { key, delivery } => drop(self.deliveries.insert(key, delivery)),
            Action::RemoveDelivery { key } => drop(self.deliveries.remove(&key)),
            Action::PutGateway { prefix } => drop(self.gateways.insert(prefix)),
            Action::RemoveGateway { prefix } => drop(self.gateways.remove(&prefix)),
            // Formers are not mirrored.
            Action::SetSlot { .. }
            | Action::ClearBackendCounters { .. }
            | Action::ClearServiceCounters { .. } => {}
        }
    }

    fn write_hop(&mut self, index: u32, hop: Hop) {
        self.free_hops.claim(index, 1);
        self.hops[index as usize] = hop;
        self.hop_index.insert(hop, index);
    }

    fn clear_hop(&mut self, index: u32) {
        let hop = std::mem::take(&mut self.hops[index as usize]);
        if self.hop_index.get(&hop) == Some(&index) {
            self.hop_index.remove(&hop);
        }
        self.quiet_hops.remove(&index);
        self.free_hops.release(index, 1);
    }

    fn write_backend(&mut self, index: u32, backend: Backend, now: Duration) {
        let before = std::mem::replace(&mut self.backends[index as usize], backend);
        self.use_hop(backend.hop);
        if in_use(&before) {
            self.leave_hop(before.hop, now);
        }
        self.regions.claim(index, 1);
        match self.owner(index) {
            Some(key) => self.unsettle(&key),
            // Nothing names it yet, so nothing has to be waited for if it stays so.
            None => drop(self.orphans.insert(index, Duration::ZERO)),
        }
    }

    fn clear_backend(&mut self, index: u32, now: Duration) {
        let before = std::mem::take(&mut self.backends[index as usize]);
        if in_use(&before) {
            self.leave_hop(before.hop, now);
        }
        if self.orphans.remove(&index).is_some() {
            self.regions.release(index, 1);
        } else if let Some(key) = self.owner(index) {
            self.unsettle(&key);
        }
    }

    pub(super) fn use_hop(&mut self, hop: u32) {
        // What is read back may name any number.
        if let Some(users) = self.hop_users.get_mut(hop as usize) {
            *users += 1;
        }
        self.quiet_hops.remove(&hop);
    }

    fn leave_hop(&mut self, hop: u32, now: Duration) {
        let Some(users) = self.hop_users.get_mut(hop as usize) else { return };
        *users -= 1;
        if *users == 0 && hop != 0 {
            self.quiet_hops.insert(hop, now + GRACE);
        }
    }

    fn publish(&mut self, spot: Spot, value: ServiceEntry, room: u32, now: Duration) {
        let key = value.key().expect("a plan publishes entries with a family");
        let ring_hash = self.name_ring(value.ring);
        let live = Live {
            spot,
            room,
            quiet_at: Duration::ZERO,
            ring_hash,
            owns_ring: true,
            owns_id: true,
            changed_at: (value.flags & ServiceEntry::RECENT != 0).then_some(now),
            settled: None,
        };
        self.buckets[spot.0 as usize].entries[spot.1] = value;
        if let Some(mut before) = self.live.remove(&key) {
            before.owns_id &= self.entry(before.spot).id != value.id;
            self.count_passing(&key, before.spot.0, -1);
            self.strays.insert(before.spot, before);
        }
        self.ids.claim(value.id, 1);
        self.cooling_entries.remove(&spot);
        self.adopt(&key, value.backends, room);
        self.live.insert(key, live);
        self.count_passing(&key, spot.0, 1);
    }

    /// Sets a region aside, with what was written there before.
    fn adopt(&mut self, key: &ServiceKey, start: u32, room: u32) {
        if room == 0 {
            return;
        }
        self.regions.claim(start, room);
        let adopted: Vec<u32> = self.orphans.range(start..start + room).map(|(&index, _)| index).collect();
        for index in adopted {
            self.orphans.remove(&index);
        }
        self.region_starts.insert(start, *key);
    }

    fn switch_ring(&mut self, spot: Spot, ring: Ring, now: Duration) {
        let hash = self.name_ring(ring);
        let entry = &mut self.buckets[spot.0 as usize].entries[spot.1];
        let before = std::mem::replace(&mut entry.ring, ring);
        let Some(key) = entry.key() else { return };
        let Some(live) = self.live.get_mut(&key).filter(|live| live.spot == spot) else { return };
        if live.owns_ring {
            self.slots.cool(before.first_slot, before.size, now + GRACE);
        }
        live.owns_ring = true;
        live.ring_hash = hash;
        live.quiet_at = now + GRACE;
        live.changed_at = Some(now);
        live.settled = None;
    }

    /// Where it led elsewhere before, packets may be going there.
    fn server_id_changed(&mut self, key: &ServerKey, led_elsewhere: bool, now: Duration) {
        let Some(owner) = self.region_starts.get(&key.first) else { return };
        if let Some(live) = self.live.get_mut(owner) {
            live.settled = None;
            if led_elsewhere {
                live.quiet_at = live.quiet_at.max(now + GRACE);
            }
        }
    }

    /// The hash of a block that gets its first name.
    fn name_ring(&mut self, ring: Ring) -> Option<u64> {
        if ring.size == 0 {
            return Some(0);
        }
        let (size, hash) = self.unnamed.remove(&ring.first_slot)?;
        (size == ring.size).then_some(hash)
    }

    fn unpublish(&mut self, spot: Spot, now: Duration) {
        let entry = &mut self.buckets[spot.0 as usize].entries[spot.1];
        let (value, key) = (*entry, entry.key());
        (entry.port, entry.protocol, entry.family, entry.id) = ([0; 2], 0, 0, 0);
        self.cooling_entries.insert(spot, now + GRACE);
        let stray = self.strays.remove(&spot);
        if stray.is_some() {
            // Which of the orphans were its own can't be told where it was read back.
            self.orphans.values_mut().for_each(|quiet_at| *quiet_at = (*quiet_at).max(now + GRACE));
        }
        let live = stray.or_else(|| {
            let key = key?;
            self.live.get(&key).filter(|live| live.spot == spot)?;
            self.count_passing(&key, spot.0, -1);
            self.live.remove(&key)
        });
        let Some(live) = live else { return };
        if live.owns_ring {
            self.slots.cool(value.ring.first_slot, value.ring.size, now + GRACE);
        }
        if live.owns_id {
            self.ids.cool(value.id, 1, now + GRACE);
        }
        self.abandon(value.backends, live.room, now + GRACE);
    }

    /// Gives a region up; its backends are cleared once no packet reads them.
    fn abandon(&mut self, start: u32, room: u32, quiet_at: Duration) {
        if room == 0 {
            return;
        }
        self.region_starts.remove(&start);
        for index in start..start + room {
            if in_use(&self.backends[index as usize]) {
                self.orphans.insert(index, quiet_at);
            } else {
                self.regions.cool(index, 1, quiet_at);
            }
        }
    }

    /// Whose region an index of `BACKENDS` lies in.
    fn owner(&self, index: u32) -> Option<ServiceKey> {
        let (&start, key) = self.region_starts.range(..=index).next_back()?;
        let of = |live: &&Live| self.entry(live.spot).backends == start;
        let stray = || self.strays.values().find(of);
        let live = self.live.get(key).filter(of).or_else(stray)?;
        (index < start + live.room).then_some(*key)
    }

    fn unsettle(&mut self, key: &ServiceKey) {
        if let Some(live) = self.live.get_mut(key) {
            live.settled = None;
        }
    }

    fn unsettle_spot(&mut self, spot: Spot) {
        if let Some(key) = self.entry(spot).key() {
            self.unsettle(&key);
        }
    }

    pub(super) fn count_passing(&mut self, key: &ServiceKey, bucket: u32, change: i32) {
        for passed in self.passed(key, bucket) {
            let count = &mut self.passing[passed as usize];
            *count = count.saturating_add_signed(change);
            self.check_flag(passed);
        }
    }

    pub(super) fn check_flag(&mut self, bucket: u32) {
        let flagged = self.buckets[bucket as usize].overflowed != 0;
        if flagged == (self.passing[bucket as usize] > 0) {
            self.misflagged.remove(&bucket);
        } else {
            self.misflagged.insert(bucket);
        }
    }
}
