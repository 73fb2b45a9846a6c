//! The fields of the file. Their doc comments are what `fairlead config schema` prints.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fairlead_core::model::{ProbeKind, Tunnel};
use ipnet::IpNet;
use serde_json::{Value, json};

use super::read::{Limit, Read, Reader, camel, defaults, leaf};
use super::schema::ObjectSchema;
use super::section::{choice, section};
use crate::federation::{Access, Origin};
use crate::yaml::{Node, Scalar};

/// A name: lower-case letters, digits, `-` and `.`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(pub Arc<str>);

/// The name of a network interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceName(pub Arc<str>);

/// An address, or a prefix of many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(pub IpNet);

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() { self.0.addr().fmt(f) } else { self.0.fmt(f) }
    }
}

/// 64 bits that are a secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hash(pub u64);

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hash(..)")
    }
}

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Steers packets for VIPs to backends.
    Gateway,
    /// Unwraps what gateways send to this node's endpoints.
    Receiver,
}

/// How a program is attached to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum XdpMode {
    /// By the interface's driver.
    Native,
    /// By the kernel's general code: any interface, but much slower.
    Generic,
}

/// What becomes of packets to a VIP's ports that no service has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UnservedPorts {
    /// Dropped and counted.
    Drop,
    /// Given to the gateway's own network stack.
    Pass,
}

choice!(Role { Gateway = "gateway", Receiver = "receiver" });
choice!(XdpMode { Native = "native", Generic = "generic" });
choice!(UnservedPorts { Drop = "drop", Pass = "pass" });
choice!(Tunnel { Ipip = "ipip", Gue = "gue" });
choice!(ProbeKind { Tcp = "tcp", Http = "http", Https = "https", None = "none" });

section! {
    /// What one fairlead agent is told: its node, the clusters whose services it knows, and the gateways of the
    /// federation.
    pub struct Config from ConfigDraft {
        /// Names this agent where a node runs several: its maps stand under `/sys/fs/bpf/fairlead/<instance>`.
        pub instance: Name = Name::default_instance(),
        /// Where the last known good state is kept; `/var/lib/fairlead/<instance>` where it isn't given.
        pub state_directory: Option<PathBuf> = None,
        /// Metrics, readiness and liveness.
        pub admin: Admin = defaults(),
        /// Seed of the hash that spreads flows. The same on all gateways and receivers of the federation, and known to
        /// nobody else: who knows it can choose flows that all go to one endpoint. A number, or 0x and hexadecimal digits.
        pub seed: Hash,
        /// The file with the federation's secrets, the same on all nodes: one or two lines of 64 hexadecimal digits, as
        /// `openssl rand -hex 32` prints them. Messages between agents are tagged by the first, and taken with either.
        /// Without it no agent asks another whose a connection is.
        pub secrets_file: Option<PathBuf> = None,
        /// This node.
        pub node: NodeConfig,
        /// All clusters of the federation.
        pub clusters: Vec<ClusterConfig>,
        /// All gateways of the federation; receivers take tunnel packets only from them.
        pub gateways: Vec<GatewayConfig>,
        /// Where all VIPs lie: those that services ask for, and those that others are given. Without a pool no service
        /// can have a VIP.
        pub vip_pools: Vec<IpNet> = Vec::new(),
        /// How far regions are from each other. Regions without a distance are farther than all that have one.
        pub distances: Vec<DistanceConfig> = Vec::new(),
        /// How endpoints are probed where annotations say nothing else.
        pub probes: ProbeConfig = defaults(),
        /// How weights are chosen.
        pub planner: PlannerConfig = defaults(),
        /// How wide tunnels are.
        pub tunnel: TunnelConfig = defaults(),
        /// What becomes of packets to ports of a VIP that no service has, where no annotation says it.
        pub unserved_ports: UnservedPorts = UnservedPorts::Drop,
        /// ICMP errors and echo replies that each CPU sends per second at most.
        pub icmp_per_second: u32 = 1000 => 1..=1_000_000,
        /// How much of what it can't judge by itself a node passes on.
        pub limits: Limits = defaults(),
        /// Entries of the kernel's tables. The defaults are good for about 16,000 services.
        pub capacities: Capacities = defaults(),
    }
}

section! {
    /// Metrics, readiness and liveness.
    pub struct Admin from AdminDraft {
        /// Where they are served.
        pub address: SocketAddr = SocketAddr::from((Ipv4Addr::LOCALHOST, 9440)),
    }
}

section! {
    /// This node.
    pub struct NodeConfig from NodeDraft {
        /// Its name: of its Node object and, on a gateway, of its entry in `gateways`.
        pub name: Name,
        /// The cluster that it belongs to; gives it region and zone.
        pub cluster: Option<Name> = None,
        /// Its region, where it belongs to no cluster.
        pub region: Option<Name> = None,
        /// Its zone, where it belongs to no cluster.
        pub zone: Option<Name> = None,
        /// What it does.
        pub roles: Vec<Role>,
        /// The interfaces by which packets for VIPs, and tunnel packets, come in.
        pub interfaces: Vec<InterfaceName>,
        /// How programs are attached. Generic mode is for interfaces whose driver has no XDP.
        pub xdp_mode: XdpMode = XdpMode::Native,
    }
}

section! {
    /// One Kubernetes cluster.
    pub struct ClusterConfig from ClusterDraft {
        /// Its name; appears in every list of the command line.
        pub name: Name,
        /// Its region.
        pub region: Name,
        /// Its zone.
        pub zone: Name,
        /// The addresses of its pods. Endpoints elsewhere are not accepted from it.
        pub pod_cidrs: Vec<IpNet>,
        /// The kubeconfig file by which its API server is reached; relative to this file. One of `kubeconfig`, `inCluster` and
        /// `manifests` says where its objects are.
        pub kubeconfig: Option<PathBuf> = None,
        /// The context in that file; its current one where it isn't given.
        pub context: Option<Arc<str>> = None,
        /// Its API server is that of the pod which the agent runs in, reached as its ServiceAccount.
        pub in_cluster: bool = false,
        /// A directory with its objects as files, instead of an API server; relative to this file.
        pub manifests: Option<PathBuf> = None,
    }
}

section! {
    /// One gateway.
    pub struct GatewayConfig from GatewayDraft {
        /// Its node's name.
        pub name: Name,
        /// The gateways that one router may exchange for each other; its region where it isn't given.
        pub group: Option<Name> = None,
        /// The cluster that it belongs to; gives it region and zone.
        pub cluster: Option<Name> = None,
        /// Its region, where it belongs to no cluster.
        pub region: Option<Name> = None,
        /// Its zone, where it belongs to no cluster.
        pub zone: Option<Name> = None,
        /// Where its tunnel packets come from: an address or prefix of each IP version that it uses, the
        /// same versions on all gateways of a group. With a prefix, the source varies by flow, so that receivers spread
        /// them over their CPUs.
        pub tunnel: Vec<Prefix>,
    }
}

section! {
    /// The distance of two regions.
    pub struct DistanceConfig from DistanceDraft {
        /// The two regions.
        pub between: Vec<Name>,
        /// Any measure, the same for all; milliseconds of round trip for instance.
        pub distance: u32,
    }
}

section! {
    /// How endpoints are probed.
    pub struct ProbeConfig from ProbeDraft {
        /// What is asked.
        pub kind: ProbeKind = ProbeKind::Tcp,
        /// Path of HTTP and HTTPS probes.
        pub path: Arc<str> = "/".into(),
        /// From one probe of an endpoint to the next.
        pub interval: Duration = Duration::from_secs(1) => Duration::from_millis(50)..=Duration::from_secs(3600),
        /// An answer later than this counts as none.
        pub timeout: Duration = Duration::from_secs(1) => Duration::from_millis(10)..=Duration::from_secs(60),
        /// Good answers in a row that make a bad endpoint good.
        pub rise: u32 = 2 => 1..=100,
        /// Failures in a row that make a good endpoint bad.
        pub fall: u32 = 3 => 1..=100,
        /// Probes at the same time.
        pub concurrency: u32 = 1024 => 1..=65_536,
        /// Probes begun per second, over all endpoints.
        pub per_second: u32 = 10_000 => 1..=1_000_000,
    }
}

section! {
    /// How weights are chosen.
    pub struct PlannerConfig from PlannerDraft {
        /// When no more than this share of a service's ready endpoints passes its probes, the probes are not
        /// believed. 0: only when none passes.
        pub panic_percent: u8 = 0 => 0..=100,
        /// How long a shard that comes back takes to its full share; 0s: at once.
        pub return_duration: Duration = Duration::from_secs(4) => Duration::ZERO..=Duration::from_secs(3600),
        /// In how many steps it comes back.
        pub return_steps: u32 = 4 => 1..=100,
        /// Over what time demand is smoothed.
        pub demand_smoothing: Duration = Duration::from_secs(10) => Duration::from_secs(1)..=Duration::from_secs(3600),
        /// By how much demand must change before weights follow.
        pub demand_band_percent: u8 = 10 => 1..=100,
        /// How long an endpoint that has left its slices keeps its connections where its node says nothing of them.
        pub linger_duration: Duration = Duration::from_secs(3600) => Duration::ZERO..=Duration::from_secs(604_800),
        /// How long UDP flows may be another endpoint's after endpoints have changed; 0s: never.
        pub udp_unsettled_duration: Duration = Duration::from_secs(30) => Duration::ZERO..=Duration::from_secs(3600),
        /// When so many percent of a cluster's services, or more, are gone from its source at once, and there were several, they
        /// are held until they are back or `fairlead accept-withdrawal` lets them go. 100: only when none is left.
        pub withdrawal_percent: u8 = 100 => 1..=100,
    }
}

section! {
    /// How packets travel from gateways to receivers.
    pub struct TunnelConfig from TunnelDraft {
        /// An outer IP header alone, or IP and UDP (GUE).
        pub encapsulation: Tunnel = Tunnel::Ipip,
        /// What any tunnel carries, outer headers included, in bytes: the smallest MTU between gateways and
        /// receivers. The same on all nodes.
        pub mtu: u16 = 1500 => 1328..=65_535,
    }
}

section! {
    /// How much of what it can't judge by itself a node passes on: packets of flows that nobody seems to know, be they
    /// of connections that moved or strangers'.
    pub struct Limits from LimitsDraft {
        /// Packets that each CPU of a receiver sends back to gateways per second, because their flow is not known there.
        pub bounces_per_second: u32 = 200_000 => 1..=100_000_000,
        /// Packets that came back, and that a gateway sends on per second for the clients of one prefix (/24 of IPv4,
        /// /56 of IPv6).
        pub bounces_per_prefix: u32 = 20_000 => 1..=100_000_000,
        /// The same for all clients.
        pub bounces_in_all: u32 = 1_000_000 => 1..=100_000_000,
        /// Packets that no backend claims, and that each CPU of a gateway reports to the agent per second.
        pub unclaimed_per_second: u32 = 20_000 => 1..=1_000_000,
        /// Flows that a gateway asks for per second for the clients of one prefix, each time anew; twice as many at once.
        pub asks_per_prefix: u32 = 1000 => 1..=1_000_000,
        /// Flows that a gateway asks for per second in all, each counted once for each endpoint that is asked: what receivers and
        /// the network have to carry.
        pub asks_per_second: u32 = 200_000 => 1..=100_000_000,
        /// Endpoints that a gateway asks per second how many connections they hold.
        pub counts_per_second: u32 = 10_000 => 1..=1_000_000,
    }
}

section! {
    /// Entries of the kernel's tables.
    pub struct Capacities from CapacitiesDraft {
        /// VIPs, and their ports: an entry for each VIP, and one for each port and protocol at it.
        pub services: u32 = 32_768 => 1..=1_048_576,
        /// Slots of all rings; 8 bytes each.
        pub slots: u32 = 16_777_216 => 1024..=536_870_912,
        /// Backends of all services; 24 bytes each, and 16 for each CPU. There is room for a quarter as many server IDs of QUIC
        /// endpoints, at least 512: each address of an endpoint has one for each VIP.
        pub backends: u32 = 524_288 => 64..=16_777_216,
        /// Ranges of clients that services let in (`loadBalancerSourceRanges`), for each VIP and port. They take memory once they
        /// are there. Clients of ranges that don't fit are refused.
        pub source_ranges: u32 = 65_536 => 1..=4_194_304,
        /// Next hops.
        pub hops: u32 = 4096 => 2..=1_048_576,
        /// Endpoints of this node, one for each port of their services.
        pub deliveries: u32 = 16_384 => 1..=1_048_576,
        /// Connections of this node's endpoints. One that has ended counts for another minute, less where three quarters are taken.
        pub flows: u32 = 262_144 => 1..=16_777_216,
        /// Connections of this node's endpoints that are being opened.
        pub half_open: u32 = 65_536 => 1..=16_777_216,
        /// Connections that a gateway remembers the endpoint of, because it is not the one that their hash leads to; 8
        /// bytes each. What doesn't fit costs packets an extra way, no connection.
        pub cached_flows: u32 = 1_048_576 => 8..=268_435_456,
        /// Datagrams in fragments whose first one is remembered for the others, in either direction; the oldest are forgotten.
        pub fragments: u32 = 16_384 => 64..=1_048_576,
        /// Prefixes of gateways.
        pub gateways: u32 = 1024 => 1..=1_048_576,
        /// Endpoints' ports that are probed.
        pub probes: u32 = 524_288 => 1..=1_048_576,
    }
}

impl Name {
    /// Of the only agent of a node.
    pub(super) fn default_instance() -> Self {
        Self("default".into())
    }
}

/// Where an agent keeps its state that isn't told.
pub(super) fn default_state_directory(instance: &Name) -> PathBuf {
    Path::new("/var/lib/fairlead").join(&*instance.0)
}

impl ConfigDraft {
    /// Makes its paths independent of the working directory of who wrote them: relative to `directory`.
    pub(super) fn resolve_paths(&mut self, directory: &Path) {
        let of_clusters = self.clusters.iter_mut().flatten();
        let of_clusters = of_clusters.flat_map(|cluster| [&mut cluster.manifests, &mut cluster.kubeconfig]);
        let own = [&mut self.state_directory, &mut self.secrets_file];
        for path in of_clusters.chain(own).flatten().flatten() {
            *path = directory.join(&*path);
        }
    }
}

impl ClusterConfig {
    /// Where its objects are; exactly one field says it.
    #[must_use]
    pub fn origin(&self) -> Origin {
        match (&self.kubeconfig, &self.manifests) {
            (Some(path), _) => {
                Origin::Kubernetes(Access::Kubeconfig { path: path.clone(), context: self.context.clone() })
            }
            (None, Some(directory)) => Origin::Manifests(directory.clone()),
            (None, None) => Origin::Kubernetes(Access::InCluster),
        }
    }
}

impl Config {
    /// Where the agent keeps its state.
    #[must_use]
    pub fn state_directory(&self) -> PathBuf {
        self.state_directory.clone().unwrap_or_else(|| default_state_directory(&self.instance))
    }

    /// Whether this node has `role`.
    #[must_use]
    pub fn has(&self, role: Role) -> bool {
        self.node.roles.contains(&role)
    }

    /// This node's own entry among the gateways.
    #[must_use]
    pub fn own_gateway(&self) -> Option<&GatewayConfig> {
        self.gateways.iter().find(|gateway| gateway.name == self.node.name)
    }

    /// The whole file with every default written out, and with the seed, which is a secret: for tests alone.
    #[cfg(test)]
    pub(super) fn show(&self) -> Value {
        Read::show(self)
    }
}
