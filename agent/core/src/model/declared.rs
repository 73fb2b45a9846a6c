//! What the configuration file declares, already validated and typed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fairlead_abi::Encap;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Place, ProbeSpec};

/// Everything that configuration says; the same on every gateway of a group but for [`Here`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Declarations {
    /// This node.
    pub here: Here,
    /// All clusters, by name.
    pub clusters: BTreeMap<Arc<str>, Cluster>,
    /// All gateways, this one included.
    pub gateways: Vec<Gateway>,
    /// Where VIPs come from.
    pub pools: Vec<IpNet>,
    /// What can't be a VIP: the tunnel addresses of gateways.
    pub reserved: Vec<IpNet>,
    /// How far regions are from each other.
    pub distances: Distances,
    /// Numbers of the planner.
    pub tuning: Tuning,
    /// Probes of services that say nothing else.
    pub probe: ProbeSpec,
}

/// One Kubernetes cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Region, zone and its own name.
    pub place: Place,
    /// The addresses that its endpoints may have.
    pub pod_cidrs: Vec<IpNet>,
}

/// This node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Here {
    /// Its name in `place.cluster`.
    pub node: Arc<str>,
    /// Where it stands.
    pub place: Place,
    /// Where its group plans from: what all gateways of the group share of their places ([`Place::common`]).
    pub plans_from: Place,
    /// Its group of gateways.
    pub group: Arc<str>,
    /// Steers and forwards.
    pub gateway: bool,
    /// Unwraps and delivers to its own endpoints.
    pub receiver: bool,
    /// Has an IPv4 source for tunnels.
    pub tunnel_v4: bool,
    /// Has an IPv6 source for tunnels.
    pub tunnel_v6: bool,
    /// How it wraps packets.
    pub tunnel: Tunnel,
    /// What any tunnel carries, outer headers included, in bytes: the smallest MTU between gateways and receivers.
    pub tunnel_mtu: u16,
}

impl Default for Here {
    fn default() -> Self {
        Self {
            node: Arc::from(""),
            place: Place::default(),
            plans_from: Place::default(),
            group: Arc::from(""),
            gateway: false,
            receiver: false,
            tunnel_v4: false,
            tunnel_v6: false,
            tunnel: Tunnel::Ipip,
            tunnel_mtu: 1500,
        }
    }
}

/// How gateways wrap packets for receivers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tunnel {
    /// Only an outer IP header.
    #[default]
    Ipip,
    /// Outer IP and UDP headers.
    Gue,
}

impl Tunnel {
    /// As the programs call it.
    #[must_use]
    pub const fn encap(self) -> Encap {
        match self {
            Self::Ipip => Encap::Ipip,
            Self::Gue => Encap::Gue,
        }
    }
}

/// One gateway, as receivers must know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gateway {
    /// Its name.
    pub name: Arc<str>,
    /// Gateways of one group plan alike.
    pub group: Arc<str>,
    /// Where its tunnel packets come from.
    pub prefixes: Vec<IpNet>,
}

/// Distances between regions; symmetric.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Distances {
    /// Sorted pairs of regions; a list, since JSON has only strings as keys.
    pairs: Vec<(Arc<str>, Arc<str>, u32)>,
}

impl Distances {
    /// Sets the distance of two regions, in both directions.
    pub fn set(&mut self, a: impl Into<Arc<str>>, b: impl Into<Arc<str>>, distance: u32) {
        let (a, b) = (a.into(), b.into());
        let (a, b) = if a <= b { (a, b) } else { (b, a) };
        match self.pairs.binary_search_by(|(x, y, _)| (x, y).cmp(&(&a, &b))) {
            Ok(at) => self.pairs[at].2 = distance,
            Err(at) => self.pairs.insert(at, (a, b, distance)),
        }
    }

    /// The distance of two regions; `None` where nothing was set.
    #[must_use]
    pub fn get(&self, a: &str, b: &str) -> Option<u32> {
        let (a, b) = if a <= b { (a, b) } else { (b, a) };
        let at = self.pairs.binary_search_by(|(x, y, _)| (&**x, &**y).cmp(&(a, b))).ok()?;
        Some(self.pairs[at].2)
    }
}

/// Numbers of the planner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tuning {
    /// When no more than this share of a service's ready endpoints passes its probes, the probes are not believed.
    /// 0: only when none passes.
    pub panic_percent: u8,
    /// How long a shard that comes back takes to its full share.
    pub return_duration: Duration,
    /// In how many steps; 0: at once.
    pub return_steps: u32,
    /// Over what time demand is smoothed.
    pub demand_smoothing: Duration,
    /// By how much smoothed demand must leave the planned value before it is planned anew.
    pub demand_band_percent: u8,
    /// How long an endpoint that has left its slices keeps its connections where nothing is heard of them.
    pub linger: Duration,
    /// How long flows of a UDP service may be a former backend's after its slots have changed; zero: never.
    pub udp_unsettled: Duration,
    /// When so many percent of a cluster's services, or more, are gone from its source at once, they are held; 1 to 100.
    pub withdrawal_percent: u8,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            panic_percent: 0,
            return_duration: Duration::from_secs(4),
            return_steps: 4,
            demand_smoothing: Duration::from_secs(10),
            demand_band_percent: 10,
            linger: Duration::from_secs(3600),
            udp_unsettled: Duration::from_secs(30),
            withdrawal_percent: 100,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_symmetric() {
        let mut d = Distances::default();
        d.set("us", "eu", 90);
        d.set("eu", "asia", 150);
        d.set("eu", "us", 80);
        assert_eq!(d.get("us", "eu"), Some(80));
        assert_eq!(d.get("eu", "us"), Some(80));
        assert_eq!(d.get("asia", "eu"), Some(150));
        assert_eq!(d.get("asia", "us"), None);
    }
}
