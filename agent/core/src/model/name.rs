//! Names and places.

use std::fmt;
use std::sync::Arc;

use fairlead_abi::protocol;
use serde::{Deserialize, Serialize};

/// A namespaced Kubernetes name; what makes one service of its shards in several clusters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectName {
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
}

impl ObjectName {
    /// From its two parts.
    #[must_use]
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The protocols that a service port can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Its IP protocol number, as it stands in a [`fairlead_abi::ServiceKey`].
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => protocol::TCP,
            Self::Udp => protocol::UDP,
        }
    }

    /// The reverse of [`number`](Self::number); `None` for [`protocol::ANY`] and all others.
    #[must_use]
    pub const fn of(number: u8) -> Option<Self> {
        match number {
            protocol::TCP => Some(Self::Tcp),
            protocol::UDP => Some(Self::Udp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// Where something stands. An empty part is unknown and equals nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// Such as `europe-west1`.
    pub region: Arc<str>,
    /// Such as `europe-west1-b`; counts only together with the region.
    pub zone: Arc<str>,
    /// The cluster's name.
    pub cluster: Arc<str>,
}

impl Place {
    /// From its three parts.
    #[must_use]
    pub fn new(region: impl Into<Arc<str>>, zone: impl Into<Arc<str>>, cluster: impl Into<Arc<str>>) -> Self {
        Self { region: region.into(), zone: zone.into(), cluster: cluster.into() }
    }

    /// What two places share, the rest left empty: where a group of gateways plans from.
    #[must_use]
    pub fn common(&self, other: &Self) -> Self {
        let shared = |a: &Arc<str>, b: &Arc<str>| if a == b { Arc::clone(a) } else { Arc::from("") };
        let region = shared(&self.region, &other.region);
        let zone = if region.is_empty() { Arc::from("") } else { shared(&self.zone, &other.zone) };
        Self { region, zone, cluster: shared(&self.cluster, &other.cluster) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_keeps_what_is_shared() {
        let a = Place::new("r1", "z1", "c1");
        assert_eq!(a.common(&a), a);
        assert_eq!(a.common(&Place::new("r1", "z1", "c2")), Place::new("r1", "z1", ""));
        assert_eq!(a.common(&Place::new("r1", "z2", "c2")), Place::new("r1", "", ""));
        assert_eq!(
            a.common(&Place::new("r2", "z1", "c2")),
            Place::default(),
            "a zone is nothing without its region"
        );
    }

    #[test]
    fn names_print_as_kubectl_does() {
        assert_eq!(ObjectName::new("shop", "web").to_string(), "shop/web");
    }
}
