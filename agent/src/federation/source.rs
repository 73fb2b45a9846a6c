//! What a cluster's source says, and the task that follows it.
//!
//! A source publishes an immutable snapshot for each change, latest wins. Each cluster has its own task and its own
//! thread, so that a slow or broken one delays nobody else. What kinds of source there are is said here; how each is followed is
//! told by its own module.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fairlead_core::model::{ClusterState, ObjectName, ShardSpec};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::convert::{Defaults, Drains};
use super::last_good::Shards;
use super::located::Located;
use super::problem::SourceProblem;
use super::{kubernetes, manifests};

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
    /// What of it counts.
    pub objects: Tally,
    /// Since when it can be read, or can't.
    pub since: Option<SystemTime>,
    /// Why it couldn't be read the last time that it couldn't, and when that began.
    pub failure: Option<(SystemTime, String)>,
}

/// Objects that count, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Services of ours.
    pub services: usize,
    /// Their EndpointSlices.
    pub slices: usize,
    /// Nodes with a receiver.
    pub receivers: usize,
}

/// What a source is started with.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceSpec {
    /// The cluster's name.
    pub cluster: Arc<str>,
    /// Where its objects are.
    pub origin: Origin,
    /// What objects are that say nothing else.
    pub defaults: Defaults,
}

/// Where a cluster's objects are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In the files of a directory.
    Manifests(PathBuf),
    /// At its API server.
    Kubernetes(Access),
}

/// In words.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifests(directory) => write!(f, "manifests {}", directory.display()),
            Self::Kubernetes(Access::Kubeconfig { path, context: None }) => {
                write!(f, "kubeconfig {}", path.display())
            }
            Self::Kubernetes(Access::Kubeconfig { path, context: Some(context) }) => {
                write!(f, "kubeconfig {}, context {context}", path.display())
            }
            Self::Kubernetes(Access::InCluster) => f.write_str("the API server of its own cluster"),
        }
    }
}

/// How a cluster's API server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// As a kubeconfig file says.
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// The context in it; `None`: its current one.
        context: Option<Arc<str>>,
    },
    /// As the ServiceAccount of the pod that the agent runs in.
    InCluster,
}

impl SourceState {
    /// What was known before the start.
    #[must_use]
    pub fn restored(shards: BTreeMap<ObjectName, Arc<ShardSpec>>) -> Self {
        Self { state: ClusterState { shards, ..ClusterState::default() }, ..Self::default() }
    }
}

/// Follows the source until nobody listens any more. The first snapshot is `restored`.
///
/// Must be called within a runtime.
#[must_use]
pub fn follow(spec: SourceSpec, restored: Arc<SourceState>) -> watch::Receiver<Arc<SourceState>> {
    let (sender, receiver) = watch::channel(restored);
    let followed = async move {
        let attempt = |shards| attempt(&spec, shards, &sender);
        persist(&spec, &sender, attempt).await;
    };
    tokio::spawn(followed);
    receiver
}

/// Ends with what it failed by, or when nobody listens any more.
async fn attempt(
    spec: &SourceSpec,
    shards: Shards,
    sender: &watch::Sender<Arc<SourceState>>,
) -> Option<Fault> {
    match &spec.origin {
        Origin::Manifests(root) => manifests::follow(spec, root, shards, sender).await.map(Into::into),
        Origin::Kubernetes(access) => kubernetes::follow(spec, access, shards, sender).await,
    }
}

/// A fault of ours, in words.
pub(super) type Fault = Box<dyn std::error::Error + Send + Sync>;

/// Follows the source anew after a pause whenever that has failed, from what is known then. `attempt` ends with what it
/// failed by, or when nobody listens any more.
async fn persist<A: Future<Output = Option<Fault>>>(
    spec: &SourceSpec,
    sender: &watch::Sender<Arc<SourceState>>,
    mut attempt: impl FnMut(Shards) -> A,
) {
    loop {
        let shards = sender.borrow().state.shards.clone();
        let Some(error) = attempt(shards).await else { return };
        let message =
            "following it failed by a fault of fairlead, see its log; what is known of the cluster stays";
        let state = unanswered(spec, &sender.borrow(), message.to_owned());
        let is_told = sender.borrow().problems == state.problems;
        if !is_told {
            tracing::error!(cluster = %spec.cluster, %error, "following the source failed; trying again every {AFTER_A_FAULT:?}");
            publish(sender, state);
        }
        tokio::select! {
            () = tokio::time::sleep(AFTER_A_FAULT) => {}
            () = sender.closed() => return,
        }
    }
}

/// That all is as it was is no news, only noted.
pub(super) fn publish(sender: &watch::Sender<Arc<SourceState>>, mut state: SourceState) {
    sender.send_if_modified(|known| {
        let last_read = state.last_read.or(known.last_read);
        state.last_read = known.last_read;
        let changed = !known.read || known.state.reachable != state.state.reachable;
        state.since = if changed { Some(time_to_tell()) } else { known.since };
        let why = state.problems.first().filter(|_| !state.state.reachable);
        state.failure = match (why, &known.failure) {
            (Some(why), Some((_, message))) if !changed && why.message == *message => known.failure.clone(),
            (Some(why), _) => Some((time_to_tell(), why.message.clone())),
            (None, _) => known.failure.clone(),
        };
        let is_news = state != **known;
        *known = Arc::new(SourceState { last_read, ..state });
        is_news
    });
}

/// The state of a source that doesn't answer any more.
pub(super) fn unanswered(spec: &SourceSpec, last: &SourceState, message: String) -> SourceState {
    let problem = spec.problem(message);
    let mut state = SourceState { read: true, ..last.clone() };
    state.state.reachable = false;
    // What was said of the source as a whole before is out of date.
    state.problems.retain(|old| (&old.file, &old.object) != (&problem.file, &problem.object));
    state.problems.insert(0, problem);
    state
}

impl SourceSpec {
    /// A problem of the source as a whole.
    pub(super) fn problem(&self, message: String) -> SourceProblem {
        let file = match &self.origin {
            Origin::Manifests(root) => Some(root.clone()),
            Origin::Kubernetes(_) => None,
        };
        let cluster = Arc::clone(&self.cluster);
        SourceProblem { cluster, file, place: None, object: None, field: String::new(), message }
    }
}

#[expect(clippy::disallowed_methods, reason = "for people: how old a state is")]
pub(super) fn time_to_tell() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
pub(super) mod fixtures {
    use super::*;

    /// The source of the cluster `a`, in a directory.
    pub(in crate::federation) fn spec() -> SourceSpec {
        let origin = Origin::Manifests("/m".into());
        SourceSpec { cluster: "a".into(), origin, defaults: Defaults::default() }
    }

    /// It was read, and has one service.
    pub(in crate::federation) fn known() -> SourceState {
        let shards = BTreeMap::from([(ObjectName::new("shop", "web"), Arc::new(ShardSpec::default()))]);
        let state = ClusterState { reachable: true, shards, ..ClusterState::default() };
        SourceState { state, ..SourceState::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::fixtures::{known, spec};
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_source_is_followed_anew_after_a_fault_which_is_told_once() {
        let known = SourceState { last_read: Some(SystemTime::UNIX_EPOCH), ..known() };
        let (sender, mut receiver) = watch::channel(Arc::new(known.clone()));
        let (began, mut seconds, mut told) = (tokio::time::Instant::now(), Vec::new(), 0);
        let attempt = |found| {
            assert_eq!(found, known.state.shards);
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
                job.await.err().map(Into::into)
            }
        };
        persist(&spec(), &sender, attempt).await;
        assert_eq!((seconds, told), (vec![0, 10, 20, 30], 1));
    }

    #[test]
    fn another_reading_of_the_same_is_noted_and_no_news() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let read = |last_read, reachable| SourceState {
            state: ClusterState { reachable, ..ClusterState::default() },
            read: true,
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
