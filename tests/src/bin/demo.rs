//! The demo's command line; `cargo xtask demo` builds everything and runs it.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use fairlead_tests::demo::{self, Options};

/// One VIP, three regions, nine clusters: watch connections being steered while things are taken away.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true, after_help = "Example: fairlead-demo --keep")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Leave the world running, and say what to try in it
    #[arg(long)]
    keep: bool,
    /// For people, or one JSON document on standard output
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Remove the worlds that --keep left running, and those of demos that were killed
    Down,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

fn main() -> ExitCode {
    match perform(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // Without the backtrace that `main` would print, of frames that say nothing to who watches.
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// False if a promise was broken.
fn perform(arguments: &Arguments) -> Result<bool> {
    if matches!(arguments.command, Some(Command::Down)) {
        println!("{}", demo::down()?);
        return Ok(true);
    }
    demo::run(&Options { keep: arguments.keep, json: arguments.output == Output::Json })
}
