//! What the fields must be to each other.
//!
//! A draft comes in: a field that could not be read has its own problem already, and nothing is concluded from it.

mod clusters;
mod numbers;

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;

use super::kinds::unusable;
use super::types::{ConfigDraft, GatewayDraft, Name, Prefix, Role};
use crate::text::nearest;
use crate::yaml::Path;

/// A contradiction, at the field that is easiest to change.
pub(super) struct Fault {
    pub(super) path: Path,
    pub(super) message: String,
}

/// Everything that doesn't fit together.
pub(super) fn faults(config: &ConfigDraft) -> Vec<Fault> {
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

/// What may be left out; the outer `None`: it could not be read.
type Place = Option<Option<Name>>;

/// The elements of a list; none of one that could not be read.
fn items<T>(list: &Option<Vec<T>>) -> &[T] {
    list.as_deref().unwrap_or_default()
}

/// A part of each element, where it could be read of all of them.
fn all<'l, T, P>(list: &'l Option<Vec<T>>, part: impl Fn(&'l T) -> Option<P>) -> Option<Vec<P>> {
    list.as_ref()?.iter().map(part).collect()
}

/// `gateway gw1`; one without a readable name by its field.
fn called(kind: &str, index: usize, name: &Option<Name>) -> String {
    name.as_ref().map_or_else(|| format!("{kind}s[{index}]"), |name| format!("{kind} {}", name.0))
}

struct Faults(Vec<Fault>);

impl Faults {
    fn add(&mut self, path: Path, message: impl Into<String>) {
        self.0.push(Fault { path, message: message.into() });
    }

    /// Something that must not be an empty list.
    fn some<T>(&mut self, path: Path, list: &Option<Vec<T>>, message: &str) {
        if list.as_ref().is_some_and(Vec::is_empty) {
            self.add(path, message);
        }
    }

    fn names(&mut self, config: &ConfigDraft) {
        self.unique("cluster", items(&config.clusters).iter().map(|cluster| &cluster.name));
        self.unique("gateway", items(&config.gateways).iter().map(|gateway| &gateway.name));
        self.some(at("clusters"), &config.clusters, "there must be at least one cluster");
        self.some(at("gateways"), &config.gateways, "there must be at least one gateway");
    }

    fn unique<'c>(&mut self, kind: &str, names: impl Iterator<Item = &'c Option<Name>>) {
        let (list, mut first) = (format!("{kind}s"), BTreeMap::new());
        for (index, name) in names.enumerate() {
            let Some(name) = name else { continue };
            let other = *first.entry(name).or_insert(index);
            if other != index {
                let message =
                    format!("{list}[{other}] is called {:?} too: give this {kind} another name", name.0);
                self.add(at(&list).index(index).key("name"), message);
            }
        }
    }

    fn node(&mut self, config: &ConfigDraft) {
        let (node, path) = (&config.node, at("node"));
        self.some(path.key("roles"), &node.roles, "a node must be gateway, receiver or both");
        self.no_repetition(&path.key("roles"), items(&node.roles));
        self.some(
            path.key("interfaces"),
            &node.interfaces,
            "there must be at least one interface: `ip -br link` lists them",
        );
        self.no_repetition(&path.key("interfaces"), items(&node.interfaces));
        self.place(config, &path, [&node.cluster, &node.region, &node.zone]);
        let gateways = items(&config.gateways);
        let own = gateways.iter().find(|gateway| gateway.name.is_some() && gateway.name == node.name);
        match own {
            Some(own) => self.as_in_gateways(config, own),
            None if all(&config.gateways, |gateway| gateway.name.as_ref()).is_some() => {
                self.not_in_gateways(config);
            }
            None => {}
        }
    }

    /// The node's own place and that of its entry among the gateways.
    fn as_in_gateways(&mut self, config: &ConfigDraft, own: &GatewayDraft) {
        let node = &config.node;
        for (field, here, there) in [
            ("cluster", &node.cluster, &own.cluster),
            ("region", &node.region, &own.region),
            ("zone", &node.zone, &own.zone),
        ] {
            if let (Some(Some(here)), Some(Some(there))) = (here, there)
                && here != there
                && !(field == "cluster" && is_unknown(config, here))
            {
                let message = format!("is {:?}, but its entry in gateways says {:?}", here.0, there.0);
                self.add(at("node").key(field), message);
            }
        }
    }

    fn not_in_gateways(&mut self, config: &ConfigDraft) {
        let node = &config.node;
        let (Some(name), Some(roles)) = (&node.name, all(&node.roles, |role| *role)) else { return };
        if !roles.contains(&Role::Gateway) {
            self.somewhere(&at("node"), &node.cluster, &node.region);
        } else if !items(&config.gateways).is_empty() {
            let message = format!(
                "a gateway needs an entry in gateways, and there is none called {:?}: add one with its tunnel addresses",
                name.0
            );
            self.add(at("node").key("name"), message);
        }
    }

    /// What has neither a cluster nor a region stands nowhere.
    fn somewhere(&mut self, path: &Path, cluster: &Place, region: &Place) {
        if let (Some(None), Some(None)) = (cluster, region) {
            self.add(path.clone(), "where does it stand? Give cluster, or region (and zone)");
        }
    }

    fn no_repetition<T: PartialEq>(&mut self, path: &Path, values: &[Option<T>]) {
        for (index, value) in values.iter().enumerate() {
            if value.is_some() && values[..index].contains(value) {
                self.add(path.index(index), "stands here twice: remove one");
            }
        }
    }

    /// The cluster, region and zone of something at `path`.
    fn place(&mut self, config: &ConfigDraft, path: &Path, [cluster, region, zone]: [&Place; 3]) {
        let name = match cluster {
            Some(Some(name)) => name,
            Some(None) => {
                if let (Some(None), Some(Some(_))) = (region, zone) {
                    let message = "a zone counts only together with its region: give region too";
                    self.add(path.key("zone"), message);
                }
                return;
            }
            None => return,
        };
        if is_unknown(config, name) {
            let names = items(&config.clusters).iter().filter_map(|cluster| cluster.name.as_ref());
            let hint = nearest(&name.0, names.map(|name| &*name.0))
                .map_or("add it to clusters".to_owned(), |n| format!("did you mean {n}?"));
            self.add(path.key("cluster"), format!("there is no cluster {:?}: {hint}", name.0));
        }
        let mut clusters = items(&config.clusters).iter();
        let Some(cluster) = clusters.find(|cluster| cluster.name.as_ref() == Some(name)) else { return };
        for (field, given, of_cluster) in [("region", region, &cluster.region), ("zone", zone, &cluster.zone)]
        {
            if let (Some(Some(given)), Some(of_cluster)) = (given, of_cluster)
                && given != of_cluster
            {
                let message = format!(
                    "is {:?}, but cluster {} is in {:?}: leave it out",
                    given.0, name.0, of_cluster.0
                );
                self.add(path.key(field), message);
            }
        }
    }

    fn gateways(&mut self, config: &ConfigDraft) {
        for (index, gateway) in items(&config.gateways).iter().enumerate() {
            let path = at("gateways").index(index);
            let GatewayDraft { cluster, region, zone, .. } = gateway;
            self.place(config, &path, [cluster, region, zone]);
            self.somewhere(&path, cluster, region);
            let path = path.key("tunnel");
            self.some(path.clone(), &gateway.tunnel, "there must be at least one address or prefix");
            let tunnel = items(&gateway.tunnel);
            for (i, prefix) in tunnel.iter().enumerate() {
                let Some(Prefix(net)) = prefix else { continue };
                if tunnel[..i].iter().flatten().any(|other| is_v4(&other.0) == is_v4(net)) {
                    let message = "a second one of the same IP version: there can be one of each";
                    self.add(path.index(i), message);
                }
                if net.max_prefix_len() - net.prefix_len() > 32 && unusable(net).is_none() {
                    let message = format!("{net} is too wide: at most the last 32 bits can vary, /96");
                    self.add(path.index(i), message);
                }
            }
        }
    }

    /// What a slot resolves to is the endpoint's address in a family that the gateway has tunnels of: gateways of a group
    /// that differ in these would steer the same connection to different endpoints.
    fn groups(&mut self, config: &ConfigDraft) {
        let families = |gateway: &GatewayDraft| {
            let versions = all(&gateway.tunnel, |prefix| prefix.as_ref().map(|prefix| is_v4(&prefix.0)))?;
            (!versions.is_empty()).then(|| (versions.contains(&true), versions.contains(&false)))
        };
        let mut first: BTreeMap<Arc<str>, ((bool, bool), String)> = BTreeMap::new();
        for (index, gateway) in items(&config.gateways).iter().enumerate() {
            let (Some(group), Some(here)) = (group_of(config, gateway), families(gateway)) else { continue };
            let name = || called("gateway", index, &gateway.name);
            let (there, other) = first.entry(Arc::clone(&group)).or_insert_with(|| (here, name()));
            if *there != here {
                let message = format!(
                    "{other} of the same group {group:?} has tunnels of other IP versions: gateways of a group must have the same ones"
                );
                self.add(at("gateways").index(index).key("tunnel"), message);
            }
        }
    }

    /// No address may mean two things: pods, tunnels and VIPs are apart from each other.
    fn addresses(&mut self, config: &ConfigDraft) {
        let mut taken = Vec::new();
        for (index, cluster) in items(&config.clusters).iter().enumerate() {
            let whose = format!("the pods of {}", called("cluster", index, &cluster.name));
            for (i, net) in items(&cluster.pod_cidrs).iter().enumerate() {
                let path = at("clusters").index(index).key("podCidrs").index(i);
                self.apart(&mut taken, &path, *net, &whose, Some(index));
            }
        }
        for (index, gateway) in items(&config.gateways).iter().enumerate() {
            let whose = format!("the tunnels of {}", called("gateway", index, &gateway.name));
            for (i, prefix) in items(&gateway.tunnel).iter().enumerate() {
                let path = at("gateways").index(index).key("tunnel").index(i);
                self.apart(&mut taken, &path, prefix.map(|prefix| prefix.0), &whose, None);
            }
        }
        for (index, net) in items(&config.vip_pools).iter().enumerate() {
            self.apart(&mut taken, &at("vipPools").index(index), *net, "another pool", None);
        }
    }

    /// Those of one cluster may overlap.
    fn apart(
        &mut self,
        taken: &mut Vec<(IpNet, String, Option<usize>)>,
        path: &Path,
        net: Option<IpNet>,
        whose: &str,
        cluster: Option<usize>,
    ) {
        let Some(net) = net else { return };
        if let Some(message) = unusable(&net) {
            return self.add(path.clone(), message);
        }
        let overlaps = |other: &IpNet| other.contains(&net) || net.contains(other);
        for (other, whose, of) in taken.iter().filter(|(other, ..)| overlaps(other)) {
            if cluster.is_none() || *of != cluster {
                let (net, other) = (Prefix(net), Prefix(*other));
                let message = format!("{net} overlaps {other}, {whose}: an address must mean one thing");
                self.add(path.clone(), message);
            }
        }
        taken.push((net, whose.to_owned(), cluster));
    }

    fn distances(&mut self, config: &ConfigDraft) {
        let regions = regions(config);
        let mut seen: Vec<[&Name; 2]> = Vec::new();
        for (index, distance) in items(&config.distances).iter().enumerate() {
            let path = at("distances").index(index).key("between");
            let Some(between) = &distance.between else { continue };
            let [a, b] = between.as_slice() else {
                self.add(path, format!("there must be two regions, here are {}", between.len()));
                continue;
            };
            for (i, region) in between.iter().enumerate() {
                if let (Some(region), Some(known)) = (region, &regions)
                    && !known.contains(&region)
                {
                    let hint = nearest(&region.0, known.iter().map(|known| &*known.0))
                        .map_or(String::new(), |name| format!(": did you mean {name}?"));
                    self.add(path.index(i), format!("nothing is in a region {:?}{hint}", region.0));
                }
            }
            let (Some(a), Some(b)) = (a, b) else { continue };
            let pair = if a <= b { [a, b] } else { [b, a] };
            if a == b {
                self.add(path, "a region is at no distance from itself: remove this entry");
            } else if seen.contains(&pair) {
                self.add(path, "their distance was given before: remove one entry");
            }
            seen.push(pair);
        }
    }
}

/// Whether there certainly is no cluster of that name. Where there is none at all, that is the problem.
fn is_unknown(config: &ConfigDraft, name: &Name) -> bool {
    let names = all(&config.clusters, |cluster| cluster.name.as_ref());
    names.is_some_and(|names| !names.is_empty() && !names.contains(&name))
}

/// The group of a gateway, as far as it can be told.
fn group_of(config: &ConfigDraft, gateway: &GatewayDraft) -> Option<Arc<str>> {
    let region = match (&gateway.group, &gateway.cluster) {
        (Some(Some(group)), _) => Some(group),
        (Some(None), Some(Some(name))) => {
            let mut clusters = items(&config.clusters).iter();
            clusters.find(|cluster| cluster.name.as_ref() == Some(name))?.region.as_ref()
        }
        (Some(None), Some(None)) => gateway.region.as_ref()?.as_ref(),
        _ => None,
    };
    region.map(|name| Arc::clone(&name.0))
}

/// All regions that anything stands in; `None` where one of them could not be read, or there is no cluster at all.
fn regions(config: &ConfigDraft) -> Option<Vec<&Name>> {
    let mut regions = all(&config.clusters, |cluster| cluster.region.as_ref())?;
    if regions.is_empty() {
        return None;
    }
    let of_gateways = all(&config.gateways, |gateway| gateway.region.as_ref())?;
    regions.extend(of_gateways.into_iter().chain([config.node.region.as_ref()?]).flatten());
    Some(regions)
}

fn is_v4(net: &IpNet) -> bool {
    net.addr().is_ipv4()
}
