//! What receivers say of the flows that their endpoints hold.
//!
//! A snapshot, kept by whoever asks them. An endpoint that has left its slices stays known for as long as it holds flows.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use fairlead_abi::ServiceKey;

/// The last word of each receiver that was asked. A missing one has said nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// By service and outer destination; of this node's own endpoints by each of their addresses.
    pub reports: BTreeMap<(ServiceKey, IpAddr), Holding>,
}

impl Held {
    /// What was said of one endpoint.
    #[must_use]
    pub fn of(&self, service: ServiceKey, outer: IpAddr) -> Option<Holding> {
        self.reports.get(&(service, outer)).copied()
    }
}

/// What one endpoint holds of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Flows.
    pub flows: u64,
    /// When the receiver counted them, as time since this agent's start; at the latest when it was asked.
    pub at: Duration,
}
