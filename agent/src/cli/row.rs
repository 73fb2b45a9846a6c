//! Services and backends as rows of a list, for people and for programs.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Result;
use fairlead_abi::QUIC_CONFIG;
use fairlead_core::model::ServerId;
use fairlead_core::planner::{Distance, Verdict};
use ipnet::IpNet;
use serde::Serialize;

use super::picture::{Member, Numbers, Picture, Service};
use super::table::{Cell, Style, Table};

/// One port of a VIP.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct ServiceRow {
    /// Namespace and name; `None` where the agent's state doesn't know it.
    pub(super) service: Option<String>,
    pub(super) port_name: Option<Arc<str>>,
    /// As the object has it.
    pub(super) app_protocol: Option<Arc<str>>,
    pub(super) vip: IpAddr,
    pub(super) port: u16,
    pub(super) protocol: String,
    /// Slots of its ring; 0: no backend.
    pub(super) ring_size: u32,
    /// Backends that hold slots.
    pub(super) taking: usize,
    /// All of them.
    pub(super) backends: usize,
    pub(super) connections: u64,
    /// Of a port that is QUIC: the configuration by which its servers make connection IDs that name them.
    pub(super) quic_config: Option<u8>,
    pub(super) packets: u64,
    pub(super) bytes: u64,
    /// The ranges of the clients that it lets in, as the maps have them; `None`: all clients.
    pub(super) allowed: Option<Vec<IpNet>>,
    /// The part of the slots that each cluster holds, the largest first.
    pub(super) served_by: Vec<ClusterShare>,
    pub(super) differences: Vec<String>,
}

/// A cluster's part of a ring.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct ClusterShare {
    /// `None`: backends that the agent's state doesn't know.
    pub(super) cluster: Option<Arc<str>>,
    pub(super) share: f64,
}

impl ServiceRow {
    pub(super) fn new(service: &Service<'_>, numbers: &impl Numbers) -> Result<Self> {
        let counters = match service.entry {
            Some(entry) => numbers.service(entry.id)?,
            None => fairlead_abi::ServiceCounters::default(),
        };
        Ok(Self {
            service: service.name(),
            port_name: service.table.map(|table| Arc::clone(&table.port_name)),
            app_protocol: service.table.and_then(|table| table.app_protocol.clone()),
            vip: service.vip(),
            port: service.key.port,
            protocol: service.protocol_name(),
            ring_size: service.ring_size(),
            taking: service.members.iter().filter(|member| member.slots > 0).count(),
            backends: service.members.len(),
            connections: counters.connections,
            quic_config: service.is_quic().then_some(QUIC_CONFIG),
            packets: counters.packets,
            bytes: counters.bytes,
            allowed: service.allowed.clone(),
            served_by: served_by(service),
            differences: service.differences(),
        })
    }
}

fn served_by(service: &Service<'_>) -> Vec<ClusterShare> {
    let mut slots: Vec<(Option<&Arc<str>>, u32)> = Vec::new();
    for member in service.members.iter().filter(|member| member.slots > 0) {
        let cluster = member.wanted.and_then(|wanted| service.cluster(wanted));
        match slots.iter_mut().find(|(known, _)| *known == cluster) {
            Some((_, count)) => *count += member.slots,
            None => slots.push((cluster, member.slots)),
        }
    }
    slots.sort_by_key(|(cluster, count)| (std::cmp::Reverse(*count), *cluster));
    let share = |count: u32| f64::from(count) / f64::from(service.ring_size().max(1));
    let row = |(cluster, count): (Option<&Arc<str>>, u32)| ClusterShare {
        cluster: cluster.cloned(),
        share: share(count),
    };
    slots.into_iter().map(row).collect()
}

/// A part as `66.7 %`.
pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// An endpoint of a service.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct BackendRow {
    /// Outer destination; where it has none, the endpoint's address.
    pub(super) address: Option<IpAddr>,
    /// In the VIP's family.
    pub(super) endpoint: Option<IpAddr>,
    pub(super) port: Option<u16>,
    pub(super) pod: Option<Arc<str>>,
    pub(super) cluster: Option<Arc<str>>,
    pub(super) region: Option<Arc<str>>,
    pub(super) zone: Option<Arc<str>>,
    pub(super) distance: Option<String>,
    /// By which rows are sorted.
    #[serde(skip)]
    how_far: Option<Distance>,
    pub(super) encapsulation: Option<&'static str>,
    pub(super) mtu: Option<u16>,
    pub(super) hop_known: bool,
    /// The maps have it.
    pub(super) installed: bool,
    /// As planned.
    pub(super) weight: Option<u16>,
    /// As the maps have it.
    pub(super) slots: u32,
    /// The same as a part of the ring.
    pub(super) share: f64,
    pub(super) connections: u64,
    pub(super) packets: u64,
    pub(super) verdict: Option<Verdict>,
    /// The verdict in words.
    pub(super) reason: String,
    /// Of a port that is QUIC, as the maps have them: the one that belongs to `endpoint` first.
    pub(super) server_ids: Vec<ServerId>,
}

impl BackendRow {
    pub(super) fn new(
        picture: &Picture<'_>,
        service: &Service<'_>,
        (member, server_ids): (&Member<'_>, Vec<ServerId>),
        numbers: &impl Numbers,
    ) -> Result<Self> {
        let wanted = member.wanted;
        let shard = wanted.and_then(|wanted| service.table?.shards.get(usize::from(wanted.shard)));
        let counters = match member.pinned {
            Some((index, _)) => numbers.backend(index)?,
            None => fairlead_abi::BackendCounters::default(),
        };
        let cluster = shard.map(|shard| Arc::clone(&shard.cluster));
        Ok(Self {
            address: Some(member.outer),
            endpoint: wanted.map(|wanted| wanted.endpoint),
            port: wanted.map(|wanted| wanted.port),
            pod: wanted.map(|wanted| Arc::clone(&wanted.pod)),
            region: cluster.as_ref().and_then(|cluster| picture.places.region(cluster)),
            zone: cluster.as_ref().and_then(|cluster| picture.places.zone(cluster)),
            cluster,
            distance: shard.map(|shard| shard.distance.to_string()),
            how_far: shard.map(|shard| shard.distance),
            encapsulation: member.encapsulation(),
            mtu: member.pinned.filter(|_| member.hop_known).map(|(_, backend)| backend.mtu),
            hop_known: member.hop_known,
            installed: member.pinned.is_some(),
            weight: wanted.map(|wanted| wanted.weight),
            slots: member.slots,
            share: f64::from(member.slots) / f64::from(service.ring_size().max(1)),
            connections: counters.connections,
            packets: counters.packets,
            verdict: wanted.map(|wanted| wanted.verdict),
            reason: wanted.map_or_else(
                || "the agent's state doesn't know it".to_owned(),
                |wanted| wanted.verdict.to_string(),
            ),
            server_ids: own_first(server_ids, member),
        })
    }

    /// Of an endpoint that is in no backend list.
    fn not_taken(
        picture: &Picture<'_>,
        service: &Service<'_>,
        of: &fairlead_core::planner::NotTaken,
    ) -> Self {
        let shard = service.table.and_then(|table| table.shards.get(usize::from(of.shard)));
        let cluster = shard.map(|shard| Arc::clone(&shard.cluster));
        Self {
            address: of.address,
            endpoint: of.address,
            port: None,
            pod: Some(Arc::clone(&of.pod)),
            region: cluster.as_ref().and_then(|cluster| picture.places.region(cluster)),
            zone: cluster.as_ref().and_then(|cluster| picture.places.zone(cluster)),
            cluster,
            distance: shard.map(|shard| shard.distance.to_string()),
            how_far: shard.map(|shard| shard.distance),
            encapsulation: None,
            mtu: None,
            hop_known: false,
            installed: false,
            weight: None,
            slots: 0,
            share: 0.0,
            connections: 0,
            packets: 0,
            verdict: Some(of.verdict),
            reason: of.verdict.to_string(),
            server_ids: Vec::new(),
        }
    }

    /// Every endpoint of a service, the closest first, then by cluster and name.
    pub(super) fn all(
        picture: &Picture<'_>,
        service: &Service<'_>,
        numbers: &impl Numbers,
    ) -> Result<Vec<Self>> {
        let mut server_ids: BTreeMap<IpAddr, Vec<ServerId>> = BTreeMap::new();
        for (id, owner) in service.server_ids.iter().filter_map(|(id, owner)| Some((id, (*owner)?))) {
            server_ids.entry(owner).or_default().push(*id);
        }
        let mut rows = Vec::with_capacity(service.members.len());
        for member in &service.members {
            let its = server_ids.remove(&member.outer).unwrap_or_default();
            rows.push(Self::new(picture, service, (member, its), numbers)?);
        }
        rows.extend(service.not_taken().iter().map(|of| Self::not_taken(picture, service, of)));
        // What the agent's state doesn't know stands last.
        rows.sort_by(|a, b| {
            let by = |row: &'_ Self| (row.how_far.is_none(), row.how_far);
            by(a)
                .cmp(&by(b))
                .then_with(|| (&a.cluster, &a.pod, a.address).cmp(&(&b.cluster, &b.pod, b.address)))
        });
        Ok(rows)
    }

    /// The verdict, by what the maps do.
    pub(super) fn verdict_cell(&self) -> Cell {
        let style = match self.verdict {
            _ if self.slots > 0 && !self.hop_known => Style::Bad,
            None => Style::Warning,
            Some(Verdict::Taken) => Style::Good,
            Some(Verdict::Standby | Verdict::OtherZone) => Style::Dim,
            Some(verdict) if verdict.is_taken() => Style::Warning,
            Some(Verdict::Draining | Verdict::NotReady | Verdict::Lingering) => Style::Warning,
            Some(_) => Style::Bad,
        };
        let note = match self.installed {
            true if self.hop_known => "",
            true => "; next hop not known",
            false if self.weight.is_some() => "; not in the maps yet",
            false => "",
        };
        let text = format!("{}{note}", self.reason);
        Cell::new(text).style(style)
    }
}

fn own_first(mut server_ids: Vec<ServerId>, member: &Member<'_>) -> Vec<ServerId> {
    let own = ServerId::of(member.wanted.map_or(member.outer, |wanted| wanted.endpoint));
    server_ids.sort_by_key(|id| *id != own);
    server_ids
}

/// Endpoints as a table; server IDs where there are any, zones only where they are not called as their clusters are.
pub(super) fn backend_table(rows: &[BackendRow], colour: bool) -> String {
    let zones = rows.iter().any(|row| row.zone != row.cluster);
    let place: &[&str] = if zones { &["CLUSTER", "ZONE"] } else { &["CLUSTER"] };
    let servers = rows.iter().any(|row| !row.server_ids.is_empty());
    let server: &[&str] = if servers { &["SERVER ID"] } else { &[] };
    let numbers = ["DISTANCE", ">WEIGHT", ">SLOTS", ">SHARE", ">CONNECTIONS", ">PACKETS", "VERDICT"];
    let mut table = Table::new(&[&["ADDRESS"], server, &["POD"], place, &numbers].concat()).indent(2);
    for row in rows {
        let mut cells = vec![Cell::maybe(row.address)];
        if servers {
            cells.push(Cell::maybe(row.server_ids.first()));
        }
        cells.extend([Cell::maybe(row.pod.as_ref()), Cell::maybe(row.cluster.as_ref())]);
        if zones {
            cells.push(Cell::maybe(row.zone.as_ref()));
        }
        cells.extend([
            Cell::maybe(row.distance.as_ref()),
            Cell::maybe(row.weight),
            Cell::new(row.slots),
            Cell::new(percent(row.share)),
            Cell::new(row.connections),
            Cell::new(row.packets),
            row.verdict_cell(),
        ]);
        table.row(cells);
    }
    table.render(colour)
}
