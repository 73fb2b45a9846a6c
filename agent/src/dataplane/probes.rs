//! Where probes go: the programs encapsulate what leaves a socket with a probe's mark to its target.

use aya::maps::{HashMap, MapData};
use fairlead_abi::{PROBE_MARK, ProbeTarget, map};

use super::{Dataplane, Error};

/// The table of probe targets.
pub struct Probes(HashMap<MapData, u32, ProbeTarget>);

impl Dataplane {
    /// Takes the table of probe targets out; `None` when it was taken before.
    pub fn take_probes(&mut self) -> Result<Option<Probes>, Error> {
        let Some(table) = self.ebpf.take_map(map::PROBES) else { return Ok(None) };
        Ok(Some(Probes(HashMap::try_from(table).map_err(Error::map(map::PROBES))?)))
    }
}

impl Probes {
    /// Sets the target of the probes with `number` (below 2²⁴).
    pub fn set(&mut self, number: u32, target: &ProbeTarget) -> Result<(), Error> {
        self.0.insert(number, target, 0).map_err(Error::map(map::PROBES))
    }

    /// Forgets a target.
    pub fn remove(&mut self, number: u32) -> Result<(), Error> {
        self.0.remove(&number).map_err(Error::map(map::PROBES))
    }

    /// The socket mark that a probe with `number` needs.
    #[must_use]
    pub const fn mark(number: u32) -> u32 {
        PROBE_MARK | number
    }
}
