//! New targets: what stays goes on as it was, what is new is watched from now on.

use std::collections::{BTreeMap, HashMap, btree_map};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use fairlead_core::model::{ObjectName, ProbeState, ServiceHealth};
use tokio::time::Instant;

use super::{Probed, Probing, Watched};
use crate::health::ask::Ask;
use crate::health::counters::set;
use crate::health::judge::Judge;
use crate::health::schedule::phase;
use crate::health::{ServiceTargets, Target, Targets, Way};

impl<A: Ask> Probing<A> {
    /// Takes over what is to be probed from now on.
    pub(super) fn follow(&mut self, wanted: &Targets) {
        let now = Instant::now();
        let before = std::mem::take(&mut self.services);
        let mut gone = BTreeMap::new();
        for (name, probed) in before {
            match wanted.services.get(&name) {
                Some(targets) if Arc::ptr_eq(targets, &probed.targets) => {
                    self.services.insert(name, probed);
                }
                _ => drop(gone.insert(name, probed)),
            }
        }
        for (name, targets) in &wanted.services {
            if let btree_map::Entry::Vacant(entry) = self.services.entry(name.clone()) {
                entry.insert(Probed { targets: Arc::clone(targets), ids: Vec::new() });
                let ids = self.watch_service(name, targets, gone.remove(name).as_ref(), now);
                self.services.entry(name.clone()).and_modify(|probed| probed.ids = ids);
                self.refile(name, now);
            }
        }
        for (name, probed) in gone {
            probed.ids.into_iter().for_each(|id| drop(self.forget(id, now)));
            self.refile(&name, now);
        }
        if !wanted.services.is_empty() {
            // What comes later is new.
            self.remembered = Arc::default();
        }
        set(&self.counters.targets, self.watched.len());
    }

    /// Watches a service's targets; those that it had before go on.
    fn watch_service(
        &mut self,
        name: &ObjectName,
        targets: &Arc<ServiceTargets>,
        before: Option<&Probed>,
        now: Instant,
    ) -> Vec<u64> {
        let mut known: HashMap<(IpAddr, Arc<str>), u64> = HashMap::new();
        for (target, id) in
            before.into_iter().flat_map(|before| before.targets.targets.iter().zip(&before.ids))
        {
            known.insert((target.address, Arc::clone(&target.port)), *id);
        }
        let mut ids = Vec::with_capacity(targets.targets.len());
        for (at, target) in targets.targets.iter().enumerate() {
            let id = known.remove(&(target.address, Arc::clone(&target.port)));
            ids.push(self.watch(name, targets, at, id, now));
        }
        known.into_values().for_each(|id| drop(self.forget(id, now)));
        ids
    }

    /// Watches one target, which was watched as `before`.
    fn watch(
        &mut self,
        name: &ObjectName,
        targets: &Arc<ServiceTargets>,
        at: usize,
        before: Option<u64>,
        now: Instant,
    ) -> u64 {
        let target = &targets.targets[at];
        if let Some(id) = before
            && let Some(watched) = self.watched.get_mut(&id)
            && *watched.target() == *target
        {
            (watched.targets, watched.at) = (Arc::clone(targets), at);
            return id;
        }
        if let Way::Through(outer) = target.way {
            self.numbers.acquire(outer);
        }
        // The same pod asked otherwise: what is known of it holds until the new answers say something else. Another pod
        // with the same address is another endpoint.
        let before = before.and_then(|id| self.forget(id, now));
        let before = before.filter(|before| before.target().pod == target.pod);
        let (judge, since) = match before {
            Some(before) => (Judge::with(before.judge.state()), before.since),
            None => self.remembered(name, target),
        };
        let id = self.next_id;
        self.next_id += 1;
        let first = now + phase(self.seed, (name, target.address, &target.port), target.spec.interval);
        self.queue.push(first, id);
        let (service, targets) = (name.clone(), Arc::clone(targets));
        self.watched.insert(id, Watched { service, targets, at, judge, since, begun: 0, on_their_way: 0 });
        id
    }

    fn remembered(&self, name: &ObjectName, target: &Target) -> (Judge, Duration) {
        let service = self.remembered.services.get(name);
        let known = service.map(|service| service.get(target.address, &target.port)).unwrap_or_default();
        (Judge::with(known.state), known.since)
    }

    fn forget(&mut self, id: u64, now: Instant) -> Option<Watched> {
        let watched = self.watched.remove(&id)?;
        let target = watched.target();
        if let Way::Through(outer) = target.way {
            self.numbers.release(outer, target.spec.timeout, now);
        }
        Some(watched)
    }

    /// Files the results of a service anew, after its targets changed.
    fn refile(&mut self, name: &ObjectName, now: Instant) {
        let mut results = ServiceHealth::default();
        let ids = self.services.get(name).map_or(&[][..], |probed| &probed.ids);
        for watched in ids.iter().filter_map(|id| self.watched.get(id)) {
            if watched.judge.state() != ProbeState::Unknown {
                let target = watched.target();
                results.set(target.address, &target.port, watched.probe());
            }
        }
        let known = self.health.services.get(name).map(|known| &**known);
        if known.unwrap_or(&ServiceHealth::default()) == &results {
            return;
        }
        if results.iter().next().is_none() {
            self.health.services.remove(name);
        } else {
            self.health.services.insert(name.clone(), Arc::new(results));
        }
        self.publish_soon(now);
    }
}
