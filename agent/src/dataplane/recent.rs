//! What endpoints said lately, as a receiver's programs remember it beside their table of flows.
//!
//! In: flows that are taken out of that table. Nothing may be known by that memory alone: its replies would leave in the
//! endpoint's own name, and its entries can't be told by their time for ever, which begins anew after some minutes.

use fairlead_abi::{FlowEntry, FlowKey, RECENT_ENTRIES, Recent, RecentBucket, RecentFlow};

use super::{Error, mapped::Mapped};

/// See the module.
pub(super) struct Memory {
    seed: u64,
    mask: u32,
    buckets: Mapped<RecentBucket>,
}

impl Memory {
    /// Begins anew: what was taken out before, by whomever, is not known here. `seed` is the programs'.
    pub(super) fn new(seed: u64, buckets: Mapped<RecentBucket>) -> Result<Self, Error> {
        let mask = u32::try_from(buckets.elements().len()).expect("a map's size has 32 bits") - 1;
        let mut memory = Self { seed, mask, buckets };
        for bucket in 0..=mask {
            if memory.buckets.elements()[bucket as usize] != RecentBucket::default() {
                memory.buckets.write(bucket, &RecentBucket::default(), 0..RECENT_ENTRIES as usize)?;
            }
        }
        Ok(memory)
    }

    /// A flow was taken out of the table.
    pub(super) fn forget(&mut self, key: &FlowKey, entry: &FlowEntry) -> Result<(), Error> {
        let flow = RecentFlow::new(self.seed, key);
        let (bucket, tag) = (flow.bucket(self.mask), flow.tag(&entry.vip, entry.port));
        (0..RECENT_ENTRIES as usize).try_for_each(|at| {
            self.buckets.update(bucket, at, |word| if tag.is_of(Recent(word)) { 0 } else { word })
        })
    }
}
