//! The `fairlead` command.
//!
//! `run` is the agent. `drain` writes to the clusters. Every other command reads: numbers from the pinned maps,
//! names and reasons from what the agent last wrote to its state directory. They need no running agent and change nothing.
//! Exit codes: 0 done, 1 failed, 2 wrong usage.

mod accept;
mod address;
mod clusters;
mod config;
mod counters;
mod drain;
mod explain;
mod flows;
mod lock;
mod node;
mod output;
mod pause;
mod picture;
mod plan;
mod row;
mod run;
#[cfg(test)]
mod sample;
mod services;
mod status;
mod table;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;

use node::Node;
use output::{Format, NoAnswer, Output};

/// Where the configuration is looked for.
const CONFIG: &str = "/etc/fairlead/fairlead.yaml";

/// One IP address for a service that runs in many Kubernetes clusters
#[derive(Debug, Parser)]
#[command(name = "fairlead", version, propagate_version = true, max_term_width = 110)]
#[command(
    after_help = "Example:\n  fairlead explain 192.0.2.7:43210 203.0.113.10:80\n\nEach command's own --help has one, too."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// The configuration of this node's agent
    #[arg(long, global = true, value_name = "FILE", env = "FAIRLEAD_CONFIG", default_value = CONFIG)]
    config: PathBuf,
    /// The form of the answer
    #[arg(short, long, global = true, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent: steer this node's packets until SIGTERM
    Run(run::Arguments),
    /// Judge a configuration file, or show what it can hold
    #[command(
        subcommand,
        after_help = "Examples:\n  fairlead config check deploy/config.example.yaml\n  fairlead config schema > fairlead.schema.json"
    )]
    Config(config::Command),
    /// How this node is: agent, interfaces, clusters, maps, problems
    #[command(after_help = "Example:\n  fairlead status")]
    Status,
    /// The clusters' sources: whether they can be read, how old what is known is, what failed last
    #[command(
        after_help = "Example:\n  fairlead clusters -o json | jq '.clusters[] | select(.reachable | not)'"
    )]
    Clusters,
    /// The ports of all VIPs, and which clusters serve them
    #[command(after_help = "Example:\n  fairlead services -o json | jq '.services[] | select(.taking == 0)'")]
    Services,
    /// The endpoints of services: weight, slots, counters, and why one isn't taken
    #[command(after_help = "Example:\n  fairlead backends shop/web")]
    Backends {
        /// Only of this service: a name, namespace/name, VIP, or VIP:PORT with /tcp or /udp if need be
        service: Option<address::Named>,
    },
    /// Where a connection goes, and why not elsewhere
    #[command(after_help = "Examples:\n  fairlead explain 192.0.2.7:43210 203.0.113.10:80\n  \
        fairlead explain 192.0.2.7 203.0.113.10          (all ports of the client; the VIP's only port)\n  \
        fairlead explain '[2001:db8::7]:5353' '[2001:db8:a::10]:53/udp'")]
    Explain {
        /// The client: an address, and its port if it is known
        #[arg(value_name = "CLIENT[:PORT]")]
        client: address::Client,
        /// The VIP: an address, its port unless it has only one, and /udp if it isn't TCP
        #[arg(value_name = "VIP[:PORT][/udp]")]
        vip: address::Vip,
    },
    /// What an agent that started now would change in the maps
    #[command(after_help = "Example:\n  fairlead plan --config new.yaml")]
    Plan,
    /// Connections that their slots don't lead to: slots with former backends, what became of packets, who holds how many
    #[command(after_help = "Example:\n  fairlead flows shop/web")]
    Flows {
        /// Only of this service: a name, namespace/name, VIP, or VIP:PORT with /tcp or /udp if need be
        service: Option<address::Named>,
    },
    /// Let a pod, node, cluster or zone take no new connections; it keeps those that it has
    #[command(
        after_help = "Examples:\n  fairlead drain node node-7 --wait\n  fairlead drain pod eu-b/shop/web-1\n  \
        fairlead drain zone europe-west1-b --undo"
    )]
    Drain(drain::Arguments),
    /// Let go what is held of a cluster on this node, because its source suddenly shows next to nothing
    #[command(after_help = "Example:\n  fairlead accept-withdrawal eu-b")]
    AcceptWithdrawal {
        /// The cluster
        cluster: String,
    },
    /// What was forwarded and what was dropped
    #[command(after_help = "Example:\n  fairlead counters --watch")]
    Counters {
        /// Every second, with rates, until Ctrl-C; with -o json a line each
        #[arg(short, long)]
        watch: bool,
        /// Also reasons that dropped nothing
        #[arg(short, long)]
        all: bool,
    },
    /// A script that completes this command in a shell
    #[command(after_help = "Example:\n  fairlead completion bash > /etc/bash_completion.d/fairlead")]
    Completion {
        /// The shell
        shell: Shell,
        #[command(flatten)]
        answer: NoAnswer,
    },
}

/// The whole command; `fairlead`'s main function.
#[must_use]
pub fn main() -> ExitCode {
    match execute(parse(std::env::args_os()).unwrap_or_else(|error| error.exit())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if output::is_closed(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::warn(&told(&error));
            ExitCode::FAILURE
        }
    }
}

/// The command line, where it can be done as it stands: a form is refused where there is no answer that could have it.
fn parse(arguments: impl IntoIterator<Item: Into<OsString> + Clone>) -> Result<Cli, clap::Error> {
    let mut command = Cli::command();
    let matches = command.try_get_matches_from_mut(arguments)?;
    let cli = Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
    let is_given = |matches: &ArgMatches| {
        matches.value_source("output").is_some_and(|from| from == ValueSource::CommandLine)
    };
    let why = match &cli.command {
        Command::Run(_) => "`run` answers nothing; --log-format is the form of its log",
        Command::Completion { .. } => "a script has only one form",
        _ => return Ok(cli),
    };
    if is_given(&matches) || matches.subcommand().is_some_and(|(_, matches)| is_given(matches)) {
        let message = format!("--output can't be given here: {why}");
        return Err(command.error(ErrorKind::ArgumentConflict, message));
    }
    Ok(cli)
}

/// An error with its causes; many errors name theirs themselves.
fn told(error: &anyhow::Error) -> String {
    error.chain().skip(1).map(ToString::to_string).fold(error.to_string(), |text, cause| {
        if text.contains(&cause) { text } else { format!("{text}: {cause}") }
    })
}

fn execute(cli: Cli) -> Result<()> {
    let output = Output::new(cli.output);
    let read = || Node::read(&cli.config);
    let node = || {
        let node = read()?;
        // Those who only need to know whose maps and state are meant go on.
        if let Some(invalid) = node.invalid() {
            output::warn(&invalid);
        }
        Ok::<_, node::Error>(node)
    };
    match cli.command {
        Command::Run(arguments) => run::run(cli.config, arguments),
        Command::Config(command) => config::config(&command, &cli.config, output),
        Command::Status => status::status(&read()?, output),
        Command::Clusters => clusters::clusters(&node()?, output),
        Command::Services => services::services(&node()?, output),
        Command::Backends { service } => services::backends(&node()?, service.as_ref(), output),
        Command::Explain { client, vip } => explain::explain(&node()?, client, vip, output),
        Command::Flows { service } => flows::flows(&node()?, service.as_ref(), output),
        Command::Drain(arguments) => drain::drain(node()?, &arguments, output),
        Command::AcceptWithdrawal { cluster } => accept::accept_withdrawal(&node()?, &cluster, output),
        Command::Plan => plan::plan(&read()?, output),
        Command::Counters { watch, all } => counters::counters(&mut node()?, all, watch, output),
        Command::Completion { shell, .. } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "fairlead", &mut script);
            Ok(output::print(&String::from_utf8(script)?)?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_help_with_an_example() {
        let check = |command: &clap::Command| {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.starts_with("Example"), "{} has no example: {help}", command.get_name());
            assert!(command.get_about().is_some(), "{} says nothing", command.get_name());
        };
        let cli = Cli::command();
        check(&cli);
        for command in cli.get_subcommands() {
            check(command);
            command.get_subcommands().for_each(check);
        }
    }

    #[test]
    fn where_nothing_is_answered_there_is_no_form_of_an_answer() {
        let mut cli = Cli::command();
        cli.build();
        let help = |name| cli.clone().find_subcommand_mut(name).unwrap().render_long_help().to_string();
        for name in ["run", "completion"] {
            assert!(!help(name).contains("--output"), "{}", help(name));
            assert!(help(name).contains("--config"));
        }
        assert!(help("status").contains("--output"));
        for line in [
            "run -o json",
            "run --output=table",
            "-o json run",
            "completion bash -o json",
            "completion -o json bash",
            "-o json completion bash",
        ] {
            let error = parse(["fairlead"].into_iter().chain(line.split(' '))).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains("--output can't be given here"), "{line}: {error}");
        }
        for line in ["run", "completion bash", "-o json status", "status -o json"] {
            assert!(parse(["fairlead"].into_iter().chain(line.split(' '))).is_ok(), "{line}");
        }
    }

    #[test]
    fn global_options_may_stand_behind_the_command() {
        let cli = Cli::try_parse_from([
            "fairlead",
            "explain",
            "192.0.2.7:1",
            "[2001:db8::1]:53/udp",
            "--config",
            "x.yaml",
            "-o",
            "json",
        ])
        .unwrap();
        assert_eq!((cli.config, cli.output), (PathBuf::from("x.yaml"), Format::Json));
        let Command::Explain { client, vip } = cli.command else { panic!("not explain") };
        assert_eq!((client.port, vip.port), (Some(1), Some(53)));
    }

    #[test]
    fn a_cause_is_told_once() {
        use anyhow::Context;
        let refused = || std::io::Error::other("refused");
        let with_cause = crate::app::Error::System { what: "listening".to_owned(), source: refused() };
        assert_eq!(told(&with_cause.into()), "listening: refused");
        let wrapped: Result<()> = Err(refused()).context("reading the list");
        assert_eq!(told(&wrapped.unwrap_err()), "reading the list: refused");
    }

    #[test]
    fn wrong_usage_is_told_apart() {
        for arguments in [
            vec!["fairlead"],
            vec!["fairlead", "explain", "x", "y"],
            vec!["fairlead", "flows", ""],
            vec!["fairlead", "backends", "203.0.113.10:65536"],
            vec!["fairlead", "services", "-o", "xml"],
            vec!["fairlead", "run", "--log", "nonsense"],
        ] {
            let error = Cli::try_parse_from(&arguments).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{arguments:?}");
        }
    }
}
