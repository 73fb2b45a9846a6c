//! Whom to probe, and how: a pure function of a model and its tables.
//!
//! Every endpoint that could hold a slot is probed, ready or not, on every TCP port of its service; one that has left its
//! slices is not. A probe goes to the VIP's port, which the receiver delivers as it would a client's packet; so another port (`fairlead.io/probe-port`)
//! can only be one that the service serves at the same VIP. Where it isn't, that is a problem, and each port is asked
//! itself.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use fairlead_abi::{Encap, Family, ServiceKey};
use fairlead_core::model::{
    Model, ObjectName, ProbeKind, ProbeSpec, Problem, Protocol, Service, ServicePort, Shard,
};
use fairlead_core::planner::{ServiceTable, Tables, Verdict, WantedBackend};

use crate::text::show_duration;

/// All targets, by service. One whose targets didn't change is the same `Arc` as before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Targets {
    /// By service; one without a TCP port is missing.
    pub services: BTreeMap<ObjectName, Arc<ServiceTargets>>,
}

/// What is to be probed of one service.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ServiceTargets {
    /// Sorted by address and port name, each only once.
    pub targets: Vec<Target>,
    /// What could not be done as asked.
    pub problems: Vec<Problem>,
}

/// One TCP port of one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The endpoint's address, under which the result is filed.
    pub address: IpAddr,
    /// The port's name, under which the result is filed.
    pub port: Arc<str>,
    /// The pod that has the address.
    pub pod: Arc<str>,
    /// The VIP and its port that is asked.
    pub vip: SocketAddr,
    /// How to get there.
    pub way: Way,
    /// What is asked, and how often.
    pub spec: Arc<ProbeSpec>,
}

/// How a probe gets to its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// The socket connects to the VIP, and the programs encapsulate what it sends.
    Through(Outer),
    /// The endpoint is on this node: the socket connects to it.
    Direct(SocketAddr),
}

/// An outer destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Outer {
    /// The endpoint's address that the receiver takes packets for.
    pub address: IpAddr,
    /// How they are wrapped.
    pub encap: Encap,
}

impl Targets {
    /// What could not be done as asked.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.services.values().flat_map(|service| &service.problems)
    }
}

/// Derives targets, again and again. They are a function of its arguments: what it keeps only saves time.
#[derive(Clone, Debug, Default)]
pub struct Deriver {
    default: ProbeSpec,
    services: BTreeMap<ObjectName, Derived>,
}

/// Targets, and what they were derived from: compared by pointer, and kept so that nothing else gets the same one.
#[derive(Clone, Debug)]
struct Derived {
    service: Arc<Service>,
    tables: Vec<Arc<ServiceTable>>,
    of: Arc<ServiceTargets>,
}

impl Deriver {
    /// The targets of a model and of the tables that were planned from it.
    #[must_use]
    pub fn derive(&mut self, model: &Model, tables: &Tables) -> Targets {
        let default = &model.declared.probe;
        let same_default = self.default == *default;
        let mut services = BTreeMap::new();
        for (name, service) in &model.services {
            let tables = tcp_tables(service, tables);
            if tables.is_empty() {
                continue;
            }
            let before = self.services.remove(name);
            let of = match before {
                Some(before) if same_default && before.is_from(service, &tables) => before.of,
                before => {
                    let of = derive(service, &tables, default);
                    before.filter(|before| *before.of == of).map_or_else(|| Arc::new(of), |before| before.of)
                }
            };
            services.insert(name.clone(), Derived { service: Arc::clone(service), tables, of });
        }
        *self = Self { default: default.clone(), services };
        let all = self.services.iter().map(|(name, derived)| (name.clone(), Arc::clone(&derived.of)));
        Targets { services: all.collect() }
    }
}

impl Derived {
    fn is_from(&self, service: &Arc<Service>, tables: &[Arc<ServiceTable>]) -> bool {
        Arc::ptr_eq(&self.service, service)
            && self.tables.len() == tables.len()
            && self.tables.iter().zip(tables).all(|(a, b)| Arc::ptr_eq(a, b))
    }
}

/// The tables of a service's TCP ports, by VIP and port.
fn tcp_tables(service: &Service, tables: &Tables) -> Vec<Arc<ServiceTable>> {
    let is_tcp = |port: &&ServicePort| port.protocol == Protocol::Tcp;
    let keys = service
        .vips
        .iter()
        .flat_map(|vip| service.served_at(vip).filter(is_tcp).map(move |port| key(vip, port.port)));
    keys.filter_map(|key| tables.services.get(&key).cloned()).collect()
}

fn key(vip: IpAddr, port: u16) -> ServiceKey {
    ServiceKey::new(vip.into(), port, Protocol::Tcp.number(), Family::of(&vip))
}

/// The targets of one service.
fn derive(service: &Service, tables: &[Arc<ServiceTable>], default: &ProbeSpec) -> ServiceTargets {
    let mut targets: BTreeMap<(IpAddr, Arc<str>), Target> = BTreeMap::new();
    let mut problems: Vec<Problem> =
        service.shards.iter().filter_map(|shard| timeout_problem(service, shard, default)).collect();
    let specs: Vec<Arc<ProbeSpec>> =
        service.shards.iter().map(|shard| Arc::new(shard.spec.options.probe.over(default))).collect();
    for table in tables {
        // Who has left takes no new connections, whatever probes would say.
        for backend in table.backends.iter().filter(|backend| backend.verdict != Verdict::Lingering) {
            let shard = usize::from(backend.shard);
            let Some(spec) = specs.get(shard).filter(|spec| spec.kind != ProbeKind::None) else { continue };
            let asked = match asked(table, backend, spec, tables) {
                Some(asked) => asked,
                None => {
                    problems.push(port_problem(service, shard, table.vip, spec));
                    (&**table, backend)
                }
            };
            let owns_vip = service.shards[shard].spec.options.endpoint_owns_vip;
            let target = target(table, backend, asked, owns_vip, spec);
            let family = |ip: IpAddr| Family::of(&ip);
            // Both VIPs lead to an endpoint that has only one address: one of them is enough.
            let better = family(table.vip) == family(target.address);
            let filed = (target.address, Arc::clone(&target.port));
            if better || !targets.contains_key(&filed) {
                targets.insert(filed, target);
            }
        }
    }
    problems.sort_unstable();
    problems.dedup();
    ServiceTargets { targets: targets.into_values().collect(), problems }
}

/// The port that is asked, and the endpoint as it stands there; `None`: the service doesn't serve it there.
fn asked<'a>(
    table: &'a ServiceTable,
    backend: &'a WantedBackend,
    spec: &ProbeSpec,
    tables: &'a [Arc<ServiceTable>],
) -> Option<(&'a ServiceTable, &'a WantedBackend)> {
    let port = match spec.port {
        Some(port) if port != table.port => port,
        _ => return Some((table, backend)),
    };
    let other = tables.iter().find(|other| other.vip == table.vip && other.port == port)?;
    let at = other.backends.binary_search_by_key(&backend.outer, |backend| backend.outer).ok()?;
    Some((other, &other.backends[at]))
}

fn target(
    table: &ServiceTable,
    backend: &WantedBackend,
    (asked, at): (&ServiceTable, &WantedBackend),
    owns_vip: bool,
    spec: &Arc<ProbeSpec>,
) -> Target {
    // What owns the VIP gets packets as they are, and so listens on the port of the VIP.
    let port = if owns_vip { asked.port } else { at.port };
    Target {
        // Also what `Endpoint::probed_at` says: of the VIP's family, else the only one that it has.
        address: backend.endpoint,
        port: Arc::clone(&table.port_name),
        pod: Arc::clone(&backend.pod),
        vip: SocketAddr::new(asked.vip, asked.port),
        way: match backend.encap {
            Encap::Local => Way::Direct(SocketAddr::new(backend.endpoint, port)),
            encap @ (Encap::Ipip | Encap::Gue) => Way::Through(Outer { address: backend.outer, encap }),
        },
        spec: Arc::clone(spec),
    }
}

/// A shard that asks for a longer time than it has. That the default is shortened for a shorter interval is no problem.
fn timeout_problem(service: &Service, shard: &Shard, default: &ProbeSpec) -> Option<Problem> {
    let (asked, spec) = (shard.spec.options.probe.timeout?, shard.spec.options.probe.over(default));
    (asked > spec.timeout).then(|| Problem {
        object: Some(service.name.clone()),
        cluster: Some(Arc::clone(&shard.cluster)),
        field: "metadata.annotations.fairlead.io/probe-timeout".to_owned(),
        what: format!(
            "{} is longer than the interval, which is {}: answers are waited for that long",
            show_duration(asked),
            show_duration(spec.interval)
        ),
        hint: Some("give fairlead.io/probe-interval too, at least as long".to_owned()),
    })
}

/// One for a shard and VIP, however many endpoints it concerns.
fn port_problem(service: &Service, shard: usize, vip: IpAddr, spec: &ProbeSpec) -> Problem {
    let port = spec.port.unwrap_or_default();
    Problem {
        object: Some(service.name.clone()),
        cluster: Some(Arc::clone(&service.shards[shard].cluster)),
        field: "metadata.annotations.fairlead.io/probe-port".to_owned(),
        what: format!(
            "endpoints can't be reached at {vip} port {port}/tcp, which the service or they don't serve; each of \
             their ports is probed itself"
        ),
        hint: Some("name a port of the service".to_owned()),
    }
}
