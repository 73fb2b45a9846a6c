//! What a developer of fairlead runs: `cargo xtask …`.
//!
//! Each command is a module; this file only parses the command line and turns results into exit codes:
//! 0 done, 1 failed, 2 wrong usage, 128 + signal when interrupted.

#![forbid(unsafe_code)]

mod bench;
mod demo;
mod ebpf;
mod go;
mod handover;
mod interrupt;
mod output;
mod process;
mod setup;
mod test;
mod testplane;
mod toolchain;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::handover::HasTold;
use crate::interrupt::Interrupted;
use crate::output::Output;
use crate::setup::Purpose;
use crate::test::{Choice, Part};
use crate::workspace::Workspace;

/// Builds, sets up and tests fairlead.
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    arg_required_else_help = true,
    after_help = "Examples:\n  cargo xtask demo\n  cargo xtask test core\n\nEach command's own --help has one, too."
)]
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
    /// Watch connections to one VIP being steered while pods, clusters, a region and the agents are taken away
    #[command(
        // Else `demo --keep down` would keep nothing, and say nothing of it.
        args_conflicts_with_subcommands = true,
        after_help = "Examples:\n  cargo xtask demo\n  cargo xtask demo --keep\n  cargo xtask demo down\n  \
                            cargo xtask demo -o json | jq '.events[].recovery_ms'"
    )]
    Demo {
        /// Something else than the story
        #[command(subcommand)]
        action: Option<demo::Action>,
        /// Leave the world running, and say what to try in it
        #[arg(long)]
        keep: bool,
        /// Form of standard output
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Measure what a packet costs, what a link carries, how long planning takes
    #[command(after_help = "Examples:\n  cargo xtask bench\n  cargo xtask bench --quick -o json | jq .live")]
    Bench {
        /// Every combination, each for a shorter time
        #[arg(long)]
        quick: bool,
        /// Form of standard output
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Check everything, or run the tests of one part
    #[command(after_help = "Examples:\n  cargo xtask test\n  cargo xtask test world --full\n  \
                            cargo xtask test core -o json | jq .failed\n  \
                            cargo xtask test survive --event gateway_killed\n  \
                            cargo xtask test survive -o json | jq '.rows[] | select(.broken > .endpoint_died)'")]
    Test {
        /// Only the tests of this part; without it, also format, lints, documentation and licences
        part: Option<Part>,
        /// Of survive: only this event; can be given several times
        #[arg(long = "event", value_name = "NAME")]
        events: Vec<String>,
        /// Also what takes too long for CI; without it, the summary says what was left out
        #[arg(long)]
        full: bool,
        /// Form of standard output
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match perform(&arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ExitCode::from(told(&error)),
    }
}

/// Says what went wrong, where nobody has yet; the exit code.
fn told(error: &anyhow::Error) -> u8 {
    if let Some(HasTold(code)) = error.downcast_ref() {
        return *code;
    }
    if let Some(interrupted) = error.downcast_ref::<Interrupted>() {
        eprintln!("{interrupted}");
        return interrupted.exit_code();
    }
    eprintln!("error: {error:#}");
    1
}

fn perform(command: &Command) -> Result<()> {
    interrupt::watch()?;
    let workspace = Workspace::locate()?;
    match *command {
        Command::Setup => setup::setup(&workspace),
        Command::BuildEbpf => {
            let facts = setup::ensure(&workspace, &[Purpose::Bpf])?;
            ebpf::build_and_tell(&workspace, &setup::fitting(&facts)?, Output::Text)
        }
        Command::Demo { action, keep, output } => demo::demo(&workspace, action, keep, output),
        Command::Bench { quick, output } => bench::bench(&workspace, quick, output),
        Command::Test { part, ref events, full, output } => {
            test::test(&workspace, Choice { part, events, full, output })
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;

    #[test]
    fn every_command_has_help_with_an_example() {
        fn check(command: &clap::Command) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.starts_with("Example"), "{} has no example: {help}", command.get_name());
            command.get_subcommands().for_each(check);
        }
        let xtask = Arguments::command();
        xtask.clone().debug_assert();
        check(&xtask);
    }

    #[test]
    fn nothing_is_kept_of_what_is_taken_down() {
        let parsed =
            |words: &str| Arguments::try_parse_from(words.split(' ')).map(|arguments| arguments.command);
        let refused = parsed("xtask demo --keep down").err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::ArgumentConflict, "{refused}");
        assert!(refused.to_string().contains("--keep"), "{refused}");
        let down =
            |command: &Command| matches!(command, Command::Demo { action: Some(demo::Action::Down), .. });
        assert!(down(&parsed("xtask demo down").unwrap()));
        let kept = |command: &Command| matches!(command, Command::Demo { action: None, keep: true, .. });
        assert!(kept(&parsed("xtask demo --keep").unwrap()));
    }
}
