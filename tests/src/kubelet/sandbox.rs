//! Where a pod lives on a node: its network namespace, its addresses, its directory.
//!
//! In: a pod that is bound to the node. Out: a place that goes when it is dropped, and with it the addresses.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{ObjectFieldSelector, Pod, PodSpec};

use super::environment;
use super::node::Node;
use crate::world::{LatePod, Namespace, PodSeat};

/// A pod's place on its node.
#[derive(Debug)]
pub(super) struct Lodging {
    pub(super) node: Arc<Node>,
    /// As it was when it came; only metadata changes afterwards.
    pub(super) pod: Pod,
    pub(super) network: Namespace,
    /// IPv4 first.
    pub(super) addresses: [IpAddr; 2],
    pub(super) directory: PathBuf,
    /// None on the host's network. Dropped before its number is given back.
    late: Option<LatePod>,
    number: Option<usize>,
}

impl Lodging {
    /// Makes it. Blocks.
    ///
    /// # Errors
    /// A node that is full; a link that can't be made.
    pub(super) fn make(node: &Arc<Node>, pod: Pod) -> Result<Self> {
        let uid = pod.metadata.uid.clone().context("the pod has no uid")?;
        let directory = node.directory.join("pods").join(uid);
        fs::create_dir_all(&directory)?;
        let spec = pod.spec.clone().unwrap_or_default();
        let host = node.ground.seat.host.uplink.host;
        let mut lodging = Self {
            node: Arc::clone(node),
            pod,
            network: node.ground.namespace.clone(),
            addresses: [host.0.into(), host.1.into()],
            directory,
            late: None,
            number: None,
        };
        if spec.host_network != Some(true) {
            lodging.settle()?;
        }
        Ok(lodging)
    }

    /// The next number that is free, with an address of each family.
    fn settle(&mut self) -> Result<()> {
        let number = self.node.take_number()?;
        self.number = Some(number);
        let seat = &self.node.ground.seat;
        let v4 = network(&seat.pods_v4)?;
        let v6 = network(&seat.pods_v6)?;
        let (IpAddr::V4(v4), IpAddr::V6(v6)) = (v4, v6) else {
            anyhow::bail!("a node has pods of both families")
        };
        let offset = u32::try_from(number)?;
        let address =
            (Ipv4Addr::from(u32::from(v4) + offset), Ipv6Addr::from(u128::from(v6) + u128::from(offset)));
        let turn = self.node.next_turn();
        let seat = PodSeat {
            name: format!("{}-kubelet-{turn}", seat.host.name),
            node: 0,
            interface: format!("kube{turn}"),
            address,
        };
        let late = self.node.ground.pod(&seat)?;
        self.network = late.namespace.clone();
        self.addresses = [address.0.into(), address.1.into()];
        self.late = Some(late);
        Ok(())
    }

    pub(super) fn spec(&self) -> &PodSpec {
        static NONE: std::sync::OnceLock<PodSpec> = std::sync::OnceLock::new();
        self.pod.spec.as_ref().unwrap_or_else(|| NONE.get_or_init(PodSpec::default))
    }

    pub(super) fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or("default")
    }

    /// What `fieldRef` means here.
    pub(super) fn field(&self, selector: &ObjectFieldSelector) -> Result<String> {
        let texts = |addresses: [IpAddr; 2]| addresses.map(|address| address.to_string());
        let node = &self.node.ground.seat.host;
        let host = texts([node.uplink.host.0.into(), node.uplink.host.1.into()]);
        environment::field(&self.pod, &node.name, &texts(self.addresses), &host, &selector.field_path)
    }
}

impl Drop for Lodging {
    fn drop(&mut self) {
        self.late = None;
        if let Some(number) = self.number {
            self.node.give_number(number);
        }
        // What can't be removed now goes with the world.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn network(prefix: &str) -> Result<IpAddr> {
    let prefix: ipnet::IpNet = prefix.parse().with_context(|| format!("{prefix} is no prefix"))?;
    Ok(prefix.network())
}
