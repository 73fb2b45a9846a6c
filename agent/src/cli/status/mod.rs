//! `fairlead status`: how this node is, in one page.

mod text;

use std::time::SystemTime;

use anyhow::Result;
use fairlead_core::model::Problem;
use serde::Serialize;

use super::node::{Error, Node, age};
use super::output::Output;
use crate::dataplane::filled;
use crate::status::{InterfaceStatus, Status};

/// What is shown.
#[derive(Debug, Serialize)]
struct Report {
    agent: Agent,
    /// What is wrong with its file.
    configuration: Option<String>,
    instance: String,
    pins: String,
    node: String,
    roles: Vec<String>,
    group: Option<String>,
    /// As the agent said last.
    ready: Option<bool>,
    /// Why not.
    unready: Vec<String>,
    /// The kernel's tag of the program that the agent loaded.
    program: Option<String>,
    interfaces: Vec<InterfaceStatus>,
    /// Programs are attached.
    forwards: bool,
    fingerprint: Fingerprint,
    clusters: Vec<Cluster>,
    problems: Vec<Problem>,
    /// What services ask for that has no effect here: nothing is wrong.
    notes: Vec<Problem>,
    refused: Vec<String>,
    failure: Option<String>,
    maps: Vec<MapUse>,
    /// Why the maps can't be read.
    tables: Option<String>,
    /// Why the agent's state can't be read.
    state: Option<String>,
}

#[derive(Debug, Serialize)]
struct Agent {
    running: bool,
    pid: Option<u32>,
    version: Option<String>,
    state_age_seconds: Option<u64>,
}

/// What the slots resolve to.
#[derive(Debug, Serialize)]
struct Fingerprint {
    /// As the agent planned.
    wanted: Option<String>,
    /// Of the pinned maps, now.
    installed: Option<String>,
}

#[derive(Debug, Serialize)]
struct Cluster {
    name: String,
    reachable: bool,
    shards: usize,
    /// Where the source can't be read: how old that is which counts.
    restored_age_seconds: Option<u64>,
    /// What is drained of it.
    drained: Vec<String>,
}

#[derive(Debug, Serialize)]
struct MapUse {
    map: String,
    used: u64,
    capacity: u64,
}

/// Shows how this node is. Without tables it shows what is known, and fails.
pub(super) fn status(node: &Node, output: Output) -> Result<()> {
    let measured = measure(node);
    let failed = measured.is_err();
    let nothing = node.status.is_err();
    let report = match measured {
        Err(error) if nothing => return Err(error.into()),
        measured => Report::new(node, measured),
    };
    output.show(&report, Report::text)?;
    if failed {
        anyhow::bail!("the maps can't be read");
    }
    Ok(())
}

/// Fingerprint and use of the pinned maps.
fn measure(node: &Node) -> Result<(String, Vec<MapUse>), Error> {
    let view = node.view()?;
    let installed = node.picture(&view)?.installed;
    let planned =
        installed.usage().into_iter().map(|(map, used, capacity)| (map.to_string(), used, capacity));
    let filled =
        filled(&node.instance)?.into_iter().map(|(map, used, capacity)| (map.to_owned(), used, capacity));
    let maps = planned.chain(filled).map(|(map, used, capacity)| MapUse { map, used, capacity });
    Ok((format!("{:016x}", installed.fingerprint()), maps.collect()))
}

impl Report {
    fn new(node: &Node, measured: Result<(String, Vec<MapUse>), Error>) -> Self {
        let (installed, maps, tables) = match measured {
            Ok((fingerprint, maps)) => (Some(fingerprint), maps, None),
            Err(error) => (None, Vec::new(), Some(error.to_string())),
        };
        let said = node.status.as_ref().ok();
        let list = |list: fn(&Status) -> Vec<String>| said.map(list).unwrap_or_default();
        let (name, roles) = names(node);
        // What the agent said last may not hold any more; the pins do.
        let linked = node.instance.interfaces().ok();
        let now = |told: &InterfaceStatus| InterfaceStatus {
            attached: told.attached && linked.as_ref().is_none_or(|linked| linked.contains(&told.name)),
            ..told.clone()
        };
        let interfaces = said.map(|status| status.interfaces.iter().map(now).collect());
        Self {
            agent: Agent {
                running: node.running,
                pid: said.filter(|_| node.running).map(|status| status.pid),
                version: said.map(|status| status.version.clone()),
                state_age_seconds: said.map(|status| age(status.written)),
            },
            instance: node.instance.name().to_owned(),
            pins: node.instance.maps().display().to_string(),
            configuration: node.invalid(),
            node: name,
            roles,
            group: said.map(|status| status.group.clone()).filter(|group| !group.is_empty()),
            ready: said.map(Status::is_ready),
            unready: list(|status| status.unready.clone()),
            program: said.and_then(|status| status.program.clone()),
            interfaces: interfaces.unwrap_or_default(),
            forwards: linked.as_ref().is_none_or(|linked| !linked.is_empty()),
            fingerprint: Fingerprint {
                wanted: said.and_then(|status| status.fingerprint.clone()),
                installed,
            },
            clusters: said.map(clusters).unwrap_or_default(),
            problems: said.map(|status| status.problems.clone()).unwrap_or_default(),
            notes: said.map(|status| status.notes.clone()).unwrap_or_default(),
            refused: list(|status| status.refused.clone()),
            failure: said.and_then(|status| status.failure.clone()),
            maps,
            tables,
            state: node.status.as_ref().err().map(ToString::to_string),
        }
    }
}

/// The node's name and roles: those of the configuration or, where that doesn't hold, those that the agent told.
fn names(node: &Node) -> (String, Vec<String>) {
    use crate::config::types::Role;
    let told = || node.status.as_ref().map(|status| (status.node.clone(), status.roles.clone()));
    match &node.config {
        Ok(config) => {
            let roles = [(Role::Gateway, "gateway"), (Role::Receiver, "receiver")];
            let roles = roles.into_iter().filter(|(role, _)| config.has(*role));
            (config.node.name.0.to_string(), roles.map(|(_, name)| name.to_owned()).collect())
        }
        Err(_) => told().unwrap_or_else(|_| ("?".to_owned(), Vec::new())),
    }
}

fn clusters(status: &Status) -> Vec<Cluster> {
    let cluster = |cluster: &crate::status::ClusterStatus| Cluster {
        name: cluster.name.to_string(),
        reachable: cluster.reachable,
        shards: cluster.shards,
        restored_age_seconds: cluster.restored.map(|then: SystemTime| age(then)),
        drained: cluster.drained.clone(),
    };
    status.clusters.iter().map(cluster).collect()
}
