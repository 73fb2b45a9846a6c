//! Copies of a cluster's manifests, each for one host, which can fall behind.
//!
//! To such a host the copy is what the cluster's API server says; while its updates are stopped, the host knows nothing of
//! what changes.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use anyhow::{Context, Result};

/// The copies of one directory, by host.
#[derive(Debug, Default)]
pub(super) struct Copies(Mutex<BTreeMap<String, Copy>>);

#[derive(Debug)]
struct Copy {
    directory: PathBuf,
    stopped: bool,
}

impl Copies {
    /// Makes one more.
    pub(super) fn add(&self, from: &Path, host: &str, directory: PathBuf) -> Result<()> {
        fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
        self.all().insert(host.to_owned(), Copy { directory, stopped: false });
        self.refresh(from)
    }

    /// Stops or resumes the updates of a host's copy.
    pub(super) fn stop(&self, from: &Path, host: &str, stopped: bool) -> Result<()> {
        self.all().get_mut(host).with_context(|| format!("{host} has no copy"))?.stopped = stopped;
        self.refresh(from)
    }

    /// Makes all like the original whose updates aren't stopped.
    pub(super) fn refresh(&self, from: &Path) -> Result<()> {
        let copies = self.all();
        copies.values().filter(|copy| !copy.stopped).try_for_each(|copy| follow(from, &copy.directory))
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Copy>> {
        self.0.lock().expect("never poisoned: nothing panics under it")
    }
}

/// Writes only what differs, and never leaves half of a file to be seen.
fn follow(from: &Path, to: &Path) -> Result<()> {
    let (wanted, present) = (files(from)?, files(to)?);
    for name in &wanted {
        let (text, path) = (fs::read(from.join(name))?, to.join(name));
        if fs::read(&path).is_ok_and(|old| old == text) {
            continue;
        }
        let new = to.join(".new");
        fs::write(&new, text)?;
        fs::rename(&new, &path).with_context(|| format!("put {} in its place", path.display()))?;
    }
    present.difference(&wanted).try_for_each(|name| Ok(fs::remove_file(to.join(name))?))
}

/// Without those that are being written.
fn files(directory: &Path) -> Result<BTreeSet<OsString>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))? {
        let name = entry?.file_name();
        if !name.to_string_lossy().starts_with('.') {
            names.insert(name);
        }
    }
    Ok(names)
}
