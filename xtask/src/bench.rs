//! `cargo xtask bench`: what a packet costs, what a link carries, how long planning takes.
//!
//! In: how to measure and to show it. It sets up and builds, then hands over to the bench itself, which stands in the
//! crate of the tests.

use anyhow::{Result, bail};

use crate::output::Output;
use crate::setup::Purpose;
use crate::workspace::Workspace;
use crate::{ebpf, process, setup};

/// Builds what the bench needs and runs it.
pub(crate) fn bench(workspace: &Workspace, quick: bool, output: Output) -> Result<()> {
    let facts = setup::ensure(workspace, &[Purpose::Bpf, Purpose::World])?;
    ebpf::build_and_tell(workspace, &setup::fitting(&facts)?, output)?;
    let mut build = workspace.cargo();
    process::run(build.args(["build", "--release", "-p", "fairlead", "-p", "fairlead-tests", "--bins"]))?;
    let mut bench = std::process::Command::new(workspace.target.join("release/fairlead-bench"));
    bench.arg("--elf").arg(workspace.elves().join("bench.bpf.o"));
    if quick {
        bench.arg("--quick");
    }
    if output == Output::Json {
        bench.args(["-o", "json"]);
    }
    let status = process::lines(&mut bench, |line| println!("{line}"))?;
    if !status.success() {
        bail!("the bench ended with {}", process::ending(status));
    }
    Ok(())
}
