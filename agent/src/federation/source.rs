//! The task that follows one cluster's source.
//!
//! It publishes an immutable snapshot for each change, latest wins. Each cluster has its own task and its own
//! blocking thread, so that a slow or broken directory delays nobody else.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fairlead_core::model::{ClusterState, ObjectName, ShardSpec};
use tokio::sync::watch;

use super::convert::Defaults;
use super::manifests::{Manifests, is_manifest};
use super::problem::SourceProblem;
use super::store::Store;
use crate::directory::{Changed, DirectoryWatch};

/// Everything is looked at this often even where no change is reported.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// The same while the source can't be read, or the kernel reports no changes.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// What a cluster's source has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SourceState {
    /// The shards, and whether the source can be read.
    pub state: ClusterState,
    /// Everything that is wrong.
    pub problems: Vec<SourceProblem>,
    /// Objects of kinds that are not read, or not for us.
    pub ignored: usize,
    /// The source was read at least once; else `state` is what was known before the start.
    pub read: bool,
}

/// What a source is started with.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceSpec {
    /// The cluster's name.
    pub cluster: Arc<str>,
    /// The directory of its manifests.
    pub manifests: PathBuf,
    /// What objects are that say nothing else.
    pub defaults: Defaults,
}

/// Follows the source until nobody listens any more. The first snapshot is `restored`, unreachable.
///
/// Must be called within a runtime.
#[must_use]
pub fn follow(
    spec: SourceSpec,
    restored: BTreeMap<ObjectName, Arc<ShardSpec>>,
) -> watch::Receiver<Arc<SourceState>> {
    let first = SourceState {
        state: ClusterState { reachable: false, shards: restored.clone() },
        ..SourceState::default()
    };
    let (sender, receiver) = watch::channel(Arc::new(first));
    let manifests = Manifests::new(spec.cluster, spec.manifests.clone(), spec.defaults, Store::new(restored));
    tokio::spawn(run(manifests, spec.manifests, sender));
    receiver
}

async fn run(mut manifests: Manifests, root: PathBuf, sender: watch::Sender<Arc<SourceState>>) {
    let mut watch = None;
    let mut first = true;
    let mut changed = Changed::Anything;
    loop {
        // Anew before each full look: directories that came since are watched from now on, and what changes
        // between watching and looking is seen by one of the two.
        if changed == Changed::Anything {
            let heard = watch.is_some();
            watch = listen(&root, heard || first);
            first = false;
        }
        let job = move || {
            manifests.refresh(&changed);
            let state = snapshot(&mut manifests);
            (manifests, state)
        };
        let done = tokio::task::spawn_blocking(job).await;
        let Ok((back, state)) = done else { return };
        manifests = back;
        if *sender.borrow() != state {
            sender.send_replace(state);
        }
        let period = if manifests.reachable() && watch.is_some() { LOOK_AGAIN } else { TRY_AGAIN };
        changed = tokio::select! {
            changed = next(&mut watch, period) => changed,
            () = sender.closed() => return,
        };
    }
}

/// Where the kernel refuses, changes are seen when everything is looked at again. That is said once.
fn listen(root: &std::path::Path, say: bool) -> Option<DirectoryWatch> {
    let warn = |error: &notify::Error| {
        if say {
            tracing::warn!(%error, directory = %root.display(), "changes are noticed up to {TRY_AGAIN:?} late");
        }
    };
    DirectoryWatch::new(root, true, is_manifest).inspect_err(warn).ok()
}

async fn next(watch: &mut Option<DirectoryWatch>, period: Duration) -> Changed {
    match watch {
        Some(watch) => tokio::time::timeout(period, watch.changed()).await.unwrap_or(Changed::Anything),
        None => {
            tokio::time::sleep(period).await;
            Changed::Anything
        }
    }
}

fn snapshot(manifests: &mut Manifests) -> Arc<SourceState> {
    let reachable = manifests.reachable();
    let shards = manifests.store().shards().clone();
    Arc::new(SourceState {
        state: ClusterState { reachable, shards },
        problems: manifests.problems(),
        ignored: manifests.ignored(),
        read: true,
    })
}
