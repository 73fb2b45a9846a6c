//! Waits until what is drained holds no connections any more.
//!
//! In: what the agent of this gateway says of its tables, and the counts that it hears from receivers, read again every
//! second ([`look`]). A count of none ends the waiting only where it was made after the drain was known, since a gateway that
//! is behind sends new connections for a while. Where somebody undoes the drain meanwhile, there is nothing to wait for.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use super::known::Cluster;
use super::look::{Holder, addresses, look};
use super::{Target, write};
use crate::cli::node::Node;
use crate::cli::output::{Format, Output, print};
use crate::cli::pause::Pause;

/// From one look to the next.
const PERIOD: Duration = Duration::from_secs(1);
/// The agent has taken a drain up within this, or doesn't read the manifests that it was written to.
const TAKE_UP: Duration = Duration::from_secs(15);
/// Receivers count and tell every 5 s; without a count for this long there won't be any.
pub(super) const LATELY: Duration = Duration::from_mins(1);

/// What became of waiting.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Waited {
    /// Connections that were left at the end; `None`: not all endpoints were counted.
    pub(super) left: Option<u64>,
    /// On which endpoints.
    pub(super) endpoints: Vec<Holder>,
    /// Endpoints that were not counted; and those of the same clusters that have left their slices and hold connections: they
    /// may be part of what is drained.
    pub(super) unknown: Vec<Holder>,
    /// Why it ended although not all endpoints are known to hold none.
    pub(super) problem: Option<String>,
}

/// Waits, and says how many are left whenever that changes.
pub(super) fn wait(
    node: &mut Node,
    clusters: &[Cluster],
    targets: &[Target],
    output: Output,
) -> Result<Waited> {
    let mut pause = Pause::new()?;
    let begun = Instant::now();
    let mut known = addresses(clusters, targets);
    let (mut seen, mut told): (Option<Instant>, _) = (None, String::new());
    let mut due = begun;
    loop {
        if let Some(problem) = unable(node) {
            return Ok(Waited { problem: Some(problem), ..Waited::default() });
        }
        let tables = node.status.iter().flat_map(|status| &status.services).map(|table| &**table);
        let known_for = seen.map(|seen| seen.elapsed());
        let look = look(tables, &node.counts(), (targets, &mut known), known_for.unwrap_or_default());
        let waited = |problem| {
            let (endpoints, unknown) = (look.holders.clone(), look.unknown().cloned().collect());
            Waited { left: look.left(), endpoints, unknown, problem }
        };
        if let Some(target) = undone(clusters, targets) {
            let problem = format!("the drain of {} {} was undone meanwhile", target.kind(), target.name());
            return Ok(waited(Some(problem)));
        }
        if !look.not_seen.is_empty() {
            seen = None;
            if begun.elapsed() > TAKE_UP {
                let problem = format!(
                    "the agent has not taken the drain up within {} s: see `fairlead status`",
                    TAKE_UP.as_secs()
                );
                return Ok(waited(Some(problem)));
            }
        } else if seen.is_none() {
            seen = Some(Instant::now());
        } else if known_for.is_some_and(|known_for| known_for > LATELY) && !look.unheard.is_empty() {
            let pods: Vec<_> = look.unheard.iter().map(|(cluster, pod)| format!("{cluster}/{pod}")).collect();
            let problem = format!(
                "the connections of {} were not counted lately: no receiver answers for them; the drain stays",
                pods.join(", ")
            );
            return Ok(waited(Some(problem)));
        } else if look.is_over() {
            say(&mut told, look.text(), output)?;
            return Ok(waited(None));
        }
        say(&mut told, look.text(), output)?;
        due += PERIOD;
        if pause.is_interrupted_before(due) {
            let problem = format!("interrupted: {}; the drain stays", look.text());
            return Ok(waited(Some(problem)));
        }
        node.read_again();
    }
}

/// What is not drained any more, as the file says that it was written to. Nothing is concluded from one that can't be read:
/// its last good version counts.
pub(super) fn undone<'t>(clusters: &[Cluster], targets: &'t [Target]) -> Option<&'t Target> {
    let is_undone = |target: &&Target| {
        let cluster = clusters.iter().find(|cluster| cluster.name == *target.cluster());
        let drains = cluster.and_then(|cluster| write::drained(cluster).ok());
        drains.is_some_and(|drains| !target.is_in(&drains))
    };
    targets.iter().find(is_undone)
}

/// Why connections can't be counted here.
fn unable(node: &Node) -> Option<String> {
    let stays = "the drain stays";
    if let Some(foreign) = node.foreign() {
        return Some(format!(
            "{foreign}, which counts no connections for instance {}; {stays}",
            node.instance.name()
        ));
    }
    let Some(status) = node.status.as_ref().ok().filter(|_| node.running) else {
        return Some(format!("no agent runs here that could count connections; {stays}"));
    };
    if !status.roles.iter().any(|role| role == "gateway") {
        let why = "this node is no gateway, which hears of all nodes' connections: wait on one";
        return Some(format!("{why}; {stays}"));
    }
    let has_none = node.config.as_ref().is_ok_and(|config| config.secrets_file.is_none());
    has_none.then(|| format!("without a secretsFile no receiver is asked for its connections; {stays}"))
}

fn say(told: &mut String, text: String, output: Output) -> Result<()> {
    if output.format == Format::Table && *told != text {
        print(&format!("{text}\n"))?;
        *told = text;
    }
    Ok(())
}
