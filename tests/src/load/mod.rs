//! A continuous load: HTTP on new and kept connections and UDP, IPv4 and IPv6, from clients of the world.
//!
//! Each client is one thread in its namespace with one small runtime. Requests start when their time has come,
//! whatever became of the ones before, so an outage is counted in full; only those on one kept connection wait for each
//! other. Every request is recorded. What they mean is said in [`statistics`].

pub mod http;
mod request;
pub mod statistics;
pub mod udp;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior};

pub use request::{Failure, Identity, Kind, Request};
pub use statistics::{Event, EventReport};

use crate::client::Client;

/// A request that isn't answered fully within this time has failed.
pub const PATIENCE: Duration = Duration::from_millis(500);

/// Whom the load asks.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// An IPv4 address.
    pub v4: Ipv4Addr,
    /// An IPv6 address.
    pub v6: Ipv6Addr,
    /// For HTTP.
    pub http_port: u16,
    /// For datagrams.
    pub udp_port: u16,
}

/// How much each client asks, per address family.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// Requests per second on connections of their own.
    pub new_connections: f64,
    /// Connections that are kept.
    pub kept_connections: u32,
    /// Requests per second on each of them. Where a pod vanishes without a word, its kept connections find out at their
    /// next request: below 2 that could be after recovery.
    pub kept_requests: f64,
    /// Datagrams per second.
    pub datagrams: f64,
}

impl Default for Mix {
    /// 42 requests per second and client.
    fn default() -> Self {
        Self { new_connections: 6.0, kept_connections: 4, kept_requests: 2.5, datagrams: 5.0 }
    }
}

/// A running load.
#[derive(Debug)]
pub struct Load {
    began: Instant,
    stopping: Arc<AtomicBool>,
    requests: Arc<Mutex<Vec<Request>>>,
    events: Mutex<Vec<Event>>,
    clients: Vec<JoinHandle<Result<()>>>,
}

/// What a load leaves.
#[derive(Clone, Debug)]
pub struct Record {
    /// In the order in which they ended.
    pub requests: Vec<Request>,
    /// In order.
    pub events: Vec<Event>,
}

impl Load {
    /// Starts it.
    pub fn start(clients: &[Client], target: Target, mix: Mix) -> Result<Self> {
        let began = Instant::now();
        let stopping = Arc::new(AtomicBool::new(false));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let mut threads = Vec::new();
        for client in clients {
            let asker = Arc::new(Asker {
                client: client.name().into(),
                began,
                stopping: stopping.clone(),
                requests: requests.clone(),
                asked: AtomicU64::new(0),
            });
            let namespace = client.namespace.clone();
            let ask = move || namespace.run(|| asker.run(target, mix));
            threads.push(thread::Builder::new().name(format!("load {}", client.name())).spawn(ask)?);
        }
        Ok(Self { began, stopping, requests, events: Mutex::default(), clients: threads })
    }

    /// Time since its start.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Says that something is done to the world now; call it just before.
    pub fn event(&self, name: &str) {
        let event = Event { name: name.to_owned(), at: self.now() };
        self.events.lock().expect("never poisoned: nothing panics under it").push(event);
    }

    /// The requests that have ended, from the one with number `first` on.
    #[must_use]
    pub fn requests_from(&self, first: usize) -> Vec<Request> {
        let requests = self.requests.lock().expect("never poisoned: nothing panics under it");
        requests.get(first..).unwrap_or_default().to_vec()
    }

    /// A copy of what it has recorded.
    #[must_use]
    pub fn so_far(&self) -> Record {
        let events = self.events.lock().expect("never poisoned: nothing panics under it").clone();
        Record { requests: self.requests_from(0), events }
    }

    /// Ends it; requests in flight are waited for.
    pub fn stop(mut self) -> Result<Record> {
        self.join()?;
        let requests = std::mem::take(&mut *self.requests.lock().expect("never poisoned"));
        let events = std::mem::take(&mut *self.events.lock().expect("never poisoned"));
        Ok(Record { requests, events })
    }

    fn join(&mut self) -> Result<()> {
        self.stopping.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            client.join().expect("a load's thread doesn't panic").context("a load's client")?;
        }
        Ok(())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // After `stop` there is nothing left to join; else somebody gave up, and its own error counts.
        let _ = self.join();
    }
}

impl Record {
    /// A report per event.
    #[must_use]
    pub fn per_event(&self) -> Vec<EventReport> {
        statistics::per_event(&self.events, &self.requests)
    }
}

/// One client's part.
struct Asker {
    client: Arc<str>,
    began: Instant,
    stopping: Arc<AtomicBool>,
    requests: Arc<Mutex<Vec<Request>>>,
    /// Makes datagrams tell each other apart.
    asked: AtomicU64,
}

impl Asker {
    fn run(self: &Arc<Self>, target: Target, mix: Mix) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        runtime.block_on(async {
            let mut streams = JoinSet::new();
            for address in [IpAddr::from(target.v4), IpAddr::from(target.v6)] {
                let http = SocketAddr::new(address, target.http_port);
                let udp = SocketAddr::new(address, target.udp_port);
                streams.spawn(self.clone().open_new(http, mix.new_connections));
                streams.spawn(self.clone().send_datagrams(udp, mix.datagrams));
                for number in 0..mix.kept_connections {
                    let phase = f64::from(number) / f64::from(mix.kept_connections);
                    streams.spawn(self.clone().keep_one(http, mix.kept_requests, phase));
                }
            }
            while let Some(ended) = streams.join_next().await {
                ended?;
            }
            Ok(())
        })
    }

    async fn open_new(self: Arc<Self>, server: SocketAddr, per_second: f64) {
        let get: Arc<[u8]> = http::get(server, "/").into();
        let mut running = JoinSet::new();
        let mut times = times(per_second, 0.0);
        while self.wait_for(&mut times).await {
            let (asker, get) = (self.clone(), get.clone());
            running.spawn(async move {
                asker.ask_http(Kind::NewConnection, server, &get, &mut None).await;
            });
            while running.try_join_next().is_some() {}
        }
        running.join_all().await;
    }

    async fn keep_one(self: Arc<Self>, server: SocketAddr, per_second: f64, phase: f64) {
        let get = http::get(server, "/");
        let mut connection = None;
        let mut times = times(per_second, phase);
        while self.wait_for(&mut times).await {
            self.ask_http(Kind::KeptConnection, server, &get, &mut connection).await;
        }
    }

    async fn send_datagrams(self: Arc<Self>, server: SocketAddr, per_second: f64) {
        let mut running = JoinSet::new();
        let mut times = times(per_second, 0.5);
        while self.wait_for(&mut times).await {
            let asker = self.clone();
            running.spawn(async move { asker.ask_udp(server).await });
            while running.try_join_next().is_some() {}
        }
        running.join_all().await;
    }

    /// Waits for the next time to ask; false once the load stops.
    async fn wait_for(&self, times: &mut Option<Interval>) -> bool {
        match times {
            Some(times) => {
                times.tick().await;
                !self.stopping.load(Ordering::Relaxed)
            }
            None => false,
        }
    }

    /// Asks on `kept`, or on a new connection, which it leaves there unless it failed.
    async fn ask_http(&self, kind: Kind, server: SocketAddr, get: &[u8], kept: &mut Option<Kept>) {
        let started = self.began.elapsed();
        let before = kept.as_ref().map(|kept| kept.identity.clone());
        let mut port = kept.as_ref().map_or(0, |kept| kept.connection.port());
        let open = kept.take();
        let exchange = async {
            let mut connection = match open {
                Some(kept) => kept.connection,
                None => http::Connection::open(server).await?,
            };
            port = connection.port();
            let response = connection.exchange(get).await?;
            if response.status != 200 {
                return Err(Failure::Status(response.status));
            }
            let identity = Identity::parse(&response.body).ok_or(Failure::Malformed)?;
            Ok((connection, identity))
        };
        let outcome = match tokio::time::timeout(PATIENCE, exchange).await {
            Ok(Ok((connection, identity))) => {
                *kept = Some(Kept { connection, identity: identity.clone() });
                Ok(identity)
            }
            Ok(Err(failure)) => Err(failure),
            Err(_) => Err(Failure::Timeout),
        };
        self.record(Request { port, before, ..self.request(kind, server, started, outcome) });
    }

    async fn ask_udp(&self, server: SocketAddr) {
        let started = self.began.elapsed();
        let payload = format!("{} {}", self.client, self.asked.fetch_add(1, Ordering::Relaxed));
        let answer = tokio::time::timeout(PATIENCE, udp::ask(server, payload.as_bytes())).await;
        let (port, outcome) = match answer {
            Ok(Ok((port, answer))) if answer.ends_with(payload.as_bytes()) => {
                (port, Identity::parse(&answer).ok_or(Failure::Malformed))
            }
            Ok(Ok((port, _))) => (port, Err(Failure::Malformed)),
            Ok(Err(failure)) => (0, Err(failure)),
            Err(_) => (0, Err(Failure::Timeout)),
        };
        self.record(Request { port, ..self.request(Kind::Datagram, server, started, outcome) });
    }

    fn request(
        &self,
        kind: Kind,
        server: SocketAddr,
        started: Duration,
        outcome: Result<Identity, Failure>,
    ) -> Request {
        Request {
            client: self.client.clone(),
            kind,
            server,
            port: 0,
            started,
            took: self.began.elapsed().saturating_sub(started),
            before: None,
            outcome,
            broken_by_move: false,
        }
    }

    fn record(&self, request: Request) {
        self.requests.lock().expect("never poisoned: nothing panics under it").push(request);
    }
}

/// So many times per second, the first after `phase` of a period; never at a rate of 0.
fn times(per_second: f64, phase: f64) -> Option<Interval> {
    let period = Duration::try_from_secs_f64(1.0 / per_second).ok()?;
    let mut times = tokio::time::interval_at(tokio::time::Instant::now() + period.mul_f64(phase), period);
    // A machine that stood still shall not make up for it by a burst.
    times.set_missed_tick_behavior(MissedTickBehavior::Skip);
    Some(times)
}

/// A connection that stays, and who has answered on it.
struct Kept {
    connection: http::Connection,
    identity: Identity,
}
