//! One pod, from the moment it is bound to its node until its object is gone.
//!
//! In: the newest of its object ([`Word`]). Out: its containers, its status, its events; at the end the object is deleted with
//! grace 0. What the API server doesn't take now it is told later; containers don't wait for it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::board::Board;
use super::container::{Keeper, Restart, until};
use super::node::{AGAIN, Node, PATIENCE};
use super::sandbox::Lodging;
use super::status::{Course, Writer};
use super::{events, unhonoured, volumes};

/// Between two writings of a pod's volumes, so that changed objects are seen.
const RENEWAL: Duration = Duration::from_secs(5);

/// The newest that is known of a pod.
#[derive(Clone, Debug)]
pub(super) struct Word {
    pub(super) pod: Pod,
    /// Its object is gone, without having asked.
    pub(super) gone: bool,
}

impl Word {
    /// How much time its containers have from now on, if they shall end.
    fn grace(&self) -> Option<Duration> {
        if self.gone {
            return Some(Duration::ZERO);
        }
        self.pod.metadata.deletion_timestamp.as_ref()?;
        let seconds = self.pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
        Some(Duration::from_secs(seconds.max(0).unsigned_abs()))
    }
}

/// Runs it, to its end and its object's.
pub(super) async fn live(node: Arc<Node>, mut words: watch::Receiver<Word>) {
    let first = words.borrow_and_update().pod.clone();
    let ended = first.status.as_ref().and_then(|status| status.phase.as_deref());
    if matches!(ended, Some("Succeeded" | "Failed")) {
        // It ended before, and nothing of it runs any more.
        until_grace(&mut words).await;
        return delete(&node, &words).await;
    }
    let (course, ending) = watch::channel(None);
    let (tell_place, place) = watch::channel(None);
    let board = Arc::new(Board::new(waiting(&first)));
    let mut telling = Telling { writer: Writer::new(), sent: None, node: Arc::clone(&node) };
    telling.writer.unhonoured = unhonoured::fields(&first);
    if !telling.writer.unhonoured.is_empty() {
        let message = format!("no effect here: {}", telling.writer.unhonoured.join(", "));
        events::warn(&node, &first, "NotHonoured", &message).await;
    }
    let mut running = JoinSet::new();
    running.spawn(run(Arc::clone(&node), first, Arc::clone(&board), ending, tell_place));
    let mut look = board.look();
    let mut came_to = Course::Kept;
    loop {
        let word = words.borrow_and_update().clone();
        if let Some(grace) = word.grace() {
            course.send_if_modified(|known| {
                let shorter = known.is_none_or(|known| grace < known);
                if shorter {
                    *known = Some(grace);
                }
                shorter
            });
        }
        let seen = look.borrow_and_update().clone();
        let addresses = *place.borrow();
        let told = word.gone || telling.tell(&word.pod, &seen, came_to, addresses).await;
        if running.is_empty() && (told || word.gone) && word.grace().is_some() {
            break;
        }
        tokio::select! {
            Some(done) = running.join_next() => came_to = Course::Ended { well: done.unwrap_or(false) },
            _ = words.changed() => {}
            _ = look.changed() => {}
            () = sleep(AGAIN), if !told => {}
        }
    }
    delete(&node, &words).await;
}

async fn until_grace(words: &mut watch::Receiver<Word>) {
    // Who sends the words outlives this.
    let _lives = words.wait_for(|word| word.grace().is_some()).await;
}

/// Deletes the object, and nobody else's of that name.
async fn delete(node: &Node, words: &watch::Receiver<Word>) {
    loop {
        let word = words.borrow().clone();
        if word.gone {
            return;
        }
        let metadata = &word.pod.metadata;
        let pods =
            Api::<Pod>::namespaced(node.client.clone(), metadata.namespace.as_deref().unwrap_or("default"));
        let now = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: metadata.uid.clone(), resource_version: None }),
            ..DeleteParams::default()
        };
        match timeout(PATIENCE, pods.delete(metadata.name.as_deref().unwrap_or_default(), &now)).await {
            Ok(Ok(_)) => return,
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => return,
            _ => sleep(AGAIN).await,
        }
    }
}

/// Names of its containers, and what each waits for at first.
fn waiting(pod: &Pod) -> impl Iterator<Item = (String, &'static str)> {
    let spec = pod.spec.clone().unwrap_or_default();
    let first = spec.init_containers.unwrap_or_default();
    let reason = if first.is_empty() { "ContainerCreating" } else { "PodInitializing" };
    let named = |container: Container| (container.name, reason);
    first.into_iter().chain(spec.containers).map(named).collect::<Vec<_>>().into_iter()
}

/// Writes statuses, each once.
struct Telling {
    writer: Writer,
    sent: Option<Value>,
    node: Arc<Node>,
}

impl Telling {
    /// Whether the API server knows it now.
    async fn tell(
        &mut self,
        pod: &Pod,
        seen: &BTreeMap<String, super::board::Seen>,
        course: Course,
        addresses: Option<[IpAddr; 2]>,
    ) -> bool {
        let hosts = self.node.ground.seat.host.uplink.host;
        let status = self.writer.write(pod, seen, course, addresses, [hosts.0.into(), hosts.1.into()]);
        if self.sent.as_ref() == Some(&status) && agrees(pod, &status) {
            return true;
        }
        let metadata = &pod.metadata;
        let namespace = metadata.namespace.as_deref().unwrap_or("default");
        let name = metadata.name.as_deref().unwrap_or_default();
        let pods = Api::<Pod>::namespaced(self.node.client.clone(), namespace);
        // Another pod that has its name by now is not meant.
        let mut patch = status.clone();
        patch["metadata"] = serde_json::json!({"uid": metadata.uid});
        let (parameters, patch) = (PatchParams::default(), Patch::Strategic(patch));
        match timeout(PATIENCE, pods.patch_status(name, &parameters, &patch)).await {
            Ok(Ok(_)) => self.sent = Some(status),
            // It is gone, and the next word says so.
            Ok(Err(kube::Error::Api(answer))) if matches!(answer.code, 404 | 409) => self.sent = Some(status),
            Ok(Err(kube::Error::Api(answer))) => {
                eprintln!(
                    "kubelet of {}: status of {namespace}/{name}: {}",
                    self.node.name(),
                    answer.message
                );
                return false;
            }
            _ => return false,
        }
        true
    }
}

/// Whether the object says of the pod's readiness what we have said: others may have changed it while we were away.
fn agrees(pod: &Pod, status: &Value) -> bool {
    let theirs = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let theirs = theirs.and_then(|conditions| conditions.iter().find(|condition| condition.type_ == "Ready"));
    let ours = status["status"]["conditions"].as_array();
    let ours = ours.and_then(|conditions| conditions.iter().find(|condition| condition["type"] == "Ready"));
    match (theirs, ours) {
        (Some(theirs), Some(ours)) => ours["status"] == *theirs.status,
        _ => false,
    }
}

/// The pod's place, its volumes, its containers; whether all of them ended well.
async fn run(
    node: Arc<Node>,
    pod: Pod,
    board: Arc<Board>,
    ending: watch::Receiver<Option<Duration>>,
    tell_place: watch::Sender<Option<[IpAddr; 2]>>,
) -> bool {
    let prepared = async {
        let make = || {
            let (node, pod) = (Arc::clone(&node), pod.clone());
            async move { tokio::task::spawn_blocking(move || Lodging::make(&node, pod)).await? }
        };
        let lodging = persist(&node, &pod, "FailedCreatePodSandBox", make).await;
        tell_place.send_replace(Some(lodging.addresses));
        let paths = persist(&node, &pod, "FailedMount", || volumes::make(&lodging)).await;
        (Arc::new(lodging), Arc::new(paths))
    };
    let (lodging, paths) = tokio::select! {
        prepared = prepared => prepared,
        // Nothing has run, so nothing has failed.
        () = until(&ending, Option::is_some) => return true,
    };
    let mut renewing = JoinSet::new();
    renewing.spawn(renew(Arc::clone(&lodging)));
    let spec = lodging.spec().clone();
    let well = run_containers(&lodging, &spec, &paths, &board, &ending).await;
    renewing.shutdown().await;
    drop(paths);
    // The place is gone before anybody hears that the pod is.
    let _removed = tokio::task::spawn_blocking(move || drop(lodging)).await;
    tell_place.send_replace(None);
    well
}

/// Tries until it works; each new reason is told.
async fn persist<T, F: Future<Output = Result<T>>>(
    node: &Node,
    pod: &Pod,
    reason: &str,
    attempt: impl Fn() -> F,
) -> T {
    let mut told = String::new();
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(error) => {
                let message = format!("{error:#}");
                if message != told {
                    events::warn(node, pod, reason, &message).await;
                    told = message;
                }
                sleep(AGAIN).await;
            }
        }
    }
}

async fn renew(lodging: Arc<Lodging>) {
    loop {
        sleep(RENEWAL).await;
        // What isn't there any more, or can't be asked for now, stays as it was.
        let _stays = volumes::make(&lodging).await;
    }
}

/// The init containers one after the other, then all others beside each other.
async fn run_containers(
    lodging: &Arc<Lodging>,
    spec: &PodSpec,
    volumes: &Arc<BTreeMap<String, PathBuf>>,
    board: &Arc<Board>,
    ending: &watch::Receiver<Option<Duration>>,
) -> bool {
    let keeper = |container: &Container, restart, ending: &watch::Receiver<Option<Duration>>| Keeper {
        lodging: Arc::clone(lodging),
        container: container.clone(),
        restart,
        volumes: Arc::clone(volumes),
        board: Arc::clone(board),
        ending: ending.clone(),
    };
    let policy = match spec.restart_policy.as_deref() {
        Some("Never") => Restart::Never,
        Some("OnFailure") => Restart::OnFailure,
        _ => Restart::Always,
    };
    // Sidecars end after the others.
    let (end_sidecars, sidecars_end) = watch::channel(None);
    let mut sidecars = JoinSet::new();
    let mut well = true;
    for container in spec.init_containers.iter().flatten() {
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.spawn(keeper(container, Restart::Always, &sidecars_end).keep());
            tokio::select! {
                () = board.until_started(&container.name) => {}
                () = until(ending, Option::is_some) => {}
            }
            continue;
        }
        let restart = if policy == Restart::Never { Restart::Never } else { Restart::OnFailure };
        well = keeper(container, restart, ending).keep().await == 0;
        if !well || ending.borrow().is_some() {
            break;
        }
    }
    if well && ending.borrow().is_none() {
        let mut all = JoinSet::new();
        for container in &spec.containers {
            all.spawn(keeper(container, policy, ending).keep());
        }
        while let Some(code) = all.join_next().await {
            well &= code.is_ok_and(|code| code == 0);
        }
    }
    let grace = (*ending.borrow()).or(spec
        .termination_grace_period_seconds
        .map(|seconds| Duration::from_secs(seconds.max(0).unsigned_abs())));
    end_sidecars.send_replace(Some(grace.unwrap_or_default()));
    while sidecars.join_next().await.is_some() {}
    well
}
