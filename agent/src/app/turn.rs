//! One turn: inputs to model, model to tables, tables to plan, plan to kernel.

use std::{sync::Arc, time::Duration};

use fairlead_core::{
    model::merge,
    planner::{Inputs, Installed, Plan, PlanError, diff},
};

use super::start::Stages;
use crate::dataplane;

/// After a failure, when to try again.
const TRY_AGAIN: Duration = Duration::from_secs(1);

impl Stages {
    /// Brings the kernel's tables in line with the inputs as they are now.
    pub(super) fn turn(&mut self) {
        self.plan();
        let now = self.now();
        let Some(planned) = &self.planned else { return };
        self.due = None;
        self.failure = match diff(&planned.tables, &self.installed, now) {
            Ok(plan) => self.carry_out(&plan),
            Err(PlanError::Full(full)) => {
                self.due = Some(full.retry_at.unwrap_or(now + TRY_AGAIN));
                Some(format!("nothing was changed, the former state serves on: {full}"))
            }
        }
        .inspect(|failure| tracing::error!("{failure}"));
        self.publish();
    }

    /// Inputs to tables, and what follows from them for the stages before.
    pub(super) fn plan(&mut self) {
        let health = Arc::clone(&self.health.borrow_and_update());
        let links = Arc::clone(&self.links.borrow_and_update());
        let model = merge(&self.declared, self.federation.states(), &health, self.model.as_ref());
        let now = self.now();
        let inputs = Inputs { model: &model, health: &health, demand: &self.demand, links: &links, now };
        let planned = self.planner.plan(&inputs);
        let outers = Self::outers_of(&planned);
        self.outers.send_if_modified(|known| replace(known, outers));
        let targets = self.deriver.derive(&model, &planned.tables);
        self.targets.send_if_modified(|known| replace(known, targets));
        self.model = Some(model);
        self.planned = Some(planned);
    }

    /// Carries a plan out; what went wrong, if anything did.
    fn carry_out(&mut self, plan: &Plan) -> Option<String> {
        for action in &plan.actions {
            if let Err(error) = self.dataplane.apply(action) {
                self.due = Some(self.now() + TRY_AGAIN);
                self.read_back();
                return Some(format!("the kernel's tables were not changed to the end: {error}"));
            }
            let now = self.started.elapsed();
            self.installed.apply(action, now);
        }
        self.installed.settle(plan);
        self.due = plan.due;
        plan.waits_for.map(|full| format!("waiting for room: {full}"))
    }

    /// Reads the kernel's tables back; the next plan repairs what is not as it was.
    pub(super) fn read_back(&mut self) {
        match self.dataplane.observe() {
            Ok(raw) => {
                let (capacities, now) = (super::capacities(&self.config).tables, self.started.elapsed());
                self.installed = Installed::read(&raw, capacities, Some(&self.installed), now);
            }
            Err(error) => tracing::error!(%error, "the kernel's tables can't be read back"),
        }
    }

    /// Counts new connections; whether the demand to plan with has changed.
    pub(super) fn sample(&mut self) -> bool {
        let (Some(model), Some(planned)) = (&self.model, &self.planned) else { return false };
        let (now, gateways) = (self.now(), self.gateways_of_group());
        let observed = self.dataplane.counters().and_then(|counters| {
            self.sampler.observe(&counters, (model, &planned.tables, &self.installed), gateways, now)
        });
        match observed {
            Ok(demand) => {
                let changed = demand != self.demand;
                self.demand = demand;
                changed
            }
            Err(error) => {
                tracing::error!(%error, "new connections can't be counted");
                false
            }
        }
    }

    /// Sweeps flows that have ended.
    pub(super) fn sweep(&mut self) {
        let Some(sweep) = &mut self.sweep else { return };
        let swept: Result<_, dataplane::Error> = self.dataplane.ticks().and_then(|ticks| sweep.run(ticks));
        match swept {
            Ok((stay, ended)) => tracing::debug!(stay, ended, "flows swept"),
            Err(error) => tracing::error!(%error, "flows can't be swept"),
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
