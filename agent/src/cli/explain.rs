//! `fairlead explain`: where a connection goes, and why not elsewhere.
//!
//! The way is computed as the program does it, on the pinned maps: the hash of the flow gives a slot, the slot a
//! backend. Names and reasons come from the agent's state; where it contradicts the maps, the maps are right.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Result, bail};
use fairlead_abi::{DropReason, Flow, ServiceEntry, flow_hash, slot_of};
use fairlead_core::model::Protocol;
use fairlead_core::planner::ShardReport;
use serde::Serialize;

use super::address::{Client, Vip};
use super::node::{Freshness, Node};
use super::output::{Format, Output};
use super::picture::{Numbers, Picture, Service};
use super::row::{BackendRow, backend_table, percent};
use super::table::{Cell, Style, Table};

/// Everything about one connection, or about all of one client.
#[derive(Debug, Serialize)]
struct Explanation {
    client: IpAddr,
    client_port: Option<u16>,
    vip: IpAddr,
    /// Where it is known.
    port: Option<u16>,
    protocol: String,
    /// Why it is not steered at all, in words.
    not_steered: Option<String>,
    service: Option<String>,
    port_name: Option<Arc<str>>,
    ring_size: u32,
    /// Where the client's port is known.
    slot: Option<u32>,
    /// Where that slot's connections go.
    backend: Option<BackendRow>,
    /// Why the packet is dropped instead.
    drop: Option<Drop>,
    /// Where the client's port is not known: how many of its ports go to which backend, most first.
    ports: Vec<Ports>,
    shards: Vec<Shard>,
    /// Every endpoint.
    endpoints: Vec<BackendRow>,
    /// What the maps and the agent's state disagree about; the maps are right.
    differences: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Drop {
    reason: &'static str,
    description: &'static str,
}

impl From<DropReason> for Drop {
    fn from(reason: DropReason) -> Self {
        Self { reason: reason.name(), description: reason.description().trim() }
    }
}

/// The source ports of a client that go to one backend.
#[derive(Debug, Serialize)]
struct Ports {
    address: Option<IpAddr>,
    pod: Option<Arc<str>>,
    cluster: Option<Arc<str>>,
    ports: u32,
    share: f64,
}

/// A shard, with its place.
#[derive(Debug, Serialize)]
struct Shard {
    region: Option<Arc<str>>,
    zone: Option<Arc<str>>,
    #[serde(flatten)]
    report: ShardReport,
}

#[derive(Serialize)]
struct Document {
    #[serde(flatten)]
    freshness: Freshness,
    #[serde(flatten)]
    explanation: Explanation,
}

/// Says where a connection goes.
pub(super) fn explain(node: &Node, client: Client, vip: Vip, output: Output) -> Result<()> {
    let (view, numbers) = (node.view()?, node.counters()?);
    let picture = node.picture(&view)?;
    let explanation = explanation(&picture, node.config.seed.0, client, vip, &numbers)?;
    let document = Document { freshness: node.freshness(), explanation };
    // What is not steered has no table for people: the error says all.
    if document.explanation.not_steered.is_none() || output.format == Format::Json {
        output.show(&document, |document, colour| {
            document.explanation.text(colour) + &Style::Dim.paint(&document.freshness.line(), colour)
        })?;
    }
    match document.explanation.not_steered {
        Some(why) => bail!(why),
        None => Ok(()),
    }
}

fn explanation(
    picture: &Picture<'_>,
    seed: u64,
    client: Client,
    vip: Vip,
    numbers: &impl Numbers,
) -> Result<Explanation> {
    if client.ip.is_ipv4() != vip.ip.is_ipv4() {
        bail!("{} and {} are of different IP versions", client.ip, vip.ip);
    }
    let all = picture.services();
    let service = match find(picture, &all, vip)? {
        Found::Service(service) => service,
        Found::Nothing { drop, why } => return Ok(Explanation::not_steered(client, vip, drop, why)),
    };
    let Some(entry) = service.entry else {
        let why = format!(
            "{} is not in the maps yet: the agent wants it, and packets for it pass by or are dropped",
            service.address()
        );
        let unknown = Explanation::not_steered(client, vip, None, why);
        return Ok(Explanation { service: service.name(), shards: shards(picture, service), ..unknown });
    };
    let endpoints = BackendRow::all(picture, service, numbers)?;
    let to_slot = |port| slot_of(flow_hash(seed, &flow(client.ip, port, service.key.port)), entry.ring.size);
    let slot = client.port.filter(|_| entry.ring.size > 0).map(to_slot);
    let chosen = slot.map(|slot| at(picture, service, &entry, &endpoints, slot));
    let no_ring = (entry.ring.size == 0).then_some(DropReason::NoBackend);
    let drop = no_ring.or_else(|| match chosen? {
        Ok(row) if row.hop_known => None,
        Ok(_) => Some(DropReason::NoNextHop),
        Err(reason) => Some(reason),
    });
    let ports = match client.port {
        None if entry.ring.size > 0 => share_ports(
            (1..=u16::MAX).map(|port| at(picture, service, &entry, &endpoints, to_slot(port)).ok()),
        ),
        _ => Vec::new(),
    };
    Ok(Explanation {
        client: client.ip,
        client_port: client.port,
        vip: service.vip(),
        port: Some(service.key.port),
        protocol: service.protocol_name(),
        not_steered: None,
        service: service.name(),
        port_name: service.table.map(|table| Arc::clone(&table.port_name)),
        ring_size: entry.ring.size,
        slot,
        backend: chosen.and_then(Result::ok).cloned(),
        drop: drop.map(Drop::from),
        ports,
        shards: shards(picture, service),
        endpoints,
        differences: service.differences(),
    })
}

/// What the program hashes.
fn flow(client: IpAddr, client_port: u16, port: u16) -> Flow {
    let ([a, b], [c, d]) = (client_port.to_be_bytes(), port.to_be_bytes());
    Flow { client: client.into(), ports: [a, b, c, d] }
}

/// The endpoint that a slot names.
fn at<'r>(
    picture: &Picture<'_>,
    service: &Service<'_>,
    entry: &ServiceEntry,
    endpoints: &'r [BackendRow],
    slot: u32,
) -> Result<&'r BackendRow, DropReason> {
    let ring = picture.ring(entry);
    let slot = ring.get(slot as usize).ok_or(DropReason::Inconsistent)?;
    let member = service.at(entry.backends + u32::from(slot.current)).ok_or(DropReason::NoBackend)?;
    let row = endpoints.iter().find(|row| row.installed && row.address == Some(member.outer));
    row.ok_or(DropReason::NoBackend)
}

fn share_ports<'r>(choices: impl Iterator<Item = Option<&'r BackendRow>>) -> Vec<Ports> {
    let mut counts: Vec<(Option<&BackendRow>, u32)> = Vec::new();
    let same = |a: Option<&BackendRow>, b: Option<&BackendRow>| match (a, b) {
        (Some(a), Some(b)) => std::ptr::eq(a, b),
        (a, b) => a.is_none() && b.is_none(),
    };
    for choice in choices {
        match counts.iter_mut().find(|(known, _)| same(*known, choice)) {
            Some((_, count)) => *count += 1,
            None => counts.push((choice, 1)),
        }
    }
    counts.sort_by_key(|(row, count)| (std::cmp::Reverse(*count), row.and_then(|row| row.address)));
    let total = f64::from(u16::MAX);
    let ports = |(row, count): (Option<&BackendRow>, u32)| Ports {
        address: row.and_then(|row| row.address),
        pod: row.and_then(|row| row.pod.clone()),
        cluster: row.and_then(|row| row.cluster.clone()),
        ports: count,
        share: f64::from(count) / total,
    };
    counts.into_iter().map(ports).collect()
}

fn shards(picture: &Picture<'_>, service: &Service<'_>) -> Vec<Shard> {
    let mut shards: Vec<Shard> = service
        .table
        .into_iter()
        .flat_map(|table| &table.shards)
        .map(|report| Shard {
            region: picture.places.region(&report.cluster),
            zone: picture.places.zone(&report.cluster),
            report: report.clone(),
        })
        .collect();
    shards.sort_by_key(|shard| shard.report.distance);
    shards
}

/// What a VIP and port are.
enum Found<'s, 'a> {
    Service(&'s Service<'a>),
    /// No service: what becomes of the packet, and why.
    Nothing {
        drop: Option<DropReason>,
        why: String,
    },
}

/// The service that is meant.
fn find<'s, 'a>(picture: &Picture<'_>, all: &'s [Service<'a>], vip: Vip) -> Result<Found<'s, 'a>> {
    let here: Vec<&Service<'_>> = all.iter().filter(|service| service.vip() == vip.ip).collect();
    let fits = |service: &&&Service<'_>| {
        vip.port.is_none_or(|port| port == service.key.port)
            && vip.protocol.is_none_or(|protocol| Some(protocol) == service.protocol())
    };
    let mut meant: Vec<&Service<'_>> = here.iter().filter(fits).copied().collect();
    // Without a protocol TCP is meant, where there is a choice.
    if vip.protocol.is_none() && (vip.port.is_some() || meant.len() > 1) {
        meant.retain(|service| service.protocol() == Some(Protocol::Tcp));
    }
    let served: Vec<String> =
        here.iter().map(|service| format!("{}/{}", service.key.port, service.protocol_name())).collect();
    match meant.as_slice() {
        [service] => Ok(Found::Service(service)),
        [] if here.is_empty() => Ok(Found::Nothing { drop: None, why: no_vip(picture, vip.ip) }),
        [] => Ok(not_served(picture, vip, &served)),
        _ => bail!("{} has several ports: name one of {}", vip.ip, served.join(", ")),
    }
}

fn no_vip(picture: &Picture<'_>, vip: IpAddr) -> String {
    let vips: Vec<String> = picture.vips().map(|vip| vip.to_string()).collect();
    match vips.as_slice() {
        [] => format!("{vip} is no VIP: no service is steered here"),
        [only] => format!("{vip} is no VIP; there is {only}"),
        _ if vips.len() > 10 => format!("{vip} is no VIP; `fairlead services` lists them"),
        _ => format!("{vip} is no VIP; there are {}", vips.join(", ")),
    }
}

fn not_served(picture: &Picture<'_>, vip: Vip, served: &[String]) -> Found<'static, 'static> {
    let protocol = vip.protocol.unwrap_or(Protocol::Tcp);
    let port = vip.port.map_or_else(String::new, |port| format!(" port {port}"));
    let flags = picture.vip_entry(vip.ip).map_or(0, |entry| entry.flags);
    let drop = (flags & ServiceEntry::PASS_UNSERVED == 0).then_some(DropReason::PortNotServed);
    let fate = match drop {
        None => "packets go up to the gateway's own stack".to_owned(),
        Some(reason) => format!("packets are dropped ({})", reason.name()),
    };
    let (are, served) = (if served.len() == 1 { "is" } else { "are" }, served.join(", "));
    let why = format!("{}{port} is not served over {protocol}: {fate}; there {are} {served}", vip.ip);
    Found::Nothing { drop, why }
}

impl Explanation {
    fn not_steered(client: Client, vip: Vip, drop: Option<DropReason>, why: String) -> Self {
        Self {
            client: client.ip,
            client_port: client.port,
            vip: vip.ip,
            port: vip.port,
            protocol: vip.protocol.unwrap_or(Protocol::Tcp).to_string(),
            not_steered: Some(why),
            service: None,
            port_name: None,
            ring_size: 0,
            slot: None,
            backend: None,
            drop: drop.map(Drop::from),
            ports: Vec::new(),
            shards: Vec::new(),
            endpoints: Vec::new(),
            differences: Vec::new(),
        }
    }

    fn text(&self, colour: bool) -> String {
        let client = Client { ip: self.client, port: self.client_port };
        let vip = Client { ip: self.vip, port: self.port };
        let name = self.service.as_deref().unwrap_or("(the agent's state doesn't know it)");
        let mut text = format!("{client} to {vip}/{} is service {name}\n", self.protocol);
        text += &self.way(colour);
        for difference in &self.differences {
            text += &Style::Warning
                .paint(&format!("the maps and the agent's state differ: {difference}\n"), colour);
        }
        if !self.ports.is_empty() {
            text += &("\n".to_owned() + &self.port_table(colour));
        }
        if !self.shards.is_empty() {
            text += &("\n".to_owned() + &self.shard_table(colour));
        }
        if !self.endpoints.is_empty() {
            text += &("\n".to_owned() + &backend_table(&self.endpoints, colour));
        }
        text + "\n"
    }

    /// Slot and backend.
    fn way(&self, colour: bool) -> String {
        let mut text = match self.slot {
            Some(slot) => format!("slot {slot} of {}", self.ring_size),
            None if self.ring_size > 0 => {
                format!("a ring of {} slots; the client's port decides which one\n", self.ring_size)
            }
            None => String::new(),
        };
        if let Some(row) = &self.backend {
            let of = |text: &Option<Arc<str>>| text.clone().unwrap_or_else(|| Arc::from("?"));
            let way = format!(
                " goes to {} (pod {}, cluster {}, {}), {}",
                Style::Good.paint(&row.address.map(|ip| ip.to_string()).unwrap_or_default(), colour),
                of(&row.pod),
                of(&row.cluster),
                row.distance.as_deref().unwrap_or("distance unknown"),
                row.encapsulation.unwrap_or("no encapsulation"),
            );
            text += &way;
        }
        if self.slot.is_some() {
            text += "\n";
        }
        if let Some(drop) = &self.drop {
            let line = format!("packets are dropped ({}): {}\n", drop.reason, drop.description);
            text += &Style::Bad.paint(&line, colour);
        }
        text
    }

    fn port_table(&self, colour: bool) -> String {
        let mut table = Table::new(&["ADDRESS", "POD", "CLUSTER", ">CLIENT PORTS", ">SHARE"]).indent(2);
        for row in &self.ports {
            table.row(vec![
                Cell::maybe(row.address),
                Cell::maybe(row.pod.as_ref()),
                Cell::maybe(row.cluster.as_ref()),
                Cell::new(row.ports),
                Cell::new(percent(row.share)),
            ]);
        }
        table.render(colour)
    }

    fn shard_table(&self, colour: bool) -> String {
        let mut table = Table::new(&[
            "SHARD",
            "ZONE",
            "DISTANCE",
            ">ENDPOINTS",
            ">READY",
            ">USABLE",
            ">CAPACITY",
            ">SHARE",
            "STATE",
        ])
        .indent(2);
        for Shard { zone, report, .. } in &self.shards {
            let state = match report.reachable {
                true => report.state.to_string(),
                false => format!("{}, source unreachable", report.state),
            };
            let style = if report.share.0 > 0 { Style::Good } else { Style::Dim };
            table.row(vec![
                Cell::new(&report.cluster),
                Cell::maybe(zone.as_ref()),
                Cell::new(report.distance),
                Cell::new(report.endpoints),
                Cell::new(report.ready),
                Cell::new(report.usable),
                Cell::maybe(report.capacity),
                Cell::new(report.share),
                Cell::new(state).style(style),
            ]);
        }
        table.render(colour)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::sample::{Fixed, SEED, Sample};
    use super::*;

    fn explained(sample: &Sample, client: &str, vip: &str) -> Result<Explanation> {
        explanation(&sample.picture(), SEED, client.parse().unwrap(), vip.parse().unwrap(), &Fixed)
    }

    #[test]
    fn a_connection_goes_where_its_slot_points() {
        let sample = Sample::new();
        let found = explained(&sample, "192.0.2.7:43210", "203.0.113.10:80").unwrap();
        let flow = Flow { client: found.client.into(), ports: [0xa8, 0xca, 0, 80] };
        let slot = slot_of(flow_hash(SEED, &flow), 251);
        assert_eq!((found.slot, found.ring_size), (Some(slot), 251));
        let picture = sample.picture();
        let services = picture.services();
        let web = services.iter().find(|service| service.key.port == 80).unwrap();
        let entry = web.entry.unwrap();
        let local = sample.slots[(entry.ring.first_slot + slot) as usize].current;
        let outer: IpAddr = sample.backends[(entry.backends + u32::from(local)) as usize].outer.into();
        let json = serde_json::to_value(&found).unwrap();
        assert_eq!(json["backend"]["address"], outer.to_string());
        assert_eq!(json["backend"]["cluster"], "eu-b");
        assert_eq!(json["service"], "shop/web");
        assert_eq!(json["slot"], slot);
        assert_eq!(json["drop"], serde_json::Value::Null);
        assert!(found.differences.is_empty(), "{:?}", found.differences);
    }

    #[test]
    fn every_endpoint_not_taken_has_its_reason() {
        let found = explained(&Sample::new(), "192.0.2.7:1", "203.0.113.10").unwrap();
        let reasons: BTreeMap<String, String> = found
            .endpoints
            .iter()
            .map(|row| (row.address.unwrap().to_string(), row.reason.clone()))
            .collect();
        let expected = [
            ("10.1.0.1", "standby, closer shards have room"),
            ("10.2.0.1", "taken"),
            ("10.2.0.2", "taken"),
            ("10.2.0.3", "taken"),
            ("10.2.0.4", "its probes fail"),
            ("10.2.0.5", "its node has no receiver"),
        ];
        assert_eq!(reasons, expected.map(|(a, b)| (a.to_owned(), b.to_owned())).into());
        let states: Vec<String> =
            found.shards.iter().map(|s| format!("{} {}", s.report.cluster, s.report.state)).collect();
        assert_eq!(states, ["eu-b serving", "us-a standby"]);
    }

    #[test]
    fn without_a_client_port_all_ports_are_shared_out() {
        let found = explained(&Sample::new(), "192.0.2.7", "203.0.113.10").unwrap();
        assert_eq!((found.slot, found.backend.is_none()), (None, true));
        assert_eq!(found.ports.iter().map(|row| row.ports).sum::<u32>(), 65535);
        assert_eq!(found.ports.len(), 3);
        assert!(found.ports.iter().all(|row| (0.30..0.37).contains(&row.share)), "{:?}", found.ports);
    }

    #[test]
    fn where_maps_and_state_differ_the_maps_win() {
        let mut sample = Sample::new();
        for table in &mut sample.tables {
            table.backends.retain(|backend| backend.outer != IpAddr::from([10, 2, 0, 1]));
        }
        let ports = 1..2000u16;
        let found = ports
            .map(|port| explained(&sample, &format!("192.0.2.7:{port}"), "203.0.113.10").unwrap())
            .find(|found| found.backend.as_ref().unwrap().address == Some([10, 2, 0, 1].into()))
            .expect("a third of the flows go there");
        assert_eq!(found.backend.as_ref().unwrap().pod, None);
        assert_eq!(found.differences, ["10.2.0.1 holds slots, the agent's state doesn't know it"]);
        assert!(found.text(false).contains("the maps and the agent's state differ: 10.2.0.1 holds slots"));
    }

    #[test]
    fn what_is_dropped_says_why() {
        let found = explained(&Sample::new(), "192.0.2.7:1", "203.0.113.11").unwrap();
        assert_eq!((found.protocol.as_str(), found.port), ("udp", Some(53)), "the only port of that VIP");
        assert_eq!(found.drop.as_ref().map(|drop| drop.reason), Some("no_backend"));
        assert!(
            found.text(false).contains("packets are dropped (no_backend): The service has no backend.\n")
        );
        let mut sample = Sample::new();
        sample.hops.fill(fairlead_abi::Hop::default());
        let found = explained(&sample, "192.0.2.7:1", "203.0.113.10").unwrap();
        assert_eq!(found.drop.map(|drop| drop.reason), Some("no_next_hop"));
    }

    #[test]
    fn what_is_not_steered_says_what_is() {
        let told = |sample: &Sample, vip| {
            let found = explained(sample, "192.0.2.7:1", vip).unwrap();
            (found.not_steered.clone().unwrap(), serde_json::to_value(&found).unwrap())
        };
        let sample = Sample::new();
        let (why, json) = told(&sample, "203.0.113.12:80");
        assert_eq!(why, "203.0.113.12 is no VIP; there are 203.0.113.10, 203.0.113.11");
        assert_eq!((&json["drop"], &json["service"]), (&serde_json::Value::Null, &serde_json::Value::Null));
        let (why, json) = told(&sample, "203.0.113.10:443");
        assert_eq!(
            why,
            "203.0.113.10 port 443 is not served over tcp: packets are dropped (port_not_served); there is 80/tcp"
        );
        assert_eq!((&json["drop"]["reason"], &json["port"]), (&"port_not_served".into(), &443.into()));
        assert_eq!(json["not_steered"], why);
        let (_, json) = told(&sample, "203.0.113.10/udp");
        assert_eq!((&json["port"], &json["protocol"]), (&serde_json::Value::Null, &"udp".into()));
        let two_versions = explained(&sample, "2001:db8::7", "203.0.113.10").unwrap_err().to_string();
        assert_eq!(two_versions, "2001:db8::7 and 203.0.113.10 are of different IP versions");
    }

    #[test]
    fn people_read_it_top_down() {
        let found = explained(&Sample::new(), "192.0.2.7:43210", "203.0.113.10").unwrap();
        let text = found.text(false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "192.0.2.7:43210 to 203.0.113.10:80/tcp is service shop/web");
        let row = found.backend.as_ref().unwrap();
        let (slot, address, pod) = (found.slot.unwrap(), row.address.unwrap(), row.pod.as_ref().unwrap());
        assert_eq!(
            lines[1],
            format!("slot {slot} of 251 goes to {address} (pod {pod}, cluster eu-b, same zone), ipip")
        );
        assert_eq!(lines[3], "  SHARD  ZONE  DISTANCE   ENDPOINTS  READY  USABLE  CAPACITY    SHARE  STATE");
        assert_eq!(
            lines[4],
            "  eu-b   b     same zone          4      4       3         -  100.0 %  serving"
        );
        assert_eq!(
            lines[5],
            "  us-a   a     100 away           1      1       1         -    0.0 %  standby"
        );
    }
}
