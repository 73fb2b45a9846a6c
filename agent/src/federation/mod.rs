//! What all clusters have, from each cluster's own source.
//!
//! In come the clusters of the configuration; out go their states ([`Federation::states`]), each followed by a task
//! of its own and restored from disk at the start. What the model made of them ([`Federation::keep`]) goes back to
//! disk. Nothing here decides what is served: that is the core's. Nothing here writes to a cluster.

mod acceptance;
pub mod convert;
mod keeper;
pub mod kubernetes;
mod last_good;
mod located;
mod manifests;
mod names;
mod problem;
pub mod source;
mod store;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fairlead_core::model::{ClusterState, Model, Problem};
use futures::future::select_all;
use tokio::sync::watch;
use tokio::time::Interval;

pub use acceptance::Acceptance;
pub use last_good::{LastGood, LastGoodError, Restored, Shards};
pub use located::{Located, ServiceFiles};
pub use manifests::Manifests;
pub use problem::SourceProblem;
pub use source::{Access, Origin, SourceSpec, SourceState, Tally};
pub use store::Store;

use crate::config::Config;
use crate::config::types::UnservedPorts;
use convert::Defaults;
use keeper::Keeper;

/// The clusters that are followed.
pub struct Federation {
    sources: BTreeMap<Arc<str>, Source>,
    states: BTreeMap<Arc<str>, ClusterState>,
    last_good: Option<LastGood>,
    acceptance: Acceptance,
    look: Interval,
}

/// How often it is looked for what a command accepts.
const LOOK: Duration = Duration::from_secs(1);

struct Source {
    spec: SourceSpec,
    receiver: watch::Receiver<Arc<SourceState>>,
    /// What was taken of it last.
    seen: Arc<SourceState>,
    /// When the state was written that it started with, where there was one.
    restored: Option<SystemTime>,
    keeper: Option<Keeper>,
}

/// What each cluster of a configuration is followed by.
fn specs(config: &Config) -> BTreeMap<Arc<str>, SourceSpec> {
    let defaults = Defaults { pass_unserved_ports: config.unserved_ports == UnservedPorts::Pass };
    let spec = |cluster: &crate::config::types::ClusterConfig| {
        let name = Arc::clone(&cluster.name.0);
        (Arc::clone(&name), SourceSpec { cluster: name, origin: cluster.origin(), defaults })
    };
    config.clusters.iter().map(spec).collect()
}

impl Federation {
    /// Starts to follow the clusters of `config`. Without `last_good` nothing is kept on disk.
    ///
    /// Must be called within a runtime; reads the disk.
    #[must_use]
    pub fn start(config: &Config, last_good: Option<LastGood>) -> Self {
        let (sources, states) = (BTreeMap::new(), BTreeMap::new());
        let acceptance = Acceptance::of(&config.state_directory());
        let mut this = Self { sources, states, last_good, acceptance, look: tokio::time::interval(LOOK) };
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
        for (cluster, source) in &self.sources {
            self.states.insert(Arc::clone(cluster), source.seen.state.clone());
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
        // Seen first, even where the source has said more by now: it is what the next states are compared with.
        let seen = Arc::new(SourceState::restored(shards));
        let receiver = source::follow(spec.clone(), Arc::clone(&seen));
        let keep = |last_good: &LastGood| Keeper::start(Arc::clone(&spec.cluster), last_good.clone());
        let keeper = self.last_good.as_ref().map(keep);
        Source { spec, receiver, seen, restored: written, keeper }
    }

    /// Waits until a cluster has changed, and takes the new states of all that have. Cancelling loses nothing.
    ///
    /// # Panics
    /// Where there is no cluster; a configuration has at least one.
    pub async fn changed(&mut self) {
        let waits = self.sources.values_mut().map(|source| {
            Box::pin(async move {
                // A follower ends only with the runtime.
                if source.receiver.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
                source.receiver.mark_changed();
            })
        });
        let mut changed = select_all(waits);
        loop {
            tokio::select! {
                _ = &mut changed => break,
                _ = self.look.tick(), if self.last_good.is_some() => {
                    if accept(&self.acceptance, &mut self.states) {
                        return;
                    }
                }
            }
        }
        drop(changed);
        for (cluster, source) in &mut self.sources {
            if source.receiver.has_changed().unwrap_or(false) {
                source.seen = Arc::clone(&source.receiver.borrow_and_update());
                self.states.insert(Arc::clone(cluster), source.seen.state.clone());
            }
        }
    }

    /// Keeps on disk what `model` made of [`states`](Self::states), where sources can be read: with the endpoints
    /// that it holds, so that they are held after a restart too.
    pub fn keep(&mut self, model: &Model) {
        for state in self.states.values_mut() {
            state.accepted = false;
        }
        let mut held = keeper::held(model);
        for (cluster, source) in &self.sources {
            let held = held.remove(cluster).unwrap_or_default();
            let counts = source.seen.state.reachable && !model.withdrawn.contains_key(cluster);
            if let Some(keeper) = source.keeper.as_ref().filter(|_| counts) {
                keeper.keep(&source.seen, held);
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
        self.sources.values().all(|source| source.seen.read)
    }

    /// What each cluster's source is, and what it says.
    pub fn sources(&self) -> impl Iterator<Item = (&SourceSpec, &SourceState)> {
        self.sources.values().map(|source| (&source.spec, &*source.seen))
    }

    /// Where a cluster's source can't be read: when it was read last, or what counts instead was written.
    #[must_use]
    pub fn restored(&self, cluster: &str) -> Option<SystemTime> {
        let source = self.sources.get(cluster)?;
        source.seen.last_read.or(source.restored).filter(|_| !source.seen.state.reachable)
    }

    /// Everything that is wrong with the sources, by cluster.
    #[must_use]
    pub fn problems(&self) -> Vec<SourceProblem> {
        self.sources.values().flat_map(|source| source.seen.problems.clone()).collect()
    }

    /// A problem of the model, with the files that it comes from: the model knows none.
    #[must_use]
    pub fn located(&self, problem: Problem) -> Problem {
        located::located(problem, self.sources.iter().map(|(name, source)| (name, &*source.seen.located)))
    }
}

/// Takes what was accepted; whether anything was.
fn accept(acceptance: &Acceptance, states: &mut BTreeMap<Arc<str>, ClusterState>) -> bool {
    let mut some = false;
    for cluster in acceptance.take() {
        if let Some(state) = states.get_mut(&*cluster) {
            tracing::info!(cluster, "what is gone of the cluster is accepted");
            (state.accepted, some) = (true, true);
        }
    }
    some
}

#[cfg(test)]
mod tests;
