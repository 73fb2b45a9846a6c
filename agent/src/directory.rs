//! Changes in a directory, as the kernel reports them.
//!
//! In comes a directory; out go batches of paths that changed, a short while after the first change so that a
//! burst makes one batch. A file that is open for writing is held back until it is closed: the first half of a
//! YAML file is often valid YAML. Notices can be lost (kernel limits, file systems without them), so who uses
//! this looks at everything from time to time as well. Contents are not read here.

mod notices;

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notices::{Route, SOURCES, Sources};
use notify::Event;
use notify::event::{AccessKind, AccessMode, CreateKind, EventKind, ModifyKind, RemoveKind};
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
    directory: PathBuf,
    deep: bool,
    pending: Arc<Pending>,
    route: Route,
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
        Self::with(&SOURCES, directory, deep, of_interest)
    }

    /// As [`new`](Self::new), with notices from `sources`.
    fn with(
        sources: &'static Sources,
        directory: &Path,
        deep: bool,
        of_interest: fn(&Path) -> bool,
    ) -> notify::Result<Self> {
        let pending = Arc::new(Pending::default());
        let sink = Arc::clone(&pending);
        let itself = directory.to_owned();
        let on_event = move |event: &notify::Result<Event>| {
            let mut changes = sink.changes.lock().unwrap_or_else(PoisonError::into_inner);
            let before = (changes.anything, changes.files.len(), changes.writing.len());
            match event {
                Ok(event) => changes.note(event, &itself, of_interest),
                Err(_) => changes.anything = true,
            }
            if before != (changes.anything, changes.files.len(), changes.writing.len()) {
                sink.arrived.notify_one();
            }
        };
        let route = sources.route(on_event)?;
        let this = Self { directory: directory.to_owned(), deep, pending, route };
        this.renew()?;
        Ok(this)
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
    fn note(&mut self, event: &Event, itself: &Path, of_interest: fn(&Path) -> bool) {
        self.anything |= event.need_rescan();
        let closed = matches!(event.kind, EventKind::Access(AccessKind::Close(AccessMode::Write)));
        if matches!(event.kind, EventKind::Access(_)) && !closed {
            return;
        }
        for path in &event.paths {
            match path.strip_prefix(itself) {
                Ok(inside) if !inside.as_os_str().is_empty() => {
                    self.note_inside(event.kind, path, inside, of_interest);
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
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn yaml(path: &Path) -> bool {
        path.extension().is_some_and(|extension| extension == "yaml")
    }

    /// What a test lacks where the kernel grants no instance.
    const LACKING: &str = "an inotify instance: fs.inotify.max_user_instances says how many a user can have";

    fn watching(directory: &Path) -> DirectoryWatch {
        DirectoryWatch::new(directory, true, yaml).expect(LACKING)
    }

    async fn next(watch: &mut DirectoryWatch) -> Changed {
        tokio::time::timeout(Duration::from_secs(10), watch.changed()).await.expect("a change is reported")
    }

    fn files(paths: &[&Path]) -> Changed {
        Changed::Files(paths.iter().map(|path| path.to_path_buf()).collect())
    }

    #[tokio::test]
    async fn a_file_is_reported_when_it_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.yaml");
        let mut watch = watching(dir.path());
        let mut file = fs::File::create(&path).unwrap();
        file.write_all(b"half").unwrap();
        file.flush().unwrap();
        let early = tokio::time::timeout(Duration::from_millis(300), watch.changed()).await;
        assert!(early.is_err(), "reported while it was open: {early:?}");
        file.write_all(b" and half").unwrap();
        drop(file);
        assert_eq!(next(&mut watch).await, files(&[&path]));
    }

    #[tokio::test]
    async fn a_file_that_is_never_closed_is_reported_after_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.yaml");
        fs::write(&path, "").unwrap();
        let mut watch = watching(dir.path());
        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"x").unwrap();
        file.flush().unwrap();
        let before = Instant::now();
        assert_eq!(next(&mut watch).await, files(&[&path]));
        assert!(before.elapsed() > Duration::from_millis(500), "{:?}", before.elapsed());
        drop(file);
    }

    #[tokio::test]
    async fn renames_removals_and_other_files() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b, temporary) =
            (dir.path().join("a.yaml"), dir.path().join("b.yaml"), dir.path().join("a.tmp"));
        let hidden = dir.path().join(".a.yaml");
        fs::write(&b, "x").unwrap();
        let mut watch = watching(dir.path());
        fs::write(&temporary, "x").unwrap();
        let nothing = tokio::time::timeout(Duration::from_millis(200), watch.changed()).await;
        assert!(nothing.is_err(), "a file of no interest: {nothing:?}");
        fs::rename(&temporary, &a).unwrap();
        // The old name is of no interest, so it could have been a directory.
        assert_eq!(next(&mut watch).await, Changed::Anything);
        fs::remove_file(&b).unwrap();
        assert_eq!(next(&mut watch).await, files(&[&b]));
        fs::write(&hidden, "y").unwrap();
        fs::rename(&hidden, &a).unwrap();
        assert_eq!(next(&mut watch).await, files(&[&a]));
    }

    /// What the kernel limits: inotify instances, here those of this process that watch `directory`.
    fn instances(directory: &Path) -> usize {
        let inode = format!(" ino:{:x} ", fs::metadata(directory).unwrap().ino());
        let descriptors = fs::read_dir("/proc/self/fdinfo").unwrap();
        let about = descriptors.filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok());
        let watches = |line: &str| line.starts_with("inotify ") && line.contains(&inode);
        about.filter(|about| about.lines().any(watches)).count()
    }

    #[tokio::test]
    async fn however_many_directories_the_instances_suffice_and_each_hears_of_its_own_files() {
        // Far fewer than the agent's: other processes need some, too.
        const MOST_OWN: usize = 3;
        static FEW: Sources = Sources::new(MOST_OWN);
        let dir = tempfile::tempdir().unwrap();
        let roots: Vec<PathBuf> =
            (0..MOST_OWN + 20).map(|number| dir.path().join(format!("cluster-{number}"))).collect();
        roots.iter().for_each(|root| fs::create_dir(root).unwrap());
        let mut watches: Vec<_> =
            roots.iter().map(|root| DirectoryWatch::with(&FEW, root, true, yaml).expect(LACKING)).collect();
        assert_eq!(instances(dir.path()), MOST_OWN + 1, "all watch the directory that theirs stand in");
        // Others come and go.
        drop(watches.pop());
        for (at, neighbour) in [(1, 2), (MOST_OWN + 5, MOST_OWN + 6)] {
            let path = roots[at].join("a.yaml");
            fs::write(&path, "x").unwrap();
            assert_eq!(next(&mut watches[at]).await, files(&[&path]));
            let nothing =
                tokio::time::timeout(Duration::from_millis(100), watches[neighbour].changed()).await;
            assert!(nothing.is_err(), "a neighbour's file: {nothing:?}");
        }
    }

    #[tokio::test]
    async fn a_directory_with_two_names_is_heard_of_by_both() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        fs::create_dir(&one).unwrap();
        std::os::unix::fs::symlink("one", &other).unwrap();
        let mut first = watching(&one);
        let mut second = watching(&other);
        fs::write(one.join("a.yaml"), "x").unwrap();
        assert_eq!(next(&mut first).await, files(&[&one.join("a.yaml")]));
        assert_eq!(next(&mut second).await, files(&[&other.join("a.yaml")]));
    }

    #[tokio::test]
    async fn what_is_being_written_is_told_apart_whatever_else_changes() {
        let dir = tempfile::tempdir().unwrap();
        let (open, other) = (dir.path().join("open.yaml"), dir.path().join("other.yaml"));
        let mut watch = watching(dir.path());
        let mut file = fs::File::create(&open).unwrap();
        file.write_all(b"half").unwrap();
        fs::create_dir(dir.path().join("folder")).unwrap();
        assert_eq!(next(&mut watch).await, Changed::Anything);
        let writing = watch.writing();
        assert!(writing.holds(&open) && !writing.holds(&other));
        watch.renew().unwrap();
        assert!(writing.holds(&open), "it is not forgotten");
        drop(file);
        assert_eq!(next(&mut watch).await, files(&[&open]));
        assert!(!writing.holds(&open));
    }

    #[tokio::test]
    async fn directories_that_come_and_go_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("cluster");
        let mut watch = watching(&root);
        fs::create_dir(&root).unwrap();
        assert_eq!(next(&mut watch).await, Changed::Anything);
        let mut watch = watching(&root);
        fs::create_dir(root.join("deep")).unwrap();
        assert_eq!(next(&mut watch).await, Changed::Anything);
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(next(&mut watch).await, Changed::Anything);
    }
}
