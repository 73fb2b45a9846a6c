//! What has to change in the kernel, in which order: plain data.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use fairlead_abi::{
    Backend, Delivery, DeliveryKey, Hop, NO_BACKEND, Ring, Server, ServerKey, ServiceEntry, ServiceKey, Slot,
};
use ipnet::IpNet;

use super::{Links, ServiceTable};

/// One write. Each is atomic for packets in flight, or touches only what no packet can reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Fill a free entry of `HOPS`.
    WriteHop {
        /// Index in `HOPS`.
        index: u32,
        /// All of it.
        hop: Hop,
    },
    /// Zero the counters of backends' indexes before their new owners'.
    ClearBackendCounters {
        /// Index in `BACKEND_COUNTERS` of the first.
        first: u32,
        /// How many.
        count: u32,
    },
    /// Fill a free entry of `BACKENDS`.
    WriteBackend {
        /// Index in `BACKENDS`.
        index: u32,
        /// All of it.
        backend: Backend,
    },
    /// Store the second word of a backend (`hop`, `mtu`, `encap` with the bit of a silent node, `family`) by one 64-bit store.
    SetBackendHop {
        /// Index in `BACKENDS`.
        index: u32,
        /// Holds the new word; its `outer` is what the entry holds already.
        backend: Backend,
    },
    /// Fill a block of `SLOTS` that no service names.
    WriteSlots {
        /// Index in `SLOTS` of the first.
        first: u32,
        /// What to write.
        slots: SlotBlock,
    },
    /// Store one slot of a ring that a service names, by one 64-bit store.
    SetSlot {
        /// Index in `SLOTS`.
        index: u32,
        /// All of it; its current is what the slot holds already.
        slot: Slot,
    },
    /// Zero the counters of a service id before its new owner's.
    ClearServiceCounters {
        /// Index in `SERVICE_COUNTERS`.
        id: u32,
    },
    /// Say whether a key that belongs in this bucket may stand in a later one.
    SetOverflowed {
        /// Index in `SERVICES`.
        bucket: u32,
        /// [`fairlead_abi::Bucket::overflowed`].
        value: u32,
    },
    /// Fill a free service entry; its word with port, protocol, family and id last.
    PublishEntry {
        /// Index in `SERVICES`.
        bucket: u32,
        /// Which of the bucket's entries.
        entry: usize,
        /// All of it.
        value: ServiceEntry,
        /// How many entries of `BACKENDS` are set aside for it from `value.backends` on; for
        /// [`Installed`](super::Installed) only.
        room: u32,
    },
    /// Store a service's `ring` by one 64-bit store.
    SwitchRing {
        /// Index in `SERVICES`.
        bucket: u32,
        /// Which of the bucket's entries.
        entry: usize,
        /// The new ring.
        ring: Ring,
    },
    /// Store a service's `flags`.
    SetEntryFlags {
        /// Index in `SERVICES`.
        bucket: u32,
        /// Which of the bucket's entries.
        entry: usize,
        /// [`ServiceEntry::flags`].
        flags: u32,
    },
    /// Insert into or overwrite in `SERVER_IDS`.
    PutServerId {
        /// Its key.
        key: ServerKey,
        /// Its value.
        server: Server,
    },
    /// Delete from `SERVER_IDS`.
    RemoveServerId {
        /// Its key.
        key: ServerKey,
    },
    /// Insert into `ALLOWED`.
    PutRange {
        /// The id of the service that lets its clients in.
        service: u32,
        /// The range.
        range: IpNet,
    },
    /// Delete from `ALLOWED`.
    RemoveRange {
        /// As in `PutRange`.
        service: u32,
        /// The range.
        range: IpNet,
    },
    /// Insert into or overwrite in `DELIVERIES`.
    PutDelivery {
        /// Its key.
        key: DeliveryKey,
        /// Its value.
        delivery: Delivery,
    },
    /// Insert into `GATEWAYS`.
    PutGateway {
        /// Whose tunnel packets to take.
        prefix: IpNet,
    },
    /// Make a service entry free: zero its word with port, protocol, family and id.
    UnpublishEntry {
        /// Index in `SERVICES`.
        bucket: u32,
        /// Which of the bucket's entries.
        entry: usize,
    },
    /// Zero a backend; its second word first.
    ClearBackend {
        /// Index in `BACKENDS`.
        index: u32,
    },
    /// Zero a hop; `ifindex` first.
    ClearHop {
        /// Index in `HOPS`.
        index: u32,
    },
    /// Delete from `DELIVERIES`.
    RemoveDelivery {
        /// Its key.
        key: DeliveryKey,
    },
    /// Delete from `GATEWAYS`.
    RemoveGateway {
        /// The prefix.
        prefix: IpNet,
    },
}

/// The slots of one ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotBlock {
    pub(crate) slots: Slots,
    /// [`ServiceTable::ring_hash`].
    pub(crate) hash: u64,
}

/// What slots are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Slots {
    /// Without formers: made on the fly from what they share with the table, for ten thousand rings stand in one plan.
    Fresh {
        /// Positions in the table's backends.
        ring: Arc<[u16]>,
        /// From those to indexes in the service's backend list.
        local: Arc<[u16]>,
    },
    /// With what they inherit from those before them.
    Inherited(Arc<[Slot]>),
}

impl SlotBlock {
    /// How many.
    #[must_use]
    pub fn len(&self) -> u32 {
        u32::try_from(self.slots.len()).expect("a ring has one of RING_SIZES")
    }

    /// Whether there are none; a plan never writes such a block.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.len() == 0
    }

    /// In order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Slot> + '_ {
        (0..self.slots.len()).map(|at| self.slots.at(at))
    }
}

impl Slots {
    fn len(&self) -> usize {
        match self {
            Self::Fresh { ring, .. } => ring.len(),
            Self::Inherited(slots) => slots.len(),
        }
    }

    fn at(&self, at: usize) -> Slot {
        match self {
            Self::Fresh { ring, local } => {
                Slot::new(local.get(usize::from(ring[at])).copied().unwrap_or(NO_BACKEND))
            }
            Self::Inherited(slots) => slots[at],
        }
    }
}

/// What has to change.
///
/// The actions are to be carried out in order, each reported to [`Installed::apply`](super::Installed::apply) once it is
/// done, and the whole to [`Installed::settle`](super::Installed::settle). After a failed one, read back and plan again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Additions first; a slot never names a backend that is gone.
    pub actions: Vec<Action>,
    /// When to plan again although nothing changed: what packets may still be reading is cleared only later.
    pub due: Option<Duration>,
    /// Set where additions must wait until these deletions have made room.
    pub waits_for: Option<Full>,
    /// Where there is no room for all: how many services serve as before, since it is they that don't fit.
    pub behind: usize,
    /// Set where server IDs are left out for want of room: what is theirs goes by flow. All else is as wanted.
    pub unnamed: Option<Full>,
    /// Set where ranges that services allow are left out for want of room: their clients are refused. All else is as wanted.
    pub unallowed: Option<Full>,
    /// Services that need no further look once this plan is done.
    pub(crate) settled: Vec<(ServiceKey, Arc<ServiceTable>)>,
    /// The links that all hops follow once this plan is done.
    pub(crate) links: Option<Arc<Links>>,
    /// The silent destinations that all backends say of once this plan is done.
    pub(crate) silent: Option<Arc<BTreeSet<IpAddr>>>,
}

impl Plan {
    /// Nothing to do now.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.actions.is_empty()
    }
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A map is too small. Nothing of the plan is carried out, the old state serves on.
    #[error(transparent)]
    Full(#[from] Full),
}

/// A map that has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Full {
    /// Which.
    pub map: Map,
    /// How many entries would be in use.
    pub needed: u64,
    /// How many it has.
    pub capacity: u64,
    /// When enough of what is no longer in use may be used again, counted as `now` is; `None`: no time helps.
    pub retry_at: Option<Duration>,
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is full: {} of {} entries needed", self.map, self.needed, self.capacity)?;
        match self.retry_at {
            Some(_) => f.write_str("; some become free shortly"),
            None => write!(f, "; raise capacities.{} in the configuration", self.map.capacity()),
        }
    }
}

/// The maps that a plan writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Map {
    /// `SERVICES`.
    Services,
    /// `SLOTS`.
    Slots,
    /// `BACKENDS`.
    Backends,
    /// `SERVER_IDS`.
    ServerIds,
    /// `ALLOWED`.
    Allowed,
    /// `HOPS`.
    Hops,
    /// `SERVICE_COUNTERS`: ids of services.
    ServiceIds,
    /// `DELIVERIES`.
    Deliveries,
    /// `GATEWAYS`.
    Gateways,
}

impl Map {
    /// The field of `capacities` in the configuration that says how large it is.
    #[must_use]
    pub const fn capacity(self) -> &'static str {
        match self {
            Self::Services | Self::ServiceIds => "services",
            Self::Slots => "slots",
            Self::Backends | Self::ServerIds => "backends",
            Self::Allowed => "sourceRanges",
            Self::Hops => "hops",
            Self::Deliveries => "deliveries",
            Self::Gateways => "gateways",
        }
    }
}

impl fmt::Display for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Services => fairlead_abi::map::SERVICES,
            Self::Slots => fairlead_abi::map::SLOTS,
            Self::Backends => fairlead_abi::map::BACKENDS,
            Self::ServerIds => fairlead_abi::map::SERVER_IDS,
            Self::Allowed => fairlead_abi::map::ALLOWED,
            Self::Hops => fairlead_abi::map::HOPS,
            Self::ServiceIds => fairlead_abi::map::SERVICE_COUNTERS,
            Self::Deliveries => fairlead_abi::map::DELIVERIES,
            Self::Gateways => fairlead_abi::map::GATEWAYS,
        })
    }
}
