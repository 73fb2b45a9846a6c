//! The memory of a real agent: `fairlead run` on manifests of the whole fleet.
//!
//! Its gateway stands in a namespace of its own, reaches all endpoints through one next hop, and doesn't probe: there are
//! no servers behind these addresses.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fairlead::dataplane::{Instance, View};
use fairlead_core::model::{ClusterState, Endpoint, ObjectName, ShardSpec};

use super::fleet::{Fleet, Kind};
use crate::client;
use crate::world::{ADMIN, Footprint, Process, own_program};

/// How long an agent may take to read everything and carry it out.
const PATIENCE: Duration = Duration::from_secs(120);
/// The agent has come to rest when its memory has not changed for so long by more than [`REST_KIB`].
const REST: Duration = Duration::from_secs(2);
const REST_KIB: f64 = 1024.0;

/// What an agent at rest holds in memory, in MiB.
pub(super) fn memory(footprint: &Footprint, services: u32) -> Result<f64> {
    let fleet = Fleet::new(services, Kind::Plain, super::ROUTE)?;
    let name = format!("agent-{services}");
    let directory = footprint.directory().join(&name);
    for (cluster, state) in &fleet.states {
        let manifests = directory.join("manifests").join(&**cluster);
        fs::create_dir_all(&manifests)?;
        write_manifests(&manifests.join("all.yaml"), state).context("write manifests")?;
    }
    let instance = Instance::new(&format!("{}-{name}", footprint.id()));
    let file = directory.join("fairlead.yaml");
    fs::write(&file, configuration(&fleet, &instance, &directory))?;
    let namespace = footprint.namespace(&name)?;
    let lines = [
        "link set lo up",
        "link add eth0 type veth peer name far",
        "link set eth0 up",
        "link set far up",
        "address add 192.0.2.1/24 dev eth0",
        "neighbour add 192.0.2.2 lladdr 02:00:00:00:00:02 dev eth0 nud permanent",
        "route add 10.0.0.0/8 via 192.0.2.2",
    ];
    namespace.ip(&lines.map(str::to_owned))?;
    let program = own_program("fairlead", "FAIRLEAD_BIN")?;
    let arguments = ["run", "--config", &file.display().to_string()];
    let agent = Process::start(&name, &namespace, &program, &arguments, &directory.join("fairlead.log"))?;
    let entries = (services * Kind::Plain.entries()) as usize;
    wait_until(&agent, || {
        let ready = client::get_from(&namespace, ADMIN, "/readyz").is_ok_and(|answer| answer.status == 200);
        ready && published(&instance).is_ok_and(|published| published == entries)
    })?;
    let memory = at_rest(&agent)?;
    agent.kill()?;
    instance.remove()?;
    fs::remove_dir_all(&directory)?;
    Ok(memory / 1024.0)
}

fn wait_until(agent: &Process, is_so: impl Fn() -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        ensure!(agent.is_running(), "the agent has ended: {}", agent.log());
        ensure!(Instant::now() < deadline, "the agent is not ready after {PATIENCE:?}: {}", agent.log());
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Entries that the kernel's service table holds.
fn published(instance: &Instance) -> Result<usize> {
    let view = View::open(instance)?;
    let raw = view.observe()?;
    Ok(raw.buckets.iter().flat_map(|bucket| &bucket.entries).filter(|entry| entry.key().is_some()).count())
}

/// Resident memory in KiB, once it is steady.
fn at_rest(agent: &Process) -> Result<f64> {
    let deadline = Instant::now() + PATIENCE;
    let mut steady = (resident(agent)?, Instant::now());
    while steady.1.elapsed() < REST && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(100));
        let now = resident(agent)?;
        if (now - steady.0).abs() > REST_KIB {
            steady = (now, Instant::now());
        }
    }
    Ok(steady.0)
}

/// Maps of the kernel that it has mapped are part of it.
fn resident(agent: &Process) -> Result<f64> {
    let pid = agent.pid().with_context(|| format!("the agent has ended: {}", agent.log()))?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next()).context("no VmRSS in its status")?;
    Ok(number.parse()?)
}

fn configuration(fleet: &Fleet, instance: &Instance, directory: &Path) -> String {
    let mut text = format!(
        "instance: {}
stateDirectory: {}
admin:
  address: {ADMIN}
seed: \"0x3c6ef372fe94f82b\"
vipPools: [198.18.0.0/15]
node:
  name: gateway
  roles: [gateway]
  interfaces: [eth0]
gateways:
- name: gateway
  region: nowhere
  tunnel: [192.0.2.1]
probes:
  kind: none
clusters:
",
        instance.name(),
        directory.join("state").display(),
    );
    for (name, cluster) in &fleet.declared.clusters {
        let (region, zone, cidrs) = (&cluster.place.region, &cluster.place.zone, &cluster.pod_cidrs);
        let cidrs: Vec<String> = cidrs.iter().map(|cidr| format!("\"{cidr}\"")).collect();
        let (cidrs, manifests) = (cidrs.join(", "), directory.join("manifests").join(&**name));
        write!(
            text,
            "- name: {name}\n  region: {region}\n  zone: {zone}\n  podCidrs: [{cidrs}]\n  manifests: {}\n",
            manifests.display()
        )
        .expect("writing to a string doesn't fail");
    }
    text
}

/// One list of all objects, as `kubectl get services,endpointslices,nodes -A -o yaml` prints them.
fn write_manifests(file: &Path, state: &ClusterState) -> Result<()> {
    let mut to = BufWriter::new(fs::File::create(file)?);
    writeln!(to, "apiVersion: v1\nitems:")?;
    for (name, shard) in &state.shards {
        write_service(&mut to, name, shard)?;
        write_slice(&mut to, name, shard)?;
    }
    let mut nodes: Vec<_> =
        state.shards.values().flat_map(|shard| shard.endpoints.iter()).map(|e| &e.node).collect();
    nodes.sort();
    nodes.dedup();
    for node in nodes {
        write!(
            to,
            "- apiVersion: v1
  kind: Node
  metadata:
    labels:
      fairlead.io/receiver: \"true\"
    name: {node}
"
        )?;
    }
    writeln!(to, "kind: List")?;
    Ok(to.flush()?)
}

fn write_service(to: &mut impl std::io::Write, name: &ObjectName, shard: &ShardSpec) -> Result<()> {
    let vip = shard.requested_vips.first().context("every service asks for a VIP")?;
    write!(
        to,
        "- apiVersion: v1
  kind: Service
  metadata:
    annotations:
      fairlead.io/vip: {vip}
    name: {}
    namespace: {}
  spec:
    ipFamilies:
    - IPv4
    loadBalancerClass: fairlead.io/vip
    ports:
",
        name.name, name.namespace
    )?;
    for port in &shard.ports {
        write!(
            to,
            "    - name: {0}\n      port: {1}\n      protocol: TCP\n      targetPort: {0}\n",
            port.name, port.port
        )?;
    }
    Ok(writeln!(to, "    type: LoadBalancer")?)
}

fn write_slice(to: &mut impl std::io::Write, name: &ObjectName, shard: &ShardSpec) -> Result<()> {
    writeln!(to, "- addressType: IPv4\n  apiVersion: discovery.k8s.io/v1\n  endpoints:")?;
    for endpoint in shard.endpoints.iter() {
        write_endpoint(to, endpoint)?;
    }
    let service = &name.name;
    write!(
        to,
        "  kind: EndpointSlice
  metadata:
    labels:
      kubernetes.io/service-name: {service}
    name: {service}-ipv4
    namespace: {}
  ports:
",
        name.namespace
    )?;
    let ports = shard.endpoints.first().map(|endpoint| endpoint.ports.iter()).into_iter().flatten();
    for (port, number) in ports {
        write!(to, "  - name: {port}\n    port: {number}\n    protocol: TCP\n")?;
    }
    Ok(())
}

fn write_endpoint(to: &mut impl std::io::Write, endpoint: &Endpoint) -> Result<()> {
    let address = endpoint.v4.context("every endpoint has an IPv4 address")?;
    Ok(write!(
        to,
        "  - addresses:
    - {address}
    conditions:
      ready: true
      serving: true
      terminating: false
    nodeName: {}
    targetRef:
      kind: Pod
      name: {}
",
        endpoint.node, endpoint.pod
    )?)
}
