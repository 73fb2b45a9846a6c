//! What the kernel holds, as far as the agent knows: what was read back, and what was done since.
//!
//! It changes only by what [`Installed::apply`] is told was done, one action at a time, so that it stays true when a
//! write fails half-way. Everything in it but the times of the grace period can be read back from the kernel
//! ([`Installed::read`]); no decision depends on more.

mod apply;
mod blocks;
mod raw;
mod read;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use fairlead_abi::{
    Backend, Bucket, Delivery, DeliveryKey, Hop, Ring, Server, ServerKey, ServiceEntry, ServiceKey, bucket_of,
};
use ipnet::IpNet;

pub(super) use blocks::Blocks;
pub use raw::{Capacities, Raw, ReadSlots};

use super::tables::fingerprint;
use super::{Links, Plan, ServiceTable};
use crate::model::ServerId;

/// How long a packet may go on reading what it has found: what is no longer named is used again only after this. A
/// packet takes microseconds; the rest is for a CPU that is held up.
pub const GRACE: Duration = Duration::from_secs(1);

/// A mirror of the kernel's tables.
#[derive(Clone, Debug)]
pub struct Installed {
    pub(super) capacities: Capacities,
    pub(super) buckets: Vec<Bucket>,
    /// For each bucket, how many live entries of it stand in a later one.
    pub(super) passing: Vec<u32>,
    /// Buckets whose `overflowed` doesn't say so.
    pub(super) misflagged: BTreeSet<u32>,
    /// Free service entries that packets may still be reading, and until when.
    pub(super) cooling_entries: BTreeMap<Spot, Duration>,
    pub(super) live: BTreeMap<ServiceKey, Live>,
    /// Entries that have to go: damaged ones, and old ones of a key that has a newer one.
    pub(super) strays: BTreeMap<Spot, Live>,
    pub(super) ids: Blocks,
    pub(super) slots: Blocks,
    /// Blocks of slots that are written but not named yet: first to length and ring hash.
    unnamed: BTreeMap<u32, (u32, u64)>,
    pub(super) backends: Vec<Backend>,
    pub(super) regions: Blocks,
    /// Where regions begin, and whose they are.
    region_starts: BTreeMap<u32, ServiceKey>,
    /// Backends outside any region, and from when on no packet reads them.
    pub(super) orphans: BTreeMap<u32, Duration>,
    pub(super) server_ids: BTreeMap<ServerKey, Server>,
    /// By service id.
    pub(super) allowed: BTreeMap<u32, BTreeSet<IpNet>>,
    pub(super) hops: Vec<Hop>,
    pub(super) free_hops: Blocks,
    /// For each hop, how many backends name it.
    pub(super) hop_users: Vec<u32>,
    /// Hops that no backend names any more, and from when on no packet reads them.
    pub(super) quiet_hops: BTreeMap<u32, Duration>,
    /// Where a hop stands.
    hop_index: HashMap<Hop, u32>,
    pub(super) deliveries: BTreeMap<DeliveryKey, Delivery>,
    pub(super) gateways: BTreeSet<IpNet>,
    /// What the hops of all settled services follow.
    pub(super) links: Option<Arc<Links>>,
    /// Whom the backends of all settled services say to be silent.
    pub(super) silent: Option<Arc<BTreeSet<IpAddr>>>,
}

/// A place in the service table: bucket and entry.
pub(super) type Spot = (u32, usize);

/// A published service.
#[derive(Clone, Debug)]
pub(super) struct Live {
    pub(super) spot: Spot,
    /// How many entries of `BACKENDS` are set aside for it.
    pub(super) room: u32,
    /// From then on no packet reads what an earlier ring named.
    pub(super) quiet_at: Duration,
    /// What its slots resolve to; `None` where they are damaged.
    pub(super) ring_hash: Option<u64>,
    /// Damaged tables may name a block twice; only one of them gives it back.
    owns_ring: bool,
    owns_id: bool,
    /// When its slots have changed last, as far as it is known.
    pub(super) changed_at: Option<Duration>,
    /// The table that it was last brought in line with; nothing has changed since.
    pub(super) settled: Option<Arc<ServiceTable>>,
}

impl Installed {
    /// Of maps that hold nothing.
    #[must_use]
    pub fn empty(capacities: Capacities) -> Self {
        let mut installed = Self {
            capacities,
            buckets: vec![Bucket::default(); capacities.buckets as usize],
            passing: vec![0; capacities.buckets as usize],
            misflagged: BTreeSet::new(),
            cooling_entries: BTreeMap::new(),
            live: BTreeMap::new(),
            strays: BTreeMap::new(),
            ids: Blocks::new(1..capacities.service_ids),
            slots: Blocks::new(0..capacities.slots),
            unnamed: BTreeMap::new(),
            backends: vec![Backend::default(); capacities.backends as usize],
            regions: Blocks::new(1..capacities.backends),
            region_starts: BTreeMap::new(),
            orphans: BTreeMap::new(),
            server_ids: BTreeMap::new(),
            allowed: BTreeMap::new(),
            hops: Vec::new(),
            free_hops: Blocks::new(1..capacities.hops),
            hop_users: Vec::new(),
            quiet_hops: BTreeMap::new(),
            hop_index: HashMap::new(),
            deliveries: BTreeMap::new(),
            gateways: BTreeSet::new(),
            links: None,
            silent: None,
        };
        installed.hops.resize(capacities.hops as usize, Hop::default());
        installed.hop_users.resize(capacities.hops as usize, 0);
        installed
    }

    /// How large the maps are.
    #[must_use]
    pub fn capacities(&self) -> Capacities {
        self.capacities
    }

    /// Notes that all of a plan was carried out: what it settled is skipped by the next diff.
    pub fn settle(&mut self, plan: &Plan) {
        for (key, table) in &plan.settled {
            if let Some(live) = self.live.get_mut(key) {
                live.settled = Some(Arc::clone(table));
            }
        }
        if let Some(links) = &plan.links {
            self.links = Some(Arc::clone(links));
        }
        if let Some(silent) = &plan.silent {
            self.silent = Some(Arc::clone(silent));
        }
    }

    /// The same hash as [`Tables::fingerprint`](super::Tables::fingerprint), of what the kernel holds.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        fingerprint(self.live.iter().map(|(key, live)| (*key, live.ring_hash.unwrap_or(u64::MAX))))
    }

    /// Every published service, and where it stands: bucket and entry.
    pub fn services(&self) -> impl Iterator<Item = (ServiceKey, u32, usize, &ServiceEntry)> {
        self.live.iter().map(|(key, live)| (*key, live.spot.0, live.spot.1, self.entry(live.spot)))
    }

    /// The backends of a published service with their indexes in `BACKENDS`, those without slots among them.
    pub fn backends_of(&self, key: &ServiceKey) -> impl Iterator<Item = (u32, &Backend)> {
        let region = self.live.get(key).map_or(0..0, |live| self.region(live));
        region.map(|index| (index, &self.backends[index as usize])).filter(|(_, backend)| in_use(backend))
    }

    /// What is delivered to this node's own endpoints.
    pub fn deliveries(&self) -> impl Iterator<Item = (&DeliveryKey, &Delivery)> {
        self.deliveries.iter()
    }

    /// The server IDs of a published service, and the indexes in `BACKENDS` that they lead to.
    pub fn servers_of(&self, key: &ServiceKey) -> impl Iterator<Item = (ServerId, u32)> {
        let first = self.live.get(key).map_or(0, |live| self.region(live).start);
        self.server_ids_of(first).map(|(key, server)| (ServerId(key.id), server.backend))
    }

    /// The ranges of the clients that the service with an id lets in, where it is restricted.
    pub fn allowed_by(&self, id: u32) -> impl Iterator<Item = IpNet> {
        self.allowed.get(&id).into_iter().flatten().copied()
    }

    /// How much of each map is in use, and its size, for metrics. What cools counts as in use. Services and their ids are
    /// counted as services, which is what the configuration bounds; buckets have more room than that.
    #[must_use]
    pub fn usage(&self) -> Vec<(super::Map, u64, u64)> {
        use super::Map;
        let of =
            |blocks: &Blocks, size: u32| (u64::from(size).saturating_sub(blocks.free()), u64::from(size));
        let c = &self.capacities;
        // The first id is no service's.
        let most = c.service_ids.saturating_sub(1);
        let services = self.live.len() + self.strays.len();
        let rows = [
            (Map::Services, (services as u64, u64::from(most))),
            (Map::Slots, of(&self.slots, c.slots)),
            (Map::Backends, of(&self.regions, c.backends)),
            (Map::ServerIds, (self.server_ids.len() as u64, u64::from(c.server_ids()))),
            (
                Map::Allowed,
                (self.allowed.values().map(BTreeSet::len).sum::<usize>() as u64, u64::from(c.source_ranges)),
            ),
            (Map::Hops, of(&self.free_hops, c.hops)),
            (Map::ServiceIds, of(&self.ids, most)),
            (Map::Deliveries, (self.deliveries.len() as u64, u64::from(c.deliveries))),
            (Map::Gateways, (self.gateways.len() as u64, u64::from(c.gateways))),
        ];
        rows.into_iter().map(|(map, (used, size))| (map, used, size)).collect()
    }

    pub(super) fn entry(&self, (bucket, entry): Spot) -> &ServiceEntry {
        &self.buckets[bucket as usize].entries[entry]
    }

    /// The indexes in `BACKENDS` that are set aside for a service.
    pub(super) fn region(&self, live: &Live) -> Range<u32> {
        let start = if live.room == 0 { 0 } else { self.entry(live.spot).backends };
        start..start + live.room
    }

    /// The server IDs of the service whose backends begin at `first`.
    pub(super) fn server_ids_of(&self, first: u32) -> impl Iterator<Item = (&ServerKey, &Server)> {
        let end = |first| ServerKey { first, ..ServerKey::default() };
        self.server_ids.range(end(first)..end(first.saturating_add(1)))
    }

    /// The block of slots that a service has for itself; none where it is damaged.
    pub(super) fn own_ring(&self, live: &Live) -> Ring {
        if live.owns_ring { self.entry(live.spot).ring } else { Ring::default() }
    }

    pub(super) fn find_hop(&self, hop: &Hop) -> Option<u32> {
        self.hop_index.get(hop).copied()
    }

    pub(super) const fn mask(&self) -> u32 {
        self.capacities.buckets - 1
    }

    /// The buckets that a lookup of `key` passes before it comes to `bucket`.
    pub(super) fn passed(&self, key: &ServiceKey, bucket: u32) -> impl Iterator<Item = u32> + use<> {
        let (home, mask) = (bucket_of(key, self.mask()), self.mask());
        (0..bucket.wrapping_sub(home) & mask).map(move |step| home.wrapping_add(step) & mask)
    }
}

/// Whether an entry of `BACKENDS` is taken.
pub(super) const fn in_use(backend: &Backend) -> bool {
    backend.encap != 0
}
