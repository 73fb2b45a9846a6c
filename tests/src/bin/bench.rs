//! The bench's command line; `cargo xtask bench` builds everything and runs it.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use fairlead_tests::bench::{self, Options};

/// What a packet costs, what a link carries, how long planning takes.
#[derive(Debug, Parser)]
#[command(
    after_help = "Example: fairlead-bench --elf target/bpf/bench.bpf.o --quick",
    args_conflicts_with_subcommands = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The BPF programs with their wrappers
    #[arg(long, default_value = "target/bpf/bench.bpf.o")]
    elf: PathBuf,
    /// Every combination, each for a shorter time
    #[arg(long)]
    quick: bool,
    /// Only one part
    #[arg(long, value_enum)]
    part: Option<Part>,
    /// Only this case; can be given several times
    #[arg(long = "case", value_name = "NAME")]
    cases: Vec<String>,
    /// Only tables of so many services
    #[arg(long)]
    services: Option<u32>,
    /// For people, or one JSON document on standard output
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The process whose planning and memory are measured
    #[command(hide = true)]
    Control { id: String, services: u32, changes: u32, elf: PathBuf },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Packets,
    Connections,
    Live,
    Control,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

fn main() -> ExitCode {
    match perform(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        // Without the backtrace that `main` would print, of frames that say nothing to who waits for numbers.
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(arguments: Arguments) -> Result<()> {
    if let Some(Command::Control { id, services, changes, elf }) = arguments.command {
        return bench::run_control(&id, &elf, services, changes);
    }
    bench::run(&Options {
        elf: arguments.elf,
        quick: arguments.quick,
        json: arguments.output == Output::Json,
        cases: arguments.cases,
        services: arguments.services,
        part: arguments.part.map(|part| match part {
            Part::Packets => bench::Part::Packets,
            Part::Connections => bench::Part::Connections,
            Part::Live => bench::Part::Live,
            Part::Control => bench::Part::Control,
        }),
    })
}
