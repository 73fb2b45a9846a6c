//! The kernel's tables of an agent's instance, read and emptied behind its back.

use anyhow::Result;
use aya::maps::{Array, HashMap, Map, MapData};
use fairlead::dataplane::Instance;
use fairlead_abi::{CacheBucket, FlowEntry, FlowKey, RecentBucket, map};

use super::Agent;

impl Agent {
    /// Every flow that this host's receiver knows, half-open ones included.
    pub fn flows(&self) -> Result<Vec<(FlowKey, FlowEntry)>> {
        let maps = Instance::new(self.instance()).maps();
        let mut flows = Vec::new();
        for name in [map::FLOWS, map::HALF_OPEN] {
            let data = Map::from_map_data(MapData::from_pin(maps.join(name))?)?;
            let table = HashMap::<_, FlowKey, FlowEntry>::try_from(data)?;
            flows.extend(table.iter().collect::<Result<Vec<_>, _>>()?);
        }
        Ok(flows)
    }

    /// Removes every flow that this host's receiver knows.
    pub fn forget_flows(&self) -> Result<()> {
        let maps = Instance::new(self.instance()).maps();
        let known = self.flows()?;
        for name in [map::FLOWS, map::HALF_OPEN] {
            let data = Map::from_map_data(MapData::from_pin(maps.join(name))?)?;
            let mut table = HashMap::<_, FlowKey, FlowEntry>::try_from(data)?;
            // Each is in one of the two, if it is there yet.
            known.iter().for_each(|(key, _)| drop(table.remove(key)));
        }
        let pin = MapData::from_pin(maps.join(map::RECENT))?;
        let mut recent = Array::<_, RecentBucket>::try_from(Map::from_map_data(pin)?)?;
        (0..recent.len()).try_for_each(|bucket| Ok(recent.set(bucket, RecentBucket::default(), 0)?))
    }

    /// Empties this host's flow cache, as if it had never heard of anything.
    pub fn wipe_cache(&self) -> Result<()> {
        let pin = Instance::new(self.instance()).maps().join(map::CACHE);
        let mut cache = Array::<_, CacheBucket>::try_from(Map::from_map_data(MapData::from_pin(pin)?)?)?;
        (0..cache.len()).try_for_each(|bucket| Ok(cache.set(bucket, CacheBucket::default(), 0)?))
    }
}
