//! `cargo xtask demo`: what fairlead does, watched live.
//!
//! In: how to show it. It sets up and builds, then hands over to the demo itself, which stands in the crate of the
//! tests beside the world that it plays in.

use anyhow::{Result, bail};
use clap::Subcommand;

use crate::output::Output;
use crate::setup::Purpose;
use crate::workspace::Workspace;
use crate::{ebpf, process, setup};

/// What to do instead of the story.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub(crate) enum Action {
    /// Remove what `--keep` left running
    Down,
}

/// Builds what the demo needs and runs it.
pub(crate) fn demo(workspace: &Workspace, action: Option<Action>, keep: bool, output: Output) -> Result<()> {
    let facts = setup::ensure(workspace, &[Purpose::Bpf, Purpose::World])?;
    ebpf::build_and_tell(workspace, &setup::fitting(&facts)?, output)?;
    let mut build = workspace.cargo();
    process::run(build.args(["build", "--release", "-p", "fairlead", "-p", "fairlead-tests", "--bins"]))?;
    let mut demo = std::process::Command::new(workspace.target.join("release/fairlead-demo"));
    demo.env("FAIRLEAD_BPF_ELF", workspace.elves().join("fairlead.bpf.o"));
    if action == Some(Action::Down) {
        demo.arg("down");
    }
    if keep {
        demo.arg("--keep");
    }
    if output == Output::Json {
        demo.args(["-o", "json"]);
    }
    let status = process::status(&mut demo)?;
    if !status.success() {
        bail!("the demo ended with {}", process::ending(status));
    }
    Ok(())
}
