//! What is left on what is drained, at one look.
//!
//! In: the agent's tables, and the counts that it hears from receivers. An endpoint that has left its slices may be known by
//! its address alone: that is part of what is drained if it was one of its endpoints' when the drain began, or was seen to be
//! since.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use fairlead_abi::ServiceKey;
use fairlead_core::model::{ObjectName, Protocol};
use fairlead_core::planner::{LINGER_MIN, ServiceTable, UNKNOWN_POD, Verdict, WantedBackend};
use serde::Serialize;

use super::known::Cluster;
use super::wait::LATELY;
use super::{Target, of_target};
use crate::status::Found;
use crate::text::counted;

/// An endpoint of a service, and the connections that it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Holder {
    service: String,
    vip: IpAddr,
    port: u16,
    protocol: Option<Protocol>,
    cluster: Arc<str>,
    /// With its namespace; of one that is known by its address alone, that.
    pod: Arc<str>,
    address: IpAddr,
    /// `None`: nobody has counted them since the drain.
    connections: Option<u64>,
}

/// A pod: its cluster, and its name with the namespace.
type Pod = (Arc<str>, Arc<str>);

/// What is known at one look.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    /// Pods that take new connections yet, as far as the agent says.
    pub(super) not_seen: BTreeSet<Pod>,
    /// Endpoints that hold connections.
    pub(super) holders: Vec<Holder>,
    /// Those of which nobody knows whether they are part of it.
    perhaps: Vec<Holder>,
    /// Those that were not counted since the drain.
    uncounted: Vec<Holder>,
    /// Pods of them that nobody counts at all.
    pub(super) unheard: BTreeSet<Pod>,
}

/// The addresses of endpoints, each of its cluster.
pub(super) type Addresses = BTreeSet<(Arc<str>, IpAddr)>;

/// Those of the targets' endpoints, as the slices have them.
pub(super) fn addresses(clusters: &[Cluster], targets: &[Target]) -> Addresses {
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
pub(super) fn look<'t>(
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
            let name: Arc<str> = match &*backend.pod {
                UNKNOWN_POD => backend.outer.to_string().into(),
                pod => ObjectName::new(&*table.name.namespace, pod).to_string().into(),
            };
            let pod = (Arc::clone(&shard.cluster), Arc::clone(&name));
            let found = counts.get(&(table.key(), backend.outer)).filter(|found| found.age <= LATELY);
            let holder = |connections| Holder {
                service: table.name.to_string(),
                vip: table.vip,
                port: table.port,
                protocol: table.protocol,
                cluster: Arc::clone(&shard.cluster),
                pod: Arc::clone(&name),
                address: backend.outer,
                connections,
            };
            if part == Part::Perhaps {
                let flows = found.map(|found| found.flows).filter(|&flows| flows > 0);
                look.perhaps.extend(flows.map(|flows| holder(Some(flows))));
                continue;
            }
            if !matches!(backend.verdict, Verdict::Draining | Verdict::Lingering) {
                look.not_seen.insert(pod);
                continue;
            }
            match found {
                None => {
                    look.uncounted.push(holder(None));
                    look.unheard.insert(pod);
                }
                Some(found) if found.flows > 0 => look.holders.push(holder(Some(found.flows))),
                Some(found) if found.age + LINGER_MIN > known_for => look.uncounted.push(holder(None)),
                Some(_) => {}
            }
        }
    }
    look
}

impl Look {
    /// How many connections are left; `None` where not all endpoints were counted.
    pub(super) fn left(&self) -> Option<u64> {
        (self.not_seen.is_empty() && self.uncounted.is_empty()).then(|| connections(&self.holders))
    }

    pub(super) fn is_over(&self) -> bool {
        self.left() == Some(0)
    }

    /// Endpoints of which it is not known how many connections they hold of what is drained.
    pub(super) fn unknown(&self) -> impl Iterator<Item = &Holder> {
        self.uncounted.iter().chain(&self.perhaps)
    }

    pub(super) fn text(&self) -> String {
        let pods = |pods: usize| counted(pods as u64, "pod");
        if !self.not_seen.is_empty() {
            return format!("the agent is yet to drain {}", pods(self.not_seen.len()));
        }
        let all = connections(&self.holders);
        let held = format!("{} left on {}", counted(all, "connection"), pods(pods_of(&self.holders)));
        let known = match (all, pods_of(&self.uncounted)) {
            (0, 0) => "no connection is left".to_owned(),
            (0, _) => "waiting for the receivers' counts".to_owned(),
            (_, 0) => held,
            (_, uncounted) => format!("{held}, {} not wholly counted yet", pods(uncounted)),
        };
        known + &self.perhaps_text()
    }

    fn perhaps_text(&self) -> String {
        let addresses: BTreeSet<IpAddr> = self.perhaps.iter().map(|holder| holder.address).collect();
        let Some(first) = addresses.first() else { return String::new() };
        let connections = counted(connections(&self.perhaps), "connection");
        let more = addresses.len() - 1;
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("; {connections} at {first}{more}, which left before, may be part of it")
    }
}

fn connections(holders: &[Holder]) -> u64 {
    holders.iter().filter_map(|holder| holder.connections).sum()
}

fn pods_of(holders: &[Holder]) -> usize {
    holders.iter().map(|holder| (&holder.cluster, &holder.pod)).collect::<BTreeSet<_>>().len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::sample::Sample;

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
        assert_eq!(look_at(&sample, &mut known, 3).left(), Some(3));
        // Its gateway's agent starts anew, and hears of it by its receiver's announcement.
        lingers(&mut sample, "p1", true);
        lingers(&mut sample, "p2", true);
        let look = look_at(&sample, &mut known, 3);
        assert_eq!((look.left(), &*look.holders[0].pod), (Some(3), "10.2.0.1"));
        let perhaps = "; 5 connections at 10.2.0.2, which left before, may be part of it";
        assert_eq!(look.text(), format!("3 connections left on 1 pod{perhaps}"));
        let look = look_at(&sample, &mut known, 0);
        assert_eq!((look.is_over(), look.text()), (true, format!("no connection is left{perhaps}")));
    }

    #[test]
    fn connections_are_left_until_a_receiver_has_counted_none_since_the_drain() {
        let look = looked(&[(1, 3, 9), (2, 4, 9), (3, 9, 0)], 60, "p1 p2");
        assert_eq!((look.left(), &*look.text()), (Some(7), "7 connections left on 2 pods"));
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
        assert_eq!(
            (look.is_over(), look.unheard.clone()),
            (false, BTreeSet::from([("eu-b".into(), "shop/p2".into())]))
        );
        let uncounted: Vec<_> = look.unknown().collect();
        assert_eq!(
            serde_json::to_value(&uncounted).unwrap(),
            serde_json::json!([{
                "service": "shop/web", "vip": "203.0.113.10", "port": 80, "protocol": "tcp", "cluster": "eu-b",
                "pod": "shop/p2", "address": "10.2.0.2", "connections": null,
            }])
        );
        assert_eq!(look.left(), None, "nobody knows");
        let look = looked(&[(1, 0, 1), (3, 0, 1)], 600, "p1 p3");
        assert_eq!((look.is_over(), &*look.text()), (false, "the agent is yet to drain 1 pod"));
        assert!(looked(&[], 600, "p9").is_over(), "what has no endpoint holds nothing");
    }
}
