//! From model to tables: the table of two signals, spilling, returning, families.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use fairlead_abi::{Address, Encap, Family, Hop, ServiceEntry, ServiceKey};

use super::*;
use crate::fixtures::*;
use crate::model::*;

pub(super) fn declared() -> Arc<Declarations> {
    Arc::new(declarations(9))
}

pub(super) fn pod(cluster: u8, n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, cluster, 0, n)
}

fn verdicts(table: &ServiceTable) -> Vec<(&str, Verdict)> {
    let backends = table.backends.iter().map(|b| (&*b.pod, b.verdict));
    backends.chain(table.not_taken.iter().map(|n| (&*n.pod, n.verdict))).collect()
}

/// A row of DESIGN's table: one cluster near, with pod p1 judged, and one far.
fn two_signals(reachable: bool, ready: bool, probe: ProbeState) -> Arc<ServiceTable> {
    let mut near = shard(0, 2);
    Arc::make_mut(&mut near.endpoints)[0].conditions.ready = ready;
    let mut states = states([(0, near), (3, shard(3, 1))]);
    states.get_mut("c0").unwrap().reachable = reachable;
    let mut health = Health::default();
    judge(&mut health, pod(0, 1), probe);
    Arc::clone(web(&planned(&merged(&declared(), &states, None), &health)))
}

#[test]
fn reachable_ready_good_serves() {
    let table = two_signals(true, true, ProbeState::Good);
    assert_eq!(verdicts(&table)[0], ("p1", Verdict::Taken));
    assert!(slots(&table)["c0/p1"] > 100);
}

#[test]
fn reachable_ready_not_probed_serves() {
    assert_eq!(verdicts(&two_signals(true, true, ProbeState::Unknown))[0], ("p1", Verdict::Taken));
}

#[test]
fn reachable_ready_bad_is_removed() {
    let table = two_signals(true, true, ProbeState::Bad);
    assert_eq!(verdicts(&table)[0], ("p1", Verdict::ProbesFail));
    assert_eq!(slots(&table).keys().collect::<Vec<_>>(), ["c0/p2"]);
}

#[test]
fn reachable_not_ready_drains_whatever_probes_say() {
    for probe in [ProbeState::Good, ProbeState::Bad, ProbeState::Unknown] {
        let table = two_signals(true, false, probe);
        assert_eq!(verdicts(&table)[0], ("p1", Verdict::NotReady));
        assert_eq!(table.backends[0].weight, 0, "still in the list: its connections go on");
        assert_eq!(slots(&table).keys().collect::<Vec<_>>(), ["c0/p2"]);
    }
}

#[test]
fn unreachable_good_keeps_serving() {
    let table = two_signals(false, true, ProbeState::Good);
    assert_eq!(verdicts(&table)[0], ("p1", Verdict::Taken));
    assert!(!table.shards[0].reachable);
    assert_eq!(table.ring, two_signals(true, true, ProbeState::Good).ring);
}

#[test]
fn unreachable_bad_is_removed() {
    assert_eq!(verdicts(&two_signals(false, true, ProbeState::Bad))[0], ("p1", Verdict::ProbesFail));
}

#[test]
fn suddenly_empty_good_is_held() {
    let declared = declared();
    let mut health = Health::default();
    judge(&mut health, pod(0, 1), ProbeState::Good);
    let before = merged(&declared, &states([(0, shard(0, 1)), (3, shard(3, 1))]), None);
    let empty = states([(0, shard(0, 0)), (3, shard(3, 1))]);
    let after = merge(&declared, &empty, &health, Some(&before));
    let table = planned(&after, &health);
    let table = web(&table);
    assert_eq!(verdicts(table)[0], ("p1", Verdict::Held));
    assert_eq!(table.shards[0].state, ShardState::Held);
    assert_eq!(serving(table), ["c0"]);
    assert!(after.problems[0].what.contains("held"), "the alarm");
    judge(&mut health, pod(0, 1), ProbeState::Bad);
    let gone = merge(&declared, &empty, &health, Some(&after));
    assert_eq!(serving(web(&planned(&gone, &health))), ["c3"]);
}

#[test]
fn all_probes_failing_are_not_believed() {
    let mut health = Health::default();
    let states = states([(0, shard(0, 2)), (3, shard(3, 1))]);
    let model = merged(&declared(), &states, None);
    for (cluster, n) in [(0, 1), (0, 2), (3, 1)] {
        judge(&mut health, pod(cluster, n), ProbeState::Bad);
    }
    let tables = planned(&model, &health);
    let table = web(&tables);
    assert_eq!(verdicts(table)[0], ("p1", Verdict::Panic));
    assert_eq!(table.shards[0].state, ShardState::Panic);
    assert_eq!(serving(table), ["c0"]);
    // One that passes is enough to believe them again.
    judge(&mut health, pod(3, 1), ProbeState::Good);
    assert_eq!(serving(web(&planned(&model, &health))), ["c3"]);
}

#[test]
fn the_panic_threshold_can_be_higher() {
    let mut cautious = declarations(9);
    cautious.tuning.panic_percent = 50;
    let model = merged(&Arc::new(cautious), &states([(0, shard(0, 4))]), None);
    let mut health = Health::default();
    judge(&mut health, pod(0, 1), ProbeState::Bad);
    assert_eq!(slots(web(&planned(&model, &health))).len(), 3);
    judge(&mut health, pod(0, 2), ProbeState::Bad);
    let tables = planned(&model, &health);
    assert_eq!(slots(web(&tables)).len(), 4, "half of them pass, which is too few");
    assert_eq!(verdicts(web(&tables))[1..3], [("p2", Verdict::Panic), ("p3", Verdict::Taken)]);
}

#[test]
fn no_endpoint_at_all_is_an_empty_ring() {
    let mut spec = shard(0, 2);
    for endpoint in Arc::make_mut(&mut spec.endpoints) {
        endpoint.conditions = Conditions { ready: false, serving: true, terminating: true };
    }
    let tables = planned(&merged(&declared(), &states([(0, spec)]), None), &Health::default());
    let table = web(&tables);
    assert_eq!((table.ring.len(), table.backends.len(), table.ring_hash), (0, 2, 0));
    assert_eq!(verdicts(table), [("p1", Verdict::Draining), ("p2", Verdict::Draining)]);
}

#[test]
fn who_is_drained_takes_nothing_new_whatever_its_conditions() {
    let mut spec = shard(0, 3);
    let endpoints = Arc::make_mut(&mut spec.endpoints);
    endpoints[0].drained = true;
    (endpoints[1].drained, endpoints[1].conditions.ready) = (true, false);
    let tables = planned(&merged(&declared(), &states([(0, spec)]), None), &Health::default());
    let table = web(&tables);
    let expected = [("p1", Verdict::Draining), ("p2", Verdict::Draining), ("p3", Verdict::Taken)];
    assert_eq!(verdicts(table), expected);
    assert_eq!((slots(table).len(), table.shards[0].ready), (1, 1));
}

#[test]
fn min_healthy() {
    let mut near = shard(0, 3);
    near.options.min_healthy = 3;
    let model = merged(&declared(), &states([(0, near.clone()), (1, shard(1, 1))]), None);
    let mut health = Health::default();
    assert_eq!(serving(web(&planned(&model, &health))), ["c0"]);
    judge(&mut health, pod(0, 3), ProbeState::Bad);
    let tables = planned(&model, &health);
    assert_eq!(serving(web(&tables)), ["c1"]);
    assert_eq!(verdicts(web(&tables))[0], ("p1", Verdict::BelowMinHealthy { usable: 2, needed: 3 }));
    let alone = merged(&declared(), &states([(0, near)]), None);
    assert_eq!(slots(web(&planned(&alone, &health))).len(), 2, "too few are better than none");
}

#[test]
fn the_closest_serves() {
    // From c0 (region r0): itself, its region (c1, c2), r1 at 100 (c3), r2 at 200 (c6).
    let order = [vec![0], vec![1, 2], vec![3], vec![6]];
    for closest in 0..order.len() {
        let clusters: Vec<u8> = order[closest..].iter().flatten().copied().collect();
        let model = merged(&declared(), &states(clusters.iter().map(|&c| (c, shard(c, 2)))), None);
        let expected: Vec<String> = order[closest].iter().map(|c| format!("c{c}")).collect();
        assert_eq!(serving(web(&planned(&model, &Health::default()))), expected);
    }
}

#[test]
fn a_group_plans_from_what_its_gateways_share() {
    let mut regional = declarations(9);
    regional.here.plans_from = Place::new("r0", "", "");
    let model = merged(&Arc::new(regional), &states([0, 1, 3].map(|c| (c, shard(c, 2)))), None);
    assert_eq!(serving(web(&planned(&model, &Health::default()))), ["c0", "c1"]);
}

#[test]
fn what_is_too_much_for_the_closest_spills() {
    let mut near = shard(0, 2);
    near.options.capacity_per_endpoint = Some(50);
    let model = merged(&declared(), &states([(0, near), (1, shard(1, 3))]), None);
    let demand = Demand { per_second: [(name("web"), 400)].into() };
    let inputs = Inputs {
        model: &model,
        health: &Health::default(),
        demand: &demand,
        links: &Arc::default(),
        held: &Held::default(),
        silent: &Arc::default(),
        now: Duration::ZERO,
    };
    let planned = Planner::new().plan(&inputs);
    let table = web(&planned.tables);
    // 100 of 400 stay, by two endpoints; 300 go to three: 1/8 each, and 1/4 each.
    let shares: Vec<f64> = table.shards.iter().map(|shard| shard.share.percent()).collect();
    assert_eq!(shares, [25.0, 75.0]);
    let weights: Vec<u16> = table.backends.iter().map(|backend| backend.weight).collect();
    assert_eq!(weights, [32768, 32768, 65535, 65535, 65535]);
    let held = slots(table);
    let near = held["c0/p1"] + held["c0/p2"];
    assert!((55..=70).contains(&near), "{near} of 251 slots, a quarter is 63");
    assert_eq!(table.shards[1].state, ShardState::Spilled);
    assert_eq!(verdicts(table)[4], ("p3", Verdict::Spilled));
    assert_eq!(table.shards[0].capacity, Some(100));
}

#[test]
fn a_shard_comes_back_gradually() {
    let model = merged(&declared(), &states([(0, shard(0, 2)), (1, shard(1, 2))]), None);
    let mut planner = Planner::new();
    let (mut good, mut bad) = (Health::default(), Health::default());
    for n in [1, 2] {
        judge(&mut good, pod(0, n), ProbeState::Good);
        judge(&mut bad, pod(0, n), ProbeState::Bad);
    }
    assert_eq!(plan_at(&mut planner, &model, &good, 0).due, None, "a start doesn't ramp");
    assert_eq!(serving(web(&plan_at(&mut planner, &model, &bad, 1000).tables)), ["c1"]);
    let back = plan_at(&mut planner, &model, &good, 2000);
    let share = |planned: &Planned| web(&planned.tables).shards[0].share.percent().round();
    assert_eq!((share(&back), back.due), (20.0, Some(Duration::from_millis(3000))));
    assert_eq!(web(&back.tables).shards[0].state, ShardState::Returning { step: 1, of: 4 });
    assert_eq!(plan_at(&mut planner, &model, &good, 2999), back);
    for (ms, percent) in [(3000, 40.0), (4000, 60.0), (5000, 80.0), (6000, 100.0)] {
        assert_eq!(share(&plan_at(&mut planner, &model, &good, ms)), percent, "at {ms} ms");
    }
    assert_eq!(plan_at(&mut planner, &model, &good, 6000).due, None);
}

#[test]
fn another_planner_goes_on_letting_a_shard_in() {
    let model = merged(&declared(), &states([(0, shard(0, 1)), (1, shard(1, 2))]), None);
    let mut planner = Planner::new();
    let (mut good, mut bad) = (Health::default(), Health::default());
    judge(&mut good, pod(0, 1), ProbeState::Good);
    judge(&mut bad, pod(0, 1), ProbeState::Bad);
    plan_at(&mut planner, &model, &bad, 0);
    plan_at(&mut planner, &model, &good, 1000);
    let last = plan_at(&mut planner, &model, &good, 2000);
    let share = |planned: &Planned| web(&planned.tables).shards[0].share.percent().round();
    assert_eq!(share(&last), 40.0);
    let tables: Vec<_> = last.tables.services.values().map(|table| &**table).collect();
    let mut next = Planner::new();
    let half = Duration::from_millis(500);
    next.resume(tables.iter().copied(), (half, Duration::ZERO), &model.declared.tuning);
    let first = plan_at(&mut next, &model, &good, 0);
    assert_eq!((share(&first), first.due), (40.0, Some(half)));
    assert_eq!(share(&plan_at(&mut next, &model, &good, 500)), 60.0);
    assert_eq!(plan_at(&mut next, &model, &good, 2500).due, None);
}

#[test]
fn endpoints_that_can_not_be_taken_say_why() {
    let mut spec = shard(0, 5);
    let endpoints = Arc::make_mut(&mut spec.endpoints);
    endpoints[0].receiver = false;
    endpoints[1].ports = Arc::default();
    endpoints[2].v4 = None;
    endpoints[3].v4 = Some(Ipv4Addr::new(10, 9, 9, 9));
    let tables = planned(&merged(&declared(), &states([(0, spec)]), None), &Health::default());
    let table = web(&tables);
    let expected = [
        ("p5", Verdict::Taken),
        ("p1", Verdict::NoReceiver),
        ("p2", Verdict::NoPort),
        ("p3", Verdict::NoAddressOfFamily),
        ("p4", Verdict::Rejected(Rejection::OutsideCidrs)),
    ];
    assert_eq!(verdicts(table), expected);
}

#[test]
fn the_tunnels_family() {
    let outers = |v4: bool, v6: bool, spec: &ShardSpec| -> Vec<(IpAddr, Encap)> {
        let mut declared = declarations(9);
        (declared.here.tunnel_v4, declared.here.tunnel_v6) = (v4, v6);
        declared.here.tunnel = Tunnel::Gue;
        let tables =
            planned(&merged(&Arc::new(declared), &states([(0, spec.clone())]), None), &Health::default());
        web(&tables).backends.iter().map(|backend| (backend.outer, backend.encap)).collect()
    };
    let v6: IpAddr = "fd00::1".parse().unwrap();
    assert_eq!(outers(true, true, &shard(0, 1)), [(pod(0, 1).into(), Encap::Gue)]);
    assert_eq!(outers(false, true, &shard(0, 1)), [(v6, Encap::Gue)], "4 in 6, by the pod's other address");
    assert_eq!(outers(false, false, &shard(0, 1)), []);
    let mut v4_only = shard(0, 1);
    Arc::make_mut(&mut v4_only.endpoints)[0].v6 = None;
    assert_eq!(outers(false, true, &v4_only), []);
    Arc::make_mut(&mut v4_only.endpoints)[0].node = Arc::from("node-0");
    assert_eq!(
        outers(false, false, &v4_only),
        [(pod(0, 1).into(), Encap::Local)],
        "here no tunnel is needed"
    );
}

#[test]
fn udp_follows_the_tcp_probes_of_the_pod() {
    let mut spec = shard(0, 2);
    spec.ports = vec![port(53, "dns-tcp"), ServicePort { protocol: Protocol::Udp, ..port(53, "dns") }];
    let ports: TargetPorts = [("dns-tcp", 53), ("dns", 53)].map(|(name, n)| (Arc::from(name), n)).into();
    for endpoint in Arc::make_mut(&mut spec.endpoints) {
        endpoint.ports = Arc::new(ports.clone());
    }
    let model = merged(&declared(), &states([(0, spec)]), None);
    let mut health = Health::default();
    let bad = Probe { state: ProbeState::Bad, ..Probe::default() };
    health.set(&name("web"), pod(0, 1).into(), &Arc::from("dns-tcp"), bad);
    let tables = planned(&model, &health);
    let by_protocol = tables.services.values().filter(|table| table.protocol.is_some());
    for table in by_protocol {
        assert_eq!(
            verdicts(table),
            [("p1", Verdict::ProbesFail), ("p2", Verdict::Taken)],
            "{:?}",
            table.protocol
        );
    }
}

#[test]
fn what_is_not_probed_goes_by_the_api_server_alone() {
    let mut spec = shard(0, 2);
    spec.options.probe.kind = Some(ProbeKind::None);
    let mut health = Health::default();
    judge(&mut health, pod(0, 1), ProbeState::Bad);
    let tables = planned(&merged(&declared(), &states([(0, spec)]), None), &health);
    assert_eq!(verdicts(web(&tables)), [("p1", Verdict::Taken), ("p2", Verdict::Taken)]);
}

#[test]
fn every_vip_has_an_entry_of_its_own() {
    let mut passing = shard(0, 1);
    passing.options.pass_unserved_ports = true;
    passing.wants_v6 = true;
    let model = merged(&declared(), &services([(0, "web", passing), (0, "zzz", shard(0, 1))]), None);
    let tables = planned(&model, &Health::default());
    let flags = |service: &str, family: Family| {
        let vip = model.services[&name(service)].vips.get(family).unwrap();
        tables.services[&ServiceKey::vip_only(vip.into(), family)].flags
    };
    let pass = ServiceEntry::PASS_UNSERVED;
    assert_eq!(
        [flags("web", Family::V4), flags("web", Family::V6), flags("zzz", Family::V4)],
        [pass, pass, 0]
    );
    assert_eq!(tables.services.len(), 6);
}

#[test]
fn a_service_that_keeps_clients_says_so_in_its_ports_entries() {
    let mut keeping = shard(0, 1);
    keeping.by_client = true;
    let model = merged(&declared(), &services([(0, "web", keeping), (1, "web", shard(1, 1))]), None);
    let tables = planned(&model, &Health::default());
    let flags = |table: &Arc<ServiceTable>| (table.protocol.is_some(), table.flags);
    let all: Vec<_> = tables.services.values().map(flags).collect();
    assert_eq!(all, [(false, 0), (true, ServiceEntry::BY_CLIENT)]);
    let problems: Vec<String> = model.problems.iter().map(ToString::to_string).collect();
    let [problem] = &problems[..] else { panic!("{problems:?}") };
    assert!(
        problem.contains("spec.sessionAffinity: is None here and ClientIP in another cluster"),
        "{problem}"
    );
}

#[test]
fn server_ids_are_the_same_whatever_tunnels_a_gateway_has() {
    let mut spec = shard(0, 2);
    spec.wants_v6 = true;
    spec.ports[0].quic = true;
    // Of the other cluster's, one has no IPv6.
    let mut other = shard(3, 2);
    other.ports[0].quic = true;
    Arc::make_mut(&mut other.endpoints)[1].v6 = None;
    let states = states([(0, spec), (3, other)]);
    let of = |v4: bool, v6: bool| {
        let mut declared = declarations(9);
        (declared.here.tunnel_v4, declared.here.tunnel_v6) = (v4, v6);
        let tables = planned(&merged(&Arc::new(declared), &states, None), &Health::default());
        let named = tables.services.values().filter(|table| table.protocol.is_some()).map(|table| {
            assert_eq!((table.flags, table.clashes.len()), (ServiceEntry::QUIC, 0));
            let pod = |named: &NamedServer| Arc::clone(&table.backends[usize::from(named.backend)].pod);
            let named: Vec<_> =
                table.server_ids.iter().map(|named| (named.id, named.address, pod(named))).collect();
            (table.vip, named)
        });
        named.collect::<Vec<_>>()
    };
    let both = of(true, true);
    assert_eq!(
        both.iter().map(|(_, named)| named.len()).collect::<Vec<_>>(),
        [7, 6],
        "p4 can't serve an IPv6 VIP"
    );
    assert_eq!(of(true, false), both);
    for (vip, named) in &both {
        for (id, address, pod) in named {
            assert_eq!(*id, ServerId::of(address.unwrap()), "{vip} {pod}");
        }
    }
}

#[test]
fn services_that_share_a_vip_share_its_entry() {
    let asking = |number: u16, pass: bool| {
        let mut spec = shard(0, 1);
        spec.requested_vips = vec!["192.0.2.9".parse().unwrap()];
        spec.ports[0].port = number;
        spec.options.pass_unserved_ports = pass;
        spec
    };
    let model =
        merged(&declared(), &services([(0, "a", asking(80, false)), (0, "b", asking(81, true))]), None);
    let tables = planned(&model, &Health::default());
    let key = ServiceKey::vip_only(Address::v4([192, 0, 2, 9]), Family::V4);
    assert_eq!(tables.services.len(), 3);
    assert_eq!(
        (&tables.services[&key].name, tables.services[&key].flags),
        (&name("a"), ServiceEntry::PASS_UNSERVED)
    );
}

#[test]
fn no_tunnel_is_taken_for_wider_than_all_are() {
    let mut declared = declarations(1);
    declared.here.tunnel_mtu = 1450;
    let mut model = merged(&Arc::new(declared.clone()), &states([(0, shard(0, 2))]), None);
    let route = |mtu| Route { hop: Hop { ifindex: 7, ..Hop::default() }, routed_by: 7, mtu };
    let links = Arc::new(Links::from([(pod(0, 1).into(), route(9000)), (pod(0, 2).into(), route(1400))]));
    let mut planner = Planner::new();
    let mut plan = |model: &Model, links: &Arc<Links>| {
        let (health, demand) = (Health::default(), Demand::default());
        planner
            .plan(&Inputs {
                model,
                health: &health,
                demand: &demand,
                links,
                held: &Held::default(),
                silent: &Arc::default(),
                now: Duration::ZERO,
            })
            .tables
            .links
    };
    let mtus = |links: &Links| links.values().map(|route| route.mtu).collect::<Vec<_>>();
    let limited = plan(&model, &links);
    assert_eq!(mtus(&limited), [1450, 1400]);
    assert!(Arc::ptr_eq(&limited, &plan(&model, &links)), "so that nothing is compared again");
    declared.here.tunnel_mtu = 9000;
    model.declared = Arc::new(declared);
    assert!(Arc::ptr_eq(&plan(&model, &links), &links));
}

#[test]
fn a_shard_whose_service_was_deleted_comes_back_gradually() {
    let declared = declared();
    let mut planner = Planner::new();
    let health = Health::default();
    let mut states = states([(0, shard(0, 2)), (1, shard(1, 2))]);
    let both = merged(&declared, &states, None);
    // The cluster can be read, and has no such service any more.
    states.get_mut("c0").unwrap().shards.clear();
    let one = merged(&declared, &states, Some(&both));
    assert_eq!(one.services[&name("web")].shards.len(), 1);
    states.get_mut("c1").unwrap().shards.clear();
    let none = merged(&declared, &states, Some(&one));
    assert!(none.services.is_empty());
    plan_at(&mut planner, &both, &health, 0);
    plan_at(&mut planner, &one, &health, 1_000);
    let back = plan_at(&mut planner, &both, &health, 2_000);
    let states: Vec<_> = web(&back.tables).shards.iter().map(|shard| shard.state).collect();
    assert_eq!(states, [ShardState::Returning { step: 1, of: 4 }, ShardState::Spilled]);
    // The whole service: nobody is there for whom it could be let in gradually.
    plan_at(&mut planner, &none, &health, 3_000);
    let anew = plan_at(&mut planner, &both, &health, 4_000);
    let states: Vec<_> = web(&anew.tables).shards.iter().map(|shard| shard.state).collect();
    assert_eq!(states, [ShardState::Serving, ShardState::Standby]);
}

#[test]
fn roles_limit_what_is_planned() {
    let with = |gateway: bool, receiver: bool| {
        let mut declared = declarations(9);
        (declared.here.gateway, declared.here.receiver) = (gateway, receiver);
        let mut spec = shard(0, 1);
        Arc::make_mut(&mut spec.endpoints)[0].node = Arc::from("node-0");
        let tables = planned(&merged(&Arc::new(declared), &states([(0, spec)]), None), &Health::default());
        (tables.services.len(), tables.deliveries.len(), tables.gateways.len())
    };
    assert_eq!(with(true, false), (2, 0, 0));
    assert_eq!(with(false, true), (0, 4, 2));
    assert_eq!(with(true, true), (2, 4, 2));
}

#[test]
fn the_fingerprint_says_what_slots_resolve_to() {
    let plan =
        |pods: u16| planned(&merged(&declared(), &states([(0, shard(0, pods))]), None), &Health::default());
    assert_eq!(plan(3).fingerprint(), plan(3).fingerprint());
    assert_ne!(plan(3).fingerprint(), plan(4).fingerprint());
    assert_ne!(plan(3).fingerprint(), plan(0).fingerprint());
    assert_eq!(
        plan(3).fingerprint(),
        0x8a1f_ca54_b103_44c4,
        "a change of this makes old and new gateways differ"
    );
}

#[test]
fn a_service_of_65_536_endpoints() {
    let mut spec = shard(0, 0);
    let mut wide = declarations(9);
    wide.clusters.get_mut("c0").unwrap().pod_cidrs = vec!["10.0.0.0/8".parse().unwrap()];
    let endpoints = (1..=65_536u32).map(|n| Endpoint {
        v4: Some(Ipv4Addr::from_bits(0x0a00_0000 + n)),
        v6: None,
        pod: Arc::from(format!("p{n:05}")),
        ..endpoint(0, 1)
    });
    spec.endpoints = Arc::new(endpoints.collect());
    let model = merged(&Arc::new(wide), &states([(0, spec)]), None);
    assert_eq!(model.problems.len(), 1);
    let tables = planned(&model, &Health::default());
    let table = web(&tables);
    assert_eq!((table.backends.len(), table.ring.len(), table.not_taken.len()), (65_535, 65_537, 1));
    assert_eq!(table.not_taken[0].verdict, Verdict::Rejected(Rejection::TooMany));
}
