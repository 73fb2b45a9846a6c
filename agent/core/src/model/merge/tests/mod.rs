//! The rules of merging, a row each.

mod incremental;
mod vips;

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

#[test]
fn services_that_are_all_gone_at_once_are_held_until_they_are_back_or_that_is_accepted() {
    let declared = declared();
    let all = || services([(0, "web", shard(0, 2)), (0, "api", shard(0, 2)), (1, "web", shard(1, 2))]);
    let full = merged(&declared, &all(), None);
    let mut emptied = all();
    emptied.get_mut("c0").unwrap().shards.clear();
    let held = merged(&declared, &emptied, Some(&full));
    let web = &held.services[&name("web")];
    assert_eq!((web.shards.len(), web.shards[0].reachable, web.shards[1].reachable), (2, false, true));
    assert_eq!(held.services[&name("api")].shards.len(), 1);
    assert_eq!(
        held.problems[0].to_string(),
        "cluster c0: services: 2 of 2 are suddenly gone from its source; they are held, and probes decide \
         (`fairlead accept-withdrawal c0` lets them go)"
    );
    // It goes on while others come, and while the source can't be read.
    emptied.get_mut("c0").unwrap().shards.insert(name("new"), Arc::new(shard(0, 1)));
    let with_new = merged(&declared, &emptied, Some(&held));
    assert_eq!(with_new.services.len(), 3);
    let mut away = emptied.clone();
    away.get_mut("c0").unwrap().reachable = false;
    let away = merged(&declared, &away, Some(&with_new));
    let again = merged(&declared, &emptied, Some(&away));
    assert_eq!((again.services.len(), again.withdrawn.len()), (3, 1));

    let back = merged(&declared, &all(), Some(&again));
    assert_eq!((back.withdrawn.len(), back.problems.len()), (0, 0));
    assert!(back.services[&name("web")].shards[0].reachable);
    emptied.get_mut("c0").unwrap().accepted = true;
    let accepted = merged(&declared, &emptied, Some(&again));
    assert_eq!(accepted.withdrawn.len(), 0);
    assert!(!accepted.services.contains_key(&name("api")) && accepted.services.contains_key(&name("new")));
}

#[test]
fn services_that_go_one_by_one_or_in_part_are_gone() {
    let mut declared = declarations(2);
    let all = || services([(0, "web", shard(0, 2)), (0, "api", shard(0, 2)), (0, "db", shard(0, 2))]);
    let without = |names: &[&str]| {
        let mut states = all();
        states.get_mut("c0").unwrap().shards.retain(|known, _| !names.contains(&&*known.name));
        states
    };
    let strict = {
        let mut strict = declared.clone();
        strict.tuning.withdrawal_percent = 60;
        Arc::new(strict)
    };
    declared.tuning.withdrawal_percent = 100;
    let declared = Arc::new(declared);
    let mut model = merged(&declared, &all(), None);
    for gone in [&["web"][..], &["web", "api"], &["web", "api", "db"]] {
        model = merged(&declared, &without(gone), Some(&model));
        assert_eq!((model.services.len(), model.withdrawn.len()), (3 - gone.len(), 0));
    }
    let two_gone =
        |declared| merged(declared, &without(&["web", "api"]), Some(&merged(declared, &all(), None)));
    assert_eq!(two_gone(&declared).services.len(), 1);
    assert_eq!((two_gone(&strict).services.len(), two_gone(&strict).withdrawn.len()), (3, 1));
}
