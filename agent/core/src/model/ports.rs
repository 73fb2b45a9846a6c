//! The ports of a service: the union of what its shards declare.

use std::sync::Arc;

use super::{ObjectName, Problem, ServicePort, ShardSpec};

/// The union, sorted by port and protocol. Where two items contradict each other, the later one is rejected: by
/// cluster name, then in the order of the object. Of `appProtocol`, which is only told, the first one is. What one cluster says to be QUIC is QUIC: servers that name themselves in
/// their connection IDs must be found, and those that don't lose nothing.
pub(super) fn union<'a>(
    name: &ObjectName,
    shards: impl Iterator<Item = (&'a Arc<str>, &'a Arc<ShardSpec>)>,
    problems: &mut Vec<Problem>,
) -> Vec<ServicePort> {
    let mut union: Vec<(ServicePort, &Arc<str>)> = Vec::new();
    for (cluster, spec) in shards {
        for port in &spec.ports {
            if let Some((known, first)) = union.iter_mut().find(|(known, _)| is_same(known, port)) {
                if known.quic != port.quic {
                    let (says, other) = if port.quic { (cluster, *first) } else { (*first, cluster) };
                    problems.push(no_quic(name, port, says, other));
                    if port.quic {
                        *first = cluster;
                    }
                    known.quic = true;
                }
                continue;
            }
            match conflict(port, &union) {
                None => union.push((port.clone(), cluster)),
                Some((what, hint)) => problems.push(Problem {
                    object: Some(name.clone()),
                    cluster: Some(Arc::clone(cluster)),
                    field: format!("spec.ports[{}]", label(port)),
                    what,
                    hint: Some(hint),
                }),
            }
        }
    }
    let mut ports: Vec<ServicePort> = union.into_iter().map(|(port, _)| port).collect();
    ports.sort_unstable();
    ports
}

fn is_same(a: &ServicePort, b: &ServicePort) -> bool {
    (a.port, a.protocol, &a.name) == (b.port, b.protocol, &b.name)
}

/// That a port is QUIC in cluster `says`, and not in the `other`.
fn no_quic(name: &ObjectName, port: &ServicePort, says: &Arc<str>, other: &Arc<str>) -> Problem {
    Problem {
        object: Some(name.clone()),
        cluster: Some(Arc::clone(other)),
        field: format!("spec.ports[{}].appProtocol", label(port)),
        what: format!("is not fairlead.io/quic here, but in cluster {says}, which counts"),
        hint: Some("say the same in all clusters".to_owned()),
    }
}

/// What is wrong with a port, and what to do.
fn conflict(port: &ServicePort, known: &[(ServicePort, &Arc<str>)]) -> Option<(String, String)> {
    if port.port == 0 {
        let what = "port 0 can't be served; this port is left out".to_owned();
        return Some((what, "use 1 to 65535".to_owned()));
    }
    for (other, cluster) in known {
        if (other.port, other.protocol) == (port.port, port.protocol) {
            let what = format!(
                "{}/{} is called {:?} in cluster {cluster} already; this port is left out",
                port.port, port.protocol, other.name
            );
            return Some((what, "give it the same name in every cluster".to_owned()));
        }
        // Endpoints know their ports by name, so a name must mean one port.
        if other.name == port.name {
            let what = format!(
                "{:?} is {}/{} in cluster {cluster} already; this port is left out",
                port.name, other.port, other.protocol
            );
            return Some((what, "give it the same number in every cluster".to_owned()));
        }
    }
    None
}

fn label(port: &ServicePort) -> String {
    if port.name.is_empty() { format!("{}/{}", port.port, port.protocol) } else { port.name.to_string() }
}
