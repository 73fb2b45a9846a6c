//! `fairlead flows`: what there is beside the current backend of each slot.
//!
//! Slots and the flow cache are read from the pinned maps, who holds how many flows from what the agent last heard of
//! receivers.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Result;
use fairlead_abi::{CACHE_ENTRIES, FlowEvent, NO_BACKEND, ServiceKey};
use serde::Serialize;

use super::address::Named;
use super::node::{Freshness, Node, age_text};
use super::output::Output;
use super::picture::{Numbers, Picture, Service};
use super::services::chosen;
use super::table::{Cell, Style, Table};
use crate::status::Found;

/// How many endpoints a row names.
const NAMED: usize = 4;
/// How wide their list is before it goes on below.
const LIST: usize = 48;

/// What is shown.
#[derive(Debug, Serialize)]
struct Flows {
    #[serde(flatten)]
    freshness: Freshness,
    services: Vec<Row>,
    cache: Cache,
    events: Vec<Event>,
}

/// One port of a VIP.
#[derive(Debug, Serialize)]
struct Row {
    service: Option<String>,
    vip: IpAddr,
    port: u16,
    protocol: String,
    slots: Slots,
    /// Flows that all its endpoints hold, as their receivers counted; `None`: nothing was heard of any.
    held: Option<u64>,
    /// Those that something was heard of, the most first.
    endpoints: Vec<Holder>,
}

/// A ring's slots.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Slots {
    all: u32,
    /// With so many former backends.
    one_former: u32,
    two_formers: u32,
    three_formers: u32,
    /// The flow cache may hold flows of them.
    cached: u32,
}

/// What one endpoint holds.
#[derive(Debug, Serialize)]
struct Holder {
    address: IpAddr,
    /// Of the service, as in its row.
    port: u16,
    protocol: String,
    pod: Option<Arc<str>>,
    cluster: Option<Arc<str>>,
    flows: u64,
    /// How long ago they were counted, at most.
    age_seconds: u64,
}

/// The flow cache, of all services.
#[derive(Debug, Serialize)]
struct Cache {
    flows: usize,
    capacity: usize,
}

/// What became of packets whose flow the slot's current backend may not know.
#[derive(Debug, Serialize)]
struct Event {
    event: &'static str,
    description: &'static str,
    packets: u64,
}

/// Shows the flows of all services, or of those that `filter` means.
pub(super) fn flows(node: &Node, filter: Option<&Named>, output: Output) -> Result<()> {
    let (view, numbers) = (node.view()?, node.counters()?);
    let picture = node.picture(&view)?;
    let services = picture.services();
    let chosen = chosen(&picture, &services, filter)?;
    let document = Flows::of(&picture, &chosen, &node.counts(), &numbers, node.freshness())?;
    Ok(output.show(&document, Flows::text)?)
}

impl Flows {
    fn of(
        picture: &Picture<'_>,
        services: &[&Service<'_>],
        counts: &BTreeMap<(ServiceKey, IpAddr), Found>,
        numbers: &impl Numbers,
        freshness: Freshness,
    ) -> Result<Self> {
        let event = |&event: &FlowEvent| {
            let packets = numbers.events(event)?;
            Ok(Event { event: event.name(), description: event.description().trim(), packets })
        };
        let entries = picture.cache.buckets.len() * CACHE_ENTRIES as usize;
        Ok(Self {
            freshness,
            services: services.iter().map(|service| row(picture, service, counts)).collect(),
            cache: Cache { flows: picture.cache.flows(), capacity: entries },
            events: FlowEvent::ALL.iter().map(event).collect::<Result<_>>()?,
        })
    }

    fn text(&self, colour: bool) -> String {
        let mut table = Table::new(&[
            "SERVICE",
            "ADDRESS",
            ">SLOTS",
            ">1 FORMER",
            ">2 FORMERS",
            ">3 FORMERS",
            ">CACHED",
            ">HELD",
            "BY",
        ]);
        for row in &self.services {
            let address = std::net::SocketAddr::new(row.vip, row.port);
            let slots = &row.slots;
            table.row(vec![
                Cell::maybe(row.service.as_ref()),
                Cell::new(format!("{address}/{}", row.protocol)),
                Cell::new(slots.all),
                Cell::new(slots.one_former),
                Cell::new(slots.two_formers),
                Cell::new(slots.three_formers),
                Cell::new(slots.cached),
                Cell::maybe(row.held),
                row.held_by(),
            ]);
        }
        let services =
            if table.is_empty() { "no service is steered here\n".to_owned() } else { table.render(colour) };
        let mut events = Table::new(&["EVENT", ">PACKETS", "MEANING"]);
        for event in &self.events {
            let cells = vec![Cell::new(event.event), Cell::new(event.packets), Cell::new(event.description)];
            events.row(cells);
        }
        let Cache { flows, capacity } = self.cache;
        let ages = self.services.iter().flat_map(|row| &row.endpoints).map(|holder| holder.age_seconds);
        let counted = ages.max().map_or_else(
            || "nothing was heard of the flows that endpoints hold\n".to_owned(),
            |oldest| format!("flows held were counted within the last {}\n", age_text(oldest)),
        );
        format!(
            "{services}\n{}\nthe flow cache holds {flows} of {capacity}; {counted}{}",
            events.render(colour),
            Style::Dim.paint(&self.freshness.line(), colour)
        )
    }
}

impl Row {
    fn held_by(&self) -> Cell {
        let holders = || self.endpoints.iter().filter(|holder| holder.flows > 0);
        let name = |holder: &Holder| {
            let name = holder.pod.as_ref().map_or_else(|| holder.address.to_string(), ToString::to_string);
            format!("{name} {}", holder.flows)
        };
        let mut named: Vec<String> = holders().take(NAMED).map(name).collect();
        let more = holders().count().saturating_sub(NAMED);
        if more > 0 {
            named.push(format!("{more} more"));
        }
        if named.is_empty() { Cell::maybe(None::<u8>) } else { Cell::list(&named, LIST) }
    }
}

fn row(picture: &Picture<'_>, service: &Service<'_>, counts: &BTreeMap<(ServiceKey, IpAddr), Found>) -> Row {
    let holder = |member: &super::picture::Member<'_>| {
        let found = counts.get(&(service.key, member.outer))?;
        Some(Holder {
            address: member.outer,
            port: service.key.port,
            protocol: service.protocol_name(),
            pod: member.wanted.map(|wanted| Arc::clone(&wanted.pod)),
            cluster: member.wanted.and_then(|wanted| service.cluster(wanted)).cloned(),
            flows: found.flows,
            age_seconds: found.age.as_secs(),
        })
    };
    let mut endpoints: Vec<Holder> = service.members.iter().filter_map(holder).collect();
    endpoints.sort_by_key(|holder| (std::cmp::Reverse(holder.flows), holder.address));
    Row {
        service: service.name(),
        vip: service.vip(),
        port: service.key.port,
        protocol: service.protocol_name(),
        slots: slots(picture, service),
        held: (!endpoints.is_empty()).then(|| endpoints.iter().map(|holder| holder.flows).sum()),
        endpoints,
    }
}

fn slots(picture: &Picture<'_>, service: &Service<'_>) -> Slots {
    let Some(entry) = service.entry else { return Slots::default() };
    let mut slots = Slots { all: entry.ring.size, ..Slots::default() };
    for (index, slot) in (entry.ring.first_slot..).zip(picture.ring(&entry).iter()) {
        match slot.formers.iter().filter(|former| **former != NO_BACKEND).count() {
            0 => {}
            1 => slots.one_former += 1,
            2 => slots.two_formers += 1,
            _ => slots.three_formers += 1,
        }
        slots.cached += u32::from(picture.cache.may_hold(index));
    }
    slots
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fairlead_abi::{CacheBucket, Cached};

    use super::super::sample::{Fixed, Sample};
    use super::*;
    use crate::dataplane::CacheView;

    #[test]
    fn slots_cache_events_and_holders_are_counted() {
        let mut sample = Sample::new();
        let first = {
            let picture = sample.picture();
            picture
                .services()
                .iter()
                .find(|service| service.key.port == 80)
                .unwrap()
                .entry
                .unwrap()
                .ring
                .first_slot
        };
        for (slot, formers) in [(0, [1, NO_BACKEND, NO_BACKEND]), (1, [1, 2, NO_BACKEND]), (2, [1, 2, 0])] {
            sample.slots[first as usize + slot].formers = formers;
        }
        let (mut buckets, mut marks) = (vec![CacheBucket::default(); 4], vec![Cached::default(); 128]);
        (buckets[0].entries[3], buckets[2].entries[0]) = (1 << 16, 5 << 16);
        marks[Cached::element(first + 7) as usize].slots[(first + 7) as usize % Cached::SLOTS] = 1;
        let mut picture = sample.picture();
        picture.cache = CacheView { buckets: &buckets, marks: &marks };
        let services = picture.services();
        let web = chosen(&picture, &services, Some(&"web".parse().unwrap())).unwrap();
        let count = |last, flows| {
            let found = Found { flows, age: Duration::from_secs(7) };
            ((web[0].key, IpAddr::from([10, 2, 0, last])), found)
        };
        let counts = BTreeMap::from([count(1, 7), count(2, 0), count(3, 11)]);
        let freshness =
            Freshness { instance: "default".to_owned(), agent_running: true, state_age_seconds: Some(1) };
        let flows = Flows::of(&picture, &web, &counts, &Fixed, freshness).unwrap();
        let expected = Slots { all: 251, one_former: 1, two_formers: 1, three_formers: 1, cached: 1 };
        assert_eq!(flows.services[0].slots, expected);
        let text = flows.text(false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[..2],
            [
                "SERVICE   ADDRESS              SLOTS  1 FORMER  2 FORMERS  3 FORMERS  CACHED  HELD  BY",
                "shop/web  203.0.113.10:80/tcp    251         1          1          1       1    18  p3 11, p1 7",
            ]
        );
        assert!(text.contains("\nbounced             20  A receiver sent a packet back"), "{text}");
        assert!(
            text.contains("\nthe flow cache holds 2 of 32; flows held were counted within the last 7 s\n"),
            "{text}"
        );
        let json = serde_json::to_value(&flows).unwrap();
        assert_eq!((&json["services"][0]["held"], &json["cache"]["flows"]), (&18.into(), &2.into()));
        let last = &json["services"][0]["endpoints"][2];
        assert_eq!(
            (&last["flows"], &last["port"], &last["protocol"]),
            (&0.into(), &80.into(), &"tcp".into())
        );
    }
}
