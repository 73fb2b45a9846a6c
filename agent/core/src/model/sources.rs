//! Which clusters contribute what to which service.
//!
//! Clusters and the previous model are walked side by side, in the order of names. Where every cluster still has the very
//! objects that a service was made from, nothing is read but pointers: that is nearly always so.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::sync::Arc;

use super::withdrawal::Withdrawn;
use super::{ClusterState, Declarations, Model, ObjectName, Service, ShardSpec};

/// What one cluster contributes to a service.
#[derive(Clone, Debug)]
pub(super) struct Source<'a> {
    /// The cluster's position among the declared ones.
    at: usize,
    pub(super) cluster: &'a Arc<str>,
    pub(super) reachable: bool,
    /// Nothing of it is held.
    pub(super) accepted: bool,
    name: &'a ObjectName,
    pub(super) spec: &'a Arc<ShardSpec>,
}

/// A [`Source`] to remember, and to recognise by its pointers.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    at: usize,
    reachable: bool,
    name: ObjectName,
    spec: Arc<ShardSpec>,
}

impl Origin {
    pub(super) fn of(source: &Source<'_>) -> Self {
        let (name, spec) = (source.name.clone(), Arc::clone(source.spec));
        Self { at: source.at, reachable: source.reachable, name, spec }
    }
}

/// How many services each cluster has.
pub(super) fn sizes(declared: &Declarations, origins: &[Arc<[Origin]>]) -> BTreeMap<Arc<str>, usize> {
    let mut counts = vec![0; declared.clusters.len()];
    for origin in origins.iter().flat_map(|origins| &**origins) {
        counts[origin.at] += 1;
    }
    declared.clusters.keys().cloned().zip(counts).collect()
}

/// One service on the walk.
pub(super) enum Stop<'a> {
    /// It is made of the same objects as before.
    Same(&'a Arc<Service>, &'a Arc<[Origin]>),
    /// It may have changed.
    Look(&'a ObjectName, Vec<Source<'a>>, Option<&'a Arc<Service>>),
}

/// Walks over all services.
pub(super) struct Walk<'a> {
    feeds: Vec<Feed<'a>>,
    previous: Known<'a>,
    /// Whether the same objects make the same service.
    comparable: bool,
}

/// The services of the previous model.
type Known<'a> = Peekable<Box<dyn Iterator<Item = (&'a Arc<Service>, &'a Arc<[Origin]>)> + 'a>>;

/// The services of one cluster.
type Rows<'a> = Peekable<Box<dyn Iterator<Item = (&'a ObjectName, &'a Arc<ShardSpec>)> + 'a>>;

struct Feed<'a> {
    cluster: &'a Arc<str>,
    reachable: bool,
    accepted: bool,
    rows: Rows<'a>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        declared: &'a Declarations,
        states: &'a BTreeMap<Arc<str>, ClusterState>,
        withdrawn: &Withdrawn,
        previous: Option<&'a Model>,
        comparable: bool,
    ) -> Self {
        let feed = |cluster: &'a Arc<str>| {
            let state = states.get(cluster);
            let reachable = state.is_some_and(|state| state.reachable) && !withdrawn.contains_key(cluster);
            let rows: Box<dyn Iterator<Item = _>> = match state {
                Some(state) if reachable => Box::new(state.shards.iter()),
                _ => Box::new(last_known(cluster, state, previous).into_iter()),
            };
            Feed {
                cluster,
                reachable,
                accepted: state.is_some_and(|state| state.accepted),
                rows: rows.peekable(),
            }
        };
        let services = previous.into_iter().flat_map(|model| model.services.values().zip(&model.origins));
        let services: Box<dyn Iterator<Item = _>> = Box::new(services);
        Self {
            feeds: declared.clusters.keys().map(feed).collect(),
            previous: services.peekable(),
            comparable,
        }
    }

    /// Whether the next service of the previous model is the next of all, and made of the same objects.
    fn next_is_same(&mut self) -> bool {
        let Some((service, origins)) = self.previous.peek() else { return false };
        let mut origins = origins.iter().peekable();
        for (at, feed) in self.feeds.iter_mut().enumerate() {
            let row = feed.rows.peek();
            match origins.next_if(|origin| origin.at == at) {
                Some(origin) => {
                    let same = |(name, spec): &(&ObjectName, &Arc<ShardSpec>)| {
                        Arc::ptr_eq(spec, &origin.spec)
                            && Arc::ptr_eq(&name.name, &origin.name.name)
                            && Arc::ptr_eq(&name.namespace, &origin.name.namespace)
                    };
                    if origin.reachable != feed.reachable || !row.is_some_and(same) {
                        return false;
                    }
                }
                None if row.is_some_and(|(name, _)| **name <= service.name) => return false,
                None => {}
            }
        }
        // What is held depends on probes, too.
        !service.shards.iter().any(|shard| shard.held)
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = Stop<'a>;

    fn next(&mut self) -> Option<Stop<'a>> {
        if self.comparable && self.next_is_same() {
            let (service, origins) = self.previous.next().expect("it was compared");
            for origin in origins.iter() {
                self.feeds[origin.at].rows.next();
            }
            return Some(Stop::Same(service, origins));
        }
        let name = self.feeds.iter_mut().filter_map(|feed| feed.rows.peek().map(|(name, _)| *name)).min()?;
        while self.previous.next_if(|(service, _)| service.name < *name).is_some() {}
        let before = self.previous.next_if(|(service, _)| service.name == *name).map(|(service, _)| service);
        let mut sources = Vec::new();
        for (at, feed) in self.feeds.iter_mut().enumerate() {
            if let Some((name, spec)) = feed.rows.next_if(|(row, _)| *row == name) {
                let Feed { cluster, reachable, accepted, .. } = *feed;
                sources.push(Source { at, cluster, reachable, accepted, name, spec });
            }
        }
        Some(Stop::Look(name, sources, before))
    }
}

/// A cluster that can't be reached says nothing about what it has no word of: the previous model's shards stand in.
fn last_known<'a>(
    cluster: &str,
    state: Option<&'a ClusterState>,
    previous: Option<&'a Model>,
) -> BTreeMap<&'a ObjectName, &'a Arc<ShardSpec>> {
    let services = previous.into_iter().flat_map(|model| model.services.values());
    let shard = |service: &'a Arc<Service>| {
        let shard = service.shards.iter().find(|shard| *shard.cluster == *cluster)?;
        Some((&service.name, &shard.spec))
    };
    let mut known: BTreeMap<_, _> = services.filter_map(shard).collect();
    known.extend(state.into_iter().flat_map(|state| &state.shards));
    known
}
