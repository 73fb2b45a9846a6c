//! What one cluster's source reports.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use fairlead_abi::Family;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{ObjectName, Protocol, ServiceOptions, Unhonoured};

/// What one cluster's source knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterState {
    /// Whether the source can be read now. If not, what is missing below is taken from the previous model.
    pub reachable: bool,
    /// Its shards of services, by the name that they share. Unchanged ones stay the same `Arc`, so that they are
    /// skipped cheaply; equal ones in a new `Arc` are compared.
    pub shards: BTreeMap<ObjectName, Arc<ShardSpec>>,
    /// Somebody has said that what is gone of it shall be: nothing of it is held.
    pub accepted: bool,
}

/// A Service object with its EndpointSlices, as one cluster has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardSpec {
    /// VIPs that the object asks for; at most one of each family counts.
    pub requested_vips: Vec<IpAddr>,
    /// Wants an IPv4 VIP (`spec.ipFamilies`).
    pub wants_v4: bool,
    /// Wants an IPv6 VIP (`spec.ipFamilies`).
    pub wants_v6: bool,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// From annotations.
    pub options: ServiceOptions,
    /// Each client stays at one endpoint (`spec.sessionAffinity`).
    #[serde(default)]
    pub by_client: bool,
    /// The clients that it lets in (`spec.loadBalancerSourceRanges`); none given: all.
    #[serde(default)]
    pub source_ranges: Vec<IpNet>,
    /// What it asks for that has no effect here.
    #[serde(default)]
    pub unhonoured: Vec<Unhonoured>,
    /// Endpoints take new connections whatever their conditions (`spec.publishNotReadyAddresses`).
    #[serde(default)]
    pub publish_not_ready: bool,
    /// When the object was made (`metadata.creationTimestamp`), in seconds since 1970; none where it doesn't say.
    #[serde(default)]
    pub created: Option<i64>,
    /// Somebody drains all of its cluster: no endpoint is held that the slices don't show any more.
    #[serde(default)]
    pub drained: bool,
    /// From EndpointSlices, in any order. Shared, so that a model doesn't copy them.
    pub endpoints: Arc<Vec<Endpoint>>,
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServicePort {
    /// Its number at the VIP.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its name; empty where a service has only one.
    pub name: Arc<str>,
    /// Packets go to the server that their connection ID names (`appProtocol: fairlead.io/quic`); of UDP only.
    #[serde(default)]
    pub quic: bool,
    /// `appProtocol` as it stands in the object, for whoever reads it.
    #[serde(default)]
    pub app_protocol: Option<Arc<str>>,
}

/// Port names to the numbers that a pod listens on.
pub type TargetPorts = BTreeMap<Arc<str>, u16>;

/// One pod of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The pod's name.
    pub pod: Arc<str>,
    /// Its node's name.
    pub node: Arc<str>,
    /// Its IPv4 address.
    pub v4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub v6: Option<Ipv6Addr>,
    /// Where it listens; shared by the endpoints of one slice.
    pub ports: Arc<TargetPorts>,
    /// What the API server says about it.
    pub conditions: Conditions,
    /// The zones whose clients it is for (`hints.forZones`); none: all.
    #[serde(default)]
    pub zones: Arc<[Arc<str>]>,
    /// Its node has a receiver.
    pub receiver: bool,
    /// Somebody drains it, whatever its conditions: it takes no new connections, and keeps those that it has.
    #[serde(default)]
    pub drained: bool,
}

impl Endpoint {
    /// Whether it may take new connections.
    #[must_use]
    pub const fn takes_new(&self) -> bool {
        self.conditions.takes_new() && !self.drained
    }

    /// Its address in a family.
    #[must_use]
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.v4.map(IpAddr::V4),
            Family::V6 => self.v6.map(IpAddr::V6),
        }
    }

    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }

    /// The address that its probes are filed under, for a VIP of `family`: of that family if it has one, else the other.
    #[must_use]
    pub fn probed_at(&self, family: Family) -> Option<IpAddr> {
        self.address(family).or_else(|| self.addresses().next())
    }
}

/// The conditions of an EndpointSlice's endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conditions {
    /// Takes new connections.
    pub ready: bool,
    /// Serves the connections that it has.
    pub serving: bool,
    /// Is going away.
    pub terminating: bool,
}

impl Conditions {
    /// Of a healthy endpoint.
    pub const READY: Self = Self { ready: true, serving: true, terminating: false };

    /// Whether the API server lets it take new connections.
    #[must_use]
    pub const fn takes_new(self) -> bool {
        self.ready && !self.terminating
    }
}
