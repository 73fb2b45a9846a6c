//! Agents that end and start again as others: with other tables, from another version, for good.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fairlead_abi::map;
use fairlead_tests::load::Load;
use fairlead_tests::world::{Agent, Condition, Federation, PINS, Plan, Process, own_program};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::drained::Kept;
use crate::served::{NEW_ONLY, PATIENCE, Served, failures, pod_of, wait, wait_for_requests};

fn pins(agent: &Agent) -> PathBuf {
    Path::new(PINS).join(agent.instance())
}

/// What is pinned for an instance, without the maps one by one.
fn pinned(agent: &Agent) -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir(pins(agent)) else { return BTreeSet::new() };
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Ends an agent as systemd does, and changes something before it starts again.
pub fn restart(agent: &Agent, change: impl Fn()) {
    agent.process().signal(Signal::SIGTERM).unwrap();
    assert_eq!(agent.process().wait(PATIENCE).unwrap().code(), Some(0));
    change();
    agent.process().start_again().unwrap();
    agent.wait_until_ready(PATIENCE).unwrap();
}

/// Three pods, of which one is dead and known to be.
fn served_without_one() -> Served {
    let served = Served::build(&Plan::default().region("us-central1", &["a"], 3), &Federation::default());
    served.wait_until_served();
    let dead = &served.world.pods()[0];
    dead.kill().unwrap();
    wait("the other pods alone", || {
        served
            .service
            .vips
            .iter()
            .all(|&vip| (0..60).all(|_| served.ask(vip).is_ok_and(|answer| pod_of(&answer) != dead.name())))
    });
    served
}

fn assert_clean(served: &Served) {
    for agent in served.agents.iter() {
        let pinned = pinned(agent);
        let kinds: Vec<_> = pinned.iter().filter_map(|name| name.split(char::is_numeric).next()).collect();
        assert_eq!(kinds, ["link-eth", "link-eth", "programs-of-", "v"], "{}: {pinned:?}", agent.host());
        assert!(pinned.contains("v4"), "{pinned:?}");
        wait("tables as planned", || agent.ask(&["plan"]).unwrap()["actions"] == json!([]));
    }
}

/// Ends a load of which nothing failed.
fn assert_nothing_failed(load: Load) {
    let record = load.stop().unwrap();
    assert!(record.requests.len() > 80, "{} requests prove nothing", record.requests.len());
    assert_eq!(failures(&record), Vec::<String>::new());
}

#[test]
fn tables_of_other_sizes_are_built_beside_and_swapped() {
    let served = served_without_one();
    let load = served.load(NEW_ONLY);
    wait_for_requests(&load, 20);
    for agent in served.agents.iter() {
        // None of them shrinks.
        for (from, to) in [
            ("slots: 1048576", "slots: 2097152"),
            ("backends: 8192", "backends: 16384"),
            ("slots: 2097152", "slots: 131072"),
        ] {
            restart(agent, || {
                let text = fs::read_to_string(agent.configuration()).unwrap();
                assert!(text.contains(from));
                fs::write(agent.configuration(), text.replace(from, to)).unwrap();
            });
            wait_for_requests(&load, 20);
        }
        let status = agent.ask(&["status"]).unwrap();
        let capacity = |name: &str| {
            let maps = status["maps"].as_array().unwrap().iter();
            maps.filter(|map| map["map"] == name).map(|map| map["capacity"].clone()).collect::<Value>()
        };
        assert_eq!((capacity("SLOTS"), capacity("BACKENDS")), (json!([2_097_152]), json!([16_384])));
    }
    assert_clean(&served);
    assert_nothing_failed(load);
}

#[test]
fn tables_of_another_version_are_built_anew_and_the_others_removed() {
    let served = served_without_one();
    let load = served.load(NEW_ONLY);
    wait_for_requests(&load, 20);
    // An older version's, then a newer one's: upgrade and rollback. The links hold on to their maps meanwhile.
    for other in ["v0", "v5"] {
        for agent in served.agents.iter() {
            restart(agent, || fs::rename(pins(agent).join("v4"), pins(agent).join(other)).unwrap());
            wait_for_requests(&load, 20);
        }
        assert_clean(&served);
    }
    assert_nothing_failed(load);
}

#[test]
fn new_tables_remember_whom_the_others_named() {
    let served = Served::build(&Plan::default().region("us-central1", &["a"], 3), &Federation::default());
    served.wait_until_served();
    let mut kept: Vec<Kept> = served.service.vips.iter().map(|&vip| Kept::open(&served, vip)).collect();
    let manifests = served.world.manifests(&served.world.pod(&kept[0].pod).cluster);
    let holders: BTreeSet<String> = kept.iter().map(|kept| kept.pod.clone()).collect();
    holders.iter().for_each(|pod| manifests.set(pod, Condition::Terminating).unwrap());
    let others = served.pods().difference(&holders).cloned().collect();
    served.wait_until_served_by(&[&served.service], &others);

    let agent = served.gateway();
    let formers = || {
        let flows = agent.ask(&["flows", "shop/web"]).unwrap();
        let rows = flows["services"].as_array().unwrap().iter();
        rows.map(|row| row["slots"]["one_former"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    let before = formers();
    assert!(before.iter().sum::<u64>() > 100, "{before:?}");
    for (from, to, version) in [("slots: 1048576", "slots: 2097152", "v4"), ("slots", "slots", "v0")] {
        restart(agent, || {
            let text = fs::read_to_string(agent.configuration()).unwrap();
            // Nobody is asked: what slots don't know is lost.
            let silent = text.lines().filter(|line| !line.starts_with("secretsFile:"));
            let silent: String = silent.map(|line| format!("{line}\n")).collect();
            fs::write(agent.configuration(), silent.replace(from, to)).unwrap();
            fs::rename(pins(agent).join("v4"), pins(agent).join(version)).unwrap();
            if version == "v0" {
                // Of before there were ranges of clients.
                fs::remove_file(pins(agent).join(version).join(map::ALLOWED)).unwrap();
            }
        });
        assert_eq!(formers(), before);
        for kept in &mut kept {
            assert_eq!(kept.ask(), kept.pod);
        }
    }
}

#[test]
fn only_with_detach_does_an_agent_take_its_programs_along() {
    let served = Served::build(&Plan::small(), &Federation::default());
    served.wait_until_served();
    let agent = served.gateway();
    agent.process().signal(Signal::SIGTERM).unwrap();
    assert_eq!(agent.process().wait(PATIENCE).unwrap().code(), Some(0));
    assert_eq!(served.answering(), served.pods());
    assert!(!pinned(agent).is_empty());

    let namespace = served.world.namespace(agent.host()).unwrap();
    let detaching = Process::start(
        "an agent that detaches",
        namespace,
        &own_program("fairlead", "FAIRLEAD_BIN").unwrap(),
        &["run", "--detach", "--config", &agent.configuration().display().to_string()],
        &agent.configuration().with_file_name("detaching.log"),
    )
    .unwrap();
    wait("readiness", || agent.is_ready());
    assert_eq!(served.answering(), served.pods());
    detaching.signal(Signal::SIGTERM).unwrap();
    assert_eq!(detaching.wait(PATIENCE).unwrap().code(), Some(0));
    assert!(!pins(agent).exists());
    let link = || namespace.command("ip", &["-d", "link", "show", "dev", "eth0"]).unwrap();
    wait("an interface without a program", || !link().contains("prog/xdp"));
    let [vip, _] = served.service.vips[..] else { panic!("two VIPs") };
    assert!(!served.client().namespace.connects((vip, 80).into(), Duration::from_millis(300)));
    let status = agent.ask_in_vain(&["status"]).unwrap();
    assert_eq!((&status["forwards"], &status["interfaces"][0]["attached"]), (&json!(false), &json!(false)));

    // One that can't attach leaves nothing behind that it has loaded.
    let text = fs::read_to_string(agent.configuration()).unwrap();
    fs::write(agent.configuration(), text.replace("[eth0]", "[eth9]")).unwrap();
    agent.process().start_again().unwrap();
    assert_eq!(agent.process().wait(PATIENCE).unwrap().code(), Some(1));
    assert!(!pins(agent).exists(), "{}", agent.process().log());
}
