//! The flow cache: where a gateway looks first for flows that their slot's current backend doesn't know.
//!
//! The agent writes entries, the programs only remove them. An entry holds 48 bits of a hash instead of the flow: one
//! that is mistaken for another flow's costs a bounce, for the receiver decides. So one cache line tells of eight.

use crate::{Flow, NO_BACKEND, Slot};

const K1: u64 = 0xa076_1d64_78bd_642f;
const K2: u64 = 0xe703_7ed1_a0b4_28db;
const K3: u64 = 0x8ebc_6af0_9c88_c6e3;

/// Entries of one bucket.
pub const CACHE_ENTRIES: u32 = 8;

/// One cache line of entries: [`CacheTag`] in the upper 48 bits, an index into the service's own backend list in the
/// lower 16; 0: free. The index [`NO_BACKEND`] says that the flow is nobody's: it goes to the current backend, unmarked.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheBucket {
    /// In no order.
    pub entries: [u64; CACHE_ENTRIES as usize],
}

/// Beside 64 slots: which of them the cache may hold flows of.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cached {
    /// By the slot's index; not 0: it may.
    pub slots: [u8; Cached::SLOTS],
}

impl Cached {
    /// Slots of one element.
    pub const SLOTS: usize = 64;
    const SHIFT: u32 = Self::SLOTS.trailing_zeros();

    /// The element beside a slot.
    #[inline(always)]
    #[must_use]
    pub const fn element(slot: u32) -> u32 {
        slot >> Self::SHIFT
    }

    /// How many elements stand beside so many slots.
    #[must_use]
    pub const fn elements(slots: u32) -> u32 {
        (slots >> Self::SHIFT) + 1
    }
}

impl Default for Cached {
    fn default() -> Self {
        Self { slots: [0; Self::SLOTS] }
    }
}

/// What tells flows apart in the cache; its own hash, independent of [`flow_hash`](crate::flow_hash).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheTag(u64);

impl CacheTag {
    /// Of a flow of the service with this id.
    #[inline(always)]
    #[must_use]
    pub const fn new(seed: u64, service: u32, flow: &Flow) -> Self {
        let [hi, lo] = flow.client.words();
        let ports = u32::from_ne_bytes(flow.ports) as u64;
        let mut h = (lo ^ seed.rotate_left(32)).wrapping_mul(K1);
        h ^= h >> 32;
        h = (h ^ hi).wrapping_mul(K2);
        h ^= h >> 32;
        // Not together with the address: a port's bits would cancel those of a neighbour's.
        h = (h ^ (ports << 32 | service as u64)).wrapping_mul(K3);
        h ^= h >> 32;
        Self(h.wrapping_mul(K1))
    }

    /// The bucket that the flow's entry stands in; `mask` is the number of buckets less one.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "any bits will do")]
    pub const fn bucket(self, mask: u32) -> u32 {
        // The lowest bits of a product are the weakest.
        ((self.0 ^ self.0 >> 40) >> 4) as u32 & mask
    }

    /// The entry of a backend in the service's own list.
    #[inline(always)]
    #[must_use]
    pub const fn entry(self, backend: u16) -> u64 {
        (self.0 | LEAST) & !(NO_BACKEND as u64) | backend as u64
    }

    /// Whether an entry is this flow's.
    #[inline(always)]
    #[must_use]
    pub const fn is_of(self, entry: u64) -> bool {
        (entry ^ (self.0 | LEAST)) >> 16 == 0
    }
}

/// Set in every tag, so that none is 0.
const LEAST: u64 = 1 << 16;

const _: () = {
    assert!(size_of::<CacheBucket>() == 64 && size_of::<Cached>() == 64);
    assert!(size_of::<Slot>() == 8);
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Address;

    fn tag(number: u32) -> CacheTag {
        let [a, b, c, d] = number.to_be_bytes();
        CacheTag::new(7, 1, &Flow { client: Address::v4([10, b, c, d]), ports: [a, 1, 0, 80] })
    }

    #[test]
    fn an_entry_is_its_own_flows_and_never_free() {
        for number in 0..10_000 {
            let entry = tag(number).entry(5);
            assert!(entry != 0 && tag(number).is_of(entry) && entry & 0xffff == 5);
            assert!(!tag(number).is_of(tag(number + 1).entry(5)) && !tag(number).is_of(0));
        }
    }

    #[test]
    fn neighbours_ports_and_addresses_do_not_cancel_each_other() {
        let flow = |five: u8, port: u8| {
            let client = Address::v6([0x20, 1, 0xd, 0xb8, 0, five, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
            CacheTag::new(7, 1, &Flow { client, ports: [0x9c, port, 0, 80] })
        };
        assert!(!flow(5, 0x42).is_of(flow(7, 0x40).entry(1)));
    }

    #[test]
    fn buckets_are_used_alike() {
        const BUCKETS: usize = 1024;
        let mut used = [0_u32; BUCKETS];
        for number in 0..64 * 1024 {
            used[tag(number).bucket(1023) as usize] += 1;
        }
        // 64 each; a binomial distribution leaves these bounds once in many thousand runs.
        assert!(used.iter().all(|&count| (24..=116).contains(&count)), "{used:?}");
    }
}
