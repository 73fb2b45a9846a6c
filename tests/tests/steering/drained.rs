//! `fairlead drain`: what is drained keeps its connections and gets no new ones, until that is undone.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use fairlead_tests::world::{Agent, Federation, Plan, Process, own_program};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::served::{PATIENCE, Served, pod_of, wait};

/// Receivers count every 5 s, and a flow counts for a minute after its end.
const COUNTED: Duration = Duration::from_secs(120);

/// A connection on which one request follows the other.
pub struct Kept {
    stream: BufReader<TcpStream>,
    /// Who answered first.
    pub pod: String,
}

impl Kept {
    pub fn open(served: &Served, vip: IpAddr) -> Self {
        let address = SocketAddr::new(vip, served.service.http_port);
        Self::of(served.client().namespace.run(|| Ok(TcpStream::connect(address)?)).unwrap())
    }

    /// Of a connection that was opened just now.
    pub fn of(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut kept = Self { stream: BufReader::new(stream), pod: String::new() };
        kept.pod = kept.ask();
        kept
    }

    /// Who answers.
    pub fn ask(&mut self) -> String {
        self.stream.get_mut().write_all(b"GET / HTTP/1.1\r\nHost: vip\r\n\r\n").unwrap();
        let (mut line, mut length) = (String::new(), 0);
        while line != "\r\n" {
            line.clear();
            assert!(self.stream.read_line(&mut line).unwrap() > 0, "the connection is closed");
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).unwrap();
        pod_of(&String::from_utf8(body).unwrap())
    }

    fn client(&self) -> String {
        self.stream.get_ref().local_addr().unwrap().to_string()
    }
}

/// `fairlead drain … --wait` as a process of its own, and what it prints.
struct Waiting {
    process: Process,
    printed: PathBuf,
}

impl Waiting {
    fn start(served: &Served, drain: &[&str]) -> Self {
        let agent = served.gateway();
        let configuration = agent.configuration().display().to_string();
        let printed = agent.configuration().with_file_name("waited");
        let process = Process::start(
            "fairlead drain",
            served.world.namespace(agent.host()).unwrap(),
            &own_program("fairlead", "FAIRLEAD_BIN").unwrap(),
            &[drain, &["--wait", "--config", &configuration]].concat(),
            &printed,
        )
        .unwrap();
        Self { process, printed }
    }

    fn says(&self, words: &str) -> bool {
        fs::read_to_string(&self.printed).unwrap().contains(words)
    }

    fn wait_for(&self, words: &str) {
        let deadline = std::time::Instant::now() + COUNTED;
        while !self.says(words) {
            let told = fs::read_to_string(&self.printed).unwrap();
            assert!(
                std::time::Instant::now() < deadline && self.process.is_running(),
                "no {words:?}: {told}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

pub fn drain(agent: &Agent, arguments: &[&str]) -> String {
    let configuration = agent.configuration().display().to_string();
    agent.fairlead(&[&["drain"], arguments, &["--config", &configuration]].concat()).unwrap()
}

#[test]
fn a_drained_pod_keeps_its_connections_until_they_end_and_comes_back() {
    let served = Served::build(&Plan::small(), &Federation::default());
    served.wait_until_served();
    let agent = served.gateway();
    let mut kept: Vec<Kept> = served.service.vips.iter().map(|&vip| Kept::open(&served, vip)).collect();
    let pod = kept[0].pod.clone();
    while kept[1].pod != pod {
        kept[1] = Kept::open(&served, served.service.vips[1]);
    }
    let others: BTreeSet<String> = served.pods().into_iter().filter(|other| *other != pod).collect();

    let mut waiting = Waiting::start(&served, &["drain", "pod", &pod]);
    served.wait_until_served_by(&[&served.service], &others);
    waiting.wait_for("takes no new connections");
    waiting.wait_for("left on 1 pod");
    assert!(kept.iter_mut().all(|kept| kept.ask() == pod), "they stay");

    // Its slots have other backends now, which don't know the connections that it has.
    for (kept, &vip) in kept.iter_mut().zip(&served.service.vips) {
        let to = SocketAddr::new(vip, served.service.http_port).to_string();
        let told = agent.ask(&["explain", &kept.client(), &to]).unwrap();
        assert!(told["backend"]["pod"] != pod.as_str(), "{told:#}");
        assert!(told["formers"][0]["pod"] == pod.as_str(), "{told:#}");
        assert_eq!(told["ways"][0]["tries"].as_array().unwrap().len(), 1, "a SYN goes to one: {told:#}");
        let last = told["ways"][1]["tries"].as_array().unwrap().last().unwrap().clone();
        assert_eq!(last["pod"], pod.as_str(), "{told:#}");
        // It was claimed.
        wait("what the flow cache says", || {
            let told = agent.ask(&["explain", &kept.client(), &to]).unwrap();
            let first = &told["ways"][1]["tries"][0];
            told["cache"]["backend"] == last["address"]
                && (&first["by"], &first["pod"]) == (&json!("guess"), &json!(pod))
        });
    }
    // The other IP version's may be counted later.
    let holds = |row: &Value| {
        let holders = row["endpoints"].as_array().unwrap();
        let of_pod = holders.iter().find(|holder| holder["pod"] == pod.as_str());
        of_pod.is_some_and(|holder| holder["flows"].as_u64() > Some(0))
    };
    wait("counts of both IP versions", || {
        let flows = agent.ask(&["flows", "203.0.113.1:80"]).unwrap();
        let flows6 = agent.ask(&["flows", "[2001:db8:f::1]:80"]).unwrap();
        holds(&flows["services"][0]) && holds(&flows6["services"][0])
    });
    assert!(kept.iter_mut().all(|kept| kept.ask() == pod), "by the flow cache");
    let flows = agent.ask(&["flows", "shop/web"]).unwrap();
    for row in flows["services"].as_array().unwrap().iter().filter(|row| row["port"] == 80) {
        assert!(row["slots"]["one_former"].as_u64() > Some(50), "{flows:#}");
        assert!(row["slots"]["cached"].as_u64() > Some(0), "{flows:#}");
    }
    assert!(flows["cache"]["flows"].as_u64() >= Some(2), "{flows:#}");
    let events = flows["events"].as_array().unwrap();
    assert!(events.iter().any(|event| event["event"] == "guess" && event["packets"].as_u64() > Some(0)));

    // Ctrl-C ends the waiting, not the drain.
    waiting.process.signal(Signal::SIGINT).unwrap();
    assert_eq!(waiting.process.wait(PATIENCE).unwrap().code(), Some(1));
    assert!(waiting.says("fairlead: interrupted: ") && waiting.says("; the drain stays"));
    assert!(drain(agent, &["pod", &pod]).contains("is drained already: "));
    waiting = Waiting::start(&served, &["drain", "pod", &pod]);
    waiting.wait_for("left on 1 pod");
    assert!(kept.iter_mut().all(|kept| kept.ask() == pod), "they stay");
    drop(kept);
    waiting.wait_for("no connection is left");
    assert!(waiting.process.wait(PATIENCE).unwrap().success());
    served.wait_until_served_by(&[&served.service], &others);

    assert!(drain(agent, &["pod", &pod, "--undo"]).contains("takes new connections again"));
    served.wait_until_served_by(&[&served.service], &served.pods());
}

#[test]
fn a_broken_drain_keeps_what_was_drained_and_nobody_waits_for_an_agent_that_does_not_run() {
    let served = Served::build(&Plan::small(), &Federation::default());
    served.wait_until_served();
    let agent = served.gateway();
    let pods: Vec<String> = served.pods().into_iter().collect();
    let left = BTreeSet::from([pods[1].clone()]);
    drain(agent, &["pod", &format!("us-central1-a/shop/{}", pods[0])]);
    served.wait_until_served_by(&[&served.service], &left);

    served.wait_for_status("the drain", |status| {
        status["clusters"][0]["drained"] == json!([format!("pod shop/{}", pods[0])])
    });
    let file = served.world.manifests("us-central1-a").directory().join("fairlead-drains.yaml");
    let good = fs::read_to_string(&file).unwrap();
    fs::write(&file, good.replace("shop/", "shop ")).unwrap();
    served.wait_for_status("the problem", |status| {
        let problems = status["problems"].to_string();
        problems.contains("ConfigMap fairlead/fairlead-drains: data.pods")
            && problems.contains("drains.yaml:4:")
    });
    assert!(served.is_served_by(&served.service, &left));
    fs::write(&file, good).unwrap();
    served.wait_for_status("no problem", |status| status["problems"].as_array().unwrap().is_empty());

    agent.process().kill().unwrap();
    let told = agent.ask_in_vain(&["drain", "pod", &pods[0], "--wait"]).unwrap();
    assert_eq!(told["drains"][0]["changed"], false, "{told:#}");
    let problem = "no agent runs here that could count connections; the drain stays";
    assert_eq!(told["wait"]["problem"], problem, "{told:#}");
    assert_eq!(told["drains"][0]["services"]["shop/web"], 1, "{told:#}");
    agent.process().start_again().unwrap();
    agent.wait_until_ready(PATIENCE).unwrap();
    assert!(served.is_served_by(&served.service, &left));
    drain(agent, &["pod", &pods[0], "--undo"]);
    wait("both pods again", || served.is_served_by(&served.service, &served.pods()));
    assert!(!file.exists());
}

#[test]
fn a_drained_zone_or_node_leaves_the_service_to_the_others_on_every_gateway() {
    let plan = Plan::default().region("us-central1", &["a", "b"], 2).gateways(2);
    let served = Served::build(&plan, &Federation::default());
    let layout = &served.world.layout;
    let pods_of = |cluster: &str| -> BTreeSet<String> {
        let of_cluster = layout.pods.iter().filter(|pod| layout.nodes[pod.node].cluster == cluster);
        of_cluster.map(|pod| pod.name.clone()).collect()
    };
    let [a, b] = &layout.clusters[..] else { panic!("two clusters") };
    // Gateways are closer to the first one.
    served.wait_until_served_by(&[&served.service], &pods_of(&a.name));
    let draining = |expected: &BTreeSet<String>| {
        wait("the same on both gateways", || {
            layout.gateways.iter().all(|gateway| {
                let told = served.agents.of(&gateway.name).ask(&["backends", "shop/web"]).unwrap();
                let ports = told["services"].as_array().unwrap().iter();
                let endpoints = ports.flat_map(|port| port["endpoints"].as_array().unwrap());
                let drained = endpoints.filter(|endpoint| endpoint["verdict"] == "draining");
                drained.map(|endpoint| endpoint["pod"].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>()
                    == *expected
            })
        });
    };
    let agent = served.gateway();
    drain(agent, &["zone", &a.zone]);
    draining(&pods_of(&a.name));
    served.wait_until_served_by(&[&served.service], &pods_of(&b.name));
    drain(agent, &["cluster", &a.name, "--undo"]);
    draining(&BTreeSet::new());
    served.wait_until_served_by(&[&served.service], &pods_of(&a.name));
    let node = layout.nodes.iter().find(|node| node.cluster == a.name).unwrap();
    drain(agent, &["node", &node.host.name]);
    draining(&pods_of(&a.name));
    served.wait_until_served_by(&[&served.service], &pods_of(&b.name));
    let told = agent.ask(&["drain", "node", &node.host.name, "--undo"]).unwrap();
    assert_eq!(told["drains"][0]["changed"], true, "{told:#}");
    served.wait_until_served_by(&[&served.service], &pods_of(&a.name));
}
