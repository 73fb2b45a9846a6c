//! How many new connections a second clients ask for, from the programs' counters, and from what receivers count.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use fairlead_abi::{ServiceKey, protocol};
use fairlead_core::{
    model::{Demand, DemandFilter, Model, ObjectName, Tuning},
    planner::{Installed, Tables},
};

use crate::{
    asks::Opened,
    dataplane::{Counters, Error},
};

/// Samples the counters of all services: one whose capacity becomes limited has a past to plan with.
pub(super) struct Sampler {
    filter: DemandFilter,
    /// New connections of each service port so far, and when that was.
    last: Option<BTreeMap<ServiceKey, u64>>,
    at: Duration,
}

impl Sampler {
    /// Goes on from the demand that an agent before this one planned with, if it is known.
    pub(super) fn new(tuning: &Tuning, before: &Demand) -> Self {
        let mut filter = DemandFilter::new(tuning);
        if !before.per_second.is_empty() {
            filter.resume(before, Duration::ZERO);
        }
        Self { filter, last: None, at: Duration::ZERO }
    }

    /// Other numbers count from now on.
    pub(super) fn retune(&mut self, tuning: &Tuning) {
        self.filter.retune(tuning);
    }

    /// The demand as of `now`, if it can be told yet, of the services whose capacity is limited. What this gateway
    /// counts stands for each of the `gateways` of its group, but for services that all receivers have counted: `opened`.
    pub(super) fn observe<M: std::borrow::Borrow<aya::maps::MapData>>(
        &mut self,
        counters: &Counters<M>,
        (model, tables, installed): (&Model, &Tables, &Installed),
        (gateways, opened): (usize, &Opened),
        now: Duration,
    ) -> Result<Option<Demand>, Error> {
        let elapsed = now.saturating_sub(self.at).as_secs_f64().max(0.001);
        let mut seen = BTreeMap::new();
        let mut rates = BTreeMap::<ObjectName, f64>::new();
        for (key, _, _, entry) in installed.services() {
            let Some(table) = tables.services.get(&key).filter(|table| table.protocol.is_some()) else {
                continue;
            };
            let connections = counters.service(entry.id)?.connections;
            // A counter that starts anew has counted since then.
            let before = self
                .last
                .as_ref()
                .and_then(|last| last.get(&key))
                .copied()
                .filter(|before| *before <= connections);
            if let Some(before) = before {
                #[expect(clippy::cast_precision_loss, reason = "a rate")]
                let own = (connections - before) as f64 / elapsed;
                // The programs count what begins a connection, which nothing of UDP does.
                let opened = opened.get(&key).copied().filter(|_| key.protocol == protocol::TCP);
                *rates.entry(table.name.clone()).or_default() += of_group(own, gateways, opened);
            }
            seen.insert(key, connections);
        }
        self.at = now;
        // What was counted before the first look says nothing of how fast.
        if self.last.replace(seen).is_none() {
            return Ok(None);
        }
        let mut demand = self.filter.observe(now, &rates);
        let limited: BTreeSet<&ObjectName> = limited(model).collect();
        demand.per_second.retain(|name, _| limited.contains(name));
        Ok(Some(demand))
    }
}

/// New connections per second in the whole group: this gateway's `own` stands for each other one's. What receivers count is
/// better where it is known: no router spreads evenly, and no flood of SYNs opens a connection. But not less than what
/// comes here: what endpoints have no room for they don't count.
fn of_group(own: f64, gateways: usize, opened: Option<f64>) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a group is small")]
    let gateways = gateways as f64;
    opened.map_or(own * gateways, |opened| opened.max(own))
}

/// Services of which some shard says how much it can take: for the others demand changes nothing.
fn limited(model: &Model) -> impl Iterator<Item = &ObjectName> {
    let is_limited = |shards: &[fairlead_core::model::Shard]| {
        shards.iter().any(|shard| shard.spec.options.capacity_per_endpoint.is_some())
    };
    model.services.iter().filter(move |(_, service)| is_limited(&service.shards)).map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_receivers_count_is_the_groups_and_not_less_than_what_comes_here() {
        let rates = [(30.0, 4, None), (30.0, 4, Some(50.0)), (30.0, 4, Some(0.0))];
        assert_eq!(rates.map(|(own, gateways, opened)| of_group(own, gateways, opened)), [120.0, 50.0, 30.0]);
    }
}
