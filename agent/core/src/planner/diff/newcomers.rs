//! Tables that no packet reads yet, and that are too small: who is let in.
//!
//! Service by service, each whole or not at all, in an order that does not depend on who plans: gateways of a group
//! leave out the same ones. So much stays free that the largest ring can be replaced: endpoints that die must leave.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fairlead_abi::ServiceKey;

use super::{Newcomers, Work, service::room_for};
use crate::model::ObjectName;
use crate::planner::{Full, Installed, ServiceTable, Tables};

type Member<'a> = (&'a ServiceKey, &'a Arc<ServiceTable>);

impl<'a> Work<'a> {
    /// Adds what there is room for of the services that are not there yet; what the first that isn't added lacks.
    pub(super) fn let_in(&mut self) -> Result<(), Full> {
        let Newcomers::LetIn { last } = self.newcomers else { return Ok(()) };
        let wanted = self.wanted;
        let mut largest = Largest::default();
        for table in self.installed.live.keys().filter_map(|key| wanted.services.get(key)) {
            largest = largest.or(table);
        }
        let mut outcome = Ok(());
        for members in groups(wanted, last).into_values() {
            let would_be = members.iter().fold(largest, |largest, (_, table)| largest.or(table));
            match self.let_in_whole(&members, would_be) {
                Ok(()) => largest = would_be,
                Err(full) => outcome = outcome.and(Err(full)),
            }
        }
        outcome
    }

    /// All members of a group, or none.
    fn let_in_whole(&mut self, members: &[Member<'a>], largest: Largest) -> Result<(), Full> {
        let (actions, settled) = (self.actions.len(), self.settled.len());
        let (unnamed, unallowed) = (self.unnamed, self.unallowed);
        self.space.keep();
        let mut added = Vec::new();
        let outcome = members.iter().try_for_each(|&(key, table)| {
            if self.installed.live.contains_key(key) || self.moved_or_new.contains(key) {
                return Ok(());
            }
            added.push(*key);
            self.service(key, table, None)
        });
        let outcome = outcome.and_then(|()| self.space.try_room(largest.slots, largest.region(self.spare)));
        if outcome.is_err() {
            self.actions.truncate(actions);
            self.settled.truncate(settled);
            (self.unnamed, self.unallowed) = (unnamed, unallowed);
            for key in &added {
                self.moved_or_new.remove(key);
            }
            self.space.give_back();
        }
        outcome
    }
}

/// The largest of some services.
#[derive(Clone, Copy, Default)]
struct Largest {
    slots: usize,
    backends: usize,
}

impl Largest {
    fn or(self, table: &ServiceTable) -> Self {
        Self { slots: self.slots.max(table.ring.len()), backends: self.backends.max(table.backends.len()) }
    }

    fn region(self, spare: bool) -> u32 {
        let count = u32::try_from(self.backends).expect("a service has at most 65,535 backends");
        if spare { room_for(count) } else { count.max(1) }
    }
}

/// What stands and falls together, in order: the ports of a service, with its VIPs.
fn groups<'a>(
    wanted: &'a Tables,
    last: &BTreeSet<ServiceKey>,
) -> BTreeMap<(bool, &'a ObjectName), Vec<Member<'a>>> {
    let mut groups: BTreeMap<_, Vec<Member<'a>>> = BTreeMap::new();
    for (key, table) in wanted.services.iter().filter(|(_, table)| table.protocol.is_some()) {
        let group = groups.entry((last.contains(key), &table.name)).or_default();
        // Services may share a VIP; whoever is let in first brings it along.
        let family = fairlead_abi::Family::of(&table.vip);
        group.extend(wanted.services.get_key_value(&ServiceKey::vip_only(key.vip, family)));
        group.push((key, table));
    }
    for (key, table) in wanted.services.iter().filter(|(_, table)| table.protocol.is_none()) {
        groups.entry((last.contains(key), &table.name)).or_default().push((key, table));
    }
    groups
}

impl Installed {
    /// The services of `wanted` without an entry, and those of which this node should deliver more than it does.
    #[must_use]
    pub fn lacks(&self, wanted: &Tables) -> BTreeSet<ServiceKey> {
        let unknown = wanted.services.keys().filter(|key| !self.live.contains_key(key)).copied();
        unknown.chain(self.undelivered(wanted)).collect()
    }

    /// Whether there is anything of `wanted` to serve from.
    #[must_use]
    pub fn holds_some_of(&self, wanted: &Tables) -> bool {
        self.live.keys().any(|key| wanted.services.contains_key(key))
            || self.deliveries.keys().any(|key| wanted.deliveries.contains_key(key))
    }
}
