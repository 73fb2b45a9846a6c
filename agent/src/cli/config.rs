//! `fairlead config`: is a file right, and what can it hold.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Subcommand;
use serde::Serialize;

use super::output::{Output, print};
use crate::config;
use crate::text::counted;

/// What to do with it.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Say whether a file is right, with every problem that it has
    #[command(after_help = "Example:\n  fairlead config check deploy/config.example.yaml")]
    Check {
        /// The file; without it that of --config
        file: Option<PathBuf>,
    },
    /// Print the JSON Schema of the file
    #[command(after_help = "Example:\n  fairlead config schema > fairlead.schema.json")]
    Schema,
}

#[derive(Serialize)]
struct Report {
    file: PathBuf,
    problems: Vec<Problem>,
}

#[derive(Serialize)]
struct Problem {
    line: u32,
    column: u32,
    field: String,
    message: String,
    #[serde(skip)]
    text: String,
}

pub(super) fn config(command: &Command, default: &Path, output: Output) -> Result<()> {
    match command {
        Command::Check { file: Some(file) } => check(file, config::check_other(file).err(), output),
        Command::Check { file: None } => check(default, config::check(default).err(), output),
        Command::Schema => Ok(print(&(serde_json::to_string_pretty(&config::schema())? + "\n"))?),
    }
}

fn check(file: &Path, problems: Option<Vec<config::ConfigProblem>>, output: Output) -> Result<()> {
    let problems = problems.unwrap_or_default();
    let problem = |problem: config::ConfigProblem| Problem {
        text: problem.to_string(),
        line: problem.place.line,
        column: problem.place.column,
        field: problem.field,
        message: problem.message,
    };
    let report = Report { file: file.to_owned(), problems: problems.into_iter().map(problem).collect() };
    output.show(&report, |report, _| match report.problems.as_slice() {
        [] => format!("{}: no problem\n", report.file.display()),
        problems => problems.iter().map(|problem| format!("{}\n", problem.text)).collect(),
    })?;
    match report.problems.len() {
        0 => Ok(()),
        count => bail!(counted(count as u64, "problem")),
    }
}
