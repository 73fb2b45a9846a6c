//! How full the pinned maps are, and how much memory they take. Only for what no plan fills; the planner knows the use of
//! its own tables.

use std::{fs, os::fd::AsRawFd};

use aya::{
    Pod,
    maps::{HashMap, Map, MapData},
};
use fairlead_abi::{FlowEntry, FlowKey, FragmentEntry, FragmentKey, ProbeTarget, map};

use super::{Error, Instance};

/// Name of each map that fills by itself, entries in use, and entries. A system call per entry in use.
pub fn filled(instance: &Instance) -> Result<Vec<(&'static str, u64, u64)>, Error> {
    let folder = instance.maps();
    let open = |name| MapData::from_pin(folder.join(name)).map_err(Error::map(name));
    Ok(vec![
        filled_of::<FlowKey, FlowEntry>(map::FLOWS, Map::HashMap(open(map::FLOWS)?))?,
        filled_of::<FlowKey, FlowEntry>(map::HALF_OPEN, Map::LruHashMap(open(map::HALF_OPEN)?))?,
        filled_of::<FragmentKey, FragmentEntry>(map::FRAGMENTS, Map::LruHashMap(open(map::FRAGMENTS)?))?,
        filled_of::<u32, ProbeTarget>(map::PROBES, Map::HashMap(open(map::PROBES)?))?,
    ])
}

fn filled_of<K: Pod, V: Pod>(name: &'static str, map: Map) -> Result<(&'static str, u64, u64), Error> {
    let (Map::HashMap(data) | Map::LruHashMap(data)) = &map else { return Ok((name, 0, 0)) };
    let capacity = data.info().map_err(Error::map(name))?.max_entries();
    let table = HashMap::<_, K, V>::try_from(map).map_err(Error::map(name))?;
    let mut used = 0;
    // The kernel begins anew where the last key was evicted meanwhile, again and again under a flood.
    for key in table.keys().take(capacity as usize) {
        key.map_err(Error::map(name))?;
        used += 1;
    }
    Ok((name, used, capacity.into()))
}

/// Kernel memory of each pinned map as the kernel accounts for it (`memlock` of its fdinfo), in bytes.
pub fn memory(instance: &Instance) -> Result<Vec<(&'static str, u64)>, Error> {
    let folder = instance.maps();
    let mut sizes = Vec::with_capacity(map::ALL.len());
    for name in map::ALL {
        let map = MapData::from_pin(folder.join(name)).map_err(Error::map(name))?;
        let path = format!("/proc/self/fdinfo/{}", std::os::fd::AsFd::as_fd(map.fd()).as_raw_fd());
        let info = fs::read_to_string(&path).map_err(Error::pin(path.as_ref()))?;
        sizes.extend(memlock(&info).map(|bytes| (name, bytes)));
    }
    Ok(sizes)
}

fn memlock(fdinfo: &str) -> Option<u64> {
    fdinfo.lines().find_map(|line| line.strip_prefix("memlock:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_fdinfo() {
        let info = "pos:\t0\nflags:\t02000002\nmap_type:\t2\nmax_entries:\t16\nmemlock:\t8192\nmap_id:\t7\n";
        assert_eq!(memlock(info), Some(8192));
        assert_eq!(memlock("pos:\t0\n"), None);
    }
}
