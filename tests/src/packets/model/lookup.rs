//! The tables as the model asks them.

use std::{collections::HashMap, net::IpAddr};

use fairlead_abi::{
    Address, Backend, Delivery, DeliveryKey, DropReason, Family, Flow, Hop, NO_BACKEND, ServiceKey,
    flow_hash, slot_of,
};
use ipnet::IpNet;

use super::super::{Service, Tables};

/// Where a packet is steered to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steered {
    pub(super) service: u32,
    /// Index in `BACKENDS`.
    pub(super) index: u32,
    pub(super) backend: Backend,
    pub(super) hash: u32,
}

#[derive(Clone, Debug)]
pub(super) struct Lookup {
    /// With the index in `BACKENDS` of its first backend.
    services: HashMap<ServiceKey, (Service, u32)>,
    deliveries: HashMap<DeliveryKey, Delivery>,
    hops: Vec<Hop>,
    gateways: Vec<IpNet>,
}

impl Lookup {
    pub(super) fn new(tables: &Tables) -> Self {
        let services = tables.services.iter().cloned().zip(tables.first_backends());
        Self {
            services: services.map(|(service, first)| (service.key, (service, first))).collect(),
            deliveries: tables.deliveries.iter().copied().collect(),
            hops: tables.hops.clone(),
            gateways: tables.gateways.clone(),
        }
    }

    pub(super) fn service(&self, vip: Address, port: u16, protocol: u8, family: Family) -> Option<&Service> {
        self.services.get(&ServiceKey::new(vip, port, protocol, family)).map(|(service, _)| service)
    }

    pub(super) fn vip(&self, address: Address, family: Family) -> Option<&Service> {
        self.service(address, 0, 0, family)
    }

    /// The flow's slot gives the backend.
    pub(super) fn steer(&self, key: &ServiceKey, flow: &Flow, seed: u64) -> Result<Steered, DropReason> {
        let (service, first) = &self.services[key];
        if service.astray.is_some() {
            return Err(DropReason::Inconsistent);
        }
        let hash = flow_hash(seed, flow);
        let size = u32::try_from(service.slots.len()).expect("a ring");
        let slot = service.slots.get(slot_of(hash, size) as usize).filter(|&&slot| slot != NO_BACKEND);
        let number = *slot.ok_or(DropReason::NoBackend)?;
        let backend = service.backends[usize::from(number)];
        Ok(Steered { service: service.id, index: first + u32::from(number), backend, hash })
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
