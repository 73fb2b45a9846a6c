//! A service as its own shards make it, before it is compared with the others.

use std::net::IpAddr;
use std::sync::Arc;

use fairlead_abi::Family;
use ipnet::IpNet;

use super::endpoints::{Admission, problems_of};
use super::sources::Source;
use super::{
    Declarations, Endpoint, Health, ObjectName, ProbeKind, ProbeState, Problem, Protocol, Service,
    ServiceHealth, ServicePort, Shard, ShardSpec, allowed, ports, unhonoured, vip,
};

/// A service's shards, ports and requests; a pure function of its sources, so that it is kept while they don't change.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Draft {
    pub(super) shards: Arc<Vec<Shard>>,
    pub(super) ports: Vec<ServicePort>,
    pub(super) v4: Wish,
    pub(super) v6: Wish,
    pub(super) pass_unserved: bool,
    pub(super) by_client: bool,
    pub(super) allowed: Option<Arc<[IpNet]>>,
    /// When the oldest of its objects was made.
    created: Option<i64>,
    pub(super) problems: Vec<Problem>,
    pub(super) notes: Vec<Problem>,
}

/// What VIP of one family a service wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// None; or it asked only for such as it can't have.
    None,
    /// Any; the pools give it this one, if they have any.
    Any(Option<IpAddr>),
    /// This one.
    This(IpAddr),
}

impl Draft {
    /// From the sources of one service, by cluster name.
    pub(super) fn new(
        name: &ObjectName,
        sources: &[Source<'_>],
        declared: &Declarations,
        health: &Health,
        previous: Option<&Service>,
    ) -> Self {
        let mut problems = Vec::new();
        let mut admission = Admission::default();
        let mut shards = Vec::with_capacity(sources.len());
        for source in sources {
            let held = held(source, declared, health.services.get(name), previous);
            let is_held = held.is_some();
            let place = declared.clusters[source.cluster].place.clone();
            let cidrs = &declared.clusters[source.cluster].pod_cidrs;
            let offered = held.unwrap_or_else(|| Arc::clone(&source.spec.endpoints));
            let (endpoints, rejected) = admission.admit(&offered, cidrs);
            problems.extend(problems_of(name, source.cluster, &rejected));
            // A node that is no gateway doesn't probe: it only follows, and has nothing to raise an alarm about.
            if is_held && declared.here.gateway {
                problems.push(hold_problem(name, source.cluster, endpoints.len()));
            }
            shards.push(Shard {
                cluster: Arc::clone(source.cluster),
                place,
                reachable: source.reachable,
                held: is_held,
                spec: Arc::clone(source.spec),
                endpoints,
                rejected,
            });
        }
        let ports = ports::union(name, sources.iter().map(|s| (s.cluster, s.spec)), &mut problems);
        let allowed = allowed::allowed(name, sources.iter().map(|s| (s.cluster, s.spec)), &mut problems);
        let v4 = wish(name, Family::V4, sources, declared, &mut problems);
        let v6 = wish(name, Family::V6, sources, declared, &mut problems);
        let families =
            [(Family::V4, v4), (Family::V6, v6)].into_iter().filter(|(_, wish)| *wish != Wish::None);
        let families: Vec<Family> = families.map(|(family, _)| family).collect();
        problems.extend(allowed::nobody(name, &families, allowed.as_deref()));
        Self {
            v4,
            v6,
            allowed,
            by_client: by_client(name, sources, &mut problems),
            pass_unserved: sources.iter().any(|source| source.spec.options.pass_unserved_ports),
            created: sources.iter().filter_map(|source| source.spec.created).min(),
            ports,
            shards: Arc::new(shards),
            problems,
            notes: unhonoured::notes(name, sources.iter().map(|s| (s.cluster, s.spec))),
        }
    }

    /// Who was there first comes first; who doesn't say when, last.
    pub(super) fn age(&self) -> impl Ord + use<> {
        (self.created.is_none(), self.created)
    }

    /// Whether the same sources would give this draft again.
    pub(super) fn is_of(
        &self,
        name: &ObjectName,
        sources: &[Source<'_>],
        declared: &Declarations,
        health: &Health,
        previous: &Service,
    ) -> bool {
        let same = |(shard, source): (&Shard, &Source<'_>)| {
            shard.cluster == *source.cluster
                && shard.reachable == source.reachable
                && shard.spec == *source.spec
                && match held(source, declared, health.services.get(name), Some(previous)) {
                    None => !shard.held,
                    Some(endpoints) => shard.held && shard.endpoints == endpoints,
                }
        };
        self.shards.len() == sources.len() && self.shards.iter().zip(sources).all(same)
    }
}

/// The mass-withdrawal guard: the endpoints to hold, where the source suddenly shows none although probes don't fail.
///
/// They are let go one by one as their probes fail, and never come back by themselves: their addresses may belong to
/// other pods by then. Without probes nothing speaks against the source, and nothing is held.
fn held(
    source: &Source<'_>,
    declared: &Declarations,
    health: Option<&Arc<ServiceHealth>>,
    previous: Option<&Service>,
) -> Option<Arc<Vec<Endpoint>>> {
    if !source.spec.endpoints.is_empty() || source.spec.drained || source.accepted {
        return None;
    }
    let before = previous?.shards.iter().find(|shard| shard.cluster == *source.cluster)?;
    let probed = source.spec.options.probe.over(&declared.probe).kind != ProbeKind::None;
    if before.endpoints.is_empty() || !probed {
        return None;
    }
    let ports: Vec<&ServicePort> =
        source.spec.ports.iter().filter(|port| port.protocol == Protocol::Tcp).collect();
    if ports.is_empty() {
        return None;
    }
    let stays = |endpoint: &&Endpoint| endpoint.takes_new() && !fails(endpoint, &ports, health);
    let kept: Vec<Endpoint> = before.endpoints.iter().filter(stays).cloned().collect();
    if kept.is_empty() {
        return None;
    }
    if before.held && kept.len() == before.endpoints.len() {
        return Some(Arc::clone(&before.endpoints));
    }
    Some(Arc::new(kept))
}

/// Whether probes fail and none passes.
fn fails(endpoint: &Endpoint, ports: &[&ServicePort], health: Option<&Arc<ServiceHealth>>) -> bool {
    let Some(health) = health else { return false };
    let states = endpoint
        .addresses()
        .flat_map(|address| ports.iter().map(move |port| health.get(address, &port.name).state));
    let mut bad = false;
    for state in states {
        match state {
            ProbeState::Good => return false,
            ProbeState::Bad => bad = true,
            ProbeState::Unknown => {}
        }
    }
    bad
}

fn hold_problem(name: &ObjectName, cluster: &Arc<str>, endpoints: usize) -> Problem {
    Problem {
        object: Some(name.clone()),
        cluster: Some(Arc::clone(cluster)),
        field: "endpoints".to_owned(),
        what: format!(
            "the source suddenly shows none although probes don't fail; the last {endpoints} are held until they do"
        ),
        hint: Some(format!(
            "to withdraw it at once, delete the Service object, or `fairlead accept-withdrawal {cluster}`"
        )),
    }
}

/// What VIP of a family the shards want: the first valid request by cluster name, else any if one wants the family.
fn wish(
    name: &ObjectName,
    family: Family,
    sources: &[Source<'_>],
    declared: &Declarations,
    problems: &mut Vec<Problem>,
) -> Wish {
    let mut chosen: Option<(IpAddr, &Arc<str>)> = None;
    let mut asked = false;
    for source in sources {
        for &vip in source.spec.requested_vips.iter().filter(|vip| Family::of(vip) == family) {
            asked = true;
            let refusal = match chosen {
                Some((first, _)) if first == vip => None,
                Some((first, by)) => Some((
                    format!("{vip} contradicts {first}, which cluster {by} asks for; {first} stays"),
                    "ask for the same VIP in every cluster".to_owned(),
                )),
                None => vip::refusal(vip, declared),
            };
            match refusal {
                None => chosen = chosen.or(Some((vip, source.cluster))),
                Some((what, hint)) => problems.push(Problem {
                    object: Some(name.clone()),
                    cluster: Some(Arc::clone(source.cluster)),
                    field: "VIP".to_owned(),
                    what,
                    hint: Some(hint),
                }),
            }
        }
    }
    let wants = |spec: &ShardSpec| match family {
        Family::V4 => spec.wants_v4,
        Family::V6 => spec.wants_v6,
    };
    match chosen {
        Some((vip, _)) => Wish::This(vip),
        // Who asks for an address that he can't have doesn't want just any.
        None if asked => Wish::None,
        None if sources.iter().any(|source| wants(source.spec)) => {
            Wish::Any(vip::choices(name, family, declared).and_then(|mut all| all.next()))
        }
        None => Wish::None,
    }
}

/// Whether each client stays at one endpoint: where clusters say different things, it does, so that none of them breaks
/// what it promised.
fn by_client(name: &ObjectName, sources: &[Source<'_>], problems: &mut Vec<Problem>) -> bool {
    let is = |by_client: bool| sources.iter().find(|source| source.spec.by_client == by_client);
    if let (Some(_), Some(other)) = (is(true), is(false)) {
        problems.push(Problem {
            object: Some(name.clone()),
            cluster: Some(Arc::clone(other.cluster)),
            field: "spec.sessionAffinity".to_owned(),
            what: "is None here and ClientIP in another cluster, which counts".to_owned(),
            hint: Some("say the same in all clusters".to_owned()),
        });
    }
    is(true).is_some()
}
