//! `cargo xtask demo`: what fairlead does, watched live.

use std::process::Command;

use anyhow::Result;
use clap::Subcommand;

use crate::handover;
use crate::output::Output;
use crate::workspace::Workspace;

/// What to do instead of the story.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub(crate) enum Action {
    /// Remove what `--keep` left running, and what a demo left that was killed
    #[command(after_help = "Example:\n  cargo xtask demo down")]
    Down,
}

/// Builds what the demo needs and runs it, or cleans up after one that was kept.
pub(crate) fn demo(workspace: &Workspace, action: Option<Action>, keep: bool, output: Output) -> Result<()> {
    let program = handover::program(workspace, "fairlead-demo");
    let mut demo = Command::new(&program);
    if action == Some(Action::Down) {
        // What has left something running is built.
        if !program.is_file() {
            handover::build(workspace)?;
        }
        return handover::run(demo.arg("down"), Output::Text);
    }
    handover::build(workspace)?;
    demo.env("FAIRLEAD_BPF_ELF", workspace.elves().join("fairlead.bpf.o"));
    if keep {
        demo.arg("--keep");
    }
    handover::run(&mut demo, output)
}
