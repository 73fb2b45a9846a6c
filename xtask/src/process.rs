//! Running other programs.
//!
//! In: a `Command`. Out: its exit status, its lines, or its whole output. Standard input is closed: nothing
//! here ever asks. Unless its output is wanted, a child's standard output goes to standard error, so that
//! xtask's own standard output stays one document. Must not decide what a failure means.

use std::env;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::interrupt;

/// Runs to the end, showing everything on standard error; an error if it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = status(command)?;
    if !status.success() {
        bail!("`{}` failed ({})", shown(command), ending(status));
    }
    Ok(())
}

/// Runs to the end, showing everything on standard error.
pub(crate) fn status(command: &mut Command) -> Result<ExitStatus> {
    command.stdin(Stdio::null()).stdout(io::stderr());
    wait_for(command)
}

fn wait_for(command: &mut Command) -> Result<ExitStatus> {
    let mut running = interrupt::spawn(command)?;
    let status = running.child.wait().context("can't wait for a child process")?;
    drop(running);
    interrupt::check()?;
    Ok(status)
}

/// Runs to the end, and what it writes to standard output is ours.
pub(crate) fn passed_through(command: &mut Command) -> Result<ExitStatus> {
    command.stdin(Stdio::null()).stdout(Stdio::inherit());
    wait_for(command)
}

/// Like [`status`], but gives up and ends the child after `limit`: then the answer is `None`.
pub(crate) fn status_within(command: &mut Command, limit: Duration) -> Result<Option<ExitStatus>> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut running = interrupt::spawn(command)?;
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = running.child.try_wait().context("can't wait for a child process")? {
            break Some(status);
        }
        if Instant::now() > deadline {
            running.kill();
            running.child.wait().context("can't wait for a child process")?;
            break None;
        }
        thread::sleep(Duration::from_millis(50));
    };
    drop(running);
    interrupt::check()?;
    Ok(status)
}

/// Runs to the end and hands over each line of its standard output as it comes.
pub(crate) fn lines(command: &mut Command, mut on_line: impl FnMut(&str)) -> Result<ExitStatus> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut running = interrupt::spawn(command)?;
    let stdout = running.child.stdout.take().expect("standard output is piped");
    let mut stdout = BufReader::new(stdout);
    let mut line = Vec::new();
    while stdout.read_until(b'\n', &mut line).context("can't read a child's output")? > 0 {
        on_line(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']));
        line.clear();
    }
    let status = running.child.wait().context("can't wait for a child process")?;
    drop(running);
    interrupt::check()?;
    Ok(status)
}

/// The standard output of a short, quiet program; `None` if it isn't there or fails.
pub(crate) fn probe(command: &mut Command) -> Result<Option<String>> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let Ok(mut running) = interrupt::spawn(command) else {
        interrupt::check()?;
        return Ok(None);
    };
    let mut text = String::new();
    let read = running.child.stdout.take().expect("standard output is piped").read_to_string(&mut text);
    let status = running.child.wait().context("can't wait for a child process")?;
    Ok((read.is_ok() && status.success()).then_some(text))
}

/// Where `program` is: in PATH, or where administrators' programs are, which isn't in every user's PATH.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let fixed = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(fixed).map(|folder| folder.join(program)).find(|file| is_executable(file))
}

/// The command as a person would type it.
pub(crate) fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = [program].into_iter().chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// How a process ended, in words.
pub(crate) fn ending(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_one_by_one() {
        let mut seen = Vec::new();
        let status = lines(Command::new("sh").args(["-c", "echo a; printf b; exit 3"]), |line| {
            seen.push(line.to_owned());
        })
        .unwrap();
        assert_eq!(seen, ["a", "b"]);
        assert_eq!(ending(status), "exit code 3");
    }

    #[test]
    fn a_program_that_hangs_is_ended() {
        let start = Instant::now();
        let status = status_within(Command::new("sleep").arg("60"), Duration::from_millis(100)).unwrap();
        assert!(status.is_none());
        assert!(start.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_program_that_is_not_there_is_no_error_to_a_probe() {
        assert_eq!(probe(&mut Command::new("fairlead-no-such-program")).unwrap(), None);
        assert_eq!(probe(&mut Command::new("false")).unwrap(), None);
        assert_eq!(probe(Command::new("echo").arg("x")).unwrap().as_deref(), Some("x\n"));
    }

    #[test]
    fn commands_are_shown_as_typed() {
        assert_eq!(shown(Command::new("/usr/bin/cargo").args(["fmt", "--all"])), "cargo fmt --all");
    }
}
