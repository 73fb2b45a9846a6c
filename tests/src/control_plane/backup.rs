//! Copies of a directory, such as etcd's data.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

/// What a control plane's data were at some time. Its files go with the control plane's.
#[derive(Debug)]
pub struct Backup {
    directory: PathBuf,
}

impl Backup {
    pub(super) fn take(data: &Path, beside: &Path) -> Result<Self> {
        static BACKUPS: AtomicU32 = AtomicU32::new(1);
        let directory = beside.join(format!("backup-{}", BACKUPS.fetch_add(1, Ordering::Relaxed)));
        copy(data, &directory)?;
        Ok(Self { directory })
    }

    pub(super) fn restore(&self, data: &Path) -> Result<()> {
        fs::remove_dir_all(data).with_context(|| format!("remove {}", data.display()))?;
        copy(&self.directory, data)
    }
}

/// `to` must not be there yet.
fn copy(from: &Path, to: &Path) -> Result<()> {
    // etcd wants it to be its own alone.
    fs::create_dir(to).with_context(|| format!("make {}", to.display()))?;
    fs::set_permissions(to, fs::metadata(from)?.permissions())?;
    for entry in fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy(&from, &to)?;
        } else {
            fs::copy(&from, &to).with_context(|| format!("copy {}", from.display()))?;
        }
    }
    Ok(())
}
