//! The objects of one cluster, joined to shards.
//!
//! Changes of single objects come in, from whatever source; out go the shards, of which only those are built
//! anew that a change concerns: all others stay the same `Arc`.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use fairlead_core::model::{Conditions, Endpoint, ObjectName, ShardSpec};

use super::convert::{Identity, Kind, Object, ObjectKey, Slice};

/// All objects of one cluster that are read.
#[derive(Debug, Default)]
pub struct Store {
    /// Services of ours, without endpoints.
    services: BTreeMap<ObjectName, Arc<ShardSpec>>,
    slices: HashMap<ObjectName, Arc<Slice>>,
    /// The slices of each service, sorted; also of those that are not ours (yet). Nearly always one or two.
    slices_of: HashMap<ObjectName, Vec<ObjectName>>,
    /// Names of the nodes with a receiver.
    receivers: HashSet<Arc<str>>,
    /// As last built.
    shards: BTreeMap<ObjectName, Arc<ShardSpec>>,
    /// What has to be built anew.
    stale: BTreeSet<ObjectName>,
    /// What was known before a restart, for objects that have not been read since.
    restored: BTreeMap<ObjectName, Arc<ShardSpec>>,
}

impl Store {
    /// An empty store that falls back to `restored` until [`forget_restored`](Self::forget_restored).
    #[must_use]
    pub fn new(restored: BTreeMap<ObjectName, Arc<ShardSpec>>) -> Self {
        Self { stale: restored.keys().cloned().collect(), restored, ..Self::default() }
    }

    /// Every object that there is has been read: what isn't here is gone.
    pub fn forget_restored(&mut self) {
        self.stale.extend(std::mem::take(&mut self.restored).into_keys());
    }

    /// Takes the new version of an object; `None`: it is gone.
    pub fn apply(&mut self, key: &ObjectKey, object: Option<&Object>) {
        match key.kind {
            Kind::Service => {
                self.services.remove(&key.name);
                if let Some(Object::Service(spec)) = object {
                    self.services.insert(key.name.clone(), Arc::clone(spec));
                }
                self.stale.insert(key.name.clone());
            }
            Kind::EndpointSlice => {
                let new = match object {
                    Some(Object::Slice(slice)) => Some(Arc::clone(slice)),
                    _ => None,
                };
                self.replace_slice(&key.name, new);
            }
            Kind::Node => {
                self.set_receiver(&key.name.name, matches!(object, Some(Object::Node { receiver: true })));
            }
        }
    }

    fn replace_slice(&mut self, name: &ObjectName, new: Option<Arc<Slice>>) {
        if let Some(old) = self.slices.remove(name) {
            if let Entry::Occupied(mut of_service) = self.slices_of.entry(old.service.clone()) {
                of_service.get_mut().retain(|slice| slice != name);
                if of_service.get().is_empty() {
                    of_service.remove();
                }
            }
            self.stale.insert(old.service.clone());
        }
        if let Some(new) = new {
            let of_service = self.slices_of.entry(new.service.clone()).or_default();
            if let Err(place) = of_service.binary_search(name) {
                of_service.reserve_exact(1);
                of_service.insert(place, name.clone());
            }
            self.stale.insert(new.service.clone());
            self.slices.insert(name.clone(), new);
        }
    }

    fn set_receiver(&mut self, node: &Arc<str>, receiver: bool) {
        let changed =
            if receiver { self.receivers.insert(Arc::clone(node)) } else { self.receivers.remove(node) };
        if changed {
            let concerned = |slice: &&Arc<Slice>| slice.endpoints.iter().any(|e| e.endpoint.node == *node);
            let services = self.slices.values().filter(concerned).map(|slice| slice.service.clone());
            self.stale.extend(services.collect::<Vec<_>>());
        }
    }

    /// The shards as the objects now make them.
    pub fn shards(&mut self) -> &BTreeMap<ObjectName, Arc<ShardSpec>> {
        for name in std::mem::take(&mut self.stale) {
            match self.build(&name) {
                None => {
                    self.shards.remove(&name);
                }
                Some(spec) => match self.shards.get_mut(&name) {
                    Some(known) if **known == *spec => {}
                    Some(known) => *known = spec,
                    None => {
                        self.shards.insert(name, spec);
                    }
                },
            }
        }
        &self.shards
    }

    fn build(&self, name: &ObjectName) -> Option<Arc<ShardSpec>> {
        let restored = self.restored.get(name);
        let Some(service) = self.services.get(name) else { return restored.cloned() };
        let slices = self.slices_of.get(name);
        let endpoints = match (slices, restored) {
            (None, Some(restored)) => Arc::clone(&restored.endpoints),
            (slices, _) => {
                let slices = slices.into_iter().flatten().map(|slice| &*self.slices[slice]);
                Arc::new(join(slices, &self.receivers))
            }
        };
        Some(Arc::new(ShardSpec { endpoints, ..(**service).clone() }))
    }
}

/// The endpoints of a service's slices: each pod once, with its addresses of both IP versions.
///
/// While slices are rewritten, an endpoint can stand in two of them; then the better conditions count, since the
/// slice that says less may be the older one (as kube-proxy does).
fn join<'s>(slices: impl Iterator<Item = &'s Slice> + Clone, receivers: &HashSet<Arc<str>>) -> Vec<Endpoint> {
    let most = slices.clone().map(|slice| slice.endpoints.len()).sum();
    let mut endpoints: Vec<Endpoint> = Vec::with_capacity(most);
    let mut known: HashMap<&Identity, usize> = HashMap::new();
    for source in slices.flat_map(|slice| &slice.endpoints) {
        match known.entry(&source.identity) {
            Entry::Vacant(entry) => {
                entry.insert(endpoints.len());
                let receiver = receivers.contains(&source.endpoint.node);
                endpoints.push(Endpoint { receiver, ..source.endpoint.clone() });
            }
            Entry::Occupied(entry) => unite(&mut endpoints[*entry.get()], &source.endpoint),
        }
    }
    endpoints.shrink_to_fit();
    endpoints.sort_by(|a, b| (&a.pod, a.v4, a.v6).cmp(&(&b.pod, b.v4, b.v6)));
    endpoints
}

fn unite(endpoint: &mut Endpoint, other: &Endpoint) {
    let rank = |c: Conditions| (c.takes_new(), c.ready, c.serving, !c.terminating);
    let better = rank(other.conditions) > rank(endpoint.conditions);
    let same_family = endpoint.v4.is_some() == other.v4.is_some();
    if better {
        endpoint.conditions = other.conditions;
    }
    if same_family && better {
        // The same pod with another address: the better one's.
        (endpoint.v4, endpoint.v6) = (other.v4.or(endpoint.v4), other.v6.or(endpoint.v6));
    } else {
        (endpoint.v4, endpoint.v6) = (endpoint.v4.or(other.v4), endpoint.v6.or(other.v6));
    }
    if endpoint.ports != other.ports {
        let ports = Arc::make_mut(&mut endpoint.ports);
        for (name, &number) in &*other.ports {
            if better {
                ports.insert(Arc::clone(name), number);
            } else {
                ports.entry(Arc::clone(name)).or_insert(number);
            }
        }
    }
}
