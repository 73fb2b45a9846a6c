//! What the story is played on: the world, its agents, and what has been taken away at the moment.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::place::Map;
use super::promises::Expected;
use crate::client::Client;
use crate::load::Target;
use crate::world::{Agents, Condition, Federation, Plan, ServiceSpec, World, bpf_elf};

/// The service's name.
pub(super) const SERVICE: &str = "web";

/// How long a shard that comes back takes to its full share.
pub(super) const RETURN: Duration = Duration::from_secs(2);

/// What tells the router that a link is dead: BFD at 50 ms × 3. The world plays that.
const ROUTER_NOTICES: Duration = Duration::from_millis(150);

/// The world of the demo.
pub(super) struct Stage {
    /// Before the world, which they live in.
    pub(super) agents: Agents,
    pub(super) world: World,
    map: Map,
    taken: Mutex<Taken>,
}

/// What is away, whoever took it.
#[derive(Debug, Default)]
struct Taken {
    /// Pods that can't answer.
    pods: BTreeSet<String>,
    /// Zones whose endpoints should not be chosen.
    zones: BTreeSet<String>,
    /// Zones that have less room than is asked of them: the next ones serve too.
    full: BTreeSet<String>,
}

impl Stage {
    /// Builds the world, gives every cluster a shard of the service, and starts all agents.
    pub(super) fn build() -> Result<Self> {
        let elf = bpf_elf()?;
        let federation = Federation {
            more: format!("planner:\n  returnDuration: {}ms\n", RETURN.as_millis()),
            ..Federation::default()
        };
        let world = World::build(&Plan::three_regions())?;
        world.add_service(&ServiceSpec::new(SERVICE, 1))?;
        world.attach_pass(&elf, &world.sites())?;
        let map = Map::new(&world.layout, &federation);
        let agents = Agents::start(&world, &federation)?;
        Ok(Self { world, agents, map, taken: Mutex::default() })
    }

    /// What the load asks.
    pub(super) fn target(&self) -> Result<Target> {
        let ServiceSpec { vips, http_port, udp_port, .. } = ServiceSpec::new(SERVICE, 1);
        let [IpAddr::V4(v4), IpAddr::V6(v6)] = vips[..] else {
            bail!("the demo's service has one VIP of each family");
        };
        Ok(Target { v4, v6, http_port, udp_port })
    }

    /// The zones that should serve each client now.
    pub(super) fn expected(&self) -> Result<Expected> {
        let taken = self.taken();
        let mut expected = BTreeMap::new();
        for client in self.world.clients() {
            let region = self.entry_region(client.name())?;
            let mut zones = self.map.closest(&region, &taken.zones);
            if !zones.is_disjoint(&taken.full) {
                let beyond = taken.zones.union(&zones).cloned().collect();
                zones.extend(self.map.closest(&region, &beyond));
            }
            expected.insert(client.name().to_owned(), zones);
        }
        Ok(expected)
    }

    /// The gateway that a client's packets go to.
    pub(super) fn entry(&self, client: &str) -> Result<String> {
        self.world.router.entry(client).into_iter().next().with_context(|| format!("{client} has no gateway"))
    }

    fn entry_region(&self, client: &str) -> Result<String> {
        let entry = self.entry(client)?;
        let gateway = self.world.layout.gateways.iter().find(|host| host.name == entry);
        Ok(gateway.with_context(|| format!("no gateway {entry}"))?.region.clone())
    }

    /// Whether a pod could answer now: it is not what was taken away.
    pub(super) fn is_up(&self, pod: &str) -> bool {
        !self.taken().pods.contains(pod)
    }

    /// Kills one pod's servers.
    pub(super) fn kill_pod(&self, pod: &str) -> Result<()> {
        self.taken().pods.insert(pod.to_owned());
        self.world.pod(pod).kill()
    }

    /// Starts one pod's servers again.
    pub(super) fn start_pod(&self, pod: &str) -> Result<()> {
        self.world.pod(pod).start_again()?;
        self.taken().pods.remove(pod);
        Ok(())
    }

    /// Kills the servers of all pods of a cluster, which is a zone's only one.
    pub(super) fn kill_cluster(&self, cluster: &str) -> Result<()> {
        self.lose(&[cluster], true);
        self.world.pods_of(cluster).try_for_each(|pod| pod.kill())
    }

    /// Starts them again.
    pub(super) fn start_cluster(&self, cluster: &str) -> Result<()> {
        self.world.pods_of(cluster).try_for_each(|pod| pod.start_again())?;
        self.find(&[cluster]);
        Ok(())
    }

    /// Cuts the links of all nodes of a zone.
    pub(super) fn cut_zone(&self, zone: &str) -> Result<()> {
        self.lose(&[zone], true);
        self.world.cut(zone)
    }

    /// Brings them back.
    pub(super) fn restore_zone(&self, zone: &str) -> Result<()> {
        self.world.restore(zone)?;
        self.find(&[zone]);
        Ok(())
    }

    /// Cuts the links of a region's gateway and nodes; the router notices and sends its clients to `next`.
    pub(super) fn cut_region(&self, region: &str, next: &str) -> Result<()> {
        self.lose(&self.zones(region), true);
        self.world.cut(region)?;
        thread::sleep(ROUTER_NOTICES);
        self.world.route_vip(region, &self.world.gateways_of(next))
    }

    /// Brings them back. The region's gateway gets its clients back once it serves again.
    pub(super) fn restore_region(&self, region: &str) -> Result<()> {
        self.world.restore(region)?;
        let gateways = self.world.gateways_of(region);
        for gateway in &gateways {
            self.agents.of(gateway).wait_until_ready(Duration::from_secs(10))?;
        }
        self.find(&self.zones(region));
        self.world.route_vip(region, &gateways)
    }

    /// Says in the manifest that one pod is being deleted; its servers run on.
    pub(super) fn drain_pod(&self, pod: &str) -> Result<()> {
        self.world.manifests(&self.world.pod(pod).cluster).set(pod, Condition::Terminating)
    }

    /// Says that it is ready again.
    pub(super) fn undrain_pod(&self, pod: &str) -> Result<()> {
        self.world.manifests(&self.world.pod(pod).cluster).set(pod, Condition::Ready)
    }

    /// Says in the manifests that these zones' pods are being deleted; the servers run on.
    pub(super) fn drain(&self, zones: &[&str]) -> Result<()> {
        self.lose(zones, false);
        zones.iter().try_for_each(|zone| self.world.manifests(zone).set_all(Condition::Terminating))
    }

    /// Says that they are ready again.
    pub(super) fn undrain(&self, zones: &[&str]) -> Result<()> {
        self.find(zones);
        zones.iter().try_for_each(|zone| self.world.manifests(zone).set_all(Condition::Ready))
    }

    /// Says in the manifests what a zone's shard can take: new connections per second of each endpoint.
    pub(super) fn set_capacity(&self, zone: &str, per_endpoint: Option<u32>) -> Result<()> {
        let mut taken = self.taken();
        match per_endpoint {
            Some(_) => taken.full.insert(zone.to_owned()),
            None => taken.full.remove(zone),
        };
        drop(taken);
        let value = per_endpoint.map(|number| number.to_string());
        self.world.manifests(zone).annotate(SERVICE, CAPACITY, value.as_deref())
    }

    /// Kills the agent of a zone's node and takes its programs off the link, so that nobody puts them back.
    pub(super) fn lose_receiver(&self, zone: &str) -> Result<()> {
        self.lose(&[zone], true);
        let agent = self.agents.of(self.node(zone)?);
        agent.process().kill()?;
        agent.remove_pins()
    }

    /// Starts that agent again.
    pub(super) fn restore_receiver(&self, zone: &str) -> Result<()> {
        let agent = self.agents.of(self.node(zone)?);
        agent.process().start_again()?;
        agent.wait_until_ready(Duration::from_secs(10))?;
        self.find(&[zone]);
        Ok(())
    }

    /// Kills every agent of the federation.
    pub(super) fn kill_agents(&self) -> Result<()> {
        self.agents.iter().try_for_each(|agent| agent.process().kill())
    }

    /// Starts them again.
    pub(super) fn start_agents(&self) -> Result<()> {
        self.agents.iter().try_for_each(|agent| agent.process().start_again())?;
        self.agents.iter().try_for_each(|agent| agent.wait_until_ready(Duration::from_secs(20)))
    }

    /// Ends every agent and starts it again with the BPF programs of `elf`, or its own; says which tags they have.
    pub(super) fn replace_programs(&self, elf: Option<&Path>) -> Result<String> {
        let gateway = self.agents.of(&self.entry(self.world.clients()[0].name())?);
        let before = gateway.program_tag()?;
        for agent in self.agents.iter() {
            agent.replace_programs(elf);
            agent.process().signal(Signal::SIGTERM)?;
        }
        self.agents.iter().try_for_each(|agent| agent.process().wait(Duration::from_secs(10)).map(drop))?;
        self.start_agents()?;
        let now = gateway.program_tag()?;
        if now == before {
            bail!("the programs were replaced, and yet their tag is still {now}");
        }
        Ok(format!("the kernel's tag of the program on each NIC: {before}, now {now}"))
    }

    /// Waits until the story can begin: every gateway has found every endpoint good and let all shards in, and every
    /// client is served by the zones that should.
    pub(super) fn wait_until_served(&self, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        for client in self.world.clients() {
            while !self.is_settled(client)? {
                if Instant::now() > deadline {
                    bail!("the agents don't come to rest within {within:?}: is this machine too busy?");
                }
                thread::sleep(Duration::from_millis(50));
            }
        }
        let expected = self.expected()?;
        let target = self.target()?;
        for client in self.world.clients() {
            for vip in [format!("{}", target.v4), format!("[{}]", target.v6)] {
                let url = format!("http://{vip}:{}/", target.http_port);
                loop {
                    let answer = client.get(&url);
                    let zone = |text: &str| text.strip_prefix("zone=")?.split(' ').next().map(str::to_owned);
                    let served = answer.as_ref().ok().and_then(|answer| zone(&answer.text()));
                    if served.is_some_and(|zone| expected[client.name()].contains(&zone)) {
                        break;
                    }
                    if Instant::now() > deadline {
                        bail!(
                            "{} is not served from {:?}: {answer:?}",
                            client.name(),
                            expected[client.name()]
                        );
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether the gateway of `client` uses every endpoint, and no shard is on its way back.
    fn is_settled(&self, client: &Client) -> Result<bool> {
        let gateway = self.agents.of(&self.entry(client.name())?);
        let target = self.target()?;
        let [v4, v6] = client.addresses();
        for (from, vip) in [(v4, target.v4.into()), (v6, IpAddr::from(target.v6))] {
            let vip = SocketAddr::new(vip, target.http_port).to_string();
            let explained = gateway.ask(&["explain", &from.to_string(), &vip])?;
            let shards = explained["shards"].as_array().context("explain names no shards")?;
            let clusters = self.world.layout.clusters.len();
            let settled = |shard: &Value| {
                shard["usable"] == shard["endpoints"]
                    && (shard["state"] == "serving" || shard["state"] == "standby")
            };
            if shards.len() != clusters || !shards.iter().all(settled) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Names of a region's zones.
    pub(super) fn zones(&self, region: &str) -> Vec<&str> {
        let clusters = self.world.layout.clusters.iter().filter(|cluster| cluster.region == region);
        clusters.map(|cluster| cluster.zone.as_str()).collect()
    }

    fn node(&self, zone: &str) -> Result<&str> {
        let node = self.world.layout.nodes.iter().find(|node| node.cluster == zone);
        Ok(&node.with_context(|| format!("no node in {zone}"))?.host.name)
    }

    /// `down`: their pods can't answer either.
    fn lose(&self, zones: &[&str], down: bool) {
        let mut taken = self.taken();
        for zone in zones {
            taken.zones.insert((*zone).to_owned());
            if down {
                taken.pods.extend(self.world.pods_of(zone).map(|pod| pod.name().to_owned()));
            }
        }
    }

    fn find(&self, zones: &[&str]) {
        let mut taken = self.taken();
        for zone in zones {
            taken.zones.remove(*zone);
            for pod in self.world.pods_of(zone) {
                taken.pods.remove(pod.name());
            }
        }
    }

    fn taken(&self) -> std::sync::MutexGuard<'_, Taken> {
        self.taken.lock().expect("never poisoned: nothing panics under it")
    }
}

/// Annotation of a shard's capacity.
const CAPACITY: &str = "fairlead.io/capacity-per-endpoint";
