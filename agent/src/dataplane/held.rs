//! How many flows this node's endpoints hold, and how many they have opened: counted by the sweep, for the programs that answer
//! gateways by it.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::{HashMap, MapData};
use fairlead_abi::{Address, Count, Delivery, DeliveryKey, FlowEntry, FlowKey, HeldFlows, map};

use super::Error;

/// Flows of each delivery.
pub type HeldHere = BTreeMap<DeliveryKey, u32>;

/// Connections that each delivery has opened since the agent began to count.
pub(super) type Opened = BTreeMap<DeliveryKey, u64>;

/// An endpoint's port as a VIP's: address and port of both, and the protocol.
type Pair = (Address, [u8; 2], Address, [u8; 2], u8);

/// A count in the making.
#[derive(Debug, Default)]
pub(super) struct Tally(BTreeMap<Pair, u32>);

impl Tally {
    /// One more flow.
    pub(super) fn add(&mut self, key: &FlowKey, flow: &FlowEntry) {
        *self.0.entry(pair_of_flow(key, flow)).or_default() += 1;
    }

    /// What each delivery has of it.
    pub(super) fn of(&self, deliveries: &BTreeMap<DeliveryKey, Delivery>) -> HeldHere {
        let flows = |(key, pair)| (key, self.0.get(&pair).copied().unwrap_or(0));
        pairs(deliveries).map(flows).collect()
    }
}

/// Flows that have ended, since the agent began to count: what has been opened is those, and those that are there. The sweep
/// takes out what is established, and sees all ends but those whose place a connection of the same ports has taken.
#[derive(Debug, Default)]
pub(super) struct Ended(BTreeMap<Pair, u64>);

impl Ended {
    /// One more.
    pub(super) fn add(&mut self, key: &FlowKey, flow: &FlowEntry) {
        *self.0.entry(pair_of_flow(key, flow)).or_default() += 1;
    }

    /// What each delivery has opened, of which it holds so many yet. Those that are not delivered to any more are forgotten.
    pub(super) fn opened(&mut self, held: &HeldHere, deliveries: &BTreeMap<DeliveryKey, Delivery>) -> Opened {
        let pairs: BTreeMap<DeliveryKey, Pair> = pairs(deliveries).collect();
        let known: BTreeSet<&Pair> = pairs.values().collect();
        self.0.retain(|pair, _| known.contains(pair));
        let ended =
            |key: &DeliveryKey| pairs.get(key).and_then(|pair| self.0.get(pair)).copied().unwrap_or(0);
        held.iter().map(|(key, &flows)| (*key, ended(key) + u64::from(flows))).collect()
    }
}

fn pair_of_flow(key: &FlowKey, flow: &FlowEntry) -> Pair {
    (flow.vip, flow.port, key.endpoint, key.endpoint_port, key.protocol)
}

/// The deliveries of services.
fn pairs(deliveries: &BTreeMap<DeliveryKey, Delivery>) -> impl Iterator<Item = (DeliveryKey, Pair)> {
    deliveries
        .iter()
        .filter(|(key, _)| key.service().is_some())
        .map(|(key, delivery)| (*key, (key.vip, key.port, delivery.endpoint, delivery.port, key.protocol)))
}

/// When something was counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct When {
    /// Ticks of the clock.
    pub(super) ticks: u32,
    /// Ticks in a second.
    pub(super) rate: u32,
    /// For so many it counts.
    pub(super) valid: u32,
}

/// What the programs are told of a delivery: where flows may be missing, nobody knows that there are none.
const fn told(flows: u32, may_lack: bool) -> u32 {
    if flows == 0 && may_lack { Count::UNKNOWN } else { flows }
}

/// Tells the programs how many there were; some may be missing.
pub(super) fn tell(
    table: &mut HashMap<MapData, DeliveryKey, HeldFlows>,
    (held, opened): (&HeldHere, &Opened),
    When { ticks, rate, valid }: When,
    may_lack: bool,
) -> Result<(), Error> {
    let error = Error::map(map::HELD);
    let (counted, valid) = (ticks.into(), valid.into());
    for (key, &flows) in held {
        let flows = told(flows, may_lack);
        let connections = opened.get(key).copied().unwrap_or(0);
        let value = HeldFlows { flows, rate, connections, counted, valid };
        table.insert(key, value, 0).map_err(&error)?;
    }
    let known: Vec<DeliveryKey> = table.keys().collect::<Result<_, _>>().map_err(&error)?;
    for key in known.iter().filter(|key| !held.contains_key(key)) {
        table.remove(key).map_err(&error)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use fairlead_abi::protocol;

    #[test]
    fn nobody_knows_that_there_are_none_where_flows_may_be_missing() {
        assert_eq!([told(0, false), told(7, false), told(7, true)], [0, 7, 7]);
        assert_eq!(told(0, true), Count::UNKNOWN);
    }

    #[test]
    fn flows_are_counted_by_vip_and_endpoint() {
        let (pod, vip) = (Address::v4([192, 0, 2, 1]), Address::v4([203, 0, 113, 1]));
        let key = |client| FlowKey {
            endpoint: pod,
            client: Address::v4([198, 51, 100, client]),
            endpoint_port: [0x1f, 0x90],
            client_port: [1, 1],
            protocol: protocol::TCP,
            padding: [0; 3],
        };
        let flow = |port| FlowEntry { vip, port, ..FlowEntry::default() };
        let mut tally = Tally::default();
        tally.add(&key(1), &flow([0, 80]));
        tally.add(&key(2), &flow([0, 80]));
        tally.add(&key(2), &flow([0, 81]));
        let about = |port| DeliveryKey {
            outer: pod,
            vip,
            port: [0, port],
            protocol: protocol::TCP,
            family: 4,
            padding: 0,
        };
        let delivery = Delivery { endpoint: pod, port: [0x1f, 0x90], ..Delivery::default() };
        let mut deliveries: BTreeMap<_, _> = [80, 81, 82].map(|port| (about(port), delivery)).into();
        deliveries.insert(DeliveryKey::endpoint_only(pod), Delivery::default());
        let expected: HeldHere = [(about(80), 2), (about(81), 1), (about(82), 0)].into();
        assert_eq!(tally.of(&deliveries), expected);
        let mut ended = Ended::default();
        for client in 1..=7 {
            ended.add(&key(client), &flow([0, 80]));
        }
        ended.add(&key(1), &flow([0, 99]));
        let opened = ended.opened(&expected, &deliveries);
        assert_eq!(opened, [(about(80), 9), (about(81), 1), (about(82), 0)].into());
        assert_eq!(ended.0.len(), 1, "what is delivered to no more is forgotten");
    }
}
