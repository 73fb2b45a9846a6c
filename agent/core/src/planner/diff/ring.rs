//! A service's ring: when another one has to be written, and what its slots inherit from the one that stands there.
//!
//! What a slot names is found by packets, formers too. So a backend that goes must first be in no slot: the same ring is
//! then written once more, without it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fairlead_abi::{Address, NO_BACKEND, Ring, Slot};

use super::Work;
use crate::planner::installed::{Live, in_use};
use crate::planner::maglev::ring_size;
use crate::planner::slots::{inherit, named};
use crate::planner::{Action, Full, ServiceTable, SlotBlock, Slots};

/// The ring that a new one takes the place of.
pub(super) struct Before<'a> {
    slots: Cow<'a, [Slot]>,
    /// From indexes in the service's backend list to those that they will have; `None` for a backend that goes.
    indexes: Vec<Option<u16>>,
}

impl<'a> Work<'a> {
    /// Switches to the wanted ring, if it is another one or some slot names one of the `leftovers`; `local` are the indexes
    /// of the table's backends.
    pub(super) fn switch(
        &mut self,
        live: &Live,
        table: &ServiceTable,
        local: Vec<u16>,
        leftovers: &[u32],
    ) -> Result<bool, Full> {
        if self.has_ring(live, table) && !self.names(live, leftovers) {
            return Ok(false);
        }
        let before = self.before(live, table, &local);
        let ring = self.write_ring(table, local, Some(&before))?;
        let (bucket, entry) = live.spot;
        self.actions.push(Action::SwitchRing { bucket, entry, ring });
        Ok(true)
    }

    /// Whether the slots resolve to what is wanted. That no endpoint takes new connections may be said by no slots or by
    /// such as have only formers.
    pub(super) fn has_ring(&self, live: &Live, table: &ServiceTable) -> bool {
        let size = self.installed.entry(live.spot).ring.size as usize;
        live.ring_hash == Some(table.ring_hash) && (size == table.ring.len() || table.ring.is_empty())
    }

    /// Whether a slot of the service names one of these indexes of `BACKENDS`, as far as its slots can be read.
    pub(super) fn names(&self, live: &Live, backends: &[u32]) -> bool {
        if backends.is_empty() {
            return false;
        }
        let start = self.installed.region(live).start;
        let sought: BTreeSet<u32> = backends.iter().copied().collect();
        self.block(live).iter().flat_map(named).any(|local| sought.contains(&(start + u32::from(local))))
    }

    fn block(&self, live: &Live) -> Cow<'a, [Slot]> {
        let ring = self.installed.own_ring(live);
        if ring.size == 0 { Cow::default() } else { self.slots.block(ring.first_slot, ring.size) }
    }

    /// What stands there of a service, for a ring of `table` whose backends will have the indexes `local`.
    pub(super) fn before(&self, live: &Live, table: &ServiceTable, local: &[u16]) -> Before<'a> {
        let outers = table.backends.iter().map(|backend| Address::from(backend.outer));
        let mut wanted: BTreeMap<Address, u16> = outers.zip(local.iter().copied()).collect();
        let installed = self.installed;
        // Of two for one address only the first counts.
        let index = |at: u32| {
            let backend = &installed.backends[at as usize];
            if in_use(backend) { wanted.remove(&backend.outer) } else { None }
        };
        Before { indexes: installed.region(live).map(index).collect(), slots: self.block(live) }
    }

    /// Writes the wanted ring where no packet reads. A service whose endpoints take no new connections has slots with formers
    /// only, as long as there is room for them; else, and without endpoints, the empty ring.
    pub(super) fn write_ring(
        &mut self,
        table: &ServiceTable,
        local: Vec<u16>,
        before: Option<&Before<'_>>,
    ) -> Result<Ring, Full> {
        let inherited = before.and_then(|before| before.bequeath(table, &local));
        let slots = match inherited {
            Some(slots) => Slots::Inherited(Arc::from(slots)),
            None if !table.ring.is_empty() => {
                Slots::Fresh { ring: Arc::clone(&table.ring), local: Arc::from(local) }
            }
            None if table.backends.is_empty() => return Ok(EMPTY),
            // What is learned of connections finds its place.
            None => {
                Slots::Inherited(vec![Slot::new(NO_BACKEND); ring_size(table.backends.len()) as usize].into())
            }
        };
        let slots = SlotBlock { slots, hash: table.ring_hash };
        let first_slot = match self.space.slots(slots.len()) {
            Err(_) if table.ring.is_empty() => return Ok(EMPTY),
            first => first?,
        };
        let ring = Ring { first_slot, size: slots.len() };
        self.actions.push(Action::WriteSlots { first: first_slot, slots });
        Ok(ring)
    }
}

/// The ring of a service without endpoints.
const EMPTY: Ring = Ring { first_slot: 0, size: 0 };

impl Before<'_> {
    /// The slots of the table's ring; `None` where none of them has a former.
    fn bequeath(&self, table: &ServiceTable, local: &[u16]) -> Option<Vec<Slot>> {
        let indexes = |old: u16| self.indexes.get(usize::from(old)).copied().flatten();
        let slots = if table.ring.is_empty() {
            inherit(std::iter::repeat_n(NO_BACKEND, self.slots.len()), &self.slots, indexes)
        } else {
            let current = table.ring.iter().map(|&position| local[usize::from(position)]);
            inherit(current, &self.slots, indexes)
        };
        let has_former = |slot: &Slot| slot.formers != [NO_BACKEND; 3];
        slots.iter().any(has_former).then_some(slots)
    }
}
