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
use tokio::task::JoinHandle;

use super::convert::Defaults;
use super::manifests::{Manifests, is_manifest};
use super::problem::SourceProblem;
use super::store::Store;
use crate::directory::{Changed, DirectoryWatch};

/// Everything is looked at this often even where no change is reported.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// The same while the source can't be read, or the kernel reports no changes.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// A directory that takes longer to look through doesn't answer.
const PATIENCE: Duration = Duration::from_secs(15);

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

impl SourceState {
    /// What was known before the start.
    #[must_use]
    pub fn restored(shards: BTreeMap<ObjectName, Arc<ShardSpec>>) -> Self {
        Self { state: ClusterState { reachable: false, shards }, ..Self::default() }
    }
}

/// Follows the source until nobody listens any more. The first snapshot is `restored`.
///
/// Must be called within a runtime.
#[must_use]
pub fn follow(spec: SourceSpec, restored: Arc<SourceState>) -> watch::Receiver<Arc<SourceState>> {
    let shards = restored.state.shards.clone();
    let (sender, receiver) = watch::channel(restored);
    let store = Store::new(shards);
    let manifests = Manifests::new(Arc::clone(&spec.cluster), spec.manifests.clone(), spec.defaults, store);
    let follower = Follower { manifests, root: spec.manifests.clone(), watch: None, warned: false };
    tokio::spawn(run(follower, spec, sender));
    receiver
}

async fn run(mut follower: Follower, spec: SourceSpec, sender: watch::Sender<Arc<SourceState>>) {
    let mut changed = Changed::Anything;
    loop {
        let job = tokio::task::spawn_blocking(move || {
            let state = follower.look(&changed);
            (follower, state)
        });
        let Some((back, state)) = answer(job, &spec, &sender).await else { return };
        follower = back;
        if *sender.borrow() != state {
            sender.send_replace(state);
        }
        let heard = follower.manifests.reachable() && follower.watch.is_some();
        let period = if heard { LOOK_AGAIN } else { TRY_AGAIN };
        changed = tokio::select! {
            changed = next(&mut follower.watch, period) => changed,
            () = sender.closed() => return,
        };
    }
}

/// What the job comes to. While that takes long, the source counts as unreachable. `None`: nobody listens any more.
async fn answer<T>(
    mut job: JoinHandle<T>,
    spec: &SourceSpec,
    sender: &watch::Sender<Arc<SourceState>>,
) -> Option<T> {
    let patience = tokio::time::sleep(PATIENCE);
    let done = tokio::select! {
        done = &mut job => return done.ok(),
        () = sender.closed() => return None,
        () = patience => {
            let state = hung(spec, &sender.borrow());
            sender.send_replace(Arc::new(state));
            tokio::select! {
                done = &mut job => done,
                () = sender.closed() => return None,
            }
        }
    };
    done.ok()
}

/// The state of a source that doesn't answer any more.
fn hung(spec: &SourceSpec, last: &SourceState) -> SourceState {
    let message = format!(
        "the directory has not answered for {} s; what is known of the cluster stays",
        PATIENCE.as_secs()
    );
    let problem = SourceProblem {
        cluster: Arc::clone(&spec.cluster),
        file: Some(spec.manifests.clone()),
        place: None,
        object: None,
        field: String::new(),
        message,
    };
    let mut state = SourceState { read: true, ..last.clone() };
    state.state.reachable = false;
    state.problems.insert(0, problem);
    state
}

/// What looks at the directory. All of it blocks, for as long as the file system does.
struct Follower {
    manifests: Manifests,
    root: PathBuf,
    watch: Option<DirectoryWatch>,
    /// That changes are noticed late was said.
    warned: bool,
}

impl Follower {
    fn look(&mut self, changed: &Changed) -> Arc<SourceState> {
        // Anew before each full look: directories that came since are watched from now on, and what changes
        // between watching and looking is seen by one of the two.
        if *changed == Changed::Anything {
            self.listen();
        }
        let writing = self.watch.as_ref().map(DirectoryWatch::writing);
        let being_written =
            |file: &std::path::Path| writing.as_ref().is_some_and(|writing| writing.holds(file));
        self.manifests.refresh(changed, &being_written);
        snapshot(&mut self.manifests)
    }

    /// Where the kernel refuses, changes are seen when everything is looked at again. That is said once.
    fn listen(&mut self) {
        let renewed = match self.watch.take() {
            // Kept, since it knows which files are being written.
            Some(watch) => watch.renew().map(|()| watch),
            None => DirectoryWatch::new(&self.root, true, is_manifest),
        };
        match renewed {
            Ok(watch) => (self.watch, self.warned) = (Some(watch), false),
            Err(error) if !self.warned => {
                self.warned = true;
                tracing::warn!(%error, directory = %self.root.display(), "changes are noticed up to {TRY_AGAIN:?} late");
            }
            Err(_) => {}
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_directory_that_hangs_is_told_and_what_is_known_stays() {
        let spec = SourceSpec { cluster: "a".into(), manifests: "/m".into(), defaults: Defaults::default() };
        let shards = BTreeMap::from([(ObjectName::new("shop", "web"), Arc::new(ShardSpec::default()))]);
        let known = SourceState {
            state: ClusterState { reachable: true, shards: shards.clone() },
            ..SourceState::default()
        };
        let (sender, mut receiver) = watch::channel(Arc::new(known));
        let (release, hangs) = tokio::sync::oneshot::channel();
        let job = tokio::spawn(async move { hangs.await.unwrap() });
        let waiting = tokio::spawn(async move { answer(job, &spec, &sender).await });
        receiver.changed().await.unwrap();
        let state = Arc::clone(&receiver.borrow_and_update());
        assert!(!state.state.reachable && state.read && state.state.shards == shards);
        assert_eq!(
            state.problems[0].to_string(),
            "cluster a: /m: the directory has not answered for 15 s; what is known of the cluster stays"
        );
        release.send(7).unwrap();
        assert_eq!(waiting.await.unwrap(), Some(7), "when it answers, that counts");
    }
}
