//! The mass-withdrawal guard for whole clusters: a source that can be read, and suddenly shows next to nothing.
//!
//! An API server may have been set up anew, or set back to an empty backup, while its pods live. Then the cluster counts as one
//! that can't be reached: what was known of it stays, and probes decide, until its services are back or somebody accepts that they
//! are gone. Of one service alone [`draft`](super::draft) decides.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{ClusterState, Declarations, Model, ObjectName, Problem};

/// By cluster of which services are held: those that it had when that began.
pub type Withdrawn = BTreeMap<Arc<str>, Arc<BTreeSet<ObjectName>>>;

/// What is held from now on.
pub(super) fn withdrawn(
    declared: &Declarations,
    states: &BTreeMap<Arc<str>, ClusterState>,
    previous: Option<&Model>,
) -> Withdrawn {
    let Some(previous) = previous else { return Withdrawn::new() };
    let percent = usize::from(declared.tuning.withdrawal_percent);
    let mut withdrawn = Withdrawn::new();
    for (cluster, state) in states.iter().filter(|(cluster, _)| declared.clusters.contains_key(*cluster)) {
        if !state.reachable {
            // It says nothing: what was held is held.
            withdrawn.extend(
                previous.withdrawn.get_key_value(cluster).map(|(name, had)| (name.clone(), had.clone())),
            );
        } else if !state.accepted {
            let had = match previous.withdrawn.get(cluster) {
                Some(had) => Arc::clone(had),
                None if is_mass(previous.sizes.get(cluster), state.shards.len(), percent) => {
                    names(previous, cluster)
                }
                None => continue,
            };
            let left = had.iter().filter(|name| state.shards.contains_key(*name)).count();
            if is_mass(Some(&had.len()), left, percent) {
                withdrawn.insert(Arc::clone(cluster), had);
            }
        }
    }
    withdrawn
}

/// Whether so many are gone, of more than one.
fn is_mass(had: Option<&usize>, left: usize, percent: usize) -> bool {
    had.is_some_and(|&had| had > 1 && had.saturating_sub(left) * 100 >= percent * had)
}

fn names(model: &Model, cluster: &Arc<str>) -> Arc<BTreeSet<ObjectName>> {
    let services = model.services.values();
    let of_cluster = services.filter(|service| service.shards.iter().any(|shard| shard.cluster == *cluster));
    Arc::new(of_cluster.map(|service| service.name.clone()).collect())
}

/// That they are held.
pub(super) fn problems<'a>(
    withdrawn: &'a Withdrawn,
    states: &'a BTreeMap<Arc<str>, ClusterState>,
) -> impl Iterator<Item = Problem> + 'a {
    withdrawn.iter().map(|(cluster, had)| {
        let state = states.get(cluster);
        let gone =
            had.iter().filter(|name| !state.is_some_and(|state| state.shards.contains_key(*name))).count();
        let of = had.len();
        Problem {
            object: None,
            cluster: Some(Arc::clone(cluster)),
            field: "services".to_owned(),
            what: format!(
                "{gone} of {of} are suddenly gone from its source; they are held, and probes decide"
            ),
            hint: Some(format!("`fairlead accept-withdrawal {cluster}` lets them go")),
        }
    })
}
