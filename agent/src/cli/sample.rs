//! A small federation for tests: planned by the core, carried out on plain arrays, joined as commands join it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use fairlead_abi::{
    Backend, BackendCounters, Bucket, Counter, Delivery, DropReason, FlowEvent, Hop, Server, ServerKey,
    ServiceCounters, Slot,
};
use fairlead_core::model::*;
use fairlead_core::planner::*;
use ipnet::IpNet;

use super::picture::{Numbers, Picture, Places};

/// Counters that follow from ids and indexes.
pub(super) struct Fixed;

impl Numbers for Fixed {
    fn service(&self, id: u32) -> Result<ServiceCounters> {
        let id = u64::from(id);
        Ok(ServiceCounters { packets: id * 10_000, bytes: id * 1_000_000, connections: id * 1000 })
    }

    fn backend(&self, index: u32) -> Result<BackendCounters> {
        let index = u64::from(index);
        Ok(BackendCounters { packets: index * 100 + 1, connections: index * 10 })
    }

    fn drops(&self, reason: DropReason) -> Result<Counter> {
        let packets = u64::from(reason == DropReason::PortNotServed) * 7;
        Ok(Counter { packets, bytes: packets * 60 })
    }

    fn events(&self, event: FlowEvent) -> Result<u64> {
        Ok(u64::from(event as u32) * 10)
    }
}

/// The seed of the sample's gateways.
pub(super) const SEED: u64 = 0x5eed;

/// Service `shop/web` at 203.0.113.10 port 80, with three good pods (`p1` to `p3`), one whose probes
/// fail (`p4`) and one without a receiver (`p5`) in `eu-b`, where the gateway stands, and one pod in `us-a`; and
/// `shop/dns` at 203.0.113.11 port 53/udp, with no endpoint.
pub(super) struct Sample {
    pub(super) tables: Vec<ServiceTable>,
    pub(super) buckets: Vec<Bucket>,
    pub(super) slots: Vec<Slot>,
    pub(super) backends: Vec<Backend>,
    pub(super) hops: Vec<Hop>,
    pub(super) server_ids: BTreeMap<ServerKey, Server>,
    pub(super) allowed: BTreeMap<u32, BTreeSet<IpNet>>,
}

const CAPACITIES: Capacities = Capacities {
    buckets: 64,
    slots: 4096,
    backends: 256,
    service_ids: 64,
    hops: 16,
    deliveries: 16,
    gateways: 16,
    source_ranges: 16,
};

impl Sample {
    pub(super) fn new() -> Self {
        Self::of(false, &[])
    }

    /// The same, but the port of `shop/web` is UDP and QUIC.
    pub(super) fn quic() -> Self {
        Self::of(true, &[])
    }

    /// The sample, where `shop/web` lets these clients in.
    pub(super) fn restricted(ranges: &[&str]) -> Self {
        Self::of(false, ranges)
    }

    fn of(quic: bool, ranges: &[&str]) -> Self {
        let declared = Arc::new(declarations());
        let mut health = Health::default();
        let bad = Probe { state: ProbeState::Bad, ..Probe::default() };
        let web = ObjectName::new("shop", "web");
        health.set(&web, Ipv4Addr::new(10, 2, 0, 4).into(), &Arc::from("http"), bad);
        let model = merge(&declared, &states(quic, ranges), &health, None);
        let links = Arc::new(links());
        let demand = Demand::default();
        let now = Duration::ZERO;
        let inputs = Inputs {
            model: &model,
            health: &health,
            demand: &demand,
            links: &links,
            held: &Held::default(),
            silent: &Arc::default(),
            now,
        };
        let planned = Planner::new().plan(&inputs);
        let plan = diff(&planned.tables, &Installed::empty(CAPACITIES), &Vec::new(), now).unwrap();
        let mut sample = Self {
            // As they come back from the agent's state, without rings.
            tables: planned
                .tables
                .services
                .values()
                .map(|table| serde_json::from_str(&serde_json::to_string(&**table).unwrap()).unwrap())
                .collect(),
            buckets: vec![Bucket::default(); CAPACITIES.buckets as usize],
            slots: vec![Slot::new(0); CAPACITIES.slots as usize],
            backends: vec![Backend::default(); CAPACITIES.backends as usize],
            hops: vec![Hop::default(); CAPACITIES.hops as usize],
            server_ids: BTreeMap::new(),
            allowed: BTreeMap::new(),
        };
        plan.actions.iter().for_each(|action| sample.carry_out(action));
        sample
    }

    fn carry_out(&mut self, action: &Action) {
        match action {
            Action::WriteHop { index, hop } => self.hops[*index as usize] = *hop,
            Action::WriteBackend { index, backend } => self.backends[*index as usize] = *backend,
            Action::WriteSlots { first, slots } => {
                let block = &mut self.slots[*first as usize..][..slots.len() as usize];
                block.iter_mut().zip(slots.iter()).for_each(|(slot, new)| *slot = new);
            }
            Action::PublishEntry { bucket, entry, value, .. } => {
                self.buckets[*bucket as usize].entries[*entry] = *value;
            }
            Action::PutRange { service, range } => {
                self.allowed.entry(*service).or_default().insert(*range);
            }
            Action::PutServerId { key, server } => drop(self.server_ids.insert(*key, *server)),
            Action::SetOverflowed { bucket, value } => self.buckets[*bucket as usize].overflowed = *value,
            Action::ClearBackendCounters { .. } | Action::ClearServiceCounters { .. } => {}
            other => panic!("a first plan has no {other:?}"),
        }
    }

    pub(super) fn raw(&self) -> Raw<'_> {
        Raw {
            server_ids: self.server_ids.clone(),
            allowed: self.allowed.clone(),
            buckets: &self.buckets,
            slots: &self.slots,
            backends: &self.backends,
            hops: &self.hops,
            deliveries: BTreeMap::<_, Delivery>::new(),
            gateways: BTreeSet::new(),
        }
    }

    pub(super) fn picture(&self) -> Picture<'_> {
        let places = Places::new(&[("eu-b", "eu", "b"), ("us-a", "us", "a")]);
        Picture::new(&self.raw(), CAPACITIES, &self.tables, places)
    }
}

fn declarations() -> Declarations {
    let place = |cluster: &str| {
        let (region, zone) = cluster.split_once('-').unwrap();
        Place::new(region, zone, cluster)
    };
    let cluster = |(name, cidrs): (&str, [&str; 2])| {
        let pod_cidrs = cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
        (Arc::from(name), Cluster { place: place(name), pod_cidrs })
    };
    let clusters =
        [("us-a", ["10.1.0.0/16", "2001:db8:1::/48"]), ("eu-b", ["10.2.0.0/16", "2001:db8:2::/48"])];
    let mut distances = Distances::default();
    distances.set("us", "eu", 100);
    Declarations {
        here: Here {
            node: Arc::from("gw"),
            place: Place::new("eu", "b", ""),
            plans_from: Place::new("eu", "b", ""),
            group: Arc::from("eu"),
            gateway: true,
            tunnel_v4: true,
            tunnel_v6: true,
            ..Here::default()
        },
        clusters: clusters.into_iter().map(cluster).collect(),
        pools: vec!["203.0.113.0/24".parse().unwrap()],
        distances,
        ..Declarations::default()
    }
}

fn pod(cluster: u8, number: u8) -> Endpoint {
    Endpoint {
        pod: Arc::from(format!("p{number}")),
        node: Arc::from(format!("node-{number}")),
        v4: Some(Ipv4Addr::new(10, cluster, 0, number)),
        v6: Some(format!("2001:db8:{cluster}::{number}").parse().unwrap()),
        ports: Arc::new(TargetPorts::from([(Arc::from("http"), 8080)])),
        conditions: Conditions::READY,
        zones: Arc::default(),
        receiver: number != 5,
        drained: false,
    }
}

fn states(quic: bool, ranges: &[&str]) -> BTreeMap<Arc<str>, ClusterState> {
    let protocol = if quic { Protocol::Udp } else { Protocol::Tcp };
    let web = |endpoints| ShardSpec {
        requested_vips: vec!["203.0.113.10".parse().unwrap()],
        wants_v4: true,
        ports: vec![ServicePort { port: 80, protocol, name: Arc::from("http"), quic, app_protocol: None }],
        endpoints: Arc::new(endpoints),
        source_ranges: ranges.iter().map(|range| range.parse().unwrap()).collect(),
        ..ShardSpec::default()
    };
    let dns = ShardSpec {
        requested_vips: vec!["203.0.113.11".parse().unwrap()],
        wants_v4: true,
        ports: vec![ServicePort {
            port: 53,
            protocol: Protocol::Udp,
            name: Arc::from(""),
            quic: false,
            app_protocol: None,
        }],
        ..ShardSpec::default()
    };
    let eu = BTreeMap::from([
        (ObjectName::new("shop", "web"), Arc::new(web((1..=5).map(|n| pod(2, n)).collect()))),
        (ObjectName::new("shop", "dns"), Arc::new(dns)),
    ]);
    let us = BTreeMap::from([(ObjectName::new("shop", "web"), Arc::new(web(vec![pod(1, 1)])))]);
    BTreeMap::from([
        (Arc::from("eu-b"), ClusterState { reachable: true, shards: eu, accepted: false }),
        (Arc::from("us-a"), ClusterState { reachable: true, shards: us, accepted: false }),
    ])
}

fn links() -> Links {
    let route = Route {
        hop: Hop { destination_mac: [2, 0, 0, 0, 0, 1], ifindex: 3, ..Hop::default() },
        routed_by: 3,
        mtu: 1500,
    };
    let eu = (1..=5).map(|number| (Ipv4Addr::new(10, 2, 0, number).into(), route));
    eu.chain([(Ipv4Addr::new(10, 1, 0, 1).into(), route)]).collect()
}
