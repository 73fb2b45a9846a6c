//! Follows a directory of manifests.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fairlead_core::model::ClusterState;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};

use super::{Manifests, is_manifest};
use crate::directory::{self, Changed, DirectoryWatch};
use crate::federation::last_good::Shards;
use crate::federation::source::{SourceSpec, SourceState, publish, time_to_tell, unanswered};
use crate::federation::store::Store;

/// Everything is looked at this often even where no change is reported.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// The same while the source can't be read, or the kernel reports no changes.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// A directory that takes longer to look through doesn't answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// Follows the directory `root`, beginning with the `shards` that are known. Ends with what it failed by, or when nobody
/// listens any more.
pub(in crate::federation) async fn follow(
    spec: &SourceSpec,
    root: &Path,
    shards: Shards,
    sender: &watch::Sender<Arc<SourceState>>,
) -> Option<JoinError> {
    let mut follower = Follower::new(spec, root, shards);
    let mut changed = Changed::Anything;
    loop {
        let job = tokio::task::spawn_blocking(move || {
            let state = follower.look(&changed);
            (follower, state)
        });
        let state;
        (follower, state) = match answer(job, spec, sender).await? {
            Ok(answer) => answer,
            Err(error) => return Some(error),
        };
        publish(sender, state);
        let heard = follower.manifests.reachable() && follower.watch.is_some();
        let period = if heard { LOOK_AGAIN } else { TRY_AGAIN };
        changed = tokio::select! {
            changed = next(&mut follower.watch, period) => changed,
            () = sender.closed() => return None,
        };
    }
}

/// What the job comes to. While that takes long, the source counts as unreachable. `None`: nobody listens any more.
async fn answer<T>(
    mut job: JoinHandle<T>,
    spec: &SourceSpec,
    sender: &watch::Sender<Arc<SourceState>>,
) -> Option<Result<T, JoinError>> {
    let patience = tokio::time::sleep(PATIENCE);
    let done = tokio::select! {
        done = &mut job => return Some(done),
        () = sender.closed() => return None,
        () = patience => {
            let message = format!(
                "the directory has not answered for {} s; what is known of the cluster stays",
                PATIENCE.as_secs()
            );
            let state = unanswered(spec, &sender.borrow(), message);
            publish(sender, state);
            tokio::select! {
                done = &mut job => done,
                () = sender.closed() => return None,
            }
        }
    };
    Some(done)
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
    fn new(spec: &SourceSpec, root: &Path, known: Shards) -> Self {
        let (cluster, root) = (Arc::clone(&spec.cluster), root.to_owned());
        let manifests = Manifests::new(cluster, root.clone(), spec.defaults, Store::new(known));
        Self { manifests, root, watch: None, warned: false }
    }

    fn look(&mut self, changed: &Changed) -> SourceState {
        let begun = time_to_tell();
        // Anew before each full look: directories that came since are watched from now on, and what changes
        // between watching and looking is seen by one of the two.
        if *changed == Changed::Anything {
            self.listen();
        }
        let writing = self.watch.as_ref().map(DirectoryWatch::writing);
        let being_written = |file: &Path| writing.as_ref().is_some_and(|writing| writing.holds(file));
        self.manifests.refresh(changed, &being_written);
        snapshot(&mut self.manifests, begun)
    }

    /// Where the kernel refuses, changes are seen when everything is looked at again. That is said once.
    fn listen(&mut self) {
        let renewed = match self.watch.take() {
            // Kept, since it knows which files are being written.
            Some(watch) if watch.fits() => watch.renew().map(|()| watch),
            _ => DirectoryWatch::new(&self.root, true, is_manifest),
        };
        match renewed {
            Ok(watch) => (self.watch, self.warned) = (Some(watch), false),
            Err(error) if !self.warned => {
                self.warned = true;
                directory::tell_deaf(&error, &self.root, TRY_AGAIN);
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

/// What was found by a look that began then.
fn snapshot(manifests: &mut Manifests, begun: SystemTime) -> SourceState {
    let reachable = manifests.reachable();
    let shards = manifests.store().shards().clone();
    SourceState {
        state: ClusterState { reachable, shards, accepted: false },
        problems: manifests.problems(),
        located: manifests.located(),
        drains: Arc::clone(manifests.store().drains()),
        ignored: manifests.ignored(),
        read: true,
        last_read: reachable.then_some(begun),
        objects: manifests.store().tally(),
        ..SourceState::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::federation::source::fixtures::{known, spec};

    #[tokio::test(start_paused = true)]
    async fn a_directory_that_hangs_is_told_and_what_is_known_stays() {
        let shards = known().state.shards;
        let (sender, mut receiver) = watch::channel(Arc::new(known()));
        let (release, hangs) = tokio::sync::oneshot::channel();
        let job = tokio::spawn(async move { hangs.await.unwrap() });
        let waiting = tokio::spawn(async move { answer(job, &spec(), &sender).await });
        receiver.changed().await.unwrap();
        let state = Arc::clone(&receiver.borrow_and_update());
        assert!(!state.state.reachable && state.read && state.state.shards == shards);
        assert_eq!(
            state.problems[0].to_string(),
            "cluster a: /m: the directory has not answered for 15 s; what is known of the cluster stays"
        );
        let then = unanswered(&spec(), &state, "fails now".to_owned());
        assert_eq!(then.problems.len(), 1, "one thing is said of it at a time");
        assert_eq!(then.problems[0].message, "fails now");
        release.send(7).unwrap();
        assert_eq!(waiting.await.unwrap().unwrap().unwrap(), 7, "when it answers, that counts");
    }
}
