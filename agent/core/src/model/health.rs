//! What probes from this gateway see.
//!
//! The prober keeps a [`Health`] and hands out clones: services share their part by `Arc`, so that a clone is
//! cheap and unchanged services are skipped by the planner.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::ObjectName;

/// The probe results of all services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// By service. A service without an entry has never been probed.
    pub services: BTreeMap<ObjectName, Arc<ServiceHealth>>,
}

impl Health {
    /// Files one result.
    pub fn set(&mut self, service: &ObjectName, address: IpAddr, port: &Arc<str>, probe: Probe) {
        let of_service = self.services.entry(service.clone()).or_default();
        Arc::make_mut(of_service).set(address, port, probe);
    }
}

/// The probe results of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceHealth {
    results: BTreeMap<IpAddr, BTreeMap<Arc<str>, Probe>>,
}

impl ServiceHealth {
    /// Files one result; `address` is [`Endpoint::probed_at`](super::Endpoint::probed_at), `port` the port's name.
    pub fn set(&mut self, address: IpAddr, port: &Arc<str>, probe: Probe) {
        self.results.entry(address).or_default().insert(Arc::clone(port), probe);
    }

    /// The result for an endpoint's port; unknown where there is none.
    #[must_use]
    pub fn get(&self, address: IpAddr, port: &str) -> Probe {
        self.results.get(&address).and_then(|ports| ports.get(port)).copied().unwrap_or_default()
    }

    /// All results, by address and port name.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, &Arc<str>, Probe)> {
        self.results.iter().flat_map(|(&ip, ports)| ports.iter().map(move |(port, &probe)| (ip, port, probe)))
    }
}

/// What is known of one port of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Probe {
    /// After rise and fall thresholds.
    pub state: ProbeState,
    /// Since when, counted from the agent's start.
    pub since: Duration,
}

/// A probe's verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProbeState {
    /// Not probed yet, or not at all: the API server's word counts, so that a start drops nothing.
    #[default]
    Unknown,
    /// Passes.
    Good,
    /// Fails.
    Bad,
}
