//! The rules of merging, a row each.

use std::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::fixtures::*;
use crate::model::{ProbeState, Rejection, ShardSpec};

fn declared() -> Arc<Declarations> {
    Arc::new(declarations(9))
}

fn vip(model: &Model, service: &str) -> Option<Ipv4Addr> {
    model.services[&name(service)].vips.v4
}

fn whats(model: &Model) -> Vec<&str> {
    model.problems.iter().map(|problem| &*problem.what).collect()
}

fn asking(address: &str, spec: ShardSpec) -> ShardSpec {
    ShardSpec { requested_vips: vec![address.parse().unwrap()], ..spec }
}

#[test]
fn shards_of_one_name_are_one_service() {
    let mut second = shard(1, 2);
    second.ports.push(port(443, "https"));
    let model = merged(&declared(), &states([(0, shard(0, 3)), (1, second)]), None);
    let web = &model.services[&name("web")];
    assert_eq!(web.ports, [port(80, "http"), port(443, "https")]);
    let shards: Vec<_> =
        web.shards.iter().map(|s| (&*s.cluster, &*s.place.region, s.endpoints.len())).collect();
    assert_eq!(shards, [("c0", "r0", 3), ("c1", "r0", 2)]);
    assert_eq!(model.problems, []);
}

#[test]
fn the_pool_gives_by_name_alone() {
    let alone = merged(&declared(), &states([(0, shard(0, 1))]), None);
    let vip_alone = vip(&alone, "web").unwrap();
    let others = ["b", "c", "x", "y", "z"].map(|service| (1, service, shard(1, 1)));
    let among = merged(&declared(), &services(others.into_iter().chain([(5, "web", shard(5, 1))])), None);
    assert_eq!(vip(&among, "web"), Some(vip_alone), "another cluster, other services, the same VIP");
    assert_eq!(among.services.values().filter_map(|s| s.vips.v4).count(), 6, "{:?}", among.problems);
    assert_eq!(vip_alone, Ipv4Addr::new(192, 0, 2, 56), "a change of this moves all VIPs");
}

#[test]
fn the_pool_gives_no_reserved_and_no_edge_address() {
    let mut narrow = declarations(1);
    narrow.pools = vec!["192.0.2.0/30".parse().unwrap()];
    let names: Vec<String> = (0..40).map(|n| format!("s{n}")).collect();
    let model = merged(&Arc::new(narrow), &services(names.iter().map(|n| (0, &**n, shard(0, 1)))), None);
    let given: Vec<Ipv4Addr> = model.services.values().filter_map(|service| service.vips.v4).collect();
    assert_eq!(given, [Ipv4Addr::new(192, 0, 2, 2)], "of .0 to .3, .1 is reserved, .0 and .3 are the edges");
}

#[test]
fn a_collision_names_both_and_proposes_a_free_address() {
    let mut narrow = declarations(1);
    narrow.pools = vec!["192.0.2.2/31".parse().unwrap()];
    let names: Vec<String> = (0..8).map(|n| format!("s{n}")).collect();
    let all = |names: &[String]| services(names.iter().map(|n| (0, &**n, shard(0, 1))).collect::<Vec<_>>());
    let narrow = Arc::new(narrow);
    // The first two names that are given the same address.
    let model = merged(&narrow, &all(&names), None);
    let first = vip(&model, "s0").unwrap();
    let second =
        names[1..].iter().find(|n| vip(&merged(&narrow, &all(&[(*n).clone()]), None), n) == Some(first));
    let pair = merged(&narrow, &all(&["s0".to_owned(), second.unwrap().clone()]), None);
    assert_eq!(vip(&pair, "s0"), Some(first), "the first by name keeps it");
    assert_eq!(vip(&pair, second.unwrap()), None);
    let [problem] = &pair.problems[..] else { panic!("{:?}", pair.problems) };
    assert_eq!(
        problem.what,
        format!(
            "{first}, which the pool gives Service ns/{0}, is held by Service ns/s0; it gets none",
            second.unwrap()
        )
    );
    let free = if first.octets()[3] == 2 { "192.0.2.3" } else { "192.0.2.2" };
    assert_eq!(problem.hint, Some(format!("ask for {free}, which is free")));
}

#[test]
fn a_request_wins_over_the_pool() {
    let chosen = vip(&merged(&declared(), &states([(0, shard(0, 1))]), None), "web").unwrap();
    let both = services([(0, "web", shard(0, 1)), (0, "zzz", asking(&chosen.to_string(), shard(0, 1)))]);
    let model = merged(&declared(), &both, None);
    assert_eq!((vip(&model, "zzz"), vip(&model, "web")), (Some(chosen), None));
}

#[test]
fn clusters_that_disagree_about_the_vip() {
    let model = merged(
        &declared(),
        &states([(1, asking("192.0.2.10", shard(1, 1))), (0, asking("192.0.2.20", shard(0, 1)))]),
        None,
    );
    assert_eq!(vip(&model, "web"), Some(Ipv4Addr::new(192, 0, 2, 20)));
    assert_eq!(model.problems[0].cluster.as_deref(), Some("c1"));
    assert_eq!(
        whats(&model),
        ["192.0.2.10 contradicts 192.0.2.20, which cluster c0 asks for; 192.0.2.20 stays"]
    );
}

#[test]
fn vips_that_nobody_gets() {
    for (address, why) in [
        ("203.0.113.1", "203.0.113.1 lies in no VIP pool"),
        ("192.0.2.1", "192.0.2.1 can't be a VIP: 192.0.2.1/32 belongs to a gateway"),
        ("224.0.0.1", "224.0.0.1 can't be a VIP: it is not the address of one host"),
        ("127.0.0.1", "127.0.0.1 can't be a VIP: it is not the address of one host"),
        ("0.0.0.0", "0.0.0.0 can't be a VIP: it is not the address of one host"),
        ("255.255.255.255", "255.255.255.255 can't be a VIP: it is not the address of one host"),
        ("::1", "::1 can't be a VIP: it is not the address of one host"),
        ("ff02::1", "ff02::1 can't be a VIP: it is not the address of one host"),
        ("::ffff:192.0.2.9", "::ffff:192.0.2.9 can't be a VIP: it is not the address of one host"),
    ] {
        let model = merged(&declared(), &states([(0, asking(address, shard(0, 1)))]), None);
        assert_eq!(whats(&model), [why]);
        let vips = model.services[&name("web")].vips;
        let family_asked =
            if address.contains(':') { vips.v6.map(IpAddr::V6) } else { vips.v4.map(IpAddr::V4) };
        assert_eq!(family_asked, None, "who asks for one that he can't have gets no other");
    }
    // Another cluster's valid request stands.
    let both = states([(0, asking("203.0.113.1", shard(0, 1))), (1, asking("192.0.2.7", shard(1, 1)))]);
    assert_eq!(vip(&merged(&declared(), &both, None), "web"), Some(Ipv4Addr::new(192, 0, 2, 7)));
}

#[test]
fn dual_stack_and_a_missing_pool() {
    let dual = ShardSpec { wants_v6: true, ..shard(0, 1) };
    let model = merged(&declared(), &states([(0, dual.clone())]), None);
    let web = &model.services[&name("web")];
    assert!(web.vips.v4.is_some() && web.vips.v6.is_some());
    let mut no_v6 = declarations(1);
    no_v6.pools.pop();
    let model = merged(&Arc::new(no_v6), &states([(0, dual)]), None);
    assert!(vip(&model, "web").is_some(), "one family's problem leaves the other alone");
    assert_eq!(whats(&model), ["no pool has an IPv6 address to give; it gets none"]);
}

#[test]
fn two_services_share_a_vip_with_different_ports() {
    let mut tls = asking("192.0.2.9", shard(0, 1));
    tls.ports = vec![port(443, "https"), port(80, "http")];
    let model =
        merged(&declared(), &services([(0, "a", asking("192.0.2.9", shard(0, 1))), (0, "b", tls)]), None);
    let at = |service: &str| -> Vec<u16> {
        model.services[&name(service)].served_at("192.0.2.9".parse().unwrap()).map(|p| p.port).collect()
    };
    assert_eq!((at("a"), at("b")), (vec![80], vec![443]));
    assert_eq!(whats(&model), ["port 80/tcp of it is held by Service ns/a; this service doesn't serve it"]);
    assert_eq!(model.problems[0].object, Some(name("b")));
}

#[test]
fn a_new_service_takes_no_port_from_one_that_is_served() {
    let vip = "192.0.2.9";
    let made = |created: Option<i64>| ShardSpec { created, ..asking(vip, shard(0, 1)) };
    // By name the first would have it; the objects' ages count, in whatever cluster, and none is the youngest.
    for (a, b, holder) in [
        (Some(200), Some(100), "b"),
        (None, Some(100), "b"),
        (Some(100), Some(200), "a"),
        (Some(100), Some(100), "a"),
        (None, None, "a"),
    ] {
        let states = services([(0, "a", made(a)), (0, "b", made(b)), (1, "b", made(None))]);
        let model = merged(&declared(), &states, None);
        let serves =
            |service: &str| model.services[&name(service)].served_at(vip.parse().unwrap()).next().is_some();
        assert_eq!((serves("a"), serves("b")), (holder == "a", holder == "b"), "{a:?} {b:?}");
    }
}

#[test]
fn of_two_services_the_pool_gives_an_address_to_the_older() {
    let declared = declared();
    // As many as it takes until two get the same.
    let all: Vec<String> = (0..200).map(|n| format!("s{n:03}")).collect();
    let made = |n: usize| ShardSpec { created: Some(1000 - n as i64), ..shard(0, 1) };
    let states = services(all.iter().enumerate().map(|(n, service)| (0, service.as_str(), made(n))));
    let model = merged(&declared, &states, None);
    let held: Vec<_> = model.problems.iter().filter(|p| p.what.contains("is held by")).collect();
    assert!(!held.is_empty());
    for problem in held {
        let loser = &problem.object.as_ref().unwrap().name;
        let (_, rest) = problem.what.split_once("is held by Service ns/").unwrap();
        let (holder, _) = rest.split_once(';').unwrap();
        assert!(*holder > **loser, "{holder} is older than {loser}");
    }
}

#[test]
fn ports_that_contradict_each_other() {
    let with = |ports: &[ServicePort], cluster| ShardSpec { ports: ports.to_vec(), ..shard(cluster, 1) };
    for (first, second, why) in [
        (
            port(80, "http"),
            port(80, "web"),
            r#"80/tcp is called "http" in cluster c0 already; this port is left out"#,
        ),
        (
            port(80, "http"),
            port(81, "http"),
            r#""http" is 80/tcp in cluster c0 already; this port is left out"#,
        ),
        (port(80, "http"), port(0, "zero"), "port 0 can't be served; this port is left out"),
    ] {
        let states =
            states([(0, with(std::slice::from_ref(&first), 0)), (1, with(&[second, port(99, "ok")], 1))]);
        let model = merged(&declared(), &states, None);
        assert_eq!(model.services[&name("web")].ports, [first, port(99, "ok")], "only the later item goes");
        assert_eq!(whats(&model), [why]);
        assert_eq!(model.problems[0].cluster.as_deref(), Some("c1"));
        assert_eq!(model.problems[0].object, Some(name("web")));
    }
}

#[test]
fn endpoints_outside_their_cluster_are_left_out() {
    let mut spec = shard(0, 3);
    let endpoints = Arc::make_mut(&mut spec.endpoints);
    endpoints[0].v4 = Some(Ipv4Addr::new(10, 1, 0, 1));
    endpoints[1].v6 = Some("2001:db8:bad::1".parse().unwrap());
    let model = merged(&declared(), &states([(0, spec)]), None);
    let shard = &model.services[&name("web")].shards[0];
    let left: Vec<&str> = shard.endpoints.iter().map(|endpoint| &*endpoint.pod).collect();
    assert_eq!(left, ["p3"]);
    let why: Vec<_> = shard.rejected.iter().map(|r| (&*r.pod, r.why)).collect();
    assert_eq!(why, [("p1", Rejection::OutsideCidrs), ("p2", Rejection::OutsideCidrs)]);
    assert_eq!(
        whats(&model),
        ["endpoint 10.1.0.1 is left out, its address lies outside the cluster's pod CIDRs, and 1 more"],
        "one problem, however many endpoints"
    );
}

#[test]
fn no_cluster_takes_anothers_address() {
    let mut thief = declarations(2);
    let everything = vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
    thief.clusters.get_mut("c1").unwrap().pod_cidrs = everything;
    let mut spec = shard(1, 1);
    Arc::make_mut(&mut spec.endpoints)[0].v4 = Some(Ipv4Addr::new(10, 0, 0, 1));
    let mut nonsense = endpoint(1, 9);
    nonsense.v6 = Some("::ffff:10.0.0.1".parse().unwrap());
    Arc::make_mut(&mut spec.endpoints).push(nonsense);
    let model = merged(&Arc::new(thief), &states([(0, shard(0, 1)), (1, spec)]), None);
    let why: Vec<_> = model.services[&name("web")].shards[1].rejected.iter().map(|r| r.why).collect();
    assert_eq!(why, [Rejection::DuplicateAddress, Rejection::OutsideCidrs]);
}

#[test]
fn what_is_left_of_a_pod_whose_address_is_used_again_is_no_problem() {
    let mut spec = shard(0, 2);
    let endpoints = Arc::make_mut(&mut spec.endpoints);
    endpoints[0].conditions.terminating = true;
    (endpoints[1].v4, endpoints[1].v6) = (endpoints[0].v4, endpoints[0].v6);
    let model = merged(&declared(), &states([(0, spec)]), None);
    let left: Vec<_> =
        model.services[&name("web")].shards[0].endpoints.iter().map(|e| e.pod.clone()).collect();
    assert_eq!(left, [Arc::from("p2")]);
    assert_eq!(model.problems, []);
}

#[test]
fn more_endpoints_than_a_ring_can_name() {
    let spec = |cluster: u8, pods: u32| {
        let mut spec = shard(cluster, 0);
        let pods = (0..pods).map(|n| {
            let mut endpoint = endpoint(cluster, u16::try_from(n).unwrap());
            endpoint.v6 = None;
            endpoint
        });
        spec.endpoints = Arc::new(pods.collect());
        spec
    };
    let model = merged(&declared(), &states([(0, spec(0, 65_000)), (1, spec(1, 536))]), None);
    let web = &model.services[&name("web")];
    assert_eq!((web.shards[0].endpoints.len(), web.shards[1].endpoints.len()), (65_000, 535));
    assert_eq!(web.shards[1].rejected[0].why, Rejection::TooMany);
    assert_eq!(model.problems.len(), 1);
    assert_eq!(model.problems[0].hint.as_deref(), Some("split the service; it can have 65,535 endpoints"));
}

#[test]
fn a_cluster_that_is_not_declared_counts_for_nothing() {
    let model = merged(&Arc::new(declarations(1)), &states([(0, shard(0, 1)), (7, shard(7, 1))]), None);
    assert_eq!(model.services[&name("web")].shards.len(), 1);
    assert_eq!(
        model.problems[0].to_string(),
        "cluster c7: clusters: the cluster is not declared; nothing of it is used (declare it in the configuration)"
    );
}

#[test]
fn what_did_not_change_stays_the_same() {
    let declared = declared();
    let before = services([(0, "web", shard(0, 3)), (1, "web", shard(1, 3)), (0, "other", shard(0, 2))]);
    let first = merged(&declared, &before, None);
    // Read anew: equal, in new allocations.
    let again = services([(0, "web", shard(0, 3)), (1, "web", shard(1, 3)), (0, "other", shard(0, 2))]);
    let second = merged(&declared, &again, Some(&first));
    assert!(first.services.iter().all(|(name, service)| Arc::ptr_eq(service, &second.services[name])));
    let changed = services([(0, "web", shard(0, 4)), (1, "web", shard(1, 3)), (0, "other", shard(0, 2))]);
    let third = merged(&declared, &changed, Some(&second));
    assert!(Arc::ptr_eq(&third.services[&name("other")], &first.services[&name("other")]));
    assert_eq!(third.services[&name("web")].shards[0].endpoints.len(), 4);
    assert_eq!(third, merged(&declared, &changed, None), "what is taken over is what would be made");
}

#[test]
fn an_unreachable_cluster_keeps_what_was_known() {
    let declared = declared();
    let first = merged(&declared, &states([(0, shard(0, 3)), (1, shard(1, 3))]), None);
    let mut gone = states([(0, shard(0, 3)), (1, shard(1, 3))]);
    *gone.get_mut("c1").unwrap() = ClusterState::default();
    let second = merged(&declared, &gone, Some(&first));
    let shard = &second.services[&name("web")].shards[1];
    assert_eq!((shard.reachable, shard.endpoints.len(), shard.held), (false, 3, false));
    gone.remove("c1");
    let third = merged(&declared, &gone, Some(&second));
    assert_eq!(third, second, "no state at all is the same as an unreachable one");
    gone.insert(Arc::from("c1"), ClusterState { reachable: true, ..ClusterState::default() });
    let fourth = merged(&declared, &gone, Some(&third));
    assert_eq!(fourth.services[&name("web")].shards.len(), 1, "reachable, and says that there is none");
}

#[test]
fn a_mass_withdrawal_is_held_until_probes_fail() {
    let declared = declared();
    let full = merged(&declared, &states([(0, shard(0, 3))]), None);
    let empty = states([(0, shard(0, 0))]);
    let mut health = Health::default();
    judge(&mut health, Ipv4Addr::new(10, 0, 0, 1), ProbeState::Good);
    let held = |health: &Health, previous: &Model| {
        let model = merge(&declared, &empty, health, Some(previous));
        let shard = &model.services[&name("web")].shards[0];
        let pods: Vec<String> = shard.endpoints.iter().map(|endpoint| endpoint.pod.to_string()).collect();
        (shard.held, pods, model)
    };
    let (is_held, pods, first) = held(&health, &full);
    assert!(is_held);
    assert_eq!(pods, ["p1", "p2", "p3"], "what isn't probed yet doesn't fail");
    assert!(whats(&first)[0].starts_with("the source suddenly shows none"), "{:?}", first.problems);
    let (_, _, again) = held(&health, &first);
    assert!(Arc::ptr_eq(&again.services[&name("web")], &first.services[&name("web")]));

    judge(&mut health, Ipv4Addr::new(10, 0, 0, 2), ProbeState::Bad);
    let (is_held, pods, second) = held(&health, &first);
    assert_eq!((is_held, pods), (true, vec!["p1".to_owned(), "p3".to_owned()]));
    judge(&mut health, Ipv4Addr::new(10, 0, 0, 2), ProbeState::Good);
    let (_, pods, third) = held(&health, &second);
    assert_eq!(pods, ["p1", "p3"], "who was let go doesn't come back: the address may be another pod's");

    let restored = merge(&declared, &states([(0, shard(0, 3))]), &health, Some(&third));
    assert_eq!((restored.problems.len(), restored.services[&name("web")].shards[0].held), (0, false));

    for n in [1, 3] {
        judge(&mut health, Ipv4Addr::new(10, 0, 0, n), ProbeState::Bad);
    }
    let (is_held, pods, _) = held(&health, &third);
    assert_eq!((is_held, pods.len()), (false, 0));
}

#[test]
fn what_is_not_held() {
    let declared = declared();
    let full = merged(&declared, &states([(0, shard(0, 3))]), None);
    let held = |states: &States| merged(&declared, states, Some(&full));

    let deleted = held(&services([(0, "other", shard(0, 1))]));
    assert!(!deleted.services.contains_key(&name("web")), "the Service object itself is gone");

    let mut unprobed = shard(0, 0);
    unprobed.options.probe.kind = Some(crate::model::ProbeKind::None);
    assert!(
        !held(&states([(0, unprobed)])).services[&name("web")].shards[0].held,
        "nothing speaks against it"
    );

    let mut udp = shard(0, 0);
    udp.ports[0].protocol = Protocol::Udp;
    assert!(!held(&states([(0, udp)])).services[&name("web")].shards[0].held, "UDP alone isn't probed");

    let drained = ShardSpec { drained: true, ..shard(0, 0) };
    assert!(!held(&states([(0, drained)])).services[&name("web")].shards[0].held, "somebody means it");

    let mut draining = shard(0, 3);
    for endpoint in Arc::make_mut(&mut draining.endpoints) {
        endpoint.conditions.ready = false;
    }
    let drained = merged(&declared, &states([(0, draining)]), Some(&full));
    let gone = merged(&declared, &states([(0, shard(0, 0))]), Some(&drained));
    assert!(!gone.services[&name("web")].shards[0].held, "it was not sudden: none was ready before");
}

mod incremental {
    use proptest::prelude::*;

    use super::*;

    /// What happens to one cluster's shard between two merges.
    #[derive(Clone, Copy, Debug)]
    enum Event {
        Pods(u16),
        Gone,
        ReadAnew,
        Unreachable,
        Back,
    }

    fn event() -> impl Strategy<Value = (u8, usize, Event)> {
        let event = prop_oneof![
            3 => (1u16..5).prop_map(Event::Pods),
            1 => Just(Event::Gone),
            1 => Just(Event::ReadAnew),
            1 => Just(Event::Unreachable),
            1 => Just(Event::Back),
        ];
        (0u8..4, 0usize..5, event)
    }

    const SERVICES: [&str; 5] = ["a", "b", "c", "d", "e"];

    fn apply(states: &mut States, cluster: u8, service: usize, event: Event) {
        let state = states.entry(Arc::from(format!("c{cluster}"))).or_default();
        let name = name(SERVICES[service]);
        match event {
            Event::Pods(pods) => {
                let mut spec = shard(cluster, pods);
                if service < 2 {
                    // These two want the same.
                    spec.requested_vips = vec!["192.0.2.77".parse().unwrap()];
                }
                state.shards.insert(name, Arc::new(spec));
            }
            Event::Gone => drop(state.shards.remove(&name)),
            Event::ReadAnew => {
                let anew = state.shards.iter().map(|(n, s)| {
                    let name = ObjectName::new(&*n.namespace, &*n.name);
                    (name, Arc::new(ShardSpec::clone(s)))
                });
                state.shards = anew.collect();
            }
            Event::Unreachable => state.reachable = false,
            Event::Back => state.reachable = true,
        }
    }

    /// What an agent that never forgot anything would know: unreachable clusters keep what they lose.
    fn remembered(states: &States, previous: Option<&Model>) -> States {
        let mut states = states.clone();
        for (cluster, state) in states.iter_mut().filter(|(_, state)| !state.reachable) {
            for (name, service) in previous.iter().flat_map(|model| &model.services) {
                if let Some(shard) = service.shards.iter().find(|shard| shard.cluster == *cluster) {
                    state.shards.entry(name.clone()).or_insert_with(|| Arc::clone(&shard.spec));
                }
            }
        }
        states
    }

    proptest! {
        #[test]
        fn taking_over_gives_what_starting_anew_would(
            rounds in prop::collection::vec(prop::collection::vec(event(), 1..6), 1..12),
        ) {
            let declared = Arc::new(declarations(4));
            let mut states = States::new();
            let mut model: Option<Model> = None;
            for events in rounds {
                for (cluster, service, event) in events {
                    apply(&mut states, cluster, service, event);
                }
                let anew = merged(&declared, &remembered(&states, model.as_ref()), None);
                let next = merged(&declared, &states, model.as_ref());
                prop_assert_eq!(&next, &anew);
                let again = merged(&declared, &states, Some(&next));
                for (name, service) in &again.services {
                    prop_assert!(Arc::ptr_eq(service, &next.services[name]), "{} is taken over", name);
                }
                model = Some(next);
            }
        }
    }
}

#[test]
fn what_one_cluster_calls_quic_is_quic() {
    let with = |cluster, quic| {
        let mut spec = shard(cluster, 1);
        spec.ports = vec![ServicePort { protocol: Protocol::Udp, quic, ..port(443, "http") }];
        (cluster, spec)
    };
    let declared = Arc::new(declarations(3));
    let alike = merged(&declared, &states([with(0, true), with(1, true)]), None);
    assert_eq!(alike.problems, []);
    for (first, second, wrong) in [(true, false, "c1"), (false, true, "c0")] {
        let model = merged(&declared, &states([with(0, first), with(1, second)]), None);
        let service = &model.services[&name("web")];
        assert!(service.ports.len() == 1 && service.ports[0].quic);
        let told: Vec<_> = model.problems.iter().map(ToString::to_string).collect();
        let right = if wrong == "c1" { "c0" } else { "c1" };
        let expected = format!(
            "cluster {wrong}: Service ns/web: spec.ports[http].appProtocol: is not fairlead.io/quic here, but in cluster \
             {right}, which counts (say the same in all clusters)"
        );
        assert_eq!(told, [expected]);
    }
}
