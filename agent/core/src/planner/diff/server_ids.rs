//! Server IDs of QUIC: to which backend of a service each leads.
//!
//! They stand under the first of the service's backends: a service that moves has its IDs at its new place before any
//! packet looks for them there. Where there is no room for all, some are left out, and their packets go by flow: what they
//! lead to is steered to all the same.

use std::collections::BTreeSet;

use fairlead_abi::{Server, ServerKey};

use super::Work;
use crate::planner::installed::{GRACE, Live};
use crate::planner::{Action, Full, Map, NamedServer, ServiceTable, Verdict};

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

    /// Brings the server IDs of a service in line; `local` are the indexes of the table's backends. Whether there was room
    /// for all.
    pub(super) fn set_server_ids(&mut self, live: &Live, table: &ServiceTable, local: &[u16]) -> bool {
        let installed = self.installed;
        let first = installed.region(live).start;
        let wanted: BTreeSet<_> = table.server_ids.iter().map(|server| server.id.0).collect();
        let unwanted = installed.server_ids_of(first).filter(|(key, _)| !wanted.contains(&key.id));
        self.remove_server_ids(unwanted.map(|(&key, _)| key).collect());
        let (there, missing): (Vec<_>, Vec<_>) =
            server_ids(first, table, local).partition(|(key, _)| installed.server_ids.contains_key(key));
        let wrong = |(key, server): &(ServerKey, Server)| installed.server_ids[key] != *server;
        let put = |(key, server)| Action::PutServerId { key, server };
        self.actions.extend(there.into_iter().filter(wrong).map(put));
        self.put_where_there_is_room(missing)
    }

    /// Puts the server IDs of a service whose backends will begin at `first`. Whether there was room for all.
    pub(super) fn put_server_ids(&mut self, first: u32, table: &ServiceTable, local: &[u16]) -> bool {
        self.put_where_there_is_room(server_ids(first, table, local).collect())
    }

    fn put_where_there_is_room(&mut self, servers: Vec<(ServerKey, Server)>) -> bool {
        let room = self.space.server_ids(servers.len());
        let lacking = servers.len() - room;
        self.unnamed += lacking;
        let put = |(key, server)| Action::PutServerId { key, server };
        self.actions.extend(servers.into_iter().take(room).map(put));
        lacking == 0
    }

    fn remove_server_ids(&mut self, keys: Vec<ServerKey>) {
        self.space.free_server_ids(keys.len());
        self.actions.extend(keys.into_iter().map(|key| Action::RemoveServerId { key }));
    }

    /// Why server IDs are left out, if some are. What this plan frees they get soon.
    pub(super) fn unnamed(&mut self) -> Option<Full> {
        if self.unnamed == 0 {
            return None;
        }
        if self.actions.iter().any(|action| matches!(action, Action::RemoveServerId { .. })) {
            self.wait_until(self.now + GRACE);
        }
        let capacity = self.installed.capacities.server_ids();
        let needed = self.space.used_server_ids() + self.unnamed;
        Some(Full { map: Map::ServerIds, needed: needed as u64, capacity: capacity.into(), retry_at: None })
    }

    /// Whether a server ID of the service leads to one of these indexes of `BACKENDS`.
    pub(super) fn has_server_ids(&self, live: &Live, backends: &[u32]) -> bool {
        let first = self.installed.region(live).start;
        !backends.is_empty()
            && self.installed.server_ids_of(first).any(|(_, server)| backends.contains(&server.backend))
    }
}

/// What is to stand in the map; what lingers comes last.
fn server_ids<'t>(
    first: u32,
    table: &'t ServiceTable,
    local: &'t [u16],
) -> impl Iterator<Item = (ServerKey, Server)> + use<'t> {
    let lingers =
        |named: &&NamedServer| table.backends[usize::from(named.backend)].verdict == Verdict::Lingering;
    let there = table.server_ids.iter().filter(move |named| !lingers(named));
    there.chain(table.server_ids.iter().filter(lingers)).map(move |named| {
        let backend = first + u32::from(local[usize::from(named.backend)]);
        (ServerKey { first, padding: 0, id: named.id.0 }, Server { backend })
    })
}
