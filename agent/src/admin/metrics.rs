//! Metrics: what was read, in the order in which docs/metrics.md lists it.

use std::fmt::Display;
use std::io::{self, Write};
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use super::exposition::{Exposition, Kind};
use super::reading::{BackendReading, Maps, Reading, ServiceReading, protocol_name};
use crate::health;
use crate::status::Status;

use Kind::{Counter, Gauge};

/// Writes everything.
pub(super) fn write(reading: &Reading<'_>, to: impl Write) -> io::Result<()> {
    let mut out = Exposition::new(to);
    agent(&mut out, reading.status)?;
    sources(&mut out, reading.status)?;
    probes(&mut out, &reading.probes)?;
    asks(&mut out, reading.asks)?;
    fragments(&mut out, reading.fragments)?;
    map_use(&mut out, reading.status, reading.maps.as_ref())?;
    let readable = u8::from(reading.maps.is_some());
    out.single(
        "fairlead_maps_readable",
        Gauge,
        "1: the pinned maps could be read for this answer.",
        readable,
    )?;
    if let Some(maps) = &reading.maps {
        memory(&mut out, maps)?;
        services(&mut out, maps)?;
        backends(&mut out, maps)?;
        drops(&mut out, maps)?;
        flows(&mut out, maps)?;
    }
    Ok(())
}

type Out<W> = Exposition<W>;

fn agent<W: Write>(out: &mut Out<W>, status: &Status) -> io::Result<()> {
    out.family("fairlead_build_info", Gauge, "Always 1; the labels say which fairlead this is.")?;
    out.sample(&[("version", &status.version), ("abi", &status.abi)], 1)?;
    out.family(
        "fairlead_node_info",
        Gauge,
        "Always 1; the labels say which node this is, and what it does.",
    )?;
    let roles = status.roles.join(",");
    let labels: [(_, &dyn Display); 4] = [
        ("instance_name", &status.instance),
        ("node", &status.node),
        ("group", &status.group),
        ("roles", &roles),
    ];
    out.sample(&labels, 1)?;
    out.family(
        "fairlead_program_info",
        Gauge,
        "Always 1; the kernel's tag of the program that packets enter by.",
    )?;
    if let Some(tag) = &status.program {
        out.sample(&[("tag", tag)], 1)?;
    }
    out.single(
        "fairlead_ready",
        Gauge,
        "1: programs are attached, tables are as planned.",
        u8::from(status.is_ready()),
    )?;
    let written = seconds(status.written);
    out.single(
        "fairlead_state_timestamp_seconds",
        Gauge,
        "When the agent last took stock, in Unix time.",
        written,
    )?;
    out.family("fairlead_interface_attached", Gauge, "1: the programs are attached to the interface.")?;
    for interface in &status.interfaces {
        let labels: [(_, &dyn Display); 2] = [("interface", &interface.name), ("mode", &interface.mode)];
        out.sample(&labels, u8::from(interface.attached))?;
    }
    fingerprints(out, status)
}

fn fingerprints<W: Write>(out: &mut Out<W>, status: &Status) -> io::Result<()> {
    let empty = String::new();
    let wanted = status.fingerprint.as_ref().unwrap_or(&empty);
    let installed = status.installed_fingerprint.as_ref().unwrap_or(&empty);
    out.family("fairlead_fingerprint_info", Gauge, "Always 1; hashes of what all slots resolve to, as planned and as installed. Equal on all gateways of a group.")?;
    out.sample(&[("wanted", wanted), ("installed", installed)], 1)?;
    let equal = u8::from(!wanted.is_empty() && wanted == installed);
    out.single(
        "fairlead_slots_as_planned",
        Gauge,
        "1: the installed slots resolve to what is planned.",
        equal,
    )
}

fn sources<W: Write>(out: &mut Out<W>, status: &Status) -> io::Result<()> {
    out.family("fairlead_cluster_reachable", Gauge, "1: the cluster's source can be read.")?;
    for cluster in &status.clusters {
        out.sample(&[("cluster", &cluster.name)], u8::from(cluster.reachable))?;
    }
    out.family("fairlead_cluster_shards", Gauge, "Shards of services that the cluster has.")?;
    for cluster in &status.clusters {
        out.sample(&[("cluster", &cluster.name)], cluster.shards)?;
    }
    out.family(
        "fairlead_cluster_restored_timestamp_seconds",
        Gauge,
        "Only where a source can't be read: when what counts of it was last known, in Unix time.",
    )?;
    for cluster in &status.clusters {
        if let Some(restored) = cluster.restored {
            out.sample(&[("cluster", &cluster.name)], seconds(restored))?;
        }
    }
    out.single(
        "fairlead_problems",
        Gauge,
        "Objects and fields that were rejected or held.",
        status.problems.len(),
    )?;
    out.single(
        "fairlead_notes",
        Gauge,
        "Fields of services that have no effect here; nothing is wrong.",
        status.notes.len(),
    )?;
    let refused = status.refused.len();
    out.single(
        "fairlead_config_problems",
        Gauge,
        "Problems of a changed configuration that was refused.",
        refused,
    )?;
    let failure = u8::from(status.failure.is_some());
    out.single(
        "fairlead_apply_failed",
        Gauge,
        "1: the kernel's tables are not as planned, because of an error or a full map.",
        failure,
    )
}

fn probes<W: Write>(out: &mut Out<W>, probes: &health::Snapshot) -> io::Result<()> {
    out.single("fairlead_probe_targets", Gauge, "Ports of endpoints that are probed.", probes.targets)?;
    out.single("fairlead_probe_targets_bad", Gauge, "Of them, those that fail.", probes.bad)?;
    let unwritten = probes.unwritten;
    out.single(
        "fairlead_probe_tunnels_unwritten",
        Gauge,
        "Outer destinations that did not fit into the table of probe targets.",
        unwritten,
    )?;
    out.single(
        "fairlead_probes_in_flight",
        Gauge,
        "Probes that have begun and not ended.",
        probes.in_flight,
    )?;
    out.family("fairlead_probes_total", Counter, "Probes by how they ended.")?;
    for (result, count) in [
        ("passed", probes.passed),
        ("refused", probes.refused),
        ("timed_out", probes.timed_out),
        ("disconnected", probes.disconnected),
        ("bad_status", probes.bad_status),
        ("bad_answer", probes.bad_answer),
        ("unsent", probes.unsent),
    ] {
        out.sample(&[("result", &result)], count)?;
    }
    let skipped = probes.skipped;
    out.single(
        "fairlead_probes_skipped_total",
        Counter,
        "Probes that were due and left out, because of the limits on rate and concurrency.",
        skipped,
    )?;
    out.family("fairlead_probe_flips_total", Counter, "Endpoints' ports whose state changed.")?;
    out.sample(&[("to", &"good")], probes.flips_to_good)?;
    out.sample(&[("to", &"bad")], probes.flips_to_bad)
}

fn map_use<W: Write>(out: &mut Out<W>, status: &Status, maps: Option<&Maps<'_>>) -> io::Result<()> {
    let planned = status.usage.iter().map(|(map, used, capacity)| (map.as_str(), used, capacity));
    let filled = maps.into_iter().flat_map(|maps| &maps.filled);
    let all: Vec<_> = planned.chain(filled.map(|(map, used, capacity)| (*map, used, capacity))).collect();
    out.family("fairlead_map_entries", Gauge, "Entries of the map that are in use.")?;
    for (map, used, _) in &all {
        out.sample(&[("map", map)], used)?;
    }
    out.family("fairlead_map_capacity_entries", Gauge, "Entries that the map has.")?;
    for (map, _, capacity) in &all {
        out.sample(&[("map", map)], capacity)?;
    }
    Ok(())
}

fn memory<W: Write>(out: &mut Out<W>, maps: &Maps<'_>) -> io::Result<()> {
    out.family(
        "fairlead_map_memory_bytes",
        Gauge,
        "Kernel memory of the map, as the kernel accounts for it.",
    )?;
    for (map, bytes) in &maps.memory {
        out.sample(&[("map", map)], bytes)?;
    }
    Ok(())
}

fn services<W: Write>(out: &mut Out<W>, maps: &Maps<'_>) -> io::Result<()> {
    let mut family = |name, kind, help, value: fn(&ServiceReading<'_>) -> u64| {
        out.family(name, kind, help)?;
        maps.services.iter().try_for_each(|service| labelled(out, service, &[], value(service)))
    };
    family("fairlead_service_packets_total", Counter, "Packets that were forwarded.", |s| {
        s.counters.packets
    })?;
    family(
        "fairlead_service_bytes_total",
        Counter,
        "Their bytes as they came in, Ethernet header included.",
        |s| s.counters.bytes,
    )?;
    family("fairlead_service_connections_total", Counter, "TCP SYNs among them.", |s| {
        s.counters.connections
    })?;
    family("fairlead_service_endpoints", Gauge, "Endpoints that could take connections, as planned.", |s| {
        count(s.table.map_or(0, |table| table.backends.len()))
    })?;
    family("fairlead_service_endpoints_taken", Gauge, "Of them, those that take new ones.", |s| {
        count(s.table.map_or(0, |table| table.backends.iter().filter(|b| b.weight > 0).count()))
    })?;
    out.family(
        "fairlead_shard_share",
        Gauge,
        "The cluster's part of the service's new connections, 0 to 1.",
    )?;
    for service in &maps.services {
        for shard in service.table.into_iter().flat_map(|table| &table.shards) {
            labelled(out, service, &[("cluster", &shard.cluster)], shard.share.percent() / 100.0)?;
        }
    }
    Ok(())
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// A sample with a service's labels, and more.
fn labelled<W: Write>(
    out: &mut Out<W>,
    service: &ServiceReading<'_>,
    more: &super::exposition::Labels<'_>,
    value: impl Display,
) -> io::Result<()> {
    let name = service.table.map(|table| &table.name);
    let namespace = name.map_or("", |name| &name.namespace);
    let name = name.map_or("", |name| &name.name);
    let vip: IpAddr = service.key.vip.into();
    let protocol = protocol_name(&service.key);
    let own: [(_, &dyn Display); 5] = [
        ("namespace", &namespace),
        ("service", &name),
        ("vip", &vip),
        ("port", &service.key.port),
        ("protocol", &protocol),
    ];
    if more.is_empty() {
        return out.sample(&own, value);
    }
    out.sample(&[&own, more].concat(), value)
}

fn backends<W: Write>(out: &mut Out<W>, maps: &Maps<'_>) -> io::Result<()> {
    let mut family = |name, help, value: fn(&BackendReading<'_>) -> u64| {
        out.family(name, Counter, help)?;
        maps.backends.iter().try_for_each(|backend| {
            let service = &maps.services[backend.service];
            let address: IpAddr = backend.outer.into();
            let shard = |wanted: &fairlead_core::planner::WantedBackend| {
                service.table?.shards.get(usize::from(wanted.shard))
            };
            let cluster = backend.wanted.and_then(shard).map_or("", |shard| &shard.cluster);
            let pod = backend.wanted.map_or("", |wanted| &wanted.pod);
            let labels: [(_, &dyn Display); 3] =
                [("cluster", &cluster), ("pod", &pod), ("address", &address)];
            labelled(out, service, &labels, value(backend))
        })
    };
    family("fairlead_backend_packets_total", "Packets that were forwarded to the backend.", |b| {
        b.counters.packets
    })?;
    family("fairlead_backend_connections_total", "TCP SYNs among them.", |b| b.counters.connections)
}

fn flows<W: Write>(out: &mut Out<W>, maps: &Maps<'_>) -> io::Result<()> {
    out.family(
        "fairlead_flow_events_total",
        Counter,
        "What became of packets whose flow the slot's current backend may not know, by event.",
    )?;
    for (event, count) in &maps.events {
        out.sample(&[("event", &event.name())], *count)?;
    }
    Ok(())
}

fn asks<W: Write>(out: &mut Out<W>, counters: &fairlead_core::asks::Counters) -> io::Result<()> {
    out.family(
        "fairlead_asks_total",
        Counter,
        "Asks, answers and claims since the agent's start, by what became of them.",
    )?;
    for (what, count) in counters.rows() {
        out.sample(&[("what", &what)], count)?;
    }
    Ok(())
}

fn fragments<W: Write>(out: &mut Out<W>, counters: &fairlead_core::fragments::Counters) -> io::Result<()> {
    out.family(
        "fairlead_early_fragments_total",
        Counter,
        "Fragments that came before their datagram's first one, since the agent's start, by what became of them.",
    )?;
    for (what, count) in counters.rows() {
        out.sample(&[("what", &what)], count)?;
    }
    Ok(())
}

fn drops<W: Write>(out: &mut Out<W>, maps: &Maps<'_>) -> io::Result<()> {
    out.family("fairlead_dropped_packets_total", Counter, "Packets that were dropped, by reason.")?;
    for (reason, counter) in &maps.drops {
        out.sample(&[("reason", &reason.name())], counter.packets)?;
    }
    out.family(
        "fairlead_dropped_bytes_total",
        Counter,
        "Their bytes as they came in, Ethernet header included.",
    )?;
    for (reason, counter) in &maps.drops {
        out.sample(&[("reason", &reason.name())], counter.bytes)?;
    }
    Ok(())
}

/// In Unix time.
fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
