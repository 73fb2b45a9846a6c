//! Where a command's words go: to standard output, or, where that has to be one JSON document, to standard error.

use anyhow::{Context, Result};
use serde::Serialize;

/// The form of standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// For people
    Text,
    /// One JSON document; everything else goes to standard error
    Json,
}

impl Output {
    /// One line for people.
    pub(crate) fn say(self, line: &str) {
        match self {
            Output::Text => println!("{line}"),
            Output::Json => eprintln!("{line}"),
        }
    }

    /// The document, if one is wanted.
    pub(crate) fn document(self, document: &impl Serialize) -> Result<()> {
        if self == Output::Json {
            println!("{}", serde_json::to_string_pretty(document).context("can't write the document")?);
        }
        Ok(())
    }
}
