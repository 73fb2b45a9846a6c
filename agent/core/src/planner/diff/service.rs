//! One service: what has to be written so that its entry, ring and backends are as wanted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fairlead_abi::{Address, Backend, Family, NO_BACKEND, ServiceEntry, ServiceKey};

use super::Work;
use crate::model::Protocol;
use crate::planner::installed::{GRACE, Live, in_use};
use crate::planner::{Action, Full, ServiceTable, WantedBackend};

/// How many entries to set aside for so many backends: some spare, so that an endpoint more needs no move.
pub(in crate::planner) fn room_for(backends: u32) -> u32 {
    (backends + backends / 4 + 2).next_multiple_of(4).min(NO_BACKEND.into())
}

impl Work<'_> {
    /// Brings one service in line.
    pub(super) fn service(
        &mut self,
        key: &ServiceKey,
        table: &Arc<ServiceTable>,
        live: Option<&Live>,
    ) -> Result<(), Full> {
        let Some(live) = live else {
            let id = self.space.id()?;
            self.actions.push(Action::ClearServiceCounters { id });
            self.put_ranges(key, id, table.allowed.clone().unwrap_or_default());
            return self.publish(key, table, id, None);
        };
        let Some(local) = self.place_backends(live, table)? else {
            // It has outgrown its region. The old entry goes last; until then lookups find either.
            let id = self.installed.entry(live.spot).id;
            return self.publish(key, table, id, Some(live));
        };
        let leftovers: Vec<u32> = self.leftovers(live, table).collect();
        let named = self.set_server_ids(live, table, &local);
        let before = self.actions.len();
        let switched = self.switch(live, table, local, &leftovers)?;
        let recent = self.is_recent(table, if switched { Some(self.now) } else { live.changed_at });
        let (bucket, entry) = live.spot;
        let flags = table.flags | if recent { ServiceEntry::RECENT } else { 0 };
        let restricted = self.installed.entry(live.spot).flags & !ServiceEntry::RESTRICTED
            | table.flags & ServiceEntry::RESTRICTED;
        if restricted != flags {
            // Before the ring is switched: no packet may meet new slots that don't say so.
            self.actions.insert(before, Action::SetEntryFlags { bucket, entry, flags });
        }
        if leftovers.is_empty() {
            if !switched && !recent && named && !self.short_of_ranges.contains(key) {
                self.settled.push((*key, Arc::clone(table)));
            }
        } else if switched || self.has_server_ids(live, &leftovers) {
            self.wait_until(self.now + GRACE);
        }
        Ok(())
    }

    /// Whether a UDP service counts as one whose slots have changed a short while ago; then it has to be looked at again.
    fn is_recent(&mut self, table: &ServiceTable, changed_at: Option<Duration>) -> bool {
        if table.protocol != Some(Protocol::Udp) {
            return false;
        }
        let Some(until) = changed_at.map(|at| at + self.wanted.udp_unsettled) else { return false };
        let recent = until > self.now;
        if recent {
            self.wait_until(until);
        }
        recent
    }

    /// Publishes a service that stands nowhere yet, or has to move from where it is `live`.
    fn publish(
        &mut self,
        key: &ServiceKey,
        table: &Arc<ServiceTable>,
        id: u32,
        live: Option<&Live>,
    ) -> Result<(), Full> {
        let count = u32::try_from(table.backends.len()).expect("a service has at most 65,535 backends");
        // A VIP by itself never has backends; everything else may get some.
        let (start, room) = match table.protocol {
            None => (0, 0),
            Some(_) => {
                let room = if self.spare { room_for(count) } else { count.max(1) };
                (self.space.region(room)?, room)
            }
        };
        if count > 0 {
            self.actions.push(Action::ClearBackendCounters { first: start, count });
        }
        for (index, wanted) in (start..).zip(&table.backends) {
            let backend = self.backend(wanted)?;
            self.actions.push(Action::WriteBackend { index, backend });
        }
        let local: Vec<u16> = (0..NO_BACKEND).take(table.backends.len()).collect();
        let named = self.put_server_ids(start, table, &local);
        let before = live.map(|live| self.before(live, table, &local));
        let ring = self.write_ring(table, local, before.as_ref())?;
        // What stands nowhere yet has no flows.
        let recent = self.is_recent(table, live.map(|_| self.now));
        let (spot, overflowed) = self.space.entry(key)?;
        let mark = |bucket| Action::SetOverflowed { bucket, value: 1 };
        self.actions.extend(overflowed.into_iter().map(mark));
        let value = ServiceEntry {
            vip: key.vip,
            port: key.port.to_be_bytes(),
            protocol: key.protocol,
            family: key.family,
            id,
            ring,
            backends: start,
            flags: table.flags | if recent { ServiceEntry::RECENT } else { 0 },
        };
        self.actions.push(Action::PublishEntry { bucket: spot.0, entry: spot.1, value, room });
        self.moved_or_new.insert(*key);
        if !recent && named && !self.short_of_ranges.contains(key) {
            self.settled.push((*key, Arc::clone(table)));
        }
        Ok(())
    }

    /// Puts all wanted backends into the service's region and their hops right; their indexes there, in the order of the
    /// table. `None` where the region is too small.
    fn place_backends(&mut self, live: &Live, table: &ServiceTable) -> Result<Option<Vec<u16>>, Full> {
        let installed = self.installed;
        let region = installed.region(live);
        let contents = &installed.backends[region.start as usize..region.end as usize];
        let mut known: BTreeMap<Address, u16> = BTreeMap::new();
        for (index, backend) in (0..=u16::MAX).zip(contents).filter(|(_, backend)| in_use(backend)) {
            known.entry(backend.outer).or_insert(index);
        }
        let mut free =
            (0..=u16::MAX).zip(contents).filter(|(_, backend)| !in_use(backend)).map(|(index, _)| index);
        let missing =
            table.backends.iter().filter(|wanted| !known.contains_key(&wanted.outer.into())).count();
        if free.clone().count() < missing {
            return Ok(None);
        }
        let mut local = Vec::with_capacity(table.backends.len());
        for wanted in &table.backends {
            let backend = self.backend(wanted)?;
            let there = known.get(&backend.outer).copied();
            let place = there.unwrap_or_else(|| free.next().expect("enough are free, as counted"));
            let index = region.start + u32::from(place);
            match there {
                None => {
                    self.actions.push(Action::ClearBackendCounters { first: index, count: 1 });
                    self.actions.push(Action::WriteBackend { index, backend });
                }
                Some(_) if installed.backends[index as usize] != backend => {
                    self.actions.push(Action::SetBackendHop { index, backend });
                    // Then the hop before may have to be cleared.
                    self.wait_until(self.now + GRACE);
                }
                Some(_) => {}
            }
            local.push(place);
        }
        Ok(Some(local))
    }

    /// A backend as it should stand, its hop written if need be.
    fn backend(&mut self, wanted: &WantedBackend) -> Result<Backend, Full> {
        let mut backend = Backend {
            outer: wanted.outer.into(),
            hop: 0,
            mtu: u16::MAX,
            encap: wanted.encap as u8,
            family: Family::of(&wanted.outer) as u8,
        };
        if let Some(route) = self.wanted.links.get(&wanted.outer) {
            let (index, is_new) = self.space.hop(&route.hop)?;
            if is_new {
                self.actions.push(Action::WriteHop { index, hop: route.hop });
            }
            (backend.hop, backend.mtu) = (index, route.mtu);
        }
        if self.wanted.silent.contains(&wanted.outer) {
            backend.encap |= Backend::SILENT;
        }
        Ok(backend)
    }

    /// The backends in a service's region that are not wanted, or there twice.
    pub(super) fn leftovers<'w>(
        &self,
        live: &Live,
        table: &'w ServiceTable,
    ) -> impl Iterator<Item = u32> + use<'_, 'w> {
        let installed = self.installed;
        let mut wanted: std::collections::BTreeSet<Address> =
            table.backends.iter().map(|backend| backend.outer.into()).collect();
        installed.region(live).filter(move |&index| {
            let backend = &installed.backends[index as usize];
            in_use(backend) && !wanted.remove(&backend.outer)
        })
    }
}
