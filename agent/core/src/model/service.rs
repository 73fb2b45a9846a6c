//! The merged model.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use fairlead_abi::Family;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::draft::Draft;
use super::sources::Origin;
use super::withdrawal::Withdrawn;
use super::{Declarations, Endpoint, ObjectName, Place, Problem, Protocol, Rejected, ServicePort, ShardSpec};

/// All services of the federation. Immutable; a service that didn't change is the same `Arc` as in the previous model.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// What it was merged under.
    pub declared: Arc<Declarations>,
    /// By name. One without a VIP is here too, with a problem that says why.
    pub services: BTreeMap<ObjectName, Arc<Service>>,
    /// Sorted by service, then cluster.
    pub problems: Vec<Problem>,
    /// What services ask for that has no effect here, in the same order: nothing is wrong.
    pub notes: Vec<Problem>,
    /// Clusters whose services are held, because their source suddenly shows next to none.
    pub withdrawn: Withdrawn,
    /// What each service was made of, in their order.
    pub(super) origins: Vec<Arc<[Origin]>>,
    /// How many services each cluster has.
    pub(super) sizes: BTreeMap<Arc<str>, usize>,
}

/// By what it says; equal models may have been read from different objects.
impl PartialEq for Model {
    fn eq(&self, other: &Self) -> bool {
        (&self.declared, &self.services, &self.problems, &self.notes)
            == (&other.declared, &other.services, &other.problems, &other.notes)
    }
}

impl Eq for Model {}

/// What has a VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// The name that its shards share.
    pub name: ObjectName,
    /// At most one of each family.
    pub vips: Vips,
    /// Sorted by port and protocol.
    pub ports: Vec<ServicePort>,
    /// What another service with the same VIP holds already.
    pub denied: Vec<(IpAddr, u16, Protocol)>,
    /// Ports of the VIP that are not served go up to the gateway's own stack.
    pub pass_unserved: bool,
    /// Each client stays at one endpoint.
    pub by_client: bool,
    /// The ranges of the clients that it lets in, sorted, none within another; `None`: all clients.
    pub allowed: Option<Arc<[IpNet]>>,
    /// By cluster name.
    pub shards: Arc<Vec<Shard>>,
    /// What was rejected of it; also in [`Model::problems`].
    pub problems: Vec<Problem>,
    /// What it was made from, to be compared with at the next merge.
    pub(crate) draft: Arc<Draft>,
}

impl Service {
    /// The ranges of one IP version that it lets in; `None`: all clients.
    #[must_use]
    pub fn allowed_of(&self, family: Family) -> Option<Vec<IpNet>> {
        let ranges = self.allowed.as_deref()?.iter();
        let ranges: Vec<IpNet> =
            ranges.filter(|range| Family::of(&range.addr()) == family).copied().collect();
        ranges.iter().all(|range| range.prefix_len() > 0).then_some(ranges)
    }

    /// The ports that it serves at one of its VIPs.
    pub fn served_at(&self, vip: IpAddr) -> impl Iterator<Item = &ServicePort> {
        self.ports.iter().filter(move |port| !self.denied.contains(&(vip, port.port, port.protocol)))
    }
}

/// The VIPs of one service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vips {
    /// IPv4.
    pub v4: Option<Ipv4Addr>,
    /// IPv6.
    pub v6: Option<Ipv6Addr>,
}

impl Vips {
    /// The VIP of a family.
    #[must_use]
    pub fn get(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.v4.map(IpAddr::V4),
            Family::V6 => self.v6.map(IpAddr::V6),
        }
    }

    /// Sets the VIP of its family.
    pub fn set(&mut self, vip: IpAddr) {
        match vip {
            IpAddr::V4(ip) => self.v4 = Some(ip),
            IpAddr::V6(ip) => self.v6 = Some(ip),
        }
    }

    /// IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }
}

/// The part of a service that runs in one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// The cluster's name.
    pub cluster: Arc<str>,
    /// Where the cluster stands.
    pub place: Place,
    /// Whether its source can be read now.
    pub reachable: bool,
    /// The source suddenly shows no endpoint although probes pass: `endpoints` are the previous ones.
    pub held: bool,
    /// What the source reported.
    pub spec: Arc<ShardSpec>,
    /// Those of `spec` that were accepted, or the held ones.
    pub endpoints: Arc<Vec<Endpoint>>,
    /// Those that were not.
    pub rejected: Vec<Rejected>,
}
