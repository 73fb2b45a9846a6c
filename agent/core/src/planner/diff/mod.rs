//! Wanted tables minus installed ones: an ordered plan.
//!
//! Additions come before deletions, and what a packet may still be reading is deleted only by a later plan. All of it
//! is worked out before anything is returned: either everything fits, or there is no plan.

mod allowed;
mod deletions;
mod newcomers;
mod receiver;
mod ring;
mod server_ids;
mod service;
mod space;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use fairlead_abi::{BUCKET_ENTRIES, ServiceKey};

use super::{Action, Full, Installed, Map, Plan, PlanError, ReadSlots, ServiceTable, Tables};
use space::Space;

pub(super) use service::room_for;

/// What is to become of services that are not in the tables yet, where there isn't room for all.
#[derive(Clone, Copy, Debug)]
pub enum Newcomers<'a> {
    /// Packets read these tables: what is new is refused as a whole.
    Refused,
    /// No packet reads these tables yet: there must be something to begin with.
    LetIn {
        /// These come after all others: they were not served before either.
        last: &'a BTreeSet<ServiceKey>,
    },
}

/// What has to change in the kernel so that it holds `wanted`.
///
/// `slots` is `SLOTS`, from which new rings inherit: too large to be mirrored in `installed`. `now` is time since the agent's
/// start, as in [`Installed::apply`]. An empty plan with a time in
/// [`Plan::due`] means that only cleaning up is left, which has to wait until then.
///
/// # Errors
/// A map is too small for `wanted` even without endpoints that linger, or is for as long as packets may still be reading
/// what was there before. Nothing may be carried out then.
pub fn diff(
    wanted: &Tables,
    installed: &Installed,
    slots: &dyn ReadSlots,
    now: Duration,
) -> Result<Plan, PlanError> {
    let mut work = Work::new(wanted, (installed, slots), now);
    let mut added = work.add();
    if matches!(added, Err(Full { map: Map::Backends, .. })) {
        work = Work { spare: false, ..Work::new(wanted, (installed, slots), now) };
        added = work.add();
    }
    let Err(full) = added else {
        work.delete();
        return Ok(work.finish());
    };
    if let Some(full) = too_much(wanted, installed) {
        // What lingers gives way to what serves.
        return wanted
            .without_lingering()
            .map_or(Err(full.into()), |lean| diff(&lean, installed, slots, now));
    }
    // It would fit, but for what is in the way: former rings and what is not wanted any more. So that goes first, and of
    // what serves already as much follows as there is room for now: a node's end may change every ring at once.
    let mut plan = follow(wanted, installed, slots, now, full, Newcomers::Refused);
    if plan.is_empty() {
        return Err(Full { retry_at: installed.room_at(full.map, now), ..full }.into());
    }
    plan.due = plan.due.into_iter().chain([now + super::GRACE]).min();
    Ok(plan)
}

/// Where [`diff`] finds a map to be `full`: what serves follows `wanted` all the same, and what is not wanted goes.
///
/// A service that there is no room for serves as before, and counts in [`Plan::behind`]; the others don't wait for it.
/// Their new endpoints are delivered to as far as there is room. What is new comes last, if at all.
#[must_use]
pub fn follow(
    wanted: &Tables,
    installed: &Installed,
    slots: &dyn ReadSlots,
    now: Duration,
    full: Full,
    newcomers: Newcomers<'_>,
) -> Plan {
    let lean = too_much(wanted, installed).and_then(|_| wanted.without_lingering());
    let wanted = lean.as_ref().unwrap_or(wanted);
    let following = |spare| {
        let mut work =
            Work { spare, only_live: true, newcomers, ..Work::new(wanted, (installed, slots), now) };
        let short = work.add().is_err_and(|full| full.map == Map::Backends);
        (work, short)
    };
    let (mut work, short_of_backends) = following(full.map != Map::Backends);
    if short_of_backends && work.spare {
        (work, _) = following(false);
    }
    work.delete();
    let mut plan = work.finish();
    if plan.behind > 0 {
        plan.settled.clear();
        plan.links = None;
        plan.silent = None;
    }
    plan.waits_for = Some(full);
    plan
}

/// A plan in the making.
struct Work<'a> {
    wanted: &'a Tables,
    installed: &'a Installed,
    /// `SLOTS`.
    slots: &'a dyn ReadSlots,
    now: Duration,
    space: Space<'a>,
    actions: Vec<Action>,
    due: Option<Duration>,
    settled: Vec<(ServiceKey, Arc<ServiceTable>)>,
    /// Services that the plan publishes.
    moved_or_new: BTreeSet<ServiceKey>,
    /// Whether regions get room for more backends than they have.
    spare: bool,
    /// Whether nothing is added but what services need that are there already, as far as there is room.
    only_live: bool,
    /// With `only_live`: the rest.
    newcomers: Newcomers<'a>,
    forgot_deliveries: bool,
    forgot_gateways: bool,
    /// Services that there was no room for.
    behind: usize,
    /// Server IDs that there was no room for.
    unnamed: usize,
    forgot_ranges: bool,
    /// Ranges of clients that there was no room for, and services that have some of them.
    unallowed: usize,
    short_of_ranges: BTreeSet<ServiceKey>,
}

impl<'a> Work<'a> {
    fn new(
        wanted: &'a Tables,
        (installed, slots): (&'a Installed, &'a dyn ReadSlots),
        now: Duration,
    ) -> Self {
        let space = Space::new(installed, now);
        Self {
            wanted,
            installed,
            slots,
            now,
            space,
            actions: Vec::new(),
            due: None,
            settled: Vec::new(),
            moved_or_new: BTreeSet::new(),
            spare: true,
            only_live: false,
            newcomers: Newcomers::Refused,
            forgot_deliveries: false,
            forgot_gateways: false,
            behind: 0,
            unnamed: 0,
            forgot_ranges: false,
            unallowed: 0,
            short_of_ranges: BTreeSet::new(),
        }
    }

    /// Everything that makes something reachable; where there is no room, that which comes before, or with `only_live`
    /// all the rest.
    fn add(&mut self) -> Result<(), Full> {
        for &bucket in &self.installed.misflagged {
            if self.installed.buckets[bucket as usize].overflowed == 0 {
                self.actions.push(Action::SetOverflowed { bucket, value: 1 });
            }
        }
        self.restrict();
        self.forget_stray_server_ids();
        let received = self.receiver();
        if !self.only_live {
            received?;
        }
        let wanted = self.wanted;
        let same_ways = self.installed.links.as_ref() == Some(&wanted.links)
            && self.installed.silent.as_ref() == Some(&wanted.silent);
        let mut first_full = None;
        for (key, table) in &wanted.services {
            let live = self.installed.live.get(key);
            if same_ways && live.is_some_and(|live| live.settled.as_ref() == Some(table)) {
                continue;
            }
            if self.only_live && live.is_none() {
                continue;
            }
            let (actions, unnamed, unallowed) = (self.actions.len(), self.unnamed, self.unallowed);
            self.space.keep();
            let Err(full) = self.service(key, table, live) else { continue };
            self.actions.truncate(actions);
            (self.unnamed, self.unallowed) = (unnamed, unallowed);
            if !self.only_live {
                return Err(full);
            }
            self.space.give_back();
            self.behind += 1;
            first_full.get_or_insert(full);
        }
        let let_in = self.let_in();
        first_full.map_or(Ok(()), Err).and(let_in).and(received)
    }

    /// Come back later for what has to wait.
    fn wait_until(&mut self, then: Duration) {
        self.due = self.due.into_iter().chain([then]).min();
    }

    fn finish(mut self) -> Plan {
        let (unnamed, unallowed) = (self.unnamed(), self.unallowed());
        Plan {
            actions: self.actions,
            due: self.due,
            waits_for: None,
            behind: self.behind,
            unnamed,
            unallowed,
            settled: self.settled,
            links: Some(Arc::clone(&self.wanted.links)),
            silent: Some(Arc::clone(&self.wanted.silent)),
        }
    }
}

fn fits(map: Map, needed: usize, capacity: u32) -> Result<(), Full> {
    if needed <= capacity as usize {
        return Ok(());
    }
    Err(Full { map, needed: needed as u64, capacity: capacity.into(), retry_at: None })
}

/// The first map that couldn't hold `wanted` even if it were empty before.
fn too_much(wanted: &Tables, installed: &Installed) -> Option<Full> {
    let c = &installed.capacities;
    let services = wanted.services.len();
    let slots = wanted.services.values().map(|table| table.ring.len()).sum();
    // Index 0 of these is never used.
    let backends = 1 + wanted.services.values().map(|table| table.backends.len()).sum::<usize>();
    let outers = wanted.services.values().flat_map(|table| &table.backends).map(|backend| backend.outer);
    let hops: HashSet<_> =
        outers.filter_map(|outer| wanted.links.get(&outer)).map(|route| route.hop).collect();
    let entries = u64::from(c.buckets) * BUCKET_ENTRIES as u64;
    [
        fits(Map::Services, services, u32::try_from(entries).unwrap_or(u32::MAX)),
        fits(Map::ServiceIds, services + 1, c.service_ids),
        fits(Map::Slots, slots, c.slots),
        fits(Map::Backends, backends, c.backends),
        fits(Map::Hops, hops.len() + 1, c.hops),
        fits(Map::Deliveries, wanted.deliveries.len(), c.deliveries),
        fits(Map::Gateways, wanted.gateways.len(), c.gateways),
    ]
    .into_iter()
    .find_map(Result::err)
}

impl Installed {
    /// When there is more room in a map than now, by waiting alone.
    fn room_at(&self, map: Map, now: Duration) -> Option<Duration> {
        let first = match map {
            Map::Services => self.cooling_entries.values().filter(|until| **until > now).min().copied(),
            Map::Slots => self.slots.next_free(),
            Map::Backends => self.regions.next_free().into_iter().chain(self.orphans.values().copied()).min(),
            Map::Hops => self.quiet_hops.values().min().copied(),
            Map::ServiceIds => self.ids.next_free(),
            Map::ServerIds | Map::Allowed | Map::Deliveries | Map::Gateways => None,
        };
        first.filter(|&then| then > now)
    }
}

#[cfg(test)]
mod tests;
