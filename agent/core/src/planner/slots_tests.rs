//! What slots keep of those before them, case by case and whatever they were.

use std::collections::BTreeSet;

use fairlead_abi::RING_SIZES;
use proptest::prelude::*;

use super::*;

const NONE: u16 = NO_BACKEND;

fn slot(current: u16, formers: [u16; 3]) -> Slot {
    Slot { current, formers }
}

fn same_indexes(new: &[u16], before: &[Slot]) -> Vec<Slot> {
    inherit(new.iter().copied(), before, Some)
}

#[test]
fn who_held_the_slot_is_its_newest_former() {
    let rows = [
        ("nothing changes", 1, slot(1, [2, 3, NONE]), slot(1, [2, 3, NONE])),
        ("another one", 4, slot(1, [2, 3, NONE]), slot(4, [1, 2, 3])),
        ("the oldest falls out", 5, slot(1, [2, 3, 4]), slot(5, [1, 2, 3])),
        ("a former comes back", 3, slot(1, [2, 3, 4]), slot(3, [1, 2, 4])),
        ("nobody takes new ones", NONE, slot(1, [2, NONE, NONE]), slot(NONE, [1, 2, NONE])),
        ("and somebody again", 2, slot(NONE, [1, 2, NONE]), slot(2, [1, NONE, NONE])),
        ("damaged ones", 1, slot(1, [1, 2, 2]), slot(1, [2, NONE, NONE])),
    ];
    for (what, current, before, after) in rows {
        assert_eq!(same_indexes(&[current], &[before]), [after], "{what}");
    }
}

#[test]
fn who_does_not_exist_is_forgotten_and_who_moved_is_found() {
    let moved = |old| (old != 2).then_some(old + 10);
    let after = inherit([20].into_iter(), &[slot(1, [2, 3, NONE])], moved);
    assert_eq!(after, [slot(20, [11, 13, NONE])]);
}

#[test]
fn a_larger_ring_inherits_what_each_part_of_it_overlaps() {
    let before = [slot(1, [7, NONE, NONE]), slot(2, [8, NONE, NONE])];
    // The middle one of three has hashes of both.
    let after = same_indexes(&[1, 1, 1], &before);
    assert_eq!(after, [slot(1, [7, NONE, NONE]), slot(1, [2, 7, 8]), slot(1, [2, 8, NONE])]);
}

#[test]
fn a_smaller_ring_inherits_currents_before_formers() {
    let before = [slot(1, [7, NONE, NONE]), slot(2, [8, NONE, NONE]), slot(3, [9, 1, NONE])];
    assert_eq!(same_indexes(&[1], &before), [slot(1, [2, 3, 7])]);
}

#[test]
fn from_nothing_nothing_is_inherited() {
    assert_eq!(same_indexes(&[5, 6], &[]), [Slot::new(5), Slot::new(6)]);
    assert_eq!(same_indexes(&[], &[Slot::new(5)]), []);
}

#[test]
fn what_is_learned_comes_first() {
    let before = slot(1, [2, 3, 4]);
    assert_eq!(learn(before, 5), Some(slot(1, [5, 2, 3])));
    assert_eq!([1, 2, 4].map(|known| learn(before, known)), [None; 3]);
    assert_eq!(learn(Slot::new(1), 2), Some(slot(1, [2, NONE, NONE])));
}

/// Few backends, so that they meet again.
fn index() -> impl Strategy<Value = u16> {
    prop_oneof![8 => 0u16..12, 1 => Just(NONE)]
}

fn ring(size: usize) -> impl Strategy<Value = Vec<u16>> {
    prop::collection::vec(index(), size)
}

/// As slots stand in the kernel: sound or damaged.
fn slots(size: usize) -> impl Strategy<Value = Vec<Slot>> {
    let one = (index(), prop::array::uniform3(index())).prop_map(|(current, formers)| slot(current, formers));
    prop::collection::vec(one, size)
}

fn sizes() -> impl Strategy<Value = (usize, usize)> {
    let size = prop::sample::select(vec![1usize, 2, 3, 251, 509, 1021]);
    (size.clone(), size)
}

fn pair() -> impl Strategy<Value = (Vec<Slot>, Vec<u16>)> {
    sizes().prop_flat_map(|(old, new)| (slots(old), ring(new)))
}

fn same_size() -> impl Strategy<Value = (Vec<Slot>, Vec<u16>)> {
    sizes().prop_flat_map(|(size, _)| (slots(size), ring(size)))
}

proptest! {
    #[test]
    fn every_former_exists_once_and_is_not_current((before, new) in pair(), gone in 0u16..12, shift in 0u16..3) {
        let translate = |old: u16| (old != gone).then_some(old + shift);
        let exist: BTreeSet<u16> =
            before.iter().flat_map(named).filter_map(translate).collect();
        let after = inherit(new.iter().copied(), &before, translate);
        prop_assert_eq!(after.len(), new.len());
        for (slot, &current) in after.iter().zip(&new) {
            prop_assert_eq!(slot.current, current);
            let formers: Vec<u16> = slot.formers.into_iter().filter(|&former| former != NONE).collect();
            prop_assert!(formers.iter().all(|former| exist.contains(former) && *former != current));
            prop_assert_eq!(formers.iter().collect::<BTreeSet<_>>().len(), formers.len());
            prop_assert!(slot.formers.iter().skip(formers.len()).all(|&unused| unused == NONE), "gaps come last");
        }
        prop_assert_eq!(&after, &inherit(new.iter().copied(), &before, translate));
    }

    #[test]
    fn the_same_ring_again_changes_nothing((before, new) in same_size()) {
        let once = same_indexes(&new, &before);
        prop_assert_eq!(&same_indexes(&new, &once), &once);
    }

    #[test]
    fn the_newest_are_kept_in_order((before, new) in same_size()) {
        for (old, slot) in before.iter().zip(same_indexes(&new, &before)) {
            let mut wanted: Vec<u16> = Vec::new();
            for name in named(old).filter(|&name| name != slot.current) {
                if !wanted.contains(&name) {
                    wanted.push(name);
                }
            }
            wanted.resize(wanted.len().max(3), NONE);
            prop_assert_eq!(&slot.formers[..], &wanted[..3]);
        }
    }

    #[test]
    fn whatever_the_sizes_a_hash_finds_who_held_it((before, new) in pair(), hash in any::<u32>()) {
        let after = same_indexes(&new, &before);
        let at = |hash: u32, size: usize| slot_of(hash, u32::try_from(size).unwrap()) as usize;
        let (old, new_at) = (before[at(hash, before.len())], at(hash, new.len()));
        let slot = after[new_at];
        // By all hashes of the slot's range that a ring of this size can tell apart.
        let mine = (0..before.len()).filter(|&other| shares(other, before.len(), new_at, new.len()));
        let currents: BTreeSet<u16> = mine.map(|other| before[other].current).filter(|&c| c != NONE).collect();
        if old.current != NONE && currents.iter().filter(|&&c| c != slot.current).count() <= 3 {
            prop_assert!(named(&slot).any(|name| name == old.current), "{:?} of {:?}", slot, old);
        }
    }

    #[test]
    fn slots_overlap_exactly_where_a_hash_says_so(sizes in sizes(), hash in any::<u32>()) {
        let (old, new) = (u32::try_from(sizes.0).unwrap(), u32::try_from(sizes.1).unwrap());
        let range = overlapping(slot_of(hash, new), new, old);
        prop_assert!(range.contains(&(slot_of(hash, old) as usize)));
        let inner = |at: usize| shares(at, sizes.0, slot_of(hash, new) as usize, sizes.1);
        prop_assert!(range.clone().all(inner));
        prop_assert!(*range.start() == 0 || !inner(range.start() - 1));
        prop_assert!(range.end() + 1 == sizes.0 || !inner(range.end() + 1));
    }
}

/// Whether two slots of rings of different sizes have a hash in common, by fractions.
fn shares(a: usize, of_a: usize, b: usize, of_b: usize) -> bool {
    let first = |at: usize, of: usize| ((at as u128) << 32).div_ceil(of as u128);
    first(a, of_a).max(first(b, of_b)) < first(a + 1, of_a).min(first(b + 1, of_b))
}

#[test]
fn the_largest_rings() {
    let [small, .., large] = RING_SIZES.map(|size| size as usize);
    let before: Vec<Slot> = (0..large).map(|at| Slot::new(u16::try_from(at % 60_000).unwrap())).collect();
    let after = same_indexes(&vec![NONE; small], &before);
    assert_eq!(after[0].formers, [0, 1, 2]);
    let back = same_indexes(&vec![NONE; large], &after);
    assert_eq!(back[large - 1].formers, after[small - 1].formers);
}
