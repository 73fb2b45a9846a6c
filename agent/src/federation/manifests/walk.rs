//! The files of manifests in a directory and in those below it.
//!
//! Names that begin with `.` are passed over. What can't be looked at is told, and hides nothing beside it. Contents
//! are not read here.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// How many files and directories a cluster may have.
const MAX_ENTRIES: usize = 200_000;
/// How deep directories are followed.
pub(super) const MAX_DEPTH: usize = 8;

/// Whether a path is that of a file of manifests.
#[must_use]
pub(in crate::federation) fn is_manifest(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    !is_hidden(path) && matches!(extension, Some("yaml" | "yml" | "json"))
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// What changes when a file's content does.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    inode: u64,
}

impl Stamp {
    pub(super) fn of(metadata: &fs::Metadata) -> Self {
        Self {
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
        }
    }
}

/// What a directory has.
#[derive(Default)]
pub(super) struct Walk {
    pub(super) found: BTreeMap<PathBuf, Stamp>,
    /// Files, and directories with files, that can't be looked at, and why.
    pub(super) unseen: Vec<(PathBuf, io::Error)>,
    entries: usize,
}

impl Walk {
    /// The files of manifests in `directory` and below. An error is the directory's own; those further down don't
    /// hide what stands beside them.
    pub(super) fn directory(&mut self, directory: &Path, depth: usize) -> io::Result<()> {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if is_hidden(&path) {
                continue;
            }
            // Follows symbolic links: files of a ConfigMap's volume are some.
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_dir() && depth > 0 => {
                    self.count()?;
                    match self.directory(&path, depth - 1) {
                        Err(e) if self.entries > MAX_ENTRIES => return Err(e),
                        Err(e) if !is_absence(&e) => self.unseen.push((path, e)),
                        _ => {}
                    }
                }
                Ok(metadata) if metadata.is_file() && is_manifest(&path) => {
                    self.count()?;
                    self.found.insert(path, Stamp::of(&metadata));
                }
                Err(e) if !is_absence(&e) => {
                    self.count()?;
                    self.unseen.push((path, e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn count(&mut self) -> io::Result<()> {
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            return Err(io::Error::other(format!("it has more than {MAX_ENTRIES} files and directories")));
        }
        Ok(())
    }
}

/// What vanished meanwhile, and links to nowhere, are not there.
pub(super) fn is_absence(error: &io::Error) -> bool {
    let loops = Some(nix::errno::Errno::ELOOP as i32);
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        || error.raw_os_error() == loops
}
