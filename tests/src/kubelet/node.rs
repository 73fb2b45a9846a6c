//! A node as its API server knows it: registered, reported as ready, its Lease renewed.
//!
//! In: a node of the world. Out: a Node object with the addresses, prefixes, region and zone that the world gave it.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node as NodeObject;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::images::Images;
use crate::world::{ClusterSeat, Ground};

/// How long an API server may take for an answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Between two renewals of the Lease; a control plane calls a node dead after 50 s.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Between two tries where the API server doesn't answer.
pub(super) const AGAIN: Duration = Duration::from_millis(500);

/// How many addresses a node's prefix has for pods, after the network's own and the next hop's.
const ADDRESSES: usize = 29;

/// A node, for all that happens on it.
pub(super) struct Node {
    pub(super) ground: Ground,
    pub(super) cluster: ClusterSeat,
    pub(super) client: Client,
    pub(super) images: Arc<Images>,
    /// Its files, and those of its pods.
    pub(super) directory: PathBuf,
    pub(super) server: SocketAddr,
    /// What a crashing container waits for at first.
    pub(super) back_off: Duration,
    numbers: Mutex<(BTreeSet<usize>, usize)>,
    turns: AtomicUsize,
}

impl fmt::Debug for Node {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Node").field(&self.name()).finish()
    }
}

impl Node {
    pub(super) fn new(
        ground: Ground,
        cluster: ClusterSeat,
        client: Client,
        images: Arc<Images>,
        directory: PathBuf,
        server: SocketAddr,
        back_off: Duration,
    ) -> Self {
        let first = ground.taken;
        Self {
            ground,
            cluster,
            client,
            images,
            directory,
            server,
            back_off,
            numbers: Mutex::new((BTreeSet::new(), first)),
            turns: AtomicUsize::new(1),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.ground.seat.host.name
    }

    /// A place in the node's prefixes, as long as possible after it was used last.
    pub(super) fn take_number(&self) -> Result<usize> {
        let mut numbers = self.numbers.lock().expect("never poisoned: nothing panics under it");
        let (taken, next) = &mut *numbers;
        let room = ADDRESSES - self.ground.taken;
        for step in 0..room {
            let number = self.ground.taken + (*next - self.ground.taken + step) % room;
            if taken.insert(number) {
                *next = number + 1;
                return Ok(number + 2);
            }
        }
        anyhow::bail!("{} has no address left: at most {room} pods of the kubelet's", self.name())
    }

    pub(super) fn give_number(&self, number: usize) {
        self.numbers.lock().expect("never poisoned: nothing panics under it").0.remove(&(number - 2));
    }

    /// Never the same twice.
    pub(super) fn next_turn(&self) -> usize {
        self.turns.fetch_add(1, Ordering::Relaxed)
    }

    /// Registers the node and keeps it ready, for ever.
    pub(super) async fn keep_ready(&self) {
        let mut told = false;
        loop {
            let beat = async {
                self.report().await?;
                self.renew().await
            };
            let pause = match tokio::time::timeout(PATIENCE, beat).await {
                Ok(Ok(())) => {
                    told = false;
                    HEARTBEAT
                }
                failed => {
                    if !told {
                        let late = format!("no answer within {PATIENCE:?}");
                        let why = failed
                            .map_or(late, |done| done.map_or_else(|e| format!("{e:#}"), |()| String::new()));
                        eprintln!("kubelet of {}: the node is not reported: {why}", self.name());
                        told = true;
                    }
                    AGAIN
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn report(&self) -> Result<()> {
        let nodes = Api::<NodeObject>::all(self.client.clone());
        let known = nodes.get_opt(self.name()).await?;
        if known.is_none() {
            let node: NodeObject = serde_json::from_value(self.object())?;
            nodes.create(&PostParams::default(), &node).await.context("register the node")?;
        }
        let status = json!({"status": self.status()});
        nodes.patch_status(self.name(), &PatchParams::default(), &Patch::Strategic(status)).await?;
        Ok(())
    }

    fn object(&self) -> Value {
        let seat = &self.ground.seat;
        json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.name(), "labels": {
                "kubernetes.io/hostname": self.name(),
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
                "topology.kubernetes.io/region": self.cluster.region,
                "topology.kubernetes.io/zone": self.cluster.zone,
            }},
            "spec": {"podCIDR": seat.pods_v4, "podCIDRs": [seat.pods_v4, seat.pods_v6]},
        })
    }

    fn status(&self) -> Value {
        let (v4, v6) = self.ground.seat.host.uplink.host;
        let now = Timestamp::now().to_string();
        let condition = |kind: &str, status: &str, reason: &str| json!({"type": kind, "status": status, "reason": reason, "message": "", "lastHeartbeatTime": now});
        let room = (ADDRESSES - self.ground.taken).to_string();
        let amounts = json!({"cpu": "16", "memory": "64Gi", "ephemeral-storage": "64Gi", "pods": room});
        json!({
            "addresses": [
                // Merged by their type, the two of one type would be added again each time.
                {"$patch": "replace"},
                {"type": "InternalIP", "address": v4},
                {"type": "InternalIP", "address": v6},
                {"type": "Hostname", "address": self.name()},
            ],
            "capacity": amounts,
            "allocatable": amounts,
            "conditions": [
                condition("Ready", "True", "KubeletReady"),
                condition("MemoryPressure", "False", "KubeletHasSufficientMemory"),
                condition("DiskPressure", "False", "KubeletHasNoDiskPressure"),
                condition("PIDPressure", "False", "KubeletHasSufficientPID"),
            ],
            "nodeInfo": {
                "kubeletVersion": "v1.36.0-fairlead", "containerRuntimeVersion": "fairlead://1",
                "operatingSystem": "linux", "architecture": "amd64", "osImage": "", "kernelVersion": "",
                "machineID": "", "systemUUID": "", "bootID": "", "kubeProxyVersion": "",
            },
        })
    }

    async fn renew(&self) -> Result<()> {
        let leases = Api::<Lease>::namespaced(self.client.clone(), "kube-node-lease");
        let now = Timestamp::now();
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self.name()},
            "spec": {
                "holderIdentity": self.name(),
                "leaseDurationSeconds": 40,
                "renewTime": format!("{now:.6}"),
            },
        });
        let ours = PatchParams::apply("fairlead-kubelet").force();
        leases.patch(self.name(), &ours, &Patch::Apply(lease)).await.context("renew the Lease")?;
        Ok(())
    }
}
