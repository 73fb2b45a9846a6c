//! Server IDs of QUIC: to which backend of a service each leads.
//!
//! They stand under the first of the service's backends: a service that moves has its IDs at its new place before any
//! packet looks for them there.

use std::collections::BTreeSet;

use fairlead_abi::{Server, ServerKey};

use super::Work;
use crate::planner::installed::Live;
use crate::planner::{Action, Full, ServiceTable};

impl Work<'_> {
    /// Takes away what no service has: first of all, for it takes room.
    pub(super) fn forget_stray_server_ids(&mut self) {
        let installed = self.installed;
        if installed.server_ids.is_empty() {
            return;
        }
        let firsts: BTreeSet<u32> = installed
            .live
            .values()
            .filter(|live| live.room > 0)
            .map(|live| installed.region(live).start)
            .collect();
        let strays = installed.server_ids.keys().filter(|key| !firsts.contains(&key.first)).copied();
        self.remove_server_ids(strays.collect());
    }

    /// Takes away those of a service that packets don't find any more.
    pub(super) fn forget_server_ids(&mut self, live: &Live) {
        if live.room > 0 {
            let all = self.installed.server_ids_of(self.installed.region(live).start);
            self.remove_server_ids(all.map(|(&key, _)| key).collect());
        }
    }

    /// Brings the server IDs of a service in line; `local` are the indexes of the table's backends.
    pub(super) fn set_server_ids(
        &mut self,
        live: &Live,
        table: &ServiceTable,
        local: &[u16],
    ) -> Result<(), Full> {
        let installed = self.installed;
        let first = installed.region(live).start;
        let wanted: BTreeSet<_> = table.server_ids.iter().map(|server| server.id.0).collect();
        let unwanted = installed.server_ids_of(first).filter(|(key, _)| !wanted.contains(&key.id));
        self.remove_server_ids(unwanted.map(|(&key, _)| key).collect());
        let missing =
            server_ids(first, table, local).filter(|(key, _)| !installed.server_ids.contains_key(key));
        self.space.server_ids(count(missing.count()))?;
        let wrong = |(key, server): &(ServerKey, Server)| installed.server_ids.get(key) != Some(server);
        let put = |(key, server)| Action::PutServerId { key, server };
        self.actions.extend(server_ids(first, table, local).filter(wrong).map(put));
        Ok(())
    }

    /// Puts the server IDs of a service whose backends will begin at `first`.
    pub(super) fn put_server_ids(
        &mut self,
        first: u32,
        table: &ServiceTable,
        local: &[u16],
    ) -> Result<(), Full> {
        self.space.server_ids(count(table.server_ids.len()))?;
        let put = |(key, server)| Action::PutServerId { key, server };
        self.actions.extend(server_ids(first, table, local).map(put));
        Ok(())
    }

    fn remove_server_ids(&mut self, keys: Vec<ServerKey>) {
        // Fewer always fit.
        let _ = self.space.server_ids(-count(keys.len()));
        self.actions.extend(keys.into_iter().map(|key| Action::RemoveServerId { key }));
    }

    /// Whether a server ID of the service leads to one of these indexes of `BACKENDS`.
    pub(super) fn has_server_ids(&self, live: &Live, backends: &[u32]) -> bool {
        let first = self.installed.region(live).start;
        !backends.is_empty()
            && self.installed.server_ids_of(first).any(|(_, server)| backends.contains(&server.backend))
    }
}

fn count(server_ids: usize) -> i64 {
    i64::try_from(server_ids).unwrap_or(i64::MAX)
}

fn server_ids<'t>(
    first: u32,
    table: &'t ServiceTable,
    local: &'t [u16],
) -> impl Iterator<Item = (ServerKey, Server)> + use<'t> {
    table.server_ids.iter().map(move |named| {
        let backend = first + u32::from(local[usize::from(named.backend)]);
        (ServerKey { first, padding: 0, id: named.id.0 }, Server { backend })
    })
}
