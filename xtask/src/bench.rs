//! `cargo xtask bench`: what a packet costs, what a link carries, how long planning takes.

use std::process::Command;

use anyhow::Result;

use crate::handover;
use crate::output::Output;
use crate::workspace::Workspace;

/// Builds what the bench needs and runs it.
pub(crate) fn bench(workspace: &Workspace, quick: bool, output: Output) -> Result<()> {
    handover::build(workspace)?;
    let mut bench = Command::new(handover::program(workspace, "fairlead-bench"));
    bench.arg("--elf").arg(workspace.elves().join("bench.bpf.o"));
    if quick {
        bench.arg("--quick");
    }
    handover::run(&mut bench, output)
}
