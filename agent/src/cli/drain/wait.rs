//! Waits until what is drained holds no connections any more.
//!
//! In: what the agent of this gateway says of its tables, and the counts that it hears from receivers, read again every
//! second. A count of none ends the waiting only where it was made after the drain was known, since a gateway that is
//! behind sends new connections for a while. An endpoint that has left its slices may be known by its address alone: that is
//! part of what is drained if it was one of its endpoints' when the drain began, or was seen to be since.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use fairlead_abi::ServiceKey;
use fairlead_core::planner::{LINGER_MIN, ServiceTable, UNKNOWN_POD, Verdict, WantedBackend};
use serde::Serialize;

use super::known::Cluster;
use super::{Target, of_target};
use crate::cli::node::Node;
use crate::cli::output::{Format, Output, print};
use crate::cli::pause::Pause;
use crate::status::Found;
use crate::text::counted;

/// From one look to the next.
const PERIOD: Duration = Duration::from_secs(1);
/// The agent has taken a drain up within this, or doesn't read the manifests that it was written to.
const TAKE_UP: Duration = Duration::from_secs(15);
/// Receivers count and tell every 5 s; without a count for this long there won't be any.
const LATELY: Duration = Duration::from_mins(1);

/// What became of waiting.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Waited {
    /// Connections that were left at the end.
    pub(super) left: u64,
    /// On which endpoints.
    pub(super) endpoints: Vec<Holder>,
    /// Endpoints of the same clusters that have left their slices and hold connections: they may be part of what is drained.
    pub(super) unknown: Vec<Holder>,
    /// Why it ended although not all endpoints are known to hold none.
    pub(super) problem: Option<String>,
}

/// An endpoint that holds connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Holder {
    service: String,
    port: u16,
    vip: IpAddr,
    cluster: Arc<str>,
    pod: Arc<str>,
    address: IpAddr,
    connections: u64,
}

/// A pod: its cluster and name.
type Pod = (Arc<str>, Arc<str>);

/// What is known at one look.
#[derive(Debug, Default, PartialEq, Eq)]
struct Look {
    /// Pods that take new connections yet, as far as the agent says.
    not_seen: BTreeSet<Pod>,
    /// Endpoints that hold connections.
    holders: Vec<Holder>,
    /// Those of which nobody knows whether they are part of it.
    unknown: Vec<Holder>,
    /// Pods that were not counted since the drain, in all of their services.
    uncounted: BTreeSet<Pod>,
    /// Those of them that nobody counts at all.
    unheard: BTreeSet<Pod>,
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
        let left = look.left();
        let waited = |problem| {
            let (endpoints, unknown) = (look.holders.clone(), look.unknown.clone());
            Waited { left, endpoints, unknown, problem }
        };
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
                "the connections of {} were not counted lately: their receiver doesn't answer; the drain stays",
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

/// Why connections can't be counted here.
fn unable(node: &Node) -> Option<String> {
    let stays = "the drain stays";
    let Some(status) = node.status.as_ref().ok().filter(|_| node.running) else {
        return Some(format!("no agent runs here that could count connections; {stays}"));
    };
    if !status.roles.iter().any(|role| role == "gateway") {
        let why = "this node is no gateway, which hears of all nodes' connections: wait on one";
        return Some(format!("{why}; {stays}"));
    }
    let asks = node.config.as_ref().is_ok_and(|config| config.secrets_file.is_some());
    (!asks).then(|| format!("without a secretsFile no receiver is asked for its connections; {stays}"))
}

fn say(told: &mut String, text: String, output: Output) -> Result<()> {
    if output.format == Format::Table && *told != text {
        print(&format!("{text}\n"))?;
        *told = text;
    }
    Ok(())
}

/// The addresses of endpoints, each of its cluster.
type Addresses = BTreeSet<(Arc<str>, IpAddr)>;

/// Those of the targets' endpoints, as the slices have them.
fn addresses(clusters: &[Cluster], targets: &[Target]) -> Addresses {
    let of_cluster = |cluster: &Cluster| {
        let endpoints = targets.iter().flat_map(|target| of_target(cluster, target));
        let both = endpoints
            .flat_map(|(_, endpoint)| [endpoint.v4.map(IpAddr::from), endpoint.v6.map(IpAddr::from)]);
        both.flatten().map(|address| (Arc::clone(&cluster.name), address)).collect::<Vec<_>>()
    };
    clusters.iter().flat_map(of_cluster).collect()
}

/// Whether an endpoint is part of what is drained.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Yes,
    No,
    /// It is of the cluster of something that is drained, and known by its address alone.
    Perhaps,
}

/// Whether a backend of `cluster` is part of the targets, or of the addresses that are `known` to be; its own is from now on.
fn part_of(
    targets: &[Target],
    known: &mut Addresses,
    (table, cluster, backend): (&ServiceTable, &Arc<str>, &WantedBackend),
) -> Part {
    let endpoint = (&*backend.pod, &*backend.node);
    let mut own = [backend.outer, backend.endpoint].map(|address| (Arc::clone(cluster), address));
    if targets.iter().any(|target| target.holds(cluster, &table.name.namespace, endpoint)) {
        known.extend(own);
        Part::Yes
    } else if &*backend.pod != UNKNOWN_POD || !targets.iter().any(|target| target.cluster() == cluster) {
        Part::No
    } else if own.iter_mut().any(|own| known.contains(own)) {
        Part::Yes
    } else {
        Part::Perhaps
    }
}

/// Looks for what the targets hold; the drain has been in the agent's tables for `known_for`.
fn look<'t>(
    tables: impl Iterator<Item = &'t ServiceTable>,
    counts: &BTreeMap<(ServiceKey, IpAddr), Found>,
    (targets, known): (&[Target], &mut Addresses),
    known_for: Duration,
) -> Look {
    let mut look = Look::default();
    for table in tables {
        for backend in &table.backends {
            let Some(shard) = table.shards.get(usize::from(backend.shard)) else { continue };
            let part = part_of(targets, known, (table, &shard.cluster, backend));
            if part == Part::No {
                continue;
            }
            let name = || match &*backend.pod {
                UNKNOWN_POD => Arc::from(backend.outer.to_string()),
                _ => Arc::clone(&backend.pod),
            };
            let pod = || (Arc::clone(&shard.cluster), name());
            let found = counts.get(&(table.key(), backend.outer)).filter(|found| found.age <= LATELY);
            let holder = |connections| Holder {
                service: table.name.to_string(),
                port: table.port,
                vip: table.vip,
                cluster: Arc::clone(&shard.cluster),
                pod: name(),
                address: backend.outer,
                connections,
            };
            if part == Part::Perhaps {
                let flows = found.map(|found| found.flows).filter(|&flows| flows > 0);
                look.unknown.extend(flows.map(holder));
                continue;
            }
            if !matches!(backend.verdict, Verdict::Draining | Verdict::Lingering) {
                look.not_seen.insert(pod());
                continue;
            }
            match found {
                None => {
                    look.uncounted.insert(pod());
                    look.unheard.insert(pod());
                }
                Some(found) if found.flows > 0 => look.holders.push(holder(found.flows)),
                Some(found) if found.age + LINGER_MIN > known_for => drop(look.uncounted.insert(pod())),
                Some(_) => {}
            }
        }
    }
    look
}

impl Look {
    fn left(&self) -> u64 {
        self.holders.iter().map(|holder| holder.connections).sum()
    }

    fn is_over(&self) -> bool {
        self.not_seen.is_empty() && self.uncounted.is_empty() && self.holders.is_empty()
    }

    fn text(&self) -> String {
        let pods = |pods: usize| counted(pods as u64, "pod");
        if !self.not_seen.is_empty() {
            return format!("the agent is yet to drain {}", pods(self.not_seen.len()));
        }
        let holders: BTreeSet<_> = self.holders.iter().map(|holder| (&holder.cluster, &holder.pod)).collect();
        let held = format!("{} left on {}", counted(self.left(), "connection"), pods(holders.len()));
        let known = match (self.left(), self.uncounted.len()) {
            (0, 0) => "no connection is left".to_owned(),
            (0, _) => "waiting for the receivers' counts".to_owned(),
            (_, 0) => held,
            (_, uncounted) => format!("{held}, {} not wholly counted yet", pods(uncounted)),
        };
        known + &self.unknown_text()
    }

    fn unknown_text(&self) -> String {
        let addresses: BTreeSet<IpAddr> = self.unknown.iter().map(|holder| holder.address).collect();
        let Some(first) = addresses.first() else { return String::new() };
        let connections: u64 = self.unknown.iter().map(|holder| holder.connections).sum();
        let connections = counted(connections, "connection");
        let more = addresses.len() - 1;
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("; {connections} at {first}{more}, which left before, may be part of it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::sample::Sample;
    use fairlead_core::model::ObjectName;

    /// The sample, in which pods `p1` and `p2` are drained; with counts of them, and their age in seconds.
    fn looked(counts: &[(u8, u64, u64)], known_for: u64, name: &str) -> Look {
        let mut sample = Sample::new();
        for table in &mut sample.tables {
            for backend in table.backends.iter_mut().filter(|backend| ["p1", "p2"].contains(&&*backend.pod)) {
                backend.verdict = Verdict::Draining;
            }
        }
        let key = sample.tables.iter().find(|table| table.port == 80).unwrap().key();
        let count = |&(last, flows, seconds): &(u8, u64, u64)| {
            let found = Found { flows, age: Duration::from_secs(seconds) };
            ((key, IpAddr::from([10, 2, 0, last])), found)
        };
        let target = |pod: &str| Target::Pod("eu-b".into(), ObjectName::new("shop", pod));
        let targets: Vec<Target> = name.split(' ').map(target).collect();
        let counts = counts.iter().map(count).collect();
        let known = &mut Addresses::new();
        look(sample.tables.iter(), &counts, (&targets, known), Duration::from_secs(known_for))
    }

    #[test]
    fn who_is_known_by_its_address_alone_counts_where_that_was_part_of_it() {
        let mut sample = Sample::new();
        let (mut known, targets) =
            (Addresses::new(), [Target::Pod("eu-b".into(), ObjectName::new("shop", "p1"))]);
        let key = sample.tables.iter().find(|table| table.port == 80).unwrap().key();
        let count =
            |n: u8, flows| ((key, IpAddr::from([10, 2, 0, n])), Found { flows, age: Duration::from_secs(1) });
        let lingers = |sample: &mut Sample, name: &str, unknown: bool| {
            let backends = sample.tables.iter_mut().flat_map(|table| &mut table.backends);
            for backend in backends.filter(|backend| &*backend.pod == name) {
                backend.verdict = Verdict::Lingering;
                if unknown {
                    backend.pod = UNKNOWN_POD.into();
                }
            }
        };
        let look_at = |sample: &Sample, known: &mut Addresses, flows: u64| {
            let counts = [count(1, flows), count(2, 5)].into();
            look(sample.tables.iter(), &counts, (&targets, known), Duration::from_secs(60))
        };
        lingers(&mut sample, "p1", false);
        assert_eq!(look_at(&sample, &mut known, 3).left(), 3);
        // Its gateway's agent starts anew, and hears of it by its receiver's announcement.
        lingers(&mut sample, "p1", true);
        lingers(&mut sample, "p2", true);
        let look = look_at(&sample, &mut known, 3);
        assert_eq!((look.left(), &*look.holders[0].pod), (3, "10.2.0.1"));
        let perhaps = "; 5 connections at 10.2.0.2, which left before, may be part of it";
        assert_eq!(look.text(), format!("3 connections left on 1 pod{perhaps}"));
        let look = look_at(&sample, &mut known, 0);
        assert_eq!((look.is_over(), look.text()), (true, format!("no connection is left{perhaps}")));
    }

    #[test]
    fn connections_are_left_until_a_receiver_has_counted_none_since_the_drain() {
        let look = looked(&[(1, 3, 9), (2, 4, 9), (3, 9, 0)], 60, "p1 p2");
        assert_eq!((look.left(), &*look.text()), (7, "7 connections left on 2 pods"));
        let look = looked(&[(1, 3, 9), (2, 0, 59)], 60, "p1 p2");
        assert_eq!(&*look.text(), "3 connections left on 1 pod, 1 pod not wholly counted yet");
        let look = looked(&[(1, 0, 9), (2, 0, 59)], 60, "p1 p2");
        assert_eq!((look.is_over(), &*look.text()), (false, "waiting for the receivers' counts"));
        let look = looked(&[(1, 0, 9), (2, 0, 57)], 60, "p1 p2");
        assert_eq!((look.is_over(), &*look.text()), (true, "no connection is left"));
    }

    #[test]
    fn what_is_not_counted_or_not_drained_yet_is_not_over() {
        let look = looked(&[(1, 0, 1), (2, 0, LATELY.as_secs() + 1)], 600, "p1 p2");
        assert_eq!((look.is_over(), look.unheard), (false, BTreeSet::from([("eu-b".into(), "p2".into())])));
        let look = looked(&[(1, 0, 1), (3, 0, 1)], 600, "p1 p3");
        assert_eq!((look.is_over(), &*look.text()), (false, "the agent is yet to drain 1 pod"));
        assert!(looked(&[], 600, "p9").is_over(), "what has no endpoint holds nothing");
    }
}
