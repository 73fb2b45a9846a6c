//! Where a command's words go: one document to standard output, for people or for programs.
//!
//! A reader that has closed the pipe (`| head`) ends the command quietly.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

/// The form of standard output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// For people
    #[default]
    Table,
    /// One JSON document
    Json,
}

/// Of commands that answer nothing, or in one form only. The option is global, so they hide and refuse it.
#[derive(Debug, clap::Args)]
pub(super) struct NoAnswer {
    /// Not with this command
    #[arg(short, long, hide = true, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

/// How to print.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    pub(super) format: Format,
    pub(super) colour: bool,
}

impl Output {
    /// Colour only for a terminal that wants it (<https://no-color.org>).
    pub(super) fn new(format: Format) -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { format, colour: io::stdout().is_terminal() && !refused }
    }

    /// Prints the document, or what `text` makes of it for people; `text` is told whether there is colour.
    pub(super) fn show<T: Serialize>(
        self,
        document: &T,
        text: impl FnOnce(&T, bool) -> String,
    ) -> io::Result<()> {
        match self.format {
            Format::Table => print(&text(document, self.colour)),
            Format::Json => print(&(serde_json::to_string_pretty(document)? + "\n")),
        }
    }

    /// As [`show`](Self::show), as one of many: a line of JSON each.
    pub(super) fn show_next<T: Serialize>(
        self,
        document: &T,
        text: impl FnOnce(&T, bool) -> String,
    ) -> io::Result<()> {
        match self.format {
            Format::Table => print(&text(document, self.colour)),
            Format::Json => print(&(serde_json::to_string(document)? + "\n")),
        }
    }
}

/// Writes to standard output; `println!` would panic where the reader is gone.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Says something beside the answer. Nobody may be there to read it; there is no other place to say so.
pub(super) fn warn(text: &str) {
    let _ = writeln!(io::stderr(), "fairlead: {text}");
}

/// Whether a command failed only because nobody reads its output any more.
pub(super) fn is_closed(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>());
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
