//! Pods that come after their world was built, and go before it ends: a namespace behind a veth of a node.
//!
//! In: a seat, of which the name is unique and the interface free on the node. Out: a namespace, routed as the world's own pods
//! are. Nothing runs in it.

use anyhow::{Result, ensure};

use super::footprint::{RUNS, making};
use super::namespace::{self, Namespace};
use super::plan::{NodeSeat, PodSeat};
use super::{World, wiring};

/// A node on which pods can be made while the world lives.
#[derive(Clone, Debug)]
pub(crate) struct Ground {
    /// The id of the world.
    pub(crate) world: String,
    /// The node.
    pub(crate) seat: NodeSeat,
    /// Where the node is.
    pub(crate) namespace: Namespace,
    /// How many pods the world has there itself: they have the first addresses.
    pub(crate) taken: usize,
}

/// A pod's place. Dropping it removes it; what still runs inside loses its link.
#[derive(Debug)]
pub(crate) struct LatePod {
    node: Namespace,
    interface: String,
    pub(crate) namespace: Namespace,
}

impl World {
    /// The nodes of a cluster, as places for more pods.
    pub(crate) fn grounds(&self, cluster: &str) -> Vec<Ground> {
        let nodes = self.layout.nodes.iter().zip(&self.nodes).enumerate();
        let ours = nodes.filter(|(_, (seat, _))| seat.cluster == cluster);
        let ground = |(number, (seat, namespace)): (usize, (&NodeSeat, &Namespace))| Ground {
            world: self.id().to_owned(),
            seat: seat.clone(),
            namespace: namespace.clone(),
            taken: self.layout.pods.iter().filter(|pod| pod.node == number).count(),
        };
        ours.map(ground).collect()
    }
}

impl Ground {
    /// Makes a place for a pod.
    ///
    /// # Errors
    /// A name or an interface that is there already; a world that has ended.
    pub(crate) fn pod(&self, seat: &PodSeat) -> Result<LatePod> {
        let making = making();
        ensure!(std::path::Path::new(RUNS).join(&self.world).exists(), "world {} has ended", self.world);
        let namespace = wiring::pod_namespace(&self.world, &seat.name)?;
        drop(making);
        let made = LatePod { node: self.namespace.clone(), interface: seat.interface.clone(), namespace };
        wiring::wire_pod(&self.seat, &made.node, seat, &made.namespace)?;
        Ok(made)
    }
}

impl Drop for LatePod {
    fn drop(&mut self) {
        // It may never have been made; and the namespace's end takes it along anyway, only later.
        let _ = self.node.ip(&[format!("link delete dev {}", self.interface)]);
        if let Err(error) = namespace::remove(self.namespace.name()) {
            eprintln!("the place of a pod was not removed: {error:#}");
        }
    }
}
