//! Tables that are too small for what is wanted: who is served, what is told, and whether they are taken into use.
//!
//! What serves goes on: in tables that packets read, nothing new is added; others must not replace them while they
//! would serve less.

use std::{collections::BTreeSet, net::IpAddr};

use fairlead_abi::{Family, ServiceKey, protocol::ANY};
use fairlead_core::{
    model::Protocol,
    planner::{Full, Newcomers, Plan, Tables, follow},
};
use serde::{Deserialize, Serialize};

use super::{
    interfaces::Interface,
    start::Stages,
    turn::{Failure, TRY_AGAIN},
};
use crate::dataplane::Linked;

/// A port of a VIP for which there was no room; with port 0 and no protocol, the VIP by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unserved {
    /// The VIP.
    pub vip: IpAddr,
    /// The port at the VIP.
    pub port: u16,
    /// Its protocol.
    pub protocol: Option<Protocol>,
}

impl From<&ServiceKey> for Unserved {
    fn from(key: &ServiceKey) -> Self {
        Self { vip: key.vip.into(), port: key.port, protocol: Protocol::of(key.protocol) }
    }
}

impl From<&Unserved> for ServiceKey {
    fn from(unserved: &Unserved) -> Self {
        let protocol = unserved.protocol.map_or(ANY, Protocol::number);
        Self::new(unserved.vip.into(), unserved.port, protocol, Family::of(&unserved.vip))
    }
}

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
        let plan = follow(&planned.tables, &self.installed, self.now(), full, newcomers);
        if let Some(failure) = self.carry_out(&plan).filter(|failure| !failure.serves) {
            return failure;
        }
        let again = full.retry_at.unwrap_or(self.now() + TRY_AGAIN);
        self.due = self.due.into_iter().chain([again]).min();
        Failure::of_room(full, || self.what_is_left_out(&plan))
    }

    fn what_is_left_out(&self, plan: &Plan) -> String {
        let rest = match (self.dataplane.linked(), plan.behind) {
            (Linked::Elsewhere, _) if self.stays_behind(true) => {
                "less would be served than by the programs and tables in use, so these stay, and don't follow endpoints"
                    .to_owned()
            }
            (Linked::Nowhere | Linked::Elsewhere, _) => "the others are served".to_owned(),
            (Linked::Here, 0) => "what was served before goes on".to_owned(),
            (Linked::Here, behind) => format!(
                "{behind} of the services that were there before don't fit any more and serve as before"
            ),
        };
        let left_out = match self.dataplane.linked() {
            Linked::Here => "what is new is refused as a whole",
            Linked::Nowhere | Linked::Elsewhere => "not all services fit",
        };
        format!("{left_out}, {rest}")
    }

    /// Whether packets are to stay with other programs and tables than these, which would serve less: because something
    /// went wrong, or because there is no room for what those may well have had room for. Nobody changes those, so
    /// they don't stay once they have come to serve less than these.
    pub(super) fn stays_behind(&self, serves: bool) -> bool {
        if self.taken_up || self.dataplane.linked() != Linked::Elsewhere {
            return false;
        }
        let Some(planned) = &self.planned else { return true };
        let unserved = self.remembered.unserved(&planned.tables);
        let lacking = self.installed.lacks(&planned.tables);
        // A VIP by itself goes with its ports.
        let lost = lacking.difference(&unserved).filter(|key| key.protocol != ANY).count();
        !serves || (lost > 0 && !self.link_lost && self.decline() < lost as f64)
    }

    /// How much less the tables in use serve than when this agent came, in services.
    fn decline(&self) -> f64 {
        let planned = self.planned.as_ref().map(|planned| &planned.tables);
        self.came_to.as_ref().zip(planned).map_or(0.0, |(then, now)| then.decline(now))
    }

    /// Whether there is something new to say of an interface of tables that stay in use.
    pub(super) fn look_for_lost_links(&mut self) -> bool {
        let interfaces: Vec<_> = self.interfaces.iter().map(Interface::name).collect();
        let lost = self.dataplane.lost_link(&interfaces).unwrap_or_else(|error| {
            tracing::error!(%error, "the links can't be looked at");
            self.link_lost
        });
        std::mem::replace(&mut self.link_lost, lost) != lost
    }

    /// What packets find no room for, where they are steered now.
    pub(super) fn find_unserved(&self, tables: &Tables) -> BTreeSet<ServiceKey> {
        if self.stays_behind(self.failure.as_ref().is_none_or(|failure| failure.serves)) {
            return self.remembered.unserved(tables);
        }
        if self.failure.is_none() { BTreeSet::new() } else { self.installed.lacks(tables) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unserved_is_told_as_it_is_known() {
        let (v4, v6) = (IpAddr::from([192, 0, 2, 1]), "2001:db8::1".parse::<IpAddr>().unwrap());
        let keys = [
            ServiceKey::new(v4.into(), 80, 6, Family::V4),
            ServiceKey::new(v6.into(), 53, 17, Family::V6),
            ServiceKey::vip_only(v6.into(), Family::V6),
        ];
        for key in keys {
            let text = serde_json::to_string(&Unserved::from(&key)).unwrap();
            assert_eq!(ServiceKey::from(&serde_json::from_str::<Unserved>(&text).unwrap()), key, "{text}");
        }
    }
}
