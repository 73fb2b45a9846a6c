//! What there is in each cluster, read from its source, and what a name on the command line means among it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, bail};
use fairlead_core::model::{Endpoint, ObjectName, ShardSpec};

use super::write::FILE;
use crate::config::types::ClusterConfig;
use crate::directory::Changed;
use crate::federation::convert::{DRAINS_NAME, DRAINS_NAMESPACE, Defaults, Drains, drains_key};
use crate::federation::kubernetes::{self, Snapshot};
use crate::federation::{Access, Manifests, Origin, Store};
use crate::text::nearest;

/// A message names no more things than this.
const MOST: usize = 10;

/// A cluster as its source has it.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) name: Arc<str>,
    pub(super) region: Arc<str>,
    pub(super) zone: Arc<str>,
    pub(super) origin: Origin,
    /// It could be read.
    pub(super) reachable: bool,
    /// Why an API server could not be.
    pub(super) unread: Option<String>,
    /// Where the object stands that says what is drained.
    pub(super) file: Option<PathBuf>,
    pub(super) drains: Arc<Drains>,
    pub(super) nodes: BTreeSet<Arc<str>>,
    pub(super) shards: BTreeMap<ObjectName, Arc<ShardSpec>>,
}

/// What can be drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// One pod, in all services: its name, namespace/name or cluster/namespace/name
    Pod,
    /// All endpoints of a node: its name or cluster/name
    Node,
    /// All endpoints of a cluster
    Cluster,
    /// All endpoints of all clusters of a zone: its name or region/name
    Zone,
}

impl Kind {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Node => "node",
            Self::Cluster => "cluster",
            Self::Zone => "zone",
        }
    }
}

/// Something of one cluster that is drained as one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    Pod(Arc<str>, ObjectName),
    Node(Arc<str>, Arc<str>),
    Cluster(Arc<str>),
}

impl Target {
    pub(super) fn cluster(&self) -> &Arc<str> {
        match self {
            Self::Pod(cluster, _) | Self::Node(cluster, _) | Self::Cluster(cluster) => cluster,
        }
    }

    /// As it is always understood on the command line.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Pod(cluster, pod) => format!("{cluster}/{pod}"),
            Self::Node(cluster, node) => format!("{cluster}/{node}"),
            Self::Cluster(cluster) => cluster.to_string(),
        }
    }

    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Pod(..) => "pod",
            Self::Node(..) => "node",
            Self::Cluster(_) => "cluster",
        }
    }

    /// Drains it, or undoes that.
    pub(super) fn set(&self, drains: &mut Drains, undo: bool) {
        match (self, undo) {
            (Self::Pod(_, pod), false) => drop(drains.pods.insert(pod.clone())),
            (Self::Pod(_, pod), true) => drop(drains.pods.remove(pod)),
            (Self::Node(_, node), false) => drop(drains.nodes.insert(Arc::clone(node))),
            (Self::Node(_, node), true) => drop(drains.nodes.remove(node)),
            (Self::Cluster(_), undo) => drains.cluster = !undo,
        }
    }

    /// Whether these drain it, by its own name.
    pub(super) fn is_in(&self, drains: &Drains) -> bool {
        match self {
            Self::Pod(_, pod) => drains.pods.contains(pod),
            Self::Node(_, node) => drains.nodes.contains(node),
            Self::Cluster(_) => drains.cluster,
        }
    }

    /// Whether an endpoint is part of it.
    pub(super) fn holds(&self, cluster: &str, namespace: &str, (pod, node): (&str, &str)) -> bool {
        **self.cluster() == *cluster
            && match self {
                Self::Pod(_, name) => *name.namespace == *namespace && *name.name == *pod,
                Self::Node(_, name) => **name == *node,
                Self::Cluster(_) => true,
            }
    }
}

/// All clusters of the configuration. Those of API servers are read at the same time.
pub(super) fn clusters(configured: &[ClusterConfig]) -> Result<Vec<Cluster>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let read = configured.iter().map(async |of| match of.origin() {
        Origin::Manifests(root) => from_manifests(of, root),
        Origin::Kubernetes(access) => from_server(of, access).await,
    });
    Ok(runtime.block_on(futures::future::join_all(read)))
}

fn from_manifests(of: &ClusterConfig, root: PathBuf) -> Cluster {
    let name = Arc::clone(&of.name.0);
    let mut manifests = Manifests::new(name, root.clone(), Defaults::default(), Store::default());
    manifests.refresh(&Changed::Anything, &|_| false);
    Cluster {
        reachable: manifests.reachable(),
        file: manifests.file_of(&drains_key()).map(ToOwned::to_owned),
        drains: Arc::clone(manifests.store().drains()),
        nodes: manifests.nodes(),
        shards: manifests.store().shards().clone(),
        ..Cluster::unread(of, Origin::Manifests(root))
    }
}

async fn from_server(of: &ClusterConfig, access: Access) -> Cluster {
    let read = kubernetes::read(Arc::clone(&of.name.0), &access).await;
    let cluster = Cluster::unread(of, Origin::Kubernetes(access));
    match read {
        Ok(Snapshot { shards, drains, nodes }) => {
            Cluster { reachable: true, shards, drains, nodes, ..cluster }
        }
        Err(message) => Cluster { unread: Some(message), ..cluster },
    }
}

impl Cluster {
    fn unread(of: &ClusterConfig, origin: Origin) -> Self {
        Self {
            name: Arc::clone(&of.name.0),
            region: Arc::clone(&of.region.0),
            zone: Arc::clone(&of.zone.0),
            origin,
            reachable: false,
            unread: None,
            file: None,
            drains: Arc::default(),
            nodes: BTreeSet::new(),
            shards: BTreeMap::new(),
        }
    }

    /// Where it is said what is drained of it.
    pub(super) fn place(&self) -> String {
        match &self.origin {
            Origin::Manifests(directory) => directory.join(FILE).display().to_string(),
            Origin::Kubernetes(_) => format!("ConfigMap {DRAINS_NAMESPACE}/{DRAINS_NAME}"),
        }
    }

    /// Every endpoint, with its service.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = (&ObjectName, &Endpoint)> {
        self.shards
            .iter()
            .flat_map(|(name, spec)| spec.endpoints.iter().map(move |endpoint| (name, endpoint)))
    }

    fn pods(&self) -> BTreeSet<ObjectName> {
        let pod = |(service, endpoint): (&ObjectName, &Endpoint)| ObjectName {
            namespace: Arc::clone(&service.namespace),
            name: Arc::clone(&endpoint.pod),
        };
        self.endpoints().map(pod).collect()
    }

    /// What there is of a kind, or what is drained of it.
    fn targets(&self, kind: Kind, drained: bool) -> Vec<Target> {
        let pod = |pod| Target::Pod(Arc::clone(&self.name), pod);
        let node = |node| Target::Node(Arc::clone(&self.name), node);
        match kind {
            Kind::Pod if drained => self.drains.pods.iter().cloned().map(pod).collect(),
            Kind::Pod => self.pods().into_iter().map(pod).collect(),
            Kind::Node if drained => self.drains.nodes.iter().cloned().map(node).collect(),
            Kind::Node => self.nodes.iter().cloned().map(node).collect(),
            Kind::Cluster | Kind::Zone if drained && !self.drains.cluster => Vec::new(),
            Kind::Cluster | Kind::Zone => vec![Target::Cluster(Arc::clone(&self.name))],
        }
    }
}

/// What `name` means: one thing, or all clusters of a zone.
pub(super) fn meant(clusters: &[Cluster], kind: Kind, name: &str, undo: bool) -> Result<Vec<Target>> {
    if kind == Kind::Zone {
        return zone(clusters, name);
    }
    let all = |drained| -> Vec<Target> {
        clusters.iter().flat_map(|cluster| cluster.targets(kind, drained)).collect()
    };
    let there = all(false);
    // What is undone may be gone by now; and of several of a name the one is meant that is drained.
    let drained = if undo { all(true) } else { Vec::new() };
    let of_name = |targets: &[Target]| -> Vec<Target> {
        targets.iter().filter(|target| is_called(target, name)).cloned().collect()
    };
    let found = Some(of_name(&drained)).filter(|found| !found.is_empty()).unwrap_or_else(|| of_name(&there));
    let word = kind.word();
    match found.len() {
        1 => Ok(found),
        // A pod or node that is gone may have been drained, and isn't any more: as well as done.
        0 if undo && kind != Kind::Cluster && clusters.iter().all(|cluster| cluster.reachable) => Ok(found),
        0 => bail!("there is no {word} {name:?}{}", what_there_is(clusters, name, &there, word)),
        _ => bail!("there are several {word}s {name:?}: name one of {}", list(&found)),
    }
}

/// By its whole name, or by the end of it.
fn is_called(target: &Target, name: &str) -> bool {
    let whole = target.name();
    whole.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
}

fn what_there_is(clusters: &[Cluster], name: &str, there: &[Target], word: &str) -> String {
    let last = |text: &str| text.rsplit('/').next().unwrap_or_default().to_owned();
    let names: Vec<String> = there.iter().map(|target| last(&target.name())).collect();
    let near = nearest(&last(name), names.iter().map(String::as_str));
    let near = near.and_then(|near| there.iter().find(|target| last(&target.name()) == near));
    let known = match (near, there) {
        // Pods are known by the endpoints of services that are served.
        (_, []) if word == Kind::Pod.word() => "; no Service that fairlead serves has any".to_owned(),
        (_, []) => format!("; no cluster has any {word}"),
        (None, [only]) => format!("; there is {}", only.name()),
        (Some(near), [_]) => format!("; did you mean {}?", near.name()),
        (None, _) => format!("; there are {}", list(there)),
        (Some(near), _) => format!("; did you mean {}? There are {}", near.name(), list(there)),
    };
    let unread = clusters.iter().filter(|cluster| !cluster.reachable).map(|cluster| match &cluster.unread {
        Some(message) => format!("; cluster {} can't be read: {message}", cluster.name),
        None => format!("; the manifests of {} can't be read", cluster.name),
    });
    known + &unread.collect::<String>()
}

fn list(targets: &[Target]) -> String {
    let mut names: Vec<String> = targets.iter().take(MOST).map(Target::name).collect();
    if targets.len() > MOST {
        names.push(format!("{} more", targets.len() - MOST));
    }
    names.join(", ")
}

fn zone(clusters: &[Cluster], name: &str) -> Result<Vec<Target>> {
    let whole = |cluster: &Cluster| format!("{}/{}", cluster.region, cluster.zone);
    let of_name = |cluster: &&Cluster| *cluster.zone == *name || whole(cluster) == name;
    let found: Vec<&Cluster> = clusters.iter().filter(of_name).collect();
    let zones = |clusters: &[&Cluster]| -> Vec<String> {
        clusters.iter().map(|cluster| whole(cluster)).collect::<BTreeSet<_>>().into_iter().collect()
    };
    match zones(&found).as_slice() {
        [_] => Ok(found.iter().map(|cluster| Target::Cluster(Arc::clone(&cluster.name))).collect()),
        [] => {
            let all = zones(&clusters.iter().collect::<Vec<_>>());
            bail!(
                "there is no zone {name:?}; there {} {}",
                if all.len() == 1 { "is" } else { "are" },
                all.join(", ")
            )
        }
        several => bail!("there are several zones {name:?}: name one of {}", several.join(", ")),
    }
}
