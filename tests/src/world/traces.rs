//! What of a world is on the machine, and processes that hold one: for tests of how worlds end.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::footprint::{DATA, MARK, PINS, RUNS};
use super::process::own_program;

/// Everything that carries a world's id.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Traces {
    /// Namespaces, directories and pins, by their paths, sorted.
    pub files: Vec<String>,
    /// The command lines of its processes, sorted. The kernel shows none in the moment in which a program is loaded.
    pub programs: Vec<String>,
}

impl Traces {
    /// Of the world with this id.
    pub fn of(id: &str) -> Result<Self> {
        let mut traces = Self::default();
        for directory in ["/run/netns", RUNS, DATA, PINS] {
            let Ok(entries) = fs::read_dir(directory) else { continue };
            for entry in entries {
                let name = entry?.file_name().to_string_lossy().into_owned();
                if name == id || name.starts_with(&format!("{id}-")) {
                    traces.files.push(format!("{directory}/{name}"));
                }
            }
        }
        let mark = format!("{MARK}={id}");
        for entry in fs::read_dir("/proc")? {
            // Those that have ended meanwhile have neither.
            let read = |file| fs::read(entry.as_ref().ok()?.path().join(file)).ok();
            let line = read("cmdline").unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let environment = read("environ").unwrap_or_default();
            let is_marked = || environment.split(|&byte| byte == 0).any(|word| word == mark.as_bytes());
            if line.contains(&format!("{id}/")) || is_marked() {
                traces.programs.push(line);
            }
        }
        traces.files.sort();
        traces.programs.sort();
        Ok(traces)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A process of its own that holds a world, and whatever else it was told to.
#[derive(Debug)]
pub struct Holder {
    child: Child,
    id: String,
}

impl Holder {
    /// Starts `fairlead-held-world` with these words, and waits until what it holds is up.
    pub fn start(words: &[&str]) -> Result<Self> {
        let program = own_program("fairlead-held-world", "FAIRLEAD_HELD_WORLD")?;
        let mut child =
            Command::new(program).args(words).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let output = child.stdout.take().context("it has no output")?;
        let mut id = String::new();
        BufReader::new(output).read_line(&mut id)?;
        Ok(Self { child, id: id.trim().to_owned() })
    }

    /// The world's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Sends it signals: see [`interrupt`].
    pub fn interrupt(&self, signals: &[Signal]) -> Result<()> {
        interrupt(&self.child, signals)
    }

    /// Kills it (-9) and waits for its end.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.wait().map(drop)
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        Ok(self.child.wait()?)
    }
}

/// Sends a process signals, 10 ms apart.
pub fn interrupt(child: &Child, signals: &[Signal]) -> Result<()> {
    let pid = Pid::from_raw(child.id().try_into()?);
    for signal in signals {
        kill(pid, *signal)?;
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
