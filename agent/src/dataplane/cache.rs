//! The flow cache of a gateway: where its programs look first for flows that their slot's current backend doesn't know.
//!
//! In: flows with the backend that claims them, and where the flow's slot stands. This is the only writer of entries, the
//! programs remove them. What is not written, or lost, costs packets an extra way and no connection.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use fairlead_abi::{
    Address, CACHE_ENTRIES, CacheBucket, CacheTag, Cached, Flow, NO_BACKEND, ServiceKey, map,
};

use super::{Dataplane, Error, mapped::Mapped};

/// For so long an entry stays that nobody claims again: then a packet of its flow bounces, and it comes anew.
const KEPT: Duration = Duration::from_secs(600);

/// A flow among all services'.
pub type CachedFlow = (ServiceKey, Flow);

/// Where the programs look for a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The service's id.
    pub service: u32,
    /// The flow's slot: its index in `SLOTS`.
    pub slot: u32,
    /// The backend's number in the service's own list; [`NO_BACKEND`]: the flow is nobody's.
    pub backend: u16,
}

/// See the module.
pub struct FlowCache {
    seed: u64,
    mask: u32,
    buckets: Mapped<CacheBucket>,
    marks: Mapped<Cached>,
    kept: BTreeMap<CachedFlow, Kept>,
    /// The flows of each bucket that is not empty.
    of_bucket: BTreeMap<u32, BTreeSet<CachedFlow>>,
}

#[derive(Clone, Copy, Debug)]
struct Kept {
    tag: CacheTag,
    bucket: u32,
    place: Place,
    since: Instant,
}

impl FlowCache {
    /// Begins anew: what an agent before this one had learned is not known by flow, so it goes.
    pub(super) fn new(seed: u64, buckets: Mapped<CacheBucket>, marks: Mapped<Cached>) -> Result<Self, Error> {
        let mask = u32::try_from(buckets.elements().len()).expect("a map's size has 32 bits") - 1;
        let mut cache =
            Self { seed, mask, buckets, marks, kept: BTreeMap::new(), of_bucket: BTreeMap::new() };
        for bucket in 0..=mask {
            if cache.buckets.elements()[bucket as usize] != CacheBucket::default() {
                cache.buckets.write(bucket, &CacheBucket::default(), 0..CACHE_ENTRIES as usize)?;
            }
        }
        Ok(cache)
    }

    /// Remembers a flow. Where its bucket is full, `urgent` takes the place of the oldest; else nothing happens, and false
    /// comes back.
    pub fn insert(&mut self, flow: CachedFlow, place: Place, urgent: bool) -> Result<bool, Error> {
        let tag = CacheTag::new(self.seed, place.service, &flow.1);
        let bucket = tag.bucket(self.mask);
        self.forget(&flow)?;
        let (_, full) = self.room(bucket);
        if full && !urgent {
            return Ok(false);
        }
        if full {
            self.evict_oldest(bucket)?;
        }
        let (Some(at), _) = self.room(bucket) else { return Ok(false) };
        self.mark(place.slot)?;
        self.buckets.store(bucket, at, tag.entry(place.backend))?;
        self.kept.insert(flow, Kept { tag, bucket, place, since: Instant::now() });
        self.of_bucket.entry(bucket).or_default().insert(flow);
        Ok(true)
    }

    /// Whether a flow is remembered to be there.
    #[must_use]
    pub fn holds(&self, flow: &CachedFlow, place: Place) -> bool {
        self.kept.get(flow).is_some_and(|kept| kept.place == place)
    }

    /// Forgets a flow.
    pub fn forget(&mut self, flow: &CachedFlow) -> Result<(), Error> {
        let Some(kept) = self.kept.remove(flow) else { return Ok(()) };
        if let Some(flows) = self.of_bucket.get_mut(&kept.bucket) {
            flows.remove(flow);
            if flows.is_empty() {
                self.of_bucket.remove(&kept.bucket);
            }
        }
        let entries = self.buckets.elements()[kept.bucket as usize].entries;
        for (at, _) in entries.iter().enumerate().filter(|(_, entry)| kept.tag.is_of(**entry)) {
            self.buckets.store(kept.bucket, at, 0)?;
        }
        Ok(())
    }

    /// Forgets what is too old, and what the programs have removed.
    pub fn sweep(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        let gone = |kept: &Kept| {
            let entries = self.buckets.elements()[kept.bucket as usize].entries;
            now.duration_since(kept.since) > KEPT || !entries.iter().any(|entry| kept.tag.is_of(*entry))
        };
        let ended: Vec<CachedFlow> =
            self.kept.iter().filter(|(_, kept)| gone(kept)).map(|(flow, _)| *flow).collect();
        ended.iter().try_for_each(|flow| self.forget(flow))
    }

    /// Where slots are or backends' numbers mean something else now: `place` says where a flow is looked for; `None`: the
    /// service is gone, or the backend.
    pub fn replace(&mut self, place: impl Fn(&CachedFlow, &Place) -> Option<Place>) -> Result<(), Error> {
        let all: Vec<(CachedFlow, Kept)> = self.kept.iter().map(|(flow, kept)| (*flow, *kept)).collect();
        for (flow, kept) in all {
            match place(&flow, &kept.place) {
                Some(new) if new == kept.place => {}
                Some(new) if new.service == kept.place.service && new.backend == kept.place.backend => {
                    self.mark(new.slot)?;
                    self.kept.insert(flow, Kept { place: new, ..kept });
                }
                _ => self.forget(&flow)?,
            }
        }
        Ok(())
    }

    /// How many flows it holds, and how many it could.
    #[must_use]
    pub fn usage(&self) -> (u64, u64) {
        (self.kept.len() as u64, (u64::from(self.mask) + 1) * u64::from(CACHE_ENTRIES))
    }

    /// The first free entry of a bucket, and whether there is none.
    fn room(&self, bucket: u32) -> (Option<usize>, bool) {
        let entries = self.buckets.elements()[bucket as usize].entries;
        let free = entries.iter().position(|entry| *entry == 0);
        (free, free.is_none())
    }

    fn evict_oldest(&mut self, bucket: u32) -> Result<(), Error> {
        let flows = self.of_bucket.get(&bucket).into_iter().flatten();
        let oldest = flows.min_by_key(|flow| self.kept[*flow].since).copied();
        match oldest {
            Some(flow) => self.forget(&flow),
            // Somebody else's entries: they go, all of them.
            None => self.buckets.write(bucket, &CacheBucket::default(), 0..CACHE_ENTRIES as usize),
        }
    }

    /// Says that the cache may hold flows of a slot. Stays so until the slot is another ring's: a look for nothing is
    /// cheap.
    fn mark(&mut self, slot: u32) -> Result<(), Error> {
        let (index, byte) = (Cached::element(slot), slot as usize % Cached::SLOTS);
        let bounds = Error::Bounds { map: map::CACHED, index: index.into() };
        let mut block = *self.marks.elements().get(index as usize).ok_or(bounds)?;
        block.slots[byte] = 1;
        self.marks.write(index, &block, [byte / 8])
    }
}

/// The flow cache as the programs see it, to read only.
#[derive(Clone, Copy, Default)]
pub struct CacheView<'a> {
    /// All buckets.
    pub buckets: &'a [CacheBucket],
    /// Which slots it may hold flows of.
    pub marks: &'a [Cached],
}

impl CacheView<'_> {
    /// Whether it may hold flows of the slot with this index in `SLOTS`.
    #[must_use]
    pub fn may_hold(&self, slot: u32) -> bool {
        let block = self.marks.get(Cached::element(slot) as usize);
        block.is_some_and(|block| block.slots[slot as usize % Cached::SLOTS] != 0)
    }

    /// What it says of a flow of the service with this id: the backend's number in the service's own list.
    #[must_use]
    pub fn find(&self, seed: u64, service: u32, flow: &Flow) -> Option<u16> {
        let mask = u32::try_from(self.buckets.len().checked_sub(1)?).ok()?;
        let tag = CacheTag::new(seed, service, flow);
        let bucket = self.buckets.get(tag.bucket(mask) as usize)?;
        let entry = bucket.entries.iter().find(|entry| tag.is_of(**entry))?;
        let [low, high, ..] = entry.to_le_bytes();
        Some(u16::from_le_bytes([low, high]))
    }

    /// How many flows it holds.
    #[must_use]
    pub fn flows(&self) -> usize {
        self.buckets.iter().flat_map(|bucket| bucket.entries).filter(|entry| *entry != 0).count()
    }
}

impl Dataplane {
    /// Takes the flow cache; `None` when it was taken before.
    pub fn take_cache(&mut self, seed: u64) -> Result<Option<FlowCache>, Error> {
        let (Some(buckets), Some(marks)) = (self.cache_buckets.take(), self.cache_marks.take()) else {
            return Ok(None);
        };
        FlowCache::new(seed, buckets, marks).map(Some)
    }
}

/// What is told of a flow that is nobody's.
#[must_use]
pub const fn nobodys(service: u32, slot: u32) -> Place {
    Place { service, slot, backend: NO_BACKEND }
}

/// Whether an address is that of this node's own gateway in a report.
#[must_use]
pub fn is_own(gateway: &Address) -> bool {
    *gateway == Address::default()
}
