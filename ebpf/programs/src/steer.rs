//! Find the service, choose the backend.

use fairlead_abi::{
    Address, BUCKET_ENTRIES, Backend, DropReason, Family, Flow, MAX_PROBE, NO_BACKEND, Ring, ServiceEntry,
    ServiceKey, bucket_of, flow_hash, slot_of,
};

use crate::{
    maps::{BACKENDS, SERVICES, SLOTS},
    setting,
};

/// The entry of `key`. One array access, unless its bucket has overflowed.
#[inline(always)]
#[must_use]
pub fn find(key: &ServiceKey) -> Option<&'static ServiceEntry> {
    let mask = setting!(bucket_mask);
    let words = key.vip.words();
    let tag = key.tag();
    let mut index = bucket_of(key, mask);
    for _ in 0..MAX_PROBE {
        let bucket = SERVICES.get(index)?;
        for i in 0..BUCKET_ENTRIES {
            let entry = &bucket.entries[i];
            if entry.tag() == tag && entry.vip.words() == words {
                return Some(entry);
            }
        }
        if bucket.overflowed == 0 {
            return None;
        }
        index = (index + 1) & mask;
    }
    None
}

/// The VIP's own entry.
#[inline(always)]
#[must_use]
pub fn find_vip(vip: Address, family: Family) -> Option<&'static ServiceEntry> {
    find(&ServiceKey::vip_only(vip, family))
}

/// A backend that was chosen.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Steered {
    /// The flow's hash.
    pub hash: u32,
    /// Index in `BACKENDS`.
    pub index: u32,
    /// What stands there.
    pub backend: Backend,
}

/// The backend of a flow.
#[inline(always)]
pub fn steer(service: &ServiceEntry, flow: &Flow) -> Result<Steered, DropReason> {
    // SAFETY: one aligned 64-bit load, so that offset and size belong together.
    let ring: Ring = unsafe { core::mem::transmute((&raw const service.ring).cast::<u64>().read_volatile()) };
    if ring.size == 0 {
        return Err(DropReason::NoBackend);
    }
    let hash = flow_hash(setting!(seed), flow);
    let Some(slot) = SLOTS.get(ring.first_slot + slot_of(hash, ring.size)) else {
        return Err(DropReason::Inconsistent);
    };
    if slot.current == NO_BACKEND {
        return Err(DropReason::NoBackend);
    }
    let index = service.backends + slot.current as u32;
    let Some(backend) = BACKENDS.get(index) else {
        return Err(DropReason::Inconsistent);
    };
    Ok(Steered { hash, index, backend: load(backend) })
}

/// The entry with hop, MTU and encapsulation as one load.
#[inline(always)]
fn load(entry: &Backend) -> Backend {
    // SAFETY: one aligned 64-bit load of the four fields that are switched by one store.
    let word = unsafe { (&raw const entry.hop).cast::<u64>().read_volatile() };
    Backend {
        outer: entry.outer,
        hop: word as u32,
        mtu: (word >> 32) as u16,
        encap: (word >> 48) as u8,
        family: (word >> 56) as u8,
    }
}
