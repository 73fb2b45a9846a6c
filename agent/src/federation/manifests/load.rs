//! A file, read as far as there is room for it.

use std::io::Read;
use std::path::Path;

use super::file::{self, Note, Parsed};
use crate::directory::Stamp;
use crate::federation::convert::Defaults;
use crate::yaml::Place;

/// Largest file that is read.
pub(super) const MAX_FILE: u64 = 64 << 20;
/// What all files of a cluster may have.
pub(super) const MAX_TOTAL: u64 = 512 << 20;

/// Why a file was not taken.
pub(super) enum Refusal {
    /// It has to change for that.
    Content(Note),
    /// It can be well the next time.
    Circumstances(Note),
}

/// What a file holds, or why it is not taken; `others` is what the other files of the cluster have, in bytes.
pub(super) fn load(path: &Path, stamp: Stamp, others: u64, defaults: Defaults) -> Result<Parsed, Refusal> {
    let note = |message: String| Note {
        place: Place { line: 1, column: 1 },
        object: None,
        field: String::new(),
        message,
    };
    if stamp.size > MAX_FILE {
        return Err(Refusal::Content(note(format!(
            "has {} MiB, at most {} are read: split it",
            stamp.size >> 20,
            MAX_FILE >> 20
        ))));
    }
    if others + stamp.size > MAX_TOTAL {
        let message = format!("with it the directory has more than {} MiB", MAX_TOTAL >> 20);
        return Err(Refusal::Circumstances(note(message)));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(stamp.size).unwrap_or(0));
    let read = crate::file::open(path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes));
    read.map_err(|e| Refusal::Circumstances(note(format!("can't be read: {e}"))))?;
    // A fault of the parser's must not end the cluster's source.
    let parsed = std::panic::catch_unwind(|| file::parse(&bytes, defaults))
        .unwrap_or_else(|_| Err(note("can't be parsed: a fault of fairlead's, please report it".to_owned())));
    parsed.map_err(Refusal::Content)
}
