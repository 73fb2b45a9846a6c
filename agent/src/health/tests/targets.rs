//! From a real model and its plan to targets.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use fairlead_core::model::{
    Cluster, ClusterState, Conditions, Declarations, Demand, Endpoint, Health, Held, Here, Place,
    ProbeOptions, ProbeSpec, Protocol, ServicePort, ShardSpec, TargetPorts, merge,
};
use fairlead_core::planner::{Inputs, Links, Planner, Tables};

use super::super::{Deriver, Outer};
use super::*;

/// A gateway and receiver `node-0` in `c0`, whose pods are 10.0.0.0/16 and fd00::/64.
fn declarations() -> Declarations {
    let place = Place::new("r0", "z0", "c0");
    let pod_cidrs = ["10.0.0.0/16", "fd00::/64"].map(|cidr| cidr.parse().unwrap()).to_vec();
    Declarations {
        here: Here {
            node: Arc::from("node-0"),
            plans_from: place.clone(),
            place: place.clone(),
            gateway: true,
            receiver: true,
            tunnel_v4: true,
            ..Here::default()
        },
        clusters: BTreeMap::from([(Arc::from("c0"), Cluster { place, pod_cidrs })]),
        pools: ["192.0.2.0/24", "2001:db8::/64"].map(|pool| pool.parse().unwrap()).to_vec(),
        probe: spec(ProbeKind::Tcp),
        ..Declarations::default()
    }
}

fn port(number: u16, protocol: Protocol, name: &str) -> ServicePort {
    ServicePort { port: number, protocol, name: Arc::from(name), quic: false, app_protocol: None }
}

/// Pod `pN` on `node-N`, dual stack, with a target port for each port of [`shard`].
fn pod(n: u8) -> Endpoint {
    Endpoint {
        pod: Arc::from(format!("p{n}")),
        node: Arc::from(format!("node-{n}")),
        v4: Some(Ipv4Addr::new(10, 0, 0, n)),
        v6: Some(format!("fd00::{n}").parse().unwrap()),
        ports: Arc::new(TargetPorts::from([
            (Arc::from("http"), 8080),
            (Arc::from("admin"), 9090),
            (Arc::from("dns"), 5353),
        ])),
        conditions: Conditions::READY,
        zones: Arc::default(),
        receiver: true,
        drained: false,
    }
}

/// `http` at 80, `admin` at 81, `dns` at 53/udp, with the VIP 192.0.2.1.
fn shard(pods: Vec<Endpoint>) -> ShardSpec {
    ShardSpec {
        requested_vips: vec!["192.0.2.1".parse().unwrap()],
        wants_v4: true,
        ports: vec![
            port(80, Protocol::Tcp, "http"),
            port(81, Protocol::Tcp, "admin"),
            port(53, Protocol::Udp, "dns"),
        ],
        endpoints: Arc::new(pods),
        ..ShardSpec::default()
    }
}

/// What a gateway holds while it runs.
struct Gateway {
    declared: Arc<Declarations>,
    planner: Planner,
    deriver: Deriver,
}

impl Gateway {
    fn new(declared: Declarations) -> Self {
        Self { declared: Arc::new(declared), planner: Planner::new(), deriver: Deriver::default() }
    }

    fn derive(&mut self, shards: &[(&str, ShardSpec)], health: &Health) -> Targets {
        let shards =
            shards.iter().map(|(name, spec)| (ObjectName::new("shop", *name), Arc::new(spec.clone())));
        let state = ClusterState { reachable: true, shards: shards.collect(), accepted: false };
        let model = merge(&self.declared, &BTreeMap::from([(Arc::from("c0"), state)]), health, None);
        let (demand, links) = (Demand::default(), Arc::new(Links::new()));
        let inputs = Inputs {
            model: &model,
            health,
            demand: &demand,
            links: &links,
            held: &Held::default(),
            silent: &Arc::default(),
            now: Duration::ZERO,
        };
        let tables: Tables = self.planner.plan(&inputs).tables;
        self.deriver.derive(&model, &tables)
    }

    fn web(&mut self, spec: ShardSpec) -> Arc<ServiceTargets> {
        let targets = self.derive(&[("web", spec)], &Health::default());
        targets.services.get(&web()).cloned().unwrap_or_default()
    }
}

fn targets_of(spec: ShardSpec) -> Arc<ServiceTargets> {
    Gateway::new(declarations()).web(spec)
}

/// As `address port -> VIP way`.
fn lines(targets: &ServiceTargets) -> Vec<String> {
    let line = |target: &Target| {
        let way = match target.way {
            Way::Through(Outer { address, encap }) => format!("through {address} {encap:?}"),
            Way::Direct(to) => format!("direct {to}"),
        };
        format!("{} {} -> {} {way}", target.address, target.port, target.vip)
    };
    targets.targets.iter().map(line).collect()
}

#[test]
fn every_tcp_port_of_every_endpoint() {
    let targets = targets_of(shard(vec![pod(0), pod(1)]));
    assert_eq!(
        lines(&targets),
        [
            "10.0.0.0 admin -> 192.0.2.1:81 direct 10.0.0.0:9090",
            "10.0.0.0 http -> 192.0.2.1:80 direct 10.0.0.0:8080",
            "10.0.0.1 admin -> 192.0.2.1:81 through 10.0.0.1 Ipip",
            "10.0.0.1 http -> 192.0.2.1:80 through 10.0.0.1 Ipip",
        ]
    );
    assert_eq!(*targets.targets[0].spec, spec(ProbeKind::Tcp));
    assert_eq!(targets.problems, []);
}

#[test]
fn both_families_each_by_its_own_vip() {
    let mut dual = shard(vec![pod(1)]);
    dual.ports = vec![port(80, Protocol::Tcp, "http")];
    dual.requested_vips.push("2001:db8::1".parse().unwrap());
    dual.wants_v6 = true;
    assert_eq!(
        lines(&targets_of(dual)),
        [
            "10.0.0.1 http -> 192.0.2.1:80 through 10.0.0.1 Ipip",
            // The tunnel has only IPv4.
            "fd00::1 http -> [2001:db8::1]:80 through 10.0.0.1 Ipip",
        ]
    );
}

#[test]
fn an_endpoint_with_the_vip_and_one_address_is_probed_once() {
    let mut only_v4 = pod(1);
    only_v4.v6 = None;
    let mut dual = shard(vec![only_v4]);
    dual.ports = vec![port(80, Protocol::Tcp, "http")];
    dual.requested_vips.push("2001:db8::1".parse().unwrap());
    dual.wants_v6 = true;
    dual.options.endpoint_owns_vip = true;
    assert_eq!(lines(&targets_of(dual)), ["10.0.0.1 http -> 192.0.2.1:80 through 10.0.0.1 Ipip"]);
}

#[test]
fn not_ready_endpoints_are_probed_too() {
    let mut draining = pod(1);
    draining.conditions = Conditions { ready: false, serving: true, terminating: true };
    assert_eq!(targets_of(shard(vec![draining, pod(2)])).targets.len(), 4);
}

#[test]
fn annotations_override_the_default() {
    let mut asked = shard(vec![pod(1)]);
    asked.options.probe =
        ProbeOptions { kind: Some(ProbeKind::Http), path: Some(Arc::from("/ok")), ..ProbeOptions::default() };
    let expected = ProbeSpec { path: Arc::from("/ok"), ..spec(ProbeKind::Http) };
    assert!(targets_of(asked).targets.iter().all(|target| *target.spec == expected));
}

#[test]
fn nothing_is_probed_where_nothing_is_to_be_asked() {
    let mut none = shard(vec![pod(1)]);
    none.options.probe.kind = Some(ProbeKind::None);
    assert_eq!(*targets_of(none), ServiceTargets::default());
    let mut udp = shard(vec![pod(1)]);
    udp.ports.retain(|port| port.protocol == Protocol::Udp);
    assert_eq!(*targets_of(udp), ServiceTargets::default());
    let mut receiver = declarations();
    receiver.here.gateway = false;
    assert_eq!(*Gateway::new(receiver).web(shard(vec![pod(1)])), ServiceTargets::default());
}

#[test]
fn another_port_of_the_vip_can_be_asked() {
    let mut asked = shard(vec![pod(0), pod(1)]);
    asked.options.probe.port = Some(81);
    let targets = targets_of(asked);
    assert_eq!(
        lines(&targets),
        [
            "10.0.0.0 admin -> 192.0.2.1:81 direct 10.0.0.0:9090",
            "10.0.0.0 http -> 192.0.2.1:81 direct 10.0.0.0:9090",
            "10.0.0.1 admin -> 192.0.2.1:81 through 10.0.0.1 Ipip",
            "10.0.0.1 http -> 192.0.2.1:81 through 10.0.0.1 Ipip",
        ]
    );
    assert_eq!(targets.problems, []);
}

#[test]
fn a_port_that_is_not_served_is_a_problem_and_each_is_asked_itself() {
    for not_served in [8080, 53] {
        let mut asked = shard(vec![pod(1), pod(2)]);
        asked.options.probe.port = Some(not_served);
        let mut gateway = Gateway::new(declarations());
        let targets = gateway.derive(&[("web", asked)], &Health::default());
        assert_eq!(lines(&targets.services[&web()]), lines(&targets_of(shard(vec![pod(1), pod(2)]))));
        let problems: Vec<String> = targets.problems().map(ToString::to_string).collect();
        assert_eq!(
            problems,
            [format!(
                "cluster c0: Service shop/web: metadata.annotations.fairlead.io/probe-port: endpoints can't be \
                 reached at 192.0.2.1 port {not_served}/tcp, which the service or they don't serve; each of their \
                 ports is probed itself (name a port of the service)"
            )]
        );
    }
}

#[test]
fn a_timeout_longer_than_the_default_interval_is_shortened_and_told() {
    let mut asked = shard(vec![pod(1)]);
    asked.options.probe.timeout = Some(500 * MS);
    let mut gateway = Gateway::new(declarations());
    let targets = gateway.derive(&[("web", asked.clone())], &Health::default());
    assert!(targets.services[&web()].targets.iter().all(|target| target.spec.timeout == 200 * MS));
    let problems: Vec<String> = targets.problems().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "cluster c0: Service shop/web: metadata.annotations.fairlead.io/probe-timeout: 500ms is longer than the \
          interval, which is 200ms: answers are waited for that long (give fairlead.io/probe-interval too, at \
          least as long)"
        ]
    );
    asked.options.probe.interval = Some(500 * MS);
    let targets = gateway.derive(&[("web", asked)], &Health::default());
    assert_eq!(targets.problems().count(), 0);
    assert!(targets.services[&web()].targets.iter().all(|target| target.spec.timeout == 500 * MS));
}

#[test]
fn what_did_not_change_is_the_same() {
    let mut gateway = Gateway::new(declarations());
    let (one, mut other) = (shard(vec![pod(1)]), shard(vec![pod(2)]));
    other.requested_vips = vec!["192.0.2.2".parse().unwrap()];
    let before = gateway.derive(&[("web", one.clone()), ("other", other.clone())], &Health::default());
    other.endpoints = Arc::new(vec![pod(2), pod(3)]);
    let after = gateway.derive(&[("web", one.clone()), ("other", other.clone())], &Health::default());
    let name = ObjectName::new("shop", "other");
    assert!(Arc::ptr_eq(&before.services[&web()], &after.services[&web()]));
    assert_eq!(after.services[&name].targets.len(), 4);
    // Health changes tables, but not whom to probe.
    let mut health = Health::default();
    let bad = Probe { state: ProbeState::Bad, since: MS };
    health.set(&name, IpAddr::from([10, 0, 0, 2]), &Arc::from("http"), bad);
    let judged = gateway.derive(&[("web", one.clone()), ("other", other.clone())], &health);
    assert!(Arc::ptr_eq(&after.services[&name], &judged.services[&name]));
    // Another default is another question.
    let mut declared = declarations();
    declared.probe.interval = 100 * MS;
    gateway.declared = Arc::new(declared);
    let asked = gateway.derive(&[("web", one), ("other", other)], &health);
    assert_eq!(asked.services[&web()].targets[0].spec.interval, 100 * MS);
}
