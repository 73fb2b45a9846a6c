//! `fairlead config`: is a file right, and what can it hold.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Subcommand;
use serde::Serialize;

use super::output::{Output, print};
use crate::asks::read_secrets;
use crate::config::{self, Config, ConfigProblem};
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
    /// What it names and this machine doesn't have: nothing is wrong with it if it is for another.
    missing: Vec<String>,
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
        Command::Check { file: Some(file) } => check(file, config::check_other(file), output),
        Command::Check { file: None } => check(default, config::check(default), output),
        Command::Schema => Ok(print(&(serde_json::to_string_pretty(&config::schema())? + "\n"))?),
    }
}

fn check(file: &Path, checked: Result<Config, Vec<ConfigProblem>>, output: Output) -> Result<()> {
    let missing = checked.as_ref().map(missing).unwrap_or_default();
    let refused = checked.as_ref().ok().and_then(refused_secrets);
    let problems = checked.err().unwrap_or_default();
    let problem = |problem: ConfigProblem| Problem {
        text: problem.to_string(),
        line: problem.place.line,
        column: problem.place.column,
        field: problem.field,
        message: problem.message,
    };
    let problems = problems.into_iter().map(problem).collect();
    let report = Report { file: file.to_owned(), problems, missing };
    output.show(&report, |report, _| match report.problems.as_slice() {
        [] if refused.is_some() => String::new(),
        [] => {
            let missing = report.missing.iter().map(|what| format!("not on this machine: {what}\n"));
            format!("{}: no problem\n", report.file.display()) + &missing.collect::<String>()
        }
        problems => problems.iter().map(|problem| format!("{}\n", problem.text)).collect(),
    })?;
    match report.problems.len() {
        0 => refused.map_or(Ok(()), |why| bail!("secretsFile: {why}")),
        count => bail!(counted(count as u64, "problem")),
    }
}

fn missing(config: &Config) -> Vec<String> {
    let mut missing = Vec::new();
    for (number, interface) in config.node.interfaces.iter().enumerate() {
        if !Path::new("/sys/class/net").join(&*interface.0).exists() {
            missing.push(format!("node.interfaces[{number}]: {}", interface.0));
        }
    }
    for (number, cluster) in config.clusters.iter().enumerate().filter(|(_, c)| !c.manifests.is_dir()) {
        missing.push(format!("clusters[{number}].manifests: the directory {}", cluster.manifests.display()));
    }
    if let Some(file) = config.secrets_file.as_deref().filter(|file| !file.exists()) {
        missing.push(format!("secretsFile: {}", file.display()));
    }
    missing
}

/// Why the secrets that are there can't be taken.
fn refused_secrets(config: &Config) -> Option<String> {
    config.secrets_file.as_deref().filter(|file| file.exists()).and_then(|file| read_secrets(file).err())
}
