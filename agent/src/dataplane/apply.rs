//! Carries actions out, one by one.
//!
//! What packets may be reading changes by one 64-bit store; everything else is written before a packet can
//! reach it, or after none can.

use std::net::IpAddr;

use aya::Pod;
use aya::maps::{HashMap, LpmTrie, PerCpuArray, PerCpuValues, lpm_trie::Key};
use fairlead_abi::{
    BUCKET_ENTRIES, BackendCounters, Bucket, Delivery, DeliveryKey, Server, ServerKey, ServiceCounters,
    ServiceEntry, map,
};
use fairlead_core::planner::Action;
use ipnet::IpNet;

use super::{Dataplane, Error};

/// Words of a service entry.
const ENTRY_WORDS: usize = size_of::<ServiceEntry>() / 8;
/// The word of an entry with port, protocol, family and id: what makes it count.
const TAG_WORD: usize = 2;
/// The word with the ring.
const RING_WORD: usize = 3;
/// The word with the index of its backends and its flags.
const BACKENDS_WORD: usize = 4;
/// The word of a bucket that says whether it has overflowed.
const OVERFLOWED_WORD: usize = BUCKET_ENTRIES * ENTRY_WORDS;
/// The word of a hop with its interface.
const IFINDEX_WORD: usize = 1;
/// The word of a backend with hop, MTU and encapsulation.
const HOP_WORD: usize = 2;

impl Dataplane {
    /// Carries one action out; when it returns, packets see all of it.
    pub fn apply(&mut self, action: &Action) -> Result<(), Error> {
        match action {
            Action::WriteHop { index, hop } => self.hops.write(*index, hop, [0, 2, IFINDEX_WORD]),
            Action::ClearHop { index } => {
                self.hops.write(*index, &fairlead_abi::Hop::default(), [IFINDEX_WORD, 0, 2])
            }
            Action::WriteBackend { index, backend } => self.backends.write(*index, backend, [0, 1, HOP_WORD]),
            Action::SetBackendHop { index, backend } => self.backends.write(*index, backend, [HOP_WORD]),
            Action::ClearBackend { index } => {
                self.backends.write(*index, &fairlead_abi::Backend::default(), [HOP_WORD, 0, 1])
            }
            Action::WriteSlots { first, slots } => self.slots.fill(*first, slots.iter()),
            Action::SetSlot { index, slot } => self.slots.fill(*index, std::iter::once(*slot)),
            Action::PublishEntry { bucket, entry, value, .. } => self.publish(*bucket, *entry, value),
            Action::UnpublishEntry { bucket, entry } => self.store_entry(*bucket, *entry, TAG_WORD, 0),
            Action::SwitchRing { bucket, entry, ring } => {
                let value = u64::from(ring.first_slot) | u64::from(ring.size) << 32;
                self.store_entry(*bucket, *entry, RING_WORD, value)
            }
            Action::SetEntryFlags { bucket, entry, flags } => self.set_flags(*bucket, *entry, *flags),
            Action::SetOverflowed { bucket, value } => {
                self.services.store(*bucket, OVERFLOWED_WORD, u64::from(*value))
            }
            Action::ClearBackendCounters { first, count } => self.clear_backend_counters(*first, *count),
            Action::ClearServiceCounters { id } => self.clear_service_counters(*id),
            Action::PutServerId { key, server } => self.put(map::SERVER_IDS, key, server),
            Action::RemoveServerId { key } => self.remove::<ServerKey, Server>(map::SERVER_IDS, key),
            Action::PutRange { service, range } => self.put_range(*service, *range),
            Action::RemoveRange { service, range } => self.remove_range(*service, *range),
            Action::PutDelivery { key, delivery } => self.put(map::DELIVERIES, key, delivery),
            Action::RemoveDelivery { key } => self.remove::<DeliveryKey, Delivery>(map::DELIVERIES, key),
            Action::PutGateway { prefix } => self.put_gateway(*prefix),
            Action::RemoveGateway { prefix } => self.remove_gateway(*prefix),
        }
    }

    fn publish(&mut self, bucket: u32, entry: usize, value: &ServiceEntry) -> Result<(), Error> {
        let mut whole = Bucket::default();
        let bounds = Error::Bounds { map: map::SERVICES, index: bucket.into() };
        *whole.entries.get_mut(entry).ok_or(bounds)? = *value;
        let base = entry * ENTRY_WORDS;
        self.services.write(bucket, &whole, [0, 1, RING_WORD, BACKENDS_WORD, TAG_WORD].map(|w| base + w))
    }

    fn store_entry(&mut self, bucket: u32, entry: usize, word: usize, value: u64) -> Result<(), Error> {
        if entry >= BUCKET_ENTRIES {
            return Err(Error::Bounds { map: map::SERVICES, index: bucket.into() });
        }
        self.services.store(bucket, entry * ENTRY_WORDS + word, value)
    }

    fn set_flags(&mut self, bucket: u32, entry: usize, flags: u32) -> Result<(), Error> {
        let bounds = Error::Bounds { map: map::SERVICES, index: bucket.into() };
        let mut value = *self
            .services
            .elements()
            .get(bucket as usize)
            .and_then(|b| b.entries.get(entry))
            .ok_or(bounds)?;
        value.flags = flags;
        let word = u64::from(value.backends) | u64::from(value.flags) << 32;
        self.store_entry(bucket, entry, BACKENDS_WORD, word)
    }

    fn clear_backend_counters(&mut self, first: u32, count: u32) -> Result<(), Error> {
        let unused = &mut self.unused_counters;
        let used: Vec<u32> =
            (first..first.saturating_add(count)).filter(|&index| !unused.take(index)).collect();
        if used.is_empty() {
            return Ok(());
        }
        let error = Error::map(map::BACKEND_COUNTERS);
        let mut array = PerCpuArray::<_, BackendCounters>::try_from(self.map_mut(map::BACKEND_COUNTERS)?)
            .map_err(&error)?;
        for index in used {
            array.set(index, zeroes()?, 0).map_err(&error)?;
        }
        Ok(())
    }

    fn clear_service_counters(&mut self, id: u32) -> Result<(), Error> {
        let error = Error::map(map::SERVICE_COUNTERS);
        let mut array = PerCpuArray::<_, ServiceCounters>::try_from(self.map_mut(map::SERVICE_COUNTERS)?)
            .map_err(&error)?;
        array.set(id, zeroes()?, 0).map_err(error)
    }

    fn put<K: Pod, V: Pod>(&mut self, name: &'static str, key: &K, value: &V) -> Result<(), Error> {
        let error = Error::map(name);
        let mut table = HashMap::<_, K, V>::try_from(self.map_mut(name)?).map_err(&error)?;
        table.insert(key, value, 0).map_err(error)
    }

    fn remove<K: Pod, V: Pod>(&mut self, name: &'static str, key: &K) -> Result<(), Error> {
        let error = Error::map(name);
        let mut table = HashMap::<_, K, V>::try_from(self.map_mut(name)?).map_err(&error)?;
        table.remove(key).map_err(error)
    }

    fn put_gateway(&mut self, prefix: IpNet) -> Result<(), Error> {
        let error = Error::map(map::GATEWAYS);
        let mut trie = LpmTrie::<_, [u8; 16], u32>::try_from(self.map_mut(map::GATEWAYS)?).map_err(&error)?;
        trie.insert(&trie_key(prefix), 1, 0).map_err(error)
    }

    fn remove_gateway(&mut self, prefix: IpNet) -> Result<(), Error> {
        let error = Error::map(map::GATEWAYS);
        let mut trie = LpmTrie::<_, [u8; 16], u32>::try_from(self.map_mut(map::GATEWAYS)?).map_err(&error)?;
        trie.remove(&trie_key(prefix)).map_err(error)
    }
}

/// A prefix as the trie of gateways has it: IPv4 in the mapped form.
fn trie_key(prefix: IpNet) -> Key<[u8; 16]> {
    let mapped = match prefix.network() {
        IpAddr::V4(_) => 96,
        IpAddr::V6(_) => 0,
    };
    Key::new(mapped + u32::from(prefix.prefix_len()), fairlead_abi::Address::from(prefix.network()).bytes)
}

/// A zero for each CPU.
fn zeroes<T: Pod + Default>() -> Result<PerCpuValues<T>, Error> {
    let unknown = |source| Error::Pin { path: "/sys/devices/system/cpu/possible".into(), source };
    let cpus = aya::util::nr_cpus().map_err(|(_, source)| unknown(source))?;
    PerCpuValues::try_from(vec![T::default(); cpus]).map_err(unknown)
}
