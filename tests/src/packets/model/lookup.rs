//! The tables as the model asks them.

use std::{collections::HashMap, net::IpAddr};

use fairlead_abi::{
    Address, Backend, Delivery, DeliveryKey, DropReason, Family, Flow, Hop, NO_BACKEND, SERVER_ID_LENGTH,
    ServiceEntry, ServiceKey, Slot, flow_hash, kind, slot_hash, slot_of,
};
use ipnet::IpNet;

use super::{
    super::{Service, Tables},
    bounce::comes_after,
};

/// Where a flow belongs: its service and slot.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The service's id.
    pub(super) service: u32,
    pub(super) is_udp: bool,
    pub(super) hash: u32,
    slot: Slot,
    /// The service's own list, and the index of its first in `BACKENDS`.
    backends: Vec<Backend>,
    first: u32,
}

/// A backend to try.
#[derive(Clone, Copy, Debug)]
pub(super) struct Try {
    pub(super) kind: u8,
    /// Index in `BACKENDS`.
    pub(super) index: u32,
    pub(super) backend: Backend,
}

impl Place {
    /// A backend of the service; none by that number: none.
    pub(super) fn attempt(&self, kind: u8, number: u16) -> Option<Try> {
        let backend = *self.backends.get(usize::from(number))?;
        Some(Try { kind, index: self.first + u32::from(number), backend })
    }

    /// Where the packet of a new connection goes, or of a flow that is nobody's.
    pub(super) fn current(&self) -> Option<Try> {
        self.attempt(kind::UNMARKED, self.slot.current)
    }

    /// The backend of an index, that was chosen by a kind before, and those that come after it.
    pub(super) fn from(&self, kind: u8, index: u32) -> Vec<Try> {
        let number = u16::try_from(index - self.first).expect("one of the service's");
        let guessed = (kind == kind::GUESS).then_some(number);
        let rest = self.after_current(guessed).into_iter().filter(|next| comes_after(next.kind, kind));
        self.attempt(kind, number).into_iter().chain(rest).collect()
    }

    /// The backends of the slot, one after the other, without one that was tried as a guess; a flow of UDP ends where it
    /// began.
    pub(super) fn after_current(&self, guessed: Option<u16>) -> Vec<Try> {
        let [a, b, c] = self.slot.formers;
        let current = (kind::CURRENT, self.slot.current);
        let formers = (kind::FORMER..).zip([a, b, c]);
        let all = std::iter::once(current).chain(formers).filter(|(_, number)| Some(*number) != guessed);
        let tries = all.filter_map(|(kind, number)| self.attempt(kind, number));
        tries.chain(if self.is_udp { self.current() } else { None }).collect()
    }
}

#[derive(Clone, Debug)]
pub(super) struct Lookup {
    /// With the index in `BACKENDS` of its first backend.
    services: HashMap<ServiceKey, (Service, u32)>,
    deliveries: HashMap<DeliveryKey, Delivery>,
    hops: Vec<Hop>,
    gateways: Vec<IpNet>,
    servers: HashMap<(ServiceKey, [u8; SERVER_ID_LENGTH]), u16>,
    allowed: Vec<(ServiceKey, IpNet)>,
    cache: Vec<(ServiceKey, Flow, u16)>,
}

impl Lookup {
    pub(super) fn new(tables: &Tables) -> Self {
        let services = tables.services.iter().cloned().zip(tables.first_backends());
        Self {
            services: services.map(|(service, first)| (service.key, (service, first))).collect(),
            deliveries: tables.deliveries.iter().copied().collect(),
            hops: tables.hops.clone(),
            gateways: tables.gateways.clone(),
            servers: tables.server_ids.iter().map(|&(key, id, number)| ((key, id), number)).collect(),
            allowed: tables.allowed.clone(),
            cache: tables.cache.clone(),
        }
    }

    pub(super) fn service(&self, vip: Address, port: u16, protocol: u8, family: Family) -> Option<&Service> {
        self.services.get(&ServiceKey::new(vip, port, protocol, family)).map(|(service, _)| service)
    }

    pub(super) fn vip(&self, address: Address, family: Family) -> Option<&Service> {
        self.service(address, 0, 0, family)
    }

    /// Whether a service lets a client in.
    pub(super) fn allows(&self, key: &ServiceKey, client: Address) -> bool {
        let (service, _) = &self.services[key];
        let client = client_of(client, service.key.vip.is_v4());
        let mut ranges = self.allowed.iter().filter(|(of, _)| of == key);
        service.flags & ServiceEntry::RESTRICTED == 0 || ranges.any(|(_, range)| range.contains(&client))
    }

    /// The flow's place.
    pub(super) fn place(&self, key: &ServiceKey, flow: &Flow, seed: u64) -> Result<Place, DropReason> {
        let (service, first) = &self.services[key];
        if service.astray.is_some() {
            return Err(DropReason::Inconsistent);
        }
        let hash = flow_hash(seed, flow);
        let size = u32::try_from(service.slots.len()).expect("a ring");
        let place = slot_of(slot_hash(seed, flow, service.flags), size);
        let slot = *service.slots.get(place as usize).ok_or(DropReason::NoBackend)?;
        Ok(Place {
            service: service.id,
            is_udp: key.protocol == 17,
            hash,
            slot,
            backends: service.backends.clone(),
            first: *first,
        })
    }

    /// The number of the backend that has a server ID, and a place that has no slot.
    pub(super) fn server(
        &self,
        key: &ServiceKey,
        flow: &Flow,
        seed: u64,
        id: [u8; SERVER_ID_LENGTH],
    ) -> Option<(Place, u16)> {
        let number = *self.servers.get(&(*key, id))?;
        let (service, first) = &self.services[key];
        let place = Place {
            service: service.id,
            is_udp: true,
            hash: flow_hash(seed, flow),
            slot: Slot::new(NO_BACKEND),
            backends: service.backends.clone(),
            first: *first,
        };
        Some((place, number))
    }

    /// The number of the backend that the cache names for a flow.
    pub(super) fn cached(&self, key: &ServiceKey, flow: &Flow) -> Option<u16> {
        let found = self.cache.iter().find(|(of, known, _)| of == key && known == flow);
        found.map(|(.., number)| *number)
    }

    /// Removes a flow from the cache; whether it was there.
    pub(super) fn forget(&mut self, key: &ServiceKey, flow: &Flow) -> bool {
        let before = self.cache.len();
        self.cache.retain(|(of, known, _)| of != key || known != flow);
        self.cache.len() < before
    }

    pub(super) fn hop(&self, number: u32) -> Option<&Hop> {
        self.hops.get((number as usize).checked_sub(1)?).filter(|hop| hop.ifindex != 0)
    }

    pub(super) fn delivery(&self, key: &DeliveryKey) -> Option<&Delivery> {
        self.deliveries.get(key)
    }

    /// Whether the address is of a gateway. One in IPv4's shape is an IPv4 address, in whichever header it stands.
    pub(super) fn is_gateway(&self, address: Address) -> bool {
        let address = IpAddr::from(address);
        self.gateways.iter().any(|prefix| prefix.contains(&address))
    }
}

/// A client's address as ranges have it: what stands in an IPv6 header is one of IPv6, whatever its shape.
fn client_of(client: Address, v4: bool) -> IpAddr {
    if v4 { IpAddr::from(client.to_v4()) } else { IpAddr::from(client.bytes) }
}
