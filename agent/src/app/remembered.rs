//! What an agent before this one had found out about endpoints, from the status that it left.
//!
//! So that a new agent, whatever tables it begins with, doesn't try again on clients what is known not to answer. It
//! counts until probes say something else.

use std::{path::Path, time::Duration};

use fairlead_core::{
    model::{Health, Probe, ProbeState, Protocol},
    planner::{ServiceTable, ShardState, Verdict},
};

use super::read_status;

/// The failing endpoints that an agent last told of in `directory`; none where it left nothing.
pub(super) fn remembered(directory: &Path) -> Health {
    match read_status(directory) {
        Ok(status) => last_health(status.services.iter().map(|table| &**table)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Health::default(),
        Err(error) => {
            tracing::warn!(%error, "what an agent before this one knew can't be read; all endpoints count as unprobed");
            Health::default()
        }
    }
}

/// The failing endpoints that the agent last knew of, as probe results.
#[must_use]
pub fn last_health<'a>(tables: impl IntoIterator<Item = &'a ServiceTable>) -> Health {
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
