//! Whom slots name besides their current backend, and for how long.

use fairlead_abi::{Address, NO_BACKEND, ServiceEntry, Slot};

use super::*;
use crate::planner::{Verdict, WantedBackend, learn};

fn web_key(bench: &Bench) -> ServiceKey {
    bench.kernel.entries().find(|(key, ..)| key.port == 80).expect("published").0
}

fn web_entry(bench: &Bench) -> ServiceEntry {
    *bench.kernel.lookup(&web_key(bench)).expect("published")
}

/// The slots of the service by addresses' last bytes, 0 for none.
fn web_slots(bench: &Bench) -> Vec<[u8; 4]> {
    let entry = web_entry(bench);
    let name = |index: u16| match index {
        NO_BACKEND => 0,
        index => bench.kernel.backends[(entry.backends + u32::from(index)) as usize].outer.bytes[15],
    };
    let block = &bench.kernel.slots[entry.ring.first_slot as usize..][..entry.ring.size as usize];
    let all = |slot: &Slot| [slot.current, slot.formers[0], slot.formers[1], slot.formers[2]];
    block.iter().map(|slot| all(slot).map(name)).collect()
}

/// A service with these pods, the second of which are not ready.
fn with(present: u32, unready: u32) -> Tables {
    Wish { services: [Some((present, unready)), None, None, None, None, None], ..Wish::default() }.tables()
}

#[test]
fn a_drained_backend_is_a_former_of_the_slots_that_it_held() {
    let mut bench = Bench::new(capacities());
    bench.converge(&with(0b110, 0));
    let before = web_slots(&bench);
    assert!(before.iter().all(|slot| slot[1..] == [0; 3]));
    bench.converge(&with(0b110, 0b10));
    for (after, before) in web_slots(&bench).iter().zip(&before) {
        assert_eq!(*after, if before[0] == 2 { [3, 2, 0, 0] } else { [3, 0, 0, 0] });
    }
    // And once it takes new connections again, the other one is.
    bench.converge(&with(0b110, 0));
    for (after, before) in web_slots(&bench).iter().zip(&before) {
        assert_eq!(*after, if before[0] == 2 { [2, 3, 0, 0] } else { [3, 0, 0, 0] });
    }
}

#[test]
fn a_backend_that_goes_is_in_no_slot_before_its_entry_is_cleared() {
    let mut bench = Bench::new(capacities());
    bench.converge(&with(0b110, 0));
    bench.converge(&with(0b110, 0b10));
    // The ring is the same as before: what changes is only whom its slots remember.
    let wanted = with(0b100, 0);
    let plan = bench.diff(&wanted).unwrap();
    assert!(
        matches!(plan.actions[..], [Action::WriteSlots { .. }, Action::SwitchRing { .. }]),
        "{:?}",
        plan.actions
    );
    bench.carry_out(&plan);
    assert!(web_slots(&bench).iter().all(|slot| *slot == [3, 0, 0, 0]));
    assert_eq!(plan.due, Some(bench.now + GRACE));
    assert!(bench.diff(&wanted).unwrap().is_empty(), "packets may still read the old slots");
    bench.now += GRACE;
    assert!(matches!(bench.diff(&wanted).unwrap().actions[..], [Action::ClearBackend { .. }]));
    bench.converge(&wanted);
    bench.assert_clean(&wanted);
}

#[test]
fn an_emptied_service_remembers_who_held_its_slots() {
    let mut bench = Bench::new(capacities());
    bench.converge(&with(0b110, 0));
    let before = web_slots(&bench);
    let emptied = with(0b110, 0b110);
    bench.converge(&emptied);
    bench.assert_serves(&emptied);
    for (after, before) in web_slots(&bench).iter().zip(&before) {
        assert_eq!(*after, [0, before[0], 0, 0]);
    }
    assert_eq!(bench.reread().fingerprint(), emptied.fingerprint());
    assert!(diff(&emptied, &bench.reread(), &bench.kernel.slots, bench.now).unwrap().is_empty());
    // One goes for good, then a new one takes over, and the other is found yet.
    bench.converge(&with(0b100, 0b100));
    assert!(web_slots(&bench).iter().all(|slot| matches!(slot, [0, 3 | 0, 0, 0])));
    bench.converge(&with(0b1100, 0b100));
    for (after, before) in web_slots(&bench).iter().zip(&before) {
        assert_eq!(*after, if before[0] == 3 { [4, 3, 0, 0] } else { [4, 0, 0, 0] });
    }
    bench.converge(&with(0, 0));
    assert_eq!(web_entry(&bench).ring.size, 0, "nobody is left to be remembered");
}

#[test]
fn slots_move_along_with_a_service_that_outgrows_its_region() {
    let mut bench = Bench::new(capacities());
    bench.converge(&with(0b110, 0));
    bench.converge(&with(0b110, 0b10));
    let before = web_entry(&bench);
    let found = |slots: &[[u8; 4]], hash: u32, outer: u8| {
        let at = fairlead_abi::slot_of(hash, u32::try_from(slots.len()).unwrap());
        slots[at as usize].contains(&outer)
    };
    let old = web_slots(&bench);
    bench.converge(&with(u32::MAX, 0b10));
    let (after, new) = (web_entry(&bench), web_slots(&bench));
    assert!(after.backends != before.backends && after.ring.size > before.ring.size);
    for hash in (0..=u32::MAX).step_by(1 << 20) {
        for outer in [2, 3].into_iter().filter(|&outer| found(&old, hash, outer)) {
            assert!(found(&new, hash, outer), "{outer} holds connections of {hash}");
        }
    }
}

#[test]
fn damaged_formers_are_dropped_and_sound_ones_stay() {
    let mut bench = Bench::new(capacities());
    bench.converge(&with(0b110, 0));
    let wanted = with(0b110, 0b10);
    bench.converge(&wanted);
    let sound = web_slots(&bench);
    let held = sound.iter().position(|slot| slot[1] == 2).unwrap();
    let first = web_entry(&bench).ring.first_slot as usize;
    let slot = bench.kernel.slots[first + held];
    let former = slot.formers[0];
    bench.kernel.strict = false;
    for damaged in [[former, 3, NO_BACKEND], [former, former, NO_BACKEND], [slot.current, former, NO_BACKEND]]
    {
        let first = web_entry(&bench).ring.first_slot as usize;
        bench.kernel.slots[first + held].formers = damaged;
        bench.installed = bench.reread();
        assert_ne!(bench.installed.fingerprint(), wanted.fingerprint(), "{damaged:?}");
        bench.converge(&wanted);
        assert_eq!(web_slots(&bench), sound, "{damaged:?}");
    }
}

#[test]
fn a_new_backend_is_not_taken_for_who_had_its_index_before() {
    let mut bench = Bench::new(capacities());
    bench.converge(&with(0b110, 0));
    bench.converge(&with(0b110, 0b10));
    let key = web_key(&bench);
    let index = |bench: &Bench, outer: u8| {
        let is_sought =
            |(_, backend): &(u32, &fairlead_abi::Backend)| backend.outer == Address::v4([10, 0, 0, outer]);
        bench.installed.backends_of(&key).find(is_sought).unwrap().0
    };
    let before = index(&bench, 2);
    bench.converge(&with(0b100, 0));
    bench.converge(&with(0b1100, 0b1000));
    assert_eq!(index(&bench, 4), before);
    assert!(web_slots(&bench).iter().all(|slot| *slot == [3, 0, 0, 0]));
}

#[test]
fn what_is_learned_stays_as_long_as_its_backend() {
    let mut bench = Bench::new(capacities());
    bench.converge(&with(0b1110, 0b1000));
    let key = web_key(&bench);
    let pod = |n: u8| IpAddr::from([10, 0, 0, n]);
    let plan = |bench: &Bench, hash, outer| learn(&bench.installed, &bench.kernel.slots, &key, hash, outer);
    let current = web_slots(&bench)[0][0];
    assert_eq!(plan(&bench, 0, pod(current)), None, "it is the current one");
    assert_eq!(plan(&bench, 0, pod(9)), None, "the service has no such backend");
    let action = plan(&bench, 0, pod(4)).unwrap();
    bench.apply(&action);
    assert_eq!(web_slots(&bench)[0], [current, 4, 0, 0]);
    assert_eq!(plan(&bench, 0, pod(4)), None, "it is known now");
    let last = plan(&bench, u32::MAX, pod(4)).unwrap();
    let entry = web_entry(&bench);
    let Action::SetSlot { index, .. } = last else { panic!("{last:?}") };
    assert_eq!(index, entry.ring.first_slot + entry.ring.size - 1);
    assert_eq!(bench.reread().fingerprint(), bench.installed.fingerprint());
    // Another ring inherits it; a service without it forgets it.
    bench.converge(&with(0b1110, 0b1110));
    assert_eq!(web_slots(&bench)[0], [0, current, 4, 0]);
    bench.converge(&with(0b110, 0b110));
    assert_eq!(web_slots(&bench)[0], [0, current, 0, 0]);
    bench.assert_clean(&with(0b110, 0b110));
}

#[test]
fn where_nobody_takes_new_connections_there_is_room_to_learn() {
    let mut bench = Bench::new(capacities());
    let drained = with(0b110, 0b110);
    bench.converge(&drained);
    let key = web_key(&bench);
    let action = learn(&bench.installed, &bench.kernel.slots, &key, 7, [10, 0, 0, 3].into()).unwrap();
    bench.apply(&action);
    assert_eq!(web_slots(&bench)[0], [0, 3, 0, 0]);
    bench.assert_serves(&drained);
    // As little room as there is for others.
    let mut full = Bench::new(Capacities { slots: 250, ..capacities() });
    full.converge(&drained);
    assert_eq!(web_entry(&full).ring.size, 0);
    assert_eq!(learn(&full.installed, &full.kernel.slots, &key, 7, [10, 0, 0, 3].into()), None);
}

#[test]
fn a_node_that_does_not_answer_is_one_store_for_each_backend() {
    let mut bench = Bench::new(capacities());
    let wanted = with(0b110, 0);
    bench.converge(&wanted);
    let silent = Tables { silent: Arc::new([IpAddr::from([10, 0, 0, 2])].into()), ..wanted.clone() };
    let plan = bench.diff(&silent).unwrap();
    let [Action::SetBackendHop { index, backend }] = plan.actions[..] else { panic!("{:?}", plan.actions) };
    assert_eq!((backend.kind(), backend.is_silent()), (bench.kernel.backends[index as usize].encap, true));
    bench.converge(&silent);
    assert!(bench.diff(&silent).unwrap().settled.is_empty(), "skipped");
    assert!(diff(&silent, &bench.reread(), &bench.kernel.slots, bench.now).unwrap().is_empty());
    assert_eq!(bench.diff(&wanted).unwrap().actions.len(), 1);
    bench.converge(&wanted);
    bench.assert_serves(&wanted);
}

/// The service as a UDP one.
fn udp(tables: &Tables) -> Tables {
    let mut tables = Tables { udp_unsettled: Duration::from_secs(30), ..tables.clone() };
    let (key, table) = tables.services.pop_last().expect("the VIP's own entry comes first");
    let table = ServiceTable { protocol: Some(Protocol::Udp), ..(*table).clone() };
    assert_ne!(key, table.key());
    tables.services.insert(table.key(), Arc::new(table));
    tables
}

#[test]
fn slots_of_a_udp_service_that_change_are_said_to_be_recent_before_and_for_a_while() {
    let recent = |bench: &Bench| web_entry(bench).flags & ServiceEntry::RECENT != 0;
    let mut bench = Bench::new(capacities());
    let before = udp(&with(0b110, 0));
    bench.carry_out(&bench.diff(&before).unwrap());
    assert!(!recent(&bench), "a new one has no flows");
    let wanted = udp(&with(0b1110, 0));
    let plan = bench.diff(&wanted).unwrap();
    let at = |sought: fn(&Action) -> bool| plan.actions.iter().position(sought).unwrap();
    let flagged = at(|action| matches!(action, Action::SetEntryFlags { flags: ServiceEntry::RECENT, .. }));
    assert!(flagged < at(|action| matches!(action, Action::SwitchRing { .. })));
    bench.carry_out(&plan);
    let changed = bench.now;
    for s in [1, 29] {
        bench.now = changed + Duration::from_secs(s);
        let plan = bench.diff(&wanted).unwrap();
        assert_eq!((plan.actions.len(), plan.due), (0, Some(changed + Duration::from_secs(30))));
        bench.installed = bench.reread();
    }
    // Another agent can't know since when.
    bench.restart();
    let started = bench.now;
    assert_eq!(bench.diff(&wanted).unwrap().due, Some(started + Duration::from_secs(30)));
    bench.now = started + Duration::from_secs(30);
    let plan = bench.diff(&wanted).unwrap();
    assert!(matches!(plan.actions[..], [Action::SetEntryFlags { flags: 0, .. }]), "{:?}", plan.actions);
    bench.converge(&wanted);
    assert!(bench.diff(&wanted).unwrap().settled.is_empty(), "skipped from now on");
    // Outgrown: it moves with the flag.
    bench.carry_out(&bench.diff(&udp(&with(u32::MAX, 0))).unwrap());
    assert!(recent(&bench));
    // Where it is turned off, it goes.
    let off = Tables { udp_unsettled: Duration::ZERO, ..udp(&with(u32::MAX, 0)) };
    bench.converge(&off);
    assert!(!recent(&bench));
    bench.converge(&Tables { udp_unsettled: Duration::ZERO, ..udp(&with(0b110, 0)) });
    assert!(!recent(&bench));
}

#[test]
fn who_lingers_gives_way_where_there_is_no_room() {
    let mut wanted = with(0b110, 0b10);
    for table in wanted.services.values_mut() {
        let unready = |backend: &&mut WantedBackend| backend.weight == 0;
        let left = Arc::make_mut(table).backends.iter_mut().filter(unready);
        left.for_each(|backend| backend.verdict = Verdict::Lingering);
    }
    let mut roomy = Bench::new(capacities());
    roomy.converge(&wanted);
    roomy.assert_serves(&wanted);
    // Index 0 is never used.
    let mut full = Bench::new(Capacities { backends: 2, ..capacities() });
    full.converge(&wanted);
    let outers: Vec<Address> = full.installed.backends_of(&web_key(&full)).map(|(_, b)| b.outer).collect();
    assert_eq!(outers, [Address::v4([10, 0, 0, 3])]);
    assert_eq!(full.installed.fingerprint(), wanted.fingerprint());
    assert!(full.diff(&wanted).unwrap().is_empty());
}
