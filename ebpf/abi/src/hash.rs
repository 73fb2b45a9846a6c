//! The hashes that programs and agent both compute.
//!
//! Multiply and xor-shift only: BPF has 64-bit multiplication but not its upper half.

use crate::{Address, ServiceEntry, ServiceKey};

const K1: u64 = 0x9e37_79b9_7f4a_7c15;
const K2: u64 = 0xd6e8_feb8_6659_fd93;
const K3: u64 = 0xff51_afd7_ed55_8ccd;

/// What identifies a connection among those of one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Flow {
    /// The client's address.
    pub client: Address,
    /// Client's and service's port as they stand in the packet: four bytes in network byte order.
    pub ports: [u8; 4],
}

/// The flow's place among 2³² of its service's ring; the same on all gateways that share the seed.
#[inline(always)]
#[must_use]
pub const fn flow_hash(seed: u64, flow: &Flow) -> u32 {
    let [hi, lo] = flow.client.words();
    let ports = u32::from_ne_bytes(flow.ports) as u64;
    let mut h = (lo ^ seed).wrapping_mul(K1);
    h ^= h >> 32;
    h = (h ^ hi ^ (ports << 32 | ports)).wrapping_mul(K2);
    h ^= h >> 32;
    h = h.wrapping_mul(K3);
    (h >> 32) as u32
}

/// By what a flow's slot is found in a service with these [`flags`](crate::ServiceEntry::flags): its own hash, or one that all
/// flows of its client share.
#[inline(always)]
#[must_use]
pub const fn slot_hash(seed: u64, flow: &Flow, flags: u32) -> u32 {
    if flags & ServiceEntry::BY_CLIENT == 0 {
        return flow_hash(seed, flow);
    }
    flow_hash(seed, &Flow { client: flow.client, ports: [0; 4] })
}

/// The slot of a hash in a ring of `size` slots.
#[inline(always)]
#[must_use]
pub const fn slot_of(hash: u32, size: u32) -> u32 {
    ((hash as u64 * size as u64) >> 32) as u32
}

/// The bucket where a service's entry belongs; `mask` is the number of buckets less one.
#[inline(always)]
#[must_use]
pub const fn bucket_of(key: &ServiceKey, mask: u32) -> u32 {
    let [hi, lo] = key.vip.words();
    let mut h = (lo ^ hi.wrapping_mul(K1)).wrapping_add(key.tag() as u64).wrapping_mul(K2);
    h ^= h >> 32;
    ((h.wrapping_mul(K1) >> 32) as u32) & mask
}

/// Where `BOUNCES`, which has `entries`, a power of two, counts those of a client's prefix: /24 of IPv4, /56 of IPv6. Never
/// [`ALL_BOUNCES`].
#[inline(always)]
#[must_use]
pub const fn bounces_of(seed: u64, client: &Address, entries: u32) -> u32 {
    let [hi, lo] = client.words();
    let own = if client.is_v4() { lo & V4_PREFIX } else { hi & V6_PREFIX };
    let mut h = (own ^ seed).wrapping_mul(K2);
    h ^= h >> 32;
    match (h.wrapping_mul(K1) >> 32) as u32 & (entries - 1) {
        ALL_BOUNCES => ALL_BOUNCES + 1,
        index => index,
    }
}

/// Where `BOUNCES` counts those of all clients.
pub const ALL_BOUNCES: u32 = 0;

const V4_PREFIX: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0]);
const V6_PREFIX: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_clients_are_kept_only_their_address_counts() {
        let flow = |host, port| Flow { client: Address::v4([192, 0, 2, host]), ports: [9, port, 0, 80] };
        let hash = |flow: &Flow| slot_hash(7, flow, ServiceEntry::BY_CLIENT);
        assert_eq!(hash(&flow(1, 1)), hash(&flow(1, 2)));
        assert_ne!(hash(&flow(1, 1)), hash(&flow(2, 1)));
        assert_eq!(slot_hash(7, &flow(1, 1), ServiceEntry::RECENT), flow_hash(7, &flow(1, 1)));
    }
}
