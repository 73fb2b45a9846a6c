//! Small federations for tests.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::model::*;
use crate::planner::*;

/// A gateway and receiver `node-0` in cluster `c0`, and clusters `c0` … with the CIDRs 10.N.0.0/16 and fd00:N::/64, in
/// three regions of three zones.
pub(crate) fn declarations(clusters: u8) -> Declarations {
    let place = |n: u8| Place::new(format!("r{}", n / 3), format!("z{n}"), format!("c{n}"));
    let clusters = (0..clusters).map(|n| {
        let cidrs = [format!("10.{n}.0.0/16"), format!("fd00:{n:x}::/64")];
        let pod_cidrs = cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
        (Arc::from(format!("c{n}")), Cluster { place: place(n), pod_cidrs })
    });
    let mut distances = Distances::default();
    distances.set("r0", "r1", 100);
    distances.set("r0", "r2", 200);
    distances.set("r1", "r2", 150);
    Declarations {
        here: Here {
            node: Arc::from("node-0"),
            place: place(0),
            plans_from: place(0),
            group: Arc::from("r0"),
            gateway: true,
            receiver: true,
            tunnel_v4: true,
            tunnel_v6: true,
            ..Here::default()
        },
        clusters: clusters.collect(),
        gateways: vec![Gateway {
            name: Arc::from("g0"),
            group: Arc::from("r0"),
            prefixes: vec!["198.51.100.1/32".parse().unwrap(), "2001:db8:ffff::/64".parse().unwrap()],
        }],
        pools: vec!["192.0.2.0/24".parse().unwrap(), "2001:db8::/64".parse().unwrap()],
        reserved: vec!["192.0.2.1/32".parse().unwrap()],
        distances,
        ..Declarations::default()
    }
}

pub(crate) fn name(service: &str) -> ObjectName {
    ObjectName::new("ns", service)
}

pub(crate) fn port(number: u16, name: &str) -> ServicePort {
    ServicePort {
        port: number,
        protocol: Protocol::Tcp,
        name: Arc::from(name),
        quic: false,
        app_protocol: None,
    }
}

/// Pod `pN` of a cluster, dual stack, on `node-0`, ready, port `http` at 8080.
pub(crate) fn endpoint(cluster: u8, n: u16) -> Endpoint {
    let [high, low] = n.to_be_bytes();
    Endpoint {
        pod: Arc::from(format!("p{n}")),
        node: Arc::from("node-1"),
        v4: Some(Ipv4Addr::new(10, cluster, high, low)),
        v6: Some(Ipv6Addr::new(0xfd00, cluster.into(), 0, 0, 0, 0, 0, n)),
        ports: Arc::new(TargetPorts::from([(Arc::from("http"), 8080)])),
        conditions: Conditions::READY,
        zones: Arc::default(),
        receiver: true,
        drained: false,
    }
}

/// An IPv4 service with port 80 and pods `p1` to `pN`.
pub(crate) fn shard(cluster: u8, pods: u16) -> ShardSpec {
    ShardSpec {
        wants_v4: true,
        ports: vec![port(80, "http")],
        endpoints: Arc::new((1..=pods).map(|n| endpoint(cluster, n)).collect()),
        ..ShardSpec::default()
    }
}

pub(crate) type States = BTreeMap<Arc<str>, ClusterState>;

/// Reachable clusters with one service `ns/web` each.
pub(crate) fn states(shards: impl IntoIterator<Item = (u8, ShardSpec)>) -> States {
    services(shards.into_iter().map(|(cluster, spec)| (cluster, "web", spec)))
}

/// Reachable clusters with services by name.
pub(crate) fn services<'a>(shards: impl IntoIterator<Item = (u8, &'a str, ShardSpec)>) -> States {
    let mut states = States::new();
    for (cluster, service, spec) in shards {
        let state = states.entry(Arc::from(format!("c{cluster}"))).or_default();
        state.reachable = true;
        state.shards.insert(name(service), Arc::new(spec));
    }
    states
}

pub(crate) fn merged(declared: &Arc<Declarations>, states: &States, previous: Option<&Model>) -> Model {
    merge(declared, states, &Health::default(), previous)
}

/// A probe result of port `http`.
pub(crate) fn judge(health: &mut Health, address: impl Into<IpAddr>, state: ProbeState) {
    let probe = Probe { state, ..Probe::default() };
    health.set(&name("web"), address.into(), &Arc::from("http"), probe);
}

/// Plans from nothing, with no demand and no links, at time 0.
pub(crate) fn planned(model: &Model, health: &Health) -> Tables {
    plan_at(&mut Planner::new(), model, health, 0).tables
}

pub(crate) fn plan_at(planner: &mut Planner, model: &Model, health: &Health, ms: u64) -> Planned {
    let now = std::time::Duration::from_millis(ms);
    let (demand, links) = (Demand::default(), Arc::new(Links::new()));
    planner.plan(&Inputs {
        model,
        health,
        demand: &demand,
        links: &links,
        held: &Held::default(),
        silent: &Arc::default(),
        now,
    })
}

/// The table of `ns/web` at port 80 (IPv4).
pub(crate) fn web(tables: &Tables) -> &Arc<ServiceTable> {
    let web =
        |table: &&Arc<ServiceTable>| *table.name.name == *"web" && table.port == 80 && table.vip.is_ipv4();
    tables.services.values().find(web).expect("ns/web is planned")
}

/// The slots of each pod as `cluster/pod`.
pub(crate) fn slots(table: &ServiceTable) -> BTreeMap<String, usize> {
    let mut slots = BTreeMap::new();
    for &position in table.ring.iter() {
        let backend = &table.backends[usize::from(position)];
        let cluster = &table.shards[usize::from(backend.shard)].cluster;
        *slots.entry(format!("{cluster}/{}", backend.pod)).or_default() += 1;
    }
    slots
}

/// The clusters that hold slots.
pub(crate) fn serving(table: &ServiceTable) -> Vec<&str> {
    let holds = |shard: usize| {
        table.ring.iter().any(|&position| usize::from(table.backends[usize::from(position)].shard) == shard)
    };
    (0..table.shards.len()).filter(|&shard| holds(shard)).map(|shard| &*table.shards[shard].cluster).collect()
}
