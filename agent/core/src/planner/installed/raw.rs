//! The kernel's tables as they are read back.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use fairlead_abi::{Backend, Bucket, Delivery, DeliveryKey, Hop, Server, ServerKey, Slot};
use ipnet::IpNet;

/// How large the maps are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacities {
    /// Buckets of `SERVICES`; a power of two.
    pub buckets: u32,
    /// Entries of `SLOTS`.
    pub slots: u32,
    /// Entries of `BACKENDS`; index 0 is never used.
    pub backends: u32,
    /// Entries of `SERVICE_COUNTERS`; index 0 is never used.
    pub service_ids: u32,
    /// Entries of `HOPS`; index 0 is never used.
    pub hops: u32,
    /// Entries that `DELIVERIES` takes.
    pub deliveries: u32,
    /// Entries that `GATEWAYS` takes.
    pub gateways: u32,
    /// Entries that `ALLOWED` takes.
    pub source_ranges: u32,
}

/// Entries of `SERVER_IDS`, however few backends there may be.
const FEWEST_SERVER_IDS: u32 = 512;

impl Capacities {
    /// Entries that `SERVER_IDS` takes: enough for one backend in eight with two of them, since most services are not QUIC.
    #[must_use]
    pub const fn server_ids(&self) -> u32 {
        let quarter = self.backends / 4;
        if quarter < FEWEST_SERVER_IDS { FEWEST_SERVER_IDS } else { quarter }
    }
}

/// `SLOTS`, read block by block: all of it at once would be the largest part of an agent's memory.
pub trait ReadSlots: fmt::Debug {
    /// `count` slots from `first` on; fewer where they can't be read.
    fn block(&self, first: u32, count: u32) -> Cow<'_, [Slot]>;
}

impl ReadSlots for Vec<Slot> {
    fn block(&self, first: u32, count: u32) -> Cow<'_, [Slot]> {
        let end = (first as usize).saturating_add(count as usize).min(self.len());
        Cow::Borrowed(self.get(first as usize..end).unwrap_or_default())
    }
}

/// The contents of all maps, whole: the slices are as long as the maps.
#[derive(Clone, Debug)]
pub struct Raw<'a> {
    /// `SERVICES`.
    pub buckets: &'a [Bucket],
    /// `SLOTS`.
    pub slots: &'a dyn ReadSlots,
    /// `BACKENDS`.
    pub backends: &'a [Backend],
    /// `SERVER_IDS`.
    pub server_ids: BTreeMap<ServerKey, Server>,
    /// `ALLOWED`: ranges of clients by the ids of services.
    pub allowed: BTreeMap<u32, BTreeSet<IpNet>>,
    /// `HOPS`.
    pub hops: &'a [Hop],
    /// `DELIVERIES`.
    pub deliveries: BTreeMap<DeliveryKey, Delivery>,
    /// `GATEWAYS`.
    pub gateways: BTreeSet<IpNet>,
}
