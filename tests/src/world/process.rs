//! Programs that run in a namespace, or beside this process: started, killed -9, started again; what they say goes to a file.
//!
//! Each has a process group of its own, so that Ctrl-C on a terminal reaches only the test or demo, which then
//! takes its world down in order.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::footprint;
use super::namespace::{Namespace, search_path};

/// A program. It is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    /// This process's own if there is none.
    namespace: Option<Namespace>,
    environment: Vec<(String, String)>,
    program: PathBuf,
    arguments: Mutex<Vec<String>>,
    log: PathBuf,
    /// `None` once it has been waited for.
    child: Mutex<Option<Child>>,
}

impl Process {
    /// Starts `program` inside `namespace`; its output is appended to the file `log`.
    pub fn start(
        name: &str,
        namespace: &Namespace,
        program: &Path,
        arguments: &[&str],
        log: &Path,
    ) -> Result<Self> {
        Self::start_marked(name, Some(namespace), &[], program, arguments, log)
    }

    /// The same with more in its environment. Where it is in no namespace of a world, [`footprint::MARK`] has to be in
    /// there.
    pub(crate) fn start_marked(
        name: &str,
        namespace: Option<&Namespace>,
        environment: &[(&str, &str)],
        program: &Path,
        arguments: &[&str],
        log: &Path,
    ) -> Result<Self> {
        let process = Self {
            name: name.to_owned(),
            namespace: namespace.cloned(),
            environment: environment
                .iter()
                .map(|&(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            program: program.to_owned(),
            arguments: Mutex::new(owned(arguments)),
            log: log.to_owned(),
            child: Mutex::new(None),
        };
        process.start_again()?;
        Ok(process)
    }

    /// Starts it again with the arguments it had, after it has ended.
    pub fn start_again(&self) -> Result<()> {
        let mut child = self.child();
        if let Some(running) = child.as_mut()
            && running.try_wait()?.is_none()
        {
            bail!("{} runs already", self.name);
        }
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&self.program);
        command.args(&*self.arguments()).env("PATH", search_path()).process_group(0);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut spawn = || {
            let _making = footprint::making();
            command.spawn().with_context(|| format!("start {}: {}", self.name, self.program.display()))
        };
        *child = Some(match &self.namespace {
            Some(namespace) => namespace.run(spawn)?,
            None => spawn()?,
        });
        Ok(())
    }

    /// Has other arguments from its next start on.
    pub fn replace_arguments(&self, arguments: &[&str]) {
        *self.arguments() = owned(arguments);
    }

    /// Its name in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        let mut child = self.child();
        let running = child.as_mut()?;
        matches!(running.try_wait(), Ok(None)).then(|| running.id())
    }

    /// Whether it has not ended.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.pid().is_some()
    }

    /// Kills it (-9) and waits until it is gone.
    pub fn kill(&self) -> Result<()> {
        if let Some(mut running) = self.child().take() {
            running.kill()?;
            running.wait()?;
        }
        Ok(())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.pid().with_context(|| format!("{} does not run", self.name))?;
        kill(Pid::from_raw(i32::try_from(pid)?), signal)?;
        Ok(())
    }

    /// Waits until it has ended by itself.
    pub fn wait(&self, within: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child().as_mut().context("it was waited for already")?.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                return Err(anyhow!("{} still runs after {within:?}", self.name));
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// All that it has said.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    fn arguments(&self) -> MutexGuard<'_, Vec<String>> {
        self.arguments.lock().expect("never poisoned: nothing panics under it")
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().expect("never poisoned: nothing panics under it")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(LINES_AFTER_PANIC)..];
            if !last.is_empty() {
                eprintln!("--- {} said last:\n{}", self.name, last.join("\n"));
            }
        }
        // Nobody is left to hear of it; the world's removal kills what this could not.
        let _ = self.kill();
    }
}

fn owned(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(|&argument| argument.to_owned()).collect()
}

/// Lines of each process that a failed test shows.
const LINES_AFTER_PANIC: usize = 15;

/// The path of a program of this workspace: from the environment, or beside the running one.
pub fn own_program(name: &str, variable: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Ok(path.into());
    }
    let running = std::env::current_exe()?;
    // Tests run in `deps`, one below the programs.
    for directory in running.ancestors().skip(1).take(2) {
        let path = directory.join(name);
        if path.is_file() {
            return Ok(path);
        }
    }
    bail!("{name} is not built: run `cargo build -p {}`, or set {variable}", package(name))
}

fn package(program: &str) -> &str {
    if program == "fairlead" { "fairlead" } else { "fairlead-tests" }
}
