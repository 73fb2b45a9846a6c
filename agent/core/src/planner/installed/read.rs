//! The mirror from what stands in the kernel, damaged or not.
//!
//! What can't be right (a key in a bucket where no lookup finds it, an id or region that another entry has) becomes a
//! stray: the next diff publishes the service anew and removes it. Damaged slots only lose their hash, and are
//! replaced in place.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fairlead_abi::{
    Address, BUCKET_ENTRIES, Backend, Family, MAX_PROBE, NO_BACKEND, RING_SIZES, ServiceEntry, ServiceKey,
    Slot, bucket_of,
};

use super::{Capacities, GRACE, Installed, Live, Raw, ReadSlots, Spot, in_use};
use crate::planner::diff::room_for;
use crate::planner::maglev::identity;
use crate::planner::service::ring_hash;
use crate::planner::slots::named;

const LARGEST_RING: u32 = RING_SIZES[RING_SIZES.len() - 1];

impl Installed {
    /// Reads back. `previous` is the mirror so far, if there is one: it knows what packets may still be reading. A first
    /// reader, after a start, takes everything that is free for long free: no packet stays that long.
    #[must_use]
    pub fn read(raw: &Raw<'_>, capacities: Capacities, previous: Option<&Self>, now: Duration) -> Self {
        let mut installed = Self::empty(capacities);
        installed.buckets.copy_from_slice(raw.buckets);
        installed.backends.copy_from_slice(raw.backends);
        installed.hops.copy_from_slice(raw.hops);
        installed.server_ids = raw.server_ids.clone();
        installed.allowed = raw.allowed.clone();
        installed.deliveries = raw.deliveries.clone();
        installed.gateways = raw.gateways.clone();
        installed.read_hops();
        installed.read_entries();
        installed.read_regions(raw.slots, previous);
        installed.read_orphans(previous, now);
        installed.read_changes(previous, now);
        installed.read_rings(raw.slots);
        if let Some(previous) = previous {
            installed.keep_cooling(previous, now);
        }
        for bucket in 0..capacities.buckets {
            installed.check_flag(bucket);
        }
        installed
    }

    fn read_hops(&mut self) {
        for (index, hop) in (0u32..).zip(&self.hops).skip(1) {
            if hop.ifindex != 0 {
                self.free_hops.claim(index, 1);
                self.hop_index.entry(*hop).or_insert(index);
            }
        }
        let named: Vec<u32> = self.backends.iter().filter(|b| in_use(b)).map(|b| b.hop).collect();
        for hop in named {
            self.use_hop(hop);
        }
    }

    /// Sorts the entries into live ones and strays. Of several with one key, the one that a lookup finds lives.
    fn read_entries(&mut self) {
        let mut found: BTreeMap<ServiceKey, BTreeSet<(u32, Spot)>> = BTreeMap::new();
        for (bucket, contents) in (0u32..).zip(&self.buckets) {
            for entry in 0..BUCKET_ENTRIES {
                if let Some(key) = contents.entries[entry].key() {
                    let distance = bucket.wrapping_sub(bucket_of(&key, self.mask())) & self.mask();
                    found.entry(key).or_default().insert((distance, (bucket, entry)));
                }
            }
        }
        let mut ids = BTreeSet::new();
        let mut regions = BTreeSet::new();
        for (key, spots) in found {
            for (distance, spot) in spots {
                let entry = *self.entry(spot);
                let family = key.family == Family::V4 as u8 || key.family == Family::V6 as u8;
                let id = (1..self.capacities.service_ids).contains(&entry.id);
                let region = entry.backends == 0 || entry.backends < self.capacities.backends;
                let sound = family && id && region && distance < MAX_PROBE && !self.live.contains_key(&key);
                let owns_id = id && ids.insert(entry.id);
                let owns_region = entry.backends == 0 || regions.insert(entry.backends);
                self.ids.claim(entry.id, u32::from(owns_id));
                let live = Live {
                    spot,
                    room: 0,
                    quiet_at: Duration::ZERO,
                    ring_hash: None,
                    owns_ring: false,
                    owns_id,
                    changed_at: None,
                    settled: None,
                };
                if sound && owns_id && owns_region {
                    self.count_passing(&key, spot.0, 1);
                    self.live.insert(key, live);
                } else {
                    self.strays.insert(spot, live);
                }
            }
        }
    }

    /// How far each region goes: as far as its backends do, and some spare room, but not into the next one. Those of
    /// strays are kept, too: lookups may find them until they are unpublished.
    fn read_regions(&mut self, slots: &dyn ReadSlots, previous: Option<&Self>) {
        let owner = |(key, live): (&ServiceKey, &Live)| (self.entry(live.spot).backends, (*key, live.spot));
        let strays =
            self.strays.values().filter_map(|stray| Some(owner((&self.entry(stray.spot).key()?, stray))));
        // Where a live one and a stray name the same, it is the live one's.
        let mut owners: BTreeMap<u32, (ServiceKey, Spot)> = strays.collect();
        owners.extend(self.live.iter().map(owner));
        owners.retain(|start, _| (1..self.capacities.backends).contains(start));
        for (&start, (key, spot)) in &owners {
            let next = owners.range(start + 1..).next().map_or(self.capacities.backends, |(&next, _)| next);
            let end = next.min(start.saturating_add(u32::from(NO_BACKEND)));
            let known =
                previous.and_then(|p| p.live.get(key).filter(|live| p.entry(live.spot).backends == start));
            let room = known.map_or_else(|| room_for(self.extent(*spot, end, slots)), |live| live.room);
            let room = room.min(end - start);
            self.regions.claim(start, room);
            let stray = self.strays.get_mut(spot);
            let live = stray.or_else(|| self.live.get_mut(key)).expect("owners come from these");
            live.room = room;
            live.quiet_at = known.map_or(Duration::ZERO, |known| known.quiet_at);
        }
        self.region_starts = owners.into_iter().map(|(start, (key, _))| (start, key)).collect();
    }

    /// How many entries from its start on a service uses: up to the last one that a slot or a server ID names, and on as
    /// long as one follows within the spare room. What lies beyond holds no slot; should it be wanted, it is written anew.
    fn extent(&self, spot: Spot, end: u32, slots: &dyn ReadSlots) -> u32 {
        let entry = self.entry(spot);
        let is_used = |local: u32| {
            let index = entry.backends + local;
            index < end && in_use(&self.backends[index as usize])
        };
        // A damaged entry may name a block that no ring has.
        let block = slots.block(entry.ring.first_slot, entry.ring.size.min(LARGEST_RING));
        let servers = self.server_ids_of(entry.backends);
        let servers = servers.filter_map(|(_, server)| server.backend.checked_sub(entry.backends));
        let named = block.iter().flat_map(named).map(u32::from).chain(servers);
        let named = named.filter(|&local| is_used(local)).max();
        let mut extent = named.map_or(0, |last| last + 1);
        while let Some(last) = (extent..room_for(extent)).rev().find(|&local| is_used(local)) {
            extent = last + 1;
        }
        extent
    }

    /// When slots have changed: the mirror so far knows. A first reader takes an entry that says so for one of now.
    fn read_changes(&mut self, previous: Option<&Self>, now: Duration) {
        let flagged = |spot: Spot| self.entry(spot).flags & ServiceEntry::RECENT != 0;
        let changed: Vec<(ServiceKey, Duration)> = match previous {
            None => {
                let recent = self.live.iter().filter(|(_, live)| flagged(live.spot));
                recent.map(|(key, _)| (*key, now)).collect()
            }
            Some(previous) => {
                let known = previous.live.iter();
                known.filter_map(|(key, live)| Some((*key, live.changed_at?))).collect()
            }
        };
        for (key, at) in changed {
            if let Some(live) = self.live.get_mut(&key) {
                live.changed_at = Some(at);
            }
        }
    }

    fn read_orphans(&mut self, previous: Option<&Self>, now: Duration) {
        for index in 1..self.capacities.backends {
            if !in_use(&self.backends[index as usize]) || !self.regions.is_free(index, 1) {
                continue;
            }
            // One that was no orphan before may just have lost its service.
            let quiet_at = previous.map_or(Duration::ZERO, |previous| {
                previous.orphans.get(&index).copied().unwrap_or(now + GRACE)
            });
            self.orphans.insert(index, quiet_at);
        }
        for &index in self.orphans.keys() {
            self.regions.claim(index, 1);
        }
    }

    /// Live ones first: where a stray names the same slots, they are the live one's.
    fn read_rings(&mut self, slots: &dyn ReadSlots) {
        let keys: Vec<ServiceKey> = self.live.keys().copied().collect();
        for key in keys {
            let (owns, hash) = self.read_ring(&self.live[&key].clone(), slots);
            let live = self.live.get_mut(&key).expect("looked up above");
            (live.owns_ring, live.ring_hash) = (owns, hash);
        }
        let spots: Vec<Spot> = self.strays.keys().copied().collect();
        for spot in spots {
            let (owns, _) = self.read_ring(&self.strays[&spot].clone(), slots);
            self.strays.get_mut(&spot).expect("looked up above").owns_ring = owns;
        }
    }

    /// Whether the entry's block of slots is its own, and what it resolves to; claims it.
    fn read_ring(&mut self, live: &Live, slots: &dyn ReadSlots) -> (bool, Option<u64>) {
        let ring = self.entry(live.spot).ring;
        if ring.size == 0 {
            return (true, (ring.first_slot == 0).then_some(0));
        }
        let fits = u64::from(ring.first_slot) + u64::from(ring.size) <= u64::from(self.capacities.slots);
        if !RING_SIZES.contains(&ring.size) || !fits || !self.slots.is_free(ring.first_slot, ring.size) {
            return (false, None);
        }
        self.slots.claim(ring.first_slot, ring.size);
        let block = slots.block(ring.first_slot, ring.size);
        if block.len() < ring.size as usize {
            return (true, None);
        }
        let region = self.region(live);
        (true, hash(&block, &self.backends[region.start as usize..region.end as usize]))
    }

    fn keep_cooling(&mut self, previous: &Self, now: Duration) {
        self.slots.cool_as(&previous.slots);
        self.regions.cool_as(&previous.regions);
        self.ids.cool_as(&previous.ids);
        for (&spot, &until) in previous.cooling_entries.iter().filter(|(_, until)| **until > now) {
            if self.entry(spot).key().is_none() {
                self.cooling_entries.insert(spot, until);
            }
        }
        for (&hop, &until) in &previous.quiet_hops {
            if self.hop_users[hop as usize] == 0 && self.hops[hop as usize].ifindex != 0 {
                self.quiet_hops.insert(hop, until);
            }
        }
    }
}

/// What a block of slots resolves to; `None` where one names what is no backend, or one of two entries for the same address
/// that isn't the first, or one twice. Either all take new connections or none.
fn hash(block: &[Slot], region: &[Backend]) -> Option<u64> {
    let mut seen: BTreeSet<Address> = BTreeSet::new();
    let identities: Vec<Option<u64>> = region
        .iter()
        .map(|backend| (in_use(backend) && seen.insert(backend.outer)).then(|| identity(&backend.outer)))
        .collect();
    let resolve = |index: u16| identities.get(usize::from(index)).copied().flatten();
    let is_sound = |slot: &Slot| {
        let mut before = BTreeSet::new();
        named(slot).all(|index| resolve(index).is_some() && before.insert(index))
    };
    if !block.iter().all(is_sound) {
        return None;
    }
    let resolved: Option<Vec<u64>> = block.iter().map(|slot| resolve(slot.current)).collect();
    match resolved {
        Some(resolved) => Some(ring_hash(resolved.into_iter())),
        None => block.iter().all(|slot| slot.current == NO_BACKEND).then_some(0),
    }
}
