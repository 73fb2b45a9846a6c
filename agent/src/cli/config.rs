//! `fairlead config`: is a file right, and what can it hold.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Subcommand;
use serde::Serialize;

use super::output::{Output, print};
use crate::asks::read_secrets;
use crate::config::{self, Config, ConfigProblem, Essentials};
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
    /// For these an agent refuses the file, or to start.
    problems: Vec<Problem>,
    /// What an agent runs with although nobody can want it.
    warnings: Vec<Problem>,
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

impl From<ConfigProblem> for Problem {
    fn from(problem: ConfigProblem) -> Self {
        Self {
            text: problem.to_string(),
            line: problem.place.line,
            column: problem.place.column,
            field: problem.field,
            message: problem.message,
        }
    }
}

pub(super) fn config(command: &Command, default: &Path, output: Output) -> Result<()> {
    match command {
        Command::Check { file: Some(file) } => check(file, config::check_other(file), output),
        Command::Check { file: None } => check(default, config::check(default), output),
        Command::Schema => Ok(print(&(serde_json::to_string_pretty(&config::schema())? + "\n"))?),
    }
}

fn check(file: &Path, checked: Result<Config, Vec<ConfigProblem>>, output: Output) -> Result<()> {
    let report = Report::new(file, checked);
    output.show(&report, |report, _| report.text())?;
    match report.problems.len() {
        0 => Ok(()),
        count => bail!(counted(count as u64, "problem")),
    }
}

impl Report {
    fn new(file: &Path, checked: Result<Config, Vec<ConfigProblem>>) -> Self {
        let missing = checked.as_ref().map(missing).unwrap_or_default();
        let mut problems = checked.err().unwrap_or_default();
        let mut warnings = Vec::new();
        // Whatever is wrong elsewhere: who mends the file wants to know all of it.
        let secrets = Essentials::read(file).ok().and_then(|essentials| essentials.secrets_file);
        if let Some((secrets, place)) = secrets.filter(|(secrets, _)| secrets.exists()) {
            let found = |message| ConfigProblem {
                file: file.to_owned(),
                place,
                field: "secretsFile".to_owned(),
                message,
            };
            problems.extend(read_secrets(&secrets).err().map(found));
            warnings.extend(open_to_others(&secrets).map(found));
        }
        problems.sort();
        let told = |problems: Vec<ConfigProblem>| problems.into_iter().map(Problem::from).collect();
        Self { file: file.to_owned(), problems: told(problems), warnings: told(warnings), missing }
    }

    fn text(&self) -> String {
        let mut lines: Vec<String> = self.problems.iter().map(|problem| problem.text.clone()).collect();
        if lines.is_empty() {
            lines.push(format!("{}: no problem", self.file.display()));
        }
        lines.extend(self.warnings.iter().map(|warning| format!("warning: {}", warning.text)));
        lines.extend(self.missing.iter().map(|what| format!("not on this machine: {what}")));
        lines.join("\n") + "\n"
    }
}

fn missing(config: &Config) -> Vec<String> {
    let mut missing = Vec::new();
    for (number, interface) in config.node.interfaces.iter().enumerate() {
        if !Path::new("/sys/class/net").join(&*interface.0).exists() {
            missing.push(format!("node.interfaces[{number}]: {}", interface.0));
        }
    }
    for (number, cluster) in config.clusters.iter().enumerate() {
        if let Some(directory) = cluster.manifests.as_deref().filter(|directory| !directory.is_dir()) {
            missing.push(format!("clusters[{number}].manifests: the directory {}", directory.display()));
        }
        if let Some(file) = cluster.kubeconfig.as_deref().filter(|file| !file.is_file()) {
            missing.push(format!("clusters[{number}].kubeconfig: {}", file.display()));
        }
    }
    if let Some(file) = config.secrets_file.as_deref().filter(|file| !file.exists()) {
        missing.push(format!("secretsFile: {}", file.display()));
    }
    missing
}

/// That others than the owner and the group of a file can read or change it.
fn open_to_others(file: &Path) -> Option<String> {
    let mode = fs::metadata(file).ok().filter(fs::Metadata::is_file)?.permissions().mode() & 0o777;
    let path = file.display();
    (mode & 0o006 != 0).then(|| {
        format!("{path}: every user of this machine has access (mode {mode:04o}), and it holds secrets: `chmod o= {path}`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "seed: 1\nnode: {name: g, region: eu, roles: [gateway], interfaces: [lo, none]}\n\
                        gateways: [{name: g, region: eu, tunnel: [192.0.2.1]}]\n\
                        clusters: [{name: a, region: eu, zone: a, podCidrs: [10.1.0.0/16], manifests: .}]\n\
                        secretsFile: secrets\n";

    #[test]
    fn secrets_are_judged_with_all_else() {
        let directory = tempfile::tempdir().unwrap();
        let (file, secrets) = (directory.path().join("f.yaml"), directory.path().join("secrets"));
        let told = |text: &str| {
            fs::write(&file, text).unwrap();
            let report = Report::new(&file, config::check_other(&file));
            report.text().replace(&format!("{}/", directory.path().display()), "")
        };
        let missing = "not on this machine: node.interfaces[1]: none\n";
        assert_eq!(
            told(GOOD),
            format!("f.yaml: no problem\n{missing}not on this machine: secretsFile: secrets\n")
        );
        let mode = |mode| fs::set_permissions(&secrets, fs::Permissions::from_mode(mode)).unwrap();
        fs::write(&secrets, "0".repeat(64)).unwrap();
        mode(0o640);
        let zeros = "f.yaml:5:14: secretsFile: secrets: line 1: a secret of nothing but zeros, which everybody knows: write \
                     what `openssl rand -hex 32` prints\n";
        assert_eq!(told(GOOD), format!("{zeros}{missing}"));
        let wrong = "f.yaml:6:25: tunnel.encapsulation: \"ipipp\" is none of ipip, gue\n";
        assert_eq!(told(&format!("{GOOD}tunnel: {{encapsulation: ipipp}}\n")), format!("{zeros}{wrong}"));
        fs::write(&secrets, "1".repeat(64)).unwrap();
        mode(0o644);
        let warning = "warning: f.yaml:5:14: secretsFile: secrets: every user of this machine has access (mode 0644), and it holds \
                       secrets: `chmod o= secrets`\n";
        assert_eq!(told(GOOD), format!("f.yaml: no problem\n{warning}{missing}"));
        fs::remove_file(&secrets).unwrap();
        nix::unistd::mkfifo(&secrets, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let pipe = "f.yaml:5:14: secretsFile: secrets: it is a pipe, a socket or a device, not a file\n";
        assert_eq!(told(GOOD), format!("{pipe}{missing}"));
    }
}
