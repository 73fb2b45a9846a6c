//! Which files hold what belongs to each service. Kept until an object moves: endpoints change far more often.

use std::sync::Arc;

use super::Manifests;
use crate::federation::convert::{Kind, Object};
use crate::federation::located::Located;

impl Manifests {
    /// The files of each service.
    pub fn located(&mut self) -> Arc<Located> {
        if let Some(known) = &self.located {
            return Arc::clone(known);
        }
        let mut located = Located::new();
        for (key, holders) in &self.holders {
            let path = holders.first();
            match self.files[&**path].objects.get(key) {
                Some(Object::Slice(slice)) => {
                    let slices = &mut located.entry(slice.service.clone()).or_default().slices;
                    if !slices.contains(path) {
                        slices.push(Arc::clone(path));
                    }
                }
                _ if key.kind == Kind::Service => {
                    located.entry(key.name.clone()).or_default().service = Some(Arc::clone(path));
                }
                _ => {}
            }
        }
        Arc::clone(self.located.insert(Arc::new(located)))
    }
}

/// Whether the new version of an object belongs to the same service as the one before.
pub(super) fn stays(old: Option<&Object>, new: &Object) -> bool {
    match (old, new) {
        (Some(Object::Slice(old)), Object::Slice(new)) => old.service == new.service,
        (old, _) => old.is_some(),
    }
}
