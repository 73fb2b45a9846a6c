//! What numbers must be to each other: times, limits, and the sizes of tables.

use super::{Faults, all, at};
use crate::config::types::ConfigDraft;

impl Faults {
    /// Those that contradict each other.
    pub(super) fn numbers(&mut self, config: &ConfigDraft) {
        self.probes(config);
        self.limits(config);
        self.capacities(config);
    }

    fn probes(&mut self, config: &ConfigDraft) {
        let probes = &config.probes;
        if let (Some(timeout), Some(interval)) = (probes.timeout, probes.interval)
            && timeout > interval
        {
            let message = "must not be longer than interval: probes of an endpoint don't overlap";
            self.add(at("probes").key("timeout"), message);
        }
        if let Some(path) = &probes.path
            && (!path.starts_with('/') || path.contains(|c: char| c.is_whitespace() || c.is_control()))
        {
            let message = format!("{path:?} is not a path of HTTP: it begins with / and has no spaces");
            self.add(at("probes").key("path"), message);
        }
    }

    /// What the clients of one prefix may have is a part of what all may.
    fn limits(&mut self, config: &ConfigDraft) {
        let limits = &config.limits;
        for (field, part, whole, of_all) in [
            ("asksPerPrefix", limits.asks_per_prefix, "asksPerSecond", limits.asks_per_second),
            ("bouncesPerPrefix", limits.bounces_per_prefix, "bouncesInAll", limits.bounces_in_all),
        ] {
            if let (Some(part), Some(of_all)) = (part, of_all)
                && part > of_all
            {
                let message =
                    format!("{part} is more than {whole}, {of_all}, which all prefixes share: lower it");
                self.add(at("limits").key(field), message);
            }
        }
    }

    fn capacities(&mut self, config: &ConfigDraft) {
        let capacities = &config.capacities;
        if let (Some(room), Some(tunnels)) =
            (capacities.gateways, all(&config.gateways, |g| g.tunnel.as_ref()))
        {
            let prefixes = tunnels.into_iter().map(Vec::len).sum::<usize>();
            if prefixes > room as usize {
                let message = format!("too few for the tunnel addresses of all gateways: {prefixes} or more");
                self.add(at("capacities").key("gateways"), message);
            }
        }
        let Some(services) = capacities.services else { return };
        let smallest_ring = fairlead_abi::RING_SIZES[0];
        if capacities.slots.is_some_and(|slots| slots / smallest_ring < services) {
            let needed = u64::from(services) * u64::from(smallest_ring);
            let message =
                format!("too few for {services} services of {smallest_ring} slots each: {needed} or more");
            self.add(at("capacities").key("slots"), message);
        }
        if capacities.backends.is_some_and(|backends| backends < services) {
            let message = format!("too few for {services} services of a backend each");
            self.add(at("capacities").key("backends"), message);
        }
    }
}
