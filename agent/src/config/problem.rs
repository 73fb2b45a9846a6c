//! What is wrong with a configuration file.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::yaml::Place;

/// One thing that is wrong, and what to do about it. Sorts as the file is read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigProblem {
    /// The configuration file.
    pub file: PathBuf,
    /// Where in it; line 0: the file as a whole.
    pub place: Place,
    /// The field, such as `clusters[2].podCidrs[0]`; empty where the whole file is concerned.
    pub field: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl ConfigProblem {
    pub(super) fn new(file: &Path, place: Place, field: &str, message: impl Into<String>) -> Self {
        Self { file: file.to_owned(), place, field: field.to_owned(), message: message.into() }
    }
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { line, column } = self.place;
        match line {
            0 => write!(f, "{}: ", self.file.display())?,
            _ => write!(f, "{}:{line}:{column}: ", self.file.display())?,
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConfigProblem {}
