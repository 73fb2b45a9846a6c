//! What a command reads of this node: its configuration, the pinned maps, and what its agent last said.
//!
//! Nothing here writes, takes a lock or needs a running agent.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use aya::maps::MapData;
use fairlead_abi::ServiceKey;
use serde::Serialize;

use super::lock::is_locked;
use super::picture::{Picture, Places};
use crate::config::types::ClusterConfig;
use crate::config::{self, Config, ConfigProblem, Essentials};
use crate::dataplane::{self, Counters, Instance, View};
use crate::status::{Found, Status, read_counts, read_seed, read_status};

/// Why a command can't tell anything.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the configuration doesn't hold:\n{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Config(Vec<ConfigProblem>),
    #[error(
        "no tables of instance {instance} under {folder}: is bpffs mounted, has an agent run?{others}{foreign}"
    )]
    NoTables { instance: String, folder: String, others: Others, foreign: String },
    #[error("the tables under {folder} can't be opened: not permitted; run this as root")]
    NotPermitted { folder: String },
    #[error(transparent)]
    Dataplane(#[from] dataplane::Error),
}

/// Tables of other layouts that stand beside.
#[derive(Debug)]
pub(super) struct Others(Vec<String>);

impl fmt::Display for Others {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        write!(f, " There is {}, which another version of fairlead made.", self.0.join(", "))
    }
}

/// The state directory is that of another agent: the configuration was edited, or two agents share it.
#[derive(Debug, thiserror::Error)]
#[error("the state directory {} is that of instance {instance}", .directory.display())]
pub(super) struct Foreign {
    directory: PathBuf,
    instance: String,
}

/// This node.
pub(super) struct Node {
    /// Or what is wrong with it: the agent goes on with the one that it has.
    pub(super) config: Result<Config, Vec<ConfigProblem>>,
    /// Fields of it that would say which agent's maps and state these are, and can't be read.
    unread: Vec<&'static str>,
    pub(super) instance: Instance,
    pub(super) state_directory: PathBuf,
    /// What the programs in use were loaded with, where it is known.
    pub(super) seed: Option<u64>,
    /// What its agent last said, or why that can't be read.
    pub(super) status: Result<Status, io::Error>,
    /// An agent runs.
    pub(super) running: bool,
    clusters: Option<Vec<ClusterConfig>>,
}

/// How fresh names and reasons are; the numbers are of now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Freshness {
    pub(super) instance: String,
    pub(super) agent_running: bool,
    /// Since the agent last wrote what it knows; `None`: it never did.
    pub(super) state_age_seconds: Option<u64>,
}

impl Freshness {
    /// The last line of a table.
    pub(super) fn line(&self) -> String {
        let names = match self.state_age_seconds {
            Some(age) => format!("names and reasons are {} old", age_text(age)),
            None => "names and reasons are not known".to_owned(),
        };
        format!("numbers are of now, {names}{}\n", self.agent())
    }

    /// The last line of a table of what the agent says alone.
    pub(super) fn line_of_agent(&self) -> String {
        let age = self.state_age_seconds.map(age_text);
        format!("as the agent said {} ago{}\n", age.as_deref().unwrap_or("some time"), self.agent())
    }

    fn agent(&self) -> &'static str {
        if self.agent_running { "" } else { "; no agent runs" }
    }
}

/// `7 s`, `3 min`, `2 h`, `5 d`.
pub(super) fn age_text(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

impl Node {
    /// Of the configuration file at `path`.
    pub(super) fn read(path: &Path) -> Result<Self, Error> {
        let config = config::check(path);
        // Nothing at all can be read: then this may be another node's name for it.
        let Ok(Essentials { instance, state_directory, unread, clusters, .. }) = Essentials::read(path)
        else {
            return Err(Error::Config(config.err().unwrap_or_default()));
        };
        let mut node = Self {
            config,
            unread,
            instance: Instance::new(&instance.0),
            status: Err(io::ErrorKind::NotFound.into()),
            running: false,
            seed: read_seed(&state_directory),
            state_directory,
            clusters,
        };
        node.read_again();
        node.seed = node.seed.filter(|_| node.foreign().is_none());
        Ok(node)
    }

    /// All clusters, for who needs nothing else of the configuration.
    pub(super) fn clusters(&self) -> Result<&[ClusterConfig], Error> {
        match (&self.config, &self.clusters) {
            (Ok(config), _) => Ok(&config.clusters),
            (Err(problems), Some(clusters))
                if problems.iter().all(|problem| !problem.field.starts_with("clusters")) =>
            {
                Ok(clusters)
            }
            (Err(problems), _) => Err(Error::Config(problems.clone())),
        }
    }

    /// The configuration, for who needs all of it.
    pub(super) fn whole_config(&self) -> Result<&Config, Error> {
        self.config.as_ref().map_err(|problems| Error::Config(problems.clone()))
    }

    /// In a line: that the configuration doesn't hold, and what is made of it; `None` where it does.
    pub(super) fn invalid(&self) -> Option<String> {
        let problems = self.config.as_ref().err()?;
        let mut text = "the configuration doesn't hold".to_owned();
        if let Some(first) = problems.first() {
            text += &format!(": {first}");
        }
        if problems.len() > 1 {
            text += &format!(" (and {} more)", problems.len() - 1);
        }
        if !self.unread.is_empty() {
            text += &format!(
                "; {} can't be read: this is of instance {} and state directory {}",
                self.unread.join(" and "),
                self.instance.name(),
                self.state_directory.display()
            );
        }
        Some(text)
    }

    /// Reads the agent's state as it is now.
    pub(super) fn read_again(&mut self) {
        self.status = read_status(&self.state_directory);
        self.running = is_locked(&self.state_directory.join("lock"));
        // What another agent says must not be taken for this one's word.
        if let Ok(status) = &self.status
            && status.instance != self.instance.name()
        {
            let foreign =
                Foreign { directory: self.state_directory.clone(), instance: status.instance.clone() };
            (self.status, self.running) = (Err(io::Error::other(foreign)), false);
        }
    }

    /// That the state directory is that of another agent.
    pub(super) fn foreign(&self) -> Option<&Foreign> {
        self.status.as_ref().err()?.get_ref()?.downcast_ref()
    }

    /// The flows that endpoints hold, by service and outer destination, as far as the agent has heard lately.
    pub(super) fn counts(&self) -> BTreeMap<(ServiceKey, IpAddr), Found> {
        let counts = self.status.as_ref().ok().and_then(|_| read_counts(&self.state_directory).ok());
        counts.map(|counts| counts.found()).unwrap_or_default()
    }

    /// How the configuration file differs from what packets are steered by.
    pub(super) fn departures(&self) -> Vec<String> {
        let mut departures = Vec::new();
        if let (Some(seed), Ok(config)) = (self.seed, &self.config)
            && seed != config.seed.0
        {
            departures.push("the configuration has another seed than the programs in use".to_owned());
        }
        let refused = self.status.iter().filter(|_| self.running).flat_map(|status| &status.refused);
        departures
            .extend(refused.map(|problem| format!("the agent refuses the changed configuration: {problem}")));
        departures
    }

    pub(super) fn freshness(&self) -> Freshness {
        Freshness {
            instance: self.instance.name().to_owned(),
            agent_running: self.running,
            state_age_seconds: self.status.as_ref().ok().map(|status| age(status.written)),
        }
    }

    /// The pinned tables.
    pub(super) fn view(&self) -> Result<View, Error> {
        self.present()?;
        View::open(&self.instance).map_err(|error| self.explain(error))
    }

    /// The pinned counters.
    pub(super) fn counters(&self) -> Result<Counters<MapData>, Error> {
        self.present()?;
        Counters::pinned(&self.instance.maps()).map_err(|error| self.explain(error))
    }

    /// What `view` holds, with the agent's names and reasons.
    pub(super) fn picture<'a>(&'a self, view: &'a View) -> Result<Picture<'a>, Error> {
        let tables = self.status.iter().flat_map(|status| &status.services).map(|table| &**table);
        let mut picture = Picture::new(&view.observe()?, view.capacities(), tables, self.places());
        picture.cache = view.flow_cache();
        Ok(picture)
    }

    fn places(&self) -> Places {
        self.config.as_ref().map(Places::of).unwrap_or_default()
    }

    fn present(&self) -> Result<(), Error> {
        match fs::metadata(self.instance.maps()) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(self.not_permitted()),
            Err(_) => Err(self.no_tables()),
            Ok(_) => Ok(()),
        }
    }

    fn explain(&self, error: dataplane::Error) -> Error {
        match kind_of(&error) {
            Some(io::ErrorKind::PermissionDenied) => self.not_permitted(),
            Some(io::ErrorKind::NotFound) => self.no_tables(),
            _ => error.into(),
        }
    }

    fn not_permitted(&self) -> Error {
        Error::NotPermitted { folder: self.instance.maps().display().to_string() }
    }

    fn no_tables(&self) -> Error {
        let others = fs::read_dir(self.instance.root()).into_iter().flatten().flatten();
        let is_table = |path: &PathBuf| path.is_dir();
        Error::NoTables {
            instance: self.instance.name().to_owned(),
            folder: self.instance.maps().display().to_string(),
            foreign: self.foreign().map(|foreign| format!(" And {foreign}.")).unwrap_or_default(),
            others: Others(
                others
                    .map(|entry| entry.path())
                    .filter(is_table)
                    .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
                    .collect(),
            ),
        }
    }
}

/// What the operating system said, wherever it stands among the causes.
fn kind_of(error: &(dyn std::error::Error + 'static)) -> Option<io::ErrorKind> {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.filter_map(|error| error.downcast_ref::<io::Error>()).map(io::Error::kind).next()
}

/// Seconds since then; 0 where the clock was set back.
#[expect(clippy::disallowed_methods, reason = "for people: how old something is")]
pub(super) fn age(then: SystemTime) -> u64 {
    SystemTime::now().duration_since(then).map_or(0, |age| age.as_secs())
}

#[cfg(test)]
mod tests {
    use nix::fcntl::{Flock, FlockArg};

    use super::*;

    #[test]
    fn ages_are_short() {
        let texts = [0, 119, 120, 7199, 7200, 172_799, 172_800].map(age_text);
        assert_eq!(texts, ["0 s", "119 s", "2 min", "119 min", "2 h", "47 h", "2 d"]);
    }

    #[test]
    fn freshness_says_what_is_missing() {
        let mut freshness =
            Freshness { instance: "default".to_owned(), agent_running: true, state_age_seconds: Some(3) };
        assert_eq!(freshness.line(), "numbers are of now, names and reasons are 3 s old\n");
        freshness.agent_running = false;
        freshness.state_age_seconds = None;
        assert_eq!(freshness.line(), "numbers are of now, names and reasons are not known; no agent runs\n");
    }

    #[test]
    fn the_cause_of_an_error_is_found() {
        let refused = io::Error::from_raw_os_error(13);
        let error = dataplane::Error::Pin { path: "/sys/fs/bpf".into(), source: refused };
        assert_eq!(kind_of(&error), Some(io::ErrorKind::PermissionDenied));
        let other = dataplane::Error::Shape { map: "SLOTS", what: "x".to_owned() };
        assert_eq!(kind_of(&other), None);
    }

    #[test]
    fn the_state_of_another_agent_is_not_believed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f.yaml");
        let read = |instance: &str| {
            fs::write(&path, format!("instance: {instance}\nstateDirectory: .\n")).unwrap();
            Node::read(&path).unwrap()
        };
        let status = Status::starting(&config::tests::good());
        let text = serde_json::to_string(&status).unwrap();
        fs::write(directory.path().join(crate::status::STATUS_FILE), text).unwrap();
        let lock = fs::File::create(directory.path().join("lock")).unwrap();
        let _lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).unwrap();
        let own = read("default");
        assert!(own.running && own.status.is_ok() && own.foreign().is_none());
        let other = read("blue");
        let told = format!(
            "the state directory {} is that of instance default",
            directory.path().join(".").display()
        );
        assert!(!other.running);
        assert_eq!(other.status.as_ref().unwrap_err().to_string(), told);
        assert!(other.no_tables().to_string().ends_with(&format!(" And {told}.")), "{}", other.no_tables());
    }

    #[test]
    fn clusters_are_known_whatever_is_wrong_elsewhere() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f.yaml");
        let read = |text: &str| {
            fs::write(&path, text).unwrap();
            Node::read(&path).unwrap().clusters().map(<[_]>::len).ok()
        };
        let clusters = "clusters: [{name: a, region: r, zone: z, podCidrs: [10.1.0.0/16], manifests: a}]\n";
        assert_eq!(read(&format!("{clusters}tunnel: {{encapsulation: ipipp}}\n")), Some(1));
        assert_eq!(read(&format!("{clusters}tunnel: [\n")), None, "no YAML");
        assert_eq!(read(&clusters.replace("10.1.0.0/16", "10.1.0.0/33")), None);
        assert_eq!(read(&clusters.replace("}]", "}, {name: a}]")), None);
    }

    #[test]
    fn a_configuration_that_does_not_hold_still_says_whose_maps_and_state_are_meant() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f.yaml");
        assert!(matches!(Node::read(&path), Err(Error::Config(problems)) if problems.len() == 1));
        let read = |text: &str| {
            fs::write(&path, text).unwrap();
            Node::read(&path).unwrap()
        };
        let node = read("instance: eu\nstateDirectory: state\nnode: [\n");
        assert_eq!(node.instance.name(), "eu");
        assert_eq!(node.state_directory, directory.path().join("state"));
        let told = node.invalid().unwrap();
        let begins = format!("the configuration doesn't hold: {}:3:7: not YAML", path.display());
        assert!(told.starts_with(&begins) && !told.contains("this is of"), "{told}");
        assert!(matches!(node.whole_config(), Err(Error::Config(_))));
        let told = read("instance: N N\n").invalid().unwrap();
        assert!(
            told.ends_with(
                "; instance can't be read: this is of instance default and state directory /var/lib/fairlead/default"
            ),
            "{told}"
        );
    }
}
