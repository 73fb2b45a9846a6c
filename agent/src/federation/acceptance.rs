//! That a mass withdrawal is accepted: how a command tells the agent.
//!
//! A file of the cluster's name in the state directory. The agent looks for it every second, takes it away, and holds nothing of
//! that cluster once.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// The directory of such files.
#[derive(Clone, Debug)]
pub struct Acceptance {
    directory: PathBuf,
}

impl Acceptance {
    /// In an agent's state directory.
    #[must_use]
    pub fn of(state_directory: &Path) -> Self {
        Self { directory: state_directory.join("accept-withdrawal") }
    }

    /// What is gone of this cluster shall be.
    ///
    /// # Errors
    /// Where the file can't be written.
    pub fn tell(&self, cluster: &str) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        File::create(self.directory.join(cluster)).map(drop)
    }

    /// Whether an agent has still to take it.
    #[must_use]
    pub fn is_told(&self, cluster: &str) -> bool {
        self.directory.join(cluster).exists()
    }

    /// The clusters of which it was told, which is taken away. What can't be read counts as nothing.
    pub(super) fn take(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let told = entries.filter(|entry| fs::remove_file(entry.path()).is_ok());
        told.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }
}
