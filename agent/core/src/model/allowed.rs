//! Whom a service lets in: what its shards say of the clients' ranges, as one list.
//!
//! Where clusters differ, a client has to be allowed by all of them, so that none of them breaks what it promised. A
//! range that one of them takes away counts at once, one that is added once all have it.

use std::sync::Arc;

use fairlead_abi::Family;
use ipnet::IpNet;

use super::{ObjectName, Problem, ShardSpec};

/// The field of Services, and of problems.
const FIELD: &str = "spec.loadBalancerSourceRanges";

/// The ranges that all shards allow, none within another; `None`: all clients are allowed.
pub(super) fn allowed<'a>(
    name: &ObjectName,
    shards: impl Iterator<Item = (&'a Arc<str>, &'a Arc<ShardSpec>)>,
    problems: &mut Vec<Problem>,
) -> Option<Arc<[IpNet]>> {
    let mut first: Option<(&Arc<str>, Vec<IpNet>)> = None;
    let mut common: Option<Vec<IpNet>> = None;
    let mut differs = None;
    for (cluster, spec) in shards {
        let ranges = normal(&spec.source_ranges);
        match &first {
            None => first = Some((cluster, ranges.clone())),
            Some((of, others)) if *others != ranges => differs = differs.or(Some((cluster, *of))),
            Some(_) => {}
        }
        common = match (common, ranges) {
            (None, ranges) if ranges.is_empty() => None,
            (None, ranges) => Some(ranges),
            (Some(common), ranges) if ranges.is_empty() || ranges == common => Some(common),
            (Some(common), ranges) => Some(both(&common, &ranges)),
        };
    }
    if let Some((cluster, of)) = differs {
        problems.push(Problem {
            object: Some(name.clone()),
            cluster: Some(Arc::clone(cluster)),
            field: FIELD.to_owned(),
            what: format!(
                "differs from that of cluster {of}: only clients that all clusters allow are let in"
            ),
            hint: Some("say the same in all clusters".to_owned()),
        });
    }
    common.map(Arc::from)
}

/// That a service with VIPs of these families lets nobody in by one of them.
pub(super) fn nobody(name: &ObjectName, families: &[Family], allowed: Option<&[IpNet]>) -> Option<Problem> {
    let allowed = allowed?;
    let empty = |family: &&Family| !allowed.iter().any(|range| Family::of(&range.addr()) == **family);
    let (family, all) = match families.iter().find(empty)? {
        Family::V4 => ("IPv4", "0.0.0.0/0"),
        Family::V6 => ("IPv6", "::/0"),
    };
    Some(Problem {
        object: Some(name.clone()),
        cluster: None,
        field: FIELD.to_owned(),
        what: format!("no {family} client is allowed by all clusters: none is let in"),
        hint: Some(format!(
            "add {family} ranges, or {all} for all; or leave {family} out of spec.ipFamilies"
        )),
    })
}

/// The same clients by as few ranges as can be, in order.
fn normal(ranges: &[IpNet]) -> Vec<IpNet> {
    let mut ranges = IpNet::aggregate(&ranges.to_vec());
    ranges.sort_unstable();
    ranges
}

/// The clients that both lists hold. Of two ranges that meet, one holds the other.
fn both(some: &[IpNet], others: &[IpNet]) -> Vec<IpNet> {
    let meet = |range: &IpNet| {
        let range = *range;
        others.iter().filter_map(move |other| {
            if range.contains(other) { Some(*other) } else { other.contains(&range).then_some(range) }
        })
    };
    normal(&some.iter().flat_map(meet).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(text: &str) -> Vec<IpNet> {
        text.split_whitespace().map(|net| net.parse().unwrap()).collect()
    }

    /// What clusters a, b and so on with these ranges allow together, and the problem.
    fn told(clusters: &[&str]) -> (Option<Vec<IpNet>>, Vec<String>) {
        let names: Vec<Arc<str>> = ('a'..).take(clusters.len()).map(|c| Arc::from(c.to_string())).collect();
        let specs: Vec<Arc<ShardSpec>> = clusters
            .iter()
            .map(|ranges| Arc::new(ShardSpec { source_ranges: nets(ranges), ..ShardSpec::default() }))
            .collect();
        let mut problems = Vec::new();
        let allowed = allowed(&ObjectName::new("shop", "web"), names.iter().zip(specs.iter()), &mut problems);
        (allowed.map(|ranges| ranges.to_vec()), problems.iter().map(ToString::to_string).collect())
    }

    /// Clusters' ranges, what they allow together, and which of them is told to differ from which.
    type Row<'a> = (&'a [&'a str], Option<&'a str>, Option<(&'a str, &'a str)>);

    #[test]
    fn clients_must_be_allowed_by_all_clusters() {
        let rows: [Row<'_>; 8] = [
            (&["", ""], None, None),
            (&["192.0.2.0/24", "192.0.2.0/24"], Some("192.0.2.0/24"), None),
            // The same in other words.
            (
                &["192.0.2.7/25 192.0.2.128/25 2001:db8::/32", "2001:db8::/32 192.0.2.0/24"],
                Some("192.0.2.0/24 2001:db8::/32"),
                None,
            ),
            (&["", "192.0.2.0/24"], Some("192.0.2.0/24"), Some(("b", "a"))),
            (&["192.0.2.0/24", ""], Some("192.0.2.0/24"), Some(("b", "a"))),
            (
                &["192.0.2.0/24 198.51.100.0/24", "192.0.2.64/26 203.0.113.0/24 198.51.0.0/16"],
                Some("192.0.2.64/26 198.51.100.0/24"),
                Some(("b", "a")),
            ),
            (&["192.0.2.0/24", "198.51.100.0/24"], Some(""), Some(("b", "a"))),
            // What two have in common by nothing, a third that allows everybody doesn't give back.
            (&["192.0.2.0/24", "198.51.100.0/24", ""], Some(""), Some(("b", "a"))),
        ];
        for (clusters, expected, differs) in rows {
            let problem = differs.map(|(cluster, of)| {
                format!(
                    "cluster {cluster}: Service shop/web: spec.loadBalancerSourceRanges: differs from that of cluster {of}: \
                     only clients that all clusters allow are let in (say the same in all clusters)"
                )
            });
            let expected = (expected.map(nets), problem.into_iter().collect::<Vec<_>>());
            assert_eq!(told(clusters), expected, "{clusters:?}");
            if clusters.len() == 2 {
                let backwards: Vec<&str> = clusters.iter().rev().copied().collect();
                assert_eq!(told(&backwards).0, expected.0, "{clusters:?}");
            }
        }
    }

    #[test]
    fn a_family_without_ranges_is_told_where_the_service_has_it() {
        let tell = |families: &[Family], allowed: Option<&str>| {
            let allowed = allowed.map(nets);
            nobody(&ObjectName::new("shop", "web"), families, allowed.as_deref()).map(|p| p.to_string())
        };
        assert_eq!(tell(&[Family::V4, Family::V6], None), None);
        assert_eq!(tell(&[Family::V4], Some("192.0.2.0/24")), None);
        assert_eq!(tell(&[Family::V4, Family::V6], Some("192.0.2.0/24 ::/0")), None);
        assert_eq!(
            tell(&[Family::V4, Family::V6], Some("192.0.2.0/24")).unwrap(),
            "Service shop/web: spec.loadBalancerSourceRanges: no IPv6 client is allowed by all clusters: none is let in (add IPv6 \
             ranges, or ::/0 for all; or leave IPv6 out of spec.ipFamilies)"
        );
        assert!(tell(&[Family::V4], Some("")).unwrap().contains("add IPv4 ranges, or 0.0.0.0/0 for all"));
    }
}
