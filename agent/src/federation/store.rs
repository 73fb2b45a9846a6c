//! The objects of one cluster, joined to shards.
//!
//! Changes of single objects come in, from whatever source; out go the shards, of which only those are built
//! anew that a change concerns: all others stay the same `Arc`.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use fairlead_core::model::{Conditions, Endpoint, ObjectName, ShardSpec};

use super::convert::{Drains, Identity, Kind, Object, ObjectKey, Slice};
use super::source::Tally;

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
    /// What is drained. Before it was read after a restart: the pods that were drained then.
    drains: Arc<Drains>,
    /// As last built.
    shards: BTreeMap<ObjectName, Arc<ShardSpec>>,
    /// What has to be built anew.
    stale: BTreeSet<ObjectName>,
    /// What was known before a restart, for objects that have not been read since: endpoints that a slice names, or
    /// services that are deleted, don't come back from here.
    restored: BTreeMap<ObjectName, Arc<ShardSpec>>,
    /// Nodes that had a receiver before a restart and have not been read since.
    restored_receivers: HashSet<Arc<str>>,
    /// What is drained has not been read since a restart.
    restored_drains: bool,
}

impl Store {
    /// An empty store that falls back to `restored` until [`forget_restored`](Self::forget_restored).
    #[must_use]
    pub fn new(restored: BTreeMap<ObjectName, Arc<ShardSpec>>) -> Self {
        let endpoints = restored.values().flat_map(|spec| &*spec.endpoints);
        let receivers = endpoints.filter(|endpoint| endpoint.receiver);
        let drains = Drains { pods: drained(&restored).collect(), ..Drains::default() };
        Self {
            stale: restored.keys().cloned().collect(),
            restored_receivers: receivers.map(|endpoint| Arc::clone(&endpoint.node)).collect(),
            restored_drains: !drains.is_empty(),
            drains: Arc::new(drains),
            restored,
            ..Self::default()
        }
    }

    /// Every object that there is has been read: what isn't here is gone.
    pub fn forget_restored(&mut self) {
        if std::mem::take(&mut self.restored_drains) {
            self.drains = Arc::default();
            self.all_stale();
        }
        if !self.restored.is_empty() || !self.restored_receivers.is_empty() {
            self.stale.extend(std::mem::take(&mut self.restored).into_keys());
            self.stale.extend(self.services.keys().cloned());
            self.restored_receivers = HashSet::new();
        }
    }

    /// Whether something counts that was known before a restart and has not been read since.
    #[must_use]
    pub fn has_restored(&self) -> bool {
        !self.restored.is_empty()
    }

    /// Takes the new version of an object; `None`: it is gone.
    pub fn apply(&mut self, key: &ObjectKey, object: Option<&Object>) {
        match key.kind {
            Kind::Service => {
                self.services.remove(&key.name);
                if let Some(Object::Service(spec)) = object {
                    self.services.insert(key.name.clone(), Arc::clone(spec));
                } else {
                    self.restored.remove(&key.name);
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
            Kind::Drains => {
                self.drains = match object {
                    Some(Object::Drains(drains)) => Arc::clone(drains),
                    _ => Arc::default(),
                };
                self.restored_drains = false;
                self.all_stale();
            }
        }
    }

    /// How many objects count.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let slices = self.services.keys().map(|service| self.slices_of(service).len()).sum();
        Tally { services: self.services.len(), slices, receivers: self.receivers.len() }
    }

    /// The slices of a service.
    #[must_use]
    pub fn slices_of(&self, service: &ObjectName) -> &[ObjectName] {
        self.slices_of.get(service).map(Vec::as_slice).unwrap_or_default()
    }

    /// A slice that counts.
    #[must_use]
    pub fn slice(&self, name: &ObjectName) -> Option<&Slice> {
        self.slices.get(name).map(|slice| &**slice)
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
            if let Some(restored) = self.restored.get_mut(&new.service)
                && !restored.endpoints.is_empty()
            {
                let endpoints = Arc::new(unnamed(&restored.endpoints, &new));
                *restored = Arc::new(ShardSpec { endpoints, ..(**restored).clone() });
            }
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
        let before = self.has_receiver(node);
        self.restored_receivers.remove(node);
        if receiver {
            self.receivers.insert(Arc::clone(node));
        } else {
            self.receivers.remove(node);
        }
        if before != receiver {
            let concerned = |slice: &&Arc<Slice>| slice.endpoints.iter().any(|e| e.endpoint.node == *node);
            let services = self.slices.values().filter(concerned).map(|slice| slice.service.clone());
            self.stale.extend(services.collect::<Vec<_>>());
            let restored = self.restored.iter();
            let concerned = restored.filter(|(_, spec)| spec.endpoints.iter().any(|e| e.node == *node));
            self.stale.extend(concerned.map(|(name, _)| name.clone()));
        }
    }

    /// Each is built anew, and stays the same where nothing of it is another.
    fn all_stale(&mut self) {
        self.stale.extend(self.services.keys().chain(self.restored.keys()).cloned());
    }

    /// What is drained now.
    #[must_use]
    pub fn drains(&self) -> &Arc<Drains> {
        &self.drains
    }

    fn has_receiver(&self, node: &Arc<str>) -> bool {
        self.receivers.contains(node) || self.restored_receivers.contains(node)
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
        let service = self.services.get(name).or(restored)?;
        let slices = self.slices_of.get(name).into_iter().flatten().map(|slice| &*self.slices[slice]);
        let as_known = |endpoint: &Endpoint| {
            endpoint.receiver == self.has_receiver(&endpoint.node)
                && endpoint.drained == self.drains.concern(&name.namespace, endpoint)
        };
        if let Some(restored) = restored.filter(|spec| spec.endpoints.iter().all(as_known))
            && slices.clone().next().is_none()
        {
            let endpoints = Arc::clone(&restored.endpoints);
            return Some(Arc::new(ShardSpec {
                drained: self.drains.cluster,
                endpoints,
                ..(**service).clone()
            }));
        }
        let mut endpoints = join(slices);
        if let Some(restored) = restored {
            add_restored(&mut endpoints, &restored.endpoints);
        }
        for endpoint in &mut endpoints {
            endpoint.receiver = self.has_receiver(&endpoint.node);
            endpoint.drained = self.drains.concern(&name.namespace, endpoint);
            if service.publish_not_ready {
                publish(endpoint);
            }
        }
        endpoints.shrink_to_fit();
        endpoints.sort_by(|a, b| (&a.pod, a.v4, a.v6).cmp(&(&b.pod, b.v4, b.v6)));
        let (drained, endpoints) = (self.drains.cluster, Arc::new(endpoints));
        Some(Arc::new(ShardSpec { drained, endpoints, ..(**service).clone() }))
    }
}

/// The pods that are drained in shards.
fn drained(shards: &BTreeMap<ObjectName, Arc<ShardSpec>>) -> impl Iterator<Item = ObjectName> {
    shards.iter().flat_map(|(name, spec)| {
        let drained = spec.endpoints.iter().filter(|endpoint| endpoint.drained);
        drained.map(|endpoint| ObjectName {
            namespace: Arc::clone(&name.namespace),
            name: Arc::clone(&endpoint.pod),
        })
    })
}

/// What is left of `restored` for what a slice that was read doesn't name: all of a pod, or its address of the other
/// IP version. A pod with another address than before is another one.
fn unnamed(restored: &[Endpoint], slice: &Slice) -> Vec<Endpoint> {
    let endpoints = || slice.endpoints.iter().map(|source| &source.endpoint);
    let pods: HashMap<&str, &Endpoint> = endpoints().map(|endpoint| (&*endpoint.pod, endpoint)).collect();
    let addresses: HashSet<IpAddr> = endpoints().flat_map(Endpoint::addresses).collect();
    let left = |endpoint: &Endpoint| {
        let mut left = endpoint.clone();
        let Some(named) = pods.get(&*endpoint.pod) else {
            return endpoint.addresses().all(|address| !addresses.contains(&address)).then_some(left);
        };
        if named.v4.is_some() && left.v4.take() != named.v4
            || named.v6.is_some() && left.v6.take() != named.v6
        {
            return None;
        }
        left.addresses().next().is_some().then_some(left)
    };
    restored.iter().filter_map(left).collect()
}

fn add_restored(endpoints: &mut Vec<Endpoint>, restored: &[Endpoint]) {
    let known = endpoints.iter().enumerate();
    let at: HashMap<Arc<str>, usize> = known.map(|(at, endpoint)| (Arc::clone(&endpoint.pod), at)).collect();
    for endpoint in restored {
        match at.get(&endpoint.pod) {
            Some(&at) => complete(&mut endpoints[at], endpoint),
            None => endpoints.push(endpoint.clone()),
        }
    }
}

/// A restored address of an endpoint whose slice of that IP version was not read. What was read is newer.
fn complete(known: &mut Endpoint, restored: &Endpoint) {
    known.v4 = known.v4.or(restored.v4);
    known.v6 = known.v6.or(restored.v6);
    if known.ports != restored.ports {
        let ports = Arc::make_mut(&mut known.ports);
        for (name, &number) in &*restored.ports {
            ports.entry(Arc::clone(name)).or_insert(number);
        }
    }
}

/// The endpoints of a service's slices: each pod once, with its addresses of both IP versions.
///
/// While slices are rewritten, an endpoint can stand in two of them; then the better conditions count, since the
/// slice that says less may be the older one (as kube-proxy does).
fn join<'s>(slices: impl Iterator<Item = &'s Slice> + Clone) -> Vec<Endpoint> {
    let most = slices.clone().map(|slice| slice.endpoints.len()).sum();
    let mut endpoints: Vec<Endpoint> = Vec::with_capacity(most);
    let mut known: HashMap<&Identity, usize> = HashMap::new();
    for source in slices.flat_map(|slice| &slice.endpoints) {
        match known.entry(&source.identity) {
            Entry::Vacant(entry) => {
                entry.insert(endpoints.len());
                endpoints.push(source.endpoint.clone());
            }
            Entry::Occupied(entry) => unite(&mut endpoints[*entry.get()], &source.endpoint),
        }
    }
    endpoints
}

/// It takes new connections until it is gone, whether its pod is ready or terminating: kube-proxy asks for `ready` alone, which
/// such a service's slices always say.
fn publish(endpoint: &mut Endpoint) {
    endpoint.conditions.ready = true;
    endpoint.conditions.terminating = false;
}

fn unite(endpoint: &mut Endpoint, other: &Endpoint) {
    let rank = |c: Conditions| (c.takes_new(), c.ready, c.serving, !c.terminating);
    let better = rank(other.conditions) > rank(endpoint.conditions);
    let same_family = endpoint.v4.is_some() == other.v4.is_some();
    if better {
        endpoint.conditions = other.conditions;
        endpoint.zones = Arc::clone(&other.zones);
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
