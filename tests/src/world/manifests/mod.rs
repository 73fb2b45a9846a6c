//! Kubernetes manifests of the world's clusters: a directory per cluster with the objects as `kubectl get -o yaml`
//! prints them.
//!
//! What the API server of a cluster would say is held here and can be changed: a pod is drained, taken out, brought
//! back. Each change is written to a file beside the old one and put in its place by a rename. Whether servers really
//! run has nothing to do with it.

mod copies;
mod text;

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result, ensure};

use super::plan::{ClusterSeat, Layout, NodeSeat, PodSeat};
use super::pod::{HTTP_PORT, QUIC_PORT, UDP_PORT};
use copies::Copies;

/// Label of nodes that have a receiver.
const RECEIVER_LABEL: &str = "fairlead.io/receiver";

/// Annotation that names a service's VIPs.
const VIPS_ANNOTATION: &str = "fairlead.io/vip";

/// A federated service, the same in every cluster that has a shard of it.
#[derive(Clone, Debug)]
pub struct ServiceSpec {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its VIPs.
    pub vips: Vec<IpAddr>,
    /// Port of the VIP for HTTP, served by nginx.
    pub http_port: u16,
    /// Port of the VIP for UDP, served by the echo.
    pub udp_port: u16,
    /// Port of the VIP for QUIC, served by the server whose connections last.
    pub quic_port: Option<u16>,
    /// Each client stays at one endpoint.
    pub by_client: bool,
    /// Ranges of the clients that it lets in; empty: all.
    pub source_ranges: Vec<String>,
    /// Annotations besides the VIPs'.
    pub annotations: BTreeMap<String, String>,
}

impl ServiceSpec {
    /// A service in namespace `shop`: HTTP on port 80 and the echo on port 7, on the VIPs with this last number.
    #[must_use]
    pub fn new(name: &str, number: u8) -> Self {
        let v6 = std::net::Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, number.into());
        Self {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            vips: vec![IpAddr::from([203, 0, 113, number]), v6.into()],
            http_port: 80,
            udp_port: 7,
            quic_port: None,
            by_client: false,
            source_ranges: Vec::new(),
            annotations: BTreeMap::new(),
        }
    }

    /// With QUIC on port 443.
    #[must_use]
    pub fn quic(self) -> Self {
        Self { quic_port: Some(443), ..self }
    }

    /// With one more annotation.
    #[must_use]
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.annotations.insert(name.to_owned(), value.to_owned());
        self
    }
}

/// An endpoint's conditions (EndpointSlice v1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Ready and serving.
    Ready,
    /// Neither ready nor serving, as when its readiness probe fails.
    NotReady,
    /// Serving, terminating and so not ready: it is being deleted.
    Terminating,
}

/// The manifests of one cluster.
#[derive(Debug)]
pub struct Manifests {
    directory: PathBuf,
    copies: Copies,
    cluster: ClusterSeat,
    nodes: Vec<NodeSeat>,
    pods: Vec<Pod>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct Pod {
    seat: PodSeat,
    node: String,
}

#[derive(Debug, Default)]
struct State {
    services: BTreeMap<String, ServiceSpec>,
    /// By pod; one that is missing is in no EndpointSlice.
    endpoints: BTreeMap<String, Condition>,
    /// Nodes that are labelled as having a receiver.
    receivers: BTreeMap<String, bool>,
    /// As `metadata.resourceVersion`.
    version: u64,
}

impl Manifests {
    /// With nodes that all have receivers, all pods ready, and no service yet.
    pub(super) fn new(world: &Path, cluster: &ClusterSeat, layout: &Layout) -> Result<Self> {
        let directory = world.join("manifests").join(&cluster.name);
        fs::create_dir_all(&directory)?;
        let of_cluster = |node: &&NodeSeat| node.cluster == cluster.name;
        let nodes: Vec<_> = layout.nodes.iter().filter(of_cluster).cloned().collect();
        let pods: Vec<_> = layout
            .pods
            .iter()
            .filter(|pod| layout.nodes[pod.node].cluster == cluster.name)
            .map(|pod| Pod { seat: pod.clone(), node: layout.nodes[pod.node].host.name.clone() })
            .collect();
        let state = State {
            endpoints: pods.iter().map(|pod| (pod.seat.name.clone(), Condition::Ready)).collect(),
            receivers: nodes.iter().map(|node| (node.host.name.clone(), true)).collect(),
            ..State::default()
        };
        let manifests = Self {
            directory,
            copies: Copies::default(),
            cluster: cluster.clone(),
            nodes,
            pods,
            state: Mutex::new(state),
        };
        manifests.change(|_| Ok(()))?;
        Ok(manifests)
    }

    /// The cluster.
    #[must_use]
    pub fn cluster(&self) -> &ClusterSeat {
        &self.cluster
    }

    /// Where the files are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes a copy of them in `directory`, which from now on is all that `host` knows of the cluster.
    pub(super) fn copy_for(&self, host: &str, directory: PathBuf) -> Result<()> {
        self.copies.add(&self.directory, host, directory)
    }

    /// From now on `host`, which has a copy of its own, hears of no change.
    pub fn stop_updates(&self, host: &str) -> Result<()> {
        self.copies.stop(&self.directory, host, true)
    }

    /// It hears of all that has changed, and of what will.
    pub fn resume_updates(&self, host: &str) -> Result<()> {
        self.copies.stop(&self.directory, host, false)
    }

    /// Adds a service with all pods as its endpoints, or replaces the one with its name.
    pub fn add_service(&self, service: &ServiceSpec) -> Result<()> {
        self.change(|state| {
            state.services.insert(service.name.clone(), service.clone());
            Ok(())
        })
    }

    /// Takes a service out of this cluster.
    pub fn remove_service(&self, name: &str) -> Result<()> {
        self.change(|state| {
            state.services.remove(name).map(drop).with_context(|| format!("no service {name}"))
        })?;
        for file in ["service", "endpointslice-ipv4", "endpointslice-ipv6"] {
            fs::remove_file(self.directory.join(format!("{name}-{file}.yaml")))?;
        }
        self.copies.refresh(&self.directory)
    }

    /// Sets (`Some`) or removes an annotation of a service, e.g. its capacity.
    pub fn annotate(&self, service: &str, name: &str, value: Option<&str>) -> Result<()> {
        self.change(|state| {
            let service = state.services.get_mut(service).with_context(|| format!("no service {service}"))?;
            match value {
                Some(value) => service.annotations.insert(name.to_owned(), value.to_owned()),
                None => service.annotations.remove(name),
            };
            Ok(())
        })
    }

    /// Gives a pod's endpoints this condition; one that was removed is added again.
    pub fn set(&self, pod: &str, condition: Condition) -> Result<()> {
        self.known(pod)?;
        self.change(|state| {
            state.endpoints.insert(pod.to_owned(), condition);
            Ok(())
        })
    }

    /// Gives several pods' endpoints this condition at once.
    pub fn set_many(&self, pods: &[&str], condition: Condition) -> Result<()> {
        pods.iter().try_for_each(|pod| self.known(pod))?;
        self.change(|state| {
            state.endpoints.extend(pods.iter().map(|&pod| (pod.to_owned(), condition)));
            Ok(())
        })
    }

    /// Has exactly these pods in the EndpointSlices, all of them ready.
    pub fn set_exactly(&self, pods: &[&str]) -> Result<()> {
        pods.iter().try_for_each(|pod| self.known(pod))?;
        self.change(|state| {
            state.endpoints = pods.iter().map(|&pod| (pod.to_owned(), Condition::Ready)).collect();
            Ok(())
        })
    }

    /// Gives all pods of the cluster this condition.
    pub fn set_all(&self, condition: Condition) -> Result<()> {
        self.change(|state| {
            for pod in &self.pods {
                state.endpoints.insert(pod.seat.name.clone(), condition);
            }
            Ok(())
        })
    }

    /// Takes a pod out of all EndpointSlices.
    pub fn remove(&self, pod: &str) -> Result<()> {
        self.change(|state| {
            state.endpoints.remove(pod).map(drop).with_context(|| format!("{pod} is in no EndpointSlice"))
        })
    }

    /// Takes all pods of the cluster out of all EndpointSlices at once.
    pub fn remove_all(&self) -> Result<()> {
        self.change(|state| {
            state.endpoints.clear();
            Ok(())
        })
    }

    /// Says of a node whether it has a receiver.
    pub fn set_receiver(&self, node: &str, has: bool) -> Result<()> {
        self.change(|state| {
            *state.receivers.get_mut(node).with_context(|| format!("no node {node}"))? = has;
            Ok(())
        })
    }

    fn known(&self, pod: &str) -> Result<()> {
        let known = self.pods.iter().any(|known| known.seat.name == pod);
        ensure!(known, "no pod {pod} in {}", self.cluster.name);
        Ok(())
    }

    fn change(&self, change: impl FnOnce(&mut State) -> Result<()>) -> Result<()> {
        let mut state = self.state.lock().expect("never poisoned: nothing panics under it");
        change(&mut state)?;
        state.version += 1;
        self.put("nodes.yaml", &self.nodes(&state))?;
        for service in state.services.values() {
            let name = &service.name;
            self.put(&format!("{name}-service.yaml"), &text::service_manifest(service, state.version))?;
            self.put(&format!("{name}-endpointslice-ipv4.yaml"), &self.slice(&state, service, true))?;
            self.put(&format!("{name}-endpointslice-ipv6.yaml"), &self.slice(&state, service, false))?;
        }
        self.copies.refresh(&self.directory)
    }

    /// Writes a file if that changes it, never leaving half of it to be seen.
    fn put(&self, name: &str, text: &str) -> Result<()> {
        let path = self.directory.join(name);
        let ignoring_version = |text: &str| -> String {
            text.lines().filter(|line| !line.contains("resourceVersion")).collect()
        };
        if fs::read_to_string(&path).is_ok_and(|old| ignoring_version(&old) == ignoring_version(text)) {
            return Ok(());
        }
        let new = self.directory.join(format!(".{name}.new"));
        fs::write(&new, text)?;
        fs::rename(&new, &path).with_context(|| format!("put {} in its place", path.display()))
    }
}

#[cfg(test)]
mod tests;
