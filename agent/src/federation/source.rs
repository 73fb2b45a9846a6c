//! The task that follows one cluster's source.
//!
//! It publishes an immutable snapshot for each change, latest wins. Each cluster has its own task and its own
//! blocking thread, so that a slow or broken directory delays nobody else.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fairlead_core::model::{ClusterState, ObjectName, ShardSpec};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};

use super::convert::{Defaults, Drains};
use super::last_good::Shards;
use super::located::Located;
use super::manifests::{Manifests, is_manifest};
use super::problem::SourceProblem;
use super::store::Store;
use crate::directory::{self, Changed, DirectoryWatch};

/// Everything is looked at this often even where no change is reported.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// The same while the source can't be read, or the kernel reports no changes.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// A directory that takes longer to look through doesn't answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// After a fault of ours, when to follow the source anew: it is likely to come again.
const AFTER_A_FAULT: Duration = Duration::from_secs(10);

/// What a cluster's source has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SourceState {
    /// The shards, and whether the source can be read.
    pub state: ClusterState,
    /// Everything that is wrong.
    pub problems: Vec<SourceProblem>,
    /// Which files hold what belongs to each service.
    pub located: Arc<Located>,
    /// What is drained of it.
    pub drains: Arc<Drains>,
    /// Objects of kinds that are not read, or not for us.
    pub ignored: usize,
    /// The source was read at least once; else `state` is what was known before the start.
    pub read: bool,
    /// When it could be read last, since it is followed.
    pub last_read: Option<SystemTime>,
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
    let (sender, receiver) = watch::channel(restored);
    let followed = async move {
        let attempt = |shards| run(Follower::new(&spec, shards), &spec, &sender);
        persist(&spec, &sender, attempt).await;
    };
    tokio::spawn(followed);
    receiver
}

/// Follows the source anew after a pause whenever that has failed, from what is known then. `attempt` ends with what it
/// failed by, or when nobody listens any more.
async fn persist<A: Future<Output = Option<JoinError>>>(
    spec: &SourceSpec,
    sender: &watch::Sender<Arc<SourceState>>,
    mut attempt: impl FnMut(Shards) -> A,
) {
    loop {
        let shards = sender.borrow().state.shards.clone();
        let Some(error) = attempt(shards).await else { return };
        let message = "reading the directory failed by a fault of fairlead, see its log; what is known of the cluster stays";
        let state = unanswered(spec, &sender.borrow(), message.to_owned());
        if **sender.borrow() != state {
            tracing::error!(cluster = %spec.cluster, %error, "reading the directory failed; trying again every {AFTER_A_FAULT:?}");
            sender.send_replace(Arc::new(state));
        }
        tokio::select! {
            () = tokio::time::sleep(AFTER_A_FAULT) => {}
            () = sender.closed() => return,
        }
    }
}

async fn run(
    mut follower: Follower,
    spec: &SourceSpec,
    sender: &watch::Sender<Arc<SourceState>>,
) -> Option<JoinError> {
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

/// That all is as it was is no news, only noted.
fn publish(sender: &watch::Sender<Arc<SourceState>>, mut state: SourceState) {
    sender.send_if_modified(|known| {
        let last_read = state.last_read.or(known.last_read);
        state.last_read = known.last_read;
        let is_news = state != **known;
        *known = Arc::new(SourceState { last_read, ..state });
        is_news
    });
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
            sender.send_replace(Arc::new(state));
            tokio::select! {
                done = &mut job => done,
                () = sender.closed() => return None,
            }
        }
    };
    Some(done)
}

/// The state of a source that doesn't answer any more.
fn unanswered(spec: &SourceSpec, last: &SourceState, message: String) -> SourceState {
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
    // What was said of the directory itself before is out of date.
    state.problems.retain(|old| (&old.file, &old.object) != (&problem.file, &problem.object));
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
    fn new(spec: &SourceSpec, known: Shards) -> Self {
        let (cluster, root) = (Arc::clone(&spec.cluster), spec.manifests.clone());
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
        let being_written =
            |file: &std::path::Path| writing.as_ref().is_some_and(|writing| writing.holds(file));
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
        state: ClusterState { reachable, shards },
        problems: manifests.problems(),
        located: manifests.located(),
        drains: Arc::clone(manifests.store().drains()),
        ignored: manifests.ignored(),
        read: true,
        last_read: reachable.then_some(begun),
    }
}

#[expect(clippy::disallowed_methods, reason = "for people: how old a state is")]
fn time_to_tell() -> SystemTime {
    SystemTime::now()
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
        let spec = SourceSpec { cluster: "a".into(), manifests: "/m".into(), defaults: Defaults::default() };
        let then = unanswered(&spec, &state, "fails now".to_owned());
        assert_eq!(then.problems.len(), 1, "one thing is said of it at a time");
        assert_eq!(then.problems[0].message, "fails now");
        release.send(7).unwrap();
        assert_eq!(waiting.await.unwrap().unwrap().unwrap(), 7, "when it answers, that counts");
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_is_followed_anew_after_a_fault_which_is_told_once() {
        let spec = SourceSpec { cluster: "a".into(), manifests: "/m".into(), defaults: Defaults::default() };
        let shards = BTreeMap::from([(ObjectName::new("shop", "web"), Arc::new(ShardSpec::default()))]);
        let known = SourceState {
            state: ClusterState { reachable: true, shards: shards.clone() },
            last_read: Some(SystemTime::UNIX_EPOCH),
            ..SourceState::default()
        };
        let (sender, mut receiver) = watch::channel(Arc::new(known.clone()));
        let (began, mut seconds, mut told) = (tokio::time::Instant::now(), Vec::new(), 0);
        let attempt = |found| {
            assert_eq!(found, shards);
            seconds.push(began.elapsed().as_secs());
            told += usize::from(receiver.has_changed().unwrap());
            let state = Arc::clone(&receiver.borrow_and_update());
            let ends = seconds.len() == 4;
            assert_eq!(
                (state.state.reachable, state.problems.len()),
                if told == 0 { (true, 0) } else { (false, 1) }
            );
            assert_eq!(state.last_read, known.last_read);
            async move {
                let job = tokio::spawn(async move { assert!(ends, "a fault") });
                job.await.err()
            }
        };
        persist(&spec, &sender, attempt).await;
        assert_eq!((seconds, told), (vec![0, 10, 20, 30], 1));
    }

    #[test]
    fn another_reading_of_the_same_is_noted_and_no_news() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let read = |last_read, reachable| SourceState {
            state: ClusterState { reachable, ..ClusterState::default() },
            last_read,
            ..SourceState::default()
        };
        let (sender, mut receiver) = watch::channel(Arc::new(read(Some(at(1)), true)));
        publish(&sender, read(Some(at(31)), true));
        assert!(!receiver.has_changed().unwrap());
        publish(&sender, read(None, false));
        assert!(receiver.has_changed().unwrap());
        assert_eq!(receiver.borrow_and_update().last_read, Some(at(31)));
    }
}
