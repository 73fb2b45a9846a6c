//! Balance, disruption, and the paper's own formulation as the yardstick.

use super::*;

fn fleet(backends: u32, weight: impl Fn(u32) -> u16) -> Vec<Candidate> {
    let address = |n: u32| Address::v4((0x0a00_0000 + n * 7 + 3).to_be_bytes());
    (0..backends).map(|n| Candidate { identity: identity(&address(n)), weight: weight(n) }).collect()
}

fn equal(_: u32) -> u16 {
    u16::MAX
}

fn three_kinds(n: u32) -> u16 {
    [65_535, 30_000, 10_000][n as usize % 3]
}

fn ring_of(fleet: &[Candidate]) -> Vec<u16> {
    ring(fleet, ring_size(fleet.len()))
}

fn held(ring: &[u16], backends: usize) -> Vec<f64> {
    let mut held = vec![0.0; backends];
    ring.iter().for_each(|&position| held[usize::from(position)] += 1.0);
    held
}

/// Slots that move when one backend goes, relative to the slots that it held: over up to 40 of them, each gone in turn.
fn disruption(fleet: &[Candidate], ring: impl Fn(&[Candidate]) -> Vec<u16>) -> f64 {
    let before = ring(fleet);
    let (mut moved, mut ideal) = (0, 0);
    for gone in (0..fleet.len()).step_by(fleet.len().div_ceil(40)) {
        let mut fewer = fleet.to_vec();
        fewer[gone].weight = 0;
        let after = ring(&fewer);
        moved += before.iter().zip(&after).filter(|(a, b)| a != b).count();
        ideal += before.iter().filter(|&&position| usize::from(position) == gone).count();
    }
    f64::from(u32::try_from(moved).unwrap()) / f64::from(u32::try_from(ideal).unwrap())
}

/// The algorithm as the paper writes it down, permutation tables and all, with this module's preferences and its two
/// changes: waiting after a failure, and the quota.
fn naive(identities: &[u64], size: u32) -> Vec<u16> {
    let permutation = |&identity: &u64| {
        let mut turn = Turn::new(0, Candidate { identity, weight: 1 }, size, 1);
        (0..size * DRAWS_PER_SLOT).map(|_| turn.preferred(size)).collect::<Vec<_>>()
    };
    let permutations: Vec<Vec<usize>> = identities.iter().map(permutation).collect();
    let share = size as usize * 21 / (20 * identities.len());
    let quota = share.max((size as usize).div_ceil(identities.len()));
    let mut entry = vec![None; size as usize];
    let mut taken = vec![0; identities.len()];
    for next in 0.. {
        for (i, permutation) in permutations.iter().enumerate() {
            let slot = permutation[next];
            if taken[i] < quota && entry[slot].is_none() {
                entry[slot] = Some(u16::try_from(i).unwrap());
                taken[i] += 1;
            }
        }
        if entry.iter().all(Option::is_some) {
            return entry.into_iter().map(Option::unwrap).collect();
        }
    }
    unreachable!()
}

/// The paper's algorithm without any change: offset and skip, trying on until a slot is free.
fn paper(fleet: &[Candidate], size: u32) -> Vec<u16> {
    let size = u64::from(size);
    let alive = (0..=u16::MAX).zip(fleet).filter(|(_, candidate)| candidate.weight > 0);
    let start = |(i, c): (u16, &Candidate)| (i, (c.identity >> 32) % size, c.identity % (size - 1) + 1);
    let mut walks: Vec<(u16, u64, u64)> = alive.map(start).collect();
    let mut entry = vec![NO_BACKEND; usize::try_from(size).unwrap()];
    let mut free = entry.len();
    loop {
        for (i, at, skip) in &mut walks {
            while entry[usize::try_from(*at).unwrap()] != NO_BACKEND {
                *at = (*at + *skip) % size;
            }
            entry[usize::try_from(*at).unwrap()] = *i;
            free -= 1;
            if free == 0 {
                return entry;
            }
        }
    }
}

#[test]
fn equals_the_naive_formulation() {
    for backends in [1, 2, 3, 9, 10, 27] {
        let fleet = fleet(backends, equal);
        let identities: Vec<u64> = fleet.iter().map(|candidate| candidate.identity).collect();
        let size = ring_size(fleet.len());
        assert_eq!(ring(&fleet, size), naive(&identities, size), "{backends} backends");
    }
}

#[test]
fn sizes_grow_with_the_number_of_backends() {
    let sizes = [0, 1, 9, 10, 27, 28, 100, 116, 117, 321, 65_535].map(ring_size);
    assert_eq!(sizes, [251, 251, 251, 509, 1021, 2039, 8191, 8191, 16381, 65537, 65537]);
}

#[test]
fn balance() {
    for backends in [2, 5, 9, 27, 45, 72, 100, 116, 160, 320, 800] {
        let fleet = fleet(backends, equal);
        let ring = ring_of(&fleet);
        let mean = f64::from(u32::try_from(ring.len()).unwrap()) / f64::from(backends);
        let most = held(&ring, fleet.len()).into_iter().fold(0.0, f64::max);
        let whole = mean.ceil().max((mean * 1.05).floor());
        assert!(most <= whole, "{backends} backends: {most} slots, {mean:.1} is the mean");
        if backends >= 9 {
            assert!(most / mean <= 1.05, "{backends} backends: {:.3}", most / mean);
        }
    }
}

#[test]
fn weights_are_followed() {
    for backends in [9, 27, 100, 300] {
        let fleet = fleet(backends, three_kinds);
        let ring = ring_of(&fleet);
        let total: u32 = fleet.iter().map(|candidate| u32::from(candidate.weight)).sum();
        let held = held(&ring, fleet.len());
        for kind in 0..3 {
            let of_kind = |n: &usize| n % 3 == kind;
            let slots: f64 = (0..fleet.len()).filter(of_kind).map(|n| held[n]).sum();
            let weight: u32 = (0..fleet.len()).filter(of_kind).map(|n| u32::from(fleet[n].weight)).sum();
            let share = slots / f64::from(u32::try_from(ring.len()).unwrap());
            let wanted = f64::from(weight) / f64::from(total);
            // The rest of 20ths that the heavy ones may take is missing from the light ones.
            assert!(
                (share - wanted).abs() < 0.05,
                "{backends} backends, kind {kind}: {share:.3} of {wanted:.3}"
            );
        }
    }
}

#[test]
fn disruption_stays_near_the_ideal() {
    // The least and the most backends of each size.
    for backends in [2, 9, 10, 16, 17, 27, 28, 45, 46, 72, 73, 100, 116, 117, 160, 161, 320, 321, 800] {
        for (kind, weight) in [("equal", equal as fn(u32) -> u16), ("weighted", three_kinds)] {
            let moved = disruption(&fleet(backends, weight), ring_of);
            assert!((1.0..=1.5).contains(&moved), "{backends} {kind} backends: {moved:.2} of the ideal");
        }
    }
}

#[test]
fn the_papers_table_moves_more() {
    let fleet = fleet(100, equal);
    let size = ring_size(100);
    let moved = disruption(&fleet, |fleet| paper(fleet, size));
    assert!(moved > 2.0, "{moved:.2}: if this were good enough, the paper's algorithm would be, too");
}

#[test]
fn without_weight_there_is_no_ring() {
    assert_eq!(ring(&[], 251), []);
    assert_eq!(ring(&fleet(3, |_| 0), 251), []);
}

#[test]
fn who_has_no_weight_holds_no_slot() {
    let ring = ring_of(&fleet(10, |n| if n == 4 { 0 } else { 7 }));
    assert!(ring.iter().all(|&position| position != 4 && position < 10));
}

#[test]
fn extreme_weights_end() {
    // Light ones have to fill what the heavy one may not.
    let ring = ring_of(&fleet(400, |n| if n == 0 { u16::MAX } else { 1 }));
    assert!(!ring.contains(&NO_BACKEND));
    let largest = ring_of(&fleet(65_535, equal));
    assert!(!largest.contains(&NO_BACKEND));
    assert_eq!(largest.len(), 65_537);
}
