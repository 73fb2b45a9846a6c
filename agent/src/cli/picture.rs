//! What the pinned maps say and what the agent says of it, joined: services and their backends.
//!
//! The maps are right about where packets go; the agent's status only adds names and reasons. Where the two differ,
//! [`Service::differences`] says so.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use aya::maps::MapData;
use fairlead_abi::{
    Backend, BackendCounters, Counter, DropReason, Encap, FlowEvent, Hop, NO_BACKEND, ServiceCounters,
    ServiceEntry, ServiceKey, Slot,
};
use fairlead_core::model::{Protocol, ServerId};
use fairlead_core::planner::{Capacities, Installed, NotTaken, Raw, ReadSlots, ServiceTable, WantedBackend};
use ipnet::IpNet;

use crate::config::Config;
use crate::dataplane::{CacheView, Counters};
use crate::text::counted;

/// A reader of counters.
pub(super) trait Numbers {
    fn service(&self, id: u32) -> Result<ServiceCounters>;
    fn backend(&self, index: u32) -> Result<BackendCounters>;
    fn drops(&self, reason: DropReason) -> Result<Counter>;
    fn events(&self, event: FlowEvent) -> Result<u64>;
}

impl Numbers for Counters<MapData> {
    fn service(&self, id: u32) -> Result<ServiceCounters> {
        Ok(Self::service(self, id)?)
    }

    fn backend(&self, index: u32) -> Result<BackendCounters> {
        Ok(Self::backend(self, index)?)
    }

    fn drops(&self, reason: DropReason) -> Result<Counter> {
        Ok(Self::drops(self, reason)?)
    }

    fn events(&self, event: FlowEvent) -> Result<u64> {
        Ok(Self::events(self, event)?)
    }
}

/// Region and zone of each cluster.
#[derive(Clone, Debug, Default)]
pub(super) struct Places(BTreeMap<Arc<str>, (Arc<str>, Arc<str>)>);

impl Places {
    pub(super) fn of(config: &Config) -> Self {
        let place = |cluster: &crate::config::types::ClusterConfig| {
            (Arc::clone(&cluster.name.0), (Arc::clone(&cluster.region.0), Arc::clone(&cluster.zone.0)))
        };
        Self(config.clusters.iter().map(place).collect())
    }

    #[cfg(test)]
    pub(super) fn new(places: &[(&str, &str, &str)]) -> Self {
        let place = |(cluster, region, zone): &(&str, &str, &str)| {
            (Arc::from(*cluster), (Arc::from(*region), Arc::from(*zone)))
        };
        Self(places.iter().map(place).collect())
    }

    pub(super) fn region(&self, cluster: &str) -> Option<Arc<str>> {
        self.0.get(cluster).map(|(region, _)| Arc::clone(region))
    }

    pub(super) fn zone(&self, cluster: &str) -> Option<Arc<str>> {
        self.0.get(cluster).map(|(_, zone)| Arc::clone(zone))
    }
}

/// All tables, joined.
pub(super) struct Picture<'a> {
    pub(super) installed: Installed,
    slots: &'a dyn ReadSlots,
    hops: &'a [Hop],
    tables: BTreeMap<ServiceKey, &'a ServiceTable>,
    pub(super) places: Places,
    /// Nothing where it was not read.
    pub(super) cache: CacheView<'a>,
}

/// One port of a VIP.
pub(super) struct Service<'a> {
    pub(super) key: ServiceKey,
    /// As the maps have it.
    pub(super) entry: Option<ServiceEntry>,
    /// As the agent has it.
    pub(super) table: Option<&'a ServiceTable>,
    /// By outer address.
    pub(super) members: Vec<Member<'a>>,
    /// Slots that name no backend.
    pub(super) unresolved: u32,
    /// Server IDs as the maps have them, and whose they are.
    pub(super) server_ids: BTreeMap<ServerId, Option<IpAddr>>,
    /// The ranges of the clients that it lets in, as the maps have them; `None`: all clients.
    pub(super) allowed: Option<Vec<IpNet>>,
}

/// A backend.
#[derive(Clone, Copy)]
pub(super) struct Member<'a> {
    pub(super) outer: IpAddr,
    /// Its index in `BACKENDS` and what stands there.
    pub(super) pinned: Option<(u32, Backend)>,
    /// Its next hop is known.
    pub(super) hop_known: bool,
    pub(super) wanted: Option<&'a WantedBackend>,
    /// How many slots name it as where new connections go.
    pub(super) slots: u32,
}

impl<'a> Picture<'a> {
    pub(super) fn new(
        raw: &Raw<'a>,
        capacities: Capacities,
        tables: impl IntoIterator<Item = &'a ServiceTable>,
        places: Places,
    ) -> Self {
        Self {
            installed: Installed::read(raw, capacities, None, Duration::ZERO),
            slots: raw.slots,
            hops: raw.hops,
            tables: tables.into_iter().map(|table| (table.key(), table)).collect(),
            places,
            cache: CacheView::default(),
        }
    }

    /// All ports of all VIPs, in the order of names, then VIPs and ports; those without a name last.
    pub(super) fn services(&self) -> Vec<Service<'a>> {
        let entries: BTreeMap<ServiceKey, ServiceEntry> =
            self.installed.services().map(|(key, _, _, entry)| (key, *entry)).collect();
        let keys: BTreeSet<&ServiceKey> = entries.keys().chain(self.tables.keys()).collect();
        let mut services: Vec<Service<'a>> = keys
            .into_iter()
            .filter(|key| key.port != 0)
            .map(|key| self.service(*key, entries.get(key).copied()))
            .collect();
        services
            .sort_by_key(|service| (service.table.is_none(), service.table.map(|t| &t.name), service.key));
        services
    }

    /// The entry that says what becomes of ports of a VIP that aren't served.
    pub(super) fn vip_entry(&self, vip: IpAddr) -> Option<ServiceEntry> {
        let key = ServiceKey::vip_only(vip.into(), fairlead_abi::Family::of(&vip));
        self.installed.services().find(|(known, ..)| *known == key).map(|(_, _, _, entry)| *entry)
    }

    /// Every VIP.
    pub(super) fn vips(&self) -> impl Iterator<Item = IpAddr> {
        self.installed.services().filter(|(key, ..)| key.port == 0).map(|(key, ..)| key.vip.into())
    }

    fn service(&self, key: ServiceKey, entry: Option<ServiceEntry>) -> Service<'a> {
        let table = self.tables.get(&key).copied();
        let (held, unresolved) = entry.map(|entry| self.held(&key, &entry)).unwrap_or_default();
        let mut members: BTreeMap<IpAddr, Member<'a>> = BTreeMap::new();
        for (index, backend) in self.installed.backends_of(&key) {
            let outer = backend.outer.into();
            let hop = usize::try_from(backend.hop).ok().and_then(|hop| self.hops.get(hop));
            let member = Member {
                outer,
                pinned: Some((index, *backend)),
                hop_known: backend.kind() == Encap::Local as u8 || hop.is_some_and(|hop| hop.ifindex != 0),
                wanted: None,
                slots: held.get(&index).copied().unwrap_or(0),
            };
            // Damaged tables may have an address twice: the one that slots name counts.
            let known = members.entry(outer).or_insert(member);
            if known.slots < member.slots {
                *known = member;
            }
        }
        for wanted in table.into_iter().flat_map(|table| &table.backends) {
            let unknown =
                Member { outer: wanted.outer, pinned: None, hop_known: false, wanted: None, slots: 0 };
            members.entry(wanted.outer).or_insert(unknown).wanted = Some(wanted);
        }
        let members: Vec<Member<'a>> = members.into_values().collect();
        let pinned = members.iter().filter_map(|member| Some((member.pinned?.0, member.outer)));
        let owners: BTreeMap<u32, IpAddr> = pinned.collect();
        let servers = self.installed.servers_of(&key);
        let servers = servers.map(|(id, index)| (id, owners.get(&index).copied()));
        let restricted = entry.filter(|entry| entry.flags & ServiceEntry::RESTRICTED != 0);
        let allowed = restricted.map(|entry| self.installed.allowed_by(entry.id).collect());
        Service { key, entry, table, server_ids: servers.collect(), allowed, members, unresolved }
    }

    /// How many slots each index in `BACKENDS` holds, and how many name nothing.
    fn held(&self, key: &ServiceKey, entry: &ServiceEntry) -> (BTreeMap<u32, u32>, u32) {
        let known: BTreeSet<u32> = self.installed.backends_of(key).map(|(index, _)| index).collect();
        let (mut held, mut unresolved) = (BTreeMap::new(), 0);
        // Where nobody takes new connections, slots have formers only.
        for slot in self.ring(entry).iter().filter(|slot| slot.current != NO_BACKEND) {
            let index = entry.backends + u32::from(slot.current);
            if known.contains(&index) {
                *held.entry(index).or_default() += 1;
            } else {
                unresolved += 1;
            }
        }
        (held, unresolved)
    }

    /// The slots of a service.
    pub(super) fn ring(&self, entry: &ServiceEntry) -> Cow<'a, [Slot]> {
        self.slots.block(entry.ring.first_slot, entry.ring.size)
    }
}

impl<'a> Service<'a> {
    pub(super) fn vip(&self) -> IpAddr {
        self.key.vip.into()
    }

    /// `None` for one that only damaged maps have.
    pub(super) fn protocol(&self) -> Option<Protocol> {
        Protocol::of(self.key.protocol)
    }

    /// `tcp` or `udp`.
    pub(super) fn protocol_name(&self) -> String {
        self.protocol().map_or_else(|| self.key.protocol.to_string(), |protocol| protocol.to_string())
    }

    /// `203.0.113.10:80/tcp`.
    pub(super) fn address(&self) -> String {
        format!("{}/{}", std::net::SocketAddr::new(self.vip(), self.key.port), self.protocol_name())
    }

    /// `shop/web`.
    pub(super) fn name(&self) -> Option<String> {
        self.table.map(|table| table.name.to_string())
    }

    pub(super) fn ring_size(&self) -> u32 {
        self.entry.map_or(0, |entry| entry.ring.size)
    }

    /// The member at an index in `BACKENDS`.
    pub(super) fn at(&self, index: u32) -> Option<&Member<'a>> {
        self.members.iter().find(|member| member.pinned.is_some_and(|(at, _)| at == index))
    }

    /// The cluster of a backend.
    pub(super) fn cluster(&self, wanted: &WantedBackend) -> Option<&'a Arc<str>> {
        self.table?.shards.get(usize::from(wanted.shard)).map(|shard| &shard.cluster)
    }

    /// Whether packets go where their connection ID says.
    pub(super) fn is_quic(&self) -> bool {
        self.entry.is_some_and(|entry| entry.flags & ServiceEntry::QUIC != 0)
    }

    /// Where the maps let other clients in than the agent wants.
    fn other_ranges(&self) -> Option<String> {
        let wanted = &self.table?.allowed;
        if *wanted == self.allowed {
            return None;
        }
        let tell = |ranges: &Option<Vec<IpNet>>| match ranges.as_deref() {
            None => "all clients".to_owned(),
            Some([]) => "nobody".to_owned(),
            Some(ranges) => ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        };
        Some(format!("lets in {}, the agent's state says: {}", tell(&self.allowed), tell(wanted)))
    }

    /// Where the maps have other server IDs than the agent.
    fn other_servers(&self) -> Vec<String> {
        let named = self.table.into_iter().flat_map(|table| {
            table.server_ids.iter().map(|named| (named.id, table.backends.get(usize::from(named.backend))))
        });
        let wanted: BTreeMap<ServerId, Option<IpAddr>> =
            named.map(|(id, backend)| (id, backend.map(|backend| backend.outer))).collect();
        let ids: BTreeSet<&ServerId> = wanted.keys().chain(self.server_ids.keys()).collect();
        let different = ids.into_iter().filter(|id| wanted.get(id) != self.server_ids.get(id));
        let whose = |of: &BTreeMap<ServerId, Option<IpAddr>>, id: &ServerId| {
            of.get(id).copied().flatten().map_or_else(|| "nobody".to_owned(), |outer| outer.to_string())
        };
        let tell = |id: &ServerId| {
            let (is, shall) = (whose(&self.server_ids, id), whose(&wanted, id));
            format!("server ID {id} leads to {is}, the agent's state says: to {shall}")
        };
        different.map(tell).collect()
    }

    /// The endpoints that are in no backend list.
    pub(super) fn not_taken(&self) -> &'a [NotTaken] {
        self.table.map_or(&[], |table| &table.not_taken)
    }

    /// Where maps and status don't agree.
    pub(super) fn differences(&self) -> Vec<String> {
        let mut differences = Vec::new();
        match (self.entry, self.table) {
            (None, _) => return vec!["the agent wants it, the maps don't have it yet".to_owned()],
            (_, None) => return vec!["the maps have it, the agent's state doesn't know it".to_owned()],
            _ => {}
        }
        let weights: u64 = self.members.iter().filter_map(|m| m.wanted).map(|w| u64::from(w.weight)).sum();
        // One that is due next to nothing may rightly hold nothing.
        let is_due = |wanted: &WantedBackend| {
            u64::from(wanted.weight) * u64::from(self.ring_size().max(1)) >= 2 * weights
        };
        for member in &self.members {
            let outer = member.outer;
            match member.wanted {
                None if member.slots > 0 => {
                    differences.push(format!("{outer} holds slots, the agent's state doesn't know it"));
                }
                Some(wanted) if wanted.weight == 0 && member.slots > 0 => {
                    differences
                        .push(format!("{outer} holds slots, the agent's state says: {}", wanted.verdict));
                }
                Some(wanted) if wanted.weight > 0 && is_due(wanted) && member.slots == 0 => {
                    differences
                        .push(format!("{outer} holds no slot, the agent's state says: {}", wanted.verdict));
                }
                _ => {}
            }
        }
        differences.extend(self.other_ranges());
        differences.extend(self.other_servers());
        if self.unresolved > 0 {
            let one = self.unresolved == 1;
            let slots = counted(self.unresolved, "slot");
            differences.push(format!("{slots} {} no backend", if one { "names" } else { "name" }));
        }
        differences
    }
}

impl Member<'_> {
    pub(super) fn encapsulation(&self) -> Option<&'static str> {
        let number = self.pinned.map_or_else(
            || self.wanted.map_or(0, |wanted| wanted.encap as u8),
            |(_, backend)| backend.kind(),
        );
        const NAMES: [(Encap, &str); 3] =
            [(Encap::Ipip, "ipip"), (Encap::Gue, "gue"), (Encap::Local, "local")];
        NAMES.into_iter().find(|(encap, _)| *encap as u8 == number).map(|(_, name)| name)
    }
}
