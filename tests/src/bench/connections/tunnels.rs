//! Packets in tunnels: such as come back to a gateway, which sends them on, and a receiver's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap};
use fairlead::dataplane::Dataplane;
use fairlead_abi::{
    Address, Delivery, DeliveryKey, FlowEntry, FlowEvent, FlowKey, FlowState, OWN_NAMESPACE, RecentBucket,
    RecentFlow, ServiceKey, kind, map, protocol,
};
use fairlead_core::planner::Action;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use tokio::runtime;
use tokio::sync::oneshot;

use super::{BACKENDS, Measured, Row, service};
use crate::bench::case::{Case, PASS, TRANSMIT, Tunnel};
use crate::bench::fleet::PORT;
use crate::bench::packets::{Effort, FLOWS, attach};
use crate::bench::plane::{OWN, Plane, RING, SEED};

/// The program that they come to.
const TUNNEL: &str = "bench_tunnel";
/// An endpoint of this node, a gateway elsewhere, and the port that the endpoint has.
const ENDPOINT: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(10, 255, 0, 1), Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 1));
const GATEWAY: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(198, 51, 100, 1), Ipv6Addr::new(0x2001, 0xdb8, 0xfe, 0, 0, 0, 0, 1));
const ENDPOINT_PORT: u16 = 8080;
/// So many flows that each of them is due to be claimed again when its turn comes.
const MANY: u32 = 1 << 20;

/// All of one IP version.
pub(super) fn measure(plane: &mut Plane, effort: Effort, v6: bool) -> Result<Vec<Row>> {
    attach(&mut plane.dataplane, TUNNEL)?;
    let case = Case::tcp(v6);
    let either = |(v4, v6_one): (Ipv4Addr, Ipv6Addr)| if v6 { IpAddr::V6(v6_one) } else { v4.into() };
    let (endpoint, gateway, own) = (either(ENDPOINT), either(GATEWAY), either(OWN));
    let tunnel = |from, to, kind, bounced| Some(Tunnel { from, to, kind, bounced });
    let measured = |name, verdict, event, tunnel| Measured { name, program: TUNNEL, verdict, event, tunnel };
    let [back, unknown, idle, known, marked, claimed] = if v6 {
        ["bounce6", "receiver_unknown6", "receiver_idle6", "receiver_known6", "receiver_marked6", "claim6"]
    } else {
        ["bounce4", "receiver_unknown4", "receiver_idle4", "receiver_known4", "receiver_marked4", "claim4"]
    };
    let to_here = |kind| tunnel(gateway, endpoint, kind, false);
    let back = measured(back, TRANSMIT, Some(FlowEvent::SentOn), tunnel(endpoint, own, kind::CURRENT, true));
    let unknown = measured(unknown, TRANSMIT, Some(FlowEvent::Bounced), to_here(kind::CURRENT));
    let idle = measured(idle, PASS, None, to_here(kind::UNMARKED));
    let known = measured(known, PASS, None, to_here(kind::UNMARKED));
    let marked = measured(marked, PASS, None, to_here(kind::CURRENT));
    // Of few flows most have been claimed just now.
    let claims = |flows| (flows == MANY).then_some(FlowEvent::Claimed);
    let claimed = |flows| measured(claimed, PASS, claims(flows), to_here(kind::FORMER));
    give_formers(plane, &service(v6))?;
    deliver(plane, v6, endpoint, gateway)?;
    let mut rows = Vec::new();
    for measured in [back, unknown] {
        for flows in FLOWS {
            rows.push(measured.row(plane, (case, flows, 0), effort)?);
        }
    }
    let mut so_far = 0;
    let _reader = Reader::start(&mut plane.dataplane)?;
    for flows in FLOWS {
        establish(plane, case, endpoint, so_far..flows)?;
        so_far = flows;
        rows.push(idle.row(plane, (case, flows, 0), effort)?);
        for measured in [&known, &marked, &claimed(flows)] {
            speak(plane, case, endpoint, 0..flows)?;
            rows.push(measured.row(plane, (case, flows, 0), effort)?);
        }
    }
    Ok(rows)
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
    // It has no sockets, which is found out in this one.
    let mut namespaces = HashMap::<_, Address, u32>::try_from(plane.dataplane.map_mut(map::NAMESPACES)?)?;
    namespaces.insert(outer, OWN_NAMESPACE, 0)?;
    let mut gateways = LpmTrie::<_, [u8; 16], u32>::try_from(plane.dataplane.map_mut(map::GATEWAYS)?)?;
    Ok(gateways.insert(&Key::new(128, Address::from(gateway).bytes), 1, 0)?)
}

/// The endpoint has connections of these clients, and has said nothing for long.
fn establish(plane: &mut Plane, case: Case, endpoint: IpAddr, clients: Range<u32>) -> Result<()> {
    let mut flows = HashMap::<_, FlowKey, FlowEntry>::try_from(plane.dataplane.map_mut(map::FLOWS)?)?;
    clients
        .map(|client| flow(case, endpoint, client))
        .try_for_each(|(key, entry)| Ok(flows.insert(key, entry, 0)?))
}

/// The endpoint speaks to these clients: what its replies leave behind.
fn speak(plane: &mut Plane, case: Case, endpoint: IpAddr, clients: Range<u32>) -> Result<()> {
    let now = plane.dataplane.ticks()?.into();
    let mut buckets = Array::<_, RecentBucket>::try_from(plane.dataplane.map_mut(map::RECENT)?)?;
    let mut recent = vec![RecentBucket::default(); buckets.len() as usize];
    for (key, entry) in clients.map(|client| flow(case, endpoint, client)) {
        let flow = RecentFlow::new(SEED, &key);
        let bucket = &mut recent[flow.bucket(buckets.len() - 1) as usize].entries;
        let free = bucket.iter().position(|entry| *entry == 0).unwrap_or_default();
        let said = flow.tag(&entry.vip, entry.port).entry(entry.sequence, entry.client_sequence, now);
        bucket[free] = said.0;
    }
    (0..).zip(&recent).try_for_each(|(index, bucket)| Ok(buckets.set(index, bucket, 0)?))
}

fn flow(case: Case, endpoint: IpAddr, client: u32) -> (FlowKey, FlowEntry) {
    let [a, b, ..] = case.ports();
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
        ..FlowEntry::default()
    };
    (key, entry)
}

/// Takes what programs report as long as it lives, as an agent does: so they find room for it.
struct Reader {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    /// Reports that are taken at a time.
    const MOST: usize = 4096;

    fn start(dataplane: &mut Dataplane) -> Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
        let reports = runtime.block_on(async { dataplane.take_reports() })?;
        let mut reports = reports.context("the reports are there")?;
        let (stop, mut stopped) = oneshot::channel();
        let others = other_cpus()?;
        let thread = std::thread::spawn(move || {
            // On a machine with one CPU it stays here.
            let _ = sched_setaffinity(Pid::from_raw(0), &others);
            runtime.block_on(async {
                loop {
                    tokio::select! {
                        _ = &mut stopped => return,
                        read = reports.next(Self::MOST) => if read.is_err() { return },
                    }
                }
            });
        });
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// All CPUs but the one that is measured on.
fn other_cpus() -> Result<CpuSet> {
    let own = crate::bench::current_cpu()?;
    let mut others = CpuSet::new();
    for cpu in (0..CpuSet::count()).filter(|&cpu| cpu != own) {
        others.set(cpu)?;
    }
    Ok(others)
}
