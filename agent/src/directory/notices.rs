//! The process's one source of notices about files.
//!
//! The kernel grants each user 128 inotify instances by default, and an agent watches a directory for each of its
//! clusters: so all watches share one. Directories are never unwatched while another is watched, for what one route
//! gives up another may need; the kernel forgets those that are deleted, and all when the last route is gone.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use notify::{Config, Event, RecommendedWatcher, RecursiveMode, Watcher};

/// The source that is in use, if one is.
static SHARED: Mutex<Weak<Notices>> = Mutex::new(Weak::new());

/// Takes each notice; `Err`: some were lost.
type Sink = Box<dyn Fn(&notify::Result<Event>) + Send>;

/// A source of notices.
struct Notices {
    // Never held while a watch is added: that waits for the thread that takes this to hand a notice out.
    sinks: Arc<Mutex<Sinks>>,
    watches: Mutex<Watches>,
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

impl Route {
    /// To `sink`, of all directories that any route watches.
    pub(super) fn new(sink: impl Fn(&notify::Result<Event>) + Send + 'static) -> notify::Result<Self> {
        let notices = Notices::shared()?;
        let mut sinks = lock(&notices.sinks);
        sinks.next += 1;
        let number = sinks.next;
        sinks.by_number.insert(number, Box::new(sink));
        drop(sinks);
        Ok(Self { notices, number })
    }

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
    fn shared() -> notify::Result<Arc<Self>> {
        let mut shared = lock(&SHARED);
        if let Some(notices) = shared.upgrade() {
            return Ok(notices);
        }
        let sinks = Arc::<Mutex<Sinks>>::default();
        let hand_out = {
            let sinks = Arc::clone(&sinks);
            move |event: notify::Result<Event>| lock(&sinks).by_number.values().for_each(|sink| sink(&event))
        };
        let watcher = RecommendedWatcher::new(hand_out, Config::default())?;
        let watches = Mutex::new(Watches { watcher, deep: HashSet::new() });
        let notices = Arc::new(Self { sinks, watches });
        *shared = Arc::downgrade(&notices);
        Ok(notices)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
