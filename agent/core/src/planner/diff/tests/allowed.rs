//! Ranges of clients: when they come and go, and where they find no room.

use super::rows::kinds;
use super::*;
use crate::planner::Map;

fn of(pods: u32, allowed: u8) -> Tables {
    Wish { allowed, ..Wish::of(pods) }.tables()
}

/// Whom the only port lets in.
fn let_in(bench: &Bench) -> Option<Vec<IpNet>> {
    let (_, _, entry) = bench.kernel.entries().find(|(key, ..)| key.port == 80).expect("published");
    bench.kernel.admits(entry).map(|ranges| ranges.into_iter().collect())
}

#[test]
fn ranges_come_before_they_are_asked_for_and_go_after() {
    let mut bench = Bench::new(capacities());
    bench.converge(&of(0b1, 0));
    let steps: [(u8, &[&str]); 4] = [
        (0b11, &["allow", "flags"]),
        (0b110, &["allow", "forget range"]),
        (0b100, &["forget range"]),
        (0, &["flags", "forget range"]),
    ];
    for (allowed, expected) in steps {
        let plan = bench.diff(&of(0b1, allowed)).unwrap();
        assert_eq!(kinds(&plan), expected, "{allowed:#b}");
        bench.carry_out(&plan);
        assert_eq!(let_in(&bench), (allowed != 0).then(|| ranges(allowed)));
        assert_eq!(bench.diff(&of(0b1, allowed)).unwrap().actions, []);
    }
    bench.assert_clean(&of(0b1, 0));
}

#[test]
fn a_new_service_lets_nobody_in_before_its_ranges_are_there() {
    let mut bench = Bench::new(capacities());
    let plan = bench.diff(&of(0b1, 0b11)).unwrap();
    let kinds = kinds(&plan);
    let at = |kind| kinds.iter().position(|known| *known == kind).unwrap();
    assert!(at("allow") < kinds.iter().rposition(|known| *known == "publish").unwrap(), "{kinds:?}");
    bench.carry_out(&plan);
    // One that goes takes its ranges along, and its id can be another's.
    bench.converge(&Tables::default());
    bench.assert_clean(&Tables::default());
    bench.converge(&of(0b1, 0b100));
    bench.assert_serves(&of(0b1, 0b100));
}

#[test]
fn where_ranges_find_no_room_their_clients_are_refused_and_nobody_else_is_let_in() {
    let mut bench = Bench::new(Capacities { source_ranges: 2, ..capacities() });
    bench.converge(&of(0b1, 0));
    let wanted = of(0b1, 0b111);
    let full = Full { map: Map::Allowed, needed: 3, capacity: 2, retry_at: None };
    let plan = bench.diff(&wanted).unwrap();
    assert_eq!((kinds(&plan), plan.unallowed), (vec!["allow", "flags"], Some(full)));
    assert!(full.to_string().ends_with("raise capacities.sourceRanges in the configuration"), "{full}");
    bench.carry_out(&plan);
    assert_eq!(let_in(&bench), Some(ranges(0b011)));
    let plan = bench.diff(&wanted).unwrap();
    assert_eq!((plan.actions, plan.due, plan.unallowed), (vec![], None, Some(full)), "it is told again");
    // Others that fit take the place of those that don't, and what becomes free is taken.
    let wanted = of(0b1, 0b1100);
    let plan = bench.diff(&wanted).unwrap();
    assert_eq!((kinds(&plan), plan.unallowed), (vec!["forget range", "allow"], None));
    bench.carry_out(&plan);
    bench.assert_serves(&wanted);
    bench.converge(&of(0b1, 0));
    bench.assert_clean(&of(0b1, 0));
}

#[test]
fn a_new_service_without_room_for_its_ranges_is_published_shut() {
    let mut bench = Bench::new(Capacities { source_ranges: 0, ..capacities() });
    let wanted = of(0b1, 0b1);
    let plan = bench.diff(&wanted).unwrap();
    bench.carry_out(&plan);
    assert_eq!((plan.unallowed.map(|full| full.needed), let_in(&bench)), (Some(1), Some(vec![])));
}

#[test]
fn a_service_that_has_to_stay_as_it_was_is_restricted_all_the_same() {
    // No room for another ring: endpoints can't follow.
    let mut bench = Bench::new(Capacities { slots: 251, ..capacities() });
    bench.converge(&of(0b1, 0));
    let wanted = of(0b110, 0b1);
    let full = Full { map: Map::Slots, needed: 502, capacity: 251, retry_at: None };
    let plan = bench.follow(&wanted, full, Newcomers::Refused);
    assert_eq!(plan.behind, 1);
    bench.carry_out(&plan);
    assert_eq!(let_in(&bench), Some(ranges(0b1)));
    // And the other way round.
    let plan = bench.follow(&of(0b110, 0), full, Newcomers::Refused);
    bench.carry_out(&plan);
    assert_eq!(let_in(&bench), None);
}

#[test]
fn what_a_stranger_changed_is_put_right() {
    let mut bench = Bench::new(capacities());
    let wanted = of(0b1, 0b11);
    bench.converge(&wanted);
    for ranges in bench.kernel.allowed.values_mut() {
        ranges.pop_first();
        ranges.insert("203.0.113.0/24".parse().unwrap());
    }
    bench.kernel.allowed.insert(7, BTreeSet::from(["192.0.2.0/24".parse().unwrap()]));
    bench.installed = bench.reread();
    bench.converge(&wanted);
    bench.assert_serves(&wanted);
    bench.assert_clean(&wanted);
}
