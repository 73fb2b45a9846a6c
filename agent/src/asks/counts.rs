//! What receivers have counted, as they answer and as they announce.

use std::{collections::BTreeMap, net::IpAddr};

use fairlead_core::{
    asks::{Asker, Holding as Said},
    model::{Held, Holding},
};

use crate::dataplane::COUNTED_FOR;

/// What a receiver has counted, at the earliest when it can have. One that hasn't counted lately says the most there is.
pub(super) fn counted(said: Said) -> Option<Holding> {
    let at = said.at.saturating_sub(COUNTED_FOR);
    (said.flows != u32::MAX).then_some(Holding { flows: said.flows.into(), at })
}

/// What is known of all endpoints' flows, by what was counted last.
pub(super) fn all_counts(asker: &Asker) -> Held {
    let holding = |(service, outer, said)| Some(((service, IpAddr::from(outer)), counted(said)?));
    let mut reports: BTreeMap<_, _> = asker.holdings().filter_map(holding).collect();
    for (service, outer, flows, at) in asker.announcements() {
        let announced = Holding { flows: flows.into(), at };
        let known = reports.entry((service, outer.into())).or_insert(announced);
        if known.at < at {
            *known = announced;
        }
    }
    Held { reports, ..Held::default() }
}
