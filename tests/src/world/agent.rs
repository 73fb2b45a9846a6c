//! fairlead on the world's gateways and nodes: one configuration file and one agent for each.
//!
//! Files are written from a [`Federation`], agents are started, killed -9, started again; the command line is asked as a
//! person on that host would ask it. Each agent's instance carries the world's id, so its pins go with the world.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

#[cfg(doc)]
use super::Manifests;
use super::footprint::PINS;
use super::plan::{Host, Layout};
use super::process::{Process, own_program};
use super::{Namespace, World};
use crate::client;

/// What all agents' configuration files have in common.
#[derive(Clone, Debug)]
pub struct Federation {
    /// Seed of the flow hash.
    pub seed: u64,
    /// From one probe to the next; also a probe's time-out.
    pub probe_interval: Duration,
    /// Failures in a row that make an endpoint bad.
    pub probe_fall: u32,
    /// Good answers in a row that make it good again.
    pub probe_rise: u32,
    /// `ipip` or `gue`.
    pub encapsulation: String,
    /// `native` or `generic`.
    pub xdp_mode: String,
    /// Distances between regions.
    pub distances: Vec<(String, String, u32)>,
    /// Nodes are gateways too, by the same interface; who routes VIPs to them is up to the test.
    pub nodes_are_gateways: bool,
    /// Entries of the kernel's tables, by their name in the file.
    pub capacities: BTreeMap<&'static str, u32>,
    /// Hosts whose agents read copies of the manifests, which can fall behind: see [`Manifests::stop_updates`].
    pub copies_for: Vec<String>,
    /// By cluster: the kubeconfig of its API server, instead of manifests.
    pub kubeconfigs: BTreeMap<String, PathBuf>,
    /// More YAML, put at the end of every file: sections that stand nowhere else in it.
    pub more: String,
}

/// Small tables: a world has a dozen agents on one machine.
const CAPACITIES: [(&str, u32); 11] = [
    ("services", 256),
    ("slots", 1 << 20),
    ("backends", 8192),
    ("hops", 256),
    ("deliveries", 1024),
    ("flows", 16_384),
    ("halfOpen", 4096),
    ("cachedFlows", 4096),
    ("fragments", 1024),
    ("gateways", 64),
    ("probes", 4096),
];

impl Default for Federation {
    /// Probes of 200 ms × 3, and the distances of the demo's regions.
    fn default() -> Self {
        let distance = |a: &str, b: &str, distance| (a.to_owned(), b.to_owned(), distance);
        Self {
            seed: 0x5eed_f1a6_0042_1ead,
            probe_interval: Duration::from_millis(200),
            probe_fall: 3,
            probe_rise: 2,
            encapsulation: "ipip".to_owned(),
            xdp_mode: "native".to_owned(),
            distances: vec![
                distance("us-central1", "europe-west1", 100),
                distance("us-central1", "asia-east1", 150),
                distance("europe-west1", "asia-east1", 250),
            ],
            nodes_are_gateways: false,
            capacities: CAPACITIES.into(),
            copies_for: Vec::new(),
            kubeconfigs: BTreeMap::new(),
            more: String::new(),
        }
    }
}

impl Federation {
    /// With another capacity of one table.
    #[must_use]
    pub fn capacity(mut self, table: &'static str, entries: u32) -> Self {
        self.capacities.insert(table, entries);
        self
    }
}

/// A host's agent.
#[derive(Debug)]
pub struct Agent {
    host: String,
    namespace: Namespace,
    instance: String,
    configuration: PathBuf,
    process: Process,
}

/// What a world's agents tag their messages by.
const SECRETS: &str = "# Of a test.\n9f2c4b7d1e6a8035c4d9e2b17f60a8d35b1c9e7f42d6083ab5c7e91f20d4a6b8\n";

/// The address of every agent's metrics and readiness; loopback is each namespace's own.
pub const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9440);

impl Agent {
    /// Writes its file and starts it.
    fn start(world: &World, host: &Host, role: &Role<'_>, federation: &Federation) -> Result<Self> {
        let instance = format!("{}-{}", world.id(), host.name);
        let directory = world.directory().join(&host.name);
        fs::create_dir_all(&directory)?;
        let configuration = directory.join("fairlead.yaml");
        let secrets = world.directory().join("secrets");
        if !secrets.exists() {
            fs::write(&secrets, SECRETS)?;
        }
        let manifests = manifests_for(world, host, federation)?;
        let text = configuration_file(world, host, role, federation, &instance, &directory, &manifests);
        fs::write(&configuration, text)?;
        let namespace = world.namespace(&host.name)?.clone();
        let process = Process::start(
            &format!("agent of {}", host.name),
            &namespace,
            &own_program("fairlead", "FAIRLEAD_BIN")?,
            &["run", "--config", &configuration.display().to_string()],
            &directory.join("fairlead.log"),
        )?;
        Ok(Self { host: host.name.clone(), namespace, instance, configuration, process })
    }

    /// The host that it runs on.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Its instance: the name of its directory in bpffs.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Its configuration file.
    #[must_use]
    pub fn configuration(&self) -> &Path {
        &self.configuration
    }

    /// The process: to be killed, signalled, started again.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Loads the BPF programs of this ELF file from its next start on; `None`: those that it was built with.
    pub fn replace_programs(&self, elf: Option<&Path>) {
        let configuration = self.configuration.display().to_string();
        let elf = elf.map(|elf| elf.display().to_string());
        let programs = elf.iter().flat_map(|elf| ["--programs", elf]);
        let arguments = ["run", "--config", &configuration].into_iter().chain(programs);
        self.process.replace_arguments(&arguments.collect::<Vec<_>>());
    }

    /// The kernel's tag of the program that packets enter by on this host, as the agent says.
    pub fn program_tag(&self) -> Result<String> {
        let status = self.ask(&["status"])?;
        let tag = status["program"].as_str().with_context(|| format!("no tag in {status}"))?;
        Ok(tag.to_owned())
    }

    /// Where its agent keeps what it knows.
    #[must_use]
    pub fn state_directory(&self) -> PathBuf {
        self.configuration.with_file_name("state")
    }

    /// Removes all its pins, so that its programs leave their links: what a crash never does.
    pub fn remove_pins(&self) -> Result<()> {
        let pins = Path::new(PINS).join(&self.instance);
        fs::remove_dir_all(&pins).with_context(|| format!("remove {}", pins.display()))
    }

    /// Runs a `fairlead` command on this host and returns what it prints.
    pub fn fairlead(&self, arguments: &[&str]) -> Result<String> {
        let program = own_program("fairlead", "FAIRLEAD_BIN")?;
        self.namespace.command(&program.to_string_lossy(), arguments)
    }

    /// As [`Agent::fairlead`] with this agent's configuration and `-o json`.
    pub fn ask(&self, arguments: &[&str]) -> Result<serde_json::Value> {
        let configuration = self.configuration.display().to_string();
        let arguments = [arguments, &["--config", &configuration, "-o", "json"]].concat();
        let text = self.fairlead(&arguments)?;
        serde_json::from_str(&text).with_context(|| format!("fairlead {arguments:?} printed {text}"))
    }

    /// As [`Agent::ask`] of something that must fail: what it prints nevertheless.
    pub fn ask_in_vain(&self, arguments: &[&str]) -> Result<serde_json::Value> {
        let program = own_program("fairlead", "FAIRLEAD_BIN")?;
        let configuration = self.configuration.display().to_string();
        let script = ["-c", "if \"$@\"; then exit 1; fi", "sh", &program.to_string_lossy()];
        let arguments = [&script[..], arguments, &["--config", &configuration, "-o", "json"]].concat();
        let text = self.namespace.command("sh", &arguments)?;
        serde_json::from_str(&text).with_context(|| format!("fairlead {arguments:?} printed {text}"))
    }

    /// Whether `/readyz` says that it serves.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        client::get_from(&self.namespace, ADMIN, "/readyz").is_ok_and(|answer| answer.status == 200)
    }

    /// Waits until `/readyz` says that it serves.
    pub fn wait_until_ready(&self, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        while !self.is_ready() {
            if !self.process.is_running() {
                bail!("the agent of {} has ended: {}", self.host, self.process.log());
            }
            if Instant::now() > deadline {
                bail!("the agent of {} is not ready after {within:?}: {}", self.host, self.process.log());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

/// All agents of a world. To be dropped before it.
#[derive(Debug, Default)]
pub struct Agents {
    agents: Vec<Agent>,
}

impl Agents {
    /// Starts an agent on every gateway and node, and waits until all are ready.
    pub fn start(world: &World, federation: &Federation) -> Result<Self> {
        // A gateway's first probes shall find receivers there: endpoints that they miss come back by and by.
        let mut agents = all_ready(world.layout.nodes.iter().map(|node| {
            Agent::start(world, &node.host, &Role::Receiver { cluster: &node.cluster }, federation)
        }))?;
        let gateways = world.layout.gateways.iter();
        agents.extend(all_ready(gateways.map(|host| Agent::start(world, host, &Role::Gateway, federation)))?);
        Ok(Self { agents })
    }

    /// The agent of this host.
    ///
    /// # Panics
    /// If it has none: the test is wrong.
    #[must_use]
    pub fn of(&self, host: &str) -> &Agent {
        self.agents
            .iter()
            .find(|agent| agent.host == host)
            .unwrap_or_else(|| panic!("no agent on {host} in this world"))
    }

    /// All of them, receivers first.
    pub fn iter(&self) -> impl Iterator<Item = &Agent> {
        self.agents.iter()
    }

    /// All of them, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Agent> {
        self.agents.iter_mut()
    }

    /// Leaves them running when this process ends; the world that they are in must be kept too.
    pub fn keep(self) {
        std::mem::forget(self.agents);
    }
}

fn all_ready(agents: impl Iterator<Item = Result<Agent>>) -> Result<Vec<Agent>> {
    let agents: Vec<Agent> = agents.collect::<Result<_>>()?;
    agents.iter().try_for_each(|agent| agent.wait_until_ready(Duration::from_secs(30)))?;
    Ok(agents)
}

enum Role<'a> {
    Gateway,
    Receiver { cluster: &'a str },
}

/// Where a host's agent finds the clusters' manifests.
fn manifests_for(world: &World, host: &Host, federation: &Federation) -> Result<PathBuf> {
    if !federation.copies_for.contains(&host.name) {
        return Ok(world.directory().join("manifests"));
    }
    let copies = world.directory().join(&host.name).join("manifests");
    for cluster in &world.layout.clusters {
        world.manifests(&cluster.name).copy_for(&host.name, copies.join(&cluster.name))?;
    }
    Ok(copies)
}

fn configuration_file(
    world: &World,
    host: &Host,
    role: &Role<'_>,
    federation: &Federation,
    instance: &str,
    directory: &Path,
    manifests: &Path,
) -> String {
    let place = match role {
        Role::Gateway => "roles: [gateway]".to_owned(),
        Role::Receiver { cluster } if federation.nodes_are_gateways => {
            format!("cluster: {cluster}\n  roles: [gateway, receiver]")
        }
        Role::Receiver { cluster } => format!("cluster: {cluster}\n  roles: [receiver]"),
    };
    let capacities: String =
        federation.capacities.iter().map(|(table, entries)| format!("  {table}: {entries}\n")).collect();
    let Federation { seed, probe_fall, probe_rise, encapsulation, xdp_mode, more, .. } = federation;
    let interval = federation.probe_interval.as_millis();
    let federated = federated(&world.layout, manifests, federation);
    let (name, state) = (&host.name, directory.join("state"));
    format!(
        r"instance: {instance}
stateDirectory: {state}
admin:
  address: {ADMIN}
seed: {seed:#x}
secretsFile: {secrets}
vipPools: [203.0.113.0/24, 2001:db8:f::/64]
node:
  name: {name}
  {place}
  interfaces: [eth0]
  xdpMode: {xdp_mode}
probes:
  interval: {interval}ms
  timeout: {interval}ms
  fall: {probe_fall}
  rise: {probe_rise}
tunnel:
  encapsulation: {encapsulation}
capacities:
{capacities}{federated}{more}",
        state = state.display(),
        secrets = world.directory().join("secrets").display(),
    )
}

/// Clusters, gateways and distances: the same in every file, but for where the manifests are.
fn federated(layout: &Layout, manifests: &Path, federation: &Federation) -> String {
    let mut text = String::from("clusters:\n");
    for cluster in &layout.clusters {
        let origin = match federation.kubeconfigs.get(&cluster.name) {
            Some(file) => format!("kubeconfig: {}", file.display()),
            None => format!("manifests: {}", manifests.join(&cluster.name).display()),
        };
        write!(
            text,
            "- name: {}\n  region: {}\n  zone: {}\n  podCidrs: [{}, {:?}]\n  {origin}\n",
            cluster.name, cluster.region, cluster.zone, cluster.pods_v4, cluster.pods_v6,
        )
        .expect("writing to a string doesn't fail");
    }
    text.push_str("gateways:\n");
    for gateway in &layout.gateways {
        let (v4, v6) = gateway.uplink.host;
        let zone = layout.clusters.iter().find(|cluster| cluster.region == gateway.region);
        let zone = zone.map(|cluster| format!("  zone: {}\n", cluster.zone)).unwrap_or_default();
        let (name, region) = (&gateway.name, &gateway.region);
        write!(text, "- name: {name}\n  region: {region}\n{zone}  tunnel: [{v4}, \"{v6}\"]\n")
            .expect("writing to a string doesn't fail");
    }
    for node in layout.nodes.iter().filter(|_| federation.nodes_are_gateways) {
        let (name, cluster, (v4, v6)) = (&node.host.name, &node.cluster, node.host.uplink.host);
        write!(text, "- name: {name}\n  cluster: {cluster}\n  tunnel: [{v4}, \"{v6}\"]\n")
            .expect("writing to a string doesn't fail");
    }
    let known = |region: &String| layout.clusters.iter().any(|cluster| cluster.region == *region);
    let distances: Vec<_> = federation.distances.iter().filter(|(a, b, _)| known(a) && known(b)).collect();
    if !distances.is_empty() {
        text.push_str("distances:\n");
    }
    for (a, b, distance) in distances {
        writeln!(text, "- between: [{a}, {b}]\n  distance: {distance}")
            .expect("writing to a string doesn't fail");
    }
    text
}
