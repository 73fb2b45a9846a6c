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

use std::collections::BTreeMap;
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
use super::source::{Access, Fault, SourceSpec, SourceState, publish, time_to_tell, unanswered};
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
    /// The server is silent or has another past, or the credentials are other ones now.
    Anew,
}

/// A watch that fails.
struct Failing {
    message: String,
    /// When it was told last.
    told: Instant,
    /// How often in a row: a single one may be a connection that was closed.
    times: u32,
}

type Fetch = BoxFuture<'static, (ObjectName, kube::Result<Vec<Raw>>)>;

struct Follower {
    spec: SourceSpec,
    access: Access,
    objects: Objects,
    sender: watch::Sender<Arc<SourceState>>,
    /// What is wrong with the server as a whole.
    silent: Option<String>,
    /// There was no server: the one that is there next may have another past.
    cut: bool,
    /// Kinds whose watches fail.
    failing: BTreeMap<Kind, Failing>,
    /// A watch was lost or has begun anew, and the server was not asked since: it may be another one.
    doubt: bool,
    /// When the last list of a kind began.
    listing_since: Instant,
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
        Self {
            spec,
            access,
            objects,
            sender,
            silent: None,
            cut: false,
            failing: BTreeMap::new(),
            doubt: false,
            listing_since: Instant::now(),
            last_read: None,
        }
    }

    async fn run(mut self) {
        let mut pauses = kinds::pauses(OPEN_AGAIN);
        let sender = self.sender.clone();
        let mut closed = pin!(sender.closed());
        loop {
            let pause = match Connection::open(&self.access).await {
                Ok(connection) => {
                    pauses.reset();
                    match self.follow(connection).await {
                        End::Closed => return,
                        End::Anew => continue,
                    }
                }
                Err(message) => {
                    self.silent = Some(message);
                    self.publish();
                    pauses.next().unwrap_or(OPEN_AGAIN[1])
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = &mut closed => return,
            }
        }
    }

    /// Watches begin when the server has answered, and end when it doesn't: they may have died with it, or without a word.
    async fn follow(&mut self, connection: Connection) -> End {
        let sender = self.sender.clone();
        let mut closed = pin!(sender.closed());
        let pause = if self.silent.is_some() { ask::PERIOD } else { Duration::ZERO };
        let answered = tokio::select! {
            answered = ask::ask(connection.client.clone(), pause) => answered,
            () = &mut closed => return End::Closed,
        };
        if let Some(end) = self.answered(answered, self.objects.newest(), &connection) {
            return end;
        }
        tokio::select! {
            end = self.listen(&connection) => end,
            () = closed => End::Closed,
        }
    }

    async fn listen(&mut self, connection: &Connection) -> End {
        let client = &connection.client;
        self.objects.begin();
        self.failing.clear();
        (self.doubt, self.listing_since) = (false, Instant::now());
        let mut told = Watches::new(client);
        let mut fetches: FuturesUnordered<Fetch> = FuturesUnordered::new();
        // What is newer may be heard before an answer that was given earlier.
        let mut known = self.objects.newest();
        let mut answer = pin!(ask::ask(client.clone(), ask::PERIOD));
        loop {
            tokio::select! {
                Some(heard) = told.next() => {
                    if self.take(heard, client, &mut told, &mut fetches) {
                        self.doubt = true;
                        known = self.objects.newest();
                        answer.set(ask::ask(client.clone(), Duration::ZERO));
                    }
                }
                Some((service, slices)) = fetches.next() => match slices {
                    Ok(slices) => self.objects.fetched(&service, slices),
                    Err(error) => {
                        self.fail(Kind::EndpointSlice, chain(&error));
                        fetches.push(fetch(client.clone(), service, FETCH_AGAIN));
                    }
                },
                answered = &mut answer => {
                    if let Some(end) = self.answered(answered, known, connection) {
                        return end;
                    }
                    known = self.objects.newest();
                    answer.set(ask::ask(client.clone(), ask::PERIOD));
                }
            }
            self.publish();
        }
    }

    /// Takes what was heard, and what else can be heard at once; whether a watch was lost or has begun anew.
    fn take(
        &mut self,
        first: Heard,
        client: &Client,
        told: &mut Watches,
        fetches: &mut FuturesUnordered<Fetch>,
    ) -> bool {
        let (mut next, mut lost) = (Some(first), false);
        for _ in 0..AT_ONCE {
            let Some(heard) = next else { break };
            match &heard.event {
                Told::Failed(message) => {
                    self.fail(heard.kind, message.clone());
                    lost = true;
                }
                Told::Listing if self.objects.has_listed(heard.kind) => {
                    self.listing_since = Instant::now();
                    lost = true;
                }
                Told::Listing => {}
                _ => drop(self.failing.remove(&heard.kind)),
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
        lost
    }

    fn fail(&mut self, kind: Kind, message: String) {
        let times = self.failing.get(&kind).map_or(1, |failing| failing.times + 1);
        self.failing.insert(kind, Failing { message, told: Instant::now(), times });
    }

    /// The server has answered with the newest version that it has, or hasn't; when it was asked, `known` was. Why it is to
    /// be followed anew.
    fn answered(&mut self, answer: Result<u64, Silence>, known: u64, connection: &Connection) -> Option<End> {
        self.failing.retain(|_, failing| failing.told.elapsed() < OVER);
        match answer {
            Err(Silence { message, cut }) => {
                self.cut |= cut;
                self.silent = Some(format!("API server {}: {message}", connection.server));
                self.publish();
                return Some(End::Anew);
            }
            Ok(version) if version < known => {
                tracing::info!(cluster = %self.spec.cluster, "the API server was set back: all is listed anew");
                self.objects.distrust_versions();
                return Some(End::Anew);
            }
            Ok(version) => {
                if std::mem::take(&mut self.cut) {
                    self.objects.distrust_versions();
                }
                self.objects.hear_version(version);
                (self.silent, self.doubt) = (None, false);
                self.last_read = Some(time_to_tell());
            }
        }
        if connection.is_current() {
            return None;
        }
        tracing::info!(cluster = %self.spec.cluster, "the credentials have changed: connecting anew");
        Some(End::Anew)
    }

    /// What is known is published where it is of one moment; else only that the server can't be read, where that is so.
    fn publish(&mut self) {
        if let Some(trouble) = self.trouble() {
            let message = format!("{trouble}; what is known of the cluster stays");
            let state = unanswered(&self.spec, &self.sender.borrow(), message);
            publish(&self.sender, state);
        } else if !self.doubt && self.objects.has_listed_all() {
            let state = self.snapshot();
            publish(&self.sender, state);
        }
    }

    fn snapshot(&mut self) -> SourceState {
        let shards = self.objects.store().shards().clone();
        SourceState {
            state: ClusterState { reachable: true, shards, accepted: false },
            problems: self.objects.problems().cloned().collect(),
            drains: Arc::clone(self.objects.store().drains()),
            ignored: self.objects.ignored(),
            read: true,
            last_read: self.last_read,
            objects: self.objects.store().tally(),
            ..SourceState::default()
        }
    }

    /// Why the server can't be read.
    fn trouble(&self) -> Option<String> {
        if self.silent.is_some() {
            return self.silent.clone();
        }
        let failing = self.failing.iter().filter(|(_, failing)| failing.times > 1);
        let failing: Vec<String> = failing
            .map(|(kind, failing)| format!("{}s can't be watched: {}", kind.name(), failing.message))
            .collect();
        if !failing.is_empty() {
            return Some(failing.join("; "));
        }
        let seconds = self.listing_since.elapsed().as_secs();
        let missing = KINDS.into_iter().filter(|kind| !self.objects.has_listed(*kind));
        let missing: Vec<&str> = missing.map(Kind::name).collect();
        let is_late = !missing.is_empty() && seconds >= LISTING.as_secs();
        is_late.then(|| format!("not all was listed for {seconds} s: {}", missing.join(", ")))
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
