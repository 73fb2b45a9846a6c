//! Keeps one container: started, probed, started again with back-off, ended with grace.
//!
//! In: a container of a pod that has its place and its volumes. Out: what the [`Board`] says of it, and its last exit code.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Probe};
use k8s_openapi::jiff::Timestamp;
use nix::sys::signal::Signal;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::board::{Board, Ended, State};
use super::environment::{self, Values, expand};
use super::running::{Mount, Program, Reach, Running};
use super::sandbox::Lodging;
use super::{events, probe};
use crate::world::MARK;

/// Between two looks for something that a container lacks.
const LACKING: Duration = Duration::from_secs(1);

/// The longest a crashing container waits, and after how long of running it is forgiven.
const LONGEST_BACK_OFF: Duration = Duration::from_secs(300);
const FORGIVEN_AFTER: Duration = Duration::from_secs(600);

/// When it is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Restart {
    Always,
    OnFailure,
    Never,
}

/// A container and all that it needs.
#[derive(Clone)]
pub(super) struct Keeper {
    pub(super) lodging: Arc<Lodging>,
    pub(super) container: Container,
    pub(super) restart: Restart,
    pub(super) volumes: Arc<BTreeMap<String, PathBuf>>,
    pub(super) board: Arc<Board>,
    /// How much time it has from the moment in which it shall end.
    pub(super) ending: watch::Receiver<Option<Duration>>,
}

impl Keeper {
    /// Until it has ended for good; its last exit code.
    pub(super) async fn keep(self) -> i32 {
        let mut back_off = Duration::ZERO;
        let mut code = 0;
        let mut told = String::new();
        loop {
            if self.ending.borrow().is_some() {
                return code;
            }
            let program = match self.program().await {
                Ok(program) => program,
                Err((reason, error)) => {
                    let message = format!("{error:#}");
                    self.board.wait(self.name(), reason, &message);
                    if message != told {
                        events::warn(&self.lodging.node, &self.lodging.pod, reason, &message).await;
                        told = message;
                    }
                    self.pause(LACKING).await;
                    continue;
                }
            };
            let began = Timestamp::now();
            let clock = Instant::now();
            let ended = match Running::start(program.clone()).await {
                Err(error) => Ended {
                    code: 128,
                    signal: None,
                    reason: "StartError",
                    message: format!("{error:#}"),
                    began,
                    at: Timestamp::now(),
                },
                Ok(running) => {
                    self.board.change(self.name(), |seen| {
                        if let State::Ended(ended) = &seen.state {
                            seen.last = Some(ended.clone());
                        }
                        seen.state = State::Running { since: began };
                        (seen.started, seen.ready) = (false, false);
                    });
                    self.attend(running, &program, began).await
                }
            };
            code = ended.code;
            self.board.change(self.name(), |seen| {
                seen.state = State::Ended(ended.clone());
                (seen.started, seen.ready) = (false, false);
            });
            if self.ending.borrow().is_some() || !self.again(code) {
                return code;
            }
            if clock.elapsed() > FORGIVEN_AFTER {
                back_off = Duration::ZERO;
            }
            // The first time at once, as a kubelet does it.
            if !back_off.is_zero() {
                let message = format!("back-off {back_off:?} restarting failed container {}", self.name());
                self.board.wait(self.name(), "CrashLoopBackOff", &message);
                events::warn(&self.lodging.node, &self.lodging.pod, "BackOff", &message).await;
                self.pause(back_off).await;
            }
            back_off = (back_off * 2).clamp(self.lodging.node.back_off, LONGEST_BACK_OFF);
            self.board.change(self.name(), |seen| seen.restarts += 1);
        }
    }

    fn name(&self) -> &str {
        &self.container.name
    }

    fn again(&self, code: i32) -> bool {
        match self.restart {
            Restart::Always => true,
            Restart::OnFailure => code != 0,
            Restart::Never => false,
        }
    }

    /// Or shorter, when it shall end meanwhile.
    async fn pause(&self, time: Duration) {
        // A pod that forgets its containers ends them, too.
        let _ended_either_way = timeout(time, until(&self.ending, Option::is_some)).await;
    }

    /// What is to be started.
    async fn program(&self) -> Result<Program, (&'static str, anyhow::Error)> {
        let (lodging, container) = (&self.lodging, &self.container);
        let name = container.image.as_deref().unwrap_or_default();
        let image = lodging.node.images.find(name).ok_or_else(|| {
            let error = anyhow::anyhow!("nothing stands for the image {name}: add an entry to images");
            ("ErrImagePull", error)
        })?;
        let config = |error| ("CreateContainerConfigError", error);
        let mut given: Values = image.environment.clone();
        let server = lodging.node.server;
        given.insert("KUBERNETES_SERVICE_HOST".to_owned(), server.ip().to_string());
        given.insert("KUBERNETES_SERVICE_PORT".to_owned(), server.port().to_string());
        given.insert("KUBERNETES_SERVICE_PORT_HTTPS".to_owned(), server.port().to_string());
        given.insert("HOSTNAME".to_owned(), self.host_name());
        given.insert(MARK.to_owned(), lodging.node.ground.world.clone());
        let field = |selector: &_| lodging.field(selector);
        let client = &lodging.node.client;
        let values = environment::environment(client, lodging.namespace(), container, given, &field)
            .await
            .map_err(config)?;
        let words = |words: &Option<Vec<String>>| -> Vec<String> {
            words.iter().flatten().map(|word| expand(word, &values)).collect()
        };
        let root = lodging.directory.join("roots").join(self.name());
        std::fs::create_dir_all(&root).map_err(|error| config(error.into()))?;
        Ok(Program {
            line: image.line(&words(&container.command), &words(&container.args)),
            environment: values.clone().into_iter().collect(),
            working_directory: container.working_dir.clone().unwrap_or_default(),
            mounts: self.mounts(&image.files, &values).map_err(config)?,
            namespace: lodging.network.clone(),
            host_pids: lodging.spec().host_pid == Some(true),
            log: lodging.directory.join(format!("{}.log", self.name())),
            root,
        })
    }

    fn host_name(&self) -> String {
        let spec = self.lodging.spec();
        if spec.host_network == Some(true) {
            return self.lodging.node.name().to_owned();
        }
        spec.hostname.clone().or_else(|| self.lodging.pod.metadata.name.clone()).unwrap_or_default()
    }

    fn mounts(&self, files: &BTreeMap<PathBuf, PathBuf>, values: &Values) -> Result<Vec<Mount>> {
        let own = files.iter().map(|(target, source)| {
            Ok(Mount { source: source.clone(), target: target.clone(), read_only: true })
        });
        let volumes = self.container.volume_mounts.iter().flatten().map(|mount| {
            let name = &mount.name;
            let volume = self.volumes.get(name);
            let mut source =
                volume.with_context(|| format!("volumeMounts: there is no volume {name}"))?.clone();
            let expression = mount.sub_path_expr.as_deref().map(|path| expand(path, values));
            if let Some(path) = expression.or_else(|| mount.sub_path.clone()).filter(|path| !path.is_empty())
            {
                anyhow::ensure!(!path.split('/').any(|part| part == ".."), "subPath {path} leads outside");
                source = source.join(&path);
                if !source.exists() {
                    std::fs::create_dir_all(&source).with_context(|| format!("subPath {path}"))?;
                }
            }
            let target = PathBuf::from(&mount.mount_path);
            Ok(Mount { source, target, read_only: mount.read_only == Some(true) })
        });
        own.chain(volumes).collect()
    }

    /// Until it has ended, by itself or because it had to.
    async fn attend(&self, mut running: Running, program: &Program, began: Timestamp) -> Ended {
        let reach = running.reach(program);
        let mut asking = JoinSet::new();
        asking.spawn(self.clone().ask_whether_ready(reach.clone()));
        let lives = self.clone().ask_whether_alive(reach.clone());
        let mut message = String::new();
        let status = tokio::select! {
            status = running.ended() => status,
            why = lives => {
                message = why;
                events::warn(&self.lodging.node, &self.lodging.pod, "Unhealthy", &message).await;
                let own = self.container.liveness_probe.as_ref().and_then(|probe| probe.termination_grace_period_seconds);
                let grace = own.or(self.lodging.spec().termination_grace_period_seconds).unwrap_or(30);
                self.stop(&mut running, &reach, Duration::from_secs(grace.max(0).unsigned_abs())).await
            }
            () = until(&self.ending, Option::is_some) => {
                let grace = (*self.ending.borrow()).unwrap_or_default();
                self.stop(&mut running, &reach, grace).await
            }
        };
        ended(status, message, began)
    }

    /// The pod's own last words first, then SIGTERM, then, when the time is over, SIGKILL.
    async fn stop(&self, running: &mut Running, reach: &Reach, grace: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + grace;
        let orderly = async {
            let hook = self.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
            if let Some(hook) = hook
                && let Err(error) = self.last_words(hook, reach).await
            {
                let message = format!("lifecycle.preStop: {error:#}");
                events::warn(&self.lodging.node, &self.lodging.pod, "FailedPreStopHook", &message).await;
            }
            running.signal(Signal::SIGTERM);
            running.ended().await
        };
        let at_once = until(&self.ending, |grace| *grace == Some(Duration::ZERO));
        let orderly = tokio::select! {
            ended = tokio::time::timeout_at(deadline, orderly) => ended.ok(),
            () = at_once => None,
        };
        match orderly {
            Some(status) => status,
            None => {
                running.signal(Signal::SIGKILL);
                running.ended().await
            }
        }
    }

    async fn last_words(&self, hook: &LifecycleHandler, reach: &Reach) -> Result<()> {
        if let Some(pause) = &hook.sleep {
            sleep(Duration::from_secs(pause.seconds.max(0).unsigned_abs())).await;
            return Ok(());
        }
        let as_probe = Probe {
            exec: hook.exec.clone(),
            http_get: hook.http_get.clone(),
            // Longer than any grace: that ends it.
            timeout_seconds: Some(i32::MAX),
            ..Probe::default()
        };
        probe::ask(&as_probe, &self.container, self.lodging.addresses[0], reach).await
    }

    /// Ends with the reason why it doesn't live; never without one.
    async fn ask_whether_alive(self, reach: Reach) -> String {
        if let Some(startup) = &self.container.startup_probe
            && let Some(why) = self.until(startup, &reach, true).await
        {
            return format!("startup probe failed: {why}");
        }
        self.board.change(self.name(), |seen| {
            seen.started = true;
            seen.ready |= self.container.readiness_probe.is_none();
        });
        if let Some(liveness) = &self.container.liveness_probe
            && let Some(why) = self.until(liveness, &reach, false).await
        {
            return format!("liveness probe failed: {why}");
        }
        std::future::pending().await
    }

    /// Asks until the threshold of failures is reached (why), or it has passed once and that is enough (`None`).
    async fn until(&self, probe: &Probe, reach: &Reach, once: bool) -> Option<String> {
        sleep(delay(probe)).await;
        let mut failures = 0;
        loop {
            match probe::ask(probe, &self.container, self.lodging.addresses[0], reach).await {
                Ok(()) if once => return None,
                Ok(()) => failures = 0,
                Err(error) => {
                    failures += 1;
                    if failures >= probe.failure_threshold.unwrap_or(3) {
                        return Some(format!("{error:#}"));
                    }
                }
            }
            sleep(period(probe)).await;
        }
    }

    async fn ask_whether_ready(self, reach: Reach) {
        let Some(readiness) = &self.container.readiness_probe else { return };
        self.board.until_started(self.name()).await;
        sleep(delay(readiness)).await;
        let (mut passed, mut failed) = (0, 0);
        let mut told = false;
        loop {
            match probe::ask(readiness, &self.container, self.lodging.addresses[0], &reach).await {
                Ok(()) => (passed, failed, told) = (passed + 1, 0, false),
                Err(error) => {
                    (passed, failed) = (0, failed + 1);
                    if !told {
                        told = true;
                        let message = format!("readiness probe failed: {error:#}");
                        events::warn(&self.lodging.node, &self.lodging.pod, "Unhealthy", &message).await;
                    }
                }
            }
            let (good, bad) =
                (readiness.success_threshold.unwrap_or(1), readiness.failure_threshold.unwrap_or(3));
            self.board.change(self.name(), |seen| {
                if passed >= good {
                    seen.ready = matches!(seen.state, State::Running { .. });
                } else if failed >= bad {
                    seen.ready = false;
                }
            });
            sleep(period(readiness)).await;
        }
    }
}

/// Waits until the time that containers have is such a one.
pub(super) async fn until(
    ending: &watch::Receiver<Option<Duration>>,
    such: impl Fn(&Option<Duration>) -> bool,
) {
    // Who ends them outlives them; else they have to end, too.
    let mut ending = ending.clone();
    let _ended_either_way = ending.wait_for(such).await;
}

fn delay(probe: &Probe) -> Duration {
    Duration::from_secs(probe.initial_delay_seconds.unwrap_or(0).max(0).unsigned_abs().into())
}

fn period(probe: &Probe) -> Duration {
    Duration::from_secs(probe.period_seconds.unwrap_or(10).max(1).unsigned_abs().into())
}

fn ended(status: Option<ExitStatus>, message: String, began: Timestamp) -> Ended {
    let signal = status.and_then(|status| status.signal());
    let code = status.and_then(|status| status.code()).unwrap_or(128 + signal.unwrap_or(0));
    let reason = if code == 0 { "Completed" } else { "Error" };
    Ended { code, signal, reason, message, began, at: Timestamp::now() }
}
