//! What receivers say of the flows that their endpoints hold.
//!
//! A snapshot, kept by whoever asks them. An endpoint that has left its slices stays known for as long as it holds flows;
//! one that was never seen here, because this gateway is new or behind, becomes known by what its receiver announces.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use fairlead_abi::ServiceKey;

/// The last word of each receiver that was asked. A missing one has said nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// By service and outer destination; of this node's own endpoints by each of their addresses.
    pub reports: BTreeMap<(ServiceKey, IpAddr), Holding>,
    /// Endpoints that receivers announce to hold flows, or that they may, and when that was so: this gateway may not know them.
    pub announced: BTreeMap<(ServiceKey, IpAddr), Duration>,
}

impl Held {
    /// What was said of one endpoint.
    #[must_use]
    pub fn of(&self, service: ServiceKey, outer: IpAddr) -> Option<Holding> {
        self.reports.get(&(service, outer)).copied()
    }

    /// The announced endpoints of a service, without those that are known to hold nothing since, and when that was so.
    pub(crate) fn announced(&self, service: ServiceKey) -> impl Iterator<Item = (IpAddr, Duration)> {
        let first = (service, IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let last = (service, IpAddr::V6(Ipv6Addr::from_bits(u128::MAX)));
        let holding = move |(&(_, outer), &at): (&(ServiceKey, IpAddr), &Duration)| {
            let is_over = self.of(service, outer).is_some_and(|report| report.flows == 0 && report.at >= at);
            (!is_over).then_some((outer, at))
        };
        self.announced.range(first..=last).filter_map(holding)
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
