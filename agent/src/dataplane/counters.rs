//! Counters, added up over the CPUs.

use aya::maps::PerCpuArray;
use fairlead_abi::{BackendCounters, Counter, DropReason, FlowEvent, ServiceCounters, map};

use super::{Dataplane, Error};

/// A reader of all counters; works on pinned maps, with or without an agent.
pub struct Counters<M> {
    services: PerCpuArray<M, ServiceCounters>,
    backends: PerCpuArray<M, BackendCounters>,
    drops: PerCpuArray<M, Counter>,
    events: PerCpuArray<M, u64>,
}

impl Dataplane {
    /// The counters of the maps in use.
    pub fn counters(&self) -> Result<Counters<&aya::maps::MapData>, Error> {
        Ok(Counters {
            services: PerCpuArray::try_from(self.map(map::SERVICE_COUNTERS)?)
                .map_err(Error::map(map::SERVICE_COUNTERS))?,
            backends: PerCpuArray::try_from(self.map(map::BACKEND_COUNTERS)?)
                .map_err(Error::map(map::BACKEND_COUNTERS))?,
            drops: PerCpuArray::try_from(self.map(map::DROPS)?).map_err(Error::map(map::DROPS))?,
            events: PerCpuArray::try_from(self.map(map::FLOW_EVENTS)?)
                .map_err(Error::map(map::FLOW_EVENTS))?,
        })
    }
}

impl Counters<aya::maps::MapData> {
    /// The counters of the maps that are pinned in `folder`.
    pub fn pinned(folder: &std::path::Path) -> Result<Self, Error> {
        let open = |name: &'static str| {
            aya::maps::MapData::from_pin(folder.join(name))
                .and_then(aya::maps::Map::from_map_data)
                .map_err(Error::map(name))
        };
        Ok(Self {
            services: PerCpuArray::try_from(open(map::SERVICE_COUNTERS)?)
                .map_err(Error::map(map::SERVICE_COUNTERS))?,
            backends: PerCpuArray::try_from(open(map::BACKEND_COUNTERS)?)
                .map_err(Error::map(map::BACKEND_COUNTERS))?,
            drops: PerCpuArray::try_from(open(map::DROPS)?).map_err(Error::map(map::DROPS))?,
            events: PerCpuArray::try_from(open(map::FLOW_EVENTS)?).map_err(Error::map(map::FLOW_EVENTS))?,
        })
    }
}

impl<M: std::borrow::Borrow<aya::maps::MapData>> Counters<M> {
    /// Of the service with this id.
    pub fn service(&self, id: u32) -> Result<ServiceCounters, Error> {
        let values = self.services.get(&id, 0).map_err(Error::map(map::SERVICE_COUNTERS))?;
        Ok(values.iter().fold(ServiceCounters::default(), |sum, cpu| ServiceCounters {
            packets: sum.packets + cpu.packets,
            bytes: sum.bytes + cpu.bytes,
            connections: sum.connections + cpu.connections,
        }))
    }

    /// Of the backend at this index of `BACKENDS`.
    pub fn backend(&self, index: u32) -> Result<BackendCounters, Error> {
        let values = self.backends.get(&index, 0).map_err(Error::map(map::BACKEND_COUNTERS))?;
        Ok(values.iter().fold(BackendCounters::default(), |sum, cpu| BackendCounters {
            packets: sum.packets + cpu.packets,
            connections: sum.connections + cpu.connections,
        }))
    }

    /// Packets that were dropped for a reason.
    pub fn drops(&self, reason: DropReason) -> Result<Counter, Error> {
        let values = self.drops.get(&(reason as u32), 0).map_err(Error::map(map::DROPS))?;
        Ok(values.iter().fold(Counter::default(), |sum, cpu| Counter {
            packets: sum.packets + cpu.packets,
            bytes: sum.bytes + cpu.bytes,
        }))
    }

    /// What became of packets whose flow the slot's current backend may not know.
    pub fn events(&self, event: FlowEvent) -> Result<u64, Error> {
        let values = self.events.get(&(event as u32), 0).map_err(Error::map(map::FLOW_EVENTS))?;
        Ok(values.iter().sum())
    }
}
