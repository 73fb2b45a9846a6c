//! What metrics show, read at one moment: the pinned maps, and what the agent last said.

use fairlead_abi::{Address, BackendCounters, Counter, DropReason, FlowEvent, ServiceCounters, ServiceKey};
use fairlead_core::planner::{ServiceTable, WantedBackend};

use crate::dataplane::{Counters, Error, Instance, Owners, filled, memory};
use crate::health;
use crate::status::Status;

/// All of it.
pub(super) struct Reading<'a> {
    pub(super) status: &'a Status,
    pub(super) probes: health::Snapshot,
    pub(super) asks: &'a fairlead_core::asks::Counters,
    pub(super) fragments: &'a fairlead_core::fragments::Counters,
    /// `None` where the maps can't be read.
    pub(super) maps: Option<Maps<'a>>,
}

/// What stands in the maps.
#[derive(Default)]
pub(super) struct Maps<'a> {
    pub(super) services: Vec<ServiceReading<'a>>,
    /// In the order of their services.
    pub(super) backends: Vec<BackendReading<'a>>,
    pub(super) drops: Vec<(DropReason, Counter)>,
    pub(super) events: Vec<(FlowEvent, u64)>,
    pub(super) memory: Vec<(&'static str, u64)>,
    /// Of maps that no plan fills: entries in use, and entries.
    pub(super) filled: Vec<(&'static str, u64, u64)>,
}

/// One port of a VIP.
pub(super) struct ServiceReading<'a> {
    pub(super) key: ServiceKey,
    pub(super) table: Option<&'a ServiceTable>,
    pub(super) counters: ServiceCounters,
}

/// One backend of it.
pub(super) struct BackendReading<'a> {
    /// Index in [`Maps::services`].
    pub(super) service: usize,
    pub(super) outer: Address,
    pub(super) wanted: Option<&'a WantedBackend>,
    pub(super) counters: BackendCounters,
}

impl<'a> Maps<'a> {
    /// Reads the pins. Blocks.
    pub(super) fn read(instance: &Instance, status: &'a Status) -> Result<Self, Error> {
        let owners = Owners::read(instance)?;
        let counters = Counters::pinned(&instance.maps())?;
        let mut maps = Self { memory: memory(instance)?, filled: filled(instance)?, ..Self::default() };
        for &reason in DropReason::ALL {
            maps.drops.push((reason, counters.drops(reason)?));
        }
        for &event in FlowEvent::ALL {
            maps.events.push((event, counters.events(event)?));
        }
        for (key, entry) in owners.services().iter().filter(|(key, _)| key.port != 0) {
            let table = find_table(status, key);
            let service = maps.services.len();
            maps.services.push(ServiceReading { key: *key, table, counters: counters.service(entry.id)? });
            for (index, backend) in owners.backends(entry) {
                let wanted = table.and_then(|table| find_backend(table, &backend.outer));
                let counters = counters.backend(index)?;
                maps.backends.push(BackendReading { service, outer: backend.outer, wanted, counters });
            }
        }
        Ok(maps)
    }
}

/// The tables stand in the order of their keys.
fn find_table<'a>(status: &'a Status, key: &ServiceKey) -> Option<&'a ServiceTable> {
    let at = status.services.binary_search_by_key(key, |table| table.key()).ok()?;
    Some(&status.services[at])
}

/// A table's backends stand in the order of their outer addresses.
fn find_backend<'a>(table: &'a ServiceTable, outer: &Address) -> Option<&'a WantedBackend> {
    let address = std::net::IpAddr::from(*outer);
    let at = table.backends.binary_search_by_key(&address, |backend| backend.outer).ok()?;
    Some(&table.backends[at])
}

/// The protocol's name, for a label.
pub(super) fn protocol_name(key: &ServiceKey) -> &'static str {
    match key.protocol {
        fairlead_abi::protocol::TCP => "tcp",
        fairlead_abi::protocol::UDP => "udp",
        _ => "other",
    }
}
