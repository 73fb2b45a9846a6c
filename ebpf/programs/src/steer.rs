//! Find the service, choose the backend.

use fairlead_abi::{
    Address, BUCKET_ENTRIES, Backend, DropReason, Family, Flow, FlowEvent, FragmentEntry, MAX_PROBE,
    NO_BACKEND, Ring, ServerKey, ServiceEntry, ServiceKey, Slot, bucket_of, flow_hash, kind, mark, slot_hash,
    slot_of,
};

use crate::{
    cache, count,
    headers::protocol,
    maps::{BACKENDS, SERVER_IDS, SERVICES, SLOTS},
    parse::Transport,
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

/// A backend that was chosen, and what else the packet's slot has.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Steered {
    /// The flow's hash.
    pub hash: u32,
    /// Index in `BACKENDS`.
    pub index: u32,
    /// What stands there.
    pub backend: Backend,
    /// The flow's slot.
    pub slot: Slot,
    /// Index in `BACKENDS` of the service's backend 0.
    pub first: u32,
    /// By what the backend was chosen: a [`kind`].
    pub kind: u8,
    /// Where none of the slot's backends knows the flow, it is the current one's: UDP.
    pub ends_at_current: u8,
    /// Zero.
    pub padding: [u8; 2],
}

impl Steered {
    /// What the receiver is told of the choice.
    #[inline(always)]
    #[must_use]
    pub const fn mark(&self) -> u16 {
        mark(self.hash, self.kind, false)
    }

    /// Whether the packet can be tried at the backend. One that only the slot's current backend may take is also sent to a
    /// node that doesn't answer.
    #[inline(always)]
    #[must_use]
    pub const fn is_usable(&self) -> bool {
        self.kind == kind::UNMARKED || (self.backend.encap != 0 && !self.backend.is_silent())
    }
}

/// The backend of a flow to begin with: the slot's current one, or what the cache says.
#[inline(always)]
pub fn steer(service: &ServiceEntry, carried: &Transport, flow: &Flow) -> Result<Steered, DropReason> {
    let (mut steered, at) = begin(service, flow)?;
    let local = first(&mut steered, at, service, carried, flow);
    if local == NO_BACKEND {
        return if steered.kind == kind::UNMARKED { Err(DropReason::NoBackend) } else { Ok(steered) };
    }
    point(&mut steered, local)?;
    if steered.kind == kind::UNMARKED {
        // It is this one's, whether its node answers or not.
        steered.backend = steered.backend.answering();
    }
    Ok(steered)
}

/// The backend that has a server ID of the service: the packet is its own, whether its node answers or not, and takes no new
/// connections or does. None where nobody has it.
#[inline(always)]
#[must_use]
pub fn to_server(service: &ServiceEntry, id: u64, flow: &Flow) -> Option<Steered> {
    let key = ServerKey { first: service.backends, padding: 0, id: id.to_ne_bytes() };
    // SAFETY: one word; the agent replaces entries as a whole.
    let index = unsafe { SERVER_IDS.get(&key) }?.backend;
    let backend = load(BACKENDS.get(index)?).answering();
    if backend.encap == 0 {
        return None;
    }
    Some(Steered {
        hash: flow_hash(setting!(seed), flow),
        index,
        backend,
        slot: Slot::new(NO_BACKEND),
        first: service.backends,
        kind: kind::UNMARKED,
        ends_at_current: 1,
        padding: [0; 2],
    })
}

/// The backend that the first fragment of a flow's datagram went to.
#[inline(always)]
pub fn again(service: &ServiceEntry, flow: &Flow, first: &FragmentEntry) -> Result<Steered, DropReason> {
    let (mut steered, _) = begin(service, flow)?;
    let Some(backend) = BACKENDS.get(first.backend) else {
        return Err(DropReason::Inconsistent);
    };
    steered.kind = first.kind;
    steered.index = first.backend;
    steered.backend = load(backend);
    if steered.kind == kind::UNMARKED {
        steered.backend = steered.backend.answering();
    }
    Ok(steered)
}

/// The backend's number in the service's own list; sets by what it was chosen.
#[inline(always)]
fn first(steered: &mut Steered, at: u32, service: &ServiceEntry, carried: &Transport, flow: &Flow) -> u16 {
    let current = steered.slot.current;
    let cached = cache::may_hold(at);
    steered.kind = kind::UNMARKED;
    if carried.opens() {
        if cached {
            cache::forget(service.id, flow);
        }
        return current;
    }
    if cached && let Some(local) = cache::find(service.id, flow) {
        if local == NO_BACKEND {
            return current;
        }
        steered.kind = kind::GUESS;
        return local;
    }
    // A flow of UDP is whose it comes to, unless its slot has changed lately.
    let settled = service.flags & ServiceEntry::RECENT == 0 && current != NO_BACKEND;
    if steered.ends_at_current == 0 || !settled {
        steered.kind = kind::CURRENT;
    }
    current
}

/// A flow's slot, with no backend chosen yet, and the slot's index.
#[inline(always)]
pub fn begin(service: &ServiceEntry, flow: &Flow) -> Result<(Steered, u32), DropReason> {
    let (slot, at, hash) = find_slot(service, flow)?;
    let steered = Steered {
        hash,
        index: 0,
        backend: NO_ENTRY,
        slot,
        first: service.backends,
        kind: kind::CURRENT,
        ends_at_current: (service.protocol == protocol::UDP) as u8,
        padding: [0; 2],
    };
    Ok((steered, at))
}

/// The slot of a flow, its index, and the flow's hash.
#[inline(always)]
fn find_slot(service: &ServiceEntry, flow: &Flow) -> Result<(Slot, u32, u32), DropReason> {
    // SAFETY: one aligned 64-bit load, so that offset and size belong together.
    let ring: Ring = unsafe { core::mem::transmute((&raw const service.ring).cast::<u64>().read_volatile()) };
    if ring.size == 0 {
        return Err(DropReason::NoBackend);
    }
    let hash = flow_hash(setting!(seed), flow);
    let place = if service.flags & ServiceEntry::BY_CLIENT == 0 {
        hash
    } else {
        slot_hash(setting!(seed), flow, ServiceEntry::BY_CLIENT)
    };
    let at = ring.first_slot + slot_of(place, ring.size);
    let Some(slot) = SLOTS.get(at) else {
        return Err(DropReason::Inconsistent);
    };
    // SAFETY: one aligned 64-bit load: current and formers belong together.
    let word = unsafe { (&raw const *slot).cast::<u64>().read_volatile() };
    Ok((unpack(word), at, hash))
}

/// A slot from the word that it is.
#[inline(always)]
const fn unpack(word: u64) -> Slot {
    Slot { current: word as u16, formers: [(word >> 16) as u16, (word >> 32) as u16, (word >> 48) as u16] }
}

const NO_ENTRY: Backend = Backend { outer: Address { bytes: [0; 16] }, hop: 0, mtu: 0, encap: 0, family: 0 };

/// The backend with the number `local` in the service's list is the one to try.
#[inline(always)]
fn point(steered: &mut Steered, local: u16) -> Result<(), DropReason> {
    steered.index = steered.first + local as u32;
    let Some(backend) = BACKENDS.get(steered.index) else {
        return Err(DropReason::Inconsistent);
    };
    steered.backend = load(backend);
    Ok(())
}

/// Goes on to the next of the slot's backends that answers; false: there is none. After a guess comes the current one,
/// after that the former ones, the newest first.
#[inline(always)]
pub fn next(steered: &mut Steered) -> Result<bool, DropReason> {
    let before = steered.index;
    let guessed = steered.kind == kind::GUESS;
    for _ in 0..kind::LAST {
        steered.kind = match steered.kind {
            kind::GUESS => kind::CURRENT,
            kind::CURRENT => kind::FORMER,
            other => other + 1,
        };
        let [a, b, c] = steered.slot.formers;
        let local = match steered.kind {
            kind::CURRENT => steered.slot.current,
            kind::FORMER => a,
            4 => b,
            kind::LAST => c,
            _ => return end(steered),
        };
        if local == NO_BACKEND {
            continue;
        }
        point(steered, local)?;
        if guessed && steered.index == before {
            continue;
        }
        if steered.backend.is_silent() {
            count::event(FlowEvent::PassedOver);
        } else if steered.backend.encap != 0 {
            return Ok(true);
        }
    }
    end(steered)
}

/// There is no further backend: a flow of UDP is the current one's.
#[inline(always)]
fn end(steered: &mut Steered) -> Result<bool, DropReason> {
    if steered.ends_at_current == 0 {
        return Ok(false);
    }
    if steered.slot.current == NO_BACKEND {
        return Err(DropReason::NoBackend);
    }
    steered.kind = kind::UNMARKED;
    point(steered, steered.slot.current)?;
    steered.backend = steered.backend.answering();
    Ok(true)
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
