//! Endpoints that fail, and endpoints that are said to: probes and the clusters' words, and what counts when they differ.

use std::collections::BTreeSet;
use std::net::IpAddr;

use fairlead_tests::load::Load;
use fairlead_tests::world::{Condition, Federation, Plan, ServiceSpec};
use serde_json::Value;

use crate::served::{
    NEW_ONLY, PATIENCE, Served, assert_nothing_failed, assert_only_moves_broke, is_broken_by_move, pod_of,
    wait, wait_for_requests,
};

#[test]
fn a_dead_pod_gets_no_new_connections_after_a_second() {
    let served = Served::build(&Plan::small(), &Federation::default());
    let [pod, survivor] = served.world.pods() else { panic!("two pods are planned") };
    lost_for_a_while(&served, survivor.name(), || pod.kill().unwrap(), || pod.start_again().unwrap());
}

#[test]
fn a_node_that_loses_its_receiver_gets_no_new_connections_after_a_second() {
    let plan = Plan::default().region("us-central1", &["a"], 1).nodes(2);
    let served = Served::build(&plan, &Federation::default());
    let agent = served.node(0);
    // As after a reboot into a kernel that the programs can't be loaded in: servers run, nothing unwraps for them.
    let lose = || {
        agent.process().kill().unwrap();
        agent.remove_pins().unwrap();
    };
    lost_for_a_while(&served, "pod-us-central1-a-2", lose, || agent.process().start_again().unwrap());
}

/// One of two endpoints stops to answer, and comes back, under load.
fn lost_for_a_while(served: &Served, survivor: &str, lose: impl Fn(), give_back: impl Fn()) {
    served.wait_until_served();
    assert_eq!(served.answering(), served.pods());
    let load = served.load(NEW_ONLY);
    wait_for_requests(&load, 40);
    load.event("lost");
    lose();
    let survivor = BTreeSet::from([survivor.to_owned()]);
    wait("answers of the other alone", || answering_next(&load) == Some(survivor.clone()));
    // Past the second that is promised, also where the other came to be alone before.
    wait_for_requests(&load, 240);
    load.event("back");
    give_back();
    wait("answers of both", || answering_next(&load) == Some(served.pods()));
    let mut record = load.stop().unwrap();
    record.requests.retain(|request| !is_broken_by_move(request));
    let [lost, back] = record.per_event().try_into().unwrap();
    assert!(lost.failed > 0, "it was not lost at all: {lost:?}");
    assert_eq!(lost.failed_after_recovery, 0, "{lost:?}");
    assert_eq!((back.failed, back.broken_by_move), (0, 0), "{back:?}");
}

/// Who answers the next requests of a load; `None` if one of them fails.
fn answering_next(load: &Load) -> Option<BTreeSet<String>> {
    let before = load.requests_from(0).len();
    wait_for_requests(load, 60);
    let next = load.requests_from(before);
    next.iter().map(|request| request.outcome.as_ref().ok().map(|by| by.pod.to_string())).collect()
}

fn answers_only(served: &Served, vip: IpAddr, pod: &str) -> bool {
    (0..40).all(|_| served.ask(vip).is_ok_and(|answer| pod_of(&answer) == pod))
}

#[test]
fn endpoints_that_all_vanish_from_the_manifests_are_held_while_their_probes_pass() {
    let served = Served::build(&Plan::small(), &Federation::default());
    served.wait_until_served();
    let manifests = served.world.manifests("us-central1-a");
    let agent = served.gateway();
    let kept = agent.configuration().with_file_name("state/last-good/us-central1-a.json");
    wait("a kept state", || kept.exists());
    let load = served.load(NEW_ONLY);
    wait_for_requests(&load, 20);
    manifests.remove_all().unwrap();
    served.wait_for_status("the alarm", |status| is_told(status, "the last 2 are held"));
    assert_eq!(served.answering(), served.pods());
    assert!(agent.is_ready());
    assert_eq!(
        agent.ask(&["plan"]).unwrap()["actions"],
        serde_json::json!([]),
        "one that starts holds them too"
    );
    // An agent that comes new to it holds them too.
    agent.process().kill().unwrap();
    agent.process().start_again().unwrap();
    agent.wait_until_ready(PATIENCE).unwrap();
    served.wait_for_status("the alarm again", |status| is_told(status, "the last 2 are held"));
    assert_eq!(served.answering(), served.pods());
    assert_nothing_failed(load);
    // The source's word still counts against one whose probes fail, and it doesn't come back by itself.
    let (gone, survivor) = (&served.world.pods()[0], served.world.pods()[1].name());
    gone.kill().unwrap();
    served.wait_for_status("one less", |status| is_told(status, "the last 1 are held"));
    gone.start_again().unwrap();
    for &vip in &served.service.vips {
        assert!(answers_only(&served, vip, survivor));
    }
    manifests.set_all(Condition::Ready).unwrap();
    served.wait_for_status("no alarm", |status| status["problems"] == serde_json::json!([]));
    wait("both pods", || served.is_served_by(&served.service, &served.pods()));
}

#[test]
fn probes_that_all_fail_are_not_believed() {
    let service = ServiceSpec::new("web", 1)
        .annotation("fairlead.io/probe", "http")
        .annotation("fairlead.io/probe-path", "/healthz");
    let served = Served::with(&Plan::small(), &Federation::default(), service.clone(), |world| {
        world.add_service(&service).unwrap();
    });
    served.wait_until_served();
    let [one, other] = served.world.pods() else { panic!("two pods") };
    one.set_healthy(false).unwrap();
    for &vip in &service.vips {
        wait("the healthy pod alone", || answers_only(&served, vip, other.name()));
    }
    let load = served.load(NEW_ONLY);
    other.set_healthy(false).unwrap();
    served.wait_for_status("the alarm", |status| {
        is_told(status, "none of 2 endpoints, or too few, pass their probes")
    });
    wait("both pods", || served.is_served_by(&served.service, &served.pods()));
    wait_for_requests(&load, 20);
    assert_only_moves_broke(load);
    one.set_healthy(true).unwrap();
    served.wait_for_status("no alarm", |status| status["problems"] == serde_json::json!([]));
    for &vip in &service.vips {
        wait("the healthy pod alone", || answers_only(&served, vip, one.name()));
    }
}

/// Whether this is told of the endpoints of Service shop/web.
fn is_told(status: &Value, words: &str) -> bool {
    let problems = status["problems"].as_array().unwrap().iter();
    let own =
        problems.filter(|problem| problem["object"]["name"] == "web" && problem["field"] == "endpoints");
    own.filter_map(|problem| problem["what"].as_str()).any(|what| what.contains(words))
}
