//! Before the first turn: the first word of every input.

use std::{sync::Arc, time::Duration};

use fairlead_core::model::{Health, ProbeState, merge};
use tokio::time::timeout;

use super::start::Stages;

/// How long sources may take until what was last known of them counts.
const READ_SOURCES: Duration = Duration::from_secs(10);
/// How long next hops may take at the start.
const FIND_NEXT_HOPS: Duration = Duration::from_secs(1);
/// How long it may take to find out which namespaces endpoints are in.
const FIND_NAMESPACES: Duration = Duration::from_secs(2);
/// How long first probes may take, where endpoints are served that an earlier agent may have found dead.
const PROBE_FIRST: Duration = Duration::from_secs(10);

impl Stages {
    /// Waits for the first word of every input, so that a new agent doesn't undo what an earlier one had found out.
    pub(super) async fn warm_up(&mut self) {
        // What was last known comes first: the mass-withdrawal guard compares what the sources say with it.
        let health = Arc::clone(&self.health.borrow());
        self.model = Some(merge(&self.declared, self.federation.states(), &health, None));
        let reading = async {
            while !self.federation.all_read() {
                self.federation.changed().await;
            }
        };
        if timeout(READ_SOURCES, reading).await.is_err() {
            tracing::warn!("some sources can't be read; what was last known of them counts");
        }
        let takes_over = self.probing.is_none() && self.installed.services().next().is_some();
        self.plan();
        if !self.outers.borrow().is_empty() {
            let _ = timeout(FIND_NEXT_HOPS, self.find_next_hops()).await;
        }
        if timeout(FIND_NAMESPACES, self.place_endpoints()).await.is_err() {
            tracing::warn!(
                "it is not known in time which namespaces endpoints are in: flows that were lost may not be found"
            );
        }
        if takes_over && timeout(PROBE_FIRST, self.probe_all()).await.is_err() {
            tracing::warn!("some endpoints were not probed in time; they count as the API server says");
        }
    }

    async fn find_next_hops(&mut self) {
        let wanted = self.outers.borrow().len();
        while self.links.borrow_and_update().len() < wanted && self.links.changed().await.is_ok() {}
    }

    /// Programs that have lost flows find them by their sockets from their first packet on.
    async fn place_endpoints(&mut self) {
        let is_placed = |placed: &Self| *placed.placed.borrow() == *placed.endpoints.borrow();
        while !is_placed(self) && self.placed.changed().await.is_ok() {}
    }

    async fn probe_all(&mut self) {
        let wanted = self.targets.borrow().services.values().map(|service| service.targets.len()).sum();
        let known = |health: &Health| {
            let results = health.services.values().flat_map(|service| service.iter());
            results.filter(|(_, _, probe)| probe.state != ProbeState::Unknown).count()
        };
        while known(&self.health.borrow_and_update()) < wanted && self.health.changed().await.is_ok() {}
    }
}
