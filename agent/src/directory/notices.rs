//! Where notices about files come from.
//!
//! The kernel grants each user 128 inotify instances by default, so all directories share one source, but for two kinds
//! ([`is_apart`]): one that could hang keeps only its own source from its work, and one that has two names is heard of
//! by both. Those beyond [`MOST_OWN`] share too. In the shared source directories are never unwatched while another is
//! watched, for what one route gives up another may need; the kernel forgets those that are deleted, and all when the
//! last route is gone.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, F2FS_SUPER_MAGIC, FsType, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC,
    XFS_SUPER_MAGIC, statfs,
};
use notify::{Config, Event, RecommendedWatcher, RecursiveMode, Watcher};

/// Sources that serve one route, at most.
const MOST_OWN: usize = 32;

/// Those of this process.
pub(super) static SOURCES: Sources = Sources::new(MOST_OWN);

/// Where routes get their notices from.
pub(super) struct Sources {
    most_own: usize,
    /// How many serve one route.
    own: AtomicUsize,
    /// The source of all others, if it is in use.
    shared: Mutex<Weak<Notices>>,
}

/// Takes each notice; `Err`: some were lost.
type Sink = Box<dyn Fn(&notify::Result<Event>) + Send>;

/// A source of notices.
struct Notices {
    // Never held while a watch is added: that waits for the thread that takes this to hand a notice out.
    sinks: Arc<Mutex<Sinks>>,
    watches: Mutex<Watches>,
    _own: Option<Own>,
}

/// One of those that serve one route.
struct Own(&'static Sources);

impl Drop for Own {
    fn drop(&mut self) {
        self.0.own.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Sinks {
    next: u64,
    by_number: BTreeMap<u64, Sink>,
}

struct Watches {
    watcher: RecommendedWatcher,
    /// Directories that are watched with all in them. To watch one again without would end that.
    deep: HashSet<PathBuf>,
}

/// Hands all notices to one sink until it is dropped.
pub(super) struct Route {
    notices: Arc<Notices>,
    number: u64,
}

impl Sources {
    /// Of which `most_own` serve one route.
    pub(super) const fn new(most_own: usize) -> Self {
        Self { most_own, own: AtomicUsize::new(0), shared: Mutex::new(Weak::new()) }
    }

    /// To `sink`, of the directories that the route watches, and maybe of others; `apart`: from a source of its own, if
    /// there is one left.
    pub(super) fn route(
        &'static self,
        apart: bool,
        sink: impl Fn(&notify::Result<Event>) + Send + 'static,
    ) -> notify::Result<Route> {
        let own = apart.then(|| self.take_own()).flatten().and_then(|own| Notices::new(Some(own)).ok());
        let notices = own.map_or_else(|| self.shared(), |notices| Ok(Arc::new(notices)))?;
        let mut sinks = lock(&notices.sinks);
        sinks.next += 1;
        let number = sinks.next;
        sinks.by_number.insert(number, Box::new(sink));
        drop(sinks);
        Ok(Route { notices, number })
    }

    fn take_own(&'static self) -> Option<Own> {
        let more = |own| (own < self.most_own).then_some(own + 1);
        self.own.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Own(self))
    }

    fn shared(&self) -> notify::Result<Arc<Notices>> {
        let mut shared = lock(&self.shared);
        if let Some(notices) = shared.upgrade() {
            return Ok(notices);
        }
        let notices = Arc::new(Notices::new(None)?);
        *shared = Arc::downgrade(&notices);
        Ok(notices)
    }
}

impl Route {
    /// Watches a directory as it stands there now; with `deep`, the directories in it too.
    pub(super) fn watch(&self, directory: &Path, deep: bool) -> notify::Result<()> {
        let mut watches = lock(&self.notices.watches);
        if deep {
            watches.deep.insert(directory.to_owned());
        }
        let deep = watches.deep.contains(directory);
        let mode = if deep { RecursiveMode::Recursive } else { RecursiveMode::NonRecursive };
        watches.watcher.watch(directory, mode)
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        lock(&self.notices.sinks).by_number.remove(&self.number);
    }
}

impl Notices {
    fn new(own: Option<Own>) -> notify::Result<Self> {
        let sinks = Arc::<Mutex<Sinks>>::default();
        let hand_out = {
            let sinks = Arc::clone(&sinks);
            move |event: notify::Result<Event>| lock(&sinks).by_number.values().for_each(|sink| sink(&event))
        };
        let watcher = RecommendedWatcher::new(hand_out, Config::default())?;
        let watches = Mutex::new(Watches { watcher, deep: HashSet::new() });
        Ok(Self { sinks, watches, _own: own })
    }
}

/// Whether a directory should have a source of its own: because its file system may wait for a network or for a process,
/// or because what a route calls it may be another name of what another route watches.
pub(super) fn is_apart(directory: &Path) -> bool {
    let Some(there) = directory.ancestors().find(|path| path.exists()) else { return false };
    let is_named = std::path::absolute(there).ok() == fs::canonicalize(there).ok();
    let is_local = statfs(there).is_ok_and(|found| LOCAL.contains(&found.filesystem_type()));
    !(is_named && is_local)
}

/// File systems of this machine's own disks and memory; containers' stand on the first. That of ZFS has no name in libc.
const LOCAL: [FsType; 7] = [
    OVERLAYFS_SUPER_MAGIC,
    EXT4_SUPER_MAGIC,
    XFS_SUPER_MAGIC,
    BTRFS_SUPER_MAGIC,
    F2FS_SUPER_MAGIC,
    TMPFS_MAGIC,
    FsType(0x2fc1_2fc1),
];

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
