//! What a world leaves on the machine, and how all of it goes away again.
//!
//! Everything that a world makes carries its id: namespaces, its directory under [`RUNS`], the agents' instances
//! and so their pins in bpffs. Removal works from those names alone and never from what a process remembers, so
//! the same function serves a normal end, a panic, a signal, the leftovers of a run that was killed -9 (found by
//! the lock that a living owner holds) and `demo down`.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, Once, RwLock, RwLockReadGuard};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use fairlead::dataplane::make_folder;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::namespace;

/// One directory per world: lock, servers' files, manifests, agents' state and logs.
pub const RUNS: &str = "/run/fairlead-world";

/// Where agents pin, one directory per instance.
pub const PINS: &str = "/sys/fs/bpf/fairlead";

/// For what is too large for [`RUNS`], which is in memory on most machines: one directory per world that has such.
pub const DATA: &str = "/var/lib/fairlead-world";

/// In the environment of processes that run in no namespace of their world: its id.
pub(crate) const MARK: &str = "FAIRLEAD_WORLD";

/// In the directory of a world that outlives its maker.
const KEPT: &str = "kept";

/// Worlds of this process.
static LIVING: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Held for reading while something is made. The signal thread takes it for writing and never gives it back, so
/// that nothing can be made behind the back of the removal.
static MAKING: RwLock<()> = RwLock::new(());

/// A claim on an id; all that carries the id is removed when this is dropped, unless it is kept.
#[derive(Debug)]
pub struct Footprint {
    id: String,
    /// Locked while the owner lives; its only use is that other processes fail to lock it.
    _lock: File,
}

impl Footprint {
    /// Claims a new id, `fl-`, this process's number, `-` and a number, after removing what dead runs left.
    pub fn claim() -> Result<Self> {
        static WORLDS: AtomicU32 = AtomicU32::new(1);
        static FIRST: Once = Once::new();
        namespace::prepare_directory()?;
        fs::create_dir_all(RUNS).with_context(|| format!("create {RUNS}; is this run as root?"))?;
        let turn = Turn::take()?;
        FIRST.call_once(|| {
            remove_on_signal();
            let _is_told_where_it_fails = remove_stale(&turn);
        });
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let id = format!("fl-{}-{number}", std::process::id());
        let directory = Path::new(RUNS).join(&id);
        // A kept world of an earlier process that had this number.
        if directory.exists() {
            remove(&id)?;
        }
        let _making = making();
        LIVING.lock().expect("never poisoned: nothing panics under it").insert(id.clone());
        make_folder(&directory).with_context(|| format!("create {}", directory.display()))?;
        let lock = File::create(directory.join("lock"))?;
        lock.lock().context("lock the world's directory")?;
        Ok(Self { id, _lock: lock })
    }

    /// The id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The world's directory.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        Path::new(RUNS).join(&self.id)
    }

    /// The world's directory for what is large, made when it is first asked for.
    pub fn data(&self) -> Result<PathBuf> {
        let directory = Path::new(DATA).join(&self.id);
        let _making = making();
        if !directory.exists() {
            fs::create_dir_all(DATA).with_context(|| format!("create {DATA}; is this run as root?"))?;
            make_folder(&directory).with_context(|| format!("create {}", directory.display()))?;
        }
        Ok(directory)
    }

    /// A new namespace that goes with this claim, empty but for its loopback interface, where the kernel sends
    /// nothing of its own accord.
    pub fn namespace(&self, name: &str) -> Result<namespace::Namespace> {
        let _making = making();
        let quiet = [("ipv6/conf/all/disable_ipv6", "1"), ("ipv6/conf/default/disable_ipv6", "1")];
        namespace::Namespace::create(&format!("{}-{name}", self.id), &quiet)
    }

    /// Leaves the world running when this process ends, until [`remove`] is called with its id.
    pub fn keep(self) -> Result<String> {
        fs::write(self.directory().join(KEPT), "")?;
        LIVING.lock().expect("never poisoned").remove(&self.id);
        let id = self.id.clone();
        std::mem::forget(self);
        Ok(id)
    }
}

impl Drop for Footprint {
    fn drop(&mut self) {
        // After a signal this never gets further: the signal's thread removes, and then ends the process. An owner that
        // fails because its world vanishes must not end it before.
        let _making = making();
        if let Err(error) = remove(&self.id) {
            eprintln!("world {} was not removed completely: {error:#}", self.id);
        }
        LIVING.lock().expect("never poisoned").remove(&self.id);
    }
}

/// To be held while a namespace is made or a process is started.
pub(crate) fn making() -> RwLockReadGuard<'static, ()> {
    MAKING.read().expect("never poisoned: nothing panics under it")
}

/// Removes everything that carries the id. What is already gone is no error.
pub fn remove(id: &str) -> Result<()> {
    let namespaces = namespace::with_prefix(&format!("{id}-"))?;
    end_processes(id, &namespaces.iter().map(|(_, inode)| *inode).collect());
    for (name, _) in &namespaces {
        namespace::remove(name)?;
    }
    for pins in instances(id)? {
        remove_directory(&pins)?;
    }
    remove_directory(&Path::new(DATA).join(id))?;
    // Last: who looks for abandoned worlds finds them by it.
    remove_directory(&Path::new(RUNS).join(id))?;
    drop(Turn::take_if_free());
    Ok(())
}

/// Ids of worlds that were kept.
pub fn kept() -> Result<Vec<String>> {
    Ok(runs()?.into_iter().filter(|id| Path::new(RUNS).join(id).join(KEPT).exists()).collect())
}

/// Ids of worlds whose owners died without removing them.
fn abandoned() -> Result<Vec<String>> {
    let mut ids = runs()?;
    ids.retain(|id| {
        let directory = Path::new(RUNS).join(id);
        // Without a lock file its owner died before it had made anything else.
        let lives = || {
            let lock = File::open(directory.join("lock"));
            lock.is_ok_and(|lock| matches!(lock.try_lock(), Err(TryLockError::WouldBlock)))
        };
        !directory.join(KEPT).exists() && !lives()
    });
    Ok(ids)
}

/// Removes the worlds whose owners died without doing so, and returns their ids; kept ones stay.
pub fn remove_abandoned() -> Result<Vec<String>> {
    if !Path::new(RUNS).exists() {
        return Ok(Vec::new());
    }
    remove_stale(&Turn::take()?)
}

fn remove_stale(_turn: &Turn) -> Result<Vec<String>> {
    let abandoned = abandoned()?;
    for id in &abandoned {
        if let Err(error) = remove(id) {
            eprintln!("leftover world {id} was not removed completely: {error:#}");
        }
    }
    Ok(abandoned)
}

/// While a process has it, no other one begins a world or looks for those to remove: else it could find a new directory
/// before its lock is held. The file goes with the last world.
struct Turn(File);

impl Turn {
    fn path() -> PathBuf {
        Path::new(RUNS).with_extension("lock")
    }

    /// Waits for it.
    fn take() -> Result<Self> {
        let path = Self::path();
        loop {
            let file = File::create(&path)
                .with_context(|| format!("create {}; is this run as root?", path.display()))?;
            file.lock().with_context(|| format!("lock {}", path.display()))?;
            // Else who had it before has removed the file meanwhile, and others lock a new one.
            if Self::is_at(&file, &path) {
                return Ok(Self(file));
            }
        }
    }

    /// Unless somebody has it, or nobody ever had. Never waits: a world also ends while its owner waits for a turn.
    fn take_if_free() -> Option<Self> {
        let path = Self::path();
        let file = File::open(&path).ok()?;
        (file.try_lock().is_ok() && Self::is_at(&file, &path)).then_some(Self(file))
    }

    fn is_at(file: &File, path: &Path) -> bool {
        let inode = |metadata: &fs::Metadata| (metadata.dev(), metadata.ino());
        matches!((file.metadata(), fs::metadata(path)), (Ok(a), Ok(b)) if inode(&a) == inode(&b))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Still locked: who takes the removed file sees that it isn't there any more.
        if !Path::new(RUNS).exists() {
            let _gone_is_gone = fs::remove_file(Self::path());
        }
        let _closing_unlocks_too = self.0.unlock();
    }
}

fn runs() -> Result<Vec<String>> {
    match fs::read_dir(RUNS) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        entries => {
            let mut ids = Vec::new();
            for entry in entries.with_context(|| format!("read {RUNS}"))? {
                ids.push(entry?.file_name().to_string_lossy().into_owned());
            }
            ids.sort();
            Ok(ids)
        }
    }
}

fn instances(id: &str) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(PINS) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("read {PINS}"))?,
    };
    let prefix = format!("{id}-");
    let ours = entries.filter_map(Result::ok).map(|entry| entry.path());
    Ok(ours
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)))
        .collect())
}

/// With the folder around it where it was the last in it.
pub(super) fn remove_directory(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("remove {}", path.display()));
        }
        _ => {}
    }
    let _others_are_there = path.parent().map(fs::remove_dir);
    Ok(())
}

/// Kills every process whose network namespace is one of `inodes`, and every one that is marked with the id, until there
/// is none.
fn end_processes(id: &str, inodes: &BTreeSet<u64>) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        let inside = processes_of(id, inodes);
        if inside.is_empty() {
            return;
        }
        for pid in inside {
            // It may have ended by itself since it was seen.
            let _ = kill(pid, Signal::SIGKILL);
        }
        thread::sleep(Duration::from_millis(2));
    }
}

fn processes_of(id: &str, inodes: &BTreeSet<u64>) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    // A zombie has neither any more, so it isn't waited for.
    let inside = |pid: i32| network_of(pid).is_some_and(|inode| inodes.contains(&inode));
    pids.filter(|&pid| inside(pid) || is_marked(pid, id)).map(Pid::from_raw).collect()
}

fn is_marked(pid: i32, id: &str) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let mark = format!("{MARK}={id}");
    environment.split(|&byte| byte == 0).any(|variable| variable == mark.as_bytes())
}

/// The inode of a process's network namespace: `net:[4026531840]`.
fn network_of(pid: i32) -> Option<u64> {
    let link = fs::read_link(format!("/proc/{pid}/ns/net")).ok()?;
    link.to_str()?.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}

/// From the first world on, SIGINT, SIGTERM and SIGHUP remove this process's worlds before they end it. Only the first
/// counts: `signals` lives to the end, so further ones neither end the process nor are looked at.
fn remove_on_signal() {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGTERM])
        .expect("these three signals can be caught");
    thread::spawn(move || {
        let Some(signal) = signals.forever().next() else { return };
        let _nothing_is_made_any_more = MAKING.write();
        let living = LIVING.lock().expect("never poisoned").clone();
        let mut all = true;
        for id in living {
            if let Err(error) = remove(&id) {
                eprintln!("world {id} was not removed completely: {error:#}");
                all = false;
            }
        }
        if all {
            eprintln!("interrupted; everything is removed");
        }
        std::process::exit(128 + signal);
    });
}
