//! What a developer of fairlead runs: `cargo xtask …`.
//!
//! Each command is a module; this file only parses the command line and turns results into exit codes:
//! 0 done, 1 failed, 2 wrong usage, 128 + signal when interrupted.

#![forbid(unsafe_code)]

mod ebpf;
mod interrupt;
mod process;
mod setup;
mod toolchain;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::interrupt::Interrupted;
use crate::workspace::Workspace;

/// Builds, sets up and tests fairlead.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show what this machine needs and has, and install what is missing
    #[command(after_help = "Example:\n  cargo xtask setup")]
    Setup,
    /// Build the BPF programs that the agent embeds
    #[command(after_help = "Example:\n  cargo xtask build-ebpf && cargo build --release")]
    BuildEbpf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match perform(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match error.downcast_ref::<Interrupted>() {
            Some(interrupted) => {
                eprintln!("{interrupted}");
                ExitCode::from(interrupted.exit_code())
            }
            None => {
                eprintln!("error: {error:#}");
                ExitCode::FAILURE
            }
        },
    }
}

fn perform(command: Command) -> Result<()> {
    interrupt::watch()?;
    let workspace = Workspace::locate()?;
    match command {
        Command::Setup => setup::setup(&workspace),
        Command::BuildEbpf => build_ebpf(&workspace),
    }
}

fn build_ebpf(workspace: &Workspace) -> Result<()> {
    let (compiler, linker) = setup::bpf_toolchain(workspace)?;
    for elf in ebpf::build(workspace, &compiler, &linker)? {
        let note = if elf.changed { "" } else { " (unchanged)" };
        println!("{}  {}{note}", elf.sha256, ebpf::short(&elf.file));
    }
    Ok(())
}
