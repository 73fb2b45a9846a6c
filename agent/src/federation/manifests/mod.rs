//! A directory of manifests as a cluster's source.
//!
//! In comes a directory, with all directories in it; out go the objects of its `*.yaml`, `*.yml` and `*.json`, joined
//! to shards. Only files that changed are read again. A file that can't be read keeps the objects that it had, an
//! object that is rejected keeps its last good version; where the directory is gone, or all of its files at once,
//! everything stays as it was and the cluster counts as unreachable. Names that begin with `.` are passed over, as
//! editors and Kubernetes' ConfigMap volumes want it. All of this blocks; the task around it is
//! [`follow`].

mod file;
mod follow;
mod holders;
mod load;
mod located;
mod walk;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::convert::{Defaults, Kind, Object, ObjectKey};
use super::located::Located;
use super::names::Names;
use super::problem::SourceProblem;
use super::store::Store;
use crate::directory::{Changed, Stamp};
use crate::yaml::Place;
use file::{Note, Parsed};
pub(super) use follow::follow;
use holders::Holders;
use load::{Refusal, load};
use located::stays;
use walk::{Found, MAX_DEPTH, Unseen, Walk, is_manifest};

/// The manifests of one cluster.
pub struct Manifests {
    cluster: Arc<str>,
    root: PathBuf,
    defaults: Defaults,
    store: Store,
    names: Names,
    files: BTreeMap<Arc<Path>, File>,
    /// Bytes of all files that were taken.
    total: u64,
    /// Which files hold an object. The first by path counts.
    holders: BTreeMap<ObjectKey, Holders>,
    /// Objects that more than one file holds.
    contested: BTreeSet<ObjectKey>,
    /// Which files hold what belongs to each service, unless something has moved since that was asked.
    located: Option<Arc<Located>>,
    /// Why the directory can't be read.
    unreachable: Option<SourceProblem>,
    /// What in it can't be looked at; files there stay as they were.
    unseen: Vec<SourceProblem>,
    /// Files that were not read because they are being written.
    passed_over: HashSet<PathBuf>,
}

/// What is known of a file.
#[derive(Default)]
struct File {
    /// Of the content that was judged; `None`: it could not be, and is to be read again.
    stamp: Option<Stamp>,
    /// What it has of the total: the size of the content that its objects are of.
    size: u64,
    /// With last good versions of what is rejected now.
    objects: BTreeMap<ObjectKey, Object>,
    problems: Vec<SourceProblem>,
    ignored: usize,
    /// Objects of it may be missing, because they could not be read.
    incomplete: bool,
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
            located: None,
            unreachable: None,
            unseen: Vec::new(),
            passed_over: HashSet::new(),
        }
    }

    /// The objects as they now are.
    pub fn store(&mut self) -> &mut Store {
        &mut self.store
    }

    /// The file whose version of an object counts.
    #[must_use]
    pub fn file_of(&self, key: &ObjectKey) -> Option<&Path> {
        self.holders.get(key).map(|holders| &**holders.first())
    }

    /// The names of all Nodes, and of those that endpoints of our services are on.
    pub fn nodes(&mut self) -> BTreeSet<Arc<str>> {
        let endpoints = self.store.shards().values().flat_map(|spec| &*spec.endpoints);
        let of_endpoints =
            endpoints.map(|endpoint| Arc::clone(&endpoint.node)).filter(|node| !node.is_empty());
        let mut nodes: BTreeSet<Arc<str>> = of_endpoints.collect();
        let objects = self.holders.keys().filter(|key| key.kind == Kind::Node);
        nodes.extend(objects.map(|key| Arc::clone(&key.name.name)));
        nodes
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

    /// Takes what changed into the store. Of files that are `being_written` a change will be told later.
    pub fn refresh(&mut self, changed: &Changed, being_written: &dyn Fn(&Path) -> bool) {
        let mut concerned = BTreeSet::new();
        let one_by_one = match changed {
            Changed::Files(paths) if self.reachable() && self.root.is_dir() && self.leaves_some(paths) => {
                paths.iter().all(|path| self.look(path, &mut concerned))
            }
            _ => false,
        };
        if !one_by_one {
            self.scan(being_written, &mut concerned);
        }
        self.settle(concerned);
        let seen = self.reachable() && self.unseen.is_empty() && self.passed_over.is_empty();
        if seen && self.files.values().all(|file| !file.incomplete) {
            self.store.forget_restored();
        }
    }

    /// Whether there is a file after a change of these.
    fn leaves_some(&self, paths: &HashSet<PathBuf>) -> bool {
        self.files.keys().any(|path| !paths.contains(&**path)) || paths.iter().any(|path| path.is_file())
    }

    /// Looks at every file; reads those that changed.
    fn scan(&mut self, being_written: &dyn Fn(&Path) -> bool, concerned: &mut BTreeSet<ObjectKey>) {
        let mut walk = Walk::default();
        let walked = walk.directory(&self.root, MAX_DEPTH);
        let why = match walked {
            Err(e) => Some(format!("the directory can't be read: {e}")),
            Ok(()) if walk.found.is_empty() && walk.unseen.is_empty() && self.knows_some() => Some(
                "the directory has no manifests any more; to withdraw all, leave a file with nothing but a comment"
                    .to_owned(),
            ),
            Ok(()) => None,
        };
        self.unreachable = why.map(|why| {
            self.problem(self.root.clone(), None, format!("{why}; what is known of the cluster stays"))
        });
        if self.unreachable.is_some() {
            return;
        }
        let Walk { found, mut unseen, .. } = walk;
        // A link to nowhere that has not the name of a file matters if it led to a directory with some.
        unseen.retain(|(path, why)| {
            !matches!(why, Unseen::Nowhere(_)) || is_manifest(path) || self.knows_below(path)
        });
        let hidden = |path: &Path| {
            let hides = |(unseen, why): &(PathBuf, Unseen)| {
                path == unseen || (why.hides_what_is_below() && path.starts_with(unseen))
            };
            unseen.iter().any(hides)
        };
        let gone = |path: &Path| !found.contains_key(path) && !hidden(path);
        let gone: Vec<Arc<Path>> = self.files.keys().filter(|path| gone(path)).cloned().collect();
        for path in gone {
            self.forget(&path, concerned);
        }
        self.passed_over.clear();
        for (path, stamp) in found {
            if self.files.get(&*path).is_some_and(|file| file.stamp == Some(stamp)) {
                continue;
            }
            if being_written(&path) {
                self.passed_over.insert(path);
            } else {
                self.read(&path, stamp, concerned);
            }
        }
        let unseen = unseen
            .into_iter()
            .map(|(path, why)| self.problem(path, None, format!("{why}; what was known of it stays")));
        self.unseen = unseen.collect();
        self.names.forget_unused();
    }

    /// Whether there were manifests: read ones, or before a restart.
    fn knows_some(&self) -> bool {
        !self.files.is_empty() || self.store.has_restored()
    }

    /// Looks at one file; `false`: it can't be looked at, or couldn't be before, and all is to be looked at.
    fn look(&mut self, path: &Path, concerned: &mut BTreeSet<ObjectKey>) -> bool {
        if self.unseen.iter().any(|problem| problem.file.as_deref() == Some(path)) {
            return false;
        }
        match Found::at(path) {
            Found::File(stamp) => {
                self.passed_over.remove(path);
                self.read(path, stamp, concerned);
            }
            Found::Nothing => {
                self.passed_over.remove(path);
                self.forget(path, concerned);
            }
            Found::Directory | Found::Unseen(_) => return false,
        }
        true
    }

    /// Whether there were files in the directory `path`.
    fn knows_below(&self, path: &Path) -> bool {
        let mut from = self.files.range::<Path, _>((Bound::Excluded(path), Bound::Unbounded));
        from.next().is_some_and(|(file, _)| file.starts_with(path))
    }

    fn forget(&mut self, path: &Path, concerned: &mut BTreeSet<ObjectKey>) {
        if let Some(file) = self.files.remove(path) {
            self.total -= file.size;
            for key in file.objects.into_keys() {
                self.release(&key, path);
                concerned.insert(key);
            }
        }
    }

    fn release(&mut self, key: &ObjectKey, path: &Path) {
        self.located = None;
        if self.holders.get_mut(key).is_some_and(|holders| !holders.remove(path)) {
            self.holders.remove(key);
        }
    }

    fn read(&mut self, path: &Path, stamp: Stamp, concerned: &mut BTreeSet<ObjectKey>) {
        let (path, old) = self.files.remove_entry(path).unwrap_or_else(|| (Arc::from(path), File::default()));
        let path = &path;
        self.total -= old.size;
        let file = match load(path, stamp, self.total, self.defaults) {
            Ok(mut parsed) => {
                parsed.objects = self.names.share(parsed.objects);
                File { stamp: Some(stamp), size: stamp.size, ..self.accept(path, parsed, &old) }
            }
            Err(refusal) => {
                let (note, stamp) = match refusal {
                    Refusal::Content(note) => (note, Some(stamp)),
                    Refusal::Circumstances(note) => (note, None),
                };
                let message = format!("{}; the objects that the file had stay", note.message);
                let problem = self.problem(path.to_path_buf(), Some(note.place), message);
                File {
                    stamp,
                    size: old.size,
                    problems: vec![problem],
                    objects: old.objects.clone(),
                    incomplete: true,
                    ..File::default()
                }
            }
        };
        self.total += file.size;
        for key in old.objects.keys().filter(|key| !file.objects.contains_key(*key)) {
            self.release(key, path);
            concerned.insert(key.clone());
        }
        for (key, object) in &file.objects {
            let known = old.objects.get(key);
            if known != Some(object) {
                if !stays(known, object) {
                    self.located = None;
                }
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
            let object = holders.and_then(|holders| self.files[&**holders.first()].objects.get(&key));
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
        let mut problems: Vec<SourceProblem> = self.unreachable.iter().chain(&self.unseen).cloned().collect();
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

#[cfg(test)]
mod tests;
