//! Declarations and cluster states into one model.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{ClusterState, Declarations, Health, Model};

/// Merges.
#[must_use]
pub fn merge(
    declared: &Arc<Declarations>,
    _states: &BTreeMap<Arc<str>, ClusterState>,
    _health: &Health,
    _previous: Option<&Model>,
) -> Model {
    Model { declared: Arc::clone(declared), ..Model::default() }
}
