//! Endpoints that have left their slices and may hold connections yet.
//!
//! Leaving only ends new connections: the backend stays in its service's list, without weight, until its receiver says that
//! it holds no flow, or nothing is heard of it for long. Deliveries of this node's own endpoints stay in the same way. Like
//! [`History`](super::history), memory on purpose: what is wanted depends on what was there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use fairlead_abi::{Address, Backend, Delivery, DeliveryKey, Encap, LEAVING, NO_BACKEND, ServiceKey};

use super::service::Circumstances;
use super::{Installed, NamedServer, ServiceTable, Tables, Verdict, WantedBackend};
use crate::model::{Declarations, Held, ServerId};

/// A report says of an endpoint's flows all that matters only if it is that much younger than its leaving: gateways that
/// are behind send it new connections for a while.
pub const LINGER_MIN: Duration = Duration::from_secs(2);

/// What the pod of an endpoint is called that is known by its address alone: an agent before this one knew it, or its receiver
/// announces it.
pub const UNKNOWN_POD: &str = "(unknown)";

/// What lingers of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lingering {
    backends: BTreeMap<(ServiceKey, IpAddr), Left>,
    /// Since when.
    deliveries: BTreeMap<DeliveryKey, Duration>,
}

/// An endpoint that has left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Left {
    since: Duration,
    /// Its cluster, where it is known.
    cluster: Option<Arc<str>>,
    /// As it was.
    backend: WantedBackend,
    /// Its server IDs, and what they were made of.
    server_ids: Vec<(ServerId, Option<IpAddr>)>,
}

/// A backend that lingers.
pub(super) struct Lingerer {
    pub(super) backend: WantedBackend,
    pub(super) cluster: Arc<str>,
    /// Its server IDs, as far as they are known, and what they were made of.
    pub(super) server_ids: BTreeMap<ServerId, Option<IpAddr>>,
}

/// How an announced endpoint is sent to by this address; not at all where none of this gateway's clusters may have it, or no
/// tunnel leads there. This node's `own` need none.
fn encap(outer: IpAddr, own: &BTreeSet<IpAddr>, declared: &Declarations) -> Option<Encap> {
    let here = &declared.here;
    let has_tunnel = if outer.is_ipv4() { here.tunnel_v4 } else { here.tunnel_v6 };
    match may_have(declared, outer) {
        true if own.contains(&outer) => Some(Encap::Local),
        true if has_tunnel => Some(here.tunnel.encap()),
        _ => None,
    }
}

impl Lingering {
    /// Whether something has to go now.
    pub(super) fn ends(&self, held: &Held, now: Duration, declared: &Declarations) -> bool {
        let is_over = |since, key, outer| until(since, (key, outer), held, declared) <= now;
        self.backends.iter().any(|(&(key, outer), left)| is_over(left.since, key, outer))
            || self.deliveries.iter().any(|(key, &since)| {
                key.service().is_some_and(|service| is_over(since, service, key.outer.into()))
            })
    }

    /// Whether a receiver has announced an endpoint that holds flows of the `table`'s service and is not in it.
    pub(super) fn lacks(
        table: &ServiceTable,
        own: &BTreeSet<IpAddr>,
        held: &Held,
        now: Duration,
        declared: &Declarations,
    ) -> bool {
        let key = table.key();
        held.announced(key).any(|(outer, at)| {
            let known = table.backends.binary_search_by_key(&outer, |backend| backend.outer).is_ok();
            !known && until(at, (key, outer), held, declared) > now && encap(outer, own, declared).is_some()
        })
    }

    /// When the first one has to go if nothing is heard.
    pub(super) fn due(&self, held: &Held, declared: &Declarations) -> Option<Duration> {
        let of_backends = self.backends.iter().map(|(&key, left)| until(left.since, key, held, declared));
        let of_deliveries = self.deliveries.iter().filter_map(|(key, &since)| {
            Some(until(since, (key.service()?, key.outer.into()), held, declared))
        });
        of_backends.chain(of_deliveries).min()
    }

    /// The backends of `service` that linger beside those that are `present`, sorted by outer address. `before` is its table so
    /// far, `other` those that lingered when it was made, or that an agent before this one knew.
    pub(super) fn backends(
        &mut self,
        (service, own): (ServiceKey, &BTreeSet<IpAddr>),
        before: Option<&ServiceTable>,
        other: &mut Self,
        present: &BTreeSet<IpAddr>,
        circumstances: &Circumstances<'_>,
    ) -> Vec<Lingerer> {
        let known = other.take(service);
        let now = circumstances.now;
        let has_left = |backend: &WantedBackend| !present.contains(&backend.outer);
        let left = before.into_iter().flat_map(|table| Left::all(table, has_left, now));
        let announced = circumstances.held.announced(service).filter_map(|(outer, at)| {
            let encap = encap(outer, own, circumstances.declared)?;
            Some((outer, nameless(outer, encap, at)))
        });
        // Later ones count: who was in the table has a name, who lingers already does so for longer than the table says.
        let mut all: BTreeMap<IpAddr, Left> = announced.chain(left).chain(known).collect();
        all.retain(|outer, left| {
            !present.contains(outer)
                && until(left.since, (service, *outer), circumstances.held, circumstances.declared) > now
        });
        let room = usize::from(NO_BACKEND).saturating_sub(present.len());
        let mut lingering = Vec::new();
        for (outer, mut left) in newest(all, room) {
            let Some(cluster) = left.cluster(outer, circumstances.declared) else { continue };
            (left.backend.weight, left.backend.verdict) = (0, Verdict::Lingering);
            left.cluster = Some(Arc::clone(&cluster));
            lingering.push(left.lingerer(cluster));
            self.backends.insert((service, outer), left);
        }
        lingering
    }

    fn take(&mut self, service: ServiceKey) -> BTreeMap<IpAddr, Left> {
        let mine: Vec<(ServiceKey, IpAddr)> =
            self.backends.keys().filter(|(key, _)| *key == service).copied().collect();
        mine.into_iter().filter_map(|key| Some((key.1, self.backends.remove(&key)?))).collect()
    }

    /// What is delivered yet beside the `present` deliveries of the services `served`, of what was delivered `before`.
    pub(super) fn deliveries(
        &mut self,
        before: impl Iterator<Item = (DeliveryKey, Delivery)>,
        known: &Self,
        (present, served): (&[(DeliveryKey, Delivery)], &BTreeSet<ServiceKey>),
        circumstances: &Circumstances<'_>,
    ) -> Vec<(DeliveryKey, Delivery)> {
        let present: BTreeSet<&DeliveryKey> = present.iter().map(|(key, _)| key).collect();
        let mut lingering = BTreeMap::new();
        for (key, delivery) in before {
            let Some(service) = key.service() else { continue };
            let outer = key.outer.into();
            let since = known.deliveries.get(&key).copied().unwrap_or(circumstances.now);
            let end = until(since, (service, outer), circumstances.held, circumstances.declared);
            if present.contains(&key) || !served.contains(&service) || end <= circumstances.now {
                continue;
            }
            self.deliveries.insert(key, since);
            lingering.insert(key, Delivery { flags: delivery.flags | LEAVING, ..delivery });
            let alone = DeliveryKey::endpoint_only(key.outer);
            if !present.contains(&alone) {
                lingering.insert(alone, Delivery::default());
            }
        }
        lingering.into_iter().collect()
    }
}

/// From when on an endpoint that left at `since` is gone for good, as far as it is known now.
fn until(
    since: Duration,
    (service, outer): (ServiceKey, IpAddr),
    held: &Held,
    declared: &Declarations,
) -> Duration {
    let linger = declared.tuning.linger;
    match held.of(service, outer) {
        Some(report) if report.flows == 0 && report.at >= since + LINGER_MIN => report.at,
        Some(report) => report.at.max(since) + linger,
        None => since + linger,
    }
}

/// Those that left last, if there is no room for all; in the order of their addresses.
fn newest(mut all: BTreeMap<IpAddr, Left>, room: usize) -> BTreeMap<IpAddr, Left> {
    if all.len() > room {
        let mut order: Vec<(Duration, IpAddr)> =
            all.iter().map(|(&outer, left)| (left.since, outer)).collect();
        order.sort_unstable_by(|a, b| b.cmp(a));
        for (_, outer) in &order[room..] {
            all.remove(outer);
        }
    }
    all
}

impl Left {
    /// Those backends of a table, by outer address.
    fn all(
        table: &ServiceTable,
        which: impl Fn(&WantedBackend) -> bool,
        since: Duration,
    ) -> BTreeMap<IpAddr, Self> {
        let mut server_ids: BTreeMap<u16, Vec<_>> = BTreeMap::new();
        for server in &table.server_ids {
            server_ids.entry(server.backend).or_default().push((server.id, server.address));
        }
        let backends = (0..=u16::MAX).zip(&table.backends).filter(|(_, backend)| which(backend));
        let left = backends.map(|(position, backend)| {
            let shard = table.shards.get(usize::from(backend.shard));
            let left = Self {
                since,
                cluster: shard.map(|shard| Arc::clone(&shard.cluster)),
                backend: backend.clone(),
                server_ids: server_ids.remove(&position).unwrap_or_default(),
            };
            (backend.outer, left)
        });
        left.collect()
    }

    fn lingerer(&self, cluster: Arc<str>) -> Lingerer {
        let backend = self.backend.clone();
        let own = [backend.outer, backend.endpoint].map(|address| (ServerId::of(address), Some(address)));
        Lingerer { backend, cluster, server_ids: self.server_ids.iter().copied().chain(own).collect() }
    }

    /// The cluster that it is of, if that may have its address yet: an operator who takes a cluster or a range of addresses
    /// out means it.
    fn cluster(&self, outer: IpAddr, declared: &Declarations) -> Option<Arc<str>> {
        let may = |name: &&Arc<str>| {
            let cluster = declared.clusters.get(*name);
            cluster.is_some_and(|cluster| cluster.pod_cidrs.iter().any(|cidr| cidr.contains(&outer)))
        };
        match &self.cluster {
            Some(name) => Some(name).filter(may).cloned(),
            None => declared.clusters.keys().find(may).cloned(),
        }
    }
}

fn may_have(declared: &Declarations, outer: IpAddr) -> bool {
    declared.clusters.values().any(|cluster| cluster.pod_cidrs.iter().any(|cidr| cidr.contains(&outer)))
}

impl Tables {
    /// The same without all that lingers, for tables that have no room for it: it gives way to what serves. `None` where
    /// nothing lingers.
    pub(super) fn without_lingering(&self) -> Option<Self> {
        let lean = |table: &Arc<ServiceTable>| {
            let lingers = table.backends.iter().any(|backend| backend.verdict == Verdict::Lingering);
            if lingers { Arc::new(without_lingering(table)) } else { Arc::clone(table) }
        };
        let services = self.services.iter().map(|(key, table)| (*key, lean(table))).collect();
        let mut deliveries = self.deliveries.clone();
        deliveries.retain(|_, delivery| delivery.flags & LEAVING == 0);
        let delivered: BTreeSet<Address> =
            deliveries.keys().filter(|key| key.service().is_some()).map(|key| key.outer).collect();
        deliveries.retain(|key, _| delivered.contains(&key.outer));
        let all = Self { services, deliveries, ..self.clone() };
        (all != *self).then_some(all)
    }
}

fn without_lingering(table: &ServiceTable) -> ServiceTable {
    let mut places = Vec::with_capacity(table.backends.len());
    let mut backends = Vec::new();
    for backend in &table.backends {
        places.push(u16::try_from(backends.len()).unwrap_or(NO_BACKEND));
        if backend.verdict != Verdict::Lingering {
            backends.push(backend.clone());
        }
    }
    let ring = table.ring.iter().map(|&position| places[usize::from(position)]).collect();
    let server_ids = table.server_ids.iter().filter_map(|server| {
        let is_there = table.backends[usize::from(server.backend)].verdict != Verdict::Lingering;
        is_there.then(|| NamedServer { backend: places[usize::from(server.backend)], ..*server })
    });
    ServiceTable { server_ids: server_ids.collect(), backends, ring, ..table.clone() }
}

/// What an agent before this one may have known: taken up service by service, as each is planned first.
#[derive(Clone, Debug, Default)]
pub(super) struct Inherited {
    since: Duration,
    named: BTreeMap<(ServiceKey, IpAddr), Left>,
    /// What the kernel holds, whether it lingers or not.
    backends: BTreeMap<ServiceKey, Vec<(IpAddr, Encap, Vec<ServerId>)>>,
    deliveries: BTreeMap<ServiceKey, Vec<(DeliveryKey, Delivery)>>,
}

impl Inherited {
    /// The lingering backends of a table that it planned.
    pub(super) fn resume(&mut self, table: &ServiceTable, now: Duration) {
        let left = Left::all(table, |backend| backend.verdict == Verdict::Lingering, now);
        self.named.extend(left.into_iter().map(|(outer, left)| ((table.key(), outer), left)));
    }

    /// What is in the kernel.
    pub(super) fn read(&mut self, installed: &Installed, now: Duration) {
        self.since = now;
        for (key, ..) in installed.services() {
            let mut server_ids: BTreeMap<u32, Vec<ServerId>> = BTreeMap::new();
            for (id, index) in installed.servers_of(&key) {
                server_ids.entry(index).or_default().push(id);
            }
            let backends = installed.backends_of(&key).filter_map(|(index, backend)| {
                let (outer, encap) = known(backend)?;
                Some((outer, encap, server_ids.remove(&index).unwrap_or_default()))
            });
            self.backends.insert(key, backends.collect());
        }
        for (&key, &delivery) in &installed.deliveries {
            if let Some(service) = key.service() {
                self.deliveries.entry(service).or_default().push((key, delivery));
            }
        }
    }

    /// What there is of some services.
    pub(super) fn take(
        &mut self,
        services: &BTreeSet<ServiceKey>,
    ) -> (Lingering, Vec<(DeliveryKey, Delivery)>) {
        let mut lingering = Lingering::default();
        let mut deliveries = Vec::new();
        for &service in services {
            for (outer, encap, ids) in self.backends.remove(&service).unwrap_or_default() {
                let server_ids = ids.into_iter().map(|id| (id, None)).collect();
                let left = Left { server_ids, ..nameless(outer, encap, self.since) };
                lingering.backends.insert((service, outer), left);
            }
            deliveries.extend(self.deliveries.remove(&service).unwrap_or_default());
        }
        let named = self.named.keys().filter(|(service, _)| services.contains(service));
        for key in named.copied().collect::<Vec<_>>() {
            lingering.backends.extend(self.named.remove(&key).map(|left| (key, left)));
        }
        (lingering, deliveries)
    }
}

fn known(backend: &Backend) -> Option<(IpAddr, Encap)> {
    let encap = [Encap::Ipip, Encap::Gue, Encap::Local].into_iter().find(|&e| e as u8 == backend.kind())?;
    Some((backend.outer.into(), encap))
}

/// A backend of which only the kernel knows.
fn nameless(outer: IpAddr, encap: Encap, since: Duration) -> Left {
    let backend = WantedBackend {
        outer,
        endpoint: outer,
        port: 0,
        encap,
        weight: 0,
        shard: 0,
        pod: Arc::from(UNKNOWN_POD),
        // One of its own: what is silent there says nothing of others.
        node: Arc::from(outer.to_string()),
        verdict: Verdict::Lingering,
    };
    Left { since, cluster: None, backend, server_ids: Vec::new() }
}

#[cfg(test)]
#[path = "lingering_tests.rs"]
mod tests;
