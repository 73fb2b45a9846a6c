//! The files of manifests in a directory and in those below it.
//!
//! Names that begin with `.` are passed over. What can't be looked at is told, and hides nothing beside it. Contents
//! are not read here.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::directory::Stamp;
use crate::file::SPECIAL;

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

/// Why something can't be looked at.
#[derive(Debug)]
pub(super) enum Unseen {
    /// The file system doesn't let it.
    Refused(io::Error),
    /// A symbolic link to what is not there.
    Nowhere(PathBuf),
    /// A pipe, a socket or a device: reading it may never end.
    Special,
    /// A directory in the place of a file. What is in it is read all the same.
    Directory,
}

impl Unseen {
    /// Whether files below can't be looked at either.
    pub(super) fn hides_what_is_below(&self) -> bool {
        !matches!(self, Self::Directory)
    }
}

impl fmt::Display for Unseen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => write!(f, "can't be read: {error}"),
            Self::Nowhere(target) => {
                write!(f, "is a symbolic link to {}, which is not there", target.display())
            }
            Self::Special => write!(f, "is {SPECIAL}"),
            Self::Directory => f.write_str("is a directory, but has the name of a file: rename it"),
        }
    }
}

/// What stands at the path of something that may be a file of manifests.
pub(super) enum Found {
    File(Stamp),
    Directory,
    Unseen(Unseen),
    Nothing,
}

impl Found {
    /// Follows symbolic links: files of a ConfigMap's volume are some.
    pub(super) fn at(path: &Path) -> Self {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => Self::Directory,
            Ok(metadata) if metadata.is_file() => Self::File(Stamp::of(&metadata)),
            Ok(_) => Self::Unseen(Unseen::Special),
            Err(e) if !is_absence(&e) => Self::Unseen(Unseen::Refused(e)),
            Err(_) => {
                // What vanished meanwhile is not there; a link that leads to nothing may lead to something again.
                fs::read_link(path).map_or(Self::Nothing, |target| Self::Unseen(Unseen::Nowhere(target)))
            }
        }
    }
}

/// What a directory has.
#[derive(Default)]
pub(super) struct Walk {
    pub(super) found: BTreeMap<PathBuf, Stamp>,
    /// Files, and directories with files, that can't be looked at, and why.
    pub(super) unseen: Vec<(PathBuf, Unseen)>,
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
            match Found::at(&path) {
                Found::Directory => {
                    if is_manifest(&path) {
                        self.unseen.push((path.clone(), Unseen::Directory));
                    }
                    if depth > 0 {
                        self.below(path, depth - 1)?;
                    }
                }
                Found::File(stamp) if is_manifest(&path) => {
                    self.count()?;
                    self.found.insert(path, stamp);
                }
                // Of other names only what could be a directory is told.
                Found::Unseen(why) if is_manifest(&path) || !matches!(why, Unseen::Special) => {
                    self.count()?;
                    self.unseen.push((path, why));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A directory further down.
    fn below(&mut self, directory: PathBuf, depth: usize) -> io::Result<()> {
        self.count()?;
        match self.directory(&directory, depth) {
            Err(e) if self.entries > MAX_ENTRIES => return Err(e),
            Err(e) if !is_absence(&e) => self.unseen.push((directory, Unseen::Refused(e))),
            _ => {}
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

/// What vanished meanwhile is not there, nor is what links to nowhere lead to.
fn is_absence(error: &io::Error) -> bool {
    let loops = Some(nix::errno::Errno::ELOOP as i32);
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        || error.raw_os_error() == loops
}
