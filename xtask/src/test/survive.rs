//! `cargo xtask test survive`: whether connections survive what happens to the world.

use std::process::Command;

use anyhow::Result;

use super::Choice;
use crate::handover;
use crate::workspace::Workspace;

/// Packets of each flood, where nothing is to be left out.
const WHOLE_FLOOD: &str = "4000000";

/// Builds what it needs and runs it; standard output is the report's own.
pub(super) fn run(workspace: &Workspace, choice: &Choice<'_>) -> Result<()> {
    handover::build(workspace)?;
    let mut survive = Command::new(handover::program(workspace, "fairlead-survive"));
    survive.env("FAIRLEAD_BPF_ELF", workspace.elves().join("fairlead.bpf.o"));
    if choice.full {
        survive.args(["--flood", WHOLE_FLOOD]);
    }
    survive.args(choice.events.iter().flat_map(|event| ["--event", event]));
    handover::run(&mut survive, choice.output)
}
