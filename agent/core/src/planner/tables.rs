//! Everything that the kernel should hold, without the indexes under which it stands there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use fairlead_abi::{Delivery, DeliveryKey, Encap, Hop, ServiceKey};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Clash, NamedServer, NotTaken, ShardReport, Verdict};
use crate::model::{ObjectName, Protocol, ServerId};
use crate::stable::Stable;

/// What the kernel should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// Each port of each VIP, and each VIP by itself; empty where this node is no gateway.
    pub services: BTreeMap<ServiceKey, Arc<ServiceTable>>,
    /// What this node delivers; empty where it is no receiver.
    pub deliveries: BTreeMap<DeliveryKey, Delivery>,
    /// Whose tunnel packets this node takes; empty where it is no receiver.
    pub gateways: BTreeSet<IpNet>,
    /// How outer destinations are reached now.
    pub links: Arc<Links>,
    /// Outer destinations whose nodes don't answer now.
    pub silent: Arc<BTreeSet<IpAddr>>,
    /// How long a UDP service counts as changed after its slots have; zero: not at all.
    pub udp_unsettled: Duration,
}

/// Outer destinations to their next hops, as the data plane's link observer sees them. A missing one is not known.
pub type Links = BTreeMap<IpAddr, Route>;

/// The way to an outer destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// What stands in `HOPS`; its interface is not 0.
    pub hop: Hop,
    /// The interface that the kernel's route names: a VLAN's, where the hop has tags.
    pub routed_by: u32,
    /// Of the path, outer headers included; bytes.
    pub mtu: u16,
}

/// One port of one VIP; or, with port 0 and no protocol, the VIP by itself, which has no backends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceTable {
    /// The service. Of a VIP by itself: the first that has it.
    pub name: ObjectName,
    /// The port's name.
    pub port_name: Arc<str>,
    /// The port's `appProtocol`, as the object has it.
    #[serde(default)]
    pub app_protocol: Option<Arc<str>>,
    /// The VIP.
    pub vip: IpAddr,
    /// The port at the VIP.
    pub port: u16,
    /// Its protocol; `None`: the VIP by itself.
    pub protocol: Option<Protocol>,
    /// [`fairlead_abi::ServiceEntry::flags`].
    pub flags: u32,
    /// The ranges of the clients that it lets in, sorted; `None`: all.
    #[serde(default)]
    pub allowed: Option<Vec<IpNet>>,
    /// All endpoints that could hold a slot, with and without weight, and those that linger, sorted by `outer`.
    pub backends: Vec<WantedBackend>,
    /// Of a port that is QUIC: to whom server IDs lead, in their order.
    #[serde(default)]
    pub server_ids: Vec<NamedServer>,
    /// Server IDs that would lead to two, and so lead to nobody.
    #[serde(default)]
    pub clashes: Vec<Clash>,
    /// Slots as positions in `backends`; empty: no endpoint takes new connections.
    #[serde(skip)]
    pub ring: Arc<[u16]>,
    /// Of what the slots resolve to; see [`Tables::fingerprint`].
    pub ring_hash: u64,
    /// The shards, by cluster name; at the end clusters that have no shard any more, but lingering endpoints.
    pub shards: Vec<ShardReport>,
    /// The endpoints that are not in `backends`.
    pub not_taken: Vec<NotTaken>,
}

/// An endpoint as the ring sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedBackend {
    /// Outer destination, and what identifies it in its service.
    pub outer: IpAddr,
    /// Its address in the VIP's family; `outer` where it has none.
    pub endpoint: IpAddr,
    /// Where it listens.
    pub port: u16,
    /// How packets get to it.
    #[serde(with = "encap_name")]
    pub encap: Encap,
    /// Its part of the slots, relative to the others; 0: no slot.
    pub weight: u16,
    /// Index in [`ServiceTable::shards`].
    pub shard: u16,
    /// The pod's name.
    pub pod: Arc<str>,
    /// Its node in the shard's cluster.
    #[serde(default = "nowhere")]
    pub node: Arc<str>,
    /// Why it has that weight.
    pub verdict: Verdict,
}

impl ServiceTable {
    /// Whether it is an address of a backend that is sent to by another one: a port that is QUIC knows both by their server
    /// IDs.
    #[must_use]
    pub fn is_other_address(&self, address: IpAddr) -> bool {
        let id = ServerId::of(address);
        self.server_ids.binary_search_by_key(&id, |named| named.id).is_ok_and(|at| {
            let NamedServer { address: of, backend, .. } = self.server_ids[at];
            of.is_none_or(|of| of == address) && self.backends[usize::from(backend)].outer != address
        })
    }

    /// The key that packets are matched by.
    #[must_use]
    pub fn key(&self) -> ServiceKey {
        let family = fairlead_abi::Family::of(&self.vip);
        let protocol = self.protocol.map_or(fairlead_abi::protocol::ANY, Protocol::number);
        ServiceKey::new(self.vip.into(), self.port, protocol, family)
    }

    /// The backend that a slot resolves to.
    #[must_use]
    pub fn backend(&self, slot: u32) -> Option<&WantedBackend> {
        let position = *self.ring.get(usize::try_from(slot).ok()?)?;
        self.backends.get(usize::from(position))
    }
}

impl Tables {
    /// A hash of what every slot resolves to (service, slot number, outer address): equal on gateways that steer
    /// alike, whatever indexes their histories gave them.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        fingerprint(self.services.iter().map(|(key, table)| (*key, table.ring_hash)))
    }
}

/// Over all services in the order of their keys.
pub(crate) fn fingerprint(rings: impl Iterator<Item = (ServiceKey, u64)>) -> u64 {
    let start = Stable::new(0);
    let all = rings.fold(start, |hash, (key, ring)| {
        hash.bytes(&key.vip.bytes)
            .bytes(&key.port.to_be_bytes())
            .bytes(&[key.protocol, key.family])
            .word(ring)
    });
    all.finish()
}

/// Of a status that an older agent left.
fn nowhere() -> Arc<str> {
    Arc::from("")
}

/// [`Encap`] by name: the ABI crate knows no serde.
mod encap_name {
    use fairlead_abi::Encap;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(encap: &Encap, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(match encap {
            Encap::Ipip => "ipip",
            Encap::Gue => "gue",
            Encap::Local => "local",
        })
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Encap, D::Error> {
        match &*String::deserialize(from)? {
            "ipip" => Ok(Encap::Ipip),
            "gue" => Ok(Encap::Gue),
            "local" => Ok(Encap::Local),
            other => Err(D::Error::unknown_variant(other, &["ipip", "gue", "local"])),
        }
    }
}
