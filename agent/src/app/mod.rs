//! The agent, stage by stage: federation, health and configuration feed the model; the planner makes tables of it;
//! what differs from what the kernel holds is applied.
//!
//! One task owns the data plane and does this again whenever something changed. Each input is a snapshot, the
//! latest wins, and nothing downstream calls upstream. Forwarding never waits for any of it.

mod demand;
mod flows;
mod interfaces;
mod problems;
mod remembered;
mod room;
mod settings;
mod start;
mod status;
mod turn;
mod warm_up;

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{oneshot, watch},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use crate::{
    admin,
    config::{self, Reload},
    dataplane::{self, Instance, Programs},
    federation, health,
};

pub(crate) use remembered::Remembered;
#[cfg(test)]
pub(crate) use remembered::last_health;
pub use settings::{capacities, settings};
use start::Stages;

/// After the first change of a burst, this long is waited for the rest.
const SETTLE: Duration = Duration::from_millis(2);
/// How often interfaces are looked at: one that vanished may be back.
const LOOK_AT_INTERFACES: Duration = Duration::from_millis(250);
/// How often new connections are counted.
const SAMPLE: Duration = Duration::from_secs(1);
/// How often the kernel's tables are read back, to repair what a stranger changed.
const READ_BACK: Duration = Duration::from_secs(10);
/// Findings about flows that are carried out at a time.
const FINDINGS: usize = 256;
/// How often the flow cache is swept.
const SWEEP_CACHE: Duration = Duration::from_secs(15);
/// How often to look whether flows are to be swept.
const SWEEP: Duration = Duration::from_secs(1);

/// How `fairlead run` was called.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration file.
    pub config: PathBuf,
    /// Detach the programs and remove all pins at the end.
    pub detach: bool,
    /// Which programs to load.
    pub programs: Programs,
}

/// Why the agent can't start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration doesn't hold.
    #[error("{}", list(.0))]
    Config(Vec<config::ConfigProblem>),
    /// The kernel refused something.
    #[error(transparent)]
    Dataplane(#[from] dataplane::Error),
    /// The state directory can't be used.
    #[error(transparent)]
    LastGood(#[from] federation::LastGoodError),
    /// The federation's secrets can't be read.
    #[error("secretsFile: {what}")]
    Secrets {
        /// Which file, and why.
        what: String,
    },
    /// The prober can't work.
    #[error(transparent)]
    Health(#[from] health::Error),
    /// Something of the operating system.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// The answer.
        #[source]
        source: std::io::Error,
    },
}

fn list(problems: &[config::ConfigProblem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn system(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
    let what = what.into();
    |source| Error::System { what, source }
}

/// Runs the agent until SIGTERM or SIGINT. Forwarding goes on afterwards, unless `detach` is set.
///
/// # Errors
/// Where it can't start; once it runs, what fails is reported and tried again.
pub async fn run(options: Options) -> Result<(), Error> {
    let config = Arc::new(config::check(&options.config).map_err(Error::Config)?);
    let mut terminate = signal(SignalKind::terminate()).map_err(system("listening for SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system("listening for SIGINT"))?;
    let hangups =
        ignore_hangups(|| tracing::info!("SIGHUP: ignored; a changed configuration is applied without it"))?;
    let instance = Instance::new(&config.instance.0);
    // First of all: a second agent must touch nothing of the first one's.
    let lock = instance.lock(&config.state_directory())?;
    let (status, status_seen) = watch::channel(Arc::new(crate::status::Status::starting(&config)));
    let admin = admin::Admin::bind(config.admin.address).await.map_err(system(format!(
        "listening on {} for metrics and readiness (field admin.address)",
        config.admin.address
    )))?;
    let mut stages = Stages::start(&options, &config, (instance, lock), status)?;
    let (probes, asks) = (Arc::clone(&stages.probes_counted), stages.counted.clone());
    let counted = (asks, stages.fragments.clone());
    let admin = tokio::spawn(admin.serve(status_seen.clone(), probes, counted));
    let (end, ended) = oneshot::channel();
    let keeper = tokio::spawn(crate::status::keep(config.state_directory(), status_seen, ended));
    let then = if options.detach { "forwarding ends too" } else { "forwarding goes on" };
    tokio::select! {
        outcome = steer(&mut stages) => if let Err(error) = outcome {
            // What was loaded for nothing goes; what packets are steered by stays.
            if stages.dataplane.linked() == dataplane::Linked::Nowhere {
                stages.dataplane.instance().remove()?;
            }
            return Err(error);
        },
        _ = terminate.recv() => tracing::info!("SIGTERM: ending; {then}"),
        _ = interrupt.recv() => tracing::info!("SIGINT: ending; {then}"),
    }
    admin.abort();
    hangups.abort();
    // What it is writing is finished first: the last status comes last.
    drop(end);
    if let Err(error) = keeper.await {
        tracing::error!(%error, "keeping the status has failed");
    }
    // One that has told nothing yet knows less than what was kept before.
    if stages.status.borrow().fingerprint.is_some() {
        crate::status::keep_last(&config.state_directory(), &stages.status.borrow());
    }
    if options.detach {
        stages.dataplane.instance().remove()?;
        tracing::info!("programs detached, pins removed");
    }
    Ok(())
}

/// From now on SIGHUP no longer ends this process, but makes it do `each`.
fn ignore_hangups(mut each: impl FnMut() + Send + 'static) -> Result<JoinHandle<()>, Error> {
    let mut hangup = signal(SignalKind::hangup()).map_err(system("listening for SIGHUP"))?;
    Ok(tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            each();
        }
    }))
}

/// The loop: waits for a change of any input, then takes a turn.
async fn steer(stages: &mut Stages) -> Result<(), Error> {
    stages.warm_up().await;
    stages.turn();
    stages.take_up()?;
    let mut look = ticks(LOOK_AT_INTERFACES);
    let mut sample = ticks(SAMPLE);
    let mut read_back = ticks(READ_BACK);
    let mut sweep = ticks(SWEEP);
    let mut sweep_cache = ticks(SWEEP_CACHE);
    // A task that has ended would be an event at every pass.
    let (mut probing, mut following, mut asking, mut finding) = (true, true, true, true);
    let mut findings = Vec::new();
    loop {
        let due = stages.due();
        tokio::select! {
            () = stages.federation.changed() => {}
            changed = stages.health.changed(), if probing => {
                probing = changed.is_ok();
                if !probing {
                    tracing::error!("probing has ended");
                }
            }
            changed = stages.links.changed(), if following => {
                following = changed.is_ok();
                if !following {
                    tracing::error!("routes are not followed any more");
                }
            }
            reload = stages.config_watch.next() => match reload {
                Reload::Applied(config) => stages.reconfigure(&config),
                Reload::Refused(problems) => {
                    tracing::error!("the changed configuration is refused as a whole:\n{}", list(&problems));
                    stages.refuse(&problems);
                }
                Reload::Restored => {
                    tracing::info!("the configuration says again what counts");
                    stages.refuse(&[]);
                }
            },
            changed = stages.heard.changed(), if asking => asking = changed.is_ok(),
            count = stages.findings.recv_many(&mut findings, FINDINGS), if finding => {
                finding = count > 0;
                stages.found(&findings);
                findings.clear();
                continue;
            }
            () = sleep_until(due) => {}
            _ = look.tick() => {
                if stages.taken_up {
                    stages.look_at_interfaces();
                }
                continue;
            }
            _ = sample.tick() => if !stages.sample() { continue },
            _ = read_back.tick() => {
                stages.look_at_drivers();
                stages.read_back();
            }
            _ = sweep.tick() => {
                stages.sweep();
                continue;
            }
            _ = sweep_cache.tick() => {
                stages.sweep_cache();
                continue;
            }
        }
        tokio::time::sleep(SETTLE).await;
        stages.turn();
        stages.take_up()?;
    }
}

fn ticks(period: Duration) -> tokio::time::Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.reset_at(Instant::now() + period);
    ticks
}

#[cfg(test)]
mod tests {
    use nix::{
        sys::signal::{Signal, kill},
        unistd::Pid,
    };
    use tokio::{sync::mpsc, time::timeout};

    use super::*;

    #[tokio::test]
    async fn a_hangup_ends_nothing() {
        let (tell, mut told) = mpsc::unbounded_channel();
        let hangups = ignore_hangups(move || tell.send(()).unwrap()).unwrap();
        for _ in 0..2 {
            kill(Pid::this(), Signal::SIGHUP).unwrap();
            assert_eq!(timeout(Duration::from_secs(10), told.recv()).await, Ok(Some(())));
        }
        hangups.abort();
    }
}
