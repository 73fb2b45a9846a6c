//! Tables that are too small for what is wanted: that is refused as a whole and told, and what serves goes on serving.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use fairlead_tests::world::{Agent, Condition, Federation, PINS, Plan, ServiceSpec, bpf_elf};
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
    let others_serve = || served.is_served_by(&served.service, &all) && served.is_served_by(&last, &all);
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
    wait("the other pods alone", || served.is_served_by(&served.service, &living));
    dead.start_again().unwrap();
    wait("all pods", others_serve);
    manifests.remove_service(&refused.name).unwrap();
    wait_for_status(agent, "no failure", |status| status["failure"] == Value::Null);
    wait("all pods", others_serve);
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
fn full_tables_are_replaced_only_by_such_that_serve_as_much() {
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
    let another_version = || fs::rename(pins.join("v1"), pins.join("v0")).unwrap();
    for change in [&(|| capacity("slots: 4600", "slots: 5000")) as &dyn Fn(), &another_version] {
        restart(agent, change);
        agent.wait_until_ready(PATIENCE).unwrap();
        told("SLOTS is full");
        for service in [&served.service, &other] {
            assert!(served.is_served_by(service, &all), "{}", service.name);
        }
        assert_unserved(&served, &refused);
    }

    // With room for one alone, the tables before stay, through another start too.
    restart(agent, || {
        capacity("slots: 5000", "slots: 3100");
        capacity("services: 18", "services: 12");
    });
    told("less would be served than by the programs and tables in use, so these stay");
    restart(agent, || {});
    told("less would be served than by the programs and tables in use, so these stay");
    // So do those of another version, which `status` can't read.
    for change in [&another_version as &dyn Fn(), &|| {}] {
        restart(agent, change);
        wait("word of the tables that stay", || {
            let status = agent.ask_in_vain(&["status"]).unwrap_or_default();
            status["failure"].as_str().is_some_and(|told| told.contains("in use, so these stay"))
        });
    }
    assert!(!agent.is_ready());
    for service in [&served.service, &other] {
        assert!(served.is_served_by(service, &all), "{}", service.name);
    }
    // As soon as it serves as much, it takes over.
    manifests.remove_service(&other.name).unwrap();
    manifests.remove_service(&refused.name).unwrap();
    agent.wait_until_ready(PATIENCE).unwrap();
    wait_for_requests(&load, 20);
    assert_nothing_failed(load);
    assert!(served.is_served_by(&served.service, &all));
    wait_for_status(agent, "no failure", |status| status["failure"] == Value::Null);
}

/// Two services whose gateway starts again after `change`, with room for one of them.
fn served_by_tables_that_stay(change: impl Fn(&Agent)) -> (Served, ServiceSpec) {
    let federation = Federation::default().capacity("services", 18).capacity("slots", 4_600);
    let served = Served::build(&Plan::default().region("us-central1", &["a"], 10), &federation);
    served.wait_until_served();
    let other = ServiceSpec::new("other", 2);
    served.world.manifests("us-central1-a").add_service(&other).unwrap();
    wait("the other service", || served.is_served_by(&other, &served.pods()));
    let agent = served.gateway();
    restart(agent, || {
        let text = fs::read_to_string(agent.configuration()).unwrap();
        let text = text.replace("slots: 4600", "slots: 3100").replace("services: 18", "services: 12");
        fs::write(agent.configuration(), text).unwrap();
        change(agent);
    });
    wait("word of the tables that stay", || told_in_state(agent).contains("in use, so these stay"));
    (served, other)
}

/// What the agent says, also where its tables can't be read.
fn told_in_state(agent: &Agent) -> String {
    fs::read_to_string(agent.configuration().with_file_name("state").join("status.json")).unwrap()
}

#[test]
fn tables_that_stay_are_left_when_most_of_their_endpoints_are_gone() {
    let (served, other) = served_by_tables_that_stay(|_| {});
    let (agent, manifests) = (served.gateway(), served.world.manifests("us-central1-a"));
    let all = served.pods();
    for pod in &served.world.pods()[..4] {
        manifests.set(pod.name(), Condition::NotReady).unwrap();
    }
    wait("word of the endpoints", || told_in_state(agent).contains("not_ready"));
    assert!(!agent.is_ready());
    assert!(served.is_served_by(&served.service, &all) && served.is_served_by(&other, &all));
    for pod in &served.world.pods()[4..6] {
        manifests.set(pod.name(), Condition::NotReady).unwrap();
    }
    agent.wait_until_ready(PATIENCE).unwrap();
    let left = served.world.pods()[6..].iter().map(|pod| pod.name().to_owned()).collect();
    wait("the other pods", || served.is_served_by(&other, &left));
    assert_unserved(&served, &served.service);
}

#[test]
fn tables_that_stay_are_left_when_their_interface_is_another() {
    let (served, other) = served_by_tables_that_stay(|agent| {
        let pins = Path::new(PINS).join(agent.instance());
        fs::rename(pins.join("v1"), pins.join("v0")).unwrap();
    });
    // Until then nothing can be probed by way of them: what was known of endpoints counts.
    let agent = served.gateway();
    std::thread::sleep(Duration::from_secs(2));
    let told = told_in_state(agent);
    assert!(told.contains("\"taken\"") && !told.contains("panic") && !told.contains("probes_fail"), "{told}");
    served.world.namespace(agent.host()).unwrap().ip(&["link del dev eth0".to_owned()]).unwrap();
    served.world.remake_link(agent.host()).unwrap();
    served.world.attach_pass(&bpf_elf().unwrap(), &[agent.host()]).unwrap();
    agent.wait_until_ready(PATIENCE).unwrap();
    wait("all pods", || served.is_served_by(&other, &served.pods()));
    // Now they are.
    served.world.pods()[0].kill().unwrap();
    wait("word of the pod's death", || told_in_state(agent).contains("probes_fail"));
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
