//! Which counters are whose, from the pinned tables.
//!
//! For metrics, which are read next to a running agent: slots, by far the largest table, are not touched.

use aya::maps::MapData;
use fairlead_abi::{Backend, Bucket, NO_BACKEND, ServiceEntry, ServiceKey, map};

use super::{Error, Instance, mapped::Mapped};

/// The services and backends that are pinned.
pub struct Owners {
    services: Vec<(ServiceKey, ServiceEntry)>,
    /// Where each service's region of `BACKENDS` begins, sorted.
    starts: Vec<u32>,
    backends: Mapped<Backend>,
}

impl Owners {
    /// Reads the pins of `instance`.
    pub fn read(instance: &Instance) -> Result<Self, Error> {
        let folder = instance.maps();
        let pinned = |name: &'static str| MapData::from_pin(folder.join(name)).map_err(Error::map(name));
        let buckets = Mapped::<Bucket>::new(map::SERVICES, &pinned(map::SERVICES)?, false)?;
        let entries = buckets.elements().iter().flat_map(|bucket| &bucket.entries);
        let mut services: Vec<(ServiceKey, ServiceEntry)> =
            entries.filter_map(|entry| Some((entry.key()?, *entry))).collect();
        services.sort_unstable_by_key(|(key, entry)| (*key, entry.id));
        // While a service moves, it stands twice.
        services.dedup_by_key(|(key, _)| *key);
        let mut starts: Vec<u32> = services.iter().map(|(_, entry)| entry.backends).collect();
        starts.sort_unstable();
        starts.dedup();
        let backends = Mapped::new(map::BACKENDS, &pinned(map::BACKENDS)?, false)?;
        Ok(Self { services, starts, backends })
    }

    /// Every service port and, with port 0, every VIP; by key.
    #[must_use]
    pub fn services(&self) -> &[(ServiceKey, ServiceEntry)] {
        &self.services
    }

    /// The backends of a service, with their indexes.
    pub fn backends(&self, entry: &ServiceEntry) -> impl Iterator<Item = (u32, Backend)> + '_ {
        let start = entry.backends;
        let after = self.starts.partition_point(|&other| other <= start);
        let all = u32::try_from(self.backends.elements().len()).unwrap_or(u32::MAX);
        let next = self.starts.get(after).copied().unwrap_or(all).min(all);
        // Index 0 is never used: what begins there has no backends.
        let end = if start == 0 { 0 } else { next.min(start.saturating_add(NO_BACKEND.into())) };
        let used = |index: &u32| self.backends.elements()[*index as usize].encap != 0;
        (start..end).filter(used).map(|index| (index, self.backends.elements()[index as usize]))
    }
}
