//! `fairlead run`: the agent.

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::{Context, Result};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::output::NoAnswer;
use crate::app;
use crate::dataplane::Programs;

/// What is logged unless something else is asked for.
const LEVEL: &str = "info";

/// The form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum LogFormat {
    /// For people
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

/// How the agent is to run.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  fairlead run --config /etc/fairlead/fairlead.yaml --log-format json")]
pub(super) struct Arguments {
    /// At the end, detach the programs and remove all pins; without it, forwarding goes on
    #[arg(long)]
    detach: bool,
    /// Load the BPF programs of this ELF file instead of those built in
    #[arg(long, value_name = "ELF")]
    programs: Option<PathBuf>,
    /// What to log: off, error, warn, info, debug or trace, and TARGET=LEVEL: `info,fairlead::health=debug`
    #[arg(long, value_name = "LEVEL", env = "RUST_LOG", default_value = LEVEL, value_parser = levels)]
    log: String,
    /// The form of log lines; they go to standard error
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
    #[command(flatten)]
    answer: NoAnswer,
}

/// What `--log` can be. Without a level the filter would take a word for the name of a target, and log nothing else.
fn levels(text: &str) -> Result<String, String> {
    if text.is_empty() {
        // A variable of the environment that is empty is as good as none.
        return Ok(LEVEL.to_owned());
    }
    let is_level = |part: &str| part.parse::<LevelFilter>().is_ok();
    let holds = |part: &str| match part.rsplit_once('=') {
        Some((target, level)) => !target.is_empty() && is_level(level),
        None => !part.is_empty() && is_level(part),
    };
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    let message = match parts.iter().find(|part| !holds(part)) {
        Some(part) => format!("{part:?} is neither a level nor TARGET=LEVEL"),
        None => match EnvFilter::try_new(parts.join(",")) {
            Ok(_) => return Ok(parts.join(",")),
            Err(error) => error.to_string(),
        },
    };
    Err(format!(
        "{message} (RUST_LOG counts where --log isn't given). Levels are off, error, warn, info, debug and trace; \
         write one, or such as info,fairlead::health=debug"
    ))
}

/// Runs the agent until it is told to end.
pub(super) fn run(config: PathBuf, arguments: Arguments) -> Result<()> {
    log(&arguments)?;
    let options = app::Options {
        config,
        detach: arguments.detach,
        programs: arguments.programs.map_or(Programs::Embedded, Programs::File),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (version, pid) = (env!("CARGO_PKG_VERSION"), std::process::id());
    tracing::info!(version, pid, config = %options.config.display(), "fairlead starts");
    to_the_end(runtime, app::run(options))?;
    tracing::info!("fairlead has ended");
    Ok(())
}

/// Runs `agent` until it ends, well or not. What blocks on a disk or network then must not hold that up.
fn to_the_end<T>(runtime: tokio::runtime::Runtime, agent: impl Future<Output = T>) -> T {
    let outcome = runtime.block_on(agent);
    runtime.shutdown_background();
    outcome
}

fn log(arguments: &Arguments) -> Result<()> {
    let filter = EnvFilter::try_new(&arguments.log).context("--log")?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // It would say so on standard error, and panic where that is a terminal that hung up.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    match arguments.log_format {
        LogFormat::Text => subscriber.init(),
        LogFormat::Json => subscriber.json().flatten_event(true).init(),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_to_log_is_levels_and_targets_with_levels() {
        for good in ["info", "WARN", "off", "info,fairlead::health=debug"] {
            assert_eq!(levels(good).as_deref(), Ok(good));
        }
        assert_eq!(levels("warn, fairlead_ebpf=debug").as_deref(), Ok("warn,fairlead_ebpf=debug"));
        assert_eq!(levels("").as_deref(), Ok(LEVEL));
        for (bad, part) in [
            ("nonsense", "\"nonsense\""),
            ("info,fairlead", "\"fairlead\""),
            ("fairlead=loud", "\"fairlead=loud\""),
            ("=info", "\"=info\""),
            ("info,", "\"\""),
        ] {
            let refusal = levels(bad).unwrap_err();
            assert!(
                refusal.starts_with(&format!("{part} is neither a level nor TARGET=LEVEL (")),
                "{refusal}"
            );
            assert!(refusal.contains("off, error, warn, info, debug and trace"), "{refusal}");
        }
    }

    #[test]
    fn what_blocks_does_not_hold_up_the_end_after_an_error() {
        let (release, blocked) = mpsc::channel::<()>();
        let (end, ended) = mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let failing = async move {
                tokio::task::spawn_blocking(move || blocked.recv());
                Err::<(), _>("it can't start")
            };
            end.send(to_the_end(runtime, failing)).unwrap();
        });
        assert_eq!(ended.recv_timeout(Duration::from_secs(20)), Ok(Err("it can't start")));
        drop(release);
    }
}
