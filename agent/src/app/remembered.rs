//! What an agent before this one had found out, from the status that it left.
//!
//! So that a new agent, whatever tables it begins with, doesn't try again on clients what is known not to answer, goes
//! on where that one served, and doesn't send everything to the nearest shard until it has counted anew. It counts until
//! something else is seen; numbers only while they are young.

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use fairlead_abi::ServiceKey;
use fairlead_core::{
    model::{Demand, Health, Probe, ProbeState, Protocol, Tuning},
    planner::{Installed, Planner, ServiceTable, ShardState, Tables, Verdict},
};

use crate::status::{Moment, Status, read_status};

/// Demand that was seen longer ago says nothing of now.
const DEMAND_LASTS: Duration = Duration::from_mins(10);

/// What was last told; nothing where no agent ran before.
///
/// Not the tables themselves: they may take more memory than the agent's own.
#[derive(Debug, Default)]
pub(crate) struct Remembered {
    /// Endpoints that failed.
    pub(crate) health: Health,
    /// Every port of every VIP.
    services: BTreeSet<ServiceKey>,
    /// Those with a shard that was being let in, or with endpoints that lingered.
    unsettled: Vec<Arc<ServiceTable>>,
    /// For what there was no room.
    unserved: BTreeSet<ServiceKey>,
    /// New connections per second, where that isn't too long ago.
    pub(crate) demand: Demand,
    /// How long ago all that was, where that can be told.
    age: Option<Duration>,
}

impl Remembered {
    /// From the state directory.
    pub(super) fn read(directory: &Path) -> Self {
        match read_status(directory) {
            Ok(status) => Self::of(status),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Self::default(),
            Err(error) => {
                tracing::warn!(%error, "what an agent before this one knew can't be read; all endpoints count as unprobed");
                Self::default()
            }
        }
    }

    /// From what was read there.
    pub(crate) fn of(status: Status) -> Self {
        Self::as_of(status, Moment::now().as_ref())
    }

    fn as_of(status: Status, now: Option<&Moment>) -> Self {
        let age = status.at.zip(now).and_then(|(then, now)| then.age(now));
        let young = age.is_some_and(|age| age < DEMAND_LASTS);
        let demand = if young { status.demand.into_iter().collect() } else { Default::default() };
        let is_unsettled = |table: &Arc<ServiceTable>| {
            table.shards.iter().any(|shard| matches!(shard.state, ShardState::Returning { .. }))
                || table.backends.iter().any(|backend| backend.verdict == Verdict::Lingering)
        };
        Self {
            health: last_health(status.services.iter().map(|table| &**table)),
            services: status.services.iter().map(|table| table.key()).collect(),
            unsettled: status.services.into_iter().filter(is_unsettled).collect(),
            unserved: status.unserved.iter().map(Into::into).collect(),
            demand: Demand { per_second: demand },
            age,
        }
    }

    /// One that goes on where the agent's was, with what it left in the kernel.
    pub(crate) fn planner(&self, tuning: &Tuning, installed: &Installed) -> Planner {
        let mut planner = Planner::new();
        if let Some(age) = self.age {
            planner.resume(self.unsettled.iter().map(|table| &**table), (age, Duration::ZERO), tuning);
        }
        planner.inherit(installed, Duration::ZERO);
        planner
    }

    /// What of `wanted` was not served before: there was no room, or it wasn't there.
    pub(crate) fn unserved(&self, wanted: &Tables) -> BTreeSet<ServiceKey> {
        let mut unserved = self.unserved.clone();
        if !self.services.is_empty() {
            unserved.extend(wanted.services.keys().filter(|key| !self.services.contains(key)));
        }
        unserved
    }
}

/// The failing endpoints that the agent last knew of, as probe results.
pub(crate) fn last_health<'a>(tables: impl IntoIterator<Item = &'a ServiceTable>) -> Health {
    let mut health = Health::default();
    let bad = Probe { state: ProbeState::Bad, since: Duration::ZERO };
    for table in tables.into_iter().filter(|table| table.protocol == Some(Protocol::Tcp)) {
        // In a panic, which of those that aren't needed pass isn't said; that so few do is what made the panic.
        let panic = table.shards.iter().any(|shard| shard.state == ShardState::Panic);
        let failing = |verdict| match verdict {
            Verdict::ProbesFail | Verdict::Panic => true,
            Verdict::Standby => panic,
            _ => false,
        };
        for backend in table.backends.iter().filter(|backend| failing(backend.verdict)) {
            health.set(&table.name, backend.endpoint, &table.port_name, bad);
        }
    }
    health
}

#[cfg(test)]
mod tests {
    use fairlead_core::model::ObjectName;

    use super::*;

    #[test]
    fn demand_counts_while_it_is_young_and_of_this_boot() {
        let web = ObjectName::new("shop", "web");
        let then = Moment::now();
        let status = Status {
            at: then.clone(),
            demand: vec![(web.clone(), 96)],
            ..Status::starting(&crate::config::tests::good())
        };
        // As it goes to disk and comes back.
        let kept: Status = serde_json::from_str(&serde_json::to_string(&status).unwrap()).unwrap();
        let now = Moment::now();
        let remembered = Remembered::as_of(kept.clone(), now.as_ref());
        assert_eq!(remembered.demand.of(&web), 96);
        assert!(remembered.age.unwrap() < DEMAND_LASTS);
        let later = then.map(|then| then.after(DEMAND_LASTS));
        assert_eq!(Remembered::as_of(kept.clone(), later.as_ref()).demand.of(&web), 0);
        assert_eq!(Remembered::as_of(kept, None).demand.of(&web), 0);
    }
}
