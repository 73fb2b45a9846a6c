//! `cargo xtask test`: everything that is checked, or a part of it.
//!
//! In: the tables of `parts`. Out: each step's words under a heading, a summary, and last on standard output one
//! line `N passed, N failed, N skipped`; or one JSON document. A step that fails doesn't stop the next one. Green
//! means that tests ran and that nothing failed: a run in which nothing ran, or all was skipped, fails. The part
//! `survive` is no step of these: it is run alone, and its report is the whole output.

mod advisories;
mod listen;
mod parts;
mod report;
mod survive;

use std::path::Path;

use anyhow::{Context, Result, bail};

use self::advisories::Outcome;
use self::listen::Heard;
pub(crate) use self::parts::Part;
use self::parts::{LINTS, Lint, MATRICES, Matrix, SUITES, Suite};
use self::report::{Ended, Report};
use crate::output::Output;
use crate::workspace::Workspace;
use crate::{ebpf, process, setup, testplane};

/// What to run, from the command line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Choice<'a> {
    /// A part alone; everything if none.
    pub(crate) part: Option<Part>,
    /// Of [`Part::Survive`]: only these events; all if there is none.
    pub(crate) events: &'a [String],
    /// Also what takes too long for CI.
    pub(crate) full: bool,
    /// The form of standard output.
    pub(crate) output: Output,
}

/// Sets up, builds and runs what was chosen; an error if anything failed.
pub(crate) fn test(workspace: &Workspace, choice: Choice<'_>) -> Result<()> {
    if choice.part == Some(Part::Survive) {
        return survive::run(workspace, &choice);
    }
    if !choice.events.is_empty() {
        bail!(
            "--event: only survive has events; write `cargo xtask test survive --event {}`",
            choice.events[0]
        );
    }
    let metadata = metadata(workspace)?;
    let forgotten = parts::forgotten(&metadata);
    if !forgotten.is_empty() {
        // They would never run, and nobody would know.
        bail!("no suite in xtask/src/test/parts.rs runs these tests: {}", forgotten.join(", "));
    }
    let facts = setup::ensure(workspace, parts::purposes(choice.part))?;
    // Everything later embeds them, so without them nothing later means anything.
    choice.output.say("== BPF programs ==");
    ebpf::build_and_tell(workspace, &setup::fitting(&facts)?, choice.output)?;

    let mut report = Report::new(choice.output);
    if choice.part.is_none() {
        for lint in LINTS {
            report.step(lint.name, |_| run_lint(workspace, lint))?;
        }
        report.step("advisories", |heard| check_advisories(workspace, choice.output, heard))?;
    }
    let chosen = |suite: &&Suite| choice.part.is_none_or(|part| part == suite.part);
    for suite in SUITES.iter().filter(chosen).filter(|suite| suite.has_tests(&metadata)) {
        let name = format!("{}: {}", suite.part.name(), suite.name);
        report.step(&name, |heard| run(workspace, choice, suite, facts.assets.folder(), heard))?;
    }
    report.conclude(choice.full)
}

/// The workspace's packages and their targets.
fn metadata(workspace: &Workspace) -> Result<serde_json::Value> {
    let mut command = workspace.cargo();
    let text = process::probe(command.args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let text = text.context("`cargo metadata` failed; run it to see why")?;
    serde_json::from_str(&text).context("`cargo metadata` wrote something else than JSON")
}

fn run_lint(workspace: &Workspace, lint: &Lint) -> Result<Ended> {
    let mut command = workspace.cargo();
    command.args(lint.cargo).envs(lint.environment.iter().copied());
    Ok(Ended::by(process::status(&mut command)?))
}

fn check_advisories(workspace: &Workspace, output: Output, heard: &mut Heard) -> Result<Ended> {
    match advisories::check(workspace)? {
        Outcome::Clean => Ok(Ended::Well),
        Outcome::Found => Ok(Ended::Failed),
        Outcome::NotReachable => {
            const LEFT_OUT: &str = "advisories were not checked: database not reachable";
            output.say(LEFT_OUT);
            heard.left_out.push(LEFT_OUT.to_owned());
            Ok(Ended::NotChecked)
        }
    }
}

/// `programs` are those of control planes, where the suite runs some.
fn run(
    workspace: &Workspace,
    choice: Choice<'_>,
    suite: &Suite,
    programs: &Path,
    heard: &mut Heard,
) -> Result<Ended> {
    if !suite.build.is_empty() {
        process::run(workspace.cargo().args(suite.build))?;
    }
    let mut command = workspace.cargo();
    command.args(suite.cargo());
    if suite.part == Part::Clusters {
        command.env(testplane::VARIABLE, programs);
    }
    // What the caller has set himself goes before both.
    let unset = |matrix: &&Matrix| std::env::var_os(matrix.variable).is_none();
    for matrix in MATRICES.iter().filter(|matrix| matrix.part == suite.part).filter(unset) {
        if choice.full {
            command.env(matrix.variable, matrix.full);
        } else {
            heard.left_out.push(matrix.rest.to_owned());
        }
    }
    let status = process::lines(&mut command, |line| {
        if heard.line(line) {
            choice.output.say(line);
        }
    })?;
    Ok(Ended::by(status))
}
