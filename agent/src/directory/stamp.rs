//! What tells versions of a file apart without reading it.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

/// What changes when a file's content does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// In bytes.
    pub size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    inode: u64,
}

impl Stamp {
    /// Of a file that was looked at.
    #[must_use]
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
        }
    }
}
