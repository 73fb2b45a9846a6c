//! How many new connections a second clients ask for, from the programs' counters.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use fairlead_abi::ServiceKey;
use fairlead_core::{
    model::{Demand, DemandFilter, Model, ObjectName, Tuning},
    planner::{Installed, Tables},
};

use crate::dataplane::{Counters, Error};

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
    /// counts stands for each of the `gateways` of its group.
    pub(super) fn observe<M: std::borrow::Borrow<aya::maps::MapData>>(
        &mut self,
        counters: &Counters<M>,
        (model, tables, installed): (&Model, &Tables, &Installed),
        gateways: usize,
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
                #[expect(clippy::cast_precision_loss, reason = "a rate, and one gateway's group is small")]
                let rate = (connections - before) as f64 / elapsed * gateways as f64;
                *rates.entry(table.name.clone()).or_default() += rate;
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

/// Services of which some shard says how much it can take: for the others demand changes nothing.
fn limited(model: &Model) -> impl Iterator<Item = &ObjectName> {
    let is_limited = |shards: &[fairlead_core::model::Shard]| {
        shards.iter().any(|shard| shard.spec.options.capacity_per_endpoint.is_some())
    };
    model.services.iter().filter(move |(_, service)| is_limited(&service.shards)).map(|(name, _)| name)
}
