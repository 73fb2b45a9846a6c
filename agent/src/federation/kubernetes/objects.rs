//! What is known of the objects of one API server.
//!
//! In comes what was heard of each kind; the [`Store`] makes shards of it. Of slices only those of our services are kept: those
//! of a service that becomes one of ours later are to be fetched then ([`Objects::hear`] says which). An object that is
//! rejected keeps its last good version, and what is older than what is known is passed over.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use fairlead_core::model::ObjectName;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::kinds::{Heard, KINDS, Raw, Told};
use crate::federation::convert::{self, Defaults, Fault, Kind, Object, ObjectKey, drains_key};
use crate::federation::names::Names;
use crate::federation::problem::SourceProblem;
use crate::federation::store::Store;
use crate::yaml::Path;

/// What a fault that rejects comes to.
const REJECTED: &str = "the object's last good version stays, if there is one";

/// Endpoints of one cluster that are kept, counted once for each of their slices; about 300 bytes each.
const MOST_ENDPOINTS: usize = 1_000_000;

/// See the module.
pub(super) struct Objects {
    cluster: Arc<str>,
    defaults: Defaults,
    store: Store,
    names: Names,
    /// Versions of objects that count, as the server gives them: they only grow while it keeps its memory.
    versions: HashMap<ObjectKey, u64>,
    /// Services of ours, also rejected ones.
    ours: HashSet<ObjectName>,
    /// Services of others.
    others: HashSet<ObjectName>,
    problems: BTreeMap<ObjectKey, Vec<SourceProblem>>,
    /// Objects that count by an older version, or not at all, because they are rejected now.
    rejected: BTreeSet<ObjectKey>,
    /// By kind: what was heard since a list began.
    listing: HashMap<Kind, HashSet<ObjectKey>>,
    /// Kinds that were listed as a whole on this connection, and are not being listed anew.
    listed: BTreeSet<Kind>,
    /// By service whose slices are being fetched: slices that were deleted meanwhile.
    fetching: HashMap<ObjectName, HashSet<ObjectName>>,
    /// The newest version of anything that was heard.
    newest: u64,
    /// Endpoints of all slices that count.
    endpoints: usize,
    /// How many there may be.
    most_endpoints: usize,
}

/// An object, judged.
struct Judged {
    key: ObjectKey,
    version: u64,
    object: Option<Object>,
    faults: Vec<Fault>,
}

impl Objects {
    pub(super) fn new(cluster: Arc<str>, defaults: Defaults, store: Store) -> Self {
        Self {
            cluster,
            defaults,
            store,
            names: Names::default(),
            versions: HashMap::new(),
            ours: HashSet::new(),
            others: HashSet::new(),
            problems: BTreeMap::new(),
            rejected: BTreeSet::new(),
            listing: HashMap::new(),
            listed: BTreeSet::new(),
            fetching: HashMap::new(),
            newest: 0,
            endpoints: 0,
            most_endpoints: MOST_ENDPOINTS,
        }
    }

    pub(super) fn store(&mut self) -> &mut Store {
        &mut self.store
    }

    /// The newest version of anything that was heard.
    pub(super) const fn newest(&self) -> u64 {
        self.newest
    }

    /// Whether a kind was listed as a whole.
    pub(super) fn has_listed(&self, kind: Kind) -> bool {
        self.listed.contains(&kind)
    }

    /// Whether all kinds were: what is known is of one moment.
    pub(super) fn has_listed_all(&self) -> bool {
        KINDS.iter().all(|kind| self.has_listed(*kind))
    }

    /// A version that the server has.
    pub(super) fn hear_version(&mut self, version: u64) {
        self.newest = self.newest.max(version);
    }

    /// Services of others.
    pub(super) fn ignored(&self) -> usize {
        self.others.len()
    }

    /// The names of all Nodes, and of those that endpoints of our services are on.
    pub(super) fn nodes(&mut self) -> BTreeSet<Arc<str>> {
        let nodes = self.versions.keys().filter(|key| key.kind == Kind::Node);
        let mut nodes: BTreeSet<Arc<str>> = nodes.map(|key| Arc::clone(&key.name.name)).collect();
        let endpoints = self.store.shards().values().flat_map(|spec| &*spec.endpoints);
        let named = endpoints.map(|endpoint| &endpoint.node).filter(|node| !node.is_empty());
        nodes.extend(named.cloned());
        nodes
    }

    pub(super) fn problems(&self) -> impl Iterator<Item = &SourceProblem> {
        self.problems.values().flatten()
    }

    /// All is about to be listed on a new connection.
    pub(super) fn begin(&mut self) {
        self.fetching.clear();
        self.listing.clear();
        self.listed.clear();
    }

    /// What is listed next counts whatever version it has: the server may have another past.
    pub(super) fn distrust_versions(&mut self) {
        for version in self.versions.values_mut() {
            *version = 0;
        }
        self.newest = 0;
    }

    /// Takes what was heard. A service whose slices were passed over so far and count from now on: they are to be fetched,
    /// and given to [`fetched`](Self::fetched).
    pub(super) fn hear(&mut self, heard: Heard) -> Option<ObjectName> {
        let Heard { kind, event } = heard;
        match event {
            Told::Listing => {
                self.listed.remove(&kind);
                self.listing.insert(kind, HashSet::new());
            }
            Told::Listed => self.end_list(kind),
            Told::Is(raw) => return self.take(&raw),
            Told::Gone(raw) => {
                let (key, version) = identify(&raw);
                self.newest = self.newest.max(version);
                if let Some(deleted) = service_of(&raw).and_then(|service| self.fetching.get_mut(&service)) {
                    deleted.insert(key.name.clone());
                }
                self.remove(&key);
            }
            Told::Failed(_) => {}
        }
        None
    }

    /// The slices of a service, which were fetched.
    pub(super) fn fetched(&mut self, service: &ObjectName, slices: Vec<Raw>) {
        let Some(deleted) = self.fetching.remove(service) else { return };
        for raw in slices {
            if !deleted.contains(&identify(&raw).0.name) {
                self.take(&raw);
            }
        }
        self.settle();
    }

    fn take(&mut self, raw: &Raw) -> Option<ObjectName> {
        let (key, version) = identify(raw);
        self.newest = self.newest.max(version);
        if let Some(heard) = self.listing.get_mut(&key.kind) {
            heard.insert(key.clone());
        }
        if self.versions.get(&key).is_some_and(|known| *known >= version) {
            return None;
        }
        if key.kind == Kind::EndpointSlice && service_of(raw).is_none_or(|name| !self.ours.contains(&name)) {
            self.remove(&key);
            return None;
        }
        let judged = self.judge(key, version, raw);
        self.count(judged)
    }

    fn judge(&self, key: ObjectKey, version: u64, raw: &Raw) -> Judged {
        let (object, faults) = match raw {
            Raw::Node(node) => (Some(convert::node(&node.metadata)), Vec::new()),
            Raw::Drains(map) => {
                let (drains, faults) = convert::drains(map);
                (drains.map(|drains| Object::Drains(Arc::new(drains))), faults)
            }
            Raw::Service(service) => {
                let (spec, faults) = convert::service(service, self.defaults);
                (spec.map(|spec| Object::Service(Arc::new(spec))), faults)
            }
            Raw::Slice(slice) => {
                let (slice, faults) = convert::slice(slice);
                (slice.map(|slice| Object::Slice(Arc::new(slice))), faults)
            }
        };
        Judged { key, version, object, faults }
    }

    /// From now on this version counts, as far as it can.
    fn count(&mut self, judged: Judged) -> Option<ObjectName> {
        let Judged { key, version, object, faults } = judged;
        let (key, object) = self.names.share_one(key, object);
        let mut faults = faults;
        faults.extend(self.overflow(&key, object.as_ref()));
        let rejects = faults.iter().any(|fault| fault.rejects);
        let is_ours = object.is_some() || rejects;
        let told: Vec<SourceProblem> = faults.into_iter().map(|fault| self.problem(&key, fault)).collect();
        if told.is_empty() {
            self.problems.remove(&key);
        } else {
            self.problems.insert(key.clone(), told);
        }
        if rejects {
            self.rejected.insert(key.clone());
        } else {
            self.rejected.remove(&key);
            self.apply(&key, object.as_ref());
        }
        let wanted = (key.kind == Kind::Service).then(|| self.sort(&key.name, is_ours)).flatten();
        if is_ours {
            self.versions.insert(key, version);
        } else {
            self.versions.remove(&key);
        }
        wanted
    }

    /// Whose a service is from now on. Its name, where its slices have to be fetched.
    fn sort(&mut self, name: &ObjectName, is_ours: bool) -> Option<ObjectName> {
        if !is_ours {
            self.others.insert(name.clone());
            self.drop_slices(name);
            return None;
        }
        self.others.remove(name);
        // Before slices are heard of, none was passed over.
        let slices = Kind::EndpointSlice;
        let is_heard = self.listed.contains(&slices) || self.listing.contains_key(&slices);
        let passed_over = self.ours.insert(name.clone()) && is_heard;
        passed_over.then(|| {
            self.fetching.insert(name.clone(), HashSet::new());
            name.clone()
        })
    }

    fn drop_slices(&mut self, service: &ObjectName) {
        if self.ours.remove(service) {
            self.fetching.remove(service);
            for name in self.store.slices_of(service).to_vec() {
                self.remove(&ObjectKey { kind: Kind::EndpointSlice, name });
            }
        }
    }

    fn remove(&mut self, key: &ObjectKey) {
        let known = self.versions.remove(key).is_some() | self.rejected.remove(key);
        self.problems.remove(key);
        if let Some(heard) = self.listing.get_mut(&key.kind) {
            heard.remove(key);
        }
        if key.kind == Kind::Service {
            self.others.remove(&key.name);
            self.drop_slices(&key.name);
        }
        if known || key.kind != Kind::EndpointSlice {
            self.apply(key, None);
        }
    }

    fn apply(&mut self, key: &ObjectKey, object: Option<&Object>) {
        self.endpoints -= self.endpoints_of(key);
        self.store.apply(key, object);
        self.endpoints += self.endpoints_of(key);
    }

    /// Of a slice that counts; 0 for other kinds.
    fn endpoints_of(&self, key: &ObjectKey) -> usize {
        let slice = self.store.slice(&key.name).filter(|_| key.kind == Kind::EndpointSlice);
        slice.map_or(0, |slice| slice.endpoints.len())
    }

    /// Why there is no room for an object.
    fn overflow(&self, key: &ObjectKey, object: Option<&Object>) -> Option<Fault> {
        let Some(Object::Slice(slice)) = object else { return None };
        let most = self.most_endpoints;
        let fits = self.endpoints - self.endpoints_of(key) + slice.endpoints.len() <= most;
        let message =
            format!("the cluster has more than {most} endpoints of ours, and there is no room for these");
        (!fits).then(|| Fault { path: Path::default().key("endpoints"), message, rejects: true })
    }

    /// All objects of a kind were told: others are gone.
    fn end_list(&mut self, kind: Kind) {
        let heard = self.listing.remove(&kind).unwrap_or_default();
        let known = self.versions.keys().chain(&self.rejected);
        let gone: BTreeSet<ObjectKey> =
            known.filter(|key| key.kind == kind && !heard.contains(key)).cloned().collect();
        for key in gone {
            self.remove(&key);
        }
        if kind == Kind::Service {
            self.others.retain(|name| heard.contains(&ObjectKey { kind, name: name.clone() }));
        }
        if kind == Kind::Drains && !heard.contains(&drains_key()) {
            self.store.apply(&drains_key(), None);
        }
        self.listed.insert(kind);
        self.names.forget_unused();
        self.settle();
    }

    /// What was known before a restart is not needed any more once everything is.
    fn settle(&mut self) {
        if self.has_listed_all() && self.fetching.is_empty() && self.rejected.is_empty() {
            self.store.forget_restored();
        }
    }

    fn problem(&self, key: &ObjectKey, fault: Fault) -> SourceProblem {
        let message = if fault.rejects { format!("{}; {REJECTED}", fault.message) } else { fault.message };
        SourceProblem {
            cluster: Arc::clone(&self.cluster),
            file: None,
            place: None,
            object: Some(key.clone()),
            field: fault.path.to_string(),
            message,
        }
    }
}

/// Which object it is, and its version.
fn identify(raw: &Raw) -> (ObjectKey, u64) {
    let (kind, metadata): (Kind, &ObjectMeta) = match raw {
        Raw::Service(object) => (Kind::Service, &object.metadata),
        Raw::Slice(object) => (Kind::EndpointSlice, &object.metadata),
        Raw::Node(object) => (Kind::Node, &object.metadata),
        Raw::Drains(object) => (Kind::Drains, &object.metadata),
    };
    let name = metadata.name.as_deref().unwrap_or_default();
    let version = metadata.resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or_default();
    (convert::key(kind, metadata.namespace.as_deref(), name), version)
}

/// The service of a slice.
fn service_of(raw: &Raw) -> Option<ObjectName> {
    let Raw::Slice(slice) = raw else { return None };
    let label = slice.metadata.labels.as_ref()?.get(convert::SERVICE_LABEL)?;
    Some(ObjectName::new(slice.metadata.namespace.as_deref().unwrap_or_default(), label.as_str()))
}

#[cfg(test)]
#[path = "objects_tests.rs"]
mod tests;
