//! Kubernetes objects to what the core knows of one cluster.
//!
//! In come objects as API servers and manifests have them; out go parts of shards ([`Object`]), joined later by
//! the [`Store`](super::Store). Each object is judged alone: a [`Fault`] with `rejects` says that it can't count,
//! the others that a part of it was left out. No file and no clock is touched here.

mod annotations;
mod drains;
mod service;
mod slice;

use std::sync::Arc;

use fairlead_core::model::{ObjectName, ShardSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub use drains::{DRAINS_NAME, DRAINS_NAMESPACE, Drains, drains, drains_key};
pub use service::service;
pub use slice::{Identity, SERVICE_LABEL, Slice, SliceEndpoint, slice};

use crate::yaml::Path;

/// The `loadBalancerClass` of the services that are ours.
pub const CLASS: &str = "fairlead.io/vip";
/// The label of Nodes that run a receiver; its value is `true`.
pub const RECEIVER_LABEL: &str = "fairlead.io/receiver";

/// What objects are when they say nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Defaults {
    /// Ports of a VIP that no service has go up to the gateway's own stack.
    pub pass_unserved_ports: bool,
}

/// The kinds of objects that are read; in the order in which a batch of them is best applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A core/v1 Node.
    Node,
    /// The core/v1 ConfigMap that says what is drained.
    Drains,
    /// A core/v1 Service.
    Service,
    /// A discovery.k8s.io/v1 EndpointSlice.
    EndpointSlice,
}

impl Kind {
    /// As objects call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Node => "Node",
            Self::Drains => "ConfigMap",
        }
    }
}

/// What tells objects of one cluster apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: Kind,
    /// Its name; a Node's namespace is empty.
    pub name: ObjectName,
}

/// What is taken from an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// A service of ours; its endpoints come from slices.
    Service(Arc<ShardSpec>),
    /// Endpoints of a service.
    Slice(Arc<Slice>),
    /// A node.
    Node {
        /// It runs a receiver.
        receiver: bool,
    },
    /// What is drained.
    Drains(Arc<Drains>),
}

/// Something in an object that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The field.
    pub path: Path,
    /// What is wrong, and what would be right.
    pub message: String,
    /// The object can't count because of it.
    pub rejects: bool,
}

/// Collects the faults of one object.
#[derive(Debug, Default)]
struct Faults(Vec<Fault>);

impl Faults {
    /// The object can't count.
    fn reject(&mut self, path: Path, message: impl Into<String>) {
        self.0.push(Fault { path, message: message.into(), rejects: true });
    }

    /// What stands at `path` is left out.
    fn leave_out(&mut self, path: Path, message: impl Into<String>) {
        self.0.push(Fault { path, message: message.into(), rejects: false });
    }

    fn rejects(&self) -> bool {
        self.0.iter().any(|fault| fault.rejects)
    }
}

/// A Node object, of which the metadata are enough.
#[must_use]
pub fn node(metadata: &ObjectMeta) -> Object {
    let labels = metadata.labels.as_ref();
    let label = labels.and_then(|labels| labels.get(RECEIVER_LABEL));
    Object::Node { receiver: label.is_some_and(|value| value == "true") }
}

/// The key of an object. Manifests that were not read from an API server may leave out the namespace.
#[must_use]
pub fn key(kind: Kind, namespace: Option<&str>, name: &str) -> ObjectKey {
    let namespace = match kind {
        Kind::Node => "",
        Kind::Drains | Kind::Service | Kind::EndpointSlice => {
            namespace.filter(|name| !name.is_empty()).unwrap_or("default")
        }
    };
    ObjectKey { kind, name: ObjectName::new(namespace, name) }
}

fn field(names: &[&str]) -> Path {
    names.iter().fold(Path::default(), |path, name| path.key(name))
}

/// A port number.
fn port_number(number: i32) -> Result<u16, String> {
    match u16::try_from(number) {
        Ok(number) if number != 0 => Ok(number),
        _ => Err(format!("{number} is not a port: use 1 to 65535")),
    }
}

/// A name that many endpoints share, kept once.
fn shared(names: &mut Vec<Arc<str>>, name: &str) -> Arc<str> {
    // Newest first: endpoints of a slice come in runs.
    if let Some(known) = names.iter().rev().take(64).find(|known| &***known == name) {
        return Arc::clone(known);
    }
    names.push(Arc::from(name));
    Arc::clone(&names[names.len() - 1])
}

#[cfg(test)]
mod tests;
