//! A directory of manifests as a cluster's source.
//!
//! In comes a directory, with all directories in it; out go the objects of its `*.yaml`, `*.yml` and `*.json`, joined
//! to shards. Only files that changed are read again. A file that can't be read keeps the objects that it had, an
//! object that is rejected keeps its last good version; where the directory is gone, everything stays as it was and
//! the cluster counts as unreachable. Names that begin with `.` are passed over, as editors and Kubernetes'
//! ConfigMap volumes want it. All of this blocks; the task around it is [`source`](super::source).

mod file;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::convert::{Defaults, Object, ObjectKey};
use super::names::Names;
use super::problem::SourceProblem;
use super::store::Store;
use crate::directory::Changed;
use crate::yaml::Place;
use file::{Note, Parsed};

/// Largest file that is read.
const MAX_FILE: u64 = 64 << 20;
/// What all files of a cluster may have.
const MAX_TOTAL: u64 = 512 << 20;
/// How many files and directories a cluster may have.
const MAX_ENTRIES: usize = 200_000;
/// How deep directories are followed.
const MAX_DEPTH: usize = 8;

/// Whether a path is that of a file of manifests.
#[must_use]
pub(super) fn is_manifest(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    !is_hidden(path) && matches!(extension, Some("yaml" | "yml" | "json"))
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// The manifests of one cluster.
pub struct Manifests {
    cluster: Arc<str>,
    root: PathBuf,
    defaults: Defaults,
    store: Store,
    names: Names,
    files: BTreeMap<Arc<Path>, File>,
    /// Bytes of all files.
    total: u64,
    /// Which files hold an object. The first by path counts.
    holders: BTreeMap<ObjectKey, Holders>,
    /// Objects that more than one file holds.
    contested: BTreeSet<ObjectKey>,
    /// Why the directory can't be read.
    unreachable: Option<SourceProblem>,
}

/// What is known of a file.
#[derive(Default)]
struct File {
    stamp: Stamp,
    /// With last good versions of what is rejected now.
    objects: BTreeMap<ObjectKey, Object>,
    problems: Vec<SourceProblem>,
    ignored: usize,
    /// Objects of it may be missing, because they could not be read.
    incomplete: bool,
}

/// The files that hold one object; nearly always one does.
enum Holders {
    One(Arc<Path>),
    /// At least two.
    Several(BTreeSet<Arc<Path>>),
}

impl Holders {
    /// The one that counts.
    fn first(&self) -> &Path {
        match self {
            Self::One(path) => path,
            Self::Several(paths) => paths.first().expect("several are at least two"),
        }
    }

    fn add(&mut self, path: &Arc<Path>) {
        match self {
            Self::One(one) if one == path => {}
            Self::One(one) => *self = Self::Several(BTreeSet::from([Arc::clone(one), Arc::clone(path)])),
            Self::Several(paths) => drop(paths.insert(Arc::clone(path))),
        }
    }

    /// Whether any is left.
    fn remove(&mut self, path: &Path) -> bool {
        match self {
            Self::One(one) => **one != *path,
            Self::Several(paths) => {
                paths.remove(path);
                if paths.len() == 1
                    && let Some(one) = paths.pop_first()
                {
                    *self = Self::One(one);
                }
                true
            }
        }
    }
}

/// What changes when a file's content does.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Stamp {
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    inode: u64,
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
        }
    }
}

impl Manifests {
    /// Of `cluster`, in the directory `root`. `store` is empty or has what was known before a restart.
    #[must_use]
    pub fn new(cluster: Arc<str>, root: PathBuf, defaults: Defaults, store: Store) -> Self {
        Self {
            cluster,
            root,
            defaults,
            store,
            names: Names::default(),
            files: BTreeMap::new(),
            total: 0,
            holders: BTreeMap::new(),
            contested: BTreeSet::new(),
            unreachable: None,
        }
    }

    /// The objects as they now are.
    pub fn store(&mut self) -> &mut Store {
        &mut self.store
    }

    /// Whether the directory could be read.
    #[must_use]
    pub fn reachable(&self) -> bool {
        self.unreachable.is_none()
    }

    /// Objects of kinds that are not read, or not for us.
    #[must_use]
    pub fn ignored(&self) -> usize {
        self.files.values().map(|file| file.ignored).sum()
    }

    /// Takes what changed into the store.
    pub fn refresh(&mut self, changed: &Changed) {
        let mut concerned = BTreeSet::new();
        match changed {
            Changed::Files(paths) if self.reachable() && self.root.is_dir() => {
                for path in paths {
                    self.look(path, &mut concerned);
                }
            }
            _ => self.scan(&mut concerned),
        }
        self.settle(concerned);
        if self.reachable() && self.files.values().all(|file| !file.incomplete) {
            self.store.forget_restored();
        }
    }

    /// Looks at every file; reads those that changed.
    fn scan(&mut self, concerned: &mut BTreeSet<ObjectKey>) {
        let mut found = BTreeMap::new();
        let result = walk(&self.root, MAX_DEPTH, &mut found);
        self.unreachable = result.err().map(|e| {
            let message = format!("the directory can't be read: {e}; what is known of the cluster stays");
            self.problem(self.root.clone(), None, message)
        });
        if self.unreachable.is_some() {
            return;
        }
        let gone: Vec<Arc<Path>> =
            self.files.keys().filter(|path| !found.contains_key(&***path)).cloned().collect();
        for path in gone {
            self.forget(&path, concerned);
        }
        for (path, stamp) in found {
            if self.files.get(&*path).is_none_or(|file| file.stamp != stamp) {
                self.read(&path, stamp, concerned);
            }
        }
        self.names.forget_unused();
    }

    /// Looks at one file.
    fn look(&mut self, path: &Path, concerned: &mut BTreeSet<ObjectKey>) {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => self.read(path, Stamp::of(&metadata), concerned),
            _ => self.forget(path, concerned),
        }
    }

    fn forget(&mut self, path: &Path, concerned: &mut BTreeSet<ObjectKey>) {
        if let Some(file) = self.files.remove(path) {
            self.total -= file.stamp.size;
            for key in file.objects.into_keys() {
                self.release(&key, path);
                concerned.insert(key);
            }
        }
    }

    fn release(&mut self, key: &ObjectKey, path: &Path) {
        if self.holders.get_mut(key).is_some_and(|holders| !holders.remove(path)) {
            self.holders.remove(key);
        }
    }

    fn read(&mut self, path: &Path, stamp: Stamp, concerned: &mut BTreeSet<ObjectKey>) {
        let (path, old) = self.files.remove_entry(path).unwrap_or_else(|| (Arc::from(path), File::default()));
        let path = &path;
        self.total = self.total - old.stamp.size + stamp.size;
        let mut file = match load(path, stamp, self.total, self.defaults) {
            Ok(mut parsed) => {
                parsed.objects = self.names.share(parsed.objects);
                self.accept(path, parsed, &old)
            }
            Err(note) => {
                let message = format!("{}; the objects that the file had stay", note.message);
                let problem = self.problem(path.to_path_buf(), Some(note.place), message);
                File {
                    problems: vec![problem],
                    objects: old.objects.clone(),
                    incomplete: true,
                    ..File::default()
                }
            }
        };
        file.stamp = stamp;
        for key in old.objects.keys().filter(|key| !file.objects.contains_key(*key)) {
            self.release(key, path);
            concerned.insert(key.clone());
        }
        for (key, object) in &file.objects {
            if old.objects.get(key) != Some(object) {
                match self.holders.get_mut(key) {
                    Some(holders) => holders.add(path),
                    None => drop(self.holders.insert(key.clone(), Holders::One(Arc::clone(path)))),
                }
                concerned.insert(key.clone());
            }
        }
        self.files.insert(Arc::clone(path), file);
    }

    /// The new version of a file, with what is missing from it taken from the old one.
    fn accept(&self, path: &Path, parsed: Parsed, old: &File) -> File {
        let mut incomplete = parsed.unidentified;
        let mut objects = BTreeMap::new();
        for (key, object) in parsed.objects {
            incomplete |= object.is_none();
            // What is the same stays the same, so that it is in memory only once.
            let known = old.objects.get(&key);
            if let Some(object) =
                known.filter(|known| object.as_ref().is_none_or(|new| new == *known)).cloned().or(object)
            {
                objects.insert(key, object);
            }
        }
        if parsed.unidentified {
            for (key, object) in &old.objects {
                objects.entry(key.clone()).or_insert_with(|| object.clone());
            }
        }
        let problem = |note: Note| SourceProblem {
            cluster: Arc::clone(&self.cluster),
            file: Some(path.to_owned()),
            place: Some(note.place),
            object: note.object,
            field: note.field,
            message: note.message,
        };
        let problems = parsed.notes.into_iter().map(problem).collect();
        File { objects, problems, ignored: parsed.ignored, incomplete, ..File::default() }
    }

    /// Brings the store up to date with the files, for the objects that are concerned.
    fn settle(&mut self, concerned: BTreeSet<ObjectKey>) {
        for key in concerned {
            let holders = self.holders.get(&key);
            let object = holders.and_then(|holders| self.files[holders.first()].objects.get(&key));
            self.store.apply(&key, object);
            if matches!(holders, Some(Holders::Several(_))) {
                self.contested.insert(key);
            } else {
                self.contested.remove(&key);
            }
        }
    }

    fn problem(&self, file: PathBuf, place: Option<Place>, message: String) -> SourceProblem {
        let cluster = Arc::clone(&self.cluster);
        SourceProblem { cluster, file: Some(file), place, object: None, field: String::new(), message }
    }

    /// Everything that is wrong now, sorted.
    #[must_use]
    pub fn problems(&self) -> Vec<SourceProblem> {
        let mut problems: Vec<SourceProblem> = self.unreachable.iter().cloned().collect();
        problems.extend(self.files.values().flat_map(|file| file.problems.iter().cloned()));
        for key in &self.contested {
            let Holders::Several(holders) = &self.holders[key] else { continue };
            let mut holders = holders.iter();
            let first = holders.next().expect("several are at least two");
            for path in holders {
                let message = format!("stands in {} too, which counts: remove one", first.display());
                let problem = self.problem(path.to_path_buf(), None, message);
                problems.push(SourceProblem { object: Some(key.clone()), ..problem });
            }
        }
        problems.sort();
        problems
    }
}

/// The files of manifests in `directory` and below.
fn walk(directory: &Path, depth: usize, found: &mut BTreeMap<PathBuf, Stamp>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if is_hidden(&path) {
            continue;
        }
        // Follows symbolic links: files of a ConfigMap's volume are some. What vanishes meanwhile is not there.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.is_dir() && depth > 0 {
            walk(&path, depth - 1, found)?;
        } else if metadata.is_file() && is_manifest(&path) {
            found.insert(path, Stamp::of(&metadata));
        }
        if found.len() > MAX_ENTRIES {
            return Err(io::Error::other(format!("it has more than {MAX_ENTRIES} files")));
        }
    }
    Ok(())
}

fn load(path: &Path, stamp: Stamp, total: u64, defaults: Defaults) -> Result<Parsed, Note> {
    let broken = |message: String| Note {
        place: Place { line: 1, column: 1 },
        object: None,
        field: String::new(),
        message,
    };
    if stamp.size > MAX_FILE {
        return Err(broken(format!(
            "has {} MiB, at most {} are read: split it",
            stamp.size >> 20,
            MAX_FILE >> 20
        )));
    }
    if total > MAX_TOTAL {
        return Err(broken(format!("with it the directory has more than {} MiB", MAX_TOTAL >> 20)));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(stamp.size).unwrap_or(0));
    let read = fs::File::open(path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes));
    read.map_err(|e| broken(format!("can't be read: {e}")))?;
    // A fault of the parser's must not end the cluster's source.
    std::panic::catch_unwind(|| file::parse(&bytes, defaults)).unwrap_or_else(|_| {
        Err(broken("can't be parsed: a fault of fairlead's, please report it".to_owned()))
    })
}

#[cfg(test)]
mod tests;
