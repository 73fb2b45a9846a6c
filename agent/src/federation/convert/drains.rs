//! The ConfigMap that says what is drained: a cluster, nodes of it, pods.
//!
//! It reads well in `kubectl describe configmap --namespace fairlead fairlead-drains`, and `fairlead drain` writes it
//! where a cluster is a directory of manifests.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fairlead_core::model::{Endpoint, ObjectName};
use k8s_openapi::api::core::v1::ConfigMap;

use super::{Fault, Faults, Kind, ObjectKey, field, key};
use crate::text::nearest;

/// The namespace of the ConfigMap.
pub const DRAINS_NAMESPACE: &str = "fairlead";
/// Its name.
pub const DRAINS_NAME: &str = "fairlead-drains";
/// Its keys.
const KEYS: [&str; 3] = [CLUSTER, NODES, PODS];
const CLUSTER: &str = "cluster";
const NODES: &str = "nodes";
const PODS: &str = "pods";
/// What the key `cluster` holds.
const DRAINED: &str = "drained";

/// What of one cluster takes no new connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drains {
    /// All of it.
    pub cluster: bool,
    /// All endpoints of these nodes.
    pub nodes: BTreeSet<Arc<str>>,
    /// These pods, in all services.
    pub pods: BTreeSet<ObjectName>,
}

impl Drains {
    /// Whether an endpoint of a service in this namespace is drained.
    #[must_use]
    pub fn concern(&self, namespace: &Arc<str>, endpoint: &Endpoint) -> bool {
        let pod = || ObjectName { namespace: Arc::clone(namespace), name: Arc::clone(&endpoint.pod) };
        self.cluster
            || self.nodes.contains(&endpoint.node)
            || !self.pods.is_empty() && self.pods.contains(&pod())
    }

    /// Whether nothing is drained.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What is drained, in words: all of it, `node n1`, `pod shop/web-1`.
    #[must_use]
    pub fn told(&self) -> Vec<String> {
        let all = self.cluster.then(|| "all of it".to_owned());
        let nodes = self.nodes.iter().map(|node| format!("node {node}"));
        all.into_iter().chain(nodes).chain(self.pods.iter().map(|pod| format!("pod {pod}"))).collect()
    }

    /// As the ConfigMap's `data` has it: one name a line, sorted.
    #[must_use]
    pub fn data(&self) -> BTreeMap<&'static str, String> {
        let lines = |names: Vec<String>| names.into_iter().map(|name| name + "\n").collect::<String>();
        let nodes = lines(self.nodes.iter().map(ToString::to_string).collect());
        let pods = lines(self.pods.iter().map(ToString::to_string).collect());
        let cluster = if self.cluster { DRAINED.to_owned() } else { String::new() };
        let all = [(CLUSTER, cluster), (NODES, nodes), (PODS, pods)];
        all.into_iter().filter(|(_, value)| !value.is_empty()).collect()
    }

    /// Whether a field of `data` is written by [`data`](Self::data).
    #[must_use]
    pub fn has_key(key: &str) -> bool {
        KEYS.contains(&key)
    }
}

/// The key of the ConfigMap that counts.
#[must_use]
pub fn drains_key() -> ObjectKey {
    key(Kind::Drains, Some(DRAINS_NAMESPACE), DRAINS_NAME)
}

/// What a ConfigMap drains; `None` where it is rejected.
#[must_use]
pub fn drains(object: &ConfigMap) -> (Option<Drains>, Vec<Fault>) {
    let (mut drains, mut faults) = (Drains::default(), Faults::default());
    for (key, value) in object.data.iter().flatten() {
        let path = field(&["data"]).key(key);
        match key.as_str() {
            CLUSTER => match value.trim() {
                "" => {}
                DRAINED => drains.cluster = true,
                other => faults
                    .reject(path, format!("{other:?} is not {DRAINED:?}: write that, or remove the field")),
            },
            NODES => {
                for (line, name) in names(value) {
                    if name.contains(|c: char| c == '/' || c.is_whitespace()) {
                        faults.reject(path.clone(), format!("line {line}: {name:?} is not a node's name"));
                    }
                    drains.nodes.insert(Arc::from(name));
                }
            }
            PODS => {
                for (line, name) in names(value) {
                    match pod(name) {
                        Some(pod) => drop(drains.pods.insert(pod)),
                        None => faults.reject(
                            path.clone(),
                            format!("line {line}: {name:?} is not a pod: write namespace/name"),
                        ),
                    }
                }
            }
            _ => {
                let hint = match nearest(key, KEYS) {
                    Some(near) => format!("did you mean {near}?"),
                    None => format!("there are {}", KEYS.join(", ")),
                };
                faults.leave_out(path, format!("nothing is drained by this name: {hint}"));
            }
        }
    }
    (if faults.rejects() { None } else { Some(drains) }, faults.0)
}

/// The lines that hold something, with their numbers from 1.
fn names(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines().map(str::trim)).filter(|(_, name)| !name.is_empty())
}

fn pod(text: &str) -> Option<ObjectName> {
    let (namespace, name) = text.split_once('/')?;
    let is_name = |name: &str| !name.is_empty() && !name.contains(|c: char| c == '/' || c.is_whitespace());
    (is_name(namespace) && is_name(name)).then(|| ObjectName::new(namespace, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::{Objects, from_node};

    fn read(data: &str) -> (Option<Drains>, Vec<String>) {
        let object: ConfigMap = from_node(&Objects::single(data).unwrap()).unwrap();
        let (drains, faults) = drains(&object);
        let tell = |fault: &Fault| {
            format!("{}{}: {}", if fault.rejects { "REJECTED " } else { "" }, fault.path, fault.message)
        };
        (drains, faults.iter().map(tell).collect())
    }

    #[test]
    fn what_is_drained_goes_there_and_back() {
        let (drains, faults) = read(
            "data:\n  cluster: drained\n  nodes: |\n    node-2\n\n    node-1\n  pods: |\n    shop/web-1\n    a/b\n",
        );
        assert_eq!(faults, Vec::<String>::new());
        let drains = drains.unwrap();
        let expected = [("cluster", "drained"), ("nodes", "node-1\nnode-2\n"), ("pods", "a/b\nshop/web-1\n")];
        assert_eq!(drains.data(), expected.map(|(key, value)| (key, value.to_owned())).into());
        assert_eq!(drains.told(), ["all of it", "node node-1", "node node-2", "pod a/b", "pod shop/web-1"]);
        assert!(drains.data().keys().all(|key| Drains::has_key(key)) && !drains.is_empty());
        for nothing in ["{}", "data: {}", "data: {cluster: '', nodes: '', pods: ' '}"] {
            let (drains, faults) = read(nothing);
            assert!(faults.is_empty() && drains.unwrap().is_empty(), "{nothing}");
        }
    }

    #[test]
    fn a_name_that_can_not_be_one_rejects_all_and_says_what_would_be_right() {
        let rows = [
            ("cluster: yes", "data.cluster: \"yes\" is not \"drained\": write that, or remove the field"),
            ("nodes: \"a\\nb c\"", "data.nodes: line 2: \"b c\" is not a node's name"),
            ("pods: web-1", "data.pods: line 1: \"web-1\" is not a pod: write namespace/name"),
            ("pods: c/shop/web-1", "data.pods: line 1: \"c/shop/web-1\" is not a pod: write namespace/name"),
        ];
        for (data, expected) in rows {
            assert_eq!(read(&format!("data:\n  {data}\n")), (None, vec![format!("REJECTED {expected}")]));
        }
        let (drains, faults) = read("data:\n  node: a\n  weather: fine\n");
        assert_eq!(
            faults,
            [
                "data.node: nothing is drained by this name: did you mean nodes?",
                "data.weather: nothing is drained by this name: there are cluster, nodes, pods",
            ]
        );
        assert!(drains.unwrap().is_empty());
    }
}
