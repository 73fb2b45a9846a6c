//! Whether an agent runs: it holds a lock for as long as it lives.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::stat::{major, minor};

/// Whether somebody holds the lock of the file: an agent does as long as it lives. Only looks; trying to take the lock
/// could refuse it to an agent that starts just now.
pub(super) fn is_locked(file: &Path) -> bool {
    let Ok(metadata) = fs::metadata(file) else { return false };
    let Ok(locks) = fs::read_to_string("/proc/locks") else { return false };
    is_listed(&locks, major(metadata.dev()), minor(metadata.dev()), metadata.ino())
}

/// `/proc/locks` has lines such as `1: FLOCK  ADVISORY  WRITE 708 fd:01:13845 0 EOF`; who waits stands behind `->`.
fn is_listed(locks: &str, major: u64, minor: u64, inode: u64) -> bool {
    let id = format!("{major:02x}:{minor:02x}:{inode}");
    locks.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(1) == Some(&"FLOCK") && fields.get(5) == Some(&&*id)
    })
}

#[cfg(test)]
mod tests {
    use nix::fcntl::{Flock, FlockArg};

    use super::*;

    #[test]
    fn a_lock_is_found_by_device_and_inode() {
        let locks = "1: FLOCK  ADVISORY  WRITE 708 fd:01:13845 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 709 fd:01:99 0 EOF\n\
                     3: POSIX  ADVISORY  WRITE 710 fd:01:77 0 EOF\n";
        assert!(is_listed(locks, 0xfd, 1, 13845));
        for (major, minor, inode) in [(0xfd, 1, 1384), (0xfd, 0, 13845), (0xfd, 1, 99), (0xfd, 1, 77)] {
            assert!(!is_listed(locks, major, minor, inode), "{major}:{minor}:{inode}");
        }
    }

    #[test]
    fn a_held_lock_is_seen_and_a_free_one_too() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        assert!(!is_locked(&path), "there is no such file");
        let file = fs::File::create(&path).unwrap();
        assert!(!is_locked(&path));
        let held = Flock::lock(file, FlockArg::LockExclusiveNonblock).unwrap();
        assert!(is_locked(&path));
        drop(held);
        assert!(!is_locked(&path));
    }
}
