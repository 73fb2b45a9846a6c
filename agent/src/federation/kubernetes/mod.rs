//! A cluster's API server as its source.
//!
//! In comes how the server is reached; out go snapshots of what it has for us. Each cluster has a thread with a runtime of its
//! own, so that a flood of changes in one takes no time from the others. Two things are asked of a server at the same time:
//! watches tell what changes, and a question every other second tells whether it still answers, and whether it remembers what it
//! said. What is known stays while it doesn't.

mod access;
mod ask;
mod kinds;
mod objects;
mod once;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use fairlead_core::model::{ClusterState, ObjectName};
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesUnordered, SelectAll, StreamExt};
use kube::Client;
use kube::runtime::utils::Backoff;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::convert::Kind;
use super::last_good::Shards;
use super::problem::SourceProblem;
use super::source::{Access, Fault, SourceSpec, SourceState, publish, time_to_tell};
use super::store::Store;
use access::{Connection, chain};
use ask::Silence;
use kinds::{Heard, KINDS, OVER, Raw, Told};
use objects::Objects;
pub use once::{Snapshot, change_drains, read};

/// A server that answers, but lists nothing for so long, is told.
const LISTING: Duration = Duration::from_secs(10);
/// Changes that are taken at once before they are published.
const AT_ONCE: usize = 4096;
/// When slices could not be fetched, when that is tried again.
const FETCH_AGAIN: Duration = Duration::from_secs(1);
/// Between attempts to read the credentials.
const OPEN_AGAIN: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(10)];

/// Follows the API server, beginning with the `shards` that are known. Ends with what it failed by, or when nobody listens
/// any more.
pub(super) async fn follow(
    spec: &SourceSpec,
    access: &Access,
    shards: Shards,
    sender: &watch::Sender<Arc<SourceState>>,
) -> Option<Fault> {
    let follower = Follower::new(spec.clone(), access.clone(), shards, sender.clone());
    let (ended, end) = oneshot::channel();
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let result = runtime.map(|runtime| runtime.block_on(follower.run()));
        // Nobody waits for it any more where the agent ends.
        let _ = ended.send(result);
    };
    // The kernel takes fifteen bytes of a name.
    let name: String = spec.cluster.chars().take(15).collect();
    if let Err(error) = thread::Builder::new().name(name).spawn(run) {
        return Some(error.into());
    }
    match end.await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.into()),
        Err(_) => Some("its thread panicked".into()),
    }
}

/// Why a connection is followed no longer.
enum End {
    /// Nobody listens.
    Closed,
    /// Its credentials are other ones now, or the server has another past.
    Anew,
}

type Fetch = BoxFuture<'static, (ObjectName, kube::Result<Vec<Raw>>)>;

struct Follower {
    spec: SourceSpec,
    access: Access,
    objects: Objects,
    sender: watch::Sender<Arc<SourceState>>,
    /// Everything was listed at least once.
    complete: bool,
    /// Kinds that were listed on this connection: before all are, what is known is of two moments.
    listed: BTreeSet<Kind>,
    /// What is wrong with the server as a whole.
    silent: Option<String>,
    /// There was no server since everything was listed.
    cut: bool,
    /// What is wrong with the watch of a kind, and when it was told last.
    failing: BTreeMap<Kind, (String, Instant)>,
    last_read: Option<SystemTime>,
}

impl Follower {
    fn new(
        spec: SourceSpec,
        access: Access,
        shards: Shards,
        sender: watch::Sender<Arc<SourceState>>,
    ) -> Self {
        let objects = Objects::new(Arc::clone(&spec.cluster), spec.defaults, Store::new(shards));
        let failing = BTreeMap::new();
        Self {
            spec,
            access,
            objects,
            sender,
            complete: false,
            listed: BTreeSet::new(),
            silent: None,
            cut: false,
            failing,
            last_read: None,
        }
    }

    async fn run(mut self) {
        let mut pauses = kinds::pauses(OPEN_AGAIN);
        let sender = self.sender.clone();
        let mut closed = pin!(sender.closed());
        loop {
            match Connection::open(&self.access).await {
                Ok(connection) => {
                    pauses.reset();
                    match self.listen(connection).await {
                        End::Closed => return,
                        End::Anew => self.failing.clear(),
                    }
                }
                Err(message) => {
                    self.silent = Some(message);
                    self.publish();
                    let pause = pauses.next().unwrap_or(OPEN_AGAIN[1]);
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = &mut closed => return,
                    }
                }
            }
        }
    }

    async fn listen(&mut self, connection: Connection) -> End {
        let client = &connection.client;
        let mut told = Watches::new(client);
        self.objects.begin();
        self.listed.clear();
        // What is newer may have been heard before an answer that was given earlier.
        let mut known = self.objects.newest();
        let mut answer = pin!(ask::ask(client.clone(), Duration::ZERO));
        let mut fetches: FuturesUnordered<Fetch> = FuturesUnordered::new();
        let begun = Instant::now();
        let sender = self.sender.clone();
        let mut closed = pin!(sender.closed());
        loop {
            tokio::select! {
                Some(heard) = told.next() => {
                    self.take(heard, client, &mut told, &mut fetches);
                }
                Some((service, slices)) = fetches.next() => match slices {
                    Ok(slices) => self.objects.fetched(&service, slices),
                    Err(error) => {
                        self.fail(Kind::EndpointSlice, chain(&error));
                        fetches.push(fetch(client.clone(), service, FETCH_AGAIN));
                    }
                },
                answered = &mut answer => {
                    let version = *answered.as_ref().unwrap_or(&known);
                    let is_back = answered.is_ok() && self.silent.is_some();
                    let has_another_past = version < known || (answered.is_ok() && self.cut);
                    self.answered(answered, &connection.server, begun);
                    known = self.objects.newest().max(version);
                    if has_another_past {
                        self.objects.distrust_versions();
                        self.cut = false;
                    }
                    // Watches may have died with the server, or without a word.
                    if has_another_past || (is_back && self.complete) {
                        tracing::info!(cluster = %self.spec.cluster, "the API server is back: all is listed anew");
                        return End::Anew;
                    }
                    answer.set(ask::ask(client.clone(), ask::PERIOD));
                    if !connection.is_current() {
                        tracing::info!(cluster = %self.spec.cluster, "the credentials have changed: connecting anew");
                        return End::Anew;
                    }
                }
                () = &mut closed => return End::Closed,
            }
            self.publish();
        }
    }

    /// Takes what was heard, and what else can be heard at once.
    fn take(
        &mut self,
        first: Heard,
        client: &Client,
        told: &mut Watches,
        fetches: &mut FuturesUnordered<Fetch>,
    ) {
        let mut next = Some(first);
        for _ in 0..AT_ONCE {
            let Some(heard) = next else { break };
            match &heard.event {
                Told::Failed(message) => self.fail(heard.kind, message.clone()),
                Told::Listing => {}
                _ => drop(self.failing.remove(&heard.kind)),
            }
            if matches!(heard.event, Told::Listed) {
                self.listed.insert(heard.kind);
            }
            let services_listed = heard.kind == Kind::Service && matches!(heard.event, Told::Listed);
            if let Some(service) = self.objects.hear(heard) {
                fetches.push(fetch(client.clone(), service, Duration::ZERO));
            }
            // Only then it is known whose slices count.
            if services_listed {
                told.watch_slices(client);
            }
            next = told.next().now_or_never().flatten();
        }
        self.complete |= self.objects.is_complete();
    }

    fn fail(&mut self, kind: Kind, message: String) {
        self.failing.insert(kind, (message, Instant::now()));
    }

    /// The server has answered, with the newest version that it has, or hasn't.
    fn answered(&mut self, answer: Result<u64, Silence>, server: &str, begun: Instant) {
        self.failing.retain(|_, (_, told)| told.elapsed() < OVER);
        self.silent = match answer {
            Err(Silence { message, cut }) => {
                self.cut |= cut;
                Some(format!("API server {server}: {message}"))
            }
            Ok(_) if !self.complete && begun.elapsed() > LISTING => {
                let missing = KINDS.into_iter().filter(|kind| !self.objects.has_listed(*kind));
                let missing: Vec<&str> = missing.map(Kind::name).collect();
                let seconds = begun.elapsed().as_secs();
                Some(format!(
                    "API server {server}: not all was listed for {seconds} s: {}",
                    missing.join(", ")
                ))
            }
            Ok(_) => {
                self.last_read = Some(time_to_tell());
                None
            }
        };
    }

    fn publish(&mut self) {
        let mut problems = self.unreachable();
        let reachable = problems.is_empty();
        if reachable && self.listed.len() < KINDS.len() {
            return;
        }
        problems.extend(self.objects.problems().cloned());
        let shards = self.objects.store().shards().clone();
        let state = SourceState {
            state: ClusterState { reachable, shards, accepted: false },
            problems,
            located: Arc::default(),
            drains: Arc::clone(self.objects.store().drains()),
            ignored: self.objects.ignored(),
            read: true,
            last_read: self.last_read,
            objects: self.objects.store().tally(),
            ..SourceState::default()
        };
        publish(&self.sender, state);
    }

    /// Why the server can't be read.
    fn unreachable(&self) -> Vec<SourceProblem> {
        let stays = "what is known of the cluster stays";
        if let Some(message) = &self.silent {
            return vec![self.spec.problem(format!("{message}; {stays}"))];
        }
        let told = |(kind, (message, _)): (&Kind, &(String, Instant))| {
            self.spec.problem(format!("{}s can't be watched: {message}; {stays}", kind.name()))
        };
        self.failing.iter().map(told).collect()
    }
}

fn fetch(client: Client, service: ObjectName, after: Duration) -> Fetch {
    async move {
        tokio::time::sleep(after).await;
        let slices = kinds::slices(client, &service).await;
        (service, slices)
    }
    .boxed()
}

/// What all watches of a server tell.
struct Watches {
    streams: SelectAll<BoxStream<'static, Heard>>,
    of_slices: bool,
}

impl Watches {
    /// Of all kinds but slices, which are watched once services are known.
    fn new(client: &Client) -> Self {
        let others = KINDS.into_iter().filter(|kind| *kind != Kind::EndpointSlice);
        Self { streams: others.map(|kind| kinds::watch(client, kind)).collect(), of_slices: false }
    }

    fn watch_slices(&mut self, client: &Client) {
        if !std::mem::replace(&mut self.of_slices, true) {
            self.streams.push(kinds::watch(client, Kind::EndpointSlice));
        }
    }

    async fn next(&mut self) -> Option<Heard> {
        self.streams.next().await
    }
}
