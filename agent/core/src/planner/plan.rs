//! What has to change in the kernel, in which order: plain data.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use fairlead_abi::{Backend, Delivery, DeliveryKey, Hop, NO_BACKEND, Ring, ServiceEntry, ServiceKey, Slot};
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
    /// Store the second word of a backend (`hop`, `mtu`, `encap`, `family`) by one 64-bit store.
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
        /// How many entries of `BACKENDS` are set aside for it from `value.backends` on; for [`Installed`](super::Installed) only.
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

/// The slots of one ring. Made on the fly from what they share with the table, for ten thousand rings stand in one plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotBlock {
    /// Positions in the table's backends.
    pub(crate) ring: Arc<[u16]>,
    /// From those to indexes in the service's backend list.
    pub(crate) local: Arc<[u16]>,
    /// [`ServiceTable::ring_hash`].
    pub(crate) hash: u64,
}

impl SlotBlock {
    /// How many.
    #[must_use]
    pub fn len(&self) -> u32 {
        u32::try_from(self.ring.len()).expect("a ring has one of RING_SIZES")
    }

    /// Whether there are none; a plan never writes such a block.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// In order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Slot> + '_ {
        self.ring
            .iter()
            .map(|&position| Slot::new(self.local.get(usize::from(position)).copied().unwrap_or(NO_BACKEND)))
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
    /// Services that need no further look once this plan is done.
    pub(crate) settled: Vec<(ServiceKey, Arc<ServiceTable>)>,
    /// The links that all hops follow once this plan is done.
    pub(crate) links: Option<Arc<Links>>,
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
            Self::Backends => "backends",
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
            Self::Hops => fairlead_abi::map::HOPS,
            Self::ServiceIds => fairlead_abi::map::SERVICE_COUNTERS,
            Self::Deliveries => fairlead_abi::map::DELIVERIES,
            Self::Gateways => fairlead_abi::map::GATEWAYS,
        })
    }
}
