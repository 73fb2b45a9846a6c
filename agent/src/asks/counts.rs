//! What receivers have counted, as they answer and as they announce.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use fairlead_abi::{Count, ServiceEntry, ServiceKey};
use fairlead_core::{
    asks::{Asker, Holding as Said},
    model::{Held, Holding},
    planner::{ServiceTable, Verdict},
};
use ipnet::IpNet;

/// What a receiver has counted. One that hasn't counted lately says the most there is.
pub(super) fn counted(said: Said) -> Option<Holding> {
    (said.flows != Count::UNKNOWN).then_some(Holding { flows: said.flows.into(), at: said.at })
}

/// What is known of all endpoints' flows, by what was counted last.
pub(super) fn all_counts(asker: &Asker, tunnels: &[IpNet]) -> Held {
    let holding = |(service, outer, said)| Some(((service, IpAddr::from(outer)), counted(said)?));
    let mut reports: BTreeMap<_, _> = asker.holdings().filter_map(holding).collect();
    for told in asker.announcements().filter(|told| told.is_reached_by(tunnels)) {
        let (key, at) = ((told.service, told.outer.into()), told.at);
        let Some(announced) = told.flows.map(|flows| Holding { flows: flows.into(), at }) else { continue };
        let known = reports.entry(key).or_insert(announced);
        if known.at < at {
            *known = announced;
        }
    }
    Held { reports, ..Held::default() }
}

/// Adds the endpoints that receivers announce of services that are served here, and that these may lack.
pub(super) fn add_announced(
    held: &mut Held,
    asker: &Asker,
    known: &BTreeMap<ServiceKey, Arc<ServiceTable>>,
    tunnels: &[IpNet],
) {
    for told in asker.announcements() {
        let Some(table) = known.get(&told.service) else { continue };
        let (key, at) = ((told.service, IpAddr::from(told.outer)), told.at);
        // A QUIC server may have made its ID of either address; those of one that is known lead there already.
        let is_quic = table.flags & ServiceEntry::QUIC != 0;
        if !told.is_reached_by(tunnels) && !is_quic || table.is_other_address(key.1) {
            continue;
        }
        let place = table.backends.binary_search_by_key(&key.1, |backend| backend.outer);
        if place.is_ok_and(|place| table.backends[place].verdict != Verdict::Lingering) {
            continue;
        }
        let last = held.announced.entry(key).or_insert(at);
        *last = at.max(*last);
        let Some(holding) = told.flows.map(|flows| Holding { flows: flows.into(), at }) else { continue };
        let known = held.reports.entry(key).or_insert(holding);
        if known.at < at {
            *known = holding;
        }
    }
}
