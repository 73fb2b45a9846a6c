//! Announcements of what this node's endpoints hold, to all gateways.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use fairlead_abi::Announced;
use fairlead_core::asks::{Counted, Keys, NodeId, announcements};
use ipnet::IpNet;

use super::{OwnCount, OwnList, claimer::control_address};

/// What they are made with.
#[derive(Debug)]
pub(super) struct Announcer {
    node: NodeId,
    gateways: BTreeSet<IpAddr>,
    nonce: u64,
    /// The last one's.
    turn: u64,
}

impl Announcer {
    /// Of this `node`, to gateways with these tunnel prefixes but its `own`; `random` has to differ at each start.
    pub(super) fn new(node: NodeId, gateways: &[IpNet], own: &[IpNet], random: u64) -> Self {
        let mut this = Self { node, gateways: BTreeSet::new(), nonce: random, turn: 0 };
        this.serve(gateways, own);
        this
    }

    /// The gateways are these from now on.
    pub(super) fn serve(&mut self, gateways: &[IpNet], own: &[IpNet]) {
        self.gateways = gateways.iter().filter(|prefix| !own.contains(prefix)).map(control_address).collect();
    }

    /// The messages of what was counted; `now` is the time since the agent's start.
    pub(super) fn count(&mut self, count: &OwnCount, keys: &Keys, now: Duration) -> Vec<Vec<u8>> {
        let held = count.held.iter().filter(|&(_, &flows)| flows > 0);
        let held = held.map(|(&about, &flows)| {
            let second = count.second.contains(&about).into();
            Announced { about, flows, second }
        });
        let held = held.collect();
        let (age, whole) = (now.saturating_sub(count.at), count.whole);
        self.tell(Counted { age, whole, held, ..Counted::default() }, keys)
    }

    /// The same of a list of those that could hold flows.
    pub(super) fn list(&mut self, list: &OwnList, keys: &Keys, now: Duration) -> Vec<Vec<u8>> {
        let held = list.deliveries.iter();
        let held =
            held.map(|(&about, &second)| Announced { about, flows: 1, second: second.into() }).collect();
        let (age, whole) = (now.saturating_sub(list.at), list.whole);
        self.tell(Counted { age, whole, held, list: true, ..Counted::default() }, keys)
    }

    fn tell(&mut self, counted: Counted, keys: &Keys) -> Vec<Vec<u8>> {
        let clock = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_millis();
        self.turn = u64::try_from(clock).unwrap_or(u64::MAX).max(self.turn.saturating_add(1));
        let counted = Counted { turn: self.turn, ..counted };
        announcements(&self.node, &counted, keys, &mut self.nonce)
    }

    /// Where they go.
    pub(super) fn gateways(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.gateways.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairlead_abi::{DeliveryKey, message::ANNOUNCED};
    use fairlead_core::asks::Secrets;

    #[test]
    fn all_other_gateways_hear_of_endpoints_that_hold_flows() {
        let prefixes: Vec<IpNet> = ["198.51.100.1/32", "198.51.100.2/32", "2001:db8:f::/96"]
            .map(|prefix| prefix.parse().expect("a prefix"))
            .into();
        let node = ("eu".into(), "node-1".into());
        let mut announcer = Announcer::new(node, &prefixes, &prefixes[..1], 7);
        let keys = Secrets::parse(&"ab".repeat(32)).expect("a secret").keys("eu");
        let delivery = |port: u16| DeliveryKey { port: port.to_be_bytes(), ..DeliveryKey::default() };
        let mut count = OwnCount::default();
        count.held.extend((0..30).map(|port| (delivery(port), u32::from(port > 3))));
        let messages = announcer.count(&count, &keys, Duration::from_secs(1));
        let sizes: Vec<usize> = messages.iter().map(Vec::len).collect();
        assert_eq!(sizes, [48 + ANNOUNCED * 48, 48 + (26 - ANNOUNCED) * 48]);
        let gateways: Vec<String> = announcer.gateways().map(|gateway| gateway.to_string()).collect();
        assert_eq!(gateways, ["198.51.100.2", "2001:db8:f::"]);
        let nothing = announcer.count(&OwnCount::default(), &keys, Duration::ZERO);
        assert_eq!(nothing.len(), 1, "that there is nothing is told, too");
        let list = OwnList {
            deliveries: count.held.into_keys().map(|key| (key, false)).collect(),
            ..OwnList::default()
        };
        let (before, messages) = (announcer.turn, announcer.list(&list, &keys, Duration::ZERO));
        assert_eq!(messages.len(), 2, "all thirty");
        assert!(announcer.turn > before, "also within a millisecond");
    }
}
