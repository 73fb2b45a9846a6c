//! The files that hold an object: where several do, the first by path counts.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

/// The files that hold one object; nearly always one does.
pub(super) enum Holders {
    One(Arc<Path>),
    /// At least two.
    Several(BTreeSet<Arc<Path>>),
}

impl Holders {
    /// The one that counts.
    pub(super) fn first(&self) -> &Arc<Path> {
        match self {
            Self::One(path) => path,
            Self::Several(paths) => paths.first().expect("several are at least two"),
        }
    }

    pub(super) fn add(&mut self, path: &Arc<Path>) {
        match self {
            Self::One(one) if one == path => {}
            Self::One(one) => *self = Self::Several(BTreeSet::from([Arc::clone(one), Arc::clone(path)])),
            Self::Several(paths) => drop(paths.insert(Arc::clone(path))),
        }
    }

    /// Whether any is left.
    pub(super) fn remove(&mut self, path: &Path) -> bool {
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
