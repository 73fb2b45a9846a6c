//! What the agent says of itself: for the commands, which read it from disk, and for the admin address.

use std::{
    collections::BTreeSet,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use fairlead_core::{
    model::{ObjectName, Problem},
    planner::{Links, ServiceTable},
};
use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};

use super::{Moment, Unserved, interfaces::Interface, start::Stages};
use crate::config::{Config, types::Role};

/// The file in the state directory.
pub const STATUS_FILE: &str = "status.json";
/// It is written at most this often.
const WRITE_EVERY: Duration = Duration::from_millis(500);

/// The agent's state. Where it and the pinned maps differ, the maps are right.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// When it was made.
    pub written: SystemTime,
    /// The same for an agent that takes over.
    #[serde(default)]
    pub at: Option<Moment>,
    /// The agent's process.
    pub pid: u32,
    /// The agent's version.
    pub version: String,
    /// Version of the maps' layout.
    pub abi: u32,
    /// The instance.
    pub instance: String,
    /// This node.
    pub node: String,
    /// `gateway`, `receiver`.
    pub roles: Vec<String>,
    /// The gateways that plan alike.
    pub group: String,
    /// The kernel's tag of the program that packets enter by.
    pub program: Option<String>,
    /// Why packets should not be sent here: programs that aren't attached, tables that aren't there; empty if they should.
    pub unready: Vec<String>,
    /// Where the programs are attached.
    pub interfaces: Vec<InterfaceStatus>,
    /// A hash of what the slots resolve to, as planned: equal on all gateways of a group.
    pub fingerprint: Option<String>,
    /// The same hash of what the kernel holds.
    pub installed_fingerprint: Option<String>,
    /// Every cluster's source.
    pub clusters: Vec<ClusterStatus>,
    /// What was rejected or held.
    pub problems: Vec<Problem>,
    /// Why a changed configuration was refused.
    pub refused: Vec<String>,
    /// Why the kernel's tables are not as planned.
    pub failure: Option<String>,
    /// Of each map: its name, entries in use, entries.
    pub usage: Vec<(String, u64, u64)>,
    /// What isn't served, for want of room.
    #[serde(default)]
    pub unserved: Vec<Unserved>,
    /// New connections per second that are planned with, of the services whose capacity is limited.
    #[serde(default)]
    pub demand: Vec<(ObjectName, u64)>,
    /// Every port of every VIP.
    pub services: Vec<Arc<ServiceTable>>,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Its name.
    pub name: String,
    /// `native` or `generic`.
    pub mode: String,
    /// The programs are attached.
    pub attached: bool,
    /// Why not.
    pub problem: Option<String>,
}

/// A cluster's source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The cluster.
    pub name: Arc<str>,
    /// Its source can be read.
    pub reachable: bool,
    /// Shards that it reports.
    pub shards: usize,
    /// Where the source can't be read: when that was last known which counts.
    pub restored: Option<SystemTime>,
}

impl Status {
    /// Of an agent that has just begun.
    pub(super) fn starting(config: &Config) -> Self {
        let role = |role, name: &str| config.has(role).then(|| name.to_owned());
        Self {
            written: time_to_tell(),
            at: Moment::now(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            abi: fairlead_abi::ABI,
            instance: config.instance.0.to_string(),
            node: config.node.name.0.to_string(),
            roles: [role(Role::Gateway, "gateway"), role(Role::Receiver, "receiver")]
                .into_iter()
                .flatten()
                .collect(),
            group: String::new(),
            program: None,
            unready: vec!["starting".to_owned()],
            interfaces: Vec::new(),
            fingerprint: None,
            installed_fingerprint: None,
            clusters: Vec::new(),
            problems: Vec::new(),
            refused: Vec::new(),
            failure: None,
            usage: Vec::new(),
            unserved: Vec::new(),
            demand: Vec::new(),
            services: Vec::new(),
        }
    }
}

impl Status {
    /// Whether packets should be sent here.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.unready.is_empty()
    }
}

impl Stages {
    fn unready(&self, ways: &Ways) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.planned.is_none() {
            reasons.push("no tables were planned yet".to_owned());
        }
        match &self.failure {
            Some(failure) if self.waits(failure.serves) => reasons.push(failure.what.clone()),
            _ => reasons.extend(self.interfaces.iter().filter_map(Interface::unattached)),
        }
        if !ways.any() {
            reasons.extend(ways.problem().map(|problem| problem.to_string()));
        }
        if !self.serves() {
            reasons.extend(self.failure.as_ref().map(|failure| failure.what.clone()));
        }
        reasons
    }

    /// Says how things are now.
    pub(super) fn publish(&mut self) {
        let mut problems = self.model.as_ref().map(|model| model.problems.clone()).unwrap_or_default();
        problems.extend(self.federation.problems().iter().map(crate::federation::SourceProblem::to_model));
        problems.extend(self.targets.borrow().problems().cloned());
        let ways = Ways::of(&self.outers.borrow(), &self.links.borrow());
        problems.extend(ways.problem());
        let tables = self.planned.as_ref().map(|planned| &planned.tables);
        problems.extend(tables.into_iter().flat_map(fairlead_core::planner::Tables::alarms));
        problems.sort();
        let hash = |hash: u64| format!("{hash:016x}");
        let clusters = self.federation.states().iter().map(|(name, state)| ClusterStatus {
            name: Arc::clone(name),
            reachable: state.reachable,
            shards: state.shards.len(),
            restored: self.federation.restored(name),
        });
        let usage = self.installed.usage().into_iter().map(|(map, used, size)| (map.to_string(), used, size));
        let status = Status {
            written: time_to_tell(),
            group: self.declared.here.group.to_string(),
            program: self.dataplane.tag().ok(),
            unready: self.unready(&ways),
            interfaces: self.interfaces.iter().map(|i| i.status(self.config.node.xdp_mode)).collect(),
            fingerprint: tables.map(|tables| hash(tables.fingerprint())),
            installed_fingerprint: Some(hash(self.installed.fingerprint())),
            clusters: clusters.collect(),
            problems,
            refused: self.refused.clone(),
            failure: self.failure.as_ref().map(|failure| failure.what.clone()),
            usage: usage.collect(),
            unserved: self.unserved.iter().map(Into::into).collect(),
            demand: self.demand.per_second.clone().into_iter().collect(),
            services: tables.map(|tables| tables.services.values().cloned().collect()).unwrap_or_default(),
            ..Status::starting(&self.config)
        };
        self.status.send_replace(Arc::new(status));
    }
}

#[expect(clippy::disallowed_methods, reason = "for people: how old a status is")]
fn time_to_tell() -> SystemTime {
    SystemTime::now()
}

/// How the wanted outer destinations are reached.
struct Ways {
    known: usize,
    unknown: Vec<IpAddr>,
}

impl Ways {
    fn of(wanted: &BTreeSet<IpAddr>, links: &Links) -> Self {
        let unknown: Vec<_> = wanted.iter().filter(|outer| !links.contains_key(outer)).copied().collect();
        Self { known: wanted.len() - unknown.len(), unknown }
    }

    /// Unless some are wanted and not one is known.
    fn any(&self) -> bool {
        self.known > 0 || self.unknown.is_empty()
    }

    fn problem(&self) -> Option<Problem> {
        let first = self.unknown.first()?;
        let named: Vec<_> = self.unknown.iter().take(3).map(ToString::to_string).collect();
        let more = self.unknown.len() - named.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        Some(Problem {
            object: None,
            cluster: None,
            field: "next hop".to_owned(),
            what: format!("none is known towards {}{more}: what goes there is dropped", named.join(", ")),
            hint: Some(format!("see `ip route get {first}` and `ip neighbour`")),
        })
    }
}

/// Writes the latest status to the state directory whenever it changed, until `ended`; nothing is being written then.
pub(super) async fn keep(
    directory: PathBuf,
    mut status: watch::Receiver<Arc<Status>>,
    mut ended: oneshot::Receiver<()>,
) {
    loop {
        tokio::select! {
            changed = status.changed() => if changed.is_err() { return },
            _ = &mut ended => return,
        }
        let latest = Arc::clone(&status.borrow_and_update());
        let directory = directory.clone();
        let written = tokio::task::spawn_blocking(move || write_status(&directory, &latest)).await;
        if let Ok(Err(error)) = written {
            tracing::warn!(%error, "the status is not kept; commands show an old one");
        }
        tokio::select! {
            () = tokio::time::sleep(WRITE_EVERY) => {}
            _ = &mut ended => return,
        }
    }
}

/// Writes the latest status at the end, for the commands and the next agent.
pub(super) fn keep_last(directory: &Path, stages: &Stages) {
    if let Err(error) = write_status(directory, &stages.status.borrow()) {
        tracing::warn!(%error, "the last status is not kept; commands show an old one");
    }
}

fn write_status(directory: &Path, status: &Status) -> std::io::Result<()> {
    let temporary = directory.join(".status.new");
    let mut writer = std::io::BufWriter::new(fs::File::create(&temporary)?);
    serde_json::to_writer(&mut writer, status)?;
    // A full disk may say so only now; what was there before must stay then.
    let file = writer.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    file.sync_all()?;
    fs::rename(&temporary, directory.join(STATUS_FILE))
}

/// The last status that an agent wrote to `directory`.
///
/// # Errors
/// None was written, or it can't be read.
pub fn read_status(directory: &Path) -> std::io::Result<Status> {
    let file = std::io::BufReader::new(fs::File::open(directory.join(STATUS_FILE))?);
    serde_json::from_reader(file).map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use fairlead_abi::Hop;
    use fairlead_core::planner::Route;

    use super::*;

    #[test]
    fn a_full_disk_leaves_the_last_status() {
        let directory = tempfile::tempdir().unwrap();
        let config = crate::config::tests::good();
        write_status(directory.path(), &Status::starting(&config)).unwrap();
        let pid = std::process::id();
        assert_eq!(read_status(directory.path()).unwrap().pid, pid);
        // Every write there says that no space is left.
        std::os::unix::fs::symlink("/dev/full", directory.path().join(".status.new")).unwrap();
        let error = write_status(directory.path(), &Status::starting(&config)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
        assert_eq!(read_status(directory.path()).unwrap().pid, pid);
    }

    #[tokio::test]
    async fn the_keeper_ends_when_it_writes_no_more() {
        let directory = tempfile::tempdir().unwrap();
        // Nothing can be written there until somebody reads.
        let pipe = directory.path().join(".status.new");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let status = Arc::new(Status::starting(&crate::config::tests::good()));
        let (sender, seen) = watch::channel(Arc::clone(&status));
        let (end, ended) = oneshot::channel();
        sender.send_replace(status);
        let mut keeper = tokio::spawn(keep(directory.path().to_owned(), seen, ended));
        let begun = tokio::time::timeout(Duration::from_millis(100), &mut keeper).await;
        assert!(begun.is_err(), "it waits for a change or writes");
        drop(end);
        let ended = tokio::time::timeout(Duration::from_millis(100), &mut keeper).await;
        assert!(ended.is_err(), "it still writes");
        let written = tokio::task::spawn_blocking(move || fs::read(pipe)).await.unwrap().unwrap();
        assert!(serde_json::from_slice::<Status>(&written).is_ok());
        keeper.await.unwrap();
    }

    #[test]
    fn unknown_next_hops_are_told_and_matter_where_none_is_known() {
        let outers: BTreeSet<IpAddr> = (1..=5).map(|last| IpAddr::from([192, 0, 2, last])).collect();
        let route = Route { hop: Hop { ifindex: 1, ..Hop::default() }, routed_by: 1, mtu: 1500 };
        let none = Ways::of(&outers, &Links::new());
        assert!(!none.any());
        assert_eq!(
            none.problem().unwrap().what,
            "none is known towards 192.0.2.1, 192.0.2.2, 192.0.2.3 and 2 more: what goes there is dropped"
        );
        let one = Ways::of(&outers, &Links::from([([192, 0, 2, 4].into(), route)]));
        assert!(one.any());
        assert_eq!(one.unknown.len(), 4);
        let all = Ways::of(&outers, &outers.iter().map(|outer| (*outer, route)).collect());
        assert!(all.any() && all.problem().is_none());
        let nothing = Ways::of(&BTreeSet::new(), &Links::new());
        assert!(nothing.any() && nothing.problem().is_none());
    }
}
