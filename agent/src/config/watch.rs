//! The configuration while the agent runs.
//!
//! Yields a new whole [`Config`] for each change of the file that holds, or why it was refused; the agent then
//! goes on with the one that it has.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use super::problem::ConfigProblem;
use super::types::Config;
use super::{load, parse};
use crate::directory::{DirectoryWatch, Stamp};
use crate::yaml::{Objects, Path as Field, Place};

/// The file is looked at this often even where no change is reported: what a link leads to can change elsewhere.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// What a change of the file came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Reload {
    /// Holds, and counts from now on.
    Applied(Arc<Config>),
    /// Was refused as a whole.
    Refused(Vec<ConfigProblem>),
    /// After a refusal: the file says again what counts.
    Restored,
}

/// Follows one configuration file.
pub struct ConfigWatch {
    path: PathBuf,
    current: Arc<Config>,
    /// The text that was judged last, good or bad.
    judged: Option<String>,
    /// Of the file that was judged last: it is read again only where it is another one.
    judged_stamp: Option<Stamp>,
    /// Of the file as it was seen last. What still changes may be half of what it will be.
    seen: Option<Stamp>,
    /// The last word was a refusal.
    refused: bool,
    watch: Option<DirectoryWatch>,
    /// When to look at the file although nothing was reported. Kept here, since who waits may wait again and again.
    look_at: Instant,
}

impl ConfigWatch {
    /// Of the file at `path`, from which `current` was read.
    #[must_use]
    pub fn new(path: &Path, current: Arc<Config>) -> Self {
        let seen = stamp(path);
        // Where the kernel reports no changes, looking has to do.
        let watch = DirectoryWatch::new(path.parent().unwrap_or(Path::new("")), false, |_| true).ok();
        // At once: it may have changed since it was read.
        let look_at = Instant::now();
        let path = path.to_owned();
        Self { path, current, judged: None, judged_stamp: None, seen, refused: false, watch, look_at }
    }

    /// Waits until the file has changed, and judges it. The same problems are reported once. Cancelling loses nothing.
    pub async fn next(&mut self) -> Reload {
        loop {
            let told = match &mut self.watch {
                Some(watch) => timeout_at(self.look_at, watch.changed()).await.is_ok(),
                None => {
                    sleep_until(self.look_at).await;
                    false
                }
            };
            self.look_at = Instant::now() + LOOK_AGAIN;
            let settled = self.has_settled();
            if self.is_written() || !(told || settled) {
                continue;
            }
            if let Some(verdict) = self.look() {
                self.refused = matches!(verdict, Reload::Refused(_));
                return verdict;
            }
        }
    }

    /// Whether there is another file than the one that was judged, and as it was when it was looked at last.
    fn has_settled(&mut self) -> bool {
        let seen = stamp(&self.path);
        let stays = std::mem::replace(&mut self.seen, seen) == seen;
        stays && seen != self.judged_stamp
    }

    /// Whether it will be told when the file is closed.
    fn is_written(&self) -> bool {
        self.watch.as_ref().is_some_and(|watch| watch.writing().holds(&self.path))
    }

    /// Reads the file; what came of it, if it says anything new.
    pub(super) fn look(&mut self) -> Option<Reload> {
        self.judged_stamp = stamp(&self.path);
        match load(&self.path) {
            Ok(text) if self.judged.as_ref() == Some(&text) => None,
            Ok(text) => {
                let verdict = self.judge(&text);
                self.judged = Some(text);
                verdict
            }
            // Editors remove the file for a moment: judged when it is there again, or still gone later.
            Err(problem) => {
                self.judged_stamp = None;
                (self.judged.take().is_some()).then(|| Reload::Refused(vec![problem]))
            }
        }
    }

    /// `None` where the text says the same as the configuration that counts, and nobody needs to hear of it.
    fn judge(&mut self, text: &str) -> Option<Reload> {
        let config = match parse(text, &self.path) {
            Ok(config) => config,
            Err(problems) => return Some(Reload::Refused(problems)),
        };
        if config == *self.current {
            return self.refused.then_some(Reload::Restored);
        }
        let fixed = fixed_fields(&self.current, &config);
        if fixed.is_empty() {
            self.current = Arc::new(config);
            return Some(Reload::Applied(Arc::clone(&self.current)));
        }
        let document = Objects::single(text).ok();
        let problem = |field: &[&str]| {
            let path = field.iter().fold(Field::default(), |path, key| path.key(key));
            let place =
                document.as_ref().map_or(Place { line: 1, column: 1 }, |document| document.locate(&path));
            let message = "can't change while the agent runs: restart it (packets are forwarded meanwhile)";
            ConfigProblem::new(&self.path, place, &path.to_string(), message)
        };
        let mut problems: Vec<_> = fixed.into_iter().map(problem).collect();
        problems.sort();
        Some(Reload::Refused(problems))
    }
}

/// `None` where there is no file.
fn stamp(path: &Path) -> Option<Stamp> {
    std::fs::metadata(path).ok().as_ref().map(Stamp::of)
}

/// The fields that differ and are fixed when the agent starts: where it keeps things, what programs are loaded with,
/// and what bounds the prober.
fn fixed_fields(old: &Config, new: &Config) -> Vec<&'static [&'static str]> {
    let (a, b) = (&old.node, &new.node);
    let own_tunnel = |config: &Config| config.own_gateway().map(|own| own.tunnel.clone());
    let rows: [(bool, &[&str]); 16] = [
        (old.instance != new.instance, &["instance"]),
        (old.state_directory() != new.state_directory(), &["stateDirectory"]),
        (old.admin != new.admin, &["admin"]),
        (old.seed != new.seed, &["seed"]),
        (old.secrets_file != new.secrets_file, &["secretsFile"]),
        (a.name != b.name, &["node", "name"]),
        (a.roles != b.roles, &["node", "roles"]),
        (a.interfaces != b.interfaces, &["node", "interfaces"]),
        (a.xdp_mode != b.xdp_mode, &["node", "xdpMode"]),
        (own_tunnel(old) != own_tunnel(new), &["gateways"]),
        (old.unserved_ports != new.unserved_ports, &["unservedPorts"]),
        (old.icmp_per_second != new.icmp_per_second, &["icmpPerSecond"]),
        (old.limits != new.limits, &["limits"]),
        (old.capacities != new.capacities, &["capacities"]),
        (old.probes.concurrency != new.probes.concurrency, &["probes", "concurrency"]),
        (old.probes.per_second != new.probes.per_second, &["probes", "perSecond"]),
    ];
    rows.into_iter().filter_map(|(differs, field)| differs.then_some(field)).collect()
}
