//! Messages between agents: a gateway's asks whose a flow is, and how nodes are; a receiver's claims that one is its own, and
//! announcements of what it holds.
//!
//! In come what the programs report, datagrams, and the tables of the planner. Out go datagrams, and for the agent's other
//! stages: what to remember of flows, which nodes don't answer, and how many flows endpoints hold. What is decided is
//! decided in the core (`fairlead_core::asks`); here are sockets and time.

mod announcer;
mod claimer;
mod counts;
mod own;
mod parts;
mod socket;
mod task;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
    sync::Arc,
    time::Duration,
};

use fairlead_abi::{DeliveryKey, Flow, ServiceKey, kind};
use fairlead_core::{
    asks::Secrets,
    model::{Held, Holding},
    planner::ServiceTable,
};
use ipnet::IpNet;

use crate::{dataplane::HeldHere, file::read_to_string};

pub use parts::{Ends, Parts};
pub use task::Task;

/// The tables that say which backends may hold flows.
#[derive(Clone, Debug, Default)]
pub struct Served {
    /// By service.
    pub services: BTreeMap<ServiceKey, Arc<ServiceTable>>,
    /// All clusters, and the addresses that their endpoints may have.
    pub pod_cidrs: BTreeMap<Arc<str>, Vec<IpNet>>,
    /// Where all gateways' tunnel packets come from.
    pub gateways: Vec<IpNet>,
}

/// Flows that this node's own endpoints hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnCount {
    /// By delivery.
    pub held: HeldHere,
    /// Those of deliveries to endpoints that others deliver to by an address of the VIP's own IP version.
    pub second: BTreeSet<DeliveryKey>,
    /// When they were counted, as time since the agent's start.
    pub at: Duration,
    /// No flows can be missing.
    pub whole: bool,
}

impl OwnCount {
    /// As other nodes' are told. Where flows may be missing, nobody knows that an endpoint holds none.
    pub fn reports(&self) -> impl Iterator<Item = ((ServiceKey, IpAddr), Holding)> + '_ {
        let report = |(key, &flows): (&DeliveryKey, &u32)| {
            let holding = Holding { flows: flows.into(), at: self.at };
            Some(((key.service()?, IpAddr::from(key.outer)), holding))
        };
        self.held.iter().filter(|&(_, &flows)| self.whole || flows > 0).filter_map(report)
    }
}

/// This node's endpoints that could hold flows, as services' deliveries: known at once, while counting takes its time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnList {
    /// All that the programs may have delivered to, and whether others do by an address of the VIP's own IP version.
    pub deliveries: BTreeMap<DeliveryKey, bool>,
    /// When, as time since the agent's start.
    pub at: Duration,
    /// No flows can be missing.
    pub whole: bool,
}

/// What was found out about a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Its endpoint claims it; `asked`: it was asked.
    Claimed {
        /// The service.
        service: ServiceKey,
        /// The flow.
        flow: Flow,
        /// The endpoint's outer address.
        outer: IpAddr,
        /// It was asked for: its slot's former backends don't know it.
        asked: bool,
        /// So often the packet came back until it was claimed, at least.
        bounces: u32,
    },
    /// It is nobody's.
    Nobodys {
        /// The service.
        service: ServiceKey,
        /// The flow.
        flow: Flow,
    },
    /// It is not known to be nobody's any more.
    Forget {
        /// The service.
        service: ServiceKey,
        /// The flow.
        flow: Flow,
    },
}

/// How often a packet came back that was sent by this mark in the end: the current backend had it first.
const fn bounces(kind: u8) -> u32 {
    if kind < kind::FORMER { 0 } else { 1 + (kind - kind::FORMER) as u32 }
}

/// What receivers said, for the planner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Flows that endpoints hold.
    pub held: Held,
    /// Outer destinations whose node doesn't answer.
    pub silent: Arc<BTreeSet<IpAddr>>,
    /// Why the secrets are not those of their file.
    pub refused_secrets: Option<String>,
    /// Other nodes are asked, and none of them has answered for a while.
    pub nobody_answers: bool,
    /// Endpoints that nodes announce although they lie outside of their cluster's `podCidrs`: one of each cluster.
    pub strangers: BTreeMap<Arc<str>, IpAddr>,
}

/// New connections per second of services, from all gateways, as all of their receivers count them.
pub type Opened = BTreeMap<ServiceKey, f64>;

/// The longest file of secrets, with all of its comments.
const MAX_SECRETS: u64 = 1 << 16;

/// The federation's secrets, from their file.
pub fn read_secrets(path: &Path) -> Result<Secrets, String> {
    let text = read_to_string(path, MAX_SECRETS).map_err(|error| format!("{}: {error}", path.display()))?;
    Secrets::parse(&text).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use fairlead_abi::{Address, protocol};

    use super::*;

    #[test]
    fn each_former_backend_before_has_sent_it_back() {
        let kinds = [kind::CURRENT, kind::GUESS, kind::FORMER, kind::FORMER + 1, kind::LAST];
        assert_eq!(kinds.map(bounces), [0, 0, 1, 2, 3]);
    }

    #[test]
    fn nobody_knows_that_an_endpoint_holds_none_where_flows_may_be_missing() {
        let key = |n: u8| DeliveryKey {
            outer: Address::v4([10, 0, 0, n]),
            protocol: protocol::TCP,
            ..DeliveryKey::default()
        };
        let mut count = OwnCount { held: [(key(1), 0), (key(2), 3)].into(), ..OwnCount::default() };
        let told = |count: &OwnCount| count.reports().map(|(_, report)| report.flows).collect::<Vec<_>>();
        assert_eq!(told(&count), [3]);
        count.whole = true;
        assert_eq!(told(&count), [0, 3]);
    }
}
