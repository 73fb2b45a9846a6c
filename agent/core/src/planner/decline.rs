//! How much worse tables have become that nobody changes while endpoints come and go.

use std::collections::BTreeMap;

use fairlead_abi::ServiceKey;

use super::{ServiceTable, Tables, Verdict};

impl Tables {
    /// What these serve less now than when they were made, in services: of each that is still wanted, the share of its
    /// slots whose endpoints are gone, or of its deliveries that are missing; whichever is larger.
    #[must_use]
    pub fn decline(&self, now: &Self) -> f64 {
        let undelivered = self.undelivered(now);
        let of_service = |key: &ServiceKey| {
            let slots = self.services.get(key).zip(now.services.get(key)).map(|(then, now)| gone(then, now));
            let deliveries = undelivered.get(key).copied();
            slots.unwrap_or_default().max(deliveries.unwrap_or_default())
        };
        let unknown = undelivered.keys().filter(|key| !self.services.contains_key(key));
        self.services.keys().chain(unknown).map(of_service).sum()
    }

    /// Of each service that this node delivers now, the share that wasn't delivered then.
    fn undelivered(&self, now: &Self) -> BTreeMap<ServiceKey, f64> {
        let mut counts: BTreeMap<_, (u32, u32)> = BTreeMap::new();
        for key in now.deliveries.keys() {
            let Some(service) = key.service() else { continue };
            let (missing, all) = counts.entry(service).or_default();
            *missing += u32::from(!self.deliveries.contains_key(key));
            *all += 1;
        }
        counts
            .into_iter()
            .map(|(service, (missing, all))| (service, f64::from(missing) / f64::from(all)))
            .collect()
    }
}

/// The share of the weights of `then` whose endpoints take no connections now.
fn gone(then: &ServiceTable, now: &ServiceTable) -> f64 {
    let lives = |verdict: Verdict| verdict.is_taken() || verdict == Verdict::Standby;
    let (mut gone, mut all) = (0, 0);
    for backend in &then.backends {
        let weight = u32::from(backend.weight);
        all += weight;
        let today = now.backends.binary_search_by_key(&backend.outer, |backend| backend.outer);
        if !today.is_ok_and(|at| lives(now.backends[at].verdict)) {
            gone += weight;
        }
    }
    if all == 0 { 0.0 } else { f64::from(gone) / f64::from(all) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fairlead_abi::{Address, Delivery, DeliveryKey, Family};

    use super::*;

    /// A service of endpoints with these weights and verdicts, all of which are delivered here.
    fn tables(backends: &[(u8, u16, Verdict)]) -> Tables {
        let vip = Address::v4([203, 0, 113, 1]);
        let key = ServiceKey::new(vip, 80, 6, Family::V4);
        let wanted = |&(last, weight, verdict)| crate::planner::WantedBackend {
            outer: [192, 0, 2, last].into(),
            endpoint: [192, 0, 2, last].into(),
            port: 80,
            encap: fairlead_abi::Encap::Ipip,
            weight,
            shard: 0,
            pod: Arc::default(),
            verdict,
        };
        let table = ServiceTable {
            name: crate::model::ObjectName::new("shop", "web"),
            port_name: Arc::default(),
            vip: [203, 0, 113, 1].into(),
            port: 80,
            protocol: Some(crate::model::Protocol::Tcp),
            flags: 0,
            backends: backends.iter().map(wanted).collect(),
            ring: Arc::default(),
            ring_hash: 0,
            shards: Vec::new(),
            not_taken: Vec::new(),
        };
        let deliver = |&(last, ..): &(u8, u16, Verdict)| {
            let outer = Address::v4([192, 0, 2, last]);
            let family = Family::V4 as u8;
            let key = DeliveryKey { outer, vip, port: 80_u16.to_be_bytes(), protocol: 6, family, padding: 0 };
            [(key, Delivery::default()), (DeliveryKey::endpoint_only(outer), Delivery::default())]
        };
        Tables {
            services: [(key, Arc::new(table))].into(),
            deliveries: backends.iter().flat_map(deliver).collect(),
            ..Tables::default()
        }
    }

    #[test]
    fn tables_decline_with_the_endpoints_that_hold_their_slots() {
        use Verdict::{Draining, NotReady, ProbesFail, Standby, Taken};
        let then = tables(&[(1, 50, Taken), (2, 30, Taken), (3, 20, Taken), (4, 0, Standby)]);
        let none = &[] as &[(u8, u16, Verdict)];
        for (now, declined) in [
            (&[(1, 50, Taken), (2, 30, Taken), (3, 20, Taken), (4, 0, Standby)][..], 0.0),
            (&[(1, 0, Standby), (2, 30, Taken), (3, 20, Taken), (4, 50, Taken)], 0.0),
            (&[(1, 0, ProbesFail), (2, 30, Taken), (3, 20, Taken), (4, 50, Taken)], 0.5),
            (&[(1, 50, Taken), (2, 0, NotReady), (3, 0, Draining), (4, 50, Taken)], 0.5),
            (&[(2, 30, Taken), (3, 20, Taken)], 0.5),
            (none, 1.0),
        ] {
            let now = Tables { deliveries: then.deliveries.clone(), ..tables(now) };
            assert_eq!(then.decline(&now), declined, "{now:?}");
        }
        assert_eq!(then.decline(&Tables::default()), 0.0, "what nobody wants is no loss");
    }

    #[test]
    fn tables_decline_with_the_endpoints_that_they_do_not_deliver() {
        let receiver = |backends: &[_]| Tables { services: BTreeMap::new(), ..tables(backends) };
        let then = receiver(&[(1, 1, Verdict::Taken), (2, 1, Verdict::Taken)]);
        let now = receiver(&[
            (2, 1, Verdict::Taken),
            (3, 1, Verdict::Taken),
            (4, 1, Verdict::Taken),
            (5, 1, Verdict::Taken),
        ]);
        assert_eq!(then.decline(&now), 0.75);
    }
}
