//! The last known good shards of each cluster, on disk.
//!
//! One file per cluster, written to a temporary one beside it, synced and renamed, so that it is whole at any
//! moment. Read once, at the start; what can't be read is as if it weren't there. All of this blocks.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use fairlead_core::model::{Endpoint, ObjectName, ShardSpec};
use serde::{Deserialize, Serialize};

/// Version of the files' format; others are not read.
const VERSION: u32 = 1;

static WRITTEN: AtomicU64 = AtomicU64::new(0);

/// The shards of one cluster.
pub type Shards = BTreeMap<ObjectName, Arc<ShardSpec>>;

/// Why something could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum LastGoodError {
    /// The file system refused.
    #[error("{operation} {}: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file is not one of ours, or damaged.
    #[error("read {}: {source}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The file was written by another version.
    #[error("read {}: it has format {found}, this fairlead reads {VERSION}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
}

/// What was read of one cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Restored {
    /// When it was written.
    pub written: SystemTime,
    /// What was known then.
    pub shards: Shards,
}

#[derive(Serialize, Deserialize)]
struct Document<S> {
    version: u32,
    cluster: Arc<str>,
    /// A list, since JSON has only strings as keys.
    shards: Vec<(ObjectName, S)>,
}

/// A directory of such files.
#[derive(Clone, Debug)]
pub struct LastGood {
    directory: PathBuf,
}

impl LastGood {
    /// In the agent's state directory, which is created where it is missing. For the agent alone: what another one
    /// is writing there would be lost.
    ///
    /// # Errors
    /// Where it can't be.
    pub fn open(state_directory: &Path) -> Result<Self, LastGoodError> {
        let this = Self::of(state_directory);
        let directory = &this.directory;
        fs::create_dir_all(directory).map_err(io_error("create", directory))?;
        // What a killed agent left half written.
        for entry in fs::read_dir(directory).map_err(io_error("read", directory))?.flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "new") {
                fs::remove_file(entry.path()).map_err(io_error("remove", &entry.path()))?;
            }
        }
        Ok(this)
    }

    /// In a state directory, as it is: to read there, also while an agent runs.
    #[must_use]
    pub fn of(state_directory: &Path) -> Self {
        Self { directory: state_directory.join("last-good") }
    }

    fn path(&self, cluster: &str) -> PathBuf {
        self.directory.join(format!("{cluster}.json"))
    }

    /// Keeps the shards of a cluster in place of what was kept of it before.
    ///
    /// # Errors
    /// Where they can't be kept; what was kept before is untouched then.
    pub fn write(&self, cluster: &Arc<str>, shards: &Shards) -> Result<(), LastGoodError> {
        let path = self.path(cluster);
        // Each writer has its own, so that two of them can't write into one.
        let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
        let temporary = self.directory.join(format!(".{cluster}.{number}.new"));
        let shards = shards.iter().map(|(name, spec)| (name.clone(), &**spec)).collect();
        let document = Document { version: VERSION, cluster: Arc::clone(cluster), shards };
        let file = File::create(&temporary).map_err(io_error("create", &temporary))?;
        let mut writer = BufWriter::new(file);
        serde_json::to_writer(&mut writer, &document).map_err(|e| io_error("write", &temporary)(e.into()))?;
        let file = writer.into_inner().map_err(|e| io_error("write", &temporary)(e.into_error()))?;
        file.sync_all().map_err(io_error("sync", &temporary))?;
        fs::rename(&temporary, &path).map_err(io_error("rename", &temporary))?;
        let directory = File::open(&self.directory).map_err(io_error("open", &self.directory))?;
        directory.sync_all().map_err(io_error("sync", &self.directory))
    }

    /// What was kept of a cluster; `None` where nothing was.
    ///
    /// # Errors
    /// Where it can't be read.
    pub fn read(&self, cluster: &str) -> Result<Option<Restored>, LastGoodError> {
        let path = self.path(cluster);
        let file = match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(io_error("open", &path))?,
        };
        let written =
            file.metadata().and_then(|metadata| metadata.modified()).map_err(io_error("open", &path))?;
        let document: Document<ShardSpec> = serde_json::from_reader(BufReader::with_capacity(1 << 16, file))
            .map_err(|source| LastGoodError::Format { path: path.clone(), source })?;
        if document.version != VERSION {
            return Err(LastGoodError::Version { path, found: document.version });
        }
        let shared = |(name, mut spec): (ObjectName, ShardSpec)| {
            share(Arc::<Vec<_>>::make_mut(&mut spec.endpoints));
            (name, Arc::new(spec))
        };
        Ok(Some(Restored { written, shards: document.shards.into_iter().map(shared).collect() }))
    }
}

/// Lets endpoints share again what they shared before: JSON has each one's own copy.
fn share(endpoints: &mut [Endpoint]) {
    for i in 1..endpoints.len() {
        let (before, after) = endpoints.split_at_mut(i);
        let (known, endpoint) = (&before[i - 1], &mut after[0]);
        if known.ports == endpoint.ports {
            endpoint.ports = Arc::clone(&known.ports);
        }
    }
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LastGoodError + use<> {
    let path = path.to_owned();
    move |source| LastGoodError::Io { operation, path, source }
}
