//! A gateway's tables as its program reads them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use fairlead_abi::{
    Backend, Bucket, Hop, MAX_PROBE, NO_BACKEND, Server, ServerKey, ServiceEntry, ServiceKey, Slot,
    bucket_of, slot_of,
};
use fairlead_core::model::ServerId;
use fairlead_core::planner::{Action, Capacities, Raw};

pub(crate) const CAPACITIES: Capacities = Capacities {
    buckets: 8,
    slots: 12_000,
    backends: 1_000,
    service_ids: 10,
    hops: 4,
    deliveries: 10,
    gateways: 8,
    source_ranges: 8,
};

pub(crate) struct Kernel {
    buckets: Vec<Bucket>,
    pub(crate) slots: Vec<Slot>,
    backends: Vec<Backend>,
    server_ids: BTreeMap<ServerKey, Server>,
    hops: Vec<Hop>,
}

/// A backend that a slot names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) outer: IpAddr,
    pub(crate) silent: bool,
}

impl Kernel {
    pub(crate) fn new() -> Self {
        Self {
            buckets: vec![Bucket::default(); CAPACITIES.buckets as usize],
            slots: vec![Slot::new(NO_BACKEND); CAPACITIES.slots as usize],
            backends: vec![Backend::default(); CAPACITIES.backends as usize],
            server_ids: BTreeMap::new(),
            hops: vec![Hop::default(); CAPACITIES.hops as usize],
        }
    }

    pub(crate) fn raw(&self) -> Raw<'_> {
        Raw {
            buckets: &self.buckets,
            slots: &self.slots,
            backends: &self.backends,
            server_ids: self.server_ids.clone(),
            allowed: BTreeMap::new(),
            hops: &self.hops,
            deliveries: BTreeMap::new(),
            gateways: BTreeSet::new(),
        }
    }

    pub(crate) fn apply(&mut self, action: &Action) {
        match *action {
            Action::WriteBackend { index, backend } | Action::SetBackendHop { index, backend } => {
                self.backends[index as usize] = backend;
            }
            Action::ClearBackend { index } => self.backends[index as usize] = Backend::default(),
            Action::WriteSlots { first, ref slots } => {
                let block = &mut self.slots[first as usize..][..slots.len() as usize];
                block.iter_mut().zip(slots.iter()).for_each(|(to, slot)| *to = slot);
            }
            Action::SetSlot { index, slot } => self.slots[index as usize] = slot,
            Action::SetOverflowed { bucket, value } => self.buckets[bucket as usize].overflowed = value,
            Action::PublishEntry { bucket, entry, value, .. } => *self.entry(bucket, entry) = value,
            Action::SwitchRing { bucket, entry, ring } => self.entry(bucket, entry).ring = ring,
            Action::SetEntryFlags { bucket, entry, flags } => self.entry(bucket, entry).flags = flags,
            Action::UnpublishEntry { bucket, entry } => *self.entry(bucket, entry) = ServiceEntry::default(),
            Action::PutServerId { key, server } => drop(self.server_ids.insert(key, server)),
            Action::RemoveServerId { key } => drop(self.server_ids.remove(&key)),
            Action::ClearBackendCounters { .. } | Action::ClearServiceCounters { .. } => {}
            ref other => panic!("a gateway without next hops has no {other:?}"),
        }
    }

    fn entry(&mut self, bucket: u32, entry: usize) -> &mut ServiceEntry {
        &mut self.buckets[bucket as usize].entries[entry]
    }

    /// As the program does it.
    pub(crate) fn lookup(&self, key: &ServiceKey) -> Option<&ServiceEntry> {
        let mask = CAPACITIES.buckets - 1;
        let home = bucket_of(key, mask);
        for distance in 0..MAX_PROBE {
            let bucket = &self.buckets[(home.wrapping_add(distance) & mask) as usize];
            let hit = bucket.entries.iter().find(|entry| entry.tag() == key.tag() && entry.vip == key.vip);
            if hit.is_some() || bucket.overflowed == 0 {
                return hit;
            }
        }
        None
    }

    /// Whom a server ID of a service names.
    pub(crate) fn server(&self, entry: &ServiceEntry, id: ServerId) -> Option<IpAddr> {
        let server = self.server_ids.get(&ServerKey { first: entry.backends, padding: 0, id: id.0 })?;
        let backend = self.backends[server.backend as usize];
        assert_ne!(backend.encap, 0, "{id} names a free entry");
        Some(backend.outer.into())
    }

    /// What the slot of a hash names: the current backend, then the formers. That each of them exists is what the planner
    /// promises.
    pub(crate) fn named(&self, entry: &ServiceEntry, hash: u32) -> [Option<Named>; 4] {
        if entry.ring.size == 0 {
            return [None; 4];
        }
        let slot = self.slots[(entry.ring.first_slot + slot_of(hash, entry.ring.size)) as usize];
        let [first, second, third] = slot.formers;
        [slot.current, first, second, third].map(|local| {
            (local != NO_BACKEND).then(|| {
                let backend = self.backends[(entry.backends + u32::from(local)) as usize];
                assert_ne!(backend.encap, 0, "{slot:?} names a free entry");
                Named { outer: backend.outer.into(), silent: backend.is_silent() }
            })
        })
    }
}
