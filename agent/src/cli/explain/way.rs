//! The way of a connection: the hash of its flow gives a slot, the slot a backend.
//!
//! It is computed as the program does it, on the pinned maps. Names and reasons come from the agent's state; where it
//! contradicts the maps, the maps are right.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Result, bail};
use fairlead_abi::{DropReason, Flow, ServiceEntry, slot_hash, slot_of};
use fairlead_core::{model::Protocol, planner::ShardReport};

use super::meant::{Found, find};
use super::tries::{Tried, tried};
use super::{Drop, Explanation, Ports, Shard};
use crate::cli::address::{Client, Vip};
use crate::cli::picture::{Numbers, Picture, Service};
use crate::cli::row::BackendRow;
#[cfg(test)]
use crate::cli::sample::{Fixed, SEED, Sample};

/// Where a connection goes on the maps of `picture`; without a client's port, where each of its ports does.
pub(super) fn explanation(
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
    let is_allowed =
        service.allowed.as_ref().is_none_or(|ranges| ranges.iter().any(|range| range.contains(&client.ip)));
    let refused = if !is_allowed {
        Some(DropReason::NotAllowed)
    } else {
        (!can_be_client(client.ip, vip.ip)).then_some(DropReason::BadSource)
    };
    let has_slot = refused.is_none() && entry.ring.size > 0;
    let hash = |port| slot_hash(seed, &flow(client.ip, port, service.key.port), entry.flags);
    let to_slot = |port| slot_of(hash(port), entry.ring.size);
    let by_client = entry.flags & ServiceEntry::BY_CLIENT != 0;
    let slot = client.port.or(by_client.then_some(0)).filter(|_| has_slot).map(to_slot);
    let chosen = slot.map(|slot| at(picture, service, &entry, &endpoints, slot));
    let to_try = slot.zip(client.port).and_then(|(slot, port)| {
        let at = *picture.ring(&entry).get(slot as usize)?;
        let index = entry.ring.first_slot + slot;
        let flow = flow(client.ip, port, service.key.port);
        Some(tried(picture, (service, &entry), (at, index), (seed, &flow)))
    });
    let (formers, cache, ways) = match to_try {
        Some(Tried { formers, cache, ways }) => (formers, Some(cache), ways),
        None => (Vec::new(), None, Vec::new()),
    };
    let no_ring = (entry.ring.size == 0).then_some(DropReason::NoBackend);
    let drop = refused.or(no_ring).or_else(|| match chosen? {
        Ok(row) if row.hop_known => None,
        Ok(_) => Some(DropReason::NoNextHop),
        Err(reason) => Some(reason),
    });
    let ports = match client.port {
        None if has_slot => share_ports(
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
        by_client,
        allowed: service.allowed.clone(),
        slot,
        backend: chosen.and_then(Result::ok).cloned(),
        formers,
        cache,
        ways,
        drop: drop.map(Drop::from),
        ports,
        shards: shards(picture, service),
        endpoints,
        differences: service.differences(),
    })
}

/// As the program sees it: a source of multicast, broadcast, loopback or no address, or the VIP itself, is forged.
fn can_be_client(client: IpAddr, vip: IpAddr) -> bool {
    let is_host = match client {
        IpAddr::V4(v4) => !matches!(v4.octets()[0], 0 | 127 | 224..),
        IpAddr::V6(v6) => !(v6.is_multicast() || v6.is_loopback() || v6.is_unspecified()),
    };
    is_host && client != vip
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
    let mut counts: BTreeMap<Option<IpAddr>, (Option<&BackendRow>, u32)> = BTreeMap::new();
    for row in choices {
        counts.entry(row.and_then(|row| row.address)).or_insert((row, 0)).1 += 1;
    }
    let total = f64::from(u16::MAX);
    let ports = |(address, (row, count)): (Option<IpAddr>, (Option<&BackendRow>, u32))| Ports {
        address,
        pod: row.and_then(|row| row.pod.clone()),
        cluster: row.and_then(|row| row.cluster.clone()),
        ports: count,
        share: f64::from(count) / total,
    };
    let mut shares: Vec<Ports> = counts.into_iter().map(ports).collect();
    // Equal ones stay in the order of their addresses.
    shares.sort_by_key(|row| std::cmp::Reverse(row.ports));
    shares
}

fn shards(picture: &Picture<'_>, service: &Service<'_>) -> Vec<Shard> {
    let mut reports: Vec<_> = service.table.into_iter().flat_map(|table| &table.shards).collect();
    reports.sort_by_key(|report| report.distance);
    let shard = |report: &ShardReport| Shard {
        cluster: Arc::clone(&report.cluster),
        region: picture.places.region(&report.cluster),
        zone: picture.places.zone(&report.cluster),
        distance: report.distance.to_string(),
        reachable: report.reachable,
        endpoints: report.endpoints,
        ready: report.ready,
        usable: report.usable,
        capacity: report.capacity,
        share: report.share.percent() / 100.0,
        state: report.state,
    };
    reports.into_iter().map(shard).collect()
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
            by_client: false,
            allowed: None,
            slot: None,
            backend: None,
            formers: Vec::new(),
            cache: None,
            ways: Vec::new(),
            drop: drop.map(Drop::from),
            ports: Vec::new(),
            shards: Vec::new(),
            endpoints: Vec::new(),
            differences: Vec::new(),
        }
    }
}

/// Of the sample, as the command line names client and VIP.
#[cfg(test)]
pub(super) fn explained(sample: &Sample, client: &str, vip: &str) -> Result<Explanation> {
    explanation(&sample.picture(), SEED, client.parse().unwrap(), vip.parse().unwrap(), &Fixed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_goes_where_its_slot_points() {
        let sample = Sample::new();
        let found = explained(&sample, "192.0.2.7:43210", "203.0.113.10:80").unwrap();
        let flow = Flow { client: found.client.into(), ports: [0xa8, 0xca, 0, 80] };
        let slot = slot_of(slot_hash(SEED, &flow, 0), 251);
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
        let states: Vec<String> = found.shards.iter().map(|s| format!("{} {}", s.cluster, s.state)).collect();
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
    fn by_session_affinity_the_clients_address_decides() {
        let mut sample = Sample::new();
        for entry in sample.buckets.iter_mut().flat_map(|bucket| &mut bucket.entries) {
            entry.flags |= ServiceEntry::BY_CLIENT;
        }
        let found = explained(&sample, "192.0.2.7", "203.0.113.10").unwrap();
        let (slot, ports) = (found.slot.unwrap(), found.ports.len());
        assert_eq!((found.by_client, found.backend.is_some(), ports), (true, true, 1));
        let told =
            format!("slot {slot} of 251 by the client's address alone (sessionAffinity: ClientIP) goes to ");
        assert!(found.text(false).contains(&told), "{}", found.text(false));
        for port in [1, 2, 65535] {
            let found = explained(&sample, &format!("192.0.2.7:{port}"), "203.0.113.10").unwrap();
            assert_eq!((found.slot, found.text(false).contains(&told)), (Some(slot), true));
        }
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
    fn a_client_that_is_not_allowed_is_told_so_and_which_are() {
        let sample = Sample::restricted(&["192.0.2.0/25", "2001:db8::/32", "198.51.100.0/24"]);
        for client in ["192.0.2.128:7", "203.0.113.99", "127.0.0.1:7"] {
            let found = explained(&sample, client, "203.0.113.10").unwrap();
            let text = found.text(false);
            assert_eq!(found.drop.map(|drop| drop.reason), Some("not_allowed"), "{client}");
            assert!(found.slot.is_none() && found.backend.is_none() && found.ports.is_empty(), "{client}");
            let expected = "packets are dropped (not_allowed): From a client outside of all ranges that the service allows.\n  \
                            clients that are allowed (loadBalancerSourceRanges): 192.0.2.0/25, 198.51.100.0/24\n";
            assert!(text.contains(expected), "{client}: {text}");
        }
        let found = explained(&sample, "192.0.2.7:1", "203.0.113.10").unwrap();
        assert!(found.drop.is_none() && found.backend.is_some() && found.differences.is_empty());
        let mut sample = Sample::restricted(&["192.0.2.0/25"]);
        sample.allowed.clear();
        let found = explained(&sample, "192.0.2.7:1", "203.0.113.10").unwrap();
        assert_eq!(found.differences, ["lets in nobody, the agent's state says: 192.0.2.0/25"]);
        assert_eq!(found.drop.map(|drop| drop.reason), Some("not_allowed"), "the maps are right");
    }

    #[test]
    fn a_source_that_is_no_client_is_dropped_as_the_program_drops_it() {
        let dropped = ["127.0.0.1", "0.0.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "203.0.113.10"];
        for client in dropped.into_iter().flat_map(|ip| [format!("{ip}:7"), ip.to_owned()]) {
            let found = explained(&Sample::new(), &client, "203.0.113.10").unwrap();
            let text = found.text(false);
            assert_eq!(found.drop.map(|drop| drop.reason), Some("bad_source"), "{client}");
            assert!(found.slot.is_none() && found.backend.is_none() && found.ports.is_empty(), "{client}");
            let second = text.lines().nth(1).unwrap();
            assert!(second.starts_with("packets are dropped (bad_source): "), "{client}: {text}");
        }
        let (vip6, others) = ("2001:db8:a::1", ["::", "::1", "ff02::1", "2001:db8:a::1"]);
        let refused = |client: &str| !can_be_client(client.parse().unwrap(), vip6.parse().unwrap());
        assert!(others.into_iter().all(refused) && !refused("::2") && !refused("2001:db8::7"));
    }
}
