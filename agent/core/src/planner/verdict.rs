//! Why an endpoint is taken or not: what `fairlead explain` shows.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::Rejection;

/// Why an endpoint takes new connections, or why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Taken: the nearest place with room.
    Taken,
    /// Taken, because closer shards lack capacity.
    Spilled,
    /// Taken in part: its shard has come back and is let in gradually.
    Returning {
        /// The step that it is in, from 1.
        step: u32,
        /// Of so many.
        of: u32,
    },
    /// Taken: its source suddenly shows nothing, but its probes pass.
    Held,
    /// Taken although its probes fail: (nearly) none passes, so they are not believed.
    Panic,
    /// Healthy, but closer shards have room.
    Standby,
    /// Healthy, but for other zones, as its slice hints.
    OtherZone,
    /// The API server says that it is not ready.
    NotReady,
    /// The API server says that it is terminating, or somebody drains it.
    Draining,
    /// It has left its EndpointSlices, and may hold connections yet.
    Lingering,
    /// Its probes fail.
    ProbesFail,
    /// Its shard has fewer healthy endpoints than it needs.
    BelowMinHealthy {
        /// It has so many.
        usable: u32,
        /// It needs so many.
        needed: u32,
    },
    /// Its node has no receiver.
    NoReceiver,
    /// This gateway has no tunnel of a family in which the endpoint has an address.
    NoTunnelFamily,
    /// It has no address of the VIP's family, and doesn't own the VIP.
    NoAddressOfFamily,
    /// It has no port of that name.
    NoPort,
    /// It was rejected.
    Rejected(Rejection),
}

impl Verdict {
    /// Whether the endpoint takes new connections.
    #[must_use]
    pub const fn is_taken(self) -> bool {
        matches!(self, Self::Taken | Self::Spilled | Self::Returning { .. } | Self::Held | Self::Panic)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken => f.write_str("taken"),
            Self::Spilled => f.write_str("taken, closer shards lack capacity"),
            Self::Returning { step, of } => {
                write!(f, "taken in part, its shard is returning (step {step} of {of})")
            }
            Self::Held => f.write_str("taken, held: its source is suddenly empty but probes pass"),
            Self::Panic => f.write_str("taken, panic: too few probes pass to believe them"),
            Self::Standby => f.write_str("standby, closer shards have room"),
            Self::OtherZone => f.write_str("hinted for other zones"),
            Self::NotReady => f.write_str("not ready"),
            Self::Draining => f.write_str("draining"),
            Self::Lingering => f.write_str("gone from its slices, keeps its connections"),
            Self::ProbesFail => f.write_str("its probes fail"),
            Self::BelowMinHealthy { usable, needed } => {
                write!(f, "its shard has {usable} of at least {needed} healthy endpoints")
            }
            Self::NoReceiver => f.write_str("its node has no receiver"),
            Self::NoTunnelFamily => f.write_str("this gateway has no tunnel of its address family"),
            Self::NoAddressOfFamily => f.write_str("it has no address of the VIP's family"),
            Self::NoPort => f.write_str("it has no such port"),
            Self::Rejected(why) => write!(f, "rejected: {why}"),
        }
    }
}

/// An endpoint that is not even in the backend list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotTaken {
    /// Index in [`ServiceTable::shards`](super::ServiceTable).
    pub shard: u16,
    /// The pod's name.
    pub pod: Arc<str>,
    /// Its address, if it has any.
    pub address: Option<IpAddr>,
    /// Why.
    pub verdict: Verdict,
}

/// How far a shard is from where the group plans. Smaller is closer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Distance {
    /// The same cluster.
    Cluster,
    /// The same zone.
    Zone,
    /// The same region.
    Region,
    /// Another region, at the configured distance.
    Away(u32),
    /// Another region, no distance configured.
    Unknown,
}

impl fmt::Display for Distance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster => f.write_str("same cluster"),
            Self::Zone => f.write_str("same zone"),
            Self::Region => f.write_str("same region"),
            Self::Away(distance) => write!(f, "{distance} away"),
            Self::Unknown => f.write_str("other region"),
        }
    }
}

/// A part of the new connections, in 65,536ths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Share(pub u32);

impl Share {
    /// All of them.
    pub const WHOLE: Self = Self(1 << 16);

    /// From 0 to 100.
    #[must_use]
    pub fn percent(self) -> f64 {
        f64::from(self.0) * 100.0 / f64::from(Self::WHOLE.0)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} %", self.percent())
    }
}

/// What a shard is and gets, for one port of one VIP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardReport {
    /// Its cluster.
    pub cluster: Arc<str>,
    /// From where the group plans.
    pub distance: Distance,
    /// Whether the cluster's source can be read.
    pub reachable: bool,
    /// Endpoints that could be taken: a receiver, an address, the port.
    pub endpoints: u32,
    /// Those that the API server calls ready.
    pub ready: u32,
    /// Those of them whose probes don't fail.
    pub usable: u32,
    /// New connections per second; `None`: no limit.
    pub capacity: Option<u64>,
    /// Its part of the new connections.
    pub share: Share,
    /// What decided it.
    pub state: ShardState,
}

/// What decided a shard's share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShardState {
    /// Among the nearest with room.
    Serving,
    /// Takes what closer ones lack capacity for.
    Spilled,
    /// Has come back and is let in gradually.
    Returning {
        /// The step that it is in, from 1.
        step: u32,
        /// Of so many.
        of: u32,
    },
    /// Its source is suddenly empty, its probes pass.
    Held,
    /// Probes are not believed.
    Panic,
    /// Healthy, not needed.
    Standby,
    /// Too few healthy endpoints.
    BelowMinHealthy,
    /// No usable endpoint.
    Empty,
}

impl fmt::Display for ShardState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serving => f.write_str("serving"),
            Self::Spilled => f.write_str("serving what closer shards have no room for"),
            Self::Returning { step, of } => write!(f, "returning, step {step} of {of}"),
            Self::Held => f.write_str("held"),
            Self::Panic => f.write_str("panic"),
            Self::Standby => f.write_str("standby"),
            Self::BelowMinHealthy => f.write_str("too few healthy endpoints"),
            Self::Empty => f.write_str("no usable endpoint"),
        }
    }
}
