//! What an agent says of itself, in one document: it keeps it on disk for the commands and for the agent after it, and
//! shows it on the admin address.

mod counts;
mod file;
mod moment;
mod seed;

use std::{net::IpAddr, sync::Arc, time::SystemTime};

use fairlead_abi::{Family, ServiceKey};
use fairlead_core::{
    model::{ObjectName, Problem, Protocol},
    planner::ServiceTable,
};
use serde::{Deserialize, Serialize};

use crate::config::{Config, types::Role};
use crate::federation::Tally;

pub(crate) use counts::keep_counts;
pub use counts::{Counts, Found, read_counts};
pub use file::{STATUS_FILE, read_status};
pub(crate) use file::{keep, keep_last};
pub use moment::Moment;
pub(crate) use seed::keep_seed;
pub use seed::read_seed;

/// The agent's state. Where it and the pinned maps differ, the maps are right.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// When it was made.
    pub written: SystemTime,
    /// The same for an agent that takes over.
    #[serde(default)]
    pub at: Option<Moment>,
    /// The agent's process.
    pub pid: u32,
    /// The agent's version.
    pub version: String,
    /// Version of the maps' layout.
    pub abi: u32,
    /// The instance.
    pub instance: String,
    /// This node.
    pub node: String,
    /// `gateway`, `receiver`.
    pub roles: Vec<String>,
    /// The gateways that plan alike.
    pub group: String,
    /// The kernel's tag of the program that packets enter by.
    pub program: Option<String>,
    /// Why packets should not be sent here: programs that aren't attached, tables that aren't there; empty if they should.
    pub unready: Vec<String>,
    /// Where the programs are attached.
    pub interfaces: Vec<InterfaceStatus>,
    /// A hash of what the slots resolve to, as planned: equal on all gateways of a group.
    pub fingerprint: Option<String>,
    /// The same hash of what the kernel holds.
    pub installed_fingerprint: Option<String>,
    /// Every cluster's source.
    pub clusters: Vec<ClusterStatus>,
    /// What was rejected or held.
    pub problems: Vec<Problem>,
    /// What services ask for that has no effect here: nothing is wrong.
    #[serde(default)]
    pub notes: Vec<Problem>,
    /// Why a changed configuration was refused.
    pub refused: Vec<String>,
    /// Why the kernel's tables are not as planned.
    pub failure: Option<String>,
    /// Of each map: its name, entries in use, entries.
    pub usage: Vec<(String, u64, u64)>,
    /// What isn't served, for want of room.
    #[serde(default)]
    pub unserved: Vec<Unserved>,
    /// New connections per second that are planned with, of the services whose capacity is limited.
    #[serde(default)]
    pub demand: Vec<(ObjectName, u64)>,
    /// Every port of every VIP.
    pub services: Vec<Arc<ServiceTable>>,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Its name.
    pub name: String,
    /// `native` or `generic`.
    pub mode: String,
    /// The programs are attached.
    pub attached: bool,
    /// Why not.
    pub problem: Option<String>,
}

/// A cluster's source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The cluster.
    pub name: Arc<str>,
    /// Where its objects are, in words.
    #[serde(default)]
    pub source: String,
    /// Its source can be read.
    pub reachable: bool,
    /// Since when it can, or can't.
    #[serde(default)]
    pub since: Option<SystemTime>,
    /// Shards that it reports.
    pub shards: usize,
    /// Endpoints of all of them.
    #[serde(default)]
    pub endpoints: usize,
    /// Objects that count.
    #[serde(default)]
    pub objects: Tally,
    /// Why its source couldn't be read the last time that it couldn't, and when that began.
    #[serde(default)]
    pub failure: Option<(SystemTime, String)>,
    /// Where the source can't be read: when that was last known which counts.
    pub restored: Option<SystemTime>,
    /// What is drained of it.
    #[serde(default)]
    pub drained: Vec<String>,
}

impl Status {
    /// Of an agent that has just begun.
    pub(crate) fn starting(config: &Config) -> Self {
        let role = |role, name: &str| config.has(role).then(|| name.to_owned());
        Self {
            written: time_to_tell(),
            at: Moment::now(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            abi: fairlead_abi::ABI,
            instance: config.instance.0.to_string(),
            node: config.node.name.0.to_string(),
            roles: [role(Role::Gateway, "gateway"), role(Role::Receiver, "receiver")]
                .into_iter()
                .flatten()
                .collect(),
            group: String::new(),
            program: None,
            unready: vec!["starting".to_owned()],
            interfaces: Vec::new(),
            fingerprint: None,
            installed_fingerprint: None,
            clusters: Vec::new(),
            problems: Vec::new(),
            notes: Vec::new(),
            refused: Vec::new(),
            failure: None,
            usage: Vec::new(),
            unserved: Vec::new(),
            demand: Vec::new(),
            services: Vec::new(),
        }
    }
}

impl Status {
    /// Whether packets should be sent here.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.unready.is_empty()
    }
}

/// A port of a VIP for which there was no room; with port 0 and no protocol, the VIP by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unserved {
    /// The VIP.
    pub vip: IpAddr,
    /// The port at the VIP.
    pub port: u16,
    /// Its protocol.
    pub protocol: Option<Protocol>,
}

impl From<&ServiceKey> for Unserved {
    fn from(key: &ServiceKey) -> Self {
        Self { vip: key.vip.into(), port: key.port, protocol: Protocol::of(key.protocol) }
    }
}

impl From<&Unserved> for ServiceKey {
    fn from(unserved: &Unserved) -> Self {
        let protocol = unserved.protocol.map_or(fairlead_abi::protocol::ANY, Protocol::number);
        Self::new(unserved.vip.into(), unserved.port, protocol, Family::of(&unserved.vip))
    }
}

#[expect(clippy::disallowed_methods, reason = "for people: how old a status is")]
fn time_to_tell() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unserved_is_told_as_it_is_known() {
        let (v4, v6) = (IpAddr::from([192, 0, 2, 1]), "2001:db8::1".parse::<IpAddr>().unwrap());
        let keys = [
            ServiceKey::new(v4.into(), 80, 6, Family::V4),
            ServiceKey::new(v6.into(), 53, 17, Family::V6),
            ServiceKey::vip_only(v6.into(), Family::V6),
        ];
        for key in keys {
            let text = serde_json::to_string(&Unserved::from(&key)).unwrap();
            assert_eq!(ServiceKey::from(&serde_json::from_str::<Unserved>(&text).unwrap()), key, "{text}");
        }
    }
}
