//! What the receiver knows: what it delivers, and whose tunnel packets it takes.
//!
//! That doesn't depend on any other table: a ring that finds no room here is no reason to refuse another gateway's
//! packets. It comes before the services, because their rings may name endpoints of this node.

use std::collections::{BTreeMap, BTreeSet};

use fairlead_abi::{DeliveryKey, ServiceKey};

use super::{Newcomers, Work, fits};
use crate::planner::{Action, Full, Installed, Map};

impl Work<'_> {
    /// Puts what is missing. Where not all of it fits, nothing is put, or with `only_live` what there is room for.
    pub(super) fn receiver(&mut self) -> Result<(), Full> {
        let (wanted, capacities) = (self.wanted, &self.installed.capacities);
        let deliveries = fits(Map::Deliveries, wanted.deliveries.len(), capacities.deliveries);
        let gateways = fits(Map::Gateways, wanted.gateways.len(), capacities.gateways);
        if !self.only_live {
            deliveries.and(gateways)?;
        }
        self.put_deliveries(deliveries.is_ok());
        if gateways.is_ok() {
            self.put_gateways();
        }
        deliveries.and(gateways)
    }

    fn put_deliveries(&mut self, all_fit: bool) {
        let (wanted, installed) = (self.wanted, self.installed);
        let room = installed.capacities.deliveries as usize;
        let missing: Vec<DeliveryKey> =
            wanted.deliveries.keys().filter(|key| !installed.deliveries.contains_key(key)).copied().collect();
        if installed.deliveries.len() + missing.len() > room {
            // What nobody wants any more makes room: it leads to endpoints that are gone.
            self.forget_deliveries();
        }
        let chosen = if all_fit {
            missing.into_iter().collect()
        } else {
            let kept = wanted.deliveries.len() - missing.len();
            self.choose(&missing, room.saturating_sub(kept))
        };
        for (key, delivery) in &wanted.deliveries {
            let known = installed.deliveries.get(key);
            if known != Some(delivery) && (known.is_some() || chosen.contains(key)) {
                self.actions.push(Action::PutDelivery { key: *key, delivery: *delivery });
            }
        }
    }

    /// Which of the `missing` deliveries there is room for: first, endpoint by endpoint, those of services that are
    /// known here, whose endpoints come and go; then those of newcomers, service by service.
    fn choose(&self, missing: &[DeliveryKey], room: usize) -> BTreeSet<DeliveryKey> {
        let installed = self.installed;
        let delivered: BTreeSet<ServiceKey> =
            installed.deliveries.keys().filter_map(DeliveryKey::service).collect();
        let is_known = |key: &ServiceKey| delivered.contains(key) || installed.live.contains_key(key);
        let mut endpoints: BTreeMap<_, Vec<DeliveryKey>> = BTreeMap::new();
        let mut newcomers: BTreeMap<_, Vec<DeliveryKey>> = BTreeMap::new();
        for key in missing {
            match (key.service(), self.newcomers) {
                (Some(service), _) if is_known(&service) => {
                    endpoints.entry(key.outer).or_default().push(*key);
                }
                (Some(service), Newcomers::LetIn { last }) => {
                    newcomers.entry((last.contains(&service), service)).or_default().push(*key);
                }
                _ => {}
            }
        }
        let mut chosen = BTreeSet::new();
        for mut group in endpoints.into_values().chain(newcomers.into_values()) {
            let alone: BTreeSet<_> = group.iter().map(|key| DeliveryKey::endpoint_only(key.outer)).collect();
            group.extend(
                alone.into_iter().filter(|key| missing.binary_search(key).is_ok() && !chosen.contains(key)),
            );
            if chosen.len() + group.len() <= room {
                chosen.extend(group);
            }
        }
        chosen
    }

    fn put_gateways(&mut self) {
        let (wanted, installed) = (self.wanted, self.installed);
        let missing: Vec<_> = wanted.gateways.difference(&installed.gateways).copied().collect();
        if installed.gateways.len() + missing.len() > installed.capacities.gateways as usize {
            self.forget_gateways();
        }
        self.actions.extend(missing.into_iter().map(|prefix| Action::PutGateway { prefix }));
    }

    /// What is not wanted any more, unless it is forgotten already.
    pub(super) fn forget_deliveries(&mut self) {
        if std::mem::replace(&mut self.forgot_deliveries, true) {
            return;
        }
        let unwanted =
            self.installed.deliveries.keys().filter(|key| !self.wanted.deliveries.contains_key(key));
        self.actions.extend(unwanted.map(|&key| Action::RemoveDelivery { key }));
    }

    /// The same of gateways.
    pub(super) fn forget_gateways(&mut self) {
        if std::mem::replace(&mut self.forgot_gateways, true) {
            return;
        }
        let unwanted = self.installed.gateways.difference(&self.wanted.gateways);
        self.actions.extend(unwanted.map(|&prefix| Action::RemoveGateway { prefix }));
    }
}

impl Installed {
    /// The services of which some wanted delivery is missing.
    pub(super) fn undelivered<'a>(
        &'a self,
        wanted: &'a crate::planner::Tables,
    ) -> impl Iterator<Item = ServiceKey> + 'a {
        let missing = wanted.deliveries.keys().filter(|key| !self.deliveries.contains_key(key));
        missing.filter_map(DeliveryKey::service)
    }
}
