//! `fairlead plan`: what an agent that started now would change in the pinned maps. Changes nothing.
//!
//! It reads the sources once and goes the agent's own way: merge, plan, diff. What only a running agent knows is taken
//! from what it last said (probe results, demand) or from the maps (next hops); the answer says what is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use fairlead_abi::{Encap, ServiceKey};
use fairlead_core::model::{ClusterState, Model, Problem, Protocol, merge};
use fairlead_core::planner::{
    Action, Inputs, Installed, Links, Newcomers, PlanError, Route, Tables, WantedBackend, diff, follow,
};
use serde::Serialize;

use super::node::{Error, Node, age, age_text};
use super::output::Output;
use super::table::{Cell, Style, Table};
use crate::app::{self, Remembered, Status};
use crate::config;
use crate::config::types::Role;
use crate::dataplane::View;
use crate::federation::{Federation, LastGood};
use crate::text::counted;

/// How long sources may take.
const READ_SOURCES: Duration = Duration::from_secs(10);

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
    let mut notes = Vec::new();
    let view = match node.view() {
        Ok(view) => Some(view),
        // Then an agent makes them.
        Err(Error::NoTables { instance, others, .. }) => {
            notes.push(format!("there are no tables of instance {instance} yet: everything is new.{others}"));
            None
        }
        Err(error) => return Err(error.into()),
    };
    let raw = view.as_ref().map(View::observe).transpose()?;
    let hops = raw.as_ref().map_or(&[][..], |raw| raw.hops);
    let installed = match (&view, &raw) {
        (Some(view), Some(raw)) => Installed::read(raw, view.capacities(), None, Duration::ZERO),
        _ => Installed::empty(app::capacities(&node.config).tables),
    };
    let (states, mut problems) = sources(node, &mut notes)?;
    let declared = Arc::new(config::declarations(&node.config));
    let remembered = node.status.as_ref().map(|status| Remembered::of(status.clone())).unwrap_or_default();
    let health = &remembered.health;
    let known = merge(&declared, &kept(node, &states), health, None);
    let model = merge(&declared, &states, health, Some(&known));
    problems.extend(model.problems.iter().cloned());
    problems.sort();
    let links = Arc::new(links(&installed, hops));
    let inputs =
        Inputs { model: &model, health, demand: &remembered.demand, links: &links, now: Duration::ZERO };
    let tables = remembered.planner(&declared.tuning).plan(&inputs).tables;
    notes.extend(limits(node, (&model, &remembered), &tables, &links));
    let names = names(&tables, node.status.as_ref().ok());
    let planned = match diff(&tables, &installed, Duration::ZERO) {
        Ok(plan) => plan,
        // What an agent does then.
        Err(PlanError::Full(full)) => {
            let last = remembered.unserved(&tables);
            let newcomers = match installed.holds_some_of(&tables) {
                true => Newcomers::Refused,
                false => Newcomers::LetIn { last: &last },
            };
            follow(&tables, &installed, Duration::ZERO, full, newcomers)
        }
    };
    let refused = planned.waits_for.map(|full| full.to_string());
    let actions = rows(&planned.actions, &installed, &names);
    let report = Report {
        instance: node.instance.name().to_owned(),
        actions,
        fingerprint: format!("{:016x}", tables.fingerprint()),
        installed_fingerprint: raw.is_some().then(|| format!("{:016x}", installed.fingerprint())),
        refused,
        problems,
        notes,
    };
    Ok(output.show(&report, Report::text)?)
}

/// By cluster.
type States = BTreeMap<Arc<str>, ClusterState>;

/// The clusters' states: read now or, where a source can't be, what was last known of it. Nothing is kept on disk.
fn sources(node: &Node, notes: &mut Vec<String>) -> Result<(States, Vec<Problem>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut states, problems) = runtime.block_on(async {
        let mut federation = Federation::start(&node.config, None);
        let reading = async {
            while !federation.all_read() {
                federation.changed().await;
            }
        };
        let in_time = tokio::time::timeout(READ_SOURCES, reading).await.is_ok();
        if !in_time {
            notes.push(format!("some sources were not read within {} s", READ_SOURCES.as_secs()));
        }
        let problems: Vec<Problem> =
            federation.problems().iter().map(crate::federation::SourceProblem::to_model).collect();
        (federation.states().clone(), problems)
    });
    runtime.shutdown_background();
    let unreachable: Vec<Arc<str>> =
        states.iter().filter(|(_, state)| !state.reachable).map(|(name, _)| Arc::clone(name)).collect();
    for cluster in unreachable {
        let restored = last_good(node, &cluster);
        let known = restored.context(format!("the last known state of {cluster}"));
        match known {
            Ok(Some((age, state))) => {
                notes.push(format!("cluster {cluster} can't be read; what was known {age} ago counts"));
                states.insert(cluster, state);
            }
            Ok(None) => notes.push(format!("cluster {cluster} can't be read, and nothing was known of it")),
            Err(error) => notes.push(format!("cluster {cluster} can't be read: {error:#}")),
        }
    }
    Ok((states, problems))
}

/// What was last known of each cluster: an agent that starts compares what the sources say with it, and holds endpoints
/// that are suddenly gone.
fn kept(node: &Node, states: &States) -> States {
    let of_cluster = |cluster: &Arc<str>| match last_good(node, cluster) {
        Ok(Some((_, state))) => Some((Arc::clone(cluster), state)),
        // That it can't be read is told where it would be served from.
        Ok(None) | Err(_) => None,
    };
    states.keys().filter_map(of_cluster).collect()
}

fn last_good(node: &Node, cluster: &Arc<str>) -> Result<Option<(String, ClusterState)>> {
    let restored = LastGood::of(&node.config.state_directory()).read(cluster)?;
    Ok(restored.map(|restored| {
        let state = ClusterState { reachable: false, shards: restored.shards };
        (age_text(age(restored.written)), state)
    }))
}

/// The next hops that the maps have.
fn links(installed: &Installed, hops: &[fairlead_abi::Hop]) -> Links {
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
    (model, remembered): (&Model, &Remembered),
    tables: &Tables,
    links: &Links,
) -> Vec<String> {
    let mut notes = Vec::new();
    if node.config.has(Role::Gateway) {
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

/// Keys to names.
type Names = BTreeMap<ServiceKey, String>;

fn names(tables: &Tables, status: Option<&Status>) -> Names {
    let said = status.into_iter().flat_map(|status| status.services.iter());
    let planned = tables.services.values();
    said.chain(planned).map(|table| (table.key(), table.name.to_string())).collect()
}

/// `shop/web 203.0.113.10:80/tcp`.
fn subject(key: &ServiceKey, names: &Names) -> String {
    let address: std::net::IpAddr = key.vip.into();
    let place = match Protocol::of(key.protocol) {
        Some(protocol) => format!("{}/{protocol}", SocketAddr::new(address, key.port)),
        None => format!("VIP {address}"),
    };
    match names.get(key) {
        Some(name) => format!("{name} {place}"),
        None => place,
    }
}

fn rows(actions: &[Action], installed: &Installed, names: &Names) -> Vec<Row> {
    // Entries as they stand, and as the plan's own publications put them.
    let mut entries: BTreeMap<(u32, usize), ServiceKey> =
        installed.services().map(|(key, bucket, entry, _)| ((bucket, entry), key)).collect();
    let mut rows = Vec::with_capacity(actions.len());
    for action in actions {
        if let Action::PublishEntry { bucket, entry, value, .. } = action
            && let Some(key) = value.key()
        {
            entries.insert((*bucket, *entry), key);
        }
        let at = |bucket: u32, entry: usize| {
            entries.get(&(bucket, entry)).map_or_else(String::new, |key| subject(key, names))
        };
        rows.push(row(action, at));
    }
    rows
}

fn row(action: &Action, at: impl Fn(u32, usize) -> String) -> Row {
    let (name, subject, place, detail) = match action {
        Action::WriteHop { index, hop } => (
            "write hop",
            mac(hop.destination_mac),
            format!("HOPS {index}"),
            format!("interface {}", hop.ifindex),
        ),
        Action::ClearBackendCounters { first, count } => {
            ("clear counters", String::new(), format!("BACKEND_COUNTERS {first}"), counted(*count, "backend"))
        }
        Action::WriteBackend { index, backend } => {
            ("write backend", ip(backend.outer), format!("BACKENDS {index}"), hop_text(backend))
        }
        Action::SetBackendHop { index, backend } => {
            ("set next hop", ip(backend.outer), format!("BACKENDS {index}"), hop_text(backend))
        }
        Action::WriteSlots { first, slots } => {
            ("write slots", String::new(), format!("SLOTS {first}"), counted(slots.len() as u64, "slot"))
        }
        Action::ClearServiceCounters { id } => {
            ("clear counters", String::new(), format!("SERVICE_COUNTERS {id}"), String::new())
        }
        Action::SetOverflowed { bucket, value } => {
            let detail = if *value == 0 { "nothing stands further on" } else { "keys may stand further on" };
            ("mark bucket", String::new(), format!("SERVICES {bucket}"), detail.to_owned())
        }
        Action::PublishEntry { bucket, entry, value, .. } => (
            "publish service",
            at(*bucket, *entry),
            format!("SERVICES {bucket}.{entry}"),
            format!("id {}, ring of {}", value.id, value.ring.size),
        ),
        Action::SwitchRing { bucket, entry, ring } => (
            "switch ring",
            at(*bucket, *entry),
            format!("SERVICES {bucket}.{entry}"),
            format!("ring of {} at {}", ring.size, ring.first_slot),
        ),
        Action::SetEntryFlags { bucket, entry, flags } => {
            ("set flags", at(*bucket, *entry), format!("SERVICES {bucket}.{entry}"), format!("{flags:#x}"))
        }
        Action::PutDelivery { key, delivery } => {
            ("put delivery", ip(key.outer), "DELIVERIES".to_owned(), delivery_text(key, delivery.port))
        }
        Action::RemoveDelivery { key } => {
            ("remove delivery", ip(key.outer), "DELIVERIES".to_owned(), delivery_text(key, [0; 2]))
        }
        Action::PutGateway { prefix } => {
            ("put gateway", prefix.to_string(), "GATEWAYS".to_owned(), String::new())
        }
        Action::RemoveGateway { prefix } => {
            ("remove gateway", prefix.to_string(), "GATEWAYS".to_owned(), String::new())
        }
        Action::UnpublishEntry { bucket, entry } => {
            ("remove service", at(*bucket, *entry), format!("SERVICES {bucket}.{entry}"), String::new())
        }
        Action::ClearBackend { index } => {
            ("clear backend", String::new(), format!("BACKENDS {index}"), String::new())
        }
        Action::ClearHop { index } => ("clear hop", String::new(), format!("HOPS {index}"), String::new()),
    };
    Row { action: name, subject, place, detail }
}

fn ip(address: fairlead_abi::Address) -> String {
    std::net::IpAddr::from(address).to_string()
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

fn hop_text(backend: &fairlead_abi::Backend) -> String {
    match backend.hop {
        0 => "next hop not known".to_owned(),
        hop => format!("hop {hop}, MTU {}", backend.mtu),
    }
}

fn delivery_text(key: &fairlead_abi::DeliveryKey, port: [u8; 2]) -> String {
    if key.protocol == 0 {
        return "an endpoint of this node".to_owned();
    }
    let vip = SocketAddr::new(key.vip.into(), u16::from_be_bytes(key.port));
    match u16::from_be_bytes(port) {
        0 => vip.to_string(),
        port => format!("{vip} to port {port}"),
    }
}

impl Report {
    fn text(&self, colour: bool) -> String {
        let mut text = String::new();
        if self.actions.is_empty() && self.refused.is_none() {
            text += "nothing would change\n";
        }
        if !self.actions.is_empty() {
            let mut table = Table::new(&["ACTION", "FOR", "AT", "WHAT"]);
            for Row { action, subject, place, detail } in &self.actions {
                table.row(vec![Cell::new(action), Cell::new(subject), Cell::new(place), Cell::new(detail)]);
            }
            text += &format!("{}\n{}\n", table.render(colour), counted(self.actions.len() as u64, "action"));
        }
        if let Some(refused) = &self.refused {
            text += &(Style::Bad.paint(&format!("not all of it now: {refused}"), colour) + "\n");
        }
        match &self.installed_fingerprint {
            Some(installed) if *installed == self.fingerprint => {}
            Some(installed) => text += &format!("slots {installed}, planned {}\n", self.fingerprint),
            None => text += &format!("slots none, planned {}\n", self.fingerprint),
        }
        for problem in &self.problems {
            text += &(Style::Warning.paint(&format!("problem: {problem}"), colour) + "\n");
        }
        for note in &self.notes {
            text += &(Style::Dim.paint(&format!("note: {note}"), colour) + "\n");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use fairlead_abi::{Address, Backend, Family, Hop, Ring, ServiceEntry};

    use fairlead_core::model::ProbeState;
    use fairlead_core::planner::{ShardState, Verdict};

    use super::super::sample::Sample;
    use super::*;

    fn told(action: &Action) -> String {
        let Row { action, subject, place, detail } = row(action, |_, _| "shop/web".to_owned());
        format!("{action} | {subject} | {place} | {detail}")
    }

    #[test]
    fn actions_are_told_with_their_place() {
        let backend = Backend {
            outer: Address::v4([10, 2, 0, 1]),
            hop: 3,
            mtu: 1500,
            encap: 1,
            family: Family::V4 as u8,
        };
        let hop = Hop { destination_mac: [2, 0, 0, 0, 0, 10], ifindex: 7, ..Hop::default() };
        let ring = Ring { first_slot: 502, size: 251 };
        for (action, expected) in [
            (Action::WriteHop { index: 3, hop }, "write hop | 02:00:00:00:00:0a | HOPS 3 | interface 7"),
            (
                Action::WriteBackend { index: 9, backend },
                "write backend | 10.2.0.1 | BACKENDS 9 | hop 3, MTU 1500",
            ),
            (
                Action::SetBackendHop { index: 9, backend: Backend { hop: 0, ..backend } },
                "set next hop | 10.2.0.1 | BACKENDS 9 | next hop not known",
            ),
            (
                Action::SwitchRing { bucket: 5, entry: 1, ring },
                "switch ring | shop/web | SERVICES 5.1 | ring of 251 at 502",
            ),
            (
                Action::PutGateway { prefix: "192.0.2.0/28".parse().unwrap() },
                "put gateway | 192.0.2.0/28 | GATEWAYS | ",
            ),
        ] {
            assert_eq!(told(&action), expected);
        }
    }

    #[test]
    fn what_is_published_and_switched_is_named() {
        let sample = Sample::new();
        let installed = sample.picture().installed;
        let names: Names = sample.tables.iter().map(|table| (table.key(), table.name.to_string())).collect();
        let (key, bucket, entry, _) = installed.services().find(|(key, ..)| key.port == 80).unwrap();
        let new = ServiceKey::new(Address::v4([203, 0, 113, 99]), 443, 6, Family::V4);
        let value = ServiceEntry {
            vip: new.vip,
            port: new.port.to_be_bytes(),
            protocol: 6,
            family: 4,
            id: 9,
            ..ServiceEntry::default()
        };
        let actions = [
            Action::SwitchRing { bucket, entry, ring: Ring::default() },
            Action::PublishEntry { bucket: 60, entry: 2, value, room: 4 },
        ];
        let subjects: Vec<String> =
            rows(&actions, &installed, &names).into_iter().map(|row| row.subject).collect();
        assert_eq!(subjects, ["shop/web 203.0.113.10:80/tcp", "203.0.113.99:443/tcp"]);
        assert_eq!(subject(&ServiceKey::vip_only(key.vip, Family::V4), &Names::new()), "VIP 203.0.113.10");
    }

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
