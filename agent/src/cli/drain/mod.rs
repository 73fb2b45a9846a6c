//! `fairlead drain`: a pod, node, cluster or zone takes no new connections, and keeps those that it has.
//!
//! A drain is an object of the cluster that it concerns ([`convert::drains`](crate::federation::convert::drains)), which
//! every agent reads as it reads all others. It is written beside the cluster's manifests; the agents do the rest, and
//! hear from receivers how many connections are left.

mod known;
mod look;
mod wait;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::{Result, bail};
use fairlead_core::model::{Endpoint, ObjectName};
use serde::Serialize;

use super::node::Node;
use super::output::{Format, Output, print};
use super::table::Style;
use crate::federation::convert::Drains;
use crate::text::counted;
use known::{Cluster, Kind, Target, clusters, meant};
use wait::{Waited, wait};

/// What is to be drained.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// What it is
    what: Kind,
    /// What it is called
    name: String,
    /// Let it take new connections again
    #[arg(long)]
    undo: bool,
    /// Wait until no connection is left, as receivers count them; Ctrl-C ends that, and the drain stays
    #[arg(long, conflicts_with = "undo")]
    wait: bool,
}

/// What was done.
#[derive(Debug, Serialize)]
struct Document {
    undo: bool,
    /// Else nobody here follows what was written.
    agent_running: bool,
    drains: Vec<Done>,
    /// What else there is to know.
    notes: Vec<String>,
    /// What could not be done.
    failures: Vec<String>,
    /// What became of waiting, where that was asked for.
    wait: Option<Waited>,
}

/// A pod, node or cluster.
#[derive(Debug, Serialize)]
struct Done {
    kind: &'static str,
    name: String,
    cluster: Arc<str>,
    /// Else it was so before.
    changed: bool,
    file: String,
    /// How many endpoints each service has there.
    services: BTreeMap<String, usize>,
    /// Of what is undone: another drain is about all of its endpoints.
    stays_drained: bool,
}

/// Drains, or undoes it.
pub(super) fn drain(mut node: Node, arguments: &Arguments, output: Output) -> Result<()> {
    let mut clusters = clusters(node.clusters()?)?;
    let targets = meant(&clusters, arguments.what, &arguments.name, arguments.undo)?;
    let mut document = carry_out(&mut clusters, &targets, arguments.undo);
    document.agent_running = node.running;
    if targets.is_empty() {
        let word = arguments.what.word();
        document.notes.push(format!("no {word} {:?} is drained, nor is there one", arguments.name));
    } else if !node.running && !document.drains.is_empty() {
        let instance = node.instance.name();
        document.notes.push(format!("that is written down, but no agent of instance {instance} runs here"));
    }
    if output.format == Format::Table {
        print(&document.text(output.colour))?;
    }
    if arguments.wait && document.failures.is_empty() {
        document.wait = Some(wait(&mut node, &clusters, &targets, output)?);
    }
    if output.format == Format::Json {
        output.show(&document, |_, _| String::new())?;
    }
    let why_not = document.wait.as_ref().and_then(|waited| waited.problem.as_ref());
    match document.failures.iter().chain(why_not).next() {
        Some(first) => bail!("{first}"),
        None => Ok(()),
    }
}

/// Each cluster by itself: one that can't be changed keeps no other from it.
fn carry_out(clusters: &mut [Cluster], targets: &[Target], undo: bool) -> Document {
    let mut document = Document {
        undo,
        agent_running: true,
        drains: Vec::new(),
        notes: Vec::new(),
        failures: Vec::new(),
        wait: None,
    };
    for target in targets {
        let Some(cluster) = clusters.iter_mut().find(|cluster| cluster.name == *target.cluster()) else {
            continue;
        };
        match write::change(cluster, |drains| target.set(drains, undo)) {
            Ok((drains, changed)) => {
                cluster.drains = drains;
                let still = if undo { still_drained(cluster, target) } else { Vec::new() };
                let services = services(cluster, target);
                document.drains.push(Done {
                    kind: target.kind(),
                    name: target.name(),
                    cluster: Arc::clone(&cluster.name),
                    changed,
                    file: cluster.place(),
                    stays_drained: !still.is_empty() && still.len() == services.values().sum::<usize>(),
                    services,
                });
                document.notes.extend(stays(cluster, &still));
            }
            Err(error) => document.failures.push(format!("{error:#}")),
        }
    }
    if !undo {
        document.notes.extend(without_endpoints(clusters, targets));
    }
    document
}

/// The endpoints of a cluster that are part of the target, with their services.
fn of_target<'c>(
    cluster: &'c Cluster,
    target: &Target,
) -> impl Iterator<Item = (&'c ObjectName, &'c Endpoint)> {
    cluster.endpoints().filter(move |(service, endpoint)| {
        target.holds(&cluster.name, &service.namespace, (&endpoint.pod, &endpoint.node))
    })
}

fn services(cluster: &Cluster, target: &Target) -> BTreeMap<String, usize> {
    let mut services = BTreeMap::new();
    for (service, _) in of_target(cluster, target) {
        *services.entry(service.to_string()).or_default() += 1;
    }
    services
}

/// The endpoints of what was undone that another drain is about.
fn still_drained<'c>(cluster: &'c Cluster, target: &Target) -> Vec<&'c Endpoint> {
    let is_drained =
        |(service, endpoint): &(&ObjectName, &Endpoint)| cluster.drains.concern(&service.namespace, endpoint);
    of_target(cluster, target).filter(is_drained).map(|(_, endpoint)| endpoint).collect()
}

/// Why some of what was undone stays drained.
fn stays(cluster: &Cluster, still: &[&Endpoint]) -> Option<String> {
    let first = still.first()?;
    let Drains { cluster: whole, nodes, .. } = &*cluster.drains;
    let by = match (whole, nodes.contains(&first.node)) {
        (true, _) => format!("cluster {} is", cluster.name),
        (_, true) => format!("node {}/{} is", cluster.name, first.node),
        _ => "pods of it are".to_owned(),
    };
    let stay = if still.len() == 1 { "stays" } else { "stay" };
    Some(format!("{} of it {stay} drained, for {by} drained too", counted(still.len() as u64, "endpoint")))
}

/// The services of which nobody takes new connections by now.
fn without_endpoints(clusters: &[Cluster], targets: &[Target]) -> Vec<String> {
    let takes_new = |cluster: &Cluster, (service, endpoint): (&ObjectName, &Endpoint)| {
        endpoint.conditions.takes_new() && !cluster.drains.concern(&service.namespace, endpoint)
    };
    let served: BTreeSet<&ObjectName> = clusters
        .iter()
        .flat_map(|cluster| {
            cluster.endpoints().filter(|pair| takes_new(cluster, *pair)).map(|(name, _)| name)
        })
        .collect();
    let concerned = clusters.iter().flat_map(|cluster| {
        let of_cluster = targets.iter().filter(|target| *target.cluster() == cluster.name);
        of_cluster.flat_map(|target| of_target(cluster, target)).map(|(name, _)| name).collect::<Vec<_>>()
    });
    let left: BTreeSet<&ObjectName> = concerned.filter(|service| !served.contains(service)).collect();
    left.into_iter()
        .map(|service| {
            format!("no endpoint of {service} is left that takes new connections: they are dropped")
        })
        .collect()
}

impl Document {
    fn text(&self, colour: bool) -> String {
        let mut text = String::new();
        for done in &self.drains {
            let what = format!("{} {}", done.kind, done.name);
            let state = match (self.undo, done.changed) {
                (false, true) if self.agent_running => "takes no new connections",
                (false, true) => "is to take no new connections",
                (false, false) => "is drained already",
                (true, true) if done.stays_drained => "is not drained by itself any more",
                (true, true) if self.agent_running => "takes new connections again",
                (true, true) => "is to take new connections again",
                (true, false) if done.stays_drained => "is not drained by itself",
                (true, false) => "is not drained",
            };
            let services = &done.services;
            let first = services.iter().next().filter(|_| services.len() == 1);
            let endpoints = counted(services.values().sum::<usize>() as u64, "endpoint");
            let of = match first {
                Some((service, _)) => format!("{endpoints} of {service}"),
                None => format!("{endpoints} of {}", counted(services.len() as u64, "service")),
            };
            let _ = writeln!(text, "{what} {state}: {of}");
        }
        for note in &self.notes {
            text += &Style::Warning.paint(&format!("note: {note}\n"), colour);
        }
        // The first one is told as what the command fails by.
        for failure in self.failures.iter().skip(1) {
            text += &Style::Bad.paint(&format!("{failure}\n"), colour);
        }
        text
    }
}

#[cfg(test)]
mod tests;
