//! `fairlead plan`: what an agent that started now would change in the pinned maps. Changes nothing.
//!
//! It reads the sources once and goes the agent's own way: merge, plan, diff. What only a running agent knows is taken
//! from what it last said (probe results, demand) or from the maps (next hops); the answer says what is missing.

mod actions;
mod sources;
mod text;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use fairlead_abi::{Encap, Hop};
use fairlead_core::model::{Held, Model, Problem, merge};
use fairlead_core::planner::{
    Inputs, Installed, Links, Newcomers, Plan, PlanError, ReadSlots, Route, Tables, WantedBackend, diff,
    follow,
};
use serde::Serialize;

use super::node::{Error, Node, age, age_text};
use super::output::Output;
use crate::app::{self, Remembered};
use crate::config::types::Role;
use crate::config::{self, Config};
use crate::dataplane::View;
use crate::federation::SourceProblem;
use crate::text::counted;
use actions::{names, rows};
use sources::{kept, sources};

/// What is shown.
#[derive(Debug, Serialize)]
struct Report {
    instance: String,
    /// In the order in which they would be done.
    actions: Vec<Row>,
    /// What the slots would resolve to.
    fingerprint: String,
    /// What they resolve to, where there are any.
    installed_fingerprint: Option<String>,
    /// Why the plan would not be carried out.
    refused: Option<String>,
    problems: Vec<Problem>,
    /// What this rests on.
    notes: Vec<String>,
}

/// One write.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Row {
    action: &'static str,
    /// Which service or address it is for.
    subject: String,
    /// Which entry of which map.
    place: String,
    detail: String,
}

/// Shows what would change.
pub(super) fn plan(node: &Node, output: Output) -> Result<()> {
    let config = node.whole_config()?;
    let mut notes = node.departures();
    let view = view(node, &mut notes)?;
    let raw = view.as_ref().map(View::observe).transpose()?;
    let hops = raw.as_ref().map_or(&[][..], |raw| raw.hops);
    let capacities = app::capacities(config).no_less_than_in_use(&node.instance)?.tables;
    let installed = match (&view, &raw) {
        (Some(view), Some(raw)) if view.capacities() == capacities => {
            Installed::read(raw, capacities, None, Duration::ZERO)
        }
        (pinned, _) => {
            if pinned.is_some() {
                notes.push(
                    "an agent makes the tables anew, for the configuration gives other capacities".to_owned(),
                );
            }
            Installed::empty(capacities)
        }
    };
    let (states, federation) = sources(node, &mut notes)?;
    let declared = Arc::new(config::declarations(config));
    let remembered = node.status.as_ref().map(|status| Remembered::of(status.clone())).unwrap_or_default();
    let health = &remembered.health;
    let known = merge(&declared, &kept(node, &states), health, None);
    let model = merge(&declared, &states, health, Some(&known));
    let merged = model.problems.iter().map(|problem| federation.located(problem.clone()));
    let mut problems: Vec<Problem> =
        federation.problems().iter().map(SourceProblem::to_model).chain(merged).collect();
    problems.sort();
    let links = Arc::new(links(&installed, hops));
    let inputs = Inputs {
        model: &model,
        health,
        demand: &remembered.demand,
        links: &links,
        held: &Held::default(),
        silent: &Arc::default(),
        now: Duration::ZERO,
    };
    let tables = remembered.planner(&declared.tuning, &installed).plan(&inputs).tables;
    notes.extend(limits(node, config, (&model, &remembered), &tables, &links));
    let no_slots = Vec::new();
    let slots = raw.as_ref().map_or(&no_slots as &dyn ReadSlots, |raw| raw.slots);
    let planned = changes(&tables, (&installed, slots), &remembered);
    let names = names(&tables, node.status.as_ref().ok());
    let report = Report {
        instance: node.instance.name().to_owned(),
        actions: rows(&planned.actions, &installed, &names),
        fingerprint: format!("{:016x}", tables.fingerprint()),
        installed_fingerprint: raw.is_some().then(|| format!("{:016x}", installed.fingerprint())),
        refused: planned.waits_for.or(planned.unallowed).or(planned.unnamed).map(|full| full.to_string()),
        problems,
        notes,
    };
    Ok(output.show(&report, Report::text)?)
}

/// The pinned tables, if there are any.
fn view(node: &Node, notes: &mut Vec<String>) -> Result<Option<View>, Error> {
    match node.view() {
        Ok(view) => Ok(Some(view)),
        // Then an agent makes them.
        Err(Error::NoTables { instance, others, .. }) => {
            notes.push(format!("there are no tables of instance {instance} yet: everything is new.{others}"));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// What an agent would do, where there isn't room for all of it too.
fn changes(
    tables: &Tables,
    (installed, slots): (&Installed, &dyn ReadSlots),
    remembered: &Remembered,
) -> Plan {
    let full = match diff(tables, installed, slots, Duration::ZERO) {
        Ok(plan) => return plan,
        Err(PlanError::Full(full)) => full,
    };
    let last = remembered.unserved(tables);
    let newcomers = match installed.holds_some_of(tables) {
        true => Newcomers::Refused,
        false => Newcomers::LetIn { last: &last },
    };
    follow(tables, installed, slots, Duration::ZERO, full, newcomers)
}

/// The next hops that the maps have.
fn links(installed: &Installed, hops: &[Hop]) -> Links {
    let mut links = Links::new();
    for (key, ..) in installed.services() {
        for (_, backend) in installed.backends_of(&key) {
            let hop = hops.get(backend.hop as usize).filter(|hop| backend.hop != 0 && hop.ifindex != 0);
            if let Some(hop) = hop {
                let route = Route { hop: *hop, routed_by: hop.ifindex, mtu: backend.mtu };
                links.insert(backend.outer.into(), route);
            }
        }
    }
    links
}

/// What the answer can't know.
fn limits(
    node: &Node,
    config: &Config,
    (model, remembered): (&Model, &Remembered),
    tables: &Tables,
    links: &Links,
) -> Vec<String> {
    let mut notes = Vec::new();
    if config.has(Role::Gateway) {
        notes.push(match &node.status {
            Ok(status) => format!(
                "nothing was probed: endpoints count as failing that the agent found failing {} ago",
                age_text(age(status.written))
            ),
            Err(_) => "nothing was probed: endpoints count as the clusters say".to_owned(),
        });
        let remote =
            |backend: &&WantedBackend| backend.encap != Encap::Local && !links.contains_key(&backend.outer);
        let backends = tables.services.values().flat_map(|table| &table.backends);
        let unknown = backends.filter(remote).map(|backend| backend.outer).collect::<BTreeSet<_>>().len();
        if unknown > 0 {
            notes.push(format!(
                "next hops of {} are not in the maps; an agent would look them up",
                counted(unknown as u64, "backend")
            ));
        }
    }
    let limited = model.services.values().flat_map(|service| service.shards.iter());
    let is_limited =
        limited.map(|shard| &shard.spec.options).any(|options| options.capacity_per_endpoint.is_some());
    if is_limited && remembered.demand.per_second.is_empty() {
        notes.push(
            "demand is not known here: shards with a limited capacity are planned as if nearly idle"
                .to_owned(),
        );
    }
    notes.push(
        "shards that have come back since the agent last spoke are planned with their full share".to_owned(),
    );
    notes
}

#[cfg(test)]
mod tests {
    use fairlead_core::model::ProbeState;
    use fairlead_core::planner::{ShardState, Verdict};

    use super::super::sample::Sample;
    use super::*;

    #[test]
    fn what_the_agent_found_failing_counts_as_failing() {
        let mut sample = Sample::new();
        let failing = |sample: &Sample| {
            let health = app::last_health(&sample.tables);
            let results: Vec<_> = health.services.values().flat_map(|service| service.iter()).collect();
            assert!(
                results.iter().all(|(_, port, probe)| &***port == "http" && probe.state == ProbeState::Bad)
            );
            results.iter().map(|(address, ..)| address.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(failing(&sample), ["10.2.0.4"]);
        let web = sample.tables.iter_mut().find(|table| table.port == 80).unwrap();
        web.shards[0].state = ShardState::Panic;
        web.backends[1].verdict = Verdict::Panic;
        assert_eq!(
            failing(&sample),
            ["10.1.0.1", "10.2.0.1", "10.2.0.4"],
            "in a panic, the standby ones too"
        );
    }

    #[test]
    fn next_hops_are_those_of_the_maps() {
        let sample = Sample::new();
        let links = links(&sample.picture().installed, &sample.hops);
        assert_eq!(links.len(), 5, "four backends of eu-b and one of us-a");
        let route = links[&std::net::IpAddr::from([10, 2, 0, 1])];
        assert_eq!((route.hop.ifindex, route.mtu), (3, 1500));
    }
}
