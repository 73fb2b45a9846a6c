//! What the fields must be to each other.

use std::collections::BTreeMap;

use fairlead_core::model::Tunnel;
use ipnet::IpNet;

use super::types::{ClusterConfig, Config, GatewayConfig, Name, Prefix, Role};
use crate::text::nearest;
use crate::yaml::Path;

/// A contradiction, at the field that is easiest to change.
pub(super) struct Fault {
    pub(super) path: Path,
    pub(super) message: String,
}

/// Everything that doesn't fit together.
pub(super) fn faults(config: &Config) -> Vec<Fault> {
    let mut faults = Faults(Vec::new());
    faults.names(config);
    faults.node(config);
    faults.gateways(config);
    faults.groups(config);
    faults.clusters(config);
    faults.addresses(config);
    faults.distances(config);
    faults.numbers(config);
    faults.0
}

fn at(field: &str) -> Path {
    Path::default().key(field)
}

struct Faults(Vec<Fault>);

impl Faults {
    fn add(&mut self, path: Path, message: impl Into<String>) {
        self.0.push(Fault { path, message: message.into() });
    }

    fn names(&mut self, config: &Config) {
        let clusters: Vec<&Name> = config.clusters.iter().map(|cluster| &cluster.name).collect();
        self.unique("clusters", "cluster", &clusters);
        let gateways: Vec<&Name> = config.gateways.iter().map(|gateway| &gateway.name).collect();
        self.unique("gateways", "gateway", &gateways);
        if config.clusters.is_empty() {
            self.add(at("clusters"), "there must be at least one cluster");
        }
        if config.gateways.is_empty() {
            self.add(at("gateways"), "there must be at least one gateway");
        }
    }

    fn unique(&mut self, list: &str, kind: &str, names: &[&Name]) {
        let mut first = BTreeMap::new();
        for (index, &name) in names.iter().enumerate() {
            if let Some(other) = first.insert(name, index) {
                let path = at(list).index(index).key("name");
                self.add(
                    path,
                    format!("{list}[{other}] is called {:?} too: give this {kind} another name", name.0),
                );
                first.insert(name, other);
            }
        }
    }

    fn node(&mut self, config: &Config) {
        let node = &config.node;
        if node.roles.is_empty() {
            self.add(at("node").key("roles"), "a node must be gateway, receiver or both");
        }
        self.no_repetition(&at("node").key("roles"), &node.roles);
        if node.interfaces.is_empty() {
            self.add(
                at("node").key("interfaces"),
                "there must be at least one interface: `ip -br link` lists them",
            );
        }
        self.no_repetition(&at("node").key("interfaces"), &node.interfaces);
        self.place(config, &at("node"), [&node.cluster, &node.region, &node.zone]);
        match config.own_gateway() {
            None if config.has(Role::Gateway) => {
                let message = format!(
                    "a gateway needs an entry in gateways, and there is none called {:?}: add one with its tunnel addresses",
                    node.name.0
                );
                self.add(at("node").key("name"), message);
            }
            Some(own) => {
                for (field, here, there) in [
                    ("cluster", &node.cluster, &own.cluster),
                    ("region", &node.region, &own.region),
                    ("zone", &node.zone, &own.zone),
                ] {
                    let unknown =
                        field == "cluster" && !config.clusters.iter().any(|c| Some(&c.name) == here.as_ref());
                    if let (Some(here), Some(there)) = (here, there)
                        && here != there
                        && !unknown
                    {
                        let message =
                            format!("is {:?}, but its entry in gateways says {:?}", here.0, there.0);
                        self.add(at("node").key(field), message);
                    }
                }
            }
            None if node.cluster.is_none() && node.region.is_none() => {
                self.add(at("node"), "where does it stand? Give cluster, or region (and zone)");
            }
            None => {}
        }
    }

    fn no_repetition<T: PartialEq>(&mut self, path: &Path, values: &[T]) {
        for (index, value) in values.iter().enumerate() {
            if values[..index].contains(value) {
                self.add(path.index(index), "stands here twice: remove one");
            }
        }
    }

    /// The cluster, region and zone of something at `path`.
    fn place(&mut self, config: &Config, path: &Path, [cluster, region, zone]: [&Option<Name>; 3]) {
        if let Some(name) = cluster {
            let Some(cluster) = config.clusters.iter().find(|cluster| cluster.name == *name) else {
                let names = config.clusters.iter().map(|cluster| &*cluster.name.0);
                let hint = nearest(&name.0, names)
                    .map_or("add it to clusters".to_owned(), |n| format!("did you mean {n}?"));
                return self.add(path.key("cluster"), format!("there is no cluster {:?}: {hint}", name.0));
            };
            for (field, given, of_cluster) in
                [("region", region, &cluster.region), ("zone", zone, &cluster.zone)]
            {
                if let Some(given) = given
                    && given != of_cluster
                {
                    let message = format!(
                        "is {:?}, but cluster {} is in {:?}: leave it out",
                        given.0, name.0, of_cluster.0
                    );
                    self.add(path.key(field), message);
                }
            }
        } else if zone.is_some() && region.is_none() {
            self.add(path.key("zone"), "a zone counts only together with its region: give region too");
        }
    }

    fn gateways(&mut self, config: &Config) {
        for (index, gateway) in config.gateways.iter().enumerate() {
            let path = at("gateways").index(index);
            let GatewayConfig { cluster, region, zone, .. } = gateway;
            self.place(config, &path, [cluster, region, zone]);
            if cluster.is_none() && region.is_none() {
                self.add(path.clone(), "where does it stand? Give cluster, or region (and zone)");
            }
            if gateway.tunnel.is_empty() {
                self.add(path.key("tunnel"), "there must be at least one address or prefix");
            }
            for (i, prefix) in gateway.tunnel.iter().enumerate() {
                let path = path.key("tunnel").index(i);
                if gateway.tunnel[..i].iter().any(|other| is_v4(&other.0) == is_v4(&prefix.0)) {
                    self.add(path.clone(), "a second one of the same IP version: there can be one of each");
                }
                if prefix.0.max_prefix_len() - prefix.0.prefix_len() > 32 {
                    self.add(
                        path,
                        format!("{} is too wide: at most the last 32 bits can vary, /96", prefix.0),
                    );
                }
            }
        }
    }

    /// What a slot resolves to is the endpoint's address in a family that the gateway has tunnels of: gateways of a group
    /// that differ in these would steer the same connection to different endpoints.
    fn groups(&mut self, config: &Config) {
        let families = |gateway: &GatewayConfig| {
            let has = |v4| gateway.tunnel.iter().any(|prefix| is_v4(&prefix.0) == v4);
            (has(true), has(false))
        };
        let group = |gateway| super::declare::group_of(config, gateway);
        for (index, gateway) in config.gateways.iter().enumerate() {
            let mut earlier = config.gateways[..index].iter().filter(|other| !other.tunnel.is_empty());
            let first = earlier.find(|other| group(other) == group(gateway));
            if let Some(first) = first
                && !gateway.tunnel.is_empty()
                && families(first) != families(gateway)
            {
                let message = format!(
                    "gateway {} of the same group {:?} has tunnels of other IP versions: gateways of a group must have the same ones",
                    first.name.0,
                    group(gateway)
                );
                self.add(at("gateways").index(index).key("tunnel"), message);
            }
        }
    }

    fn clusters(&mut self, config: &Config) {
        for (index, cluster) in config.clusters.iter().enumerate() {
            let path = at("clusters").index(index);
            if cluster.pod_cidrs.is_empty() {
                let message = "there must be at least one: endpoints outside of them are not accepted";
                self.add(path.key("podCidrs"), message);
            }
            for other in &config.clusters[..index] {
                let ClusterConfig { name, manifests, .. } = other;
                if manifests.starts_with(&cluster.manifests) || cluster.manifests.starts_with(manifests) {
                    let message = format!(
                        "cluster {} reads {} already: each needs its own directory",
                        name.0,
                        manifests.display()
                    );
                    self.add(path.key("manifests"), message);
                }
            }
        }
    }

    /// No address may mean two things: pods, tunnels and VIPs are apart from each other.
    fn addresses(&mut self, config: &Config) {
        let mut taken: Vec<(IpNet, String, &str)> = Vec::new();
        for (index, cluster) in config.clusters.iter().enumerate() {
            for (i, net) in cluster.pod_cidrs.iter().enumerate() {
                let path = at("clusters").index(index).key("podCidrs").index(i);
                self.apart(
                    &mut taken,
                    &path,
                    *net,
                    format!("the pods of cluster {}", cluster.name.0),
                    &cluster.name.0,
                );
            }
        }
        for (index, gateway) in config.gateways.iter().enumerate() {
            for (i, prefix) in gateway.tunnel.iter().enumerate() {
                let path = at("gateways").index(index).key("tunnel").index(i);
                self.apart(
                    &mut taken,
                    &path,
                    prefix.0,
                    format!("the tunnels of gateway {}", gateway.name.0),
                    "",
                );
            }
        }
        for (index, net) in config.vip_pools.iter().enumerate() {
            self.apart(&mut taken, &at("vipPools").index(index), *net, "another pool".to_owned(), "");
        }
    }

    fn apart<'c>(
        &mut self,
        taken: &mut Vec<(IpNet, String, &'c str)>,
        path: &Path,
        net: IpNet,
        what: String,
        cluster: &'c str,
    ) {
        if net.addr().is_multicast() || net.addr().is_loopback() || net.addr().is_unspecified() {
            self.add(path.clone(), format!("{net} has no addresses of hosts"));
        }
        let overlaps = |other: &IpNet| other.contains(&net) || net.contains(other);
        for (other, whose, of) in taken.iter().filter(|(other, ..)| overlaps(other)) {
            if cluster.is_empty() || *of != cluster {
                let (net, other) = (Prefix(net), Prefix(*other));
                let message = format!("{net} overlaps {other}, {whose}: an address must mean one thing");
                self.add(path.clone(), message);
            }
        }
        taken.push((net, what, cluster));
    }

    fn distances(&mut self, config: &Config) {
        let mut seen: Vec<[&Name; 2]> = Vec::new();
        for (index, distance) in config.distances.iter().enumerate() {
            let path = at("distances").index(index).key("between");
            let [a, b] = distance.between.as_slice() else {
                self.add(path, format!("there must be two regions, here are {}", distance.between.len()));
                continue;
            };
            for (i, region) in [a, b].into_iter().enumerate() {
                let regions = || {
                    let of_clusters = config.clusters.iter().map(|cluster| &cluster.region);
                    of_clusters.chain(config.gateways.iter().filter_map(|gateway| gateway.region.as_ref()))
                };
                if !regions().chain(&config.node.region).any(|known| known == region) {
                    let hint = nearest(&region.0, regions().map(|known| &*known.0))
                        .map_or(String::new(), |name| format!(": did you mean {name}?"));
                    self.add(path.index(i), format!("nothing is in a region {:?}{hint}", region.0));
                }
            }
            let pair = if a <= b { [a, b] } else { [b, a] };
            if a == b {
                self.add(path, "a region is at no distance from itself: remove this entry");
            } else if seen.contains(&pair) {
                self.add(path, "their distance was given before: remove one entry");
            }
            seen.push(pair);
        }
    }

    fn numbers(&mut self, config: &Config) {
        let probes = &config.probes;
        if probes.timeout > probes.interval {
            self.add(
                at("probes").key("timeout"),
                "must not be longer than interval: probes of an endpoint don't overlap",
            );
        }
        if !probes.path.starts_with('/')
            || probes.path.contains(|c: char| c.is_whitespace() || c.is_control())
        {
            self.add(
                at("probes").key("path"),
                format!("{:?} is not a path of HTTP: it begins with / and has no spaces", probes.path),
            );
        }
        let capacities = &config.capacities;
        let smallest_ring = fairlead_abi::RING_SIZES[0];
        if capacities.slots / smallest_ring < capacities.services {
            let needed = u64::from(capacities.services) * u64::from(smallest_ring);
            let message = format!(
                "too few for {} services of {smallest_ring} slots each: {needed} or more",
                capacities.services
            );
            self.add(at("capacities").key("slots"), message);
        }
        if capacities.backends < capacities.services {
            let message = format!("too few for {} services of a backend each", capacities.services);
            self.add(at("capacities").key("backends"), message);
        }
        let v6 = config.gateways.iter().flat_map(|gateway| &gateway.tunnel).any(|prefix| !is_v4(&prefix.0));
        let overhead = fairlead_abi::overhead(
            match config.tunnel.encapsulation {
                Tunnel::Ipip => fairlead_abi::Encap::Ipip,
                Tunnel::Gue => fairlead_abi::Encap::Gue,
            },
            if v6 { fairlead_abi::Family::V6 } else { fairlead_abi::Family::V4 },
        );
        if config.tunnel.mtu < 1280 + overhead {
            let message =
                format!("too small: IPv6 needs 1280 bytes inside, and the outer headers are {overhead}");
            self.add(at("tunnel").key("mtu"), message);
        }
    }
}

fn is_v4(net: &IpNet) -> bool {
    net.addr().is_ipv4()
}
