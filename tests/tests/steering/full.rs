//! Tables that are too small for what is wanted: that is refused as a whole and told, and what serves goes on serving.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use fairlead_tests::world::{Agent, Condition, Federation, PINS, Plan, ServiceSpec};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::served::{
    NEW_ONLY, PATIENCE, Served, assert_nothing_failed, wait, wait_for_requests, wait_for_status,
};

/// Services besides the first that are added until a table is full; more than any of these tables holds.
const MOST: u8 = 12;

#[test]
fn too_many_slots_are_refused_whole() {
    // Ten pods: rings of 509 slots, four of a service. Two services fit, and one ring more to change them one by one.
    let federation = Federation::default().capacity("services", 18).capacity("slots", 4_600);
    refuses(
        "slots",
        "SLOTS",
        &Plan::default().region("us-central1", &["a"], 10),
        &federation,
        Served::gateway,
    );
}

#[test]
fn too_many_services_are_refused_whole() {
    // A service has six entries: two ports at two VIPs, and these.
    let federation = Federation::default().capacity("services", 15);
    refuses("services", "SERVICE_COUNTERS", &Plan::small(), &federation, Served::gateway);
}

#[test]
fn too_many_backends_are_refused_whole() {
    let federation = Federation::default().capacity("services", 36).capacity("backends", 64);
    refuses("backends", "BACKENDS", &Plan::small(), &federation, Served::gateway);
}

#[test]
fn too_many_deliveries_are_refused_whole() {
    let federation = Federation::default().capacity("deliveries", 24);
    refuses("deliveries", "DELIVERIES", &Plan::small(), &federation, |served| served.node(0));
}

/// Adds services until `agent` tells that the table is full, and takes the last away again.
fn refuses(
    capacity: &str,
    table: &str,
    plan: &Plan,
    federation: &Federation,
    agent: impl Fn(&Served) -> &Agent,
) {
    let served = Served::build(plan, federation);
    served.wait_until_served();
    let (agent, manifests) = (agent(&served), served.world.manifests("us-central1-a"));
    let load = served.load(NEW_ONLY);
    let mut last = served.service.clone();
    let more = (2..=MOST).map(|number| ServiceSpec::new(&format!("more-{number}"), number));
    let mut refused = more.skip_while(|service| {
        manifests.add_service(service).unwrap();
        wait_for_status(agent, "a word on the new service", |status| {
            status["failure"] != Value::Null || has_all(agent)
        });
        let fits = agent.ask(&["status"]).unwrap()["failure"] == Value::Null;
        if fits {
            last = service.clone();
        }
        fits
    });
    let refused = refused.next().unwrap_or_else(|| panic!("{capacity} is never full"));
    let failure = agent.ask(&["status"]).unwrap()["failure"].as_str().unwrap().to_owned();
    for words in [format!("{table} is full: "), format!("raise capacities.{capacity} in the configuration")] {
        assert!(failure.contains(&words), "{failure}");
    }
    let all = served.pods();
    let others = [&served.service, &last];
    let others_serve = || others.iter().all(|service| served.is_served_by(service, &all));
    assert!(others_serve());
    assert!(agent.is_ready(), "a node that serves all others stays in use");
    restart(agent, || {});
    agent.wait_until_ready(PATIENCE).unwrap();
    assert!(others_serve(), "after a restart");
    assert_nothing_failed(load);
    assert_unserved(&served, &refused);
    // What serves follows its endpoints all the same.
    let dead = &served.world.pods()[0];
    dead.kill().unwrap();
    let living: BTreeSet<_> = all.iter().filter(|pod| *pod != dead.name()).cloned().collect();
    served.wait_until_served_by(&[&served.service], &living);
    dead.start_again().unwrap();
    served.wait_until_served_by(&others, &all);
    manifests.remove_service(&refused.name).unwrap();
    wait_for_status(agent, "no failure", |status| status["failure"] == Value::Null);
    served.wait_until_served_by(&others, &all);
}

/// Ends an agent as systemd does, and changes something before it starts again.
fn restart(agent: &Agent, change: impl Fn()) {
    agent.process().signal(Signal::SIGTERM).unwrap();
    assert_eq!(agent.process().wait(PATIENCE).unwrap().code(), Some(0));
    change();
    agent.process().start_again().unwrap();
}

fn assert_unserved(served: &Served, service: &ServiceSpec) {
    for vip in &service.vips {
        let address = SocketAddr::new(*vip, service.http_port);
        let patience = Duration::from_millis(200);
        assert!(!served.client().namespace.connects(address, patience), "{address} is served");
    }
}

/// Starts a gateway again and again whose slots suffice for two services out of three.
#[test]
fn full_tables_are_replaced_only_by_such_that_are_as_large() {
    let federation = Federation::default().capacity("services", 18).capacity("slots", 4_600);
    let served = Served::build(&Plan::default().region("us-central1", &["a"], 10), &federation);
    served.wait_until_served();
    let (agent, manifests) = (served.gateway(), served.world.manifests("us-central1-a"));
    let (other, refused) = (ServiceSpec::new("other", 2), ServiceSpec::new("another", 3));
    let all = served.pods();
    manifests.add_service(&other).unwrap();
    wait("the other service", || served.is_served_by(&other, &all));
    let told = |what: &str| {
        let is_told = |status: &Value| status["failure"].as_str().is_some_and(|told| told.contains(what));
        wait_for_status(agent, what, is_told);
    };
    // Were it for the name alone, it would come first.
    manifests.add_service(&refused).unwrap();
    told("SLOTS is full");

    let load = served.load(NEW_ONLY);
    wait_for_requests(&load, 20);
    let capacity = |from: &str, to: &str| {
        let text = fs::read_to_string(agent.configuration()).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(agent.configuration(), text.replace(from, to)).unwrap();
    };
    // What an agent does then, `plan` shows.
    let pod = served.world.pods()[0].name();
    restart(agent, || {
        manifests.set(pod, Condition::NotReady).unwrap();
        let plan = agent.ask(&["plan"]).unwrap();
        assert!(plan["refused"].as_str().unwrap().contains("SLOTS is full"), "{plan:#}");
        let actions = plan["actions"].as_array().unwrap().iter();
        assert!(actions.clone().any(|action| action["action"] == "switch ring"), "{plan:#}");
        assert!(actions.clone().all(|action| action["action"] != "publish service"), "{plan:#}");
        manifests.set(pod, Condition::Ready).unwrap();
    });
    agent.wait_until_ready(PATIENCE).unwrap();
    let pins = Path::new(PINS).join(agent.instance());
    let another_version = || fs::rename(pins.join("v4"), pins.join("v0")).unwrap();
    let larger = || {
        capacity("slots: 4600", "slots: 5000");
        let plan = agent.ask(&["plan"]).unwrap();
        let notes = plan["notes"].as_array().unwrap();
        assert!(
            notes.iter().any(|note| note.as_str().unwrap().contains("makes the tables anew")),
            "{plan:#}"
        );
    };
    for change in [&larger as &dyn Fn(), &another_version] {
        restart(agent, change);
        agent.wait_until_ready(PATIENCE).unwrap();
        told("SLOTS is full");
        for service in [&served.service, &other] {
            assert!(served.is_served_by(service, &all), "{}", service.name);
        }
        assert_unserved(&served, &refused);
    }

    // With room for one alone, they stay as large as they are; those of another version, too.
    let smaller = || {
        capacity("slots: 5000", "slots: 3100");
        capacity("services: 18", "services: 12");
    };
    for change in [&smaller as &dyn Fn(), &another_version] {
        restart(agent, change);
        agent.wait_until_ready(PATIENCE).unwrap();
        told("SLOTS is full");
        for service in [&served.service, &other] {
            assert!(served.is_served_by(service, &all), "{}", service.name);
        }
        let status = agent.ask(&["status"]).unwrap();
        let slots = status["maps"].as_array().unwrap().iter().find(|map| map["map"] == "SLOTS").unwrap();
        assert_eq!(slots["capacity"], 5000);
    }
    // Who wants to serve less has to say so.
    manifests.remove_service(&other.name).unwrap();
    manifests.remove_service(&refused.name).unwrap();
    wait_for_status(agent, "no failure", |status| status["failure"] == Value::Null);
    wait_for_requests(&load, 20);
    assert_nothing_failed(load);
    assert!(served.is_served_by(&served.service, &all));
}

#[test]
fn a_node_that_boots_with_a_service_too_many_serves_the_others() {
    let federation = Federation::default().capacity("services", 18).capacity("slots", 4_600);
    let plan = Plan::default().region("us-central1", &["a"], 10);
    let (web, more) = (ServiceSpec::new("web", 1), [("a", 2), ("b", 3)].map(|(n, i)| ServiceSpec::new(n, i)));
    let served = Served::with(&plan, &federation, more[0].clone(), |world| {
        more.iter().chain([&web]).for_each(|service| world.add_service(service).unwrap());
    });
    served.wait_until_served();
    let all = served.pods();
    let as_it_should = || {
        wait("the first two", || more.iter().all(|service| served.is_served_by(service, &all)));
        assert_unserved(&served, &web);
    };
    as_it_should();
    restart(served.gateway(), || served.gateway().remove_pins().unwrap());
    as_it_should();
}

/// Whether `fairlead plan` finds that nothing is missing: all that the manifests say now is installed.
fn has_all(agent: &Agent) -> bool {
    let plan = agent.ask(&["plan"]).unwrap();
    let is_deletion = |action: &Value| {
        let name = action["action"].as_str().unwrap();
        name.starts_with("clear") || name.starts_with("remove")
    };
    plan["refused"] == Value::Null && plan["actions"].as_array().unwrap().iter().all(is_deletion)
}
