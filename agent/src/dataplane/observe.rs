//! Reads the kernel's tables back, whole.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::{HashMap, LpmTrie, MapError};
use fairlead_abi::{Address, Delivery, DeliveryKey, map};
use fairlead_core::planner::Raw;
use ipnet::IpNet;

use super::{Dataplane, Error};

impl Dataplane {
    /// What the tables hold now.
    pub fn observe(&self) -> Result<Raw<'_>, Error> {
        Ok(Raw {
            buckets: self.services.elements(),
            slots: self.slots.elements(),
            backends: self.backends.elements(),
            hops: self.hops.elements(),
            deliveries: self.deliveries()?,
            gateways: self.gateways()?,
        })
    }

    fn deliveries(&self) -> Result<BTreeMap<DeliveryKey, Delivery>, Error> {
        let error = Error::map(map::DELIVERIES);
        let table =
            HashMap::<_, DeliveryKey, Delivery>::try_from(self.map(map::DELIVERIES)?).map_err(&error)?;
        table.iter().collect::<Result<_, MapError>>().map_err(error)
    }

    fn gateways(&self) -> Result<BTreeSet<IpNet>, Error> {
        let error = Error::map(map::GATEWAYS);
        let trie = LpmTrie::<_, [u8; 16], u32>::try_from(self.map(map::GATEWAYS)?).map_err(&error)?;
        let mut prefixes = BTreeSet::new();
        for entry in trie.iter() {
            let (key, _) = entry.map_err(&error)?;
            prefixes.extend(prefix(key.prefix_len(), key.data()));
        }
        Ok(prefixes)
    }
}

/// A key of the trie as a prefix; `None` for one that no agent writes.
fn prefix(length: u32, bytes: [u8; 16]) -> Option<IpNet> {
    let address = Address::v6(bytes);
    let length = if address.is_v4() { length.checked_sub(96)? } else { length };
    IpNet::new(address.into(), u8::try_from(length).ok()?).ok()
}
