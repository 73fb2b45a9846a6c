//! One turn: inputs to model, model to tables, tables to plan, plan to kernel.

use std::{sync::Arc, time::Duration};

use fairlead_core::{
    asks::ANNOUNCE_EVERY,
    model::merge,
    planner::{Full, Inputs, Installed, Plan, PlanError, diff},
};

use super::start::Stages;
use crate::{
    asks::{OwnCount, OwnList},
    dataplane::{FlowCache, Linked, Swept},
};

/// After a failure, when to try again.
pub(super) const TRY_AGAIN: Duration = Duration::from_secs(1);
/// After what time without a count it is told which endpoints could hold flows: so soon gateways wait for a count in vain.
const LIST_AFTER: Duration = ANNOUNCE_EVERY.saturating_add(Duration::from_millis(500));

/// Why the kernel's tables are not as planned.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) what: String,
    /// They are whole all the same, and serve what they have.
    pub(super) serves: bool,
    /// Nothing is wrong: there will be room as soon as no packet can be reading what was there before.
    pub(super) waits: bool,
}

impl Failure {
    pub(super) fn waits(full: Full) -> Self {
        Self { what: format!("waiting for room: {full}"), serves: true, waits: true }
    }

    /// Where time alone makes the room, nothing is refused.
    pub(super) fn of_room(full: Full, left_out: impl FnOnce() -> String) -> Self {
        match full.retry_at {
            Some(_) => Self::waits(full),
            None => Self { what: format!("{}: {full}", left_out()), serves: true, waits: false },
        }
    }

    /// All services serve.
    fn unnamed(full: Full) -> Self {
        let what = format!("server IDs of QUIC are left out, and clients that have them can't move: {full}");
        Self { what, serves: true, waits: false }
    }

    /// All services serve, and nobody is let in who is not allowed.
    fn unallowed(full: Full) -> Self {
        Self { what: shut_out(full), serves: true, waits: false }
    }

    fn tell(&self) {
        if self.waits { tracing::info!("{}", self.what) } else { tracing::error!("{}", self.what) }
    }
}

/// What becomes of ranges that find no room.
pub(super) fn shut_out(full: Full) -> String {
    format!(
        "clients are refused that their services allow, for not all ranges (loadBalancerSourceRanges) find room: {full}"
    )
}

impl Stages {
    /// Whether the kernel's tables have something whole to serve from: one service too many must not take a node out of
    /// use that serves all others.
    pub(super) fn serves(&self) -> bool {
        self.failure.as_ref().is_none_or(|failure| failure.serves && self.filled)
    }

    /// Brings the kernel's tables in line with the inputs as they are now.
    pub(super) fn turn(&mut self) {
        self.plan();
        let now = self.now();
        let Some(planned) = &self.planned else { return };
        self.due = None;
        let failure = match diff(&planned.tables, &self.installed, self.dataplane.slots(), now) {
            Ok(plan) => self.carry_out(&plan),
            Err(PlanError::Full(full)) => Some(self.make_do(full)),
        };
        if let Some(failure) = failure.as_ref().filter(|failure| self.failure.as_ref() != Some(failure)) {
            failure.tell();
        }
        self.failure = failure;
        if let Some(planned) = &self.planned {
            // Perhaps by an agent before this one.
            self.filled |= self.failure.is_none() || self.installed.holds_some_of(&planned.tables);
            self.unserved = self.find_unserved(&planned.tables);
        }
        self.publish();
    }

    /// Inputs to tables, and what follows from them for the stages before.
    pub(super) fn plan(&mut self) {
        let health = Arc::clone(&self.health.borrow_and_update());
        let links = Arc::clone(&self.links.borrow_and_update());
        let model = merge(&self.declared, self.federation.states(), &health, self.model.as_ref());
        self.federation.keep(&model);
        let now = self.now();
        let heard = Arc::clone(&self.heard.borrow_and_update());
        let mut held = heard.held.clone();
        held.reports.extend(self.own_count.borrow_and_update().reports());
        let inputs = Inputs {
            model: &model,
            health: &health,
            demand: &self.demand,
            links: &links,
            held: &held,
            silent: &heard.silent,
            now,
        };
        let planned = self.planner.plan(&inputs);
        let outers = Self::outers_of(&planned);
        self.outers.send_if_modified(|known| replace(known, outers));
        let endpoints = planned.tables.deliveries.keys().map(|key| key.outer.into()).collect();
        self.endpoints.send_if_modified(|known| replace(known, endpoints));
        let targets = self.deriver.derive(&model, &planned.tables);
        self.targets.send_if_modified(|known| replace(known, targets));
        self.model = Some(model);
        self.planned = Some(planned);
        self.tell_askers();
    }

    /// Carries a plan out; what went wrong, if anything did.
    pub(super) fn carry_out(&mut self, plan: &Plan) -> Option<Failure> {
        for action in &plan.actions {
            if let Err(error) = self.dataplane.apply(action) {
                self.due = Some(self.now() + TRY_AGAIN);
                self.read_back();
                let what = format!("the kernel's tables were not changed to the end: {error}");
                return Some(Failure { what, serves: false, waits: false });
            }
            let now = self.started.elapsed();
            self.installed.apply(action, now);
        }
        self.installed.settle(plan);
        self.follow_slots(plan);
        self.due = plan.due;
        let others = || plan.unallowed.map(Failure::unallowed).or_else(|| plan.unnamed.map(Failure::unnamed));
        plan.waits_for.map(Failure::waits).or_else(others)
    }

    /// Reads the kernel's tables back; the next plan repairs what is not as it was.
    pub(super) fn read_back(&mut self) {
        match self.dataplane.observe() {
            Ok(raw) => {
                let (capacities, now) = (self.installed.capacities(), self.started.elapsed());
                self.installed = Installed::read(&raw, capacities, Some(&self.installed), now);
            }
            Err(error) => tracing::error!(%error, "the kernel's tables can't be read back"),
        }
    }

    /// Counts new connections; whether the demand to plan with has changed.
    pub(super) fn sample(&mut self) -> bool {
        // Counters that no packet passes yet say nothing of the demand that is remembered.
        if !self.taken_up {
            return false;
        }
        let (Some(model), Some(planned)) = (&self.model, &self.planned) else { return false };
        let (now, gateways) = (self.now(), self.gateways_of_group());
        let opened = if self.is_only_group() { Arc::clone(&self.opened.borrow()) } else { Arc::default() };
        let observed = self.dataplane.counters().and_then(|counters| {
            self.sampler.observe(
                &counters,
                (model, &planned.tables, &self.installed),
                (gateways, &opened),
                now,
            )
        });
        match observed {
            Ok(demand) => demand.is_some_and(|demand| {
                let changed = demand != self.demand;
                self.demand = demand;
                changed
            }),
            Err(error) => {
                tracing::error!(%error, "new connections can't be counted");
                false
            }
        }
    }

    /// Where a count takes so long that gateways wait for it, tells which endpoints could hold flows by now.
    fn list_own(&mut self) {
        let now = self.now();
        let last = self.own_count.borrow().at.max(self.tell_list.borrow().at);
        if !self.taken_up || now < last + LIST_AFTER {
            return;
        }
        let lacking = self.dataplane.ticks().and_then(|ticks| self.dataplane.may_lack_flows(ticks));
        let planned = self.planned.iter().flat_map(|planned| &planned.tables.deliveries);
        // What waits to be taken out may still be delivered to.
        let all = planned.chain(self.installed.deliveries()).filter(|(key, _)| key.service().is_some());
        let deliveries = all.map(|(key, delivery)| (*key, delivery.is_second(key))).collect();
        let list = OwnList { deliveries, at: now, whole: !lacking.unwrap_or(true) };
        self.tell_list.send_replace(Arc::new(list));
    }

    pub(super) fn sweep_cache(&mut self) {
        if let Some(Err(error)) = self.cache.as_mut().map(FlowCache::sweep) {
            tracing::error!(%error, "the flow cache can't be swept");
        }
    }

    /// Sweeps flows that have ended, where it is time to, in a thread of its own: a million of them take seconds, and an
    /// endpoint's death must not wait. Nobody waits for it at the end either.
    pub(super) fn sweep(&mut self) {
        let Some(sweep) = self.sweep.clone() else { return };
        self.list_own();
        // The one before may still be at it; then the next time.
        if !sweep.try_lock().is_ok_and(|sweep| sweep.is_due()) {
            return;
        }
        let ticks = match self.dataplane.ticks() {
            Ok(ticks) => ticks,
            Err(error) => return tracing::error!(%error, "flows can't be swept"),
        };
        let settled = self.dataplane.linked() == Linked::Here;
        let deliveries = self.planned.as_ref().map(|planned| planned.tables.deliveries.clone());
        let lacking = self.dataplane.may_lack_flows(ticks).unwrap_or(true);
        let (told, started) = (self.tell_own.clone(), self.started);
        let run = move || {
            let Ok(mut sweep) = sweep.try_lock() else { return };
            let at = started.elapsed();
            let deliveries = deliveries.unwrap_or_default();
            match sweep.run(ticks, settled, &deliveries) {
                Ok(Some(swept)) => {
                    let whole = !lacking && !swept.overflowed;
                    let Swept { stay, ended, held, .. } = swept;
                    tracing::debug!(stay, ended, "flows swept");
                    let second = deliveries.iter().filter(|(key, delivery)| delivery.is_second(key));
                    let second = second.map(|(key, _)| *key).collect();
                    told.send_replace(Arc::new(OwnCount { held, second, at, whole }));
                }
                Ok(None) => {}
                Err(error) => tracing::error!(%error, "flows can't be swept"),
            }
        };
        if let Err(error) = std::thread::Builder::new().name("sweep".to_owned()).spawn(run) {
            tracing::error!(%error, "flows can't be swept");
        }
    }
}

/// Replaces a snapshot where it differs.
fn replace<T: PartialEq>(known: &mut Arc<T>, new: T) -> bool {
    let changed = **known != new;
    if changed {
        *known = Arc::new(new);
    }
    changed
}

#[cfg(test)]
mod tests {
    use fairlead_core::planner::Map;

    use super::*;

    #[test]
    fn what_waits_for_the_grace_period_is_not_refused() {
        let full = Full { map: Map::Slots, needed: 5, capacity: 4, retry_at: None };
        let refused = Failure::of_room(full, || "what is new is refused".to_owned());
        assert!(!refused.waits && refused.what.starts_with("what is new is refused: SLOTS is full: 5 of 4"));
        let full = Full { retry_at: Some(Duration::from_secs(1)), ..full };
        let waits = Failure::of_room(full, || "what is new is refused".to_owned());
        assert_eq!(
            waits.what,
            "waiting for room: SLOTS is full: 5 of 4 entries needed; some become free shortly"
        );
        assert!(waits.waits && waits.serves);
    }
}
