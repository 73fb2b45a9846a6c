//! The command line of what asks whether connections survive; `cargo xtask test survive` builds everything and runs it.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, ValueEnum, builder::PossibleValuesParser};
use fairlead_tests::survive::{self, Options};

/// Thousands of connections, and everything that must not break them.
#[derive(Debug, Parser)]
#[command(after_help = "Example: fairlead-survive --event endpoint_added --event ring_resized")]
struct Arguments {
    /// Only this event; can be given several times
    #[arg(long = "event", value_name = "NAME", value_parser = PossibleValuesParser::new(survive::names()))]
    events: Vec<String>,
    /// Connections of each protocol that are open before an event, at least
    #[arg(long, default_value_t = 1000)]
    connections: usize,
    /// Packets of each flood
    #[arg(long, default_value_t = 200_000)]
    flood: u64,
    /// Of the random mix; without it, another one each time
    #[arg(long)]
    seed: Option<u64>,
    /// For people, or one JSON document on standard output
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

fn main() -> Result<ExitCode> {
    let Arguments { events, connections, flood, seed, output } = Arguments::parse();
    let seed = seed.unwrap_or_else(|| u64::from(survive::clock::now().subsec_nanos()));
    let options = Options { events, connections, flood, seed, json: output == Output::Json };
    let kept = survive::run(&options)?;
    Ok(if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
