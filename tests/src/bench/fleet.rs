//! The federation that is measured: any number of services, each in nine clusters with three endpoints.
//!
//! Every service has a VIP of each family, consecutive ones, so that a wrapper reaches the next service by adding to
//! the last bytes of an address. The gateway stands in no region: all clusters are equally far, and all 27 endpoints
//! hold slots, which is the most that lookups can spread over.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use fairlead_core::model::{
    Cluster, ClusterState, Conditions, Declarations, Endpoint, Here, ObjectName, Place, Protocol,
    ServicePort, ShardSpec, TargetPorts, Tuning,
};
use fairlead_core::planner::{Links, Route};

/// Clusters of every service.
pub(super) const CLUSTERS: u16 = 9;
/// Endpoints of a service in each of them.
pub(super) const ENDPOINTS: u16 = 3;
/// The port of every service.
pub(super) const PORT: u16 = 80;

/// What services are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// TCP and UDP, IPv4 and IPv6: what packets of all cases find.
    Everything,
    /// The same, with UDP ports that are QUIC.
    Quic,
    /// One TCP port at one IPv4 VIP.
    Plain,
}

impl Kind {
    /// Ports of VIPs that one service takes, the entries of the VIPs themselves included.
    pub(super) const fn entries(self) -> u32 {
        match self {
            Self::Everything | Self::Quic => 6,
            Self::Plain => 2,
        }
    }

    /// Rings of one service.
    pub(super) const fn rings(self) -> u32 {
        match self {
            Self::Everything | Self::Quic => 4,
            Self::Plain => 1,
        }
    }
}

/// So many services, and what the clusters say of them.
pub(super) struct Fleet {
    pub(super) declared: Arc<Declarations>,
    pub(super) states: BTreeMap<Arc<str>, ClusterState>,
    pub(super) links: Arc<Links>,
}

impl Fleet {
    /// `route` is how all endpoints are reached.
    pub(super) fn new(services: u32, kind: Kind, route: Route) -> Result<Self> {
        let mut states = BTreeMap::new();
        let mut links = Links::new();
        for cluster in 0..CLUSTERS {
            let mut state = ClusterState { reachable: true, ..ClusterState::default() };
            for service in 0..services {
                let shard = shard(cluster, service, kind)?;
                let addresses = shard.endpoints.iter().flat_map(Endpoint::addresses);
                links.extend(addresses.map(|address| (address, route)));
                state.shards.insert(name(service), Arc::new(shard));
            }
            states.insert(cluster_name(cluster), state);
        }
        Ok(Self { declared: Arc::new(declarations()?), states, links: Arc::new(links) })
    }

    /// An endpoint of a service becomes unready, or ready again.
    pub(super) fn flip(&mut self, service: u32) -> Result<()> {
        let state = self.states.get_mut(&cluster_name(0)).context("cluster 0 exists")?;
        let shard = state.shards.get_mut(&name(service)).context("the service exists")?;
        let mut changed = ShardSpec::clone(shard);
        let mut endpoints = Vec::clone(&changed.endpoints);
        let conditions = &mut endpoints.first_mut().context("it has endpoints")?.conditions;
        conditions.ready = !conditions.ready;
        changed.endpoints = Arc::new(endpoints);
        *shard = Arc::new(changed);
        Ok(())
    }
}

/// The IPv4 VIP of a service; its number may be one past all services.
pub(super) fn vip_v4(service: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 0).to_bits() + service)
}

/// The IPv6 VIP of a service.
pub(super) fn vip_v6(service: u32) -> Ipv6Addr {
    Ipv6Addr::from_bits(Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 0).to_bits() + u128::from(service))
}

fn name(service: u32) -> ObjectName {
    ObjectName::new("bench", format!("service-{service:05}"))
}

fn cluster_name(cluster: u16) -> Arc<str> {
    Arc::from(format!("cluster-{cluster}"))
}

fn shard(cluster: u16, service: u32, kind: Kind) -> Result<ShardSpec> {
    let everything = kind != Kind::Plain;
    let mut ports = vec![ServicePort {
        port: PORT,
        protocol: Protocol::Tcp,
        name: Arc::from("tcp"),
        quic: false,
        app_protocol: None,
    }];
    let mut targets = TargetPorts::from([(Arc::from("tcp"), 8080)]);
    let mut vips = vec![IpAddr::V4(vip_v4(service))];
    if everything {
        ports.push(ServicePort {
            port: PORT,
            protocol: Protocol::Udp,
            name: Arc::from("udp"),
            quic: kind == Kind::Quic,
            app_protocol: None,
        });
        targets.insert(Arc::from("udp"), 8081);
        vips.push(IpAddr::V6(vip_v6(service)));
    }
    let targets = Arc::new(targets);
    let endpoint = |n| endpoint(cluster, service * u32::from(ENDPOINTS) + u32::from(n), everything, &targets);
    Ok(ShardSpec {
        requested_vips: vips,
        wants_v4: true,
        wants_v6: everything,
        ports,
        endpoints: Arc::new((0..ENDPOINTS).map(endpoint).collect::<Result<_>>()?),
        ..ShardSpec::default()
    })
}

fn endpoint(cluster: u16, number: u32, v6: bool, ports: &Arc<TargetPorts>) -> Result<Endpoint> {
    let first = Ipv4Addr::new(10, u8::try_from(cluster * 16)?, 0, 10).to_bits();
    let first_v6 = Ipv6Addr::new(0x2001, 0xdb8, 0x10 + cluster, 0, 0, 0, 0, 10).to_bits();
    Ok(Endpoint {
        pod: Arc::from(format!("pod-{number}")),
        node: Arc::from(format!("node-{}", number % 64)),
        v4: Some(Ipv4Addr::from_bits(first + number)),
        v6: v6.then_some(Ipv6Addr::from_bits(first_v6 + u128::from(number))),
        ports: Arc::clone(ports),
        conditions: Conditions::READY,
        zones: Arc::default(),
        receiver: true,
        drained: false,
    })
}

fn declarations() -> Result<Declarations> {
    let mut clusters = BTreeMap::new();
    for number in 0..CLUSTERS {
        let (region, zone) = (format!("region-{}", number / 3), format!("zone-{number}"));
        let pod_cidrs = vec![
            format!("10.{}.0.0/12", number * 16).parse()?,
            format!("2001:db8:{:x}::/48", 0x10 + number).parse()?,
        ];
        let place = Place::new(region, zone, cluster_name(number));
        clusters.insert(cluster_name(number), Cluster { place, pod_cidrs });
    }
    Ok(Declarations {
        here: Here {
            node: Arc::from("gateway"),
            gateway: true,
            tunnel_v4: true,
            tunnel_v6: true,
            ..Here::default()
        },
        clusters,
        pools: vec!["198.18.0.0/15".parse()?, "2001:db8:a::/64".parse()?],
        // A change counts at once, not in steps.
        tuning: Tuning { return_duration: Duration::ZERO, return_steps: 0, ..Tuning::default() },
        ..Declarations::default()
    })
}
