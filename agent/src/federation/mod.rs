//! What all clusters have, from each cluster's own source.
//!
//! In come the clusters of the configuration; out go their states ([`Federation::states`]), each followed by a task
//! of its own and restored from disk at the start where its source can't be read. Nothing here decides what is
//! served: that is the core's. Nothing here writes to a cluster.

pub mod convert;
mod last_good;
mod manifests;
mod names;
mod problem;
pub mod source;
mod store;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fairlead_core::model::ClusterState;
use futures::future::select_all;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use last_good::{LastGood, LastGoodError, Restored, Shards};
pub use manifests::Manifests;
pub use problem::SourceProblem;
pub use source::{SourceSpec, SourceState};
pub use store::Store;

use crate::config::Config;
use crate::config::types::UnservedPorts;
use convert::Defaults;

/// After a change, this long is waited for further ones before the state is written to disk.
const WRITE_DELAY: Duration = Duration::from_secs(2);

/// The clusters that are followed.
pub struct Federation {
    sources: BTreeMap<Arc<str>, Source>,
    states: BTreeMap<Arc<str>, ClusterState>,
    last_good: Option<LastGood>,
}

struct Source {
    spec: SourceSpec,
    receiver: watch::Receiver<Arc<SourceState>>,
    /// When the state was written that it started with, where there was one.
    restored: Option<SystemTime>,
    keeper: Option<JoinHandle<()>>,
}

impl Drop for Source {
    fn drop(&mut self) {
        if let Some(keeper) = &self.keeper {
            keeper.abort();
        }
    }
}

/// What each cluster of a configuration is followed by.
fn specs(config: &Config) -> BTreeMap<Arc<str>, SourceSpec> {
    let defaults = Defaults { pass_unserved_ports: config.unserved_ports == UnservedPorts::Pass };
    let spec = |cluster: &crate::config::types::ClusterConfig| {
        let name = Arc::clone(&cluster.name.0);
        (Arc::clone(&name), SourceSpec { cluster: name, manifests: cluster.manifests.clone(), defaults })
    };
    config.clusters.iter().map(spec).collect()
}

impl Federation {
    /// Starts to follow the clusters of `config`. Without `last_good` nothing is kept on disk.
    ///
    /// Must be called within a runtime; reads the disk.
    #[must_use]
    pub fn start(config: &Config, last_good: Option<LastGood>) -> Self {
        let mut this = Self { sources: BTreeMap::new(), states: BTreeMap::new(), last_good };
        this.reconfigure(config);
        this
    }

    /// Follows the clusters of another configuration; those that are the same in both go on undisturbed.
    pub fn reconfigure(&mut self, config: &Config) {
        let mut specs = specs(config);
        self.sources.retain(|cluster, source| specs.get(cluster) == Some(&source.spec));
        specs.retain(|cluster, _| !self.sources.contains_key(cluster));
        for (cluster, spec) in specs {
            let source = self.follow(spec);
            self.sources.insert(cluster, source);
        }
        self.states.retain(|cluster, _| self.sources.contains_key(cluster));
        for (cluster, source) in &mut self.sources {
            self.states.insert(Arc::clone(cluster), source.receiver.borrow_and_update().state.clone());
        }
    }

    fn follow(&self, spec: SourceSpec) -> Source {
        let restored = self.last_good.as_ref().and_then(|last_good| {
            let result = last_good.read(&spec.cluster);
            result.unwrap_or_else(|error| {
                tracing::warn!(cluster = %spec.cluster, %error, "the last known good state is not used");
                None
            })
        });
        let written = restored.as_ref().map(|restored| restored.written);
        let shards = restored.map_or_else(Shards::new, |restored| restored.shards);
        let receiver = source::follow(spec.clone(), shards);
        let keep = |last_good: &LastGood| {
            tokio::spawn(keep(Arc::clone(&spec.cluster), last_good.clone(), receiver.clone()))
        };
        let keeper = self.last_good.as_ref().map(keep);
        Source { spec, receiver, restored: written, keeper }
    }

    /// Waits until a cluster has changed, and takes the new states of all that have. Cancelling loses nothing.
    ///
    /// # Panics
    /// Where there is no cluster; a configuration has at least one.
    pub async fn changed(&mut self) {
        let waits = self.sources.iter_mut().map(|(cluster, source)| {
            Box::pin(async move {
                if source.receiver.changed().await.is_err() {
                    tracing::error!(%cluster, "the cluster is not followed any more");
                    std::future::pending::<()>().await;
                }
                source.receiver.mark_changed();
            })
        });
        select_all(waits).await;
        for (cluster, source) in &mut self.sources {
            if source.receiver.has_changed().unwrap_or(false) {
                let state = source.receiver.borrow_and_update().state.clone();
                self.states.insert(Arc::clone(cluster), state);
            }
        }
    }

    /// The states of all clusters, as of the last [`changed`](Self::changed).
    #[must_use]
    pub fn states(&self) -> &BTreeMap<Arc<str>, ClusterState> {
        &self.states
    }

    /// Whether every source was read at least once, or found unreadable.
    #[must_use]
    pub fn all_read(&self) -> bool {
        self.sources.values().all(|source| source.receiver.borrow().read)
    }

    /// When the state of a cluster was written that counts until its source is read.
    #[must_use]
    pub fn restored(&self, cluster: &str) -> Option<SystemTime> {
        let source = self.sources.get(cluster)?;
        let unread = !source.receiver.borrow().state.reachable;
        source.restored.filter(|_| unread)
    }

    /// Everything that is wrong with the sources, by cluster.
    #[must_use]
    pub fn problems(&self) -> Vec<SourceProblem> {
        self.sources.values().flat_map(|source| source.receiver.borrow().problems.clone()).collect()
    }
}

/// Writes a cluster's state to disk after it has changed, while its source can be read.
async fn keep(cluster: Arc<str>, last_good: LastGood, mut receiver: watch::Receiver<Arc<SourceState>>) {
    let mut kept: Option<Arc<SourceState>> = None;
    while receiver.changed().await.is_ok() {
        tokio::time::sleep(WRITE_DELAY).await;
        let state = Arc::clone(&receiver.borrow_and_update());
        let same = kept.as_ref().is_some_and(|kept| kept.state.shards == state.state.shards);
        if !state.state.reachable || same {
            continue;
        }
        let job = {
            let (cluster, last_good, state) = (Arc::clone(&cluster), last_good.clone(), Arc::clone(&state));
            move || last_good.write(&cluster, &state.state.shards)
        };
        match tokio::task::spawn_blocking(job).await {
            Ok(Ok(())) => kept = Some(state),
            Ok(Err(error)) => tracing::warn!(%cluster, %error, "the last known good state is not kept"),
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests;
