//! A fleet of connections: opened before an event, held through it, asked after it.
//!
//! Each client of the world is one thread in its namespace with one small runtime, and each connection a task. All are
//! paced, so that thousands cost little. What became of each is an [`Outcome`]; whose fault it was is not for
//! the fleet to say.

mod connection;
mod datagrams;
mod kinds;
mod member;
mod migrants;
mod order;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::sync::watch;

use super::outcome::{Kind, Outcome};
use super::server::allow_many_files;
use crate::client::Client;
use crate::load::Target;
use connection::NotOpen;
use member::Member;
pub(super) use migrants::elsewhere;
use order::Order;

/// How many connections each client has, of each IP version.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mix {
    /// Downloads.
    pub downloads: usize,
    /// Uploads.
    pub uploads: usize,
    /// Idle ones.
    pub idle: usize,
    /// Chatty ones.
    pub chatty: usize,
    /// New short ones per second.
    pub short_per_second: f64,
    /// UDP flows.
    pub flows: usize,
    /// QUIC connections, of the same kinds as those of TCP.
    pub quic: usize,
}

impl Mix {
    /// Of `tcp` connections, half as many flows, and an eighth of QUIC: more than half of the connections are idle, the
    /// rest is at work.
    #[must_use]
    pub fn of(tcp: usize) -> Self {
        let (flows, quic) = (tcp.div_ceil(2), tcp.div_ceil(8));
        let (downloads, uploads, chatty) = (tcp * 16 / 100, tcp * 12 / 100, tcp * 16 / 100);
        let idle = tcp - downloads - uploads - chatty;
        Self { downloads, uploads, idle, chatty, short_per_second: 5.0, flows, quic }
    }

    /// With nothing but idle connections besides flows and short ones.
    #[must_use]
    pub fn idle(tcp: usize) -> Self {
        Self { downloads: 0, uploads: 0, idle: tcp, chatty: 0, ..Self::of(tcp) }
    }

    fn kinds(&self) -> Vec<Kind> {
        let of = [
            (Kind::Download, self.downloads),
            (Kind::Upload, self.uploads),
            (Kind::Idle, self.idle),
            (Kind::Chatty, self.chatty),
        ];
        of.into_iter().flat_map(|(kind, count)| std::iter::repeat_n(kind, count)).collect()
    }

    /// Those of QUIC: in the same proportions.
    fn quic_kinds(&self) -> Vec<Kind> {
        let kinds = self.kinds();
        (0..self.quic).map(|at| kinds[at * kinds.len() / self.quic]).collect()
    }

    /// Of one client, without the short ones.
    fn connections(&self) -> usize {
        2 * (self.kinds().len() + self.flows + self.quic)
    }

    /// Of one client, for each protocol.
    fn ports(&self) -> usize {
        self.kinds().len().max(self.flows + self.quic)
    }
}

/// The ports that clients bind: none is used twice for long, unless on purpose.
#[derive(Debug, Default)]
pub struct Ports(BTreeMap<String, u16>);

/// Below those that the kernel takes by itself.
pub(super) const PORTS: std::ops::Range<u16> = 10_000..32_000;

impl Ports {
    /// The first of so many ports of a client.
    fn take(&mut self, client: &str, count: usize) -> Result<u16> {
        let count = u16::try_from(count).ok().filter(|&count| usize::from(count) <= PORTS.len());
        let count = count.with_context(|| format!("a client has {} ports", PORTS.len()))?;
        let next = self.0.entry(client.to_owned()).or_insert(PORTS.start);
        if PORTS.end - *next < count {
            *next = PORTS.start;
        }
        let first = *next;
        *next += count;
        Ok(first)
    }
}

/// What all tasks of a fleet share.
struct Shared {
    order: watch::Sender<Order>,
    opened: AtomicUsize,
    reopened: AtomicUsize,
    /// Short ones that never came about.
    unopened: AtomicUsize,
    failures: Mutex<Vec<String>>,
    outcomes: Mutex<Vec<Outcome>>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            order: watch::Sender::new(Order::Hold),
            opened: AtomicUsize::new(0),
            reopened: AtomicUsize::new(0),
            unopened: AtomicUsize::new(0),
            failures: Mutex::default(),
            outcomes: Mutex::default(),
        }
    }
}

impl Shared {
    fn record(&self, outcome: Outcome) {
        self.outcomes.lock().expect("never poisoned: nothing panics under it").push(outcome);
    }

    fn fail(&self, why: String) {
        self.failures.lock().expect("never poisoned: nothing panics under it").push(why);
    }

    fn first_failure(&self) -> Option<String> {
        self.failures.lock().expect("never poisoned: nothing panics under it").first().cloned()
    }
}

/// Open connections.
pub struct Fleet {
    shared: Arc<Shared>,
    idle: usize,
    clients: Vec<JoinHandle<Result<()>>>,
}

/// What a fleet leaves.
#[derive(Debug, Default)]
pub struct Record {
    /// Of connections that came about.
    pub outcomes: Vec<Outcome>,
    /// Short ones that never did.
    pub unopened: usize,
}

/// How long it may take until all connections are open.
const OPEN_WITHIN: Duration = Duration::from_secs(30);

impl Fleet {
    /// Opens all connections of all clients; one that can't be opened is an error: nothing happens to the world yet.
    pub fn open(
        clients: &[Client],
        (target, quic_port): (Target, u16),
        mix: Mix,
        ports: &mut Ports,
    ) -> Result<Self> {
        allow_many_files()?;
        let mut fleet =
            Self { shared: Arc::default(), idle: 2 * mix.idle * clients.len(), clients: Vec::new() };
        for client in clients {
            let member = Arc::new(Member {
                shared: fleet.shared.clone(),
                addresses: client.addresses(),
                first_port: ports.take(client.name(), mix.ports())?,
                target,
                quic_port,
                mix,
            });
            let namespace = client.namespace.clone();
            let hold = move || namespace.run(|| block_on(member.run()));
            fleet.clients.push(thread::Builder::new().name(format!("fleet {}", client.name())).spawn(hold)?);
        }
        let wanted = mix.connections() * clients.len();
        fleet.wait_for("connections are open", wanted, |shared| &shared.opened)?;
        Ok(fleet)
    }

    /// Closes all idle connections and opens others from the same ports.
    pub fn reopen(&self) -> Result<()> {
        self.shared.order.send_replace(Order::Reopen);
        self.wait_for("connections are opened again", self.idle, |shared| &shared.reopened)
    }

    /// Asks all connections a last time, one shortly after the other, and ends them.
    pub fn end(mut self) -> Result<Record> {
        self.join()?;
        let outcomes = std::mem::take(&mut *self.shared.outcomes.lock().expect("never poisoned"));
        Ok(Record { outcomes, unopened: self.shared.unopened.load(Ordering::Relaxed) })
    }

    fn wait_for(&self, what: &str, wanted: usize, count: impl Fn(&Shared) -> &AtomicUsize) -> Result<()> {
        let deadline = Instant::now() + OPEN_WITHIN;
        loop {
            let so_far = count(&self.shared).load(Ordering::Relaxed);
            if so_far >= wanted {
                return Ok(());
            }
            if let Some(why) = self.shared.first_failure() {
                bail!("{so_far} of {wanted} {what}, and one is not: {why}");
            }
            ensure!(Instant::now() < deadline, "only {so_far} of {wanted} {what} after {OPEN_WITHIN:?}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn join(&mut self) -> Result<()> {
        self.shared.order.send_replace(Order::End);
        for client in self.clients.drain(..) {
            client.join().expect("a fleet's thread doesn't panic").context("a fleet's client")?;
        }
        Ok(())
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // After `end` there is nothing left to join; else somebody gave up, and its own error counts.
        let _ = self.join();
    }
}

impl fmt::Display for NotOpen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unestablished(error) => write!(f, "{error}"),
            Self::Broken(_, why) => write!(f, "{why}"),
        }
    }
}

fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?.block_on(work)
}

#[cfg(test)]
mod tests;
