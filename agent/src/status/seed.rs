//! The seed that the programs in use were loaded with, for commands: a configuration file can have another one by now,
//! and the kernel lets only CAP_SYS_ADMIN read it from a program.
//!
//! It is a secret, so it stands apart from the status, in a file that only its owner can read.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// The file in the state directory.
const SEED_FILE: &str = "seed";

/// Keeps the seed of programs that packets meet from now on.
///
/// # Errors
/// The file can't be written; what was there before stays.
pub(crate) fn keep_seed(directory: &Path, seed: u64) -> io::Result<()> {
    let temporary = directory.join(".seed.new");
    // One that a killed agent left would keep its mode.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    writeln!(file, "{seed:#x}")?;
    file.sync_all()?;
    fs::rename(&temporary, directory.join(SEED_FILE))
}

/// The seed that the last agent with this directory has taken into use; `None` where that can't be told.
#[must_use]
pub fn read_seed(directory: &Path) -> Option<u64> {
    let text = fs::read_to_string(directory.join(SEED_FILE)).ok()?;
    u64::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_last_seed_is_kept_and_only_its_owner_can_read_it() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(read_seed(directory.path()), None);
        fs::write(directory.path().join(".seed.new"), "half").unwrap();
        for seed in [0x5eed, u64::MAX] {
            keep_seed(directory.path(), seed).unwrap();
            assert_eq!(read_seed(directory.path()), Some(seed));
        }
        let mode = fs::metadata(directory.path().join(SEED_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
