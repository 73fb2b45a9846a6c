//! One port of one VIP: judged endpoints into shares, weights and a ring.
//!
//! The steps, in this order: candidates; whether probes are believed; which shards are able; how far those that came
//! back are let in; shares by distance and capacity; weights; the ring.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use fairlead_abi::{Family, ServiceEntry};

use super::candidates::{Candidate, Target, candidates};
use super::history::{Entry, History};
use super::lingering::{Lingerer, Lingering};
use super::maglev;
use super::server_ids::{Claim, assign};
use super::shares::{Taker, shares};
use super::zones;
use super::{Distance, ServiceTable, ShardReport, ShardState, Share, Verdict, WantedBackend};
use crate::model::{Declarations, Held, Place, ServerId, ServiceHealth, Shard};
use crate::stable::Stable;

/// What else the table of a port depends on.
pub(super) struct Circumstances<'a> {
    pub(super) declared: &'a Declarations,
    pub(super) health: Option<&'a ServiceHealth>,
    /// New connections per second.
    pub(super) demand: u64,
    /// What receivers say of flows.
    pub(super) held: &'a Held,
    pub(super) now: Duration,
}

/// What is known of times before.
pub(super) struct Memory<'a> {
    pub(super) history: &'a mut History,
    /// Who lingered when the service was planned last.
    pub(super) lingered: &'a mut Lingering,
    /// Who does now; is filled.
    pub(super) lingering: &'a mut Lingering,
    /// The addresses of this node's own endpoints of the service.
    pub(super) own: &'a BTreeSet<IpAddr>,
}

/// The table of one port of one VIP, and when to make it anew although nothing changes.
///
/// `known` are tables whose rings may be taken over: of the same service before, or of its other ports.
pub(super) fn table<'t>(
    target: Target<'_>,
    circumstances: &Circumstances<'_>,
    memory: &mut Memory<'_>,
    known: impl Iterator<Item = &'t Arc<ServiceTable>> + Clone,
) -> (ServiceTable, Option<Duration>) {
    let declared = circumstances.declared;
    let (mut candidates, not_taken) = candidates(target, declared, circumstances.health);
    zones::keep_to(&declared.here.plans_from.zone, &mut candidates);
    let mut table = ServiceTable {
        name: target.service.name.clone(),
        port_name: Arc::clone(&target.port.name),
        app_protocol: target.port.app_protocol.clone(),
        vip: target.vip,
        port: target.port.port,
        protocol: Some(target.port.protocol),
        flags: flags(target),
        allowed: target.service.allowed_of(Family::of(&target.vip)),
        backends: Vec::with_capacity(candidates.len()),
        server_ids: Vec::new(),
        clashes: Vec::new(),
        ring: Arc::from([]),
        ring_hash: 0,
        shards: Vec::new(),
        not_taken,
    };
    let (tallies, panic) = tally(&target.service.shards, &candidates, declared);
    let entries = entries(&table, &target.service.shards, &tallies, memory.history, circumstances);
    let takers: Vec<Taker> = target
        .service
        .shards
        .iter()
        .zip(tallies.iter().zip(&entries))
        .map(|(shard, (tally, entry))| Taker {
            distance: distance(declared, &shard.place),
            endpoints: if tally.able { tally.taking } else { 0 },
            capacity: tally.capacity(shard),
            let_in: entry.part(),
        })
        .collect();
    let shares = shares(&takers, circumstances.demand);
    table.shards = reports(&target.service.shards, &tallies, &takers, &shares, &entries, panic);
    table.backends = backends(&candidates, &tallies, &shares, &table.shards, panic);
    let before = known.clone().find(|before| before.key() == table.key());
    let lingering = add_lingering(&mut table, before.map(|before| &**before), memory, circumstances);
    if target.port.quic {
        (table.server_ids, table.clashes) = assign(claims(&table, &candidates, &lingering));
    }
    (table.ring, table.ring_hash) = ring(&table.backends, known);
    let next_step = |entry: &Entry| match entry {
        Entry::Full => None,
        Entry::Step { next, .. } => Some(*next),
    };
    (table, entries.iter().filter_map(next_step).min())
}

/// A shard's endpoints, counted.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    endpoints: u32,
    ready: u32,
    /// Ready, and passing where probes are believed.
    usable: u32,
    /// Those of them that take the shard's new connections: the others are for other zones.
    taking: u32,
    needed: u32,
    /// Has as many usable ones as it needs, or nobody has.
    able: bool,
}

impl Tally {
    fn capacity(&self, shard: &Shard) -> Option<u64> {
        shard.spec.options.capacity_per_endpoint.map(|each| u64::from(each) * u64::from(self.taking))
    }
}

/// Counts, and decides whether probes are believed: true means panic.
fn tally(shards: &[Shard], candidates: &[Candidate<'_>], declared: &Declarations) -> (Vec<Tally>, bool) {
    let of_shard =
        |shard: &Shard| Tally { needed: shard.spec.options.min_healthy.max(1), ..Tally::default() };
    let mut tallies: Vec<Tally> = shards.iter().map(of_shard).collect();
    for candidate in candidates {
        let tally = &mut tallies[usize::from(candidate.shard)];
        tally.endpoints += 1;
        tally.ready += u32::from(candidate.ready);
        let usable = candidate.ready && candidate.passes;
        tally.usable += u32::from(usable);
        tally.taking += u32::from(usable && !candidate.elsewhere);
    }
    let ready: u64 = tallies.iter().map(|tally| u64::from(tally.ready)).sum();
    let usable: u64 = tallies.iter().map(|tally| u64::from(tally.usable)).sum();
    let panic = ready > 0 && usable * 100 <= ready * u64::from(declared.tuning.panic_percent);
    if panic {
        tallies.iter_mut().for_each(|tally| (tally.usable, tally.taking) = (tally.ready, tally.ready));
    }
    let enough = |tally: &Tally| tally.usable >= tally.needed;
    // Too few are better than none.
    let any = tallies.iter().any(enough);
    for tally in &mut tallies {
        tally.able = if any { enough(tally) } else { tally.usable > 0 };
    }
    (tallies, panic)
}

fn entries(
    table: &ServiceTable,
    shards: &[Shard],
    tallies: &[Tally],
    history: &mut History,
    circumstances: &Circumstances<'_>,
) -> Vec<Entry> {
    let key = table.key();
    let tuning = &circumstances.declared.tuning;
    let note = |(shard, tally): (&Shard, &Tally)| {
        history.note(key, &shard.cluster, tally.able, circumstances.now, tuning)
    };
    shards.iter().zip(tallies).map(note).collect()
}

/// How far a place is from where this gateway's group plans.
fn distance(declared: &Declarations, place: &Place) -> Distance {
    let from = &declared.here.plans_from;
    let same = |a: &str, b: &str| !a.is_empty() && a == b;
    if same(&from.cluster, &place.cluster) {
        return Distance::Cluster;
    }
    if !same(&from.region, &place.region) {
        let configured = declared.distances.get(&from.region, &place.region);
        return configured.map_or(Distance::Unknown, Distance::Away);
    }
    if same(&from.zone, &place.zone) { Distance::Zone } else { Distance::Region }
}

fn reports(
    shards: &[Shard],
    tallies: &[Tally],
    takers: &[Taker],
    shares: &[f64],
    entries: &[Entry],
    panic: bool,
) -> Vec<ShardReport> {
    let nearest = takers.iter().filter(|t| t.endpoints > 0).map(|t| t.distance).min();
    let state = |at: usize| {
        let (tally, taker) = (&tallies[at], &takers[at]);
        match entries[at] {
            _ if tally.usable == 0 => ShardState::Empty,
            _ if !tally.able => ShardState::BelowMinHealthy,
            _ if shares[at] == 0.0 => ShardState::Standby,
            _ if panic => ShardState::Panic,
            Entry::Step { step, of, .. } => ShardState::Returning { step, of },
            Entry::Full if shards[at].held => ShardState::Held,
            Entry::Full if Some(taker.distance) != nearest => ShardState::Spilled,
            Entry::Full => ShardState::Serving,
        }
    };
    (0..shards.len())
        .map(|at| ShardReport {
            cluster: Arc::clone(&shards[at].cluster),
            distance: takers[at].distance,
            reachable: shards[at].reachable,
            endpoints: tallies[at].endpoints,
            ready: tallies[at].ready,
            usable: tallies[at].usable,
            capacity: takers[at].capacity,
            share: Share(rounded(shares[at] * f64::from(Share::WHOLE.0))),
            state: state(at),
        })
        .collect()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, and saturates")]
fn rounded(value: f64) -> u32 {
    value.round() as u32
}

/// Shares into weights: each usable endpoint of a shard has the same part of its share.
fn backends(
    candidates: &[Candidate<'_>],
    tallies: &[Tally],
    shares: &[f64],
    reports: &[ShardReport],
    panic: bool,
) -> Vec<WantedBackend> {
    let each: Vec<f64> =
        tallies.iter().zip(shares).map(|(tally, share)| share / f64::from(tally.taking.max(1))).collect();
    let most = each.iter().copied().fold(0.0, f64::max);
    // Relative to the heaviest, so that equal parts become equal weights whatever the rounding before.
    let weight = |part: f64| {
        let scaled = rounded(part / most * f64::from(u16::MAX)).max(1);
        u16::try_from(scaled).expect("no part is more than the most")
    };
    let wanted = |candidate: &Candidate<'_>| {
        let shard = usize::from(candidate.shard);
        let verdict = verdict(candidate, &tallies[shard], &reports[shard], panic);
        WantedBackend {
            outer: candidate.outer,
            endpoint: candidate.endpoint,
            port: candidate.port,
            encap: candidate.encap,
            weight: if verdict.is_taken() { weight(each[shard]) } else { 0 },
            shard: candidate.shard,
            pod: Arc::clone(&candidate.of.pod),
            node: Arc::clone(&candidate.of.node),
            verdict,
        }
    };
    candidates.iter().map(wanted).collect()
}

fn verdict(candidate: &Candidate<'_>, tally: &Tally, shard: &ShardReport, panic: bool) -> Verdict {
    if !candidate.ready {
        let leaving = candidate.of.drained || candidate.of.conditions.terminating;
        return if leaving { Verdict::Draining } else { Verdict::NotReady };
    }
    if !candidate.passes && !panic {
        return Verdict::ProbesFail;
    }
    if candidate.elsewhere && !panic {
        return Verdict::OtherZone;
    }
    match shard.state {
        ShardState::Serving => Verdict::Taken,
        ShardState::Spilled => Verdict::Spilled,
        ShardState::Returning { step, of } => Verdict::Returning { step, of },
        ShardState::Held => Verdict::Held,
        ShardState::Panic if candidate.passes => Verdict::Taken,
        ShardState::Panic => Verdict::Panic,
        ShardState::Standby | ShardState::Empty => Verdict::Standby,
        ShardState::BelowMinHealthy => {
            Verdict::BelowMinHealthy { usable: tally.usable, needed: tally.needed }
        }
    }
}

/// By the outer address of an endpoint: its server IDs, and what they were made of.
type ServerIds = BTreeMap<IpAddr, BTreeMap<ServerId, Option<IpAddr>>>;

/// [`ServiceEntry::flags`] but for those that come and go by themselves.
fn flags(target: Target<'_>) -> u32 {
    let by_client = if target.service.by_client { ServiceEntry::BY_CLIENT } else { 0 };
    let quic = if target.port.quic { ServiceEntry::QUIC } else { 0 };
    let allowed = target.service.allowed_of(Family::of(&target.vip));
    by_client | quic | if allowed.is_some() { ServiceEntry::RESTRICTED } else { 0 }
}

/// What could be server IDs: of each address of each backend. `lingering` are those of the backends that have left.
fn claims(table: &ServiceTable, candidates: &[Candidate<'_>], lingering: &ServerIds) -> Vec<Claim> {
    let mut claims = Vec::with_capacity(2 * table.backends.len());
    for (position, backend) in (0..=u16::MAX).zip(&table.backends) {
        let lingers = lingers(backend);
        let claim = |(id, address)| Claim { id, lingers, backend: position, address };
        let of = |address| claim((ServerId::of(address), Some(address)));
        match candidates.binary_search_by_key(&backend.outer, |candidate| candidate.outer) {
            Ok(at) => claims.extend(candidates[at].of.addresses().map(of)),
            Err(_) => {
                let known = lingering.get(&backend.outer).into_iter().flatten();
                claims.extend(known.map(|(&id, &address)| claim((id, address))));
            }
        }
    }
    claims
}

/// Adds the endpoints that have left; their rejected ones are not kept. Their server IDs.
fn add_lingering(
    table: &mut ServiceTable,
    before: Option<&ServiceTable>,
    memory: &mut Memory<'_>,
    circumstances: &Circumstances<'_>,
) -> ServerIds {
    let rejected = table.not_taken.iter().filter(|of| matches!(of.verdict, Verdict::Rejected(_)));
    let present: BTreeSet<IpAddr> = table
        .backends
        .iter()
        .map(|backend| backend.outer)
        .chain(rejected.filter_map(|of| of.address))
        .collect();
    let of = (table.key(), memory.own);
    let lingering = memory.lingering.backends(of, before, memory.lingered, &present, circumstances);
    let mut known = BTreeMap::new();
    for Lingerer { backend, cluster, server_ids } in lingering {
        let shard = shard_of(table, &cluster, circumstances.declared);
        known.insert(backend.outer, server_ids);
        table.backends.push(WantedBackend { shard, ..backend });
    }
    table.backends.sort_by_key(|backend| backend.outer);
    known
}

/// Where a cluster stands among the table's shards; added where it has none any more.
fn shard_of(table: &mut ServiceTable, cluster: &Arc<str>, declared: &Declarations) -> u16 {
    let at = table.shards.iter().position(|shard| shard.cluster == *cluster);
    let at = at.unwrap_or_else(|| {
        let known = declared.clusters.get(cluster);
        table.shards.push(ShardReport {
            cluster: Arc::clone(cluster),
            distance: known.map_or(Distance::Unknown, |known| distance(declared, &known.place)),
            reachable: true,
            endpoints: 0,
            ready: 0,
            usable: 0,
            capacity: None,
            share: Share(0),
            state: ShardState::Empty,
        });
        table.shards.len() - 1
    });
    u16::try_from(at).expect("there are fewer clusters than endpoints")
}

/// The ring and its hash; taken over from a table with the same addresses and weights. Who lingers doesn't count.
fn ring<'t>(
    backends: &[WantedBackend],
    mut known: impl Iterator<Item = &'t Arc<ServiceTable>>,
) -> (Arc<[u16]>, u64) {
    let same = |table: &&Arc<ServiceTable>| {
        let part = |backend: &WantedBackend| (backend.outer, backend.weight, lingers(backend));
        table.protocol.is_some() && table.backends.iter().map(part).eq(backends.iter().map(part))
    };
    if let Some(table) = known.find(same) {
        return (Arc::clone(&table.ring), table.ring_hash);
    }
    let identities: Vec<u64> =
        backends.iter().map(|backend| maglev::identity(&backend.outer.into())).collect();
    let candidates: Vec<maglev::Candidate> = backends
        .iter()
        .zip(&identities)
        .map(|(backend, &identity)| maglev::Candidate { identity, weight: backend.weight })
        .collect();
    let size = maglev::ring_size(backends.iter().filter(|backend| !lingers(backend)).count());
    let ring = maglev::ring(&candidates, size);
    let hash = ring_hash(ring.iter().map(|&position| identities[usize::from(position)]));
    (Arc::from(ring), hash)
}

fn lingers(backend: &WantedBackend) -> bool {
    backend.verdict == Verdict::Lingering
}

/// Of what slots resolve to, in their order; 0 for no slots.
pub(super) fn ring_hash(identities: impl ExactSizeIterator<Item = u64>) -> u64 {
    if identities.len() == 0 {
        return 0;
    }
    identities.fold(Stable::new(0), Stable::word).finish()
}
