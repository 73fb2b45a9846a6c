//! Network namespaces: made, entered by threads of their own, removed.
//!
//! A namespace is kept by a bind mount under `/run/netns`, as `ip netns` does it, so that `ip -n NAME` and
//! `nsenter --net=/run/netns/NAME` work on it. Only threads made for the purpose enter one, and they end there:
//! no thread that anybody else uses is ever in a foreign namespace. Mounts, /sys and bpffs stay what they are.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

/// Where `ip netns` keeps its namespaces.
pub(super) const DIRECTORY: &str = "/run/netns";

/// A network namespace by name. Cloning it makes one more name for the same one; it is removed with its world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes it, with `sysctls` (paths below `/proc/sys/net`) written before the first interface appears.
    pub(super) fn create(name: &str, sysctls: &[(&str, &str)]) -> Result<Self> {
        let namespace = Self { name: name.to_owned() };
        File::create_new(namespace.path()).with_context(|| format!("create namespace {name}"))?;
        on_own_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("unshare the network namespace")?;
            let own = Path::new("/proc/thread-self/ns/net");
            mount(Some(own), &namespace.path(), None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .with_context(|| format!("mount namespace {name}"))?;
            write_sysctls(sysctls)
        })?;
        Ok(namespace)
    }

    /// Its name under `/run/netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its file under `/run/netns`.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.name)
    }

    /// Runs `work` inside, on a thread of its own. Sockets that it makes stay in the namespace wherever they go.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        on_own_thread(|| {
            let file = File::open(self.path()).with_context(|| format!("open namespace {}", self.name))?;
            setns(file, CloneFlags::CLONE_NEWNET)
                .with_context(|| format!("enter namespace {}", self.name))?;
            work()
        })
    }

    /// Runs a program inside to its end; an exit code other than 0 is an error that holds its words.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Result<String> {
        self.run(|| run_to_end(Command::new(program).args(arguments), None))
    }

    /// Hands lines to `ip -batch` inside the namespace; the first that fails ends it. Not by `ip -n`, which remounts
    /// /sys and so hides bpffs.
    pub fn ip(&self, lines: &[String]) -> Result<()> {
        self.run(|| ip_batch(&[], lines)).with_context(|| format!("in {}", self.name))
    }

    /// As [`Namespace::ip`], for lines that don't say that they are about IPv6.
    pub fn ip6(&self, lines: &[String]) -> Result<()> {
        self.run(|| ip_batch(&["-6"], lines)).with_context(|| format!("in {}", self.name))
    }

    /// Writes one value below `/proc/sys/net`, e.g. `ipv4/conf/all/rp_filter`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.run(|| write_sysctls(&[(key, value)]))
    }

    /// Waits until an interface that was brought up sends: the kernel notices a carrier up to a second late.
    pub(super) fn wait_for_carrier(&self, interface: &str) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(5);
        while !self.command("ip", &["-o", "link", "show", "dev", interface])?.contains(" state UP ") {
            if Instant::now() > deadline {
                bail!("{interface} of {} has no carrier", self.name);
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Whether a TCP connection to `address` opens from inside.
    #[must_use]
    pub fn connects(&self, address: SocketAddr, within: Duration) -> bool {
        self.run(|| Ok(TcpStream::connect_timeout(&address, within)?)).is_ok()
    }
}

/// Removes the namespace; its interfaces go with it once the last process in it has ended. No such one is no error.
pub(super) fn remove(name: &str) -> Result<()> {
    let path = Path::new(DIRECTORY).join(name);
    // EINVAL: not a mount point (never mounted, or unmounted by somebody else).
    match umount2(&path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
        Err(error) => return Err(error).with_context(|| format!("unmount {}", path.display())),
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Names under `/run/netns` that begin with `prefix`, with the inode that identifies each namespace.
pub(super) fn with_prefix(prefix: &str) -> Result<Vec<(String, u64)>> {
    let entries = match fs::read_dir(DIRECTORY) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("read {DIRECTORY}"))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !name.starts_with(prefix) {
            continue;
        }
        // One that vanishes meanwhile is another world's, being torn down.
        if let Ok(metadata) = fs::metadata(Path::new(DIRECTORY).join(&name)) {
            found.push((name, metadata.ino()));
        }
    }
    found.sort();
    Ok(found)
}

/// Makes `/run/netns` a shared mount, as `ip netns add` does: else an unmount here leaves the namespace alive in
/// other mount namespaces.
pub(super) fn prepare_directory() -> Result<()> {
    fs::create_dir_all(DIRECTORY).with_context(|| format!("create {DIRECTORY}"))?;
    let share =
        || mount(Some(""), DIRECTORY, Some("none"), MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>);
    if share().is_ok() {
        return Ok(());
    }
    mount(Some(DIRECTORY), DIRECTORY, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .with_context(|| format!("mount {DIRECTORY}; is this run as root?"))?;
    share().with_context(|| format!("share {DIRECTORY}"))
}

/// Hands lines to `ip -batch`, `options` before it.
pub(super) fn ip_batch(options: &[&str], lines: &[String]) -> Result<()> {
    let text = lines.join("\n") + "\n";
    run_to_end(Command::new("ip").args(options).args(["-batch", "-"]), Some(&text))
        .with_context(|| format!("ip {} -batch, given:\n{text}", options.join(" ")))?;
    Ok(())
}

fn run_to_end(command: &mut Command, input: Option<&str>) -> Result<String> {
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    let child = command
        .env("PATH", search_path())
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {command:?}"))?;
    finish(child, &format!("{command:?}"), input)
}

/// Waits for a child whose output is piped; an exit code other than 0 is an error that tells what was `asked` and the
/// child's words.
pub(crate) fn finish(mut child: Child, asked: &str, input: Option<&str>) -> Result<String> {
    if let (Some(text), Some(mut pipe)) = (input, child.stdin.take()) {
        // A program that stops reading early says why on standard error.
        let _ = pipe.write_all(text.as_bytes());
    }
    let Output { status, stdout, stderr } = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&stdout).into_owned();
    if !status.success() {
        bail!("{asked}: {status}: {}{said}", String::from_utf8_lossy(&stderr));
    }
    Ok(said)
}

/// `PATH` with the places of administrators' programs (ip, nft, nginx), which isn't in every user's.
pub(crate) fn search_path() -> OsString {
    let given = std::env::var_os("PATH").unwrap_or_default();
    let all = std::env::split_paths(&given).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    std::env::join_paths(all).unwrap_or(given)
}

fn write_sysctls(sysctls: &[(&str, &str)]) -> Result<()> {
    for (key, value) in sysctls {
        let path = Path::new("/proc/sys/net").join(key);
        fs::write(&path, value).with_context(|| format!("write {value} to {}", path.display()))?;
    }
    Ok(())
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
