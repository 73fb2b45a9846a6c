//! What is free, less what the plan in the making has taken.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use fairlead_abi::{BUCKET_ENTRIES, Hop, MAX_PROBE, ServiceKey, bucket_of};

use crate::planner::installed::{Blocks, Spot};
use crate::planner::{Full, Installed, Map};

/// A view of [`Installed`]'s room. Copies only what it takes from: most plans take nothing.
pub(super) struct Space<'a> {
    installed: &'a Installed,
    now: Duration,
    slots: Cow<'a, Blocks>,
    regions: Cow<'a, Blocks>,
    ids: Cow<'a, Blocks>,
    hops: Cow<'a, Blocks>,
    /// Hops that the plan writes.
    new_hops: HashMap<Hop, u32>,
    /// Hops that backends will name when the plan is done, as far as it touches them.
    pub(super) used_hops: BTreeSet<u32>,
    /// Service entries that the plan publishes.
    entries: BTreeSet<Spot>,
    /// Buckets that the plan marks as overflowed.
    pub(super) overflowed: BTreeSet<u32>,
    /// How many entries `SERVER_IDS` has when the plan is done.
    server_ids: usize,
    /// How many entries `ALLOWED` has when the plan is done.
    ranges: usize,
    /// How many entries more or less pass a bucket when the plan is done.
    pub(super) passing: BTreeMap<u32, i64>,
    /// What was taken since it was last kept.
    taken: Vec<Taken>,
}

/// Something that a service took.
enum Taken {
    Slots(u32, u32),
    Region(u32, u32),
    Id(u32),
    Hop(Hop, u32),
    Entry(Spot),
    Passing(u32),
    Overflowed(u32),
    ServerIds(usize),
    FreedServerIds(usize),
    Ranges(usize),
}

impl<'a> Space<'a> {
    pub(super) fn new(installed: &'a Installed, now: Duration) -> Self {
        Self {
            installed,
            now,
            slots: Cow::Borrowed(&installed.slots),
            regions: Cow::Borrowed(&installed.regions),
            ids: Cow::Borrowed(&installed.ids),
            hops: Cow::Borrowed(&installed.free_hops),
            new_hops: HashMap::new(),
            used_hops: BTreeSet::new(),
            entries: BTreeSet::new(),
            overflowed: BTreeSet::new(),
            server_ids: installed.server_ids.len(),
            ranges: installed.allowed.values().map(BTreeSet::len).sum(),
            passing: BTreeMap::new(),
            taken: Vec::new(),
        }
    }

    /// What was taken so far stays taken.
    pub(super) fn keep(&mut self) {
        self.taken.clear();
    }

    /// Gives back what was taken since it was last kept.
    pub(super) fn give_back(&mut self) {
        for taken in std::mem::take(&mut self.taken) {
            match taken {
                Taken::Slots(first, length) => self.slots.to_mut().release(first, length),
                Taken::Region(first, length) => self.regions.to_mut().release(first, length),
                Taken::Id(id) => self.ids.to_mut().release(id, 1),
                Taken::Hop(hop, index) => {
                    self.new_hops.remove(&hop);
                    self.hops.to_mut().release(index, 1);
                }
                Taken::Entry(spot) => drop(self.entries.remove(&spot)),
                Taken::ServerIds(count) => self.server_ids -= count,
                Taken::FreedServerIds(count) => self.server_ids += count,
                Taken::Ranges(count) => self.ranges -= count,
                Taken::Passing(bucket) => *self.passing.entry(bucket).or_default() -= 1,
                Taken::Overflowed(bucket) => drop(self.overflowed.remove(&bucket)),
            }
        }
    }

    pub(super) fn slots(&mut self, length: u32) -> Result<u32, Full> {
        let first = take(&mut self.slots, length, self.now)
            .ok_or_else(|| full(Map::Slots, &self.slots, length, self.installed.capacities.slots))?;
        self.taken.push(Taken::Slots(first, length));
        Ok(first)
    }

    pub(super) fn region(&mut self, room: u32) -> Result<u32, Full> {
        let first = take(&mut self.regions, room, self.now)
            .ok_or_else(|| full(Map::Backends, &self.regions, room, self.installed.capacities.backends))?;
        self.taken.push(Taken::Region(first, room));
        Ok(first)
    }

    /// Whether so much could be taken yet; takes nothing.
    pub(super) fn try_room(&mut self, slots: usize, region: u32) -> Result<(), Full> {
        let slots = u32::try_from(slots).expect("a ring has one of RING_SIZES");
        if slots > 0 {
            let first = self.slots(slots)?;
            self.slots.to_mut().release(first, slots);
            self.taken.pop();
        }
        if region > 0 {
            let first = self.region(region)?;
            self.regions.to_mut().release(first, region);
            self.taken.pop();
        }
        Ok(())
    }

    pub(super) fn id(&mut self) -> Result<u32, Full> {
        let id = take(&mut self.ids, 1, self.now)
            .ok_or_else(|| full(Map::ServiceIds, &self.ids, 1, self.installed.capacities.service_ids))?;
        self.taken.push(Taken::Id(id));
        Ok(id)
    }

    /// Of so many entries of `SERVER_IDS`, as many as there is room for.
    pub(super) fn server_ids(&mut self, wanted: usize) -> usize {
        let capacity = self.installed.capacities.server_ids() as usize;
        let count = wanted.min(capacity.saturating_sub(self.server_ids));
        self.server_ids += count;
        self.taken.push(Taken::ServerIds(count));
        count
    }

    /// So many entries of `SERVER_IDS` go.
    pub(super) fn free_server_ids(&mut self, count: usize) {
        self.server_ids -= count;
        self.taken.push(Taken::FreedServerIds(count));
    }

    /// How many entries `SERVER_IDS` will have.
    pub(super) fn used_server_ids(&self) -> usize {
        self.server_ids
    }

    /// Of so many entries of `ALLOWED`, as many as there is room for.
    pub(super) fn ranges(&mut self, wanted: usize) -> usize {
        let capacity = self.installed.capacities.source_ranges as usize;
        let count = wanted.min(capacity.saturating_sub(self.ranges));
        self.ranges += count;
        self.taken.push(Taken::Ranges(count));
        count
    }

    /// Whether so many entries of `ALLOWED` could be taken; takes none.
    pub(super) fn has_ranges(&self, wanted: usize) -> bool {
        self.ranges + wanted <= self.installed.capacities.source_ranges as usize
    }

    /// So many entries of `ALLOWED` go, whatever becomes of a service.
    pub(super) fn free_ranges(&mut self, count: usize) {
        self.ranges -= count;
    }

    /// How many entries `ALLOWED` will have.
    pub(super) fn used_ranges(&self) -> usize {
        self.ranges
    }

    /// Where a hop stands or will stand; true where the plan has to write it.
    pub(super) fn hop(&mut self, hop: &Hop) -> Result<(u32, bool), Full> {
        if let Some(&index) = self.new_hops.get(hop) {
            return Ok((index, false));
        }
        if let Some(index) = self.installed.find_hop(hop) {
            self.used_hops.insert(index);
            return Ok((index, false));
        }
        let index = take(&mut self.hops, 1, self.now)
            .ok_or_else(|| full(Map::Hops, &self.hops, 1, self.installed.capacities.hops))?;
        self.new_hops.insert(*hop, index);
        self.taken.push(Taken::Hop(*hop, index));
        Ok((index, true))
    }

    /// A free entry for a key, and the buckets before it that have to be marked as overflowed first.
    pub(super) fn entry(&mut self, key: &ServiceKey) -> Result<(Spot, Vec<u32>), Full> {
        let installed = self.installed;
        let home = bucket_of(key, installed.mask());
        for distance in 0..MAX_PROBE.min(installed.capacities.buckets) {
            let bucket = home.wrapping_add(distance) & installed.mask();
            let Some(entry) = (0..BUCKET_ENTRIES).find(|&entry| self.is_free((bucket, entry))) else {
                continue;
            };
            self.entries.insert((bucket, entry));
            self.taken.push(Taken::Entry((bucket, entry)));
            let mut mark = Vec::new();
            for passed in installed.passed(key, bucket) {
                *self.passing.entry(passed).or_default() += 1;
                self.taken.push(Taken::Passing(passed));
                let marked = installed.buckets[passed as usize].overflowed != 0;
                if !marked && !installed.misflagged.contains(&passed) && self.overflowed.insert(passed) {
                    mark.push(passed);
                    self.taken.push(Taken::Overflowed(passed));
                }
            }
            return Ok(((bucket, entry), mark));
        }
        let entries = u64::from(installed.capacities.buckets) * BUCKET_ENTRIES as u64;
        let needed = (installed.live.len() + self.entries.len() + 1) as u64;
        Err(Full { map: Map::Services, needed, capacity: entries, retry_at: None })
    }

    fn is_free(&self, spot: Spot) -> bool {
        let cool = self.installed.cooling_entries.get(&spot).is_none_or(|&until| until <= self.now);
        cool && self.installed.entry(spot).key().is_none() && !self.entries.contains(&spot)
    }
}

fn take(blocks: &mut Cow<'_, Blocks>, length: u32, now: Duration) -> Option<u32> {
    let own = matches!(blocks, Cow::Owned(_));
    let blocks = blocks.to_mut();
    if !own {
        blocks.warm(now);
    }
    blocks.take(length)
}

fn full(map: Map, blocks: &Blocks, length: u32, capacity: u32) -> Full {
    let used = u64::from(capacity).saturating_sub(blocks.free());
    Full { map, needed: used + u64::from(length), capacity: capacity.into(), retry_at: None }
}
