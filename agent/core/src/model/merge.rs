//! Declarations and cluster states into one model.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use fairlead_abi::Family;

use super::draft::{Draft, Wish, sources};
use super::{ClusterState, Declarations, Health, Model, ObjectName, Problem, Protocol, Service, Vips, vip};

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
    let same_declarations = previous.is_some_and(|model| model.declared == *declared);
    let drafts: Vec<(&ObjectName, Arc<Draft>)> = sources(declared, states, previous)
        .into_iter()
        .map(|(name, sources)| {
            let before = previous.and_then(|model| model.services.get(name));
            let reusable = before.filter(|service| {
                same_declarations && service.draft.is_of(name, &sources, declared, health, service)
            });
            let draft = match reusable {
                Some(service) => Arc::clone(&service.draft),
                None => Arc::new(Draft::new(name, &sources, declared, health, before.map(|b| &**b))),
            };
            (name, draft)
        })
        .collect();
    let outcomes = Claims::default().settle(&drafts, declared);
    let mut problems = unknown_clusters(declared, states);
    let mut services = BTreeMap::new();
    for ((name, draft), outcome) in drafts.into_iter().zip(outcomes) {
        let service = service(name, draft, outcome, previous);
        problems.extend(service.problems.iter().cloned());
        services.insert(name.clone(), service);
    }
    Model { declared: Arc::clone(declared), services, problems }
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
fn service(name: &ObjectName, draft: Arc<Draft>, outcome: Outcome, previous: Option<&Model>) -> Arc<Service> {
    let mut problems = draft.problems.clone();
    problems.extend(outcome.problems);
    if let Some(before) = previous.and_then(|model| model.services.get(name))
        && Arc::ptr_eq(&before.draft, &draft)
        && before.vips == outcome.vips
        && before.denied == outcome.denied
        && before.problems == problems
    {
        return Arc::clone(before);
    }
    Arc::new(Service {
        name: name.clone(),
        vips: outcome.vips,
        ports: draft.ports.clone(),
        denied: outcome.denied,
        pass_unserved: draft.pass_unserved,
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

/// Who has which VIP and port.
#[derive(Debug, Default)]
struct Claims<'a> {
    vips: BTreeMap<IpAddr, Claim<'a>>,
}

#[derive(Debug)]
struct Claim<'a> {
    /// The first that has it.
    owner: &'a ObjectName,
    ports: BTreeMap<(u16, Protocol), &'a ObjectName>,
}

impl<'a> Claims<'a> {
    /// Requests first, by service name; then the choices from the pools. So a request never loses its VIP to a service
    /// that would have taken any.
    fn settle(mut self, drafts: &[(&'a ObjectName, Arc<Draft>)], declared: &Declarations) -> Vec<Outcome> {
        let mut outcomes = vec![Outcome::default(); drafts.len()];
        for ((name, draft), outcome) in drafts.iter().zip(&mut outcomes) {
            for wish in [draft.v4, draft.v6] {
                if let Wish::This(vip) = wish {
                    self.request(name, vip, draft, outcome);
                }
            }
        }
        let mut collisions = Vec::new();
        for (at, (name, draft)) in drafts.iter().enumerate() {
            for (family, wish) in [(Family::V4, draft.v4), (Family::V6, draft.v6)] {
                if wish != Wish::Any {
                    continue;
                }
                match vip::choices(name, family, declared).and_then(|mut all| all.next()) {
                    None => outcomes[at].problems.push(no_pool(name, family)),
                    Some(vip) if self.vips.contains_key(&vip) => collisions.push((at, family, vip)),
                    Some(vip) => {
                        self.vips.insert(vip, Claim { owner: name, ports: BTreeMap::new() });
                        outcomes[at].vips.set(vip);
                    }
                }
            }
        }
        // Only now is it known which addresses are free.
        for (at, family, vip) in collisions {
            let problem = self.collision(drafts[at].0, family, vip, declared);
            outcomes[at].problems.push(problem);
        }
        outcomes
    }

    /// Services may share a VIP that both ask for, as long as their ports differ.
    fn request(&mut self, name: &'a ObjectName, vip: IpAddr, draft: &Draft, outcome: &mut Outcome) {
        let claim = self.vips.entry(vip).or_insert_with(|| Claim { owner: name, ports: BTreeMap::new() });
        outcome.vips.set(vip);
        for port in &draft.ports {
            let key = (port.port, port.protocol);
            let owner = *claim.ports.entry(key).or_insert(name);
            if owner != name {
                outcome.denied.push((vip, port.port, port.protocol));
                outcome.problems.push(Problem {
                    object: Some(name.clone()),
                    cluster: None,
                    field: format!("VIP {vip}"),
                    what: format!(
                        "port {}/{} of it is held by Service {owner}; this service doesn't serve it",
                        port.port, port.protocol
                    ),
                    hint: Some("use another port or another VIP".to_owned()),
                });
            }
        }
    }

    fn collision(&self, name: &ObjectName, family: Family, vip: IpAddr, declared: &Declarations) -> Problem {
        let mut choices = vip::choices(name, family, declared).into_iter().flatten();
        let free = choices.find(|choice| !self.vips.contains_key(choice));
        let owner = self.vips[&vip].owner;
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
#[path = "merge_tests.rs"]
mod tests;
