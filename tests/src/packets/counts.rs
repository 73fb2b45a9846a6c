//! Counters of all kinds, as a value to compare: what stands at zero is left out.

use std::collections::BTreeMap;

use fairlead_abi::{BackendCounters, Counter, DropReason, FlowEvent, ServiceCounters};

/// What programs count, or how much that changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// By reason.
    pub drops: BTreeMap<DropReason, Counter>,
    /// By service id.
    pub services: BTreeMap<u32, ServiceCounters>,
    /// By index in `BACKENDS`.
    pub backends: BTreeMap<u32, BackendCounters>,
    /// By event.
    pub events: BTreeMap<FlowEvent, u64>,
}

impl Counts {
    /// Nothing but one packet that was dropped.
    #[must_use]
    pub fn of_drop(reason: DropReason, bytes: usize) -> Self {
        let mut counts = Self::default();
        counts.drop_one(reason, bytes);
        counts
    }

    /// Nothing but one packet that was forwarded.
    #[must_use]
    pub fn of_forward(service: u32, backend: u32, bytes: usize, opens: bool) -> Self {
        let mut counts = Self::default();
        counts.forward(service, backend, bytes, opens);
        counts
    }

    /// Nothing but one packet that was answered.
    #[must_use]
    pub fn of_answer(service: u32, bytes: usize) -> Self {
        let mut counts = Self::default();
        counts.answer(service, bytes);
        counts
    }

    /// One more packet that was dropped.
    pub fn drop_one(&mut self, reason: DropReason, bytes: usize) {
        let counter = self.drops.entry(reason).or_default();
        counter.packets += 1;
        counter.bytes += bytes as u64;
    }

    /// One more packet of a service that was forwarded to a backend.
    pub fn forward(&mut self, service: u32, backend: u32, bytes: usize, opens: bool) {
        self.answer(service, bytes);
        self.services.entry(service).or_default().connections += u64::from(opens);
        let counter = self.backends.entry(backend).or_default();
        counter.packets += 1;
        counter.connections += u64::from(opens);
    }

    /// One more of an event.
    pub fn event(&mut self, event: FlowEvent) {
        *self.events.entry(event).or_default() += 1;
    }

    /// The same, and one of an event.
    #[must_use]
    pub fn and(mut self, event: FlowEvent) -> Self {
        self.event(event);
        self
    }

    /// One more packet that was answered in a service's name.
    pub fn answer(&mut self, service: u32, bytes: usize) {
        let counter = self.services.entry(service).or_default();
        counter.packets += 1;
        counter.bytes += bytes as u64;
    }

    /// What was counted since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut change = self.clone();
        for (reason, was) in &earlier.drops {
            let counter = change.drops.entry(*reason).or_default();
            counter.packets -= was.packets;
            counter.bytes -= was.bytes;
        }
        for (id, was) in &earlier.services {
            let counter = change.services.entry(*id).or_default();
            counter.packets -= was.packets;
            counter.bytes -= was.bytes;
            counter.connections -= was.connections;
        }
        for (index, was) in &earlier.backends {
            let counter = change.backends.entry(*index).or_default();
            counter.packets -= was.packets;
            counter.connections -= was.connections;
        }
        for (event, was) in &earlier.events {
            *change.events.entry(*event).or_default() -= was;
        }
        change.without_zeroes()
    }

    /// The same without what stands at zero.
    #[must_use]
    pub fn without_zeroes(mut self) -> Self {
        self.drops.retain(|_, counter| *counter != Counter::default());
        self.services.retain(|_, counter| *counter != ServiceCounters::default());
        self.events.retain(|_, count| *count != 0);
        self.backends.retain(|_, counter| *counter != BackendCounters::default());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_holds_only_what_changed() {
        let mut earlier = Counts::of_forward(1, 2, 100, true);
        earlier.drop_one(DropReason::Truncated, 14);
        let mut later = earlier.clone();
        later.answer(3, 60);
        assert_eq!(later.since(&earlier), Counts::of_answer(3, 60));
        assert_eq!(later.since(&later), Counts::default());
    }
}
