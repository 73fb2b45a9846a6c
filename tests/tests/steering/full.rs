//! Tables that are too small for what is wanted: that is refused as a whole and told, and what serves goes on serving.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use fairlead_tests::world::{Agent, Federation, Plan, ServiceSpec};
use serde_json::{Value, json};

use crate::served::{NEW_ONLY, Served, assert_nothing_failed, wait, wait_for_status};

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
    let others_serve = || served.is_served_by(&served.service, &all) && served.is_served_by(&last, &all);
    assert!(others_serve());
    assert_nothing_failed(load);
    assert!(agent.is_ready(), "a node that serves all others stays in use");
    for vip in &refused.vips {
        let address = SocketAddr::new(*vip, refused.http_port);
        assert!(
            !served.client().namespace.connects(address, Duration::from_millis(200)),
            "{address} is served"
        );
    }
    // What serves follows its endpoints all the same.
    let dead = &served.world.pods()[0];
    dead.kill().unwrap();
    let living: BTreeSet<_> = all.iter().filter(|pod| *pod != dead.name()).cloned().collect();
    wait("the other pods alone", || served.is_served_by(&served.service, &living));
    dead.start_again().unwrap();
    wait("all pods", others_serve);
    manifests.remove_service(&refused.name).unwrap();
    wait_for_status(agent, "no failure", |status| status["failure"] == Value::Null);
    wait("all pods", others_serve);
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

#[test]
fn a_gateway_too_many_in_a_changed_configuration_is_refused() {
    let served = Served::build(&Plan::small(), &Federation::default().capacity("gateways", 2));
    served.wait_until_served();
    let agent = served.node(0);
    let text = fs::read_to_string(agent.configuration()).unwrap();
    let more =
        "gateways:\n- name: another\n  region: us-central1\n  tunnel: [192.0.2.77, \"2001:db8:77::1\"]\n";
    fs::write(agent.configuration(), text.replace("gateways:\n-", &format!("{more}-"))).unwrap();
    wait_for_status(agent, "a refusal", |status| {
        status["failure"].as_str().is_some_and(|failure| failure.contains("raise capacities.gateways"))
    });
    assert_eq!(served.answering(), served.pods());
    fs::write(agent.configuration(), text).unwrap();
    wait_for_status(agent, "no failure", |status| {
        status["failure"] == Value::Null && status["refused"] == json!([])
    });
    assert_eq!(served.answering(), served.pods());
}
