//! The prober as the rest of the agent sees it.

use std::io;
use std::sync::Arc;

use fairlead_core::model::Health;
use fairlead_core::planner::Links;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::watch;
use tokio::time::Instant;

use super::ask::Sockets;
use super::numbers::Numbers;
use super::probing::Probing;
use super::{Counters, Error, ProbeTable, Targets};

/// What bounds the prober.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Probes on their way at the same time; less where not as many files may be open.
    pub concurrency: u32,
    /// Probes begun per second.
    pub per_second: u32,
    /// The interface that probes through tunnels leave by: the one that has the programs attached, and by which the
    /// VIPs have a route. `None`: by any route.
    pub interface: Option<Arc<str>>,
    /// Sets gateways apart, so that they don't probe an endpoint all at once.
    pub seed: u64,
}

/// Probes endpoints.
pub struct Prober {
    sockets: Sockets,
    settings: Settings,
    table: Option<Box<dyn ProbeTable>>,
    started: Instant,
    counters: Arc<Counters>,
}

impl Prober {
    /// `table`: where probes through tunnels find their way; without it only this node's endpoints are probed.
    /// `started`: what [`Probe::since`](fairlead_core::model::Probe::since) counts from. Raises the soft limit of open files to the hard one.
    pub fn new(
        settings: Settings,
        table: Option<Box<dyn ProbeTable>>,
        started: std::time::Instant,
    ) -> Result<Self, Error> {
        let files = open_files().map_err(Error::OpenFiles)?;
        // The other half is for everything else that the agent does.
        let concurrency = settings.concurrency.clamp(1, u32::try_from(files / 2).unwrap_or(u32::MAX).max(1));
        if concurrency < settings.concurrency {
            tracing::warn!(
                concurrency,
                wanted = settings.concurrency,
                files,
                "fewer probes at once than configured"
            );
        }
        let settings = Settings { concurrency, ..settings };
        let sockets = Sockets::new(settings.interface.clone())?;
        let started = Instant::from_std(started);
        Ok(Self { sockets, settings, table, started, counters: Arc::default() })
    }

    /// What it counts.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Probes until `targets` has no sender any more. Probes on their way end with it. `links`: how outer destinations
    /// are reached. What `health` holds at first was known before, and counts until probes say something else.
    pub async fn run(
        self,
        targets: watch::Receiver<Arc<Targets>>,
        links: watch::Receiver<Arc<Links>>,
        health: watch::Sender<Arc<Health>>,
    ) {
        let numbers = Numbers::new(self.table, links);
        Probing::new(self.sockets, &self.settings, numbers, self.started, self.counters)
            .run(targets, health)
            .await;
    }
}

/// How many files may be open, after raising it as far as it goes.
fn open_files() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
        return Ok(hard);
    }
    Ok(soft)
}
