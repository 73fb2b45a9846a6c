//! What was found out about single flows, for the flow cache and the slots.

use std::sync::Arc;

use fairlead_abi::{Flow, ServiceKey, slot_hash};
use fairlead_core::planner::{Action, Plan, learn};

use super::start::Stages;
use crate::{
    asks::{Finding, Served},
    dataplane::{Error, FlowCache, Place, nobodys},
};

impl Stages {
    /// Carries findings out. What fails costs packets an extra way, or another ask.
    pub(super) fn found(&mut self, findings: &[Finding]) {
        for finding in findings {
            if let Err(error) = self.carry_finding_out(finding) {
                tracing::error!(%error, "what was found out about a flow is lost");
            }
        }
    }

    fn carry_finding_out(&mut self, finding: &Finding) -> Result<(), Error> {
        match *finding {
            Finding::Claimed { service, flow, outer, asked, bounces } => {
                let hash = self.hash(&service, &flow);
                let Some(place) = self.installed.place(&service, hash, Some(outer)) else { return Ok(()) };
                self.give_back((service, flow), place, bounces)?;
                self.remember((service, flow), place, asked)?;
                if asked
                    && let Some(action) =
                        learn(&self.installed, self.dataplane.slots(), &service, hash, outer)
                {
                    self.dataplane.apply(&action)?;
                    self.installed.apply(&action, self.now());
                }
                Ok(())
            }
            Finding::Nobodys { service, flow } => {
                let Some(place) = self.installed.place(&service, self.hash(&service, &flow), None) else {
                    return Ok(());
                };
                self.remember((service, flow), place, true)
            }
            Finding::Forget { service, flow } => match &mut self.cache {
                Some(cache) => cache.forget(&(service, flow)),
                None => Ok(()),
            },
        }
    }

    /// What came back of a flow that is claimed was no stray's. Of one that is remembered already nothing came back, or the
    /// same claim came before.
    fn give_back(
        &mut self,
        flow: (ServiceKey, Flow),
        (service, slot, backend): (u32, u32, Option<u16>),
        count: u32,
    ) -> Result<(), Error> {
        let place = backend.map(|backend| Place { service, slot, backend });
        let is_known = |cache: &FlowCache| place.is_some_and(|place| cache.holds(&flow, place));
        match &mut self.bounces {
            Some(bounces) if count > 0 && !self.cache.as_ref().is_some_and(is_known) => {
                bounces.give_back(&flow.1.client, count)
            }
            _ => Ok(()),
        }
    }

    fn remember(
        &mut self,
        flow: (ServiceKey, Flow),
        (service, slot, backend): (u32, u32, Option<u16>),
        urgent: bool,
    ) -> Result<(), Error> {
        let place = backend.map_or(nobodys(service, slot), |backend| Place { service, slot, backend });
        match &mut self.cache {
            Some(cache) => cache.insert(flow, place, urgent).map(drop),
            None => Ok(()),
        }
    }

    /// By what the flow's slot is found.
    fn hash(&self, service: &ServiceKey, flow: &Flow) -> u32 {
        slot_hash(self.config.seed.0, flow, self.installed.flags(service))
    }

    /// After a plan was carried out: what the cache says must mean the same as before.
    pub(super) fn follow_slots(&mut self, plan: &Plan) {
        let moves = |action: &Action| {
            matches!(
                action,
                Action::SwitchRing { .. }
                    | Action::PublishEntry { .. }
                    | Action::UnpublishEntry { .. }
                    | Action::ClearBackend { .. }
                    | Action::SetEntryFlags { .. }
            )
        };
        let Some(cache) = self.cache.as_mut().filter(|_| plan.actions.iter().any(moves)) else { return };
        let (installed, seed) = (&self.installed, self.config.seed.0);
        let followed = cache.replace(|(service, flow), known| {
            let hash = slot_hash(seed, flow, installed.flags(service));
            let (id, slot, _) = installed.place(service, hash, None)?;
            // An index that is another endpoint's now makes a wrong guess, no more.
            Some(Place { service: id, slot, backend: known.backend })
        });
        if let Err(error) = followed {
            tracing::error!(%error, "the flow cache can't follow the slots");
        }
    }

    /// Tells those who ask which backends there are.
    pub(super) fn tell_askers(&self) {
        let Some(planned) = &self.planned else { return };
        let services = planned.tables.services.clone();
        let clusters = self.declared.clusters.iter();
        let pod_cidrs =
            clusters.map(|(name, cluster)| (Arc::clone(name), cluster.pod_cidrs.clone())).collect();
        let gateways = self.declared.gateways.iter().flat_map(|gateway| gateway.prefixes.clone()).collect();
        self.served.send_replace(Arc::new(Served { services, pod_cidrs, gateways }));
    }
}
