//! A stranger, or a bug, has written into the tables.

use fairlead_abi::{Address, Backend, Hop, Server, ServerKey, ServiceEntry, Slot};
use proptest::prelude::*;

use super::*;

/// Damages one thing; `at` and `to` say which and how.
fn damage(kernel: &mut Kernel, kind: u8, at: usize, to: u32) {
    let spots: Vec<(u32, usize)> = kernel.entries().map(|(_, spot, _)| spot).collect();
    let used: Vec<usize> = (0..kernel.backends.len()).filter(|&n| kernel.backends[n].encap != 0).collect();
    let (Some(&(bucket, entry)), Some(&backend)) =
        (spots.get(at % spots.len().max(1)), used.get(at % used.len().max(1)))
    else {
        return;
    };
    let value = kernel.buckets[bucket as usize].entries[entry];
    let within = (value.ring.first_slot as usize + at % (value.ring.size as usize).max(1)).min(29_999);
    let entry = &mut kernel.buckets[bucket as usize].entries[entry];
    let low = u16::try_from(to % 0x1_0000).unwrap();
    let byte = low.to_be_bytes()[1];
    match kind {
        0 => kernel.slots[within].current = low,
        1 => kernel.slots[within] = Slot { formers: [low, 0, 0], ..kernel.slots[within] },
        2 => kernel.backends[backend] = Backend::default(),
        3 => kernel.backends[backend].outer = Address::v4([10, 0, 0, byte]),
        4 => kernel.backends[backend].hop = to,
        5 => kernel.backends[backend].encap = byte,
        6 => kernel.hops[1 + at % 15] = Hop { ifindex: to, ..Hop::default() },
        7 => entry.family = 0,
        8 => entry.id = to % 200,
        9 => entry.ring.first_slot = to,
        10 => entry.ring.size = to % 2000,
        11 => entry.backends = to % 2000,
        12 => entry.flags = to,
        13 => entry.port = low.to_be_bytes(),
        14 => kernel.buckets[at % 8].overflowed = to % 2,
        15 => kernel.buckets[at % 8].entries[to as usize % 3] = value,
        16 => {
            let stranger = ServiceEntry { vip: Address::v4([203, 0, 113, byte]), ..value };
            kernel.buckets[at % 8].entries[to as usize % 3] = stranger;
        }
        17 => drop(kernel.deliveries.pop_first()),
        18 => drop(kernel.gateways.pop_first()),
        19 => drop(kernel.gateways.insert("203.0.113.0/24".parse().unwrap())),
        20 => kernel.backends[1 + at % 999] = kernel.backends[backend],
        21 => drop(kernel.server_ids.pop_first()),
        22 => kernel.server_ids.values_mut().for_each(|server| server.backend = to % 1000),
        23 => {
            let key = ServerKey { first: to % 1000, padding: 0, id: [byte; 8] };
            kernel.server_ids.insert(key, Server { backend: 1 });
        }
        _ => entry.family = byte,
    }
}

proptest! {
    #[test]
    fn any_damage_is_repaired(
        pods in prop::array::uniform6(prop::option::weighted(0.8, (any::<u32>(), Just(0)))),
        damages in prop::collection::vec((0u8..25, any::<usize>(), any::<u32>()), 1..6),
        (restarted, quic) in any::<(bool, bool)>(),
    ) {
        let wanted = Wish { services: pods, quic, ..Wish::default() }.tables();
        let mut bench = Bench::new(capacities());
        bench.converge(&wanted);
        bench.kernel.strict = false;
        for (kind, at, to) in damages {
            damage(&mut bench.kernel, kind, at, to);
        }
        if restarted { bench.restart() } else { bench.installed = bench.reread() }
        bench.converge(&wanted);
        bench.assert_serves(&wanted);
        bench.assert_clean(&wanted);
        prop_assert_eq!(bench.reread().fingerprint(), wanted.fingerprint());
        prop_assert!(diff(&wanted, &bench.reread(), &bench.kernel.slots, bench.now).unwrap().is_empty());
    }
}

fn damaged(change: impl FnOnce(&mut Kernel)) -> (Bench, Tables) {
    let wanted = Wish::of(0b1111).tables();
    let mut bench = Bench::new(capacities());
    bench.converge(&wanted);
    bench.kernel.strict = false;
    change(&mut bench.kernel);
    bench.installed = bench.reread();
    (bench, wanted)
}

fn web_ring(kernel: &Kernel) -> usize {
    kernel.entries().find(|(key, ..)| key.port == 80).unwrap().2.ring.first_slot as usize
}

#[test]
fn a_slot_that_names_a_free_backend() {
    let (bench, wanted) = damaged(|kernel| {
        let first = web_ring(kernel);
        kernel.slots[first + 7] = Slot::new(6);
    });
    assert_ne!(bench.installed.fingerprint(), wanted.fingerprint(), "status would show it");
    let plan = bench.diff(&wanted).unwrap();
    assert!(matches!(plan.actions[..], [Action::WriteSlots { .. }, Action::SwitchRing { .. }]), "{plan:?}");
}

#[test]
fn a_slot_with_another_backend_than_wanted() {
    let (bench, wanted) = damaged(|kernel| {
        let first = web_ring(kernel);
        let other = u16::from(kernel.slots[first].current == 0);
        kernel.slots[first] = Slot::new(other);
    });
    assert_eq!(bench.diff(&wanted).unwrap().actions.len(), 2);
}

#[test]
fn an_entry_that_nobody_wants() {
    let (bench, wanted) = damaged(|kernel| {
        let value = ServiceEntry {
            vip: Address::v4([203, 0, 113, 9]),
            port: [0, 80],
            protocol: 6,
            family: 4,
            id: 77,
            ..ServiceEntry::default()
        };
        let home = fairlead_abi::bucket_of(&value.key().unwrap(), 7) as usize;
        let free = kernel.buckets[home].entries.iter().position(|entry| entry.key().is_none()).unwrap();
        kernel.buckets[home].entries[free] = value;
    });
    assert!(matches!(bench.diff(&wanted).unwrap().actions[..], [Action::UnpublishEntry { .. }]));
}

#[test]
fn a_hop_that_nobody_wants() {
    let (bench, wanted) = damaged(|kernel| kernel.hops[9] = Hop { ifindex: 3, ..Hop::default() });
    assert_eq!(bench.diff(&wanted).unwrap().actions, [Action::ClearHop { index: 9 }]);
}

#[test]
fn a_hop_that_was_overwritten() {
    let (mut bench, wanted) = damaged(|kernel| kernel.hops[1].destination_mac = [6; 6]);
    let plan = bench.diff(&wanted).unwrap();
    assert!(plan.actions.iter().any(|action| matches!(action, Action::SetBackendHop { .. })), "{plan:?}");
    bench.converge(&wanted);
    bench.assert_serves(&wanted);
}
