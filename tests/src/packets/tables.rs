//! What the maps hold in a test, as plain values: a [`Lab`](super::Lab) writes them, the model looks them up.

use std::net::IpAddr;

use fairlead_abi::{
    Address, BUCKET_ENTRIES, Backend, Bucket, Delivery, DeliveryKey, Encap, Family, Flow, Hop, MAX_PROBE,
    NO_BACKEND, ProbeTarget, Ring, SERVER_ID_LENGTH, Server, ServerKey, ServiceEntry, ServiceKey, Slot,
    bucket_of, slot_hash, slot_of,
};
use ipnet::IpNet;

/// The contents of all tables.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// Services, VIPs' own entries among them.
    pub services: Vec<Service>,
    /// Next hops; the first one has number 1.
    pub hops: Vec<Hop>,
    /// What the receiver delivers.
    pub deliveries: Vec<(DeliveryKey, Delivery)>,
    /// Whose tunnel packets it takes.
    pub gateways: Vec<IpNet>,
    /// Where probes go, by number.
    pub probes: Vec<(u32, ProbeTarget)>,
    /// Server IDs of services, and numbers of their backends.
    pub server_ids: Vec<(ServiceKey, [u8; SERVER_ID_LENGTH], u16)>,
    /// Ranges of the clients that restricted services let in.
    pub allowed: Vec<(ServiceKey, IpNet)>,
    /// What the flow cache holds: flows of services, and numbers of their backends.
    pub cache: Vec<(ServiceKey, Flow, u16)>,
}

/// A service.
#[derive(Clone, Debug)]
pub struct Service {
    /// Index of its counters.
    pub id: u32,
    /// What is matched.
    pub key: ServiceKey,
    /// See [`ServiceEntry::flags`].
    pub flags: u32,
    /// Its ring: numbers of its backends; empty: none.
    pub slots: Vec<Slot>,
    /// Its own list.
    pub backends: Vec<Backend>,
    /// A ring that the entry names instead of `slots`: one that is outside the table.
    pub astray: Option<Ring>,
}

/// The key of `vip`, `port` and `protocol`.
#[must_use]
pub fn service_key(vip: impl Into<IpAddr>, port: u16, protocol: u8) -> ServiceKey {
    let vip = vip.into();
    ServiceKey::new(vip.into(), port, protocol, Family::of(&vip))
}

/// A backend that `hop` leads to.
#[must_use]
pub fn backend(outer: impl Into<IpAddr>, encap: Encap, hop: u32, mtu: u16) -> Backend {
    let outer = outer.into();
    Backend { outer: outer.into(), hop, mtu, encap: encap as u8, family: Family::of(&outer) as u8 }
}

/// Says that `endpoint` is one of this node.
#[must_use]
pub fn endpoint(endpoint: impl Into<IpAddr>) -> (DeliveryKey, Delivery) {
    (DeliveryKey::endpoint_only(endpoint.into().into()), Delivery::default())
}

/// Delivers what comes for `service` at `outer` to `to`, port `port`.
#[must_use]
pub fn delivery(
    outer: impl Into<IpAddr>,
    service: &ServiceKey,
    to: impl Into<IpAddr>,
    port: u16,
    mss: u16,
) -> (DeliveryKey, Delivery) {
    let key = DeliveryKey {
        outer: outer.into().into(),
        vip: service.vip,
        port: service.port.to_be_bytes(),
        protocol: service.protocol,
        family: service.family,
        padding: 0,
    };
    let endpoint: Address = to.into().into();
    (key, Delivery { endpoint, port: port.to_be_bytes(), mss, ..Delivery::default() })
}

impl Service {
    /// A service whose ring of `size` slots goes through its backends in turn.
    #[must_use]
    pub fn new(id: u32, key: ServiceKey, size: usize, backends: Vec<Backend>) -> Self {
        let count = u16::try_from(backends.len()).expect("fewer than 65,536 backends");
        let ring = (0..count).cycle().map(Slot::new).take(if count == 0 { 0 } else { size });
        let slots = ring.collect();
        Self { id, key, flags: 0, slots, backends, astray: None }
    }

    /// The same, with one former backend in every slot: the next of its backends; with two, the one after it too, and so on.
    #[must_use]
    pub fn with_formers(mut self, formers: usize) -> Self {
        let count = u16::try_from(self.backends.len()).expect("fewer than 65,536 backends");
        for slot in self.slots.iter_mut().filter(|slot| slot.current != NO_BACKEND) {
            for (step, former) in (1..).zip(&mut slot.formers[..formers]) {
                *former = (slot.current + step) % count;
            }
        }
        self
    }

    /// The entry that says "this address is a VIP".
    #[must_use]
    pub fn vip(id: u32, vip: impl Into<IpAddr>, flags: u32) -> Self {
        Self { flags, ..Self::new(id, service_key(vip, 0, 0), 0, vec![]) }
    }
}

impl Tables {
    /// Where the backends of each service stand in `BACKENDS`; index 0 is never used.
    #[must_use]
    pub fn first_backends(&self) -> Vec<u32> {
        running(1, self.services.iter().map(|service| service.backends.len()))
    }

    /// Where the ring of each service stands in `SLOTS`.
    #[must_use]
    pub fn first_slots(&self) -> Vec<u32> {
        running(0, self.services.iter().map(|service| service.slots.len()))
    }

    /// The entries of `SERVER_IDS`.
    pub fn servers(&self) -> impl Iterator<Item = (ServerKey, Server)> {
        let firsts: Vec<_> = self.services.iter().zip(self.first_backends()).collect();
        self.server_ids.iter().map(move |&(key, id, number)| {
            let (_, first) = firsts.iter().find(|(service, _)| service.key == key).expect("a service");
            (ServerKey { first: *first, padding: 0, id }, Server { backend: first + u32::from(number) })
        })
    }

    /// The service with a key. Panics where there is none: the test is wrong.
    #[must_use]
    pub fn service(&self, key: &ServiceKey) -> &Service {
        self.services.iter().find(|service| service.key == *key).expect("a service of the test")
    }

    /// The indexes of slots that the flow cache holds flows of.
    pub fn cached_slots(&self, seed: u64) -> impl Iterator<Item = u32> {
        let places: Vec<_> = self.services.iter().zip(self.first_slots()).collect();
        self.cache.iter().map(move |(key, flow, _)| {
            let (service, first) = places.iter().find(|(service, _)| service.key == *key).expect("a service");
            let size = u32::try_from(service.slots.len()).expect("a ring");
            first + slot_of(slot_hash(seed, flow, service.flags), size)
        })
    }

    /// The service table of `mask + 1` buckets. Panics where a key finds no place.
    #[must_use]
    pub fn buckets(&self, mask: u32) -> Vec<Bucket> {
        let mut buckets = vec![Bucket::default(); mask as usize + 1];
        let places = self.first_slots().into_iter().zip(self.first_backends());
        for (service, (first_slot, backends)) in self.services.iter().zip(places) {
            let own = Ring { first_slot, size: u32::try_from(service.slots.len()).expect("a ring") };
            let entry = ServiceEntry {
                vip: service.key.vip,
                port: service.key.port.to_be_bytes(),
                protocol: service.key.protocol,
                family: service.key.family,
                id: service.id,
                ring: service.astray.unwrap_or(own),
                backends,
                flags: service.flags,
            };
            place(&mut buckets, &entry, bucket_of(&service.key, mask), mask);
        }
        buckets
    }
}

/// Where each of several blocks begins that stand one behind the other.
fn running(start: u32, lengths: impl Iterator<Item = usize>) -> Vec<u32> {
    lengths
        .scan(start, |next, length| {
            let first = *next;
            *next += u32::try_from(length).expect("a block of the table");
            Some(first)
        })
        .collect()
}

/// Puts an entry into the first bucket with room from its own on, and marks the full ones before it.
fn place(buckets: &mut [Bucket], entry: &ServiceEntry, own: u32, mask: u32) {
    for step in 0..MAX_PROBE {
        let bucket = &mut buckets[((own + step) & mask) as usize];
        if let Some(free) = (0..BUCKET_ENTRIES).find(|&i| bucket.entries[i].family == 0) {
            bucket.entries[free] = *entry;
            return;
        }
        bucket.overflowed = 1;
    }
    panic!("no room for {:?}", entry.key());
}
