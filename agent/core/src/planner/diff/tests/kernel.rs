//! The kernel's side, as the programs and the data plane see it: plain arrays, and what must never happen to them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use fairlead_abi::{
    Backend, Bucket, Delivery, DeliveryKey, Hop, MAX_PROBE, NO_BACKEND, Server, ServerKey, ServiceEntry,
    ServiceKey, Slot, bucket_of,
};
use ipnet::IpNet;

use crate::planner::slots::named;
use crate::planner::{Action, Capacities, GRACE, Raw};

#[derive(Clone, Debug)]
pub(super) struct Kernel {
    pub(super) capacities: Capacities,
    pub(super) buckets: Vec<Bucket>,
    pub(super) slots: Vec<Slot>,
    pub(super) backends: Vec<Backend>,
    pub(super) server_ids: BTreeMap<ServerKey, Server>,
    pub(super) allowed: BTreeMap<u32, BTreeSet<IpNet>>,
    pub(super) hops: Vec<Hop>,
    pub(super) deliveries: BTreeMap<DeliveryKey, Delivery>,
    pub(super) gateways: BTreeSet<IpNet>,
    /// Off once something was damaged: then repairs may do what a healthy plan must not.
    pub(super) strict: bool,
    /// Until when packets may read what was named.
    slots_read: BTreeMap<u32, (u32, Duration)>,
    backends_read: BTreeMap<u32, Duration>,
    hops_read: BTreeMap<u32, Duration>,
    entries_read: BTreeMap<(u32, usize), Duration>,
    ids_read: BTreeMap<u32, Duration>,
}

impl Kernel {
    pub(super) fn new(capacities: Capacities) -> Self {
        Self {
            capacities,
            buckets: vec![Bucket::default(); capacities.buckets as usize],
            // Old contents of slots mean nothing.
            slots: vec![Slot::new(12345); capacities.slots as usize],
            backends: vec![Backend::default(); capacities.backends as usize],
            server_ids: BTreeMap::new(),
            allowed: BTreeMap::new(),
            hops: vec![Hop::default(); capacities.hops as usize],
            deliveries: BTreeMap::new(),
            gateways: BTreeSet::new(),
            strict: true,
            slots_read: BTreeMap::new(),
            backends_read: BTreeMap::new(),
            hops_read: BTreeMap::new(),
            entries_read: BTreeMap::new(),
            ids_read: BTreeMap::new(),
        }
    }

    pub(super) fn raw(&self) -> Raw<'_> {
        Raw {
            buckets: &self.buckets,
            slots: &self.slots,
            backends: &self.backends,
            server_ids: self.server_ids.clone(),
            allowed: self.allowed.clone(),
            hops: &self.hops,
            deliveries: self.deliveries.clone(),
            gateways: self.gateways.clone(),
        }
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (ServiceKey, (u32, usize), &ServiceEntry)> {
        (0u32..).zip(&self.buckets).flat_map(|(b, bucket)| {
            let entries = bucket.entries.iter().enumerate();
            entries.filter_map(move |(e, entry)| Some((entry.key()?, (b, e), entry)))
        })
    }

    /// As the program does it.
    pub(super) fn lookup(&self, key: &ServiceKey) -> Option<&ServiceEntry> {
        let mask = self.capacities.buckets - 1;
        let mut at = bucket_of(key, mask);
        for _ in 0..MAX_PROBE {
            let bucket = &self.buckets[at as usize];
            let hit = bucket.entries.iter().find(|entry| entry.tag() == key.tag() && entry.vip == key.vip);
            if hit.is_some() || bucket.overflowed == 0 {
                return hit;
            }
            at = (at + 1) & mask;
        }
        None
    }

    /// The ranges that the program lets in; `None`: all clients.
    pub(super) fn admits(&self, entry: &ServiceEntry) -> Option<BTreeSet<IpNet>> {
        (entry.flags & ServiceEntry::RESTRICTED != 0)
            .then(|| self.allowed.get(&entry.id).cloned().unwrap_or_default())
    }

    /// What every slot of an entry resolves to; `None` for one that names no backend.
    pub(super) fn resolve(&self, entry: &ServiceEntry) -> Vec<Option<IpAddr>> {
        let block = &self.slots[entry.ring.first_slot as usize..][..entry.ring.size as usize];
        let resolve = |slot: &Slot| {
            let backend = self.backends.get((entry.backends + u32::from(slot.current)) as usize)?;
            (backend.encap != 0).then(|| backend.outer.into())
        };
        // With formers only, it takes new connections as little as the empty ring does.
        if block.iter().all(|slot| slot.current == NO_BACKEND) {
            return Vec::new();
        }
        block.iter().map(resolve).collect()
    }

    pub(super) fn apply(&mut self, action: &Action, now: Duration) {
        self.check(action, now);
        self.note_readers(action, now);
        match *action {
            Action::WriteHop { index, hop } => self.hops[index as usize] = hop,
            Action::ClearHop { index } => self.hops[index as usize] = Hop::default(),
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
            Action::PublishEntry { bucket, entry, value, .. } => self.entry((bucket, entry), |e| *e = value),
            Action::SwitchRing { bucket, entry, ring } => self.entry((bucket, entry), |e| e.ring = ring),
            Action::SetEntryFlags { bucket, entry, flags } => {
                self.entry((bucket, entry), |e| e.flags = flags);
            }
            Action::UnpublishEntry { bucket, entry } => self.entry((bucket, entry), |e| {
                (e.port, e.protocol, e.family, e.id) = ([0; 2], 0, 0, 0);
            }),
            Action::PutServerId { key, server } => drop(self.server_ids.insert(key, server)),
            Action::RemoveServerId { key } => drop(self.server_ids.remove(&key)),
            Action::PutRange { service, range } => {
                self.allowed.entry(service).or_default().insert(range);
            }
            Action::RemoveRange { service, range } => {
                let ranges = self.allowed.get_mut(&service).unwrap();
                assert!(ranges.remove(&range), "{action:?} is not there");
                self.allowed.retain(|_, ranges| !ranges.is_empty());
            }
            Action::PutDelivery { key, delivery } => drop(self.deliveries.insert(key, delivery)),
            Action::RemoveDelivery { key } => drop(self.deliveries.remove(&key)),
            Action::PutGateway { prefix } => drop(self.gateways.insert(prefix)),
            Action::RemoveGateway { prefix } => drop(self.gateways.remove(&prefix)),
            Action::ClearBackendCounters { .. } | Action::ClearServiceCounters { .. } => {}
        }
    }

    fn entry(&mut self, (bucket, entry): (u32, usize), change: impl FnOnce(&mut ServiceEntry)) {
        change(&mut self.buckets[bucket as usize].entries[entry]);
    }

    /// What an action must not do while packets flow.
    fn check(&self, action: &Action, now: Duration) {
        if !self.strict {
            return;
        }
        let over = |until: Option<&Duration>| until.is_none_or(|&until| until <= now);
        match *action {
            Action::WriteHop { index, .. } => {
                assert!(index != 0 && self.hops[index as usize].ifindex == 0, "{action:?}");
                assert!(over(self.hops_read.get(&index)), "{action:?} at {now:?} is still read");
            }
            Action::ClearHop { index } => {
                assert!(self.backends.iter().all(|b| b.encap == 0 || b.hop != index), "{action:?} is named");
                assert!(over(self.hops_read.get(&index)), "{action:?} at {now:?} is still read");
            }
            Action::WriteBackend { index, .. } => {
                assert!(index != 0 && self.backends[index as usize] == Backend::default(), "{action:?}");
                assert!(over(self.backends_read.get(&index)), "{action:?} at {now:?} is still read");
            }
            Action::PutServerId { key, server } => {
                assert_ne!(self.backends[server.backend as usize].encap, 0, "{action:?} leads nowhere");
                assert!(
                    self.server_ids.len() < self.capacities.server_ids() as usize
                        || self.server_ids.contains_key(&key)
                );
            }
            Action::PutRange { service, range } => {
                let known = self.allowed.get(&service).is_some_and(|ranges| ranges.contains(&range));
                let used = self.allowed.values().map(BTreeSet::len).sum::<usize>();
                assert!(known || used < self.capacities.source_ranges as usize, "{action:?} finds no room");
            }
            Action::SetBackendHop { index, backend } => {
                assert_eq!(self.backends[index as usize].outer, backend.outer);
            }
            Action::ClearBackend { index } => {
                assert!(!self.named_backends().contains(&index), "{action:?} is named");
                assert!(self.found_servers().all(|server| server.backend != index), "{action:?} is a server");
                assert!(over(self.backends_read.get(&index)), "{action:?} at {now:?} is still read");
            }
            Action::WriteSlots { first, ref slots } => {
                let overlap = |start: u32, size: u32| start < first + slots.len() && first < start + size;
                for (_, _, entry) in self.entries() {
                    assert!(!overlap(entry.ring.first_slot, entry.ring.size), "{first} is named");
                }
                for (&start, (size, until)) in &self.slots_read {
                    assert!(!overlap(start, *size) || *until <= now, "{first} at {now:?} is still read");
                }
            }
            Action::SetSlot { index, slot } => {
                let holds =
                    |entry: &ServiceEntry| index.wrapping_sub(entry.ring.first_slot) < entry.ring.size;
                assert!(self.entries().any(|(_, _, entry)| holds(entry)), "{action:?} is nobody's");
                assert_eq!(self.slots[index as usize].current, slot.current, "{action:?}");
            }
            Action::PublishEntry { bucket, entry, value, .. } => {
                assert!(self.buckets[bucket as usize].entries[entry].key().is_none());
                assert!(over(self.entries_read.get(&(bucket, entry))), "{action:?} at {now:?} is still read");
                assert!(value.id != 0 && over(self.ids_read.get(&value.id)), "{action:?} at {now:?}: id");
                let others = self.entries().filter(|(_, _, other)| other.id == value.id);
                others.for_each(|(key, ..)| assert_eq!(Some(key), value.key(), "one id for two services"));
            }
            _ => {}
        }
    }

    /// Notes what stops being named now, and may be read for a while.
    fn note_readers(&mut self, action: &Action, now: Duration) {
        let until = now + GRACE;
        if !self.strict {
            return;
        }
        match *action {
            Action::SwitchRing { bucket, entry, .. } | Action::UnpublishEntry { bucket, entry } => {
                let value = self.buckets[bucket as usize].entries[entry];
                self.slots_read.insert(value.ring.first_slot, (value.ring.size, until));
                let block = &self.slots[value.ring.first_slot as usize..][..value.ring.size as usize];
                for local in block.iter().flat_map(named) {
                    self.backends_read.insert(value.backends + u32::from(local), until);
                }
                if matches!(action, Action::UnpublishEntry { .. }) {
                    self.entries_read.insert((bucket, entry), until);
                    if self.entries().filter(|(_, _, other)| other.id == value.id).count() == 1 {
                        self.ids_read.insert(value.id, until);
                    }
                }
            }
            Action::RemoveServerId { key } => {
                // Nobody finds it whose service is unpublished.
                if self.entries().any(|(_, _, entry)| entry.backends == key.first)
                    && let Some(server) = self.server_ids.get(&key)
                {
                    self.backends_read.insert(server.backend, until);
                }
            }
            Action::SetBackendHop { index, .. } => {
                self.hops_read.insert(self.backends[index as usize].hop, until);
            }
            _ => {}
        }
    }

    /// The servers that a packet may find.
    pub(super) fn found_servers(&self) -> impl Iterator<Item = &Server> {
        let firsts: BTreeSet<u32> = self.entries().map(|(_, _, entry)| entry.backends).collect();
        self.server_ids.iter().filter(move |(key, _)| firsts.contains(&key.first)).map(|(_, server)| server)
    }

    /// Every index of `BACKENDS` that a published slot names, as current or former.
    pub(super) fn named_backends(&self) -> BTreeSet<u32> {
        let of = |entry: &ServiceEntry| {
            let block = &self.slots[entry.ring.first_slot as usize..][..entry.ring.size as usize];
            block.iter().flat_map(named).map(|local| entry.backends + u32::from(local)).collect::<Vec<_>>()
        };
        self.entries().flat_map(|(_, _, entry)| of(entry)).collect()
    }
}
