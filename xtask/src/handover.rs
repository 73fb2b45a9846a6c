//! The demo and the bench stand in the crate of the tests: here they are built and run.
//!
//! In: which of them, and its arguments. Its standard output is xtask's own, and with `-o json` one document; what setup
//! and cargo say goes to standard error.

use std::fmt;
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

/// A program failed and has told why itself; `main` turns this into the same exit code.
#[derive(Debug)]
pub(crate) struct HasTold(pub(crate) u8);

impl fmt::Display for HasTold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a program ended with exit code {}", self.0)
    }
}

impl std::error::Error for HasTold {}

/// Runs one of them to its end.
pub(crate) fn run(command: &mut Command, output: Output) -> Result<()> {
    if output == Output::Json {
        command.args(["-o", "json"]);
    }
    let status = process::passed_through(command)?;
    match status.code() {
        Some(0) => Ok(()),
        Some(code) => bail!(HasTold(u8::try_from(code).unwrap_or(u8::MAX))),
        // Nobody has told yet that a signal ended it.
        None => bail!("{} ended with {}", process::shown(command), process::ending(status)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_fails_speaks_for_himself() {
        let ended = |script: &str| run(Command::new("sh").args(["-c", script]), Output::Text);
        assert!(ended("exit 0").is_ok());
        assert_eq!(ended("exit 3").unwrap_err().downcast::<HasTold>().unwrap().0, 3);
        let killed = ended("kill -9 $$").unwrap_err();
        assert!(killed.to_string().contains("signal"), "{killed}");
        assert!(killed.downcast_ref::<HasTold>().is_none());
    }
}
