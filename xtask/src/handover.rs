//! The demo and the bench stand in the crate of the tests: here they are built and run.
//!
//! In: which of them, and its arguments. Its standard output is xtask's own, and with `-o json` one document; what setup
//! and cargo say goes to standard error.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::output::Output;
use crate::setup::Purpose;
use crate::workspace::Workspace;
use crate::{ebpf, process, setup};

/// Sets up and builds all that they need.
pub(crate) fn build(workspace: &Workspace) -> Result<()> {
    let facts = setup::ensure(workspace, &[Purpose::Bpf, Purpose::World])?;
    // As for JSON: standard output is for the program that is built here.
    ebpf::build_and_tell(workspace, &setup::fitting(&facts)?, Output::Json)?;
    let mut build = workspace.cargo();
    process::run(build.args(["build", "--release", "-p", "fairlead", "-p", "fairlead-tests", "--bins"]))
}

/// Where `name` is built.
pub(crate) fn program(workspace: &Workspace, name: &str) -> PathBuf {
    workspace.target.join("release").join(name)
}

/// Runs one of them to its end.
pub(crate) fn run(command: &mut Command, output: Output) -> Result<()> {
    if output == Output::Json {
        command.args(["-o", "json"]);
    }
    let status = process::passed_through(command)?;
    if !status.success() {
        bail!("{} ended with {}", process::shown(command), process::ending(status));
    }
    Ok(())
}
