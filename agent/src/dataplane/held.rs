//! How many flows this node's endpoints hold: counted by the sweep, for the programs that answer gateways by it.

use std::collections::BTreeMap;

use aya::maps::{HashMap, MapData};
use fairlead_abi::{Address, Count, Delivery, DeliveryKey, FlowEntry, FlowKey, HeldFlows, map};

use super::Error;

/// Flows of each delivery.
pub type HeldHere = BTreeMap<DeliveryKey, u32>;

/// An endpoint's port as a VIP's: address and port of both, and the protocol.
type Pair = (Address, [u8; 2], Address, [u8; 2], u8);

/// A count in the making.
#[derive(Debug, Default)]
pub(super) struct Tally(BTreeMap<Pair, u32>);

impl Tally {
    /// One more flow.
    pub(super) fn add(&mut self, key: &FlowKey, flow: &FlowEntry) {
        let pair = (flow.vip, flow.port, key.endpoint, key.endpoint_port, key.protocol);
        *self.0.entry(pair).or_default() += 1;
    }

    /// What each delivery has of it.
    pub(super) fn of(&self, deliveries: &BTreeMap<DeliveryKey, Delivery>) -> HeldHere {
        let of_service = deliveries.iter().filter(|(key, _)| key.service().is_some());
        let flows = |(key, delivery): (&DeliveryKey, &Delivery)| {
            let pair = (key.vip, key.port, delivery.endpoint, delivery.port, key.protocol);
            (*key, self.0.get(&pair).copied().unwrap_or(0))
        };
        of_service.map(flows).collect()
    }
}

/// What the programs are told of a delivery: where flows may be missing, nobody knows that there are none.
const fn told(flows: u32, may_lack: bool) -> u32 {
    if flows == 0 && may_lack { Count::UNKNOWN } else { flows }
}

/// Tells the programs: at `counted` ticks there were so many, and that counts for `valid` ticks; some may be missing.
pub(super) fn tell(
    table: &mut HashMap<MapData, DeliveryKey, HeldFlows>,
    held: &HeldHere,
    (counted, valid): (u32, u32),
    may_lack: bool,
) -> Result<(), Error> {
    let error = Error::map(map::HELD);
    let (counted, valid) = (counted.into(), valid.into());
    for (key, &flows) in held {
        let flows = told(flows, may_lack);
        let value = HeldFlows { flows, padding: 0, connections: 0, counted, valid };
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
        let expected = [(about(80), 2), (about(81), 1), (about(82), 0)];
        assert_eq!(tally.of(&deliveries), expected.into());
    }
}
