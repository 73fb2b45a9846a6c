//! The flow cache: where to look first for a flow that its slot's current backend doesn't know.
//!
//! Entries are the agent's; from here they are only removed, by a plain store. Should the agent write one at the same
//! time, one of the two is lost, which costs a bounce.

use fairlead_abi::{CACHE_ENTRIES, CacheBucket, CacheTag, Cached, Flow, FlowEvent};

use crate::{
    count,
    maps::{CACHE, CACHED},
    setting,
};

/// Whether the cache may hold flows of the slot with this index.
#[inline(always)]
#[must_use]
pub fn may_hold(slot: u32) -> bool {
    let Some(block) = CACHED.get(Cached::element(slot)) else { return false };
    // SAFETY: within the block; volatile, for the agent writes it.
    unsafe {
        (&raw const block.slots).cast::<u8>().add((slot % Cached::SLOTS as u32) as usize).read_volatile() != 0
    }
}

/// What the cache says of a flow: a number in the service's own list of backends.
#[inline(always)]
#[must_use]
pub fn find(service: u32, flow: &Flow) -> Option<u16> {
    let tag = CacheTag::new(setting!(seed), service, flow);
    let bucket = CACHE.get(tag.bucket(setting!(cache_mask)))?;
    for at in 0..CACHE_ENTRIES as usize {
        // SAFETY: within the bucket; volatile, for the agent writes it.
        let entry = unsafe { (&raw const bucket.entries[at]).read_volatile() };
        if tag.is_of(entry) {
            return Some(entry as u16);
        }
    }
    None
}

/// Removes what the cache says of a flow.
#[inline(always)]
pub fn forget(service: u32, flow: &Flow) {
    let tag = CacheTag::new(setting!(seed), service, flow);
    let Some(bucket) = CACHE.get_ptr_mut(tag.bucket(setting!(cache_mask))) else { return };
    for at in 0..CACHE_ENTRIES as usize {
        // SAFETY: within the bucket, whose entries are words that are read and written as such.
        unsafe {
            let entry = (&raw mut (*bucket).entries).cast::<u64>().add(at);
            if tag.is_of(entry.read_volatile()) {
                entry.write_volatile(0);
                count::event(FlowEvent::Forgotten);
            }
        }
    }
}

const _: () = assert!(size_of::<CacheBucket>() == CACHE_ENTRIES as usize * 8);
