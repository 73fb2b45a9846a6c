//! Agents that die, restart, and stand in each other's way.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use fairlead_abi::DropReason;
use fairlead_tests::world::{Federation, Plan, other_elf};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::served::{NEW_ONLY, PATIENCE, Served, assert_only_moves_broke, wait};

#[test]
fn forwarding_goes_on_while_agents_are_dead_and_come_back() {
    let mut served = Served::build(&Plan::small(), &Federation::default());
    served.wait_until_served();
    for agent in served.agents.iter() {
        agent.process().kill().unwrap();
    }
    assert_eq!(served.answering().len(), 2);
    for agent in served.agents.iter_mut() {
        agent.process().start_again().unwrap();
    }
    for agent in served.agents.iter() {
        agent.wait_until_ready(Duration::from_secs(30)).unwrap();
    }
    assert_eq!(served.answering().len(), 2);
}

#[test]
fn an_agent_that_comes_anew_goes_on_spilling() {
    let plan = Plan::default().region("us-central1", &["a"], 1).region("europe-west1", &["a"], 1);
    let served = Served::build(&plan, &Federation::default());
    served.wait_until_served();
    let agent = served.gateway();
    let near = served.world.manifests("us-central1-a");
    near.annotate("web", "fairlead.io/capacity-per-endpoint", Some("2")).unwrap();
    let load = served.load(NEW_ONLY);
    // Of each port's slots, by pod: the far shard has the most of them.
    let spills = || {
        let backends = agent.ask(&["backends"]).unwrap();
        let of_tcp = backends["services"].as_array().unwrap().iter().filter(|s| s["protocol"] == "tcp");
        let ports: Vec<_> = of_tcp.map(|service| service["endpoints"].as_array().unwrap().clone()).collect();
        let slots = |endpoints: &[Value], cluster: &str| {
            let here = endpoints.iter().filter(|endpoint| endpoint["cluster"] == cluster);
            here.map(|endpoint| endpoint["slots"].as_u64().unwrap()).sum::<u64>()
        };
        assert_eq!(ports.len(), 2);
        ports.iter().all(|port| slots(port, "europe-west1-a") > 4 * slots(port, "us-central1-a"))
    };
    wait("most of it to go elsewhere", spills);
    for end in [Signal::SIGTERM, Signal::SIGKILL] {
        agent.process().signal(end).unwrap();
        agent.process().wait(PATIENCE).unwrap();
        agent.process().start_again().unwrap();
        agent.wait_until_ready(PATIENCE).unwrap();
        assert!(spills(), "after {end}");
    }
    assert_only_moves_broke(load);
}

#[test]
fn programs_that_log_are_heard_in_the_agents_log() {
    let served = Served::build(&Plan::small(), &Federation::default());
    served.wait_until_served();
    let agent = served.gateway();
    let (configuration, elf) = (agent.configuration().display().to_string(), other_elf().unwrap());
    let programs = elf.display().to_string();
    agent.process().kill().unwrap();
    agent.process().replace_arguments(&[
        "run",
        "--config",
        &configuration,
        "--programs",
        &programs,
        "--log",
        "debug",
    ]);
    agent.process().start_again().unwrap();
    agent.wait_until_ready(PATIENCE).unwrap();
    let dropped = format!("dropped 66 bytes, reason {}", DropReason::PortNotServed as u32);
    let told = || agent.process().log().lines().filter(|line| line.contains(&dropped)).count();
    assert_eq!(told(), 0);
    // 14 bytes of Ethernet, 20 of IPv4, 8 of UDP.
    let unserved = SocketAddr::new(served.service.vips[0], 81);
    served.client().datagram(unserved, &[0; 24]).unwrap_err();
    wait("the drop's line", || told() > 0);
    assert_eq!(served.answering(), served.pods());
}

#[test]
fn a_hangup_ends_nothing_and_a_configuration_of_a_relative_name_is_followed() {
    let served = Served::build(&Plan::small(), &Federation::default());
    served.wait_until_served();
    let agent = served.gateway();
    let configuration = agent.configuration().to_owned();
    let up: PathBuf = std::env::current_dir().unwrap().components().skip(1).map(|_| "..").collect();
    let name = up.join(configuration.strip_prefix("/").unwrap()).display().to_string();
    agent.process().kill().unwrap();
    agent.process().replace_arguments(&["run", "--config", &name]);
    agent.process().start_again().unwrap();
    agent.wait_until_ready(PATIENCE).unwrap();
    let said = |what: &str| agent.process().log().lines().filter(|line| line.contains(what)).count();
    agent.process().signal(Signal::SIGHUP).unwrap();
    wait("the hangup's line", || said("SIGHUP: ignored") == 1);
    let text = std::fs::read_to_string(&configuration).unwrap();
    let beside = configuration.with_extension("new");
    let applied = || said("the changed configuration is applied");
    let with = |rise: u32| {
        let line = |line: &str| {
            if line.starts_with("  rise: ") { format!("  rise: {rise}\n") } else { format!("{line}\n") }
        };
        text.lines().map(line).collect::<String>()
    };
    let before = Instant::now();
    std::fs::write(&configuration, with(7)).unwrap();
    wait("a change in place", || applied() == 1);
    std::fs::write(&beside, with(8)).unwrap();
    std::fs::rename(&beside, &configuration).unwrap();
    wait("a change by renaming", || applied() == 2);
    assert!(before.elapsed() < Duration::from_secs(4), "{:?}", before.elapsed());
    assert_eq!(served.answering(), served.pods());
}

#[test]
fn a_second_agent_on_an_instance_is_refused() {
    let served = Served::build(&Plan::small(), &Federation::default());
    let agent = served.gateway();
    let config = agent.configuration().to_str().unwrap().to_owned();
    let text = std::fs::read_to_string(&config).unwrap();
    let elsewhere = format!("{config}.elsewhere.yaml");
    std::fs::write(&elsewhere, text.replace("/state\n", "/elsewhere\n")).unwrap();
    for config in [config, elsewhere] {
        let error = agent.fairlead(&["run", "--config", &config]).unwrap_err();
        assert!(format!("{error:#}").contains("is already run by another agent"), "{error:#}");
    }
}
