//! Declarations and cluster states into one model.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use fairlead_abi::Family;

use super::draft::{Draft, Wish};
use super::sources::{Origin, Stop, Walk, sizes};
use super::{
    ClusterState, Declarations, Health, Model, ObjectName, Problem, Protocol, Service, ServicePort, Vips,
    vip, withdrawal,
};

/// The model of what `states` report, under `declared`.
///
/// `previous` is the model before: unchanged services are taken over as they are, a cluster that can't be reached
/// keeps what was last known of it, and the mass-withdrawal guard holds endpoints that vanish all at once while their
/// probes (`health`) don't fail. Whatever the order of items in the input, the result is the same.
#[must_use]
pub fn merge(
    declared: &Arc<Declarations>,
    states: &BTreeMap<Arc<str>, ClusterState>,
    health: &Health,
    previous: Option<&Model>,
) -> Model {
    // Everything is judged anew under other declarations; but what was last known stays known.
    let comparable = previous.is_some_and(|model| model.declared == *declared);
    let withdrawn = withdrawal::withdrawn(declared, states, previous);
    let drafts: Vec<Drafted<'_>> = Walk::new(declared, states, &withdrawn, previous, comparable)
        .map(|stop| match stop {
            Stop::Same(service, origins) => Drafted {
                name: &service.name,
                draft: Arc::clone(&service.draft),
                origins: Arc::clone(origins),
                before: Some(service),
            },
            Stop::Look(name, sources, before) => {
                let same = |service: &&Arc<Service>| {
                    comparable && service.draft.is_of(name, &sources, declared, health, service)
                };
                let draft = match before.filter(same) {
                    Some(service) => Arc::clone(&service.draft),
                    None => Arc::new(Draft::new(name, &sources, declared, health, before.map(|b| &**b))),
                };
                Drafted { name, draft, origins: sources.iter().map(Origin::of).collect(), before }
            }
        })
        .collect();
    let outcomes = Claims::default().settle(&drafts, declared);
    let mut problems = unknown_clusters(declared, states);
    // A node that is no gateway doesn't probe: it only follows.
    problems.extend(withdrawal::problems(&withdrawn, states).filter(|_| declared.here.gateway));
    let mut notes = Vec::new();
    let mut services = Vec::with_capacity(drafts.len());
    let mut origins = Vec::with_capacity(drafts.len());
    for (drafted, outcome) in drafts.into_iter().zip(outcomes) {
        let name = drafted.name.clone();
        origins.push(Arc::clone(&drafted.origins));
        notes.extend(drafted.draft.notes.iter().cloned());
        let service = service(drafted, outcome);
        problems.extend(service.problems.iter().cloned());
        services.push((name, service));
    }
    // Built from a sorted list, all at once.
    Model {
        declared: Arc::clone(declared),
        services: services.into_iter().collect(),
        problems,
        notes,
        withdrawn,
        sizes: sizes(declared, &origins),
        origins,
    }
}

/// A service, not yet compared with the others.
struct Drafted<'a> {
    name: &'a ObjectName,
    draft: Arc<Draft>,
    origins: Arc<[Origin]>,
    before: Option<&'a Arc<Service>>,
}

fn unknown_clusters(declared: &Declarations, states: &BTreeMap<Arc<str>, ClusterState>) -> Vec<Problem> {
    let unknown = states.keys().filter(|name| !declared.clusters.contains_key(*name));
    unknown
        .map(|name| Problem {
            object: None,
            cluster: Some(Arc::clone(name)),
            field: "clusters".to_owned(),
            what: "the cluster is not declared; nothing of it is used".to_owned(),
            hint: Some("declare it in the configuration".to_owned()),
        })
        .collect()
}

/// The finished service; the previous one if it is the same.
fn service(drafted: Drafted<'_>, outcome: Outcome) -> Arc<Service> {
    let draft = drafted.draft;
    let same_problems = |before: &Service| {
        let (own, compared) = before.problems.split_at(draft.problems.len().min(before.problems.len()));
        own == draft.problems && compared == outcome.problems
    };
    if let Some(before) = drafted.before
        && Arc::ptr_eq(&before.draft, &draft)
        && before.vips == outcome.vips
        && before.denied == outcome.denied
        && same_problems(before)
    {
        return Arc::clone(before);
    }
    let problems = draft.problems.iter().cloned().chain(outcome.problems).collect();
    Arc::new(Service {
        name: drafted.name.clone(),
        vips: outcome.vips,
        ports: draft.ports.clone(),
        denied: outcome.denied,
        pass_unserved: draft.pass_unserved,
        by_client: draft.by_client,
        allowed: draft.allowed.clone(),
        shards: Arc::clone(&draft.shards),
        problems,
        draft,
    })
}

/// What comparing a service with all others gives.
#[derive(Clone, Debug, Default)]
struct Outcome {
    vips: Vips,
    denied: Vec<(IpAddr, u16, Protocol)>,
    problems: Vec<Problem>,
}

/// Who has which VIP, and which port of one that was asked for. Never iterated over, so their order doesn't matter.
#[derive(Default)]
struct Claims<'a> {
    vips: HashMap<IpAddr, &'a ObjectName>,
    ports: HashMap<(IpAddr, u16, Protocol), &'a ObjectName>,
}

impl<'a> Claims<'a> {
    /// Requests first, then the choices from the pools: a request never loses its VIP to a service that would have taken
    /// any. Among either, the oldest service first, so that a new one takes nothing from those that are served; of the
    /// same age by name.
    fn settle(mut self, drafts: &[Drafted<'a>], declared: &Declarations) -> Vec<Outcome> {
        let mut outcomes = vec![Outcome::default(); drafts.len()];
        let mut order: Vec<usize> = (0..drafts.len()).collect();
        order.sort_by_key(|&at| drafts[at].draft.age());
        for &at in &order {
            for wish in [drafts[at].draft.v4, drafts[at].draft.v6] {
                if let Wish::This(vip) = wish {
                    self.request(vip, &drafts[at], &mut outcomes[at]);
                }
            }
        }
        let mut collisions = Vec::new();
        for &at in &order {
            let drafted = &drafts[at];
            for (family, wish) in [(Family::V4, drafted.draft.v4), (Family::V6, drafted.draft.v6)] {
                match wish {
                    Wish::None | Wish::This(_) => {}
                    Wish::Any(None) => outcomes[at].problems.push(no_pool(drafted.name, family)),
                    Wish::Any(Some(vip)) if self.vips.contains_key(&vip) => {
                        collisions.push((at, family, vip));
                    }
                    Wish::Any(Some(vip)) => {
                        self.vips.insert(vip, drafted.name);
                        outcomes[at].vips.set(vip);
                    }
                }
            }
        }
        // Only now is it known which addresses are free.
        for (at, family, vip) in collisions {
            let problem = self.collision(drafts[at].name, family, vip, declared);
            outcomes[at].problems.push(problem);
        }
        outcomes
    }

    /// Services may share a VIP that both ask for, as long as their ports differ.
    fn request(&mut self, vip: IpAddr, drafted: &Drafted<'a>, outcome: &mut Outcome) {
        self.vips.entry(vip).or_insert(drafted.name);
        outcome.vips.set(vip);
        for port in &drafted.draft.ports {
            let key = (vip, port.port, port.protocol);
            let holder = *self.ports.entry(key).or_insert(drafted.name);
            if holder != drafted.name {
                outcome.denied.push(key);
                outcome.problems.push(port_held(drafted.name, vip, port, holder));
            }
        }
    }

    fn collision(&self, name: &ObjectName, family: Family, vip: IpAddr, declared: &Declarations) -> Problem {
        let mut choices = vip::choices(name, family, declared).into_iter().flatten();
        let free = choices.find(|choice| !self.vips.contains_key(choice));
        let owner = self.vips[&vip];
        Problem {
            object: Some(name.clone()),
            cluster: None,
            field: "VIP".to_owned(),
            what: format!(
                "{vip}, which the pool gives Service {name}, is held by Service {owner}; it gets none"
            ),
            hint: Some(match free {
                Some(free) => format!("ask for {free}, which is free"),
                None => "enlarge the pool, none of its addresses seems free".to_owned(),
            }),
        }
    }
}

fn port_held(name: &ObjectName, vip: IpAddr, port: &ServicePort, holder: &ObjectName) -> Problem {
    Problem {
        object: Some(name.clone()),
        cluster: None,
        field: format!("VIP {vip}"),
        what: format!(
            "port {}/{} of it is held by Service {holder}; this service doesn't serve it",
            port.port, port.protocol
        ),
        hint: Some("use another port or another VIP".to_owned()),
    }
}

fn no_pool(name: &ObjectName, family: Family) -> Problem {
    let family = match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    };
    Problem {
        object: Some(name.clone()),
        cluster: None,
        field: "VIP".to_owned(),
        what: format!("no pool has an {family} address to give; it gets none"),
        hint: Some(format!("configure an {family} pool, or leave the family out of spec.ipFamilies")),
    }
}

#[cfg(test)]
mod tests;
