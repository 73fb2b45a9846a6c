//! What endpoints said lately: written where their replies leave, read where their clients' packets come.
//!
//! A flow that one of both has ended is forgotten: from then on less fits it. What the entries are is said beside
//! [`fairlead_abi::Recent`].

use fairlead_abi::{FlowEntry, FlowKey, Numbers, RECENT_ENTRIES, Recent, RecentBucket, RecentFlow};

use crate::{maps::RECENT, setting};

/// Where a TCP flow's entry is, or would be.
#[derive(Clone, Copy)]
pub struct Place {
    flow: RecentFlow,
    bucket: *mut RecentBucket,
}

impl Place {
    /// Of a flow.
    #[inline(always)]
    #[must_use]
    pub fn of(key: &FlowKey) -> Option<Self> {
        let flow = RecentFlow::new(setting!(seed), key);
        let bucket = RECENT.get_ptr_mut(flow.bucket(setting!(recent_mask)))?;
        Some(Self { flow, bucket })
    }

    /// Whether the endpoint's last words fit a client's packet with these numbers, which acknowledges something and neither
    /// begins nor ends anything. `entry` has the VIP and port, and the time.
    #[inline(always)]
    #[must_use]
    pub fn fits(self, entry: &FlowEntry, numbers: &Numbers) -> bool {
        let tag = self.flow.tag(&entry.vip, entry.port);
        for at in 0..RECENT_ENTRIES as usize {
            let said = read(self.bucket, at);
            if tag.is_of(said) {
                return said.is_near(numbers, entry.seen);
            }
        }
        false
    }

    /// The endpoint's last packet of the flow made it `known`. The oldest of others' entries makes room.
    #[inline(always)]
    pub fn note(self, known: &FlowEntry) {
        let tag = self.flow.tag(&known.vip, known.port);
        let new = tag.entry(known.sequence, known.client_sequence, known.seen);
        let (mut oldest, mut age) = (0, 0);
        for at in 0..RECENT_ENTRIES as usize {
            let entry = read(self.bucket, at);
            if entry == new {
                // The line stays as it is, also in the caches of other CPUs.
                return;
            }
            let its_age = if tag.is_of(entry) { u64::MAX } else { entry.age(known.seen) };
            if its_age > age {
                (oldest, age) = (at, its_age);
            }
        }
        write(self.bucket, oldest, new);
    }

    /// The flow is over.
    #[inline(always)]
    pub fn forget(self, known: &FlowEntry) {
        let tag = self.flow.tag(&known.vip, known.port);
        for at in 0..RECENT_ENTRIES as usize {
            if tag.is_of(read(self.bucket, at)) {
                write(self.bucket, at, Recent(0));
            }
        }
    }
}

/// Volatile: other CPUs write it.
#[inline(always)]
fn read(bucket: *const RecentBucket, at: usize) -> Recent {
    // SAFETY: within the bucket, which is an element of the map.
    Recent(unsafe { (&raw const (*bucket).entries).cast::<u64>().add(at).read_volatile() })
}

/// As [`read`].
#[inline(always)]
fn write(bucket: *mut RecentBucket, at: usize, entry: Recent) {
    // SAFETY: as in `read`.
    unsafe { (&raw mut (*bucket).entries).cast::<u64>().add(at).write_volatile(entry.0) };
}
