//! Tables that are too small for what is wanted: who is served, and what is told.
//!
//! What serves goes on: nothing new is added to tables that packets read. Those that replace them are never smaller, and
//! take in first what was served before.

use std::collections::BTreeSet;

use fairlead_abi::ServiceKey;
use fairlead_core::planner::{Full, Newcomers, Plan, Tables, follow};

use super::{
    start::Stages,
    turn::{Failure, TRY_AGAIN, shut_out},
};
use crate::dataplane::Linked;

impl Stages {
    /// There is no room for all of it: what is served already follows its endpoints.
    pub(super) fn make_do(&mut self, full: Full) -> Failure {
        let Some(planned) = &self.planned else { return Failure::waits(full) };
        let last;
        let newcomers = match self.dataplane.linked() {
            Linked::Here => Newcomers::Refused,
            Linked::Nowhere | Linked::Elsewhere => {
                last = self.remembered.unserved(&planned.tables);
                Newcomers::LetIn { last: &last }
            }
        };
        let slots = self.dataplane.slots();
        let plan = follow(&planned.tables, &self.installed, slots, self.now(), full, newcomers);
        if let Some(failure) = self.carry_out(&plan).filter(|failure| !failure.serves) {
            return failure;
        }
        let again = full.retry_at.unwrap_or(self.now() + TRY_AGAIN);
        self.due = self.due.into_iter().chain([again]).min();
        let mut failure = Failure::of_room(full, || self.what_is_left_out(&plan));
        if let Some(full) = plan.unallowed {
            failure =
                Failure { what: format!("{}; {}", failure.what, shut_out(full)), waits: false, ..failure };
        }
        failure
    }

    fn what_is_left_out(&self, plan: &Plan) -> String {
        match (self.dataplane.linked(), plan.behind) {
            (Linked::Nowhere | Linked::Elsewhere, _) => {
                "not all services fit, the others are served".to_owned()
            }
            (Linked::Here, 0) => {
                "what is new is refused as a whole, what was served before goes on".to_owned()
            }
            (Linked::Here, behind) => format!(
                "what is new is refused as a whole, {behind} of the services that were there before don't fit any more \
                 and serve as before"
            ),
        }
    }

    /// What packets find no room for, where they are steered now.
    pub(super) fn find_unserved(&self, tables: &Tables) -> BTreeSet<ServiceKey> {
        match &self.failure {
            None => BTreeSet::new(),
            Some(failure) if self.waits(failure.serves) => self.remembered.unserved(tables),
            Some(_) => self.installed.lacks(tables),
        }
    }
}
