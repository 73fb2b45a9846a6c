//! The world that fairlead is tested in: network namespaces with real servers, clients and a router.
//!
//! A [`Plan`] says what there shall be, [`World::build`] makes it within seconds, and dropping it leaves nothing
//! behind, also after a panic, a signal or kill -9 (then the next world removes it). Every host has `eth0` to the router
//! in the middle; every pod a veth of its node. What happens is real: servers are killed -9, links go down, routes move.

mod agent;
mod footprint;
mod late;
mod manifests;
mod namespace;
mod plan;
mod pod;
mod process;
mod router;
mod tables;
mod traces;
mod wiring;
mod xdp;

use std::path::PathBuf;
use std::thread;

use anyhow::{Context, Result, bail};

pub use agent::{ADMIN, Agent, Agents, Federation};
pub use footprint::{DATA, Footprint, PINS, RUNS, kept, remove, remove_abandoned};
pub(crate) use footprint::{MARK, making};
pub(crate) use late::{Ground, LatePod};
pub use manifests::{Condition, Manifests, ServiceSpec};
pub use namespace::Namespace;
pub(crate) use namespace::{finish, search_path};
pub use plan::{
    ClusterPlan, ClusterSeat, Host, Layout, NodeSeat, Plan, PodSeat, RegionPlan, Servers, Uplink,
};
pub use pod::{DOWNLOADS, HTTP_PORT, Pod, QUIC_PORT, UDP_PORT};
pub use process::{Process, own_program};
pub use router::{Router, VIPS_V4, VIPS_V6};
pub use traces::{Holder, Traces, interrupt};
pub use xdp::{bpf_elf, other_elf};

use crate::client::Client;

/// A running world.
#[derive(Debug)]
pub struct World {
    /// Names and addresses of everything.
    pub layout: Layout,
    /// In the middle.
    pub router: Router,
    gateways: Vec<Namespace>,
    nodes: Vec<Namespace>,
    pods: Vec<Pod>,
    clients: Vec<Client>,
    control_planes: Vec<Namespace>,
    manifests: Vec<Manifests>,
    /// Last, so that processes are waited for before what is left of them is removed.
    footprint: Footprint,
}

impl World {
    /// Builds it, with every client's VIP traffic going to its own region's gateways and all servers running.
    pub fn build(plan: &Plan) -> Result<Self> {
        let layout = plan.layout()?;
        let footprint = Footprint::claim()?;
        pod::make_downloads(&footprint.directory())?;
        let wired = wiring::wire(&footprint, &layout)?;
        let router = Router::set_up(wired.router, &layout)?;
        let mut clients = Vec::new();
        for (host, namespace) in layout.clients.iter().zip(wired.clients) {
            clients.push(Client::new(host.clone(), namespace));
        }
        let mut manifests = Vec::new();
        for cluster in &layout.clusters {
            manifests.push(Manifests::new(&footprint.directory(), cluster, &layout)?);
        }
        let world = Self {
            manifests,
            pods: start_pods(&layout, wired.pods, &footprint, plan.servers)?,
            gateways: wired.gateways,
            nodes: wired.nodes,
            control_planes: wired.control_planes,
            clients,
            layout,
            router,
            footprint,
        };
        for region in &plan.regions {
            let gateways = world.gateways_of(&region.name);
            world.route_vip(&region.name, &gateways)?;
        }
        Ok(world)
    }

    /// What everything of this world carries in its name.
    #[must_use]
    pub fn id(&self) -> &str {
        self.footprint.id()
    }

    /// Where its files are.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        self.footprint.directory()
    }

    /// Where its large files are, such as those of control planes.
    pub fn data(&self) -> Result<PathBuf> {
        self.footprint.data()
    }

    /// Leaves it running when this process ends, until [`remove`] is called with the id that is returned.
    pub fn keep(self) -> Result<String> {
        let Self { pods, clients, footprint, .. } = self;
        let id = footprint.keep()?;
        // Dropping a pod kills its servers.
        std::mem::forget(pods);
        drop(clients);
        Ok(id)
    }

    /// The client with this name, or the first of the region with it.
    ///
    /// # Panics
    /// If there is none: the test is wrong.
    #[must_use]
    pub fn client(&self, name: &str) -> &Client {
        let of = |client: &&Client| client.host.name == name || client.host.region == name;
        self.clients.iter().find(of).unwrap_or_else(|| panic!("no client {name} in this world"))
    }

    /// All clients.
    #[must_use]
    pub fn clients(&self) -> &[Client] {
        &self.clients
    }

    /// The pod with this name.
    ///
    /// # Panics
    /// If there is none: the test is wrong.
    #[must_use]
    pub fn pod(&self, name: &str) -> &Pod {
        self.pods
            .iter()
            .find(|pod| pod.name() == name)
            .unwrap_or_else(|| panic!("no pod {name} in this world"))
    }

    /// All pods.
    #[must_use]
    pub fn pods(&self) -> &[Pod] {
        &self.pods
    }

    /// The pods of a cluster.
    pub fn pods_of(&self, cluster: &str) -> impl Iterator<Item = &Pod> {
        self.pods.iter().filter(move |pod| pod.cluster == cluster)
    }

    /// What a cluster's API server would say.
    ///
    /// # Panics
    /// If there is no such cluster: the test is wrong.
    #[must_use]
    pub fn manifests(&self, cluster: &str) -> &Manifests {
        self.manifests
            .iter()
            .find(|manifests| manifests.cluster().name == cluster)
            .unwrap_or_else(|| panic!("no cluster {cluster} in this world"))
    }

    /// Gives every cluster a shard of a service.
    pub fn add_service(&self, service: &ServiceSpec) -> Result<()> {
        self.manifests.iter().try_for_each(|manifests| manifests.add_service(service))
    }

    /// The namespace of a gateway, node, client, pod or control plane.
    pub fn namespace(&self, host: &str) -> Result<&Namespace> {
        let gateways = self.layout.gateways.iter().map(|host| &host.name).zip(&self.gateways);
        let nodes = self.layout.nodes.iter().map(|node| &node.host.name).zip(&self.nodes);
        let clients = self.clients.iter().map(|client| (&client.host.name, &client.namespace));
        let pods = self.pods.iter().map(|pod| (&pod.seat.name, &pod.namespace));
        let control_planes =
            self.layout.control_planes.iter().map(|host| &host.name).zip(&self.control_planes);
        let mut all = gateways.chain(nodes).chain(clients).chain(pods).chain(control_planes);
        let found = all.find(|(name, _)| *name == host);
        Ok(found.with_context(|| format!("no host {host} in this world"))?.1)
    }

    /// The link between the router and a gateway, node, client or control plane.
    pub fn uplink(&self, host: &str) -> Result<&Uplink> {
        let found = self.layout.hosts().find(|known| known.name == host);
        Ok(&found.with_context(|| format!("no host {host} with a link to the router in this world"))?.uplink)
    }

    /// Names of all gateways and nodes: where programs send by XDP_TX.
    #[must_use]
    pub fn sites(&self) -> Vec<&str> {
        let nodes = self.layout.nodes.iter().map(|node| &node.host);
        self.layout.gateways.iter().chain(nodes).map(|host| host.name.as_str()).collect()
    }

    /// Names of a region's gateways.
    #[must_use]
    pub fn gateways_of(&self, region: &str) -> Vec<&str> {
        let gateways = self.layout.gateways.iter().filter(|host| host.region == region);
        gateways.map(|host| host.name.as_str()).collect()
    }

    /// From now on, packets for VIPs from this client, or from all of this region's clients, go to these gateways, by
    /// flow; with none of them the router answers that the VIP is unreachable.
    pub fn route_vip(&self, from: &str, gateways: &[&str]) -> Result<()> {
        for client in &self.clients {
            if client.host.name == from || client.host.region == from {
                self.router.route_vip(&client.host.name, gateways)?;
            }
        }
        Ok(())
    }

    /// Cuts the link of a gateway, node, client or control plane; of all nodes of a cluster; or of all gateways, nodes and
    /// control planes of a region. Servers and agents run on and know of nothing but a carrier that is gone.
    pub fn cut(&self, what: &str) -> Result<()> {
        self.router.cut(&self.hosts(what)?)
    }

    /// Brings back what [`World::cut`] took, and waits until both ends see the carrier.
    pub fn restore(&self, what: &str) -> Result<()> {
        let hosts = self.hosts(what)?;
        self.router.restore(&hosts)?;
        for host in hosts {
            self.router.namespace.wait_for_carrier(self.router.interface_to(host)?)?;
            self.namespace(host)?.wait_for_carrier("eth0")?;
        }
        Ok(())
    }

    /// Makes the link of a gateway or node again after its `eth0` was deleted: a new interface with the same name and
    /// addresses, and nothing attached to it.
    pub fn remake_link(&self, host: &str) -> Result<()> {
        let nodes = self.layout.nodes.iter().map(|node| &node.host);
        let found = self.layout.gateways.iter().chain(nodes).find(|known| known.name == host);
        let found = found.with_context(|| format!("no gateway or node {host}"))?;
        wiring::wire_again(&self.router.namespace, self.namespace(host)?, found)?;
        self.restore(host)
    }

    /// From now on this share of the packets from and to these hosts vanishes without a word: 0 none, 100 all.
    pub fn lose(&self, what: &str, percent: u8) -> Result<()> {
        self.hosts(what)?.iter().try_for_each(|host| self.router.lose(host, percent))
    }

    /// From now on, or no longer, the probes of a gateway to the pods of a node vanish without a word. What it forwards
    /// arrives as before.
    pub fn lose_probes(&self, gateway: &str, node: &str, lost: bool) -> Result<()> {
        let seat = self.layout.nodes.iter().find(|seat| seat.host.name == node);
        let seat = seat.with_context(|| format!("no node {node}"))?;
        self.router.lose_probes(gateway, &seat.pods_v4, &seat.pods_v6, lost)
    }

    /// Puts the program `pass` of the BPF ELF on the router's end of these hosts' links: only where the other end of a
    /// veth has some XDP program does what is sent by XDP_TX arrive.
    pub fn attach_pass(&self, elf: &[u8], hosts: &[&str]) -> Result<()> {
        let pass = xdp::Pinned::load(elf, "pass", &format!("{}-pass", self.id()))?;
        self.router.attach_xdp(hosts, &pass.path())
    }

    /// Puts that program on a host's own `eth0`, as another XDP user there.
    pub fn attach_strangers_program(&self, elf: &[u8], host: &str) -> Result<()> {
        let pass = xdp::Pinned::load(elf, "pass", &format!("{}-stranger", self.id()))?;
        self.namespace(host)?.ip(&[format!("link set dev eth0 xdpdrv pinned {}", pass.path().display())])
    }

    /// The hosts that a name of a host, cluster or region stands for.
    fn hosts(&self, what: &str) -> Result<Vec<&str>> {
        let sites = self.layout.gateways.iter().chain(&self.layout.control_planes);
        let sites = sites.filter(|host| host.name == what || host.region == what);
        let nodes = self
            .layout
            .nodes
            .iter()
            .filter(|node| node.host.name == what || node.cluster == what || node.host.region == what);
        let clients = self.layout.clients.iter().filter(|host| host.name == what);
        let hosts = sites.chain(nodes.map(|node| &node.host)).chain(clients);
        let names: Vec<_> = hosts.map(|host| host.name.as_str()).collect();
        if names.is_empty() {
            bail!("no host, cluster or region {what} in this world");
        }
        Ok(names)
    }
}

/// All pods' servers start at once; then each is waited for.
fn start_pods(
    layout: &Layout,
    namespaces: Vec<Namespace>,
    footprint: &Footprint,
    servers: Servers,
) -> Result<Vec<Pod>> {
    let directory = footprint.directory();
    let mut pods = Vec::new();
    for (seat, namespace) in layout.pods.iter().zip(namespaces) {
        let cluster = &layout.nodes[seat.node].cluster;
        pods.push(Pod::start(seat.clone(), cluster, namespace, &directory, servers)?);
    }
    thread::scope(|scope| {
        let waiting: Vec<_> = pods.iter().map(|pod| scope.spawn(|| pod.wait_until_serving())).collect();
        waiting.into_iter().try_for_each(|thread| thread.join().expect("waiting doesn't panic"))
    })?;
    Ok(pods)
}
