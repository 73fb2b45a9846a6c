//! Whom a slot names when its ring changes: the former backends of each slot.
//!
//! In go the slots that stand in the kernel and the new ring, out come the new slots. Connections are found by these
//! names: a backend that held a slot may hold connections whose packets still come to it. So the slots of a new ring
//! keep them, newest first, as long as those backends exist.

use std::ops::RangeInclusive;

use fairlead_abi::{NO_BACKEND, Slot, slot_of};

/// The slots of a ring that takes another one's place.
///
/// `current` are the new ring's backends in the order of its slots; [`NO_BACKEND`] where a slot takes no new connections.
/// `before` is the ring so far. Its indexes go through `translate` into those of `current`; `None` means that the backend
/// doesn't exist any more.
///
/// Slot i of a ring of m covers the hashes from i·2³²/m to (i+1)·2³²/m. A new slot inherits from all former ones that share a
/// hash with it: of a ring of the same size that is one, of a larger ring several. First come their currents, then their
/// formers level by level, each level in the order of the slots: so the newest come first. None comes twice, none is the
/// new current, all exist. What finds no room behind three others is forgotten.
///
/// A pure function, so that gateways with the same past have the same slots.
pub(super) fn inherit(
    current: impl ExactSizeIterator<Item = u16>,
    before: &[Slot],
    translate: impl Fn(u16) -> Option<u16>,
) -> Vec<Slot> {
    let (new_size, old_size) = (size(current.len()), size(before.len()));
    let slot = |(at, current): (u32, u16)| {
        let ancestors = match old_size {
            0 => &[],
            _ => &before[overlapping(at, new_size, old_size)],
        };
        descend(current, ancestors, &translate)
    };
    (0..).zip(current).map(slot).collect()
}

fn size(slots: usize) -> u32 {
    u32::try_from(slots).expect("a ring has one of RING_SIZES")
}

/// Which slots of a ring of `old_size` share hashes with slot `at` of a ring of `new_size`.
fn overlapping(at: u32, new_size: u32, old_size: u32) -> RangeInclusive<usize> {
    let begin = |at: u32| (u64::from(at) << 32).div_ceil(u64::from(new_size));
    let old = |hash: u64| slot_of(u32::try_from(hash).expect("hashes have 32 bits"), old_size) as usize;
    old(begin(at))..=old(begin(at + 1) - 1)
}

/// A slot with what its ancestors leave to it.
fn descend(current: u16, ancestors: &[Slot], translate: impl Fn(u16) -> Option<u16>) -> Slot {
    let mut slot = Slot::new(current);
    let mut taken = 0;
    for level in 0..=slot.formers.len() {
        for ancestor in ancestors {
            let former = if level == 0 { ancestor.current } else { ancestor.formers[level - 1] };
            let Some(former) = Some(former).filter(|&index| index != NO_BACKEND).and_then(&translate) else {
                continue;
            };
            if former == current || slot.formers.contains(&former) {
                continue;
            }
            slot.formers[taken] = former;
            taken += 1;
            if taken == slot.formers.len() {
                return slot;
            }
        }
    }
    slot
}

/// The slot once a backend was found to hold connections of it: it becomes the newest former. `None` where the slot names
/// it already.
pub(super) fn learn(slot: Slot, backend: u16) -> Option<Slot> {
    if slot.current == backend || slot.formers.contains(&backend) {
        return None;
    }
    let [newest, second, _] = slot.formers;
    Some(Slot { formers: [backend, newest, second], ..slot })
}

/// Every backend that a slot names, current and formers.
pub(super) fn named(slot: &Slot) -> impl Iterator<Item = u16> + use<> {
    let [newest, second, third] = slot.formers;
    [slot.current, newest, second, third].into_iter().filter(|&index| index != NO_BACKEND)
}

#[cfg(test)]
#[path = "slots_tests.rs"]
mod tests;
