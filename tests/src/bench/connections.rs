//! What it costs that the endpoint decides: packets that the flow cache is asked for, that come back to a gateway, and that a
//! receiver knows or not. Nanoseconds as in `packets`, beside the same floor.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, ensure};
use aya::maps::HashMap;
use aya::maps::lpm_trie::{Key, LpmTrie};
use fairlead::dataplane::{FlowCache, Place};
use fairlead_abi::{
    Address, Delivery, DeliveryKey, Family, Flow, FlowEntry, FlowEvent, FlowKey, FlowState, ServiceKey, kind,
    map, protocol, slot_hash,
};
use fairlead_core::model::ServerId;
use fairlead_core::planner::Action;
use serde::Serialize;

use super::case::{Case, PASS, TRANSMIT, Tunnel};
use super::fleet::{CLUSTERS, ENDPOINTS, Kind, PORT, vip_v4, vip_v6};
use super::packets::{Effort, FLOWS, INGRESS, Side, Times, Turns, attach};
use super::plane::{OWN, Plane, RING, SEED, Sizes};
use super::records::Record;

/// The program that packets in tunnels come to.
const TUNNEL: &str = "bench_tunnel";
/// Parts of the slots that the cache may hold something of, in percent.
const MARKED: [u32; 3] = [1, 10, 100];
/// Backends of a service.
const BACKENDS: u16 = CLUSTERS * ENDPOINTS;
/// Clients from here on only mark slots.
const OTHERS: u32 = 1 << 21;
/// An endpoint of this node, a gateway elsewhere, and the port that the endpoint has.
const ENDPOINT: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(10, 255, 0, 1), Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 1));
const GATEWAY: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(198, 51, 100, 1), Ipv6Addr::new(0x2001, 0xdb8, 0xfe, 0, 0, 0, 0, 1));
const ENDPOINT_PORT: u16 = 8080;

/// One combination's times.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    case: &'static str,
    flows: u32,
    /// Of the service's slots, in percent, those that the cache may hold something of.
    marked: u32,
    #[serde(flatten)]
    times: Times,
}

impl Row {
    pub(super) fn case(&self) -> &str {
        self.case
    }

    pub(super) fn flows(&self) -> u32 {
        self.flows
    }

    pub(super) fn ratio(&self) -> f64 {
        self.times.ratio_min
    }

    /// As a line of the table.
    pub(super) fn columns(&self) -> [String; 7] {
        let [min, median, floor, ratio] = self.times.columns();
        [self.case.to_owned(), self.flows.to_string(), self.marked.to_string(), min, median, floor, ratio]
    }
}

/// What is measured on tables of its own, of what services, and how large they are.
pub(super) struct Part {
    pub(super) kind: Kind,
    pub(super) sizes: Sizes,
    pub(super) measure: fn(&mut Plane, Effort) -> Result<Vec<Row>>,
}

/// All of it: what a gateway does with its cache, with QUIC, and with packets in tunnels.
pub(super) const PARTS: [Part; 5] = [
    // An agent's sizes, if its configuration doesn't say another.
    Part { kind: Kind::Everything, sizes: Sizes { flows: 1024, cache: 1 << 17 }, measure: misses },
    // So large that next to no bucket is full of a million flows.
    Part { kind: Kind::Everything, sizes: Sizes { flows: 1024, cache: 1 << 19 }, measure: hits },
    Part { kind: Kind::Quic, sizes: Sizes::SMALL, measure: named },
    Part {
        kind: Kind::Everything,
        sizes: Sizes { flows: 1 << 20, cache: 16 },
        measure: |plane, effort| tunnels(plane, effort, false),
    },
    Part {
        kind: Kind::Everything,
        sizes: Sizes { flows: 1 << 20, cache: 16 },
        measure: |plane, effort| tunnels(plane, effort, true),
    },
];

/// How a program is measured.
struct Measured {
    name: &'static str,
    program: &'static str,
    verdict: usize,
    /// What is counted of every packet, too.
    event: Option<FlowEvent>,
    tunnel: Option<Tunnel>,
}

impl Measured {
    /// `effort` of it on the tables as they are.
    fn row(&self, plane: &mut Plane, (case, flows, marked): (Case, u32, u32), effort: Effort) -> Result<Row> {
        let (record, frame) = match &self.tunnel {
            Some(tunnel) => (Record::in_tunnel(case, tunnel, flows), tunnel.frame(case).to_vec()),
            None => (Record::new(case, flows, 1), case.frame().to_vec()),
        };
        let mut turns = Turns::new(Side::new(self.program, self.verdict, record, &frame), case, flows, 1);
        let before = self.events(plane)?;
        for _ in 0..effort.passes {
            turns
                .measure(&mut plane.dataplane, effort)
                .with_context(|| format!("{} of {flows} flows", self.name))?;
        }
        let (events, packets) = (self.events(plane)? - before, turns.packets());
        // A full bucket of the cache has no room for one in some thousands.
        ensure!(
            self.event.is_none() || events >= packets / 1000 * 995,
            "{}: {events} of {packets} packets",
            self.name
        );
        Ok(Row { case: self.name, flows, marked, times: turns.times() })
    }

    fn events(&self, plane: &Plane) -> Result<u64> {
        let Some(event) = self.event else { return Ok(0) };
        Ok(plane.dataplane.counters()?.events(event)?)
    }
}

/// The gateway's program, while the cache holds nothing of its packets' flows, in ever more of their slots.
fn misses(plane: &mut Plane, effort: Effort) -> Result<Vec<Row>> {
    attach(&mut plane.dataplane, INGRESS)?;
    let mut cache = plane.dataplane.take_cache(SEED)?.context("the cache is there")?;
    let mut rows = Vec::new();
    for (name, v6) in [("cache_miss4", false), ("cache_miss6", true)] {
        let miss = Measured { name, program: INGRESS, verdict: TRANSMIT, event: None, tunnel: None };
        let case = Case::tcp(v6);
        let (mut marked, mut others) = (BTreeSet::new(), OTHERS..);
        for part in MARKED {
            while marked.len() < (RING * part).div_ceil(100) as usize {
                let other = others.next().context("there are more clients")?;
                marked.insert(remember(plane, &mut cache, case, other)?);
            }
            for flows in FLOWS {
                rows.push(miss.row(plane, (case, flows, part), effort)?);
            }
        }
    }
    Ok(rows)
}

/// The same while it holds all of them.
fn hits(plane: &mut Plane, effort: Effort) -> Result<Vec<Row>> {
    attach(&mut plane.dataplane, INGRESS)?;
    let mut cache = plane.dataplane.take_cache(SEED)?.context("the cache is there")?;
    let mut rows = Vec::new();
    for (name, v6) in [("cache_hit4", false), ("cache_hit6", true)] {
        let event = Some(FlowEvent::Guess);
        let hit = Measured { name, program: INGRESS, verdict: TRANSMIT, event, tunnel: None };
        let case = Case::tcp(v6);
        let mut known = 0;
        for flows in FLOWS {
            for client in known..flows {
                remember(plane, &mut cache, case, client)?;
            }
            known = flows;
            rows.push(hit.row(plane, (case, flows, 100), effort)?);
        }
    }
    Ok(rows)
}

/// Packets of QUIC whose connection ID names their server.
fn named(plane: &mut Plane, effort: Effort) -> Result<Vec<Row>> {
    attach(&mut plane.dataplane, INGRESS)?;
    let mut rows = Vec::new();
    for (name, v6) in [("quic_cid4", false), ("quic_cid6", true)] {
        let key = ServiceKey { protocol: protocol::UDP, ..service(v6) };
        let (_, backend) = plane.installed.backends_of(&key).last().context("the service has backends")?;
        let case = Case::quic(v6, ServerId::of(backend.outer.into()));
        let event = Some(FlowEvent::NamedServer);
        let named = Measured { name, program: INGRESS, verdict: TRANSMIT, event, tunnel: None };
        for flows in FLOWS {
            rows.push(named.row(plane, (case, flows, 0), effort)?);
        }
    }
    Ok(rows)
}

/// Puts a client's flow into the cache: its slot.
fn remember(plane: &Plane, cache: &mut FlowCache, case: Case, client: u32) -> Result<u32> {
    let (key, flow) =
        (service(case.is_v6()), Flow { client: case.client(client).into(), ports: case.ports() });
    let (id, slot, _) =
        plane.installed.place(&key, slot_hash(SEED, &flow, 0), None).context("the service has slots")?;
    let current = plane.dataplane.slots().block(slot, 1).first().context("its slots are there")?.current;
    let place = Place { service: id, slot, backend: (current + 1) % BACKENDS };
    cache.insert((key, flow), place, true)?;
    Ok(slot)
}

/// Packets in tunnels: such as come back to a gateway, which sends them on, and a receiver's.
fn tunnels(plane: &mut Plane, effort: Effort, v6: bool) -> Result<Vec<Row>> {
    attach(&mut plane.dataplane, TUNNEL)?;
    let case = Case::tcp(v6);
    let either = |(v4, v6_one): (Ipv4Addr, Ipv6Addr)| if v6 { IpAddr::V6(v6_one) } else { v4.into() };
    let (endpoint, gateway, own) = (either(ENDPOINT), either(GATEWAY), either(OWN));
    let tunnel = |from, to, kind, bounced| Some(Tunnel { from, to, kind, bounced });
    let measured = |name, verdict, event, tunnel| Measured { name, program: TUNNEL, verdict, event, tunnel };
    let [back, unknown, known, marked] = if v6 {
        ["bounce6", "receiver_unknown6", "receiver_known6", "receiver_marked6"]
    } else {
        ["bounce4", "receiver_unknown4", "receiver_known4", "receiver_marked4"]
    };
    let to_here = |kind| tunnel(gateway, endpoint, kind, false);
    let back = measured(back, TRANSMIT, Some(FlowEvent::SentOn), tunnel(endpoint, own, kind::CURRENT, true));
    let unknown = measured(unknown, TRANSMIT, Some(FlowEvent::Bounced), to_here(kind::CURRENT));
    let known = measured(known, PASS, None, to_here(kind::UNMARKED));
    let marked = measured(marked, PASS, None, to_here(kind::CURRENT));
    give_formers(plane, &service(v6))?;
    deliver(plane, v6, endpoint, gateway)?;
    let mut rows = Vec::new();
    for measured in [back, unknown] {
        for flows in FLOWS {
            rows.push(measured.row(plane, (case, flows, 0), effort)?);
        }
    }
    let mut so_far = 0;
    for flows in FLOWS {
        establish(plane, case, endpoint, so_far..flows)?;
        so_far = flows;
        for measured in [&known, &marked] {
            rows.push(measured.row(plane, (case, flows, 0), effort)?);
        }
    }
    Ok(rows)
}

fn service(v6: bool) -> ServiceKey {
    let (vip, family) =
        if v6 { (IpAddr::V6(vip_v6(0)), Family::V6) } else { (IpAddr::V4(vip_v4(0)), Family::V4) };
    ServiceKey::new(vip.into(), PORT, protocol::TCP, family)
}

/// Each slot of the service gets a former backend.
fn give_formers(plane: &mut Plane, key: &ServiceKey) -> Result<()> {
    let (_, first, _) = plane.installed.place(key, 0, None).context("the service has slots")?;
    let slots = plane.dataplane.slots().block(first, RING).into_owned();
    for (index, mut slot) in (first..).zip(slots) {
        slot.formers[0] = (slot.current + 1) % BACKENDS;
        plane.dataplane.apply(&Action::SetSlot { index, slot })?;
    }
    Ok(())
}

/// The endpoint is one of this node's, and takes the service's packets from the gateway.
fn deliver(plane: &mut Plane, v6: bool, endpoint: IpAddr, gateway: IpAddr) -> Result<()> {
    let key = service(v6);
    let outer = Address::from(endpoint);
    let about = DeliveryKey {
        outer,
        vip: key.vip,
        port: key.port.to_be_bytes(),
        protocol: key.protocol,
        family: key.family,
        padding: 0,
    };
    let delivery =
        Delivery { endpoint: outer, port: ENDPOINT_PORT.to_be_bytes(), mss: 1400, ..Delivery::default() };
    let mut deliveries =
        HashMap::<_, DeliveryKey, Delivery>::try_from(plane.dataplane.map_mut(map::DELIVERIES)?)?;
    deliveries.insert(about, delivery, 0)?;
    deliveries.insert(DeliveryKey::endpoint_only(outer), Delivery::default(), 0)?;
    let mut gateways = LpmTrie::<_, [u8; 16], u32>::try_from(plane.dataplane.map_mut(map::GATEWAYS)?)?;
    Ok(gateways.insert(&Key::new(128, Address::from(gateway).bytes), 1, 0)?)
}

/// The endpoint has connections of these clients.
fn establish(plane: &mut Plane, case: Case, endpoint: IpAddr, clients: std::ops::Range<u32>) -> Result<()> {
    let seen = plane.dataplane.ticks()?.into();
    let mut flows = HashMap::<_, FlowKey, FlowEntry>::try_from(plane.dataplane.map_mut(map::FLOWS)?)?;
    let [a, b, ..] = case.ports();
    for client in clients {
        let key = FlowKey {
            endpoint: endpoint.into(),
            client: case.client(client).into(),
            endpoint_port: ENDPOINT_PORT.to_be_bytes(),
            client_port: [a, b],
            protocol: protocol::TCP,
            padding: [0; 3],
        };
        let entry = FlowEntry {
            vip: service(endpoint.is_ipv6()).vip,
            port: PORT.to_be_bytes(),
            mss: 1400,
            state: FlowState::Established as u8,
            seen,
            ..FlowEntry::default()
        };
        flows.insert(key, entry, 0)?;
    }
    Ok(())
}
