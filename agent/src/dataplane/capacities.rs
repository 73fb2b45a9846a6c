//! How large maps are.

use std::io;

use aya::maps::MapData;
use fairlead_abi::{Cached, RECENT_ENTRIES, map};

use super::{Error, Instance};

/// Entries of each map that has a size of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacities {
    /// Of the tables that plans fill.
    pub tables: fairlead_core::planner::Capacities,
    /// Established flows.
    pub flows: u32,
    /// Half-open flows.
    pub half_open: u32,
    /// Probe targets.
    pub probes: u32,
    /// Buckets of the flow cache; a power of two.
    pub cache: u32,
    /// Datagrams in fragments.
    pub fragments: u32,
}

impl Capacities {
    /// Each map's name and its entries.
    pub(super) fn entries(&self) -> [(&'static str, u32); 17] {
        let tables = &self.tables;
        [
            (map::SERVICES, tables.buckets),
            (map::SLOTS, tables.slots),
            (map::BACKENDS, tables.backends),
            (map::BACKEND_COUNTERS, tables.backends),
            (map::SERVER_IDS, tables.server_ids()),
            (map::ALLOWED, tables.source_ranges),
            (map::SERVICE_COUNTERS, tables.service_ids),
            (map::HOPS, tables.hops),
            (map::DELIVERIES, tables.deliveries),
            (map::GATEWAYS, tables.gateways),
            (map::FLOWS, self.flows),
            (map::RECENT, self.recent()),
            (map::HALF_OPEN, self.half_open),
            (map::PROBES, self.probes),
            (map::CACHE, self.cache),
            (map::CACHED, Cached::elements(tables.slots)),
            (map::FRAGMENTS, self.fragments),
        ]
    }

    /// Buckets of what endpoints said lately, a power of two: so many that next to no flow is put out by others while all
    /// established ones are in use.
    #[must_use]
    pub fn recent(&self) -> u32 {
        (self.flows / (RECENT_ENTRIES / 2)).max(1).next_power_of_two()
    }

    /// The tables of flows, with their sizes.
    pub(super) fn of_flows(&self) -> [(&'static str, Option<u32>); 2] {
        [(map::FLOWS, Some(self.flows)), (map::HALF_OPEN, Some(self.half_open))]
    }

    /// The maps that no plan fills: flows, probes on their way, endpoints' namespaces, and counters that stand for themselves.
    pub(super) fn unplanned(&self) -> [(&'static str, Option<u32>); 6] {
        let [flows, half_open] = self.of_flows();
        [
            flows,
            half_open,
            (map::PROBES, Some(self.probes)),
            (map::NAMESPACES, None),
            (map::DROPS, None),
            (map::FLOW_EVENTS, None),
        ]
    }

    /// With no table of plans smaller than one that packets of `instance` are steered by: what serves would find no room
    /// in the new ones.
    pub fn no_less_than_in_use(self, instance: &Instance) -> Result<Self, Error> {
        let mut tables = self.tables;
        for folder in instance.in_use()? {
            let no_less = |size: &mut u32, name: &str| -> Result<(), Error> {
                // Another version may not have it.
                if let Ok(map) = MapData::from_pin(folder.join(name)) {
                    let entries = map.info().map_err(|error| Error::pin(&folder)(io::Error::other(error)))?;
                    *size = (*size).max(entries.max_entries());
                }
                Ok(())
            };
            no_less(&mut tables.buckets, map::SERVICES)?;
            no_less(&mut tables.slots, map::SLOTS)?;
            no_less(&mut tables.backends, map::BACKENDS)?;
            no_less(&mut tables.service_ids, map::SERVICE_COUNTERS)?;
            no_less(&mut tables.hops, map::HOPS)?;
            no_less(&mut tables.deliveries, map::DELIVERIES)?;
            no_less(&mut tables.gateways, map::GATEWAYS)?;
            no_less(&mut tables.source_ranges, map::ALLOWED)?;
        }
        tables.buckets = tables.buckets.next_power_of_two();
        Ok(Self { tables, ..self })
    }
}
