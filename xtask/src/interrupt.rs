//! Ctrl-C, SIGTERM and SIGHUP, and the processes that they must take along.
//!
//! In: signals to xtask. Out: the same signal to the process group of every running child, and the fact
//! that one came, so that the command ends with 128 + signal. Further signals change nothing: a child that takes down
//! what it made must not be cut short by an impatient second Ctrl-C. One that doesn't end within a grace period is
//! answered with SIGKILL. Must not start or wait for children itself.

use std::fmt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// How long children may take to clean up behind themselves.
const GRACE: Duration = Duration::from_secs(15);

/// The first signal that came, or 0.
static CAUGHT: AtomicI32 = AtomicI32::new(0);

/// The process groups of the children that run now. Spawning holds the lock, so a signal finds either
/// the child in the list or no child.
static GROUPS: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// The command was ended by a signal; `main` turns this into the exit code.
#[derive(Debug)]
pub(crate) struct Interrupted(i32);

impl Interrupted {
    /// What a shell shows for a process that this signal ended.
    pub(crate) fn exit_code(&self) -> u8 {
        u8::try_from(128 + self.0).unwrap_or(u8::MAX)
    }
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "interrupted by signal {}", self.0)
    }
}

impl std::error::Error for Interrupted {}

/// From here on signals are forwarded instead of ending xtask at once.
pub(crate) fn watch() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("can't handle signals")?;
    thread::spawn(move || {
        for signal in signals.forever() {
            if CAUGHT.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst).is_err() {
                eprintln!("still taking down what was made; this ends within {} s", GRACE.as_secs());
                continue;
            }
            tell_all(Signal::try_from(signal).unwrap_or(Signal::SIGTERM));
            thread::spawn(|| {
                thread::sleep(GRACE);
                tell_all(Signal::SIGKILL);
            });
        }
    });
    Ok(())
}

/// An error if a signal has come: long work between children asks this.
pub(crate) fn check() -> Result<(), Interrupted> {
    match CAUGHT.load(Ordering::SeqCst) {
        0 => Ok(()),
        signal => Err(Interrupted(signal)),
    }
}

/// Starts `command` in a process group of its own, which signals reach as a whole: cargo's tests and
/// their servers too, not only cargo.
pub(crate) fn spawn(command: &mut Command) -> Result<Running> {
    let mut groups = groups();
    check()?;
    let child = command.process_group(0).spawn().with_context(|| {
        format!("can't start `{}`: is it installed and in PATH?", command.get_program().to_string_lossy())
    })?;
    let group = Pid::from_raw(child.id().try_into().context("a process id of 2^31 or more")?);
    groups.push(group);
    Ok(Running { child, group })
}

/// A child whose group is signalled when xtask is.
pub(crate) struct Running {
    /// The process itself.
    pub(crate) child: Child,
    group: Pid,
}

impl Running {
    /// Ends the child's whole group at once.
    pub(crate) fn kill(&self) {
        // An error means that the group is gone already, which is what is wanted.
        let _gone = killpg(self.group, Signal::SIGKILL);
    }
}

impl Drop for Running {
    /// After a signal, waits for grandchildren that still clean up; then forgets the group.
    fn drop(&mut self) {
        if check().is_err() {
            let deadline = Instant::now() + GRACE;
            while killpg(self.group, None).is_ok() {
                if Instant::now() > deadline {
                    self.kill();
                    break;
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
        groups().retain(|group| *group != self.group);
    }
}

fn tell_all(signal: Signal) {
    for group in groups().iter() {
        // An error means that the group is gone already.
        let _gone = killpg(*group, signal);
    }
}

fn groups() -> MutexGuard<'static, Vec<Pid>> {
    // The list is valid at every point where a holder could panic.
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::process::exit;
    use std::{env, fs};

    use nix::sys::signal::kill;

    use super::*;
    use crate::process;

    #[test]
    fn exit_codes_are_a_shells() {
        assert_eq!(Interrupted(SIGINT).exit_code(), 130);
        assert_eq!(Interrupted(SIGTERM).exit_code(), 143);
    }

    /// Set where the test below is started by itself, as the process that gets the signals.
    const PLAYED: &str = "FAIRLEAD_XTASK_INTERRUPTED";

    #[test]
    fn further_signals_do_not_cut_a_child_short() {
        if let Some(file) = env::var_os(PLAYED) {
            watch().unwrap();
            // Its cleaning up takes a while.
            let script = "trap 'sleep 0.5; echo cleaned > \"$0\"; exit 130' INT
                echo ready > \"$0\"
                while :; do sleep 0.05; done";
            let error =
                process::passed_through(Command::new("sh").args(["-c", script]).arg(file)).unwrap_err();
            exit(error.downcast::<Interrupted>().unwrap().exit_code().into());
        }
        let file = env::temp_dir().join(format!("fairlead-interrupted-{}", std::process::id()));
        let said = || fs::read_to_string(&file).unwrap_or_default();
        let mut xtask = Command::new(env::current_exe().unwrap())
            .args(["--exact", "interrupt::tests::further_signals_do_not_cut_a_child_short", "--nocapture"])
            .env(PLAYED, &file)
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while said() != "ready\n" && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        for signal in [Signal::SIGINT, Signal::SIGINT, Signal::SIGTERM] {
            kill(Pid::from_raw(xtask.id().try_into().unwrap()), signal).unwrap();
            thread::sleep(Duration::from_millis(10));
        }
        let status = xtask.wait().unwrap();
        let last = said();
        let _ = fs::remove_file(&file);
        assert_eq!((status.code(), last.as_str()), (Some(130), "cleaned\n"));
    }
}
