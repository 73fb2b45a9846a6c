//! Changes in a directory, as the kernel reports them.
//!
//! In comes a directory; out go batches of paths that changed, a short while after the first change so that a
//! burst makes one batch. A file that is open for writing is held back until it is closed: the first half of a
//! YAML file is often valid YAML. Notices can be lost (kernel limits, file systems without them), so who uses
//! this looks at everything from time to time as well. Contents are not read here.

mod deaf;
mod notices;
mod stamp;

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use deaf::tell_deaf;
use notices::{Route, SOURCES, Sources, is_apart};
use notify::Event;
use notify::event::{AccessKind, AccessMode, CreateKind, EventKind, ModifyKind, RemoveKind};
pub use stamp::Stamp;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Changes within this time make one batch.
const SETTLE: Duration = Duration::from_millis(20);
/// A file that is not closed is reported after this time all the same.
const LONGEST_WRITE: Duration = Duration::from_secs(1);
/// More paths than this are not listed one by one.
const MOST_PATHS: usize = 10_000;

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// These files.
    Files(HashSet<PathBuf>),
    /// Anything.
    Anything,
}

/// Watches one directory for changes of files.
pub struct DirectoryWatch {
    /// From the root: what the kernel reports is told by this name.
    directory: PathBuf,
    deep: bool,
    pending: Arc<Pending>,
    route: Route,
    /// The route was asked to be apart from others.
    apart: bool,
}

/// Knows which files of a directory are being written.
#[derive(Clone)]
pub struct Writing(Arc<Pending>);

impl Writing {
    /// Whether `file` is held back: it is reported when it is closed, or has been written for long.
    #[must_use]
    pub fn holds(&self, file: &Path) -> bool {
        let changes = self.0.changes.lock().unwrap_or_else(PoisonError::into_inner);
        changes.writing.get(file).is_some_and(|&since| Instant::now() < since + LONGEST_WRITE)
    }
}

#[derive(Default)]
struct Pending {
    // Written by the watcher's thread, taken by the task that waits; held for a few map operations.
    changes: Mutex<Changes>,
    arrived: Notify,
}

#[derive(Default)]
struct Changes {
    files: HashSet<PathBuf>,
    anything: bool,
    /// Files that are being written, and since when.
    writing: HashMap<PathBuf, Instant>,
}

impl DirectoryWatch {
    /// Watches `directory` and, with `deep`, the directories in it, for files that `of_interest` accepts. That
    /// the directory itself vanishes or comes back is noticed too.
    ///
    /// # Errors
    /// Where the kernel grants no watch, for instance because its limit is reached. A directory that doesn't
    /// exist is not an error.
    pub fn new(directory: &Path, deep: bool, of_interest: fn(&Path) -> bool) -> notify::Result<Self> {
        Self::with(&SOURCES, is_apart(&from_root(directory)?), directory, deep, of_interest)
    }

    /// As [`new`](Self::new), with notices from `sources`.
    fn with(
        sources: &'static Sources,
        apart: bool,
        directory: &Path,
        deep: bool,
        of_interest: fn(&Path) -> bool,
    ) -> notify::Result<Self> {
        let pending = Arc::new(Pending::default());
        let sink = Arc::clone(&pending);
        let asked = directory.to_owned();
        let directory = from_root(directory)?;
        let itself = directory.clone();
        let on_event = move |event: &notify::Result<Event>| {
            let mut changes = sink.changes.lock().unwrap_or_else(PoisonError::into_inner);
            let before = (changes.anything, changes.files.len(), changes.writing.len());
            match event {
                Ok(event) => changes.note(event, (&itself, &asked), of_interest),
                Err(_) => changes.anything = true,
            }
            if before != (changes.anything, changes.files.len(), changes.writing.len()) {
                sink.arrived.notify_one();
            }
        };
        let route = sources.route(apart, on_event)?;
        let this = Self { directory, deep, pending, route, apart };
        this.renew()?;
        Ok(this)
    }

    /// Whether it would be watched in the same way now: another file system may stand there, or a link to elsewhere.
    /// Blocks as long as the file system does.
    #[must_use]
    pub fn fits(&self) -> bool {
        self.apart == is_apart(&self.directory)
    }

    /// Watches also what stands there now and didn't before. Blocks as long as the file system does.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn renew(&self) -> notify::Result<()> {
        if let Some(parent) = self.directory.parent().filter(|parent| parent.is_dir()) {
            self.route.watch(parent, false)?;
        }
        if self.directory.is_dir() {
            self.route.watch(&self.directory, self.deep)?;
        }
        Ok(())
    }

    /// Who to ask which files are being written now.
    #[must_use]
    pub fn writing(&self) -> Writing {
        Writing(Arc::clone(&self.pending))
    }

    /// Waits for the next batch. Cancelling loses nothing.
    pub async fn changed(&mut self) -> Changed {
        loop {
            // Made before looking, so that what comes between looking and waiting is not missed.
            let arrived = self.pending.arrived.notified();
            let wait = match self.pending.ready(Instant::now()) {
                Ready::Now => {
                    tokio::time::sleep(SETTLE).await;
                    if let Some(changed) = self.pending.take(Instant::now()) {
                        return changed;
                    }
                    continue;
                }
                Ready::At(time) => Some(time),
                Ready::Idle => None,
            };
            match wait {
                Some(time) => {
                    let _ = tokio::time::timeout_at(time, arrived).await;
                }
                None => arrived.await,
            }
        }
    }
}

/// A directory's name from the root; the empty one is that where the process stands.
fn from_root(directory: &Path) -> notify::Result<PathBuf> {
    let here = directory.as_os_str().is_empty();
    std::path::absolute(if here { Path::new(".") } else { directory }).map_err(notify::Error::io)
}

enum Ready {
    Now,
    At(Instant),
    Idle,
}

impl Pending {
    fn ready(&self, now: Instant) -> Ready {
        let changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        if changes.anything || changes.files.iter().any(|file| !changes.writing.contains_key(file)) {
            return Ready::Now;
        }
        match changes.writing.values().min() {
            Some(&since) if since + LONGEST_WRITE <= now => Ready::Now,
            Some(&since) => Ready::At(since + LONGEST_WRITE),
            None => Ready::Idle,
        }
    }

    fn take(&self, now: Instant) -> Option<Changed> {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let Changes { files, anything, writing } = &mut *changes;
        writing.retain(|file, since| {
            let held = now < *since + LONGEST_WRITE;
            if !held {
                files.insert(file.clone());
            }
            held
        });
        let taken: HashSet<PathBuf> = files.extract_if(|file| !writing.contains_key(file)).collect();
        if std::mem::take(anything) {
            return Some(Changed::Anything);
        }
        (!taken.is_empty()).then_some(Changed::Files(taken))
    }
}

impl Changes {
    /// Of the directory `itself`, whose files are told by the name that it was `asked` for by.
    fn note(&mut self, event: &Event, (itself, asked): (&Path, &Path), of_interest: fn(&Path) -> bool) {
        self.anything |= event.need_rescan();
        let closed = matches!(event.kind, EventKind::Access(AccessKind::Close(AccessMode::Write)));
        if matches!(event.kind, EventKind::Access(_)) && !closed {
            return;
        }
        for path in &event.paths {
            match path.strip_prefix(itself) {
                Ok(inside) if !inside.as_os_str().is_empty() => {
                    self.note_inside(event.kind, &asked.join(inside), inside, of_interest);
                }
                // The directory itself. Of what stands beside it, nothing counts.
                Ok(_) => self.anything |= !matches!(event.kind, EventKind::Modify(ModifyKind::Metadata(_))),
                Err(_) => {}
            }
        }
        if self.files.len() > MOST_PATHS {
            self.files.clear();
            self.anything = true;
        }
    }
}

impl Changes {
    fn note_inside(&mut self, kind: EventKind, path: &Path, inside: &Path, of_interest: fn(&Path) -> bool) {
        let starts = |name: &OsStr, with: &[u8]| name.as_encoded_bytes().starts_with(with);
        let folder = matches!(
            kind,
            EventKind::Create(CreateKind::Folder)
                | EventKind::Remove(RemoveKind::Folder)
                | EventKind::Modify(ModifyKind::Name(_))
        );
        if let Some(hidden) = inside.iter().find(|name| starts(name, b".")) {
            // Temporary files of editors don't count; the link `..data` of a ConfigMap's volume brings new files.
            self.anything |= folder && starts(hidden, b"..") && path.file_name() == Some(hidden);
        } else if !of_interest(path) {
            // A directory that is renamed brings or takes many files.
            self.anything |= folder;
        } else if matches!(kind, EventKind::Modify(ModifyKind::Data(_))) {
            self.writing.entry(path.to_owned()).or_insert_with(Instant::now);
        } else {
            self.writing.remove(path);
            self.files.insert(path.to_owned());
        }
    }
}

#[cfg(test)]
mod tests;
