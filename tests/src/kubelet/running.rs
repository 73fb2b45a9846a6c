//! A container's process: started in namespaces of its own, signalled, joined by commands, waited for.
//!
//! In: a command line, its environment and what it sees where. Out: how it ended. It has a mount namespace, whose root is this
//! machine's below a layer in memory, and mostly a PID namespace, so that all of its processes end with the first
//! one, as in a real container. All of it goes when its handle is dropped.

use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use anyhow::{Context, Result};
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::stat::Mode;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, chdir, chroot, fchdir};
use tokio::sync::oneshot;

use crate::world::{Namespace, making, search_path};

/// What shall run, and where.
#[derive(Clone, Debug)]
pub(super) struct Program {
    /// The program and its arguments.
    pub(super) line: Vec<String>,
    pub(super) environment: Vec<(String, String)>,
    /// Inside; `/` if empty.
    pub(super) working_directory: String,
    /// In this order.
    pub(super) mounts: Vec<Mount>,
    pub(super) namespace: Namespace,
    /// Whether it sees this machine's processes.
    pub(super) host_pids: bool,
    /// Its output is appended to it.
    pub(super) log: PathBuf,
    /// An empty directory, which becomes its root in its mount namespace alone.
    pub(super) root: PathBuf,
}

/// A file or directory of this machine that the container sees at a place of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) source: PathBuf,
    pub(super) target: PathBuf,
    pub(super) read_only: bool,
}

/// A container that runs, or has run. It is killed when this is dropped.
#[derive(Debug)]
pub(super) struct Running {
    process: Arc<Mutex<Option<Pid>>>,
    ended: oneshot::Receiver<ExitStatus>,
}

/// How to reach a container that somebody else waits for.
#[derive(Clone, Debug)]
pub(super) struct Reach {
    process: Arc<Mutex<Option<Pid>>>,
    namespace: Namespace,
    environment: Vec<(String, String)>,
}

impl Running {
    /// Starts it.
    ///
    /// # Errors
    /// A mount or a program that can't be.
    pub(super) async fn start(program: Program) -> Result<Self> {
        let (tell_started, started) = oneshot::channel();
        let (tell_ended, ended) = oneshot::channel();
        let process = Arc::new(Mutex::new(None));
        let known = Arc::clone(&process);
        thread::spawn(move || {
            let namespace = program.namespace.clone();
            // The thread keeps what it has mounted for as long as the process lives, and takes it along.
            let lived = namespace.run(|| {
                let pid = match spawn(&program) {
                    Ok(pid) => pid,
                    Err(error) => {
                        let _nobody_listens = tell_started.send(Err(error));
                        return Ok(None);
                    }
                };
                *lock(&known) = Some(pid);
                let _nobody_listens = tell_started.send(Ok(()));
                Ok(Some(wait(pid, &known)?))
            });
            if let Ok(Some(status)) = lived {
                let _nobody_listens = tell_ended.send(status);
            }
        });
        let running = Self { process, ended };
        started.await.context("its thread has ended")??;
        Ok(running)
    }

    /// Waits until it has ended. May be cancelled; only the first answer is one.
    pub(super) async fn ended(&mut self) -> Option<ExitStatus> {
        (&mut self.ended).await.ok()
    }

    /// Sends a signal to its first process; the others are that one's affair.
    pub(super) fn signal(&self, signal: Signal) {
        if let Some(pid) = *lock(&self.process) {
            // It may have ended in this moment, and is waited for after the lock.
            let _ = kill(pid, signal);
        }
    }

    pub(super) fn reach(&self, program: &Program) -> Reach {
        Reach {
            process: Arc::clone(&self.process),
            namespace: program.namespace.clone(),
            environment: program.environment.clone(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

impl Reach {
    /// Runs a command inside to its end; blocks. It is killed with the container, not earlier.
    ///
    /// # Errors
    /// No such command; a container that has ended.
    pub(super) fn execute(&self, line: &[String]) -> Result<ExitStatus> {
        let pid = (*lock(&self.process)).context("the container has ended")?;
        self.namespace.run(|| {
            let open_ns = |kind: &str| File::open(format!("/proc/{pid}/ns/{kind}"));
            let (mounts, pids) = (open_ns("mnt")?, open_ns("pid")?);
            let root = open(&PathBuf::from(format!("/proc/{pid}/root")), OFlag::O_DIRECTORY, Mode::empty())?;
            unshare(CloneFlags::CLONE_FS)?;
            setns(mounts, CloneFlags::CLONE_NEWNS).context("enter the container's mounts")?;
            fchdir(&root)?;
            chroot(".")?;
            setns(pids, CloneFlags::CLONE_NEWPID).context("enter the container's processes")?;
            let (program, arguments) = line.split_first().context("the command is empty")?;
            let mut command = Command::new(program);
            command.args(arguments).env_clear().envs(self.environment.iter().cloned());
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
            let mut child = {
                let _making = making();
                command.spawn().with_context(|| format!("start {program}"))?
            };
            Ok(child.wait()?)
        })
    }
}

fn lock(process: &Mutex<Option<Pid>>) -> MutexGuard<'_, Option<Pid>> {
    process.lock().expect("never poisoned: nothing panics under it")
}

/// In a thread of its own, which is in the right network namespace.
fn spawn(program: &Program) -> Result<Pid> {
    let _making = making();
    let log = File::options().create(true).append(true).open(&program.log)?;
    unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace")?;
    // What is unmounted outside shall not live on in here.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_SLAVE | MsFlags::MS_REC, None::<&str>)?;
    let root = make_root(&program.root)?;
    for one in &program.mounts {
        one.make(&root)
            .with_context(|| format!("mount {} at {}", one.source.display(), one.target.display()))?;
    }
    chroot(&root).context("change the root")?;
    let working = if program.working_directory.is_empty() { "/" } else { &program.working_directory };
    chdir(working).with_context(|| format!("workingDir {working}"))?;
    if !program.host_pids {
        unshare(CloneFlags::CLONE_NEWPID).context("a PID namespace")?;
    }
    let (name, arguments) =
        program.line.split_first().context("there is no command: give one in images or the pod")?;
    let mut command = Command::new(name);
    command.args(arguments).env_clear().env("PATH", search_path()).envs(program.environment.iter().cloned());
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
    let child = command.spawn().with_context(|| format!("start {name}"))?;
    Ok(Pid::from_raw(i32::try_from(child.id())?))
}

/// Reaps only under the lock: a number that is still there names our process and no other.
fn wait(pid: Pid, known: &Mutex<Option<Pid>>) -> Result<ExitStatus> {
    waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)?;
    // Without a PID namespace, what it has started would stay. Mostly there is nobody.
    let _ = killpg(pid, Signal::SIGKILL);
    let mut known = lock(known);
    *known = None;
    Ok(match nix::sys::wait::waitpid(pid, None)? {
        nix::sys::wait::WaitStatus::Signaled(_, signal, _) => ExitStatus::from_raw(signal as i32),
        nix::sys::wait::WaitStatus::Exited(_, code) => ExitStatus::from_raw(code << 8),
        other => anyhow::bail!("it has ended by {other:?}"),
    })
}

/// This machine's root below a layer in memory; what is mounted here is seen there too, but /run and /tmp are new.
fn make_root(directory: &Path) -> Result<PathBuf> {
    let none = MsFlags::empty();
    mount(Some("tmpfs"), directory, Some("tmpfs"), none, Some("mode=0755"))?;
    let [upper, work, root] = ["upper", "work", "root"].map(|name| directory.join(name));
    for path in [&upper, &work, &root] {
        fs::create_dir(path)?;
    }
    let layers = format!("lowerdir=/,upperdir={},workdir={}", upper.display(), work.display());
    mount(Some("overlay"), &root, Some("overlay"), none, Some(layers.as_str()))
        .context("lay a layer over /")?;
    let mountinfo = fs::read_to_string("/proc/thread-self/mountinfo")?;
    let places = mountinfo.lines().filter_map(|line| line.split(' ').nth(4));
    let hidden = ["/", "/run/", "/tmp/"];
    let mut bound: Vec<&str> = Vec::new();
    for place in places.filter(|&place| !Path::new(place).starts_with(directory)) {
        let below = |outer: &str| Path::new(place).starts_with(outer);
        if hidden.contains(&format!("{}/", place.trim_end_matches('/')).as_str())
            || ["/run", "/tmp"].into_iter().any(below)
            || bound.iter().any(|outer| below(outer))
        {
            continue;
        }
        let target = root.join(place.trim_start_matches('/'));
        // What another mount hides can't be reached, and isn't missed.
        if target.exists() && Path::new(place).exists() {
            let both = MsFlags::MS_BIND | MsFlags::MS_REC;
            mount(Some(place), &target, None::<&str>, both, None::<&str>)
                .with_context(|| format!("mount {place}"))?;
            bound.push(place);
        }
    }
    for name in ["run", "tmp"] {
        mount(Some("tmpfs"), &root.join(name), Some("tmpfs"), none, Some("mode=1777"))?;
    }
    Ok(root)
}

impl Mount {
    fn make(&self, root: &Path) -> Result<()> {
        let target = inside(root, &self.target)?;
        if self.source.is_dir() {
            fs::create_dir_all(&target)?;
        } else if !target.exists() {
            fs::create_dir_all(target.parent().context("it has to have a name")?)?;
            File::create(&target)?;
        }
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(&self.source), &target, None::<&str>, flags, None::<&str>)?;
        if self.read_only {
            let again = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            mount(None::<&str>, &target, None::<&str>, again, None::<&str>)?;
        }
        Ok(())
    }
}

/// Where a path leads below another root: links of directories, such as /var/run, are followed as if it were the root.
fn inside(root: &Path, path: &Path) -> Result<PathBuf> {
    let mut left: Vec<_> = path.components().rev().map(|part| part.as_os_str().to_owned()).collect();
    let mut reached = PathBuf::from("/");
    let mut links = 0;
    while let Some(part) = left.pop() {
        if part == "/" {
            reached = PathBuf::from("/");
        } else if part == ".." {
            reached.pop();
        } else if let Ok(link) = fs::read_link(root.join(reached.strip_prefix("/")?).join(&part)) {
            links += 1;
            anyhow::ensure!(links < 40, "{}: too many links", path.display());
            left.extend(link.components().rev().map(|part| part.as_os_str().to_owned()));
        } else {
            reached.push(part);
        }
    }
    Ok(root.join(reached.strip_prefix("/")?))
}
