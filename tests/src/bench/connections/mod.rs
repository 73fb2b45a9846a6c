//! What it costs that the endpoint decides: packets that the flow cache is asked for, that come back to a gateway, and that a
//! receiver knows or not. Nanoseconds as in `packets`, beside the same floor.

mod fragments;
mod tunnels;

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use fairlead::dataplane::{FlowCache, Place};
use fairlead_abi::{Family, Flow, FlowEvent, ServiceKey, protocol, slot_hash};
use fairlead_core::model::ServerId;
use serde::Serialize;

use super::case::{Case, TRANSMIT, Tunnel};
use super::fleet::{CLUSTERS, ENDPOINTS, Kind, PORT, vip_v4, vip_v6};
use super::packets::{Effort, FLOWS, INGRESS, Side, Times, Turns, attach};
use super::plane::{Plane, RING, SEED, Sizes};
use super::records::Record;

/// Parts of the slots that the cache may hold something of, in percent.
const MARKED: [u32; 3] = [1, 10, 100];
/// Backends of a service.
const BACKENDS: u16 = CLUSTERS * ENDPOINTS;
/// Clients from here on only mark slots.
const OTHERS: u32 = 1 << 21;
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
pub(super) const PARTS: [Part; 6] = [
    // An agent's sizes, if its configuration doesn't say another.
    Part { kind: Kind::Everything, sizes: Sizes { cache: 1 << 17, ..Sizes::SMALL }, measure: misses },
    // So large that next to no bucket is full of a million flows.
    Part { kind: Kind::Everything, sizes: Sizes { cache: 1 << 19, ..Sizes::SMALL }, measure: hits },
    Part { kind: Kind::Quic, sizes: Sizes::SMALL, measure: named },
    Part {
        kind: Kind::Everything,
        sizes: Sizes { fragments: 2 * fragments::MOST, ..Sizes::SMALL },
        measure: fragments::measure,
    },
    Part {
        kind: Kind::Everything,
        sizes: Sizes { flows: 1 << 20, ..Sizes::SMALL },
        measure: |plane, effort| tunnels::measure(plane, effort, false),
    },
    Part {
        kind: Kind::Everything,
        sizes: Sizes { flows: 1 << 20, ..Sizes::SMALL },
        measure: |plane, effort| tunnels::measure(plane, effort, true),
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

fn service(v6: bool) -> ServiceKey {
    let (vip, family) =
        if v6 { (IpAddr::V6(vip_v6(0)), Family::V6) } else { (IpAddr::V4(vip_v4(0)), Family::V4) };
    ServiceKey::new(vip.into(), PORT, protocol::TCP, family)
}
