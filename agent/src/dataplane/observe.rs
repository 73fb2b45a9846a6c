//! Reads the kernel's tables back, whole: those of this agent, or those that are pinned, whoever wrote them.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use aya::{
    Pod,
    maps::{HashMap, LpmTrie, Map, MapData, MapError},
};
use fairlead_abi::{
    Address, Backend, Bucket, CacheBucket, Cached, Delivery, DeliveryKey, Hop, Server, ServerKey, Slot, map,
};
use fairlead_core::planner::{Capacities, Raw, ReadSlots};
use ipnet::IpNet;

use super::{CacheView, Dataplane, Error, Instance, allowed::Pinned, mapped::Mapped};

impl Dataplane {
    /// The slots of all rings.
    #[must_use]
    pub fn slots(&self) -> &dyn ReadSlots {
        &self.slots
    }

    /// What the tables hold now.
    pub fn observe(&self) -> Result<Raw<'_>, Error> {
        let deliveries =
            HashMap::try_from(self.map(map::DELIVERIES)?).map_err(Error::map(map::DELIVERIES))?;
        let server_ids =
            HashMap::try_from(self.map(map::SERVER_IDS)?).map_err(Error::map(map::SERVER_IDS))?;
        let gateways = LpmTrie::try_from(self.map(map::GATEWAYS)?).map_err(Error::map(map::GATEWAYS))?;
        Ok(Raw {
            buckets: self.services.elements(),
            slots: &self.slots,
            backends: self.backends.elements(),
            server_ids: read(map::SERVER_IDS, &server_ids)?,
            allowed: self.read_ranges()?,
            hops: self.hops.elements(),
            deliveries: read(map::DELIVERIES, &deliveries)?,
            gateways: read_gateways(&gateways)?,
        })
    }
}

/// The pinned tables of an instance, to read only; no agent need run.
pub struct View {
    services: Mapped<Bucket>,
    slots: Mapped<Slot>,
    backends: Mapped<Backend>,
    hops: Mapped<Hop>,
    cache_buckets: Mapped<CacheBucket>,
    cache_marks: Mapped<Cached>,
    server_ids: HashMap<MapData, ServerKey, Server>,
    allowed: Pinned,
    deliveries: HashMap<MapData, DeliveryKey, Delivery>,
    gateways: LpmTrie<MapData, [u8; 16], u32>,
    limits: (u32, u32, u32),
}

impl View {
    /// Opens the pins of `instance` that are of this program's ABI.
    pub fn open(instance: &Instance) -> Result<Self, Error> {
        Self::of_folder(&instance.maps())
    }

    /// Opens what is pinned in `folder`, in the layout that this program knows.
    pub(super) fn of_folder(folder: &Path) -> Result<Self, Error> {
        let pinned = |name: &'static str| MapData::from_pin(folder.join(name)).map_err(Error::map(name));
        let entries = |name: &'static str| Ok(pinned(name)?.info().map_err(Error::map(name))?.max_entries());
        let table = |name: &'static str| Map::from_map_data(pinned(name)?).map_err(Error::map(name));
        let limits = (entries(map::SERVICE_COUNTERS)?, entries(map::DELIVERIES)?, entries(map::GATEWAYS)?);
        Ok(Self {
            services: Mapped::new(map::SERVICES, &pinned(map::SERVICES)?, false)?,
            slots: Mapped::new(map::SLOTS, &pinned(map::SLOTS)?, false)?,
            backends: Mapped::new(map::BACKENDS, &pinned(map::BACKENDS)?, false)?,
            hops: Mapped::new(map::HOPS, &pinned(map::HOPS)?, false)?,
            cache_buckets: Mapped::new(map::CACHE, &pinned(map::CACHE)?, false)?,
            cache_marks: Mapped::new(map::CACHED, &pinned(map::CACHED)?, false)?,
            allowed: Pinned::open(folder)?,
            server_ids: table(map::SERVER_IDS)?.try_into().map_err(Error::map(map::SERVER_IDS))?,
            deliveries: table(map::DELIVERIES)?.try_into().map_err(Error::map(map::DELIVERIES))?,
            gateways: table(map::GATEWAYS)?.try_into().map_err(Error::map(map::GATEWAYS))?,
            limits,
        })
    }

    /// What the tables hold now.
    pub fn observe(&self) -> Result<Raw<'_>, Error> {
        Ok(Raw {
            buckets: self.services.elements(),
            slots: &self.slots,
            backends: self.backends.elements(),
            server_ids: read(map::SERVER_IDS, &self.server_ids)?,
            allowed: self.allowed.read()?,
            hops: self.hops.elements(),
            deliveries: read(map::DELIVERIES, &self.deliveries)?,
            gateways: read_gateways(&self.gateways)?,
        })
    }

    /// The flow cache.
    #[must_use]
    pub fn flow_cache(&self) -> CacheView<'_> {
        CacheView { buckets: self.cache_buckets.elements(), marks: self.cache_marks.elements() }
    }

    /// How large they are.
    #[must_use]
    pub fn capacities(&self) -> Capacities {
        let entries = |length: usize| u32::try_from(length).expect("a map has fewer entries than 2^32");
        let (service_ids, deliveries, gateways) = self.limits;
        Capacities {
            buckets: entries(self.services.elements().len()),
            slots: entries(self.slots.elements().len()),
            backends: entries(self.backends.elements().len()),
            hops: entries(self.hops.elements().len()),
            service_ids,
            deliveries,
            gateways,
            source_ranges: self.allowed.capacity,
        }
    }
}

fn read<M: Borrow<MapData>, K: Pod + Ord, V: Pod>(
    name: &'static str,
    table: &HashMap<M, K, V>,
) -> Result<BTreeMap<K, V>, Error> {
    table.iter().collect::<Result<_, MapError>>().map_err(Error::map(name))
}

fn read_gateways<M: Borrow<MapData>>(trie: &LpmTrie<M, [u8; 16], u32>) -> Result<BTreeSet<IpNet>, Error> {
    let mut prefixes = BTreeSet::new();
    for entry in trie.iter() {
        let (key, _) = entry.map_err(Error::map(map::GATEWAYS))?;
        prefixes.extend(prefix(key.prefix_len(), key.data()));
    }
    Ok(prefixes)
}

/// A key of the trie as a prefix; `None` for one that no agent writes.
fn prefix(length: u32, bytes: [u8; 16]) -> Option<IpNet> {
    let address = Address::v6(bytes);
    let length = if address.is_v4() { length.checked_sub(96)? } else { length };
    IpNet::new(address.into(), u8::try_from(length).ok()?).ok()
}
