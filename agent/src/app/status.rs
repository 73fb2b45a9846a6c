//! What the agent finds to say of itself.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use fairlead_core::{model::Problem, planner::Links};

use super::{interfaces::Interface, start::Stages};
use crate::{
    config::types::Role,
    status::{ClusterStatus, Status},
};

impl Stages {
    fn unready(&self) -> Vec<String> {
        let taken = self.planned.as_ref().map(Self::taken_outers_of).unwrap_or_default();
        let ways = Ways::of(&taken, &self.links.borrow());
        let mut reasons = Vec::new();
        if self.planned.is_none() {
            reasons.push("no tables were planned yet".to_owned());
        }
        match &self.failure {
            Some(failure) if self.waits(failure.serves) => reasons.push(failure.what.clone()),
            _ => reasons.extend(self.interfaces.iter().filter_map(Interface::unattached)),
        }
        if ways.lacks_a_family() {
            reasons.extend(ways.problem().map(|problem| problem.to_string()));
        }
        if !self.serves() {
            reasons.extend(self.failure.as_ref().map(|failure| failure.what.clone()));
        }
        reasons
    }

    /// Whether this gateway has receivers to ask, and no secret to do it with.
    fn asks_nobody(&self) -> bool {
        let tables = self.planned.iter().flat_map(|planned| planned.tables.services.values());
        self.config.has(Role::Gateway)
            && self.config.secrets_file.is_none()
            && tables.into_iter().any(|table| !table.backends.is_empty())
    }

    /// Says how things are now.
    pub(super) fn publish(&mut self) {
        let merged = self.model.iter().flat_map(|model| model.problems.iter().cloned());
        let derived = self.targets.borrow();
        let known = merged.chain(derived.problems().cloned());
        let mut problems: Vec<Problem> = known.map(|problem| self.federation.located(problem)).collect();
        drop(derived);
        problems.extend(self.federation.problems().iter().map(crate::federation::SourceProblem::to_model));
        let ways = Ways::of(&self.outers.borrow(), &self.links.borrow());
        problems.extend(ways.problem());
        let heard = Arc::clone(&self.heard.borrow());
        problems.extend(heard.refused_secrets.as_deref().map(refused_secrets));
        problems.extend((heard.nobody_answers && self.config.has(Role::Gateway)).then(nobody_answers));
        problems.extend(self.asks_nobody().then(no_secrets));
        problems.extend(heard.strangers.iter().map(|(cluster, outer)| strange(cluster, *outer)));
        if self.config.has(Role::Gateway) {
            problems.extend(self.interfaces.iter().filter_map(Interface::lack));
        }
        problems.extend(self.blind.as_deref().map(blind));
        let tables = self.planned.as_ref().map(|planned| &planned.tables);
        problems.extend(tables.into_iter().flat_map(fairlead_core::planner::Tables::alarms));
        problems.sort();
        self.told.tell(&problems);
        let hash = |hash: u64| format!("{hash:016x}");
        let clusters = self.federation.sources().map(|(spec, said)| ClusterStatus {
            name: Arc::clone(&spec.cluster),
            source: spec.origin.to_string(),
            reachable: said.state.reachable,
            since: said.since,
            shards: said.state.shards.len(),
            endpoints: said.state.shards.values().map(|spec| spec.endpoints.len()).sum(),
            objects: said.objects,
            failure: said.failure.clone(),
            restored: self.federation.restored(&spec.cluster),
            drained: said.drains.told(),
        });
        let usage = self.installed.usage().into_iter().map(|(map, used, size)| (map.to_string(), used, size));
        let status = Status {
            group: self.declared.here.group.to_string(),
            program: self.dataplane.tag().ok(),
            unready: self.unready(),
            interfaces: self.interfaces.iter().map(|i| i.status(self.config.node.xdp_mode)).collect(),
            fingerprint: tables.map(|tables| hash(tables.fingerprint())),
            installed_fingerprint: Some(hash(self.installed.fingerprint())),
            clusters: clusters.collect(),
            problems,
            notes: self.model.as_ref().map(|model| model.notes.clone()).unwrap_or_default(),
            refused: self.refused.clone(),
            failure: self.failure.as_ref().map(|failure| failure.what.clone()),
            usage: usage.collect(),
            unserved: self.unserved.iter().map(Into::into).collect(),
            demand: self.demand.per_second.clone().into_iter().collect(),
            services: tables.map(|tables| tables.services.values().cloned().collect()).unwrap_or_default(),
            ..Status::starting(&self.config)
        };
        self.status.send_replace(Arc::new(status));
    }
}

/// What is wrong on this node, with no object of the federation's.
fn here(field: &str, what: String, hint: &str) -> Problem {
    Problem { object: None, cluster: None, field: field.to_owned(), what, hint: Some(hint.to_owned()) }
}

fn nobody_answers() -> Problem {
    let what = format!("no receiver answers this gateway's questions: {UNASKED}");
    let hint =
        "is secretsFile the same everywhere, and does UDP port 6082 of endpoints get through to their nodes?";
    here("secretsFile", what, hint)
}

fn no_secrets() -> Problem {
    let what = format!("is not given, so no receiver is asked: {UNASKED}");
    here("secretsFile", what, "give all nodes the same one, and restart their agents")
}

/// What comes of it.
const UNASKED: &str =
    "connections that no backend of their slot knows break, and nobody can tell how many are left of a drain";

fn blind(why: &str) -> Problem {
    let what = format!("those of this node's endpoints can't be looked up: {why}");
    let hint = "kernels with BTF (/sys/kernel/btf/vmlinux) allow it; without, a connection whose flow this node has lost is found \
                again at its slot's current endpoint only";
    here("sockets", what, hint)
}

fn refused_secrets(why: &str) -> Problem {
    here("secretsFile", why.to_owned(), "the secrets stay as they were")
}

fn strange(cluster: &Arc<str>, outer: IpAddr) -> Problem {
    let what = format!(
        "don't hold {outer}, which a node of the cluster announces: what it says of it doesn't count"
    );
    let hint = "complete podCidrs if it is an endpoint of the cluster; else somebody has its key";
    Problem { cluster: Some(Arc::clone(cluster)), ..here("podCidrs", what, hint) }
}

/// How outer destinations are reached.
struct Ways {
    known: Vec<IpAddr>,
    unknown: Vec<IpAddr>,
}

impl Ways {
    fn of(wanted: &BTreeSet<IpAddr>, links: &Links) -> Self {
        let (known, unknown) = wanted.iter().partition(|outer| links.contains_key(outer));
        Self { known, unknown }
    }

    /// Whether some are wanted of IPv4 or of IPv6, and not one of them is known.
    fn lacks_a_family(&self) -> bool {
        let has = |ways: &[IpAddr], v4| ways.iter().any(|outer| outer.is_ipv4() == v4);
        [true, false].into_iter().any(|v4| has(&self.unknown, v4) && !has(&self.known, v4))
    }

    fn problem(&self) -> Option<Problem> {
        let first = self.unknown.first()?;
        let named: Vec<_> = self.unknown.iter().take(3).map(ToString::to_string).collect();
        let more = self.unknown.len() - named.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        Some(Problem {
            object: None,
            cluster: None,
            field: "next hop".to_owned(),
            what: format!("none is known towards {}{more}: what goes there is dropped", named.join(", ")),
            hint: Some(format!("see `ip route get {first}` and `ip neighbour`")),
        })
    }
}

#[cfg(test)]
mod tests {
    use fairlead_abi::Hop;
    use fairlead_core::planner::Route;

    use super::*;

    #[test]
    fn unknown_next_hops_are_told_and_matter_where_none_is_known() {
        let outers: BTreeSet<IpAddr> = (1..=5).map(|last| IpAddr::from([192, 0, 2, last])).collect();
        let route = Route { hop: Hop { ifindex: 1, ..Hop::default() }, routed_by: 1, mtu: 1500 };
        let none = Ways::of(&outers, &Links::new());
        assert!(none.lacks_a_family());
        assert_eq!(
            none.problem().unwrap().what,
            "none is known towards 192.0.2.1, 192.0.2.2, 192.0.2.3 and 2 more: what goes there is dropped"
        );
        let one = Ways::of(&outers, &Links::from([([192, 0, 2, 4].into(), route)]));
        assert!(!one.lacks_a_family());
        assert_eq!(one.unknown.len(), 4);
        let all: Links = outers.iter().map(|outer| (*outer, route)).collect();
        let ways = Ways::of(&outers, &all);
        assert!(!ways.lacks_a_family() && ways.problem().is_none());
        let both = outers.iter().copied().chain(["2001:db8::1".parse().unwrap()]).collect();
        assert!(Ways::of(&both, &all).lacks_a_family(), "of IPv6 none is known");
        let nothing = Ways::of(&BTreeSet::new(), &Links::new());
        assert!(!nothing.lacks_a_family() && nothing.problem().is_none());
    }
}
