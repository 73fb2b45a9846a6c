//! Backends and weights into a ring: Maglev's lookup table (Eisenbud et al., NSDI 2016, section 3.4), weighted.
//!
//! A backend's preferences depend on its address alone, and backends are asked in the order of their addresses, so
//! the ring is a pure function of the set. Two changes to the paper, which wants a hundred and more slots per
//! backend for its disruption: a backend whose preferred slot is taken waits for its next turn instead of trying on,
//! and none takes more than 5 % above its share. So losing one backend moves hardly anything but its own slots: 1.0 to
//! 1.5 times the ideal at the sizes chosen here, where the paper's table moves 1.4 to 6 times.

use fairlead_abi::{Address, NO_BACKEND, RING_SIZES};

use crate::stable::Stable;

/// Up to how many backends each of [`RING_SIZES`] serves; the largest serves all above. More slots for each backend
/// as there are more of them: what keeps the disruption under 1.5 times the ideal.
const BACKENDS_OF_SIZE: [usize; RING_SIZES.len() - 1] = [9, 16, 27, 45, 72, 116, 160, 320];

/// The size of a ring for so many backends, weighted or not.
pub(super) fn ring_size(backends: usize) -> u32 {
    let at = BACKENDS_OF_SIZE.partition_point(|&most| most < backends);
    RING_SIZES[at]
}

/// What a backend brings to a ring.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// A hash of its address; see [`identity`].
    pub(super) identity: u64,
    /// Its part of the slots, relative to the others.
    pub(super) weight: u16,
}

/// What a backend's preferences are drawn from.
pub(super) fn identity(outer: &Address) -> u64 {
    Stable::new(0).bytes(&outer.bytes).finish()
}

/// The ring of `candidates`, which are in the order of their addresses: each slot holds the position of one. Empty
/// where no candidate has weight.
pub(super) fn ring(candidates: &[Candidate], size: u32) -> Vec<u16> {
    let total: u64 = candidates.iter().map(|candidate| u64::from(candidate.weight)).sum();
    if total == 0 {
        return Vec::new();
    }
    let mut turns: Vec<Turn> = (0..=u16::MAX)
        .zip(candidates)
        .filter(|(_, candidate)| candidate.weight > 0)
        .map(|(position, candidate)| Turn::new(position, *candidate, size, total))
        .collect();
    let mut slots = vec![NO_BACKEND; size as usize];
    let mut free = size;
    let mut idle = true;
    while free > 0 {
        // Only after an idle round: looking costs more than one round does.
        if idle {
            skip_idle_rounds(&mut turns);
        }
        idle = true;
        for turn in &mut turns {
            turn.credit += u64::from(turn.weight);
            if turn.credit < FULL_CREDIT {
                continue;
            }
            turn.credit -= FULL_CREDIT;
            idle = false;
            let slot = &mut slots[turn.preferred(size)];
            // Also once all slots are taken: what is left of the round changes nothing.
            if *slot == NO_BACKEND {
                *slot = turn.position;
                turn.quota -= 1;
                free -= 1;
            }
        }
        turns.retain(|turn| turn.quota > 0);
    }
    slots
}

/// What a turn costs. Fixed, so that one backend's weight doesn't change the pace of the others.
const FULL_CREDIT: u64 = u16::MAX as u64;

/// Gives all turns the credit of those rounds in which none would have enough: where only light ones are left.
fn skip_idle_rounds(turns: &mut [Turn]) {
    let rounds_until = |turn: &Turn| (FULL_CREDIT - turn.credit).div_ceil(u64::from(turn.weight));
    let idle = turns.iter().map(rounds_until).min().map_or(0, |rounds| rounds.saturating_sub(1));
    if idle > 0 {
        for turn in turns {
            turn.credit += idle * u64::from(turn.weight);
        }
    }
}

/// A backend walking through its preferences.
struct Turn {
    position: u16,
    weight: u16,
    credit: u64,
    /// Slots that it may still take.
    quota: u64,
    identity: u64,
    /// Preferences that it has tried.
    tried: u32,
}

impl Turn {
    fn new(position: u16, candidate: Candidate, size: u32, total: u64) -> Self {
        let part = u64::from(size) * u64::from(candidate.weight);
        // At least the share rounded up, so that all quotas together cover the ring.
        let quota = (part * 21 / (total * 20)).max(part.div_ceil(total));
        Self { position, weight: candidate.weight, credit: 0, quota, identity: candidate.identity, tried: 0 }
    }

    /// The next preference: drawn at random, not the paper's fixed skip, because two backends of the same skip would
    /// follow each other and one of them find every slot taken. Runs through all slots should draws not end.
    fn preferred(&mut self, size: u32) -> usize {
        let draw = self.tried;
        self.tried += 1;
        if draw >= size.saturating_mul(DRAWS_PER_SLOT) {
            return (draw % size) as usize;
        }
        let mut h = self.identity ^ u64::from(draw).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        h = (h ^ (h >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        h = (h ^ (h >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        (((h >> 32) * u64::from(size)) >> 32) as usize
    }
}

/// After so many draws for each slot, one that was never drawn is so unlikely that this only bounds the loop.
const DRAWS_PER_SLOT: u32 = 64;

#[cfg(test)]
#[path = "maglev_tests.rs"]
mod tests;
