//! What events are played on: two regions, and a service whose connections shall survive.
//!
//! The first region has three gateways behind ECMP, and three clients; its first cluster serves them. The second region has
//! two gateways, a client, and a cluster of its own. What is done to it, [`Stage::mend`] undoes.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use fairlead::dataplane::{Instance, View};
use fairlead_abi::{Backend, Bucket};
use nix::sys::signal::Signal;

use super::fleet::elsewhere;
use super::logs::Logs;
use crate::client::{self, Client};
use crate::load::Target;
use crate::world::{
    ADMIN, Agent, Agents, ClusterPlan, Condition, Federation, Plan, RegionPlan, Servers, ServiceSpec, World,
    bpf_elf, other_elf,
};

/// The region whose clients are in danger.
pub(super) const HOME: &str = "us-central1";
/// The other one.
pub(super) const ABROAD: &str = "europe-west1";
/// The cluster that serves the region's clients.
pub(super) const NEAR: &str = "us-central1-a";
/// The cluster that serves them when that one doesn't.
const NEXT: &str = "us-central1-b";
/// The nodes of [`NEAR`].
pub(super) const NEAR_NODES: [&str; 2] = ["node-us-central1-a-1", "node-us-central1-a-2"];
/// Of the region, in the order in which the router has them.
pub(super) const GATEWAYS: [&str; 3] =
    ["gateway-us-central1-1", "gateway-us-central1-2", "gateway-us-central1-3"];

/// The pods of [`NEAR`] that serve, four on each node.
pub(super) const SERVING: [&str; 8] = [
    "pod-us-central1-a-1",
    "pod-us-central1-a-2",
    "pod-us-central1-a-3",
    "pod-us-central1-a-4",
    "pod-us-central1-a-7",
    "pod-us-central1-a-8",
    "pod-us-central1-a-9",
    "pod-us-central1-a-10",
];
/// Those that are ready to be added, two on each node. With all of them the ring has another size.
pub(super) const SPARE: [&str; 4] =
    ["pod-us-central1-a-5", "pod-us-central1-a-6", "pod-us-central1-a-11", "pod-us-central1-a-12"];

/// The service's name.
const SERVICE: &str = "lasting";

/// What tells the router that a gateway is dead: BFD at 50 ms × 3. The world plays that.
const ROUTER_NOTICES: Duration = Duration::from_millis(150);

/// No gateway changes its tables for so long: longer than probes take to find what died or came back, and than a
/// step of a shard that is let in.
const CALM: Duration = Duration::from_millis(1_200);

/// How long anything may take to come about.
const WITHIN: Duration = Duration::from_secs(30);

/// Flows that a gateway has asked receivers for.
const ASKED: &str = "fairlead_asks_total{what=\"asked\"}";

/// The world and its agents.
pub(super) struct Stage {
    /// Before the world, which they live in.
    agents: Agents,
    pub(super) world: World,
}

impl Stage {
    /// Builds the world and starts all agents.
    pub(super) fn build() -> Result<Self> {
        let elf = bpf_elf()?;
        let world = World::build(&plan())?;
        world.manifests(NEAR).set_exactly(&SERVING)?;
        world.add_service(&service())?;
        for client in world.clients() {
            give_second_address(&world, client)?;
        }
        world.attach_pass(&elf, &world.sites())?;
        let agents = Agents::start(&world, &federation())?;
        let stage = Self { agents, world };
        stage.wait_until_calm()?;
        Ok(stage)
    }

    /// What the fleet's connections go to, and those of QUIC.
    pub(super) fn target(&self) -> Result<(Target, u16)> {
        let ServiceSpec { vips, http_port, udp_port, quic_port, .. } = service();
        let [IpAddr::V4(v4), IpAddr::V6(v6)] = vips[..] else {
            bail!("the service has one VIP of each family")
        };
        let quic_port = quic_port.context("the service has a port for QUIC")?;
        Ok((Target { v4, v6, http_port, udp_port }, quic_port))
    }

    /// What the servers have written.
    pub(super) fn logs(&self) -> Result<Logs> {
        Logs::read(self.world.pods().iter().map(|pod| (pod.name(), pod.directory())))
    }

    /// Questions that each gateway has asked since its agent's start.
    pub(super) fn asked(&self) -> BTreeMap<String, u64> {
        let count = |agent: &Agent| {
            let namespace = self.world.namespace(agent.host()).ok()?;
            let text = client::get_from(namespace, ADMIN, "/metrics").ok()?.text();
            Some(text.lines().filter(|line| line.starts_with(ASKED)).filter_map(value).sum())
        };
        self.agents.iter().map(|agent| (agent.host().to_owned(), count(agent).unwrap_or(0))).collect()
    }

    /// Waits until no gateway that runs changes its tables any more.
    pub(super) fn wait_until_calm(&self) -> Result<()> {
        let deadline = Instant::now() + WITHIN;
        let (mut since, mut before) = (Instant::now(), self.tables()?);
        while since.elapsed() < CALM {
            thread::sleep(Duration::from_millis(50));
            let now = self.tables()?;
            if now != before {
                (since, before) = (Instant::now(), now);
            }
            if Instant::now() > deadline {
                bail!("the gateways' tables don't come to rest within {WITHIN:?}: is this machine too busy?");
            }
        }
        Ok(())
    }

    /// What tells every gateway's tables from those of before.
    fn tables(&self) -> Result<Vec<(Vec<Bucket>, Vec<Backend>)>> {
        let mut tables = Vec::new();
        for gateway in &self.world.layout.gateways {
            // One that is away has none.
            let Ok(view) = View::open(&Instance::new(self.agents.of(&gateway.name).instance())) else {
                continue;
            };
            let raw = view.observe()?;
            tables.push((raw.buckets.to_vec(), raw.backends.to_vec()));
        }
        Ok(tables)
    }

    /// Has a condition of pods of [`NEAR`] stand in its manifests; pods that weren't there are added.
    pub(super) fn say(&self, pods: &[&str], condition: Condition) -> Result<()> {
        self.world.manifests(NEAR).set_many(pods, condition)
    }

    /// Takes a pod of [`NEAR`] out of the EndpointSlices; its server lives on.
    pub(super) fn deselect(&self, pod: &str) -> Result<()> {
        self.world.manifests(NEAR).remove(pod)
    }

    /// Kills a pod's server (-9).
    pub(super) fn kill_pod(&self, pod: &str) -> Result<()> {
        self.world.pod(pod).kill()
    }

    /// The region's VIP traffic goes to these gateways, which the router has in this order.
    pub(super) fn route(&self, gateways: &[&str]) -> Result<()> {
        self.world.route_vip(HOME, gateways)
    }

    /// Names of a region's gateways.
    pub(super) fn gateways_of(&self, region: &str) -> Vec<&str> {
        self.world.gateways_of(region)
    }

    /// A gateway dies as a machine does, with all that it knew; the router finds out and sends its clients to `rest`.
    pub(super) fn kill_gateway(&self, gateway: &str, rest: &[&str]) -> Result<()> {
        self.world.lose(gateway, 100)?;
        self.forget_gateway(gateway)?;
        thread::sleep(ROUTER_NOTICES);
        self.route(rest)
    }

    /// Ends a gateway's agent and takes its programs and tables away.
    pub(super) fn forget_gateway(&self, gateway: &str) -> Result<()> {
        let agent = self.agents.of(gateway);
        agent.process().kill()?;
        agent.remove_pins()
    }

    /// Removes what a gateway's agent has on disk.
    pub(super) fn forget_state(&self, gateway: &str) -> Result<()> {
        let state = self.agents.of(gateway).configuration().with_file_name("state");
        fs::remove_dir_all(&state).with_context(|| format!("remove {}", state.display()))
    }

    /// A gateway that was away serves again, and the router has `all`.
    pub(super) fn return_gateway(&self, gateway: &str, all: &[&str]) -> Result<()> {
        self.world.lose(gateway, 0)?;
        self.start_agents(&[gateway])?;
        self.route(all)
    }

    /// Empties the table in which all gateways of the region remember where flows are.
    pub(super) fn wipe_caches(&self) -> Result<()> {
        GATEWAYS.iter().try_for_each(|gateway| self.agents.of(gateway).wipe_cache())
    }

    /// Kills the agents of these hosts (-9); their programs go on.
    pub(super) fn kill_agents(&self, hosts: &[&str]) -> Result<()> {
        hosts.iter().try_for_each(|host| self.agents.of(host).process().kill())
    }

    /// Starts those of these hosts' agents that don't run, and waits until they serve.
    pub(super) fn start_agents(&self, hosts: &[&str]) -> Result<()> {
        let agents: Vec<_> = hosts.iter().map(|host| self.agents.of(host)).collect();
        for agent in &agents {
            if !agent.process().is_running() {
                agent.process().start_again()?;
            }
        }
        agents.iter().try_for_each(|agent| agent.wait_until_ready(WITHIN))
    }

    /// Ends every agent and starts it again with the BPF programs that log, or with its own.
    pub(super) fn upgrade(&self, to_other: bool) -> Result<()> {
        let elf = if to_other { Some(other_elf()?) } else { None };
        for agent in self.agents.iter() {
            agent.replace_programs(elf.as_deref());
            agent.process().signal(Signal::SIGTERM)?;
        }
        self.agents.iter().try_for_each(|agent| agent.process().wait(WITHIN).map(drop))?;
        self.start_agents(&self.hosts())
    }

    /// From now on, or no longer, a gateway's probes to a node vanish.
    pub(super) fn lose_probes(&self, gateway: &str, node: &str, lost: bool) -> Result<()> {
        self.world.lose_probes(gateway, node, lost)
    }

    /// From now on, or no longer, a gateway hears nothing of what changes in the clusters.
    pub(super) fn stop_updates(&self, gateway: &str, stopped: bool) -> Result<()> {
        for cluster in &self.world.layout.clusters {
            let manifests = self.world.manifests(&cluster.name);
            if stopped { manifests.stop_updates(gateway)? } else { manifests.resume_updates(gateway)? }
        }
        Ok(())
    }

    /// Undoes whatever was done.
    pub(super) fn mend(&self) -> Result<()> {
        for gateway in GATEWAYS {
            self.stop_updates(gateway, false)?;
            self.lose_probes(gateway, NEAR_NODES[0], false)?;
            self.world.lose(gateway, 0)?;
        }
        for pod in self.world.pods().iter().filter(|pod| !pod.is_running()) {
            pod.start_again()?;
        }
        self.world.manifests(NEAR).set_exactly(&SERVING)?;
        self.start_agents(&self.hosts())?;
        self.wait_until_calm()?;
        self.route(&GATEWAYS)
    }

    fn hosts(&self) -> Vec<&str> {
        self.agents.iter().map(Agent::host).collect()
    }
}

/// The value of a metric's line; a sample without one counts nothing.
fn value(line: &str) -> Option<u64> {
    line.rsplit(' ').next()?.parse().ok()
}

/// So that a client can move to another address.
fn give_second_address(world: &World, client: &Client) -> Result<()> {
    let [first, _] = client.addresses().map(|address| address.to_string());
    let second = format!("{}/32", elsewhere(client.addresses()[0]));
    client.namespace.command("ip", &["address", "add", &second, "dev", "eth0"])?;
    world.router.namespace.command("ip", &["route", "add", &second, "via", &first]).map(drop)
}

fn service() -> ServiceSpec {
    ServiceSpec::new(SERVICE, 1).quic()
}

fn plan() -> Plan {
    let cluster =
        |name: &str, nodes, pods_per_node| ClusterPlan { name: name.to_owned(), nodes, pods_per_node };
    let home = RegionPlan {
        name: HOME.to_owned(),
        gateways: GATEWAYS.len(),
        clients: 3,
        clusters: vec![cluster(NEAR, NEAR_NODES.len(), 6), cluster(NEXT, 1, 3)],
    };
    let abroad = RegionPlan {
        name: ABROAD.to_owned(),
        gateways: 2,
        clients: 1,
        clusters: vec![cluster("europe-west1-b", 1, 3)],
    };
    Plan { regions: vec![home, abroad], servers: Servers::Lasting, ..Plan::default() }
}

fn federation() -> Federation {
    Federation {
        copies_for: GATEWAYS.map(str::to_owned).to_vec(),
        more: "planner:\n  returnDuration: 1s\n".to_owned(),
        ..Federation::default()
    }
    .capacity("flows", 65_536)
    // As nodes have it: a SYN-ACK whose entry a flood has pushed out leaves in the pod's own name.
    .capacity("halfOpen", 65_536)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_is_there() {
        let layout = plan().layout().unwrap();
        let gateways: Vec<_> = layout.gateways.iter().map(|host| host.name.as_str()).collect();
        assert!(gateways.starts_with(&GATEWAYS));
        let of = |node: &str| {
            let on = |pod: &&&str| {
                let seat = layout.pods.iter().find(|seat| seat.name == ***pod).unwrap();
                layout.nodes[seat.node].host.name == node
            };
            (SERVING.iter().filter(on).count(), SPARE.iter().filter(on).count())
        };
        assert_eq!(NEAR_NODES.map(of), [(4, 2), (4, 2)]);
    }

    #[test]
    fn values_of_metrics() {
        assert_eq!(value("fairlead_asked_total{to=\"a\"} 12"), Some(12));
        assert_eq!(value("fairlead_asked_total"), None);
    }
}
