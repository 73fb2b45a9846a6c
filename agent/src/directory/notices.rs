//! Where notices about files come from.
//!
//! Each directory has a source of its own, as far as they suffice: a directory that hangs keeps only its own source
//! from its work, and one that two clusters share is heard of by both. The kernel grants each user 128 inotify
//! instances by default, and others need some: what is beyond [`MOST_OWN`] shares one. There, directories are never
//! unwatched while another is watched, for what one route gives up another may need; the kernel forgets those that
//! are deleted, and all when the last route is gone.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use notify::{Config, Event, RecommendedWatcher, RecursiveMode, Watcher};

/// Sources that serve one route, at most.
pub(super) const MOST_OWN: usize = 32;

/// How many do.
static OWN: AtomicUsize = AtomicUsize::new(0);
/// The source of all others, if it is in use.
static SHARED: Mutex<Weak<Notices>> = Mutex::new(Weak::new());

/// Takes each notice; `Err`: some were lost.
type Sink = Box<dyn Fn(&notify::Result<Event>) + Send>;

/// A source of notices.
struct Notices {
    // Never held while a watch is added: that waits for the thread that takes this to hand a notice out.
    sinks: Arc<Mutex<Sinks>>,
    watches: Mutex<Watches>,
    _own: Option<Own>,
}

/// One of [`MOST_OWN`].
struct Own;

impl Own {
    fn take() -> Option<Self> {
        let more = |own| (own < MOST_OWN).then_some(own + 1);
        OWN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Self)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        OWN.fetch_sub(1, Ordering::Relaxed);
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

impl Route {
    /// To `sink`, of the directories that it watches, and maybe of others.
    pub(super) fn new(sink: impl Fn(&notify::Result<Event>) + Send + 'static) -> notify::Result<Self> {
        let own = Own::take().and_then(|own| Notices::new(Some(own)).ok());
        let notices = own.map_or_else(Notices::shared, |notices| Ok(Arc::new(notices)))?;
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
        let notices = Arc::new(Self::new(None)?);
        *shared = Arc::downgrade(&notices);
        Ok(notices)
    }

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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
