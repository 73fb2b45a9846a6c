//! Tables that were just made begin as a copy of those that packets are steered by.
//!
//! Indexes stay the same, and with them all that slots remember; only the service table is laid out anew, for where an
//! entry stands in it depends on its size. What is damaged is left out, and planned as if it had never been.

use std::time::Duration;

use fairlead_abi::{BUCKET_ENTRIES, MAX_PROBE, ServiceKey, bucket_of};

use super::installed::{Live, Spot, in_use};
use super::plan::{SlotBlock, Slots};
use super::{Action, Capacities, Installed, Raw};

/// Hands to `carry_out` what makes empty tables of the size `into` hold what `from`, of the size `size`, does. Nothing
/// where one of them is smaller.
///
/// # Errors
/// The first of `carry_out`, after which nothing more is handed to it.
pub fn copy<E>(
    (from, size): (&Raw<'_>, Capacities),
    into: Capacities,
    carry_out: impl FnMut(&Action) -> Result<(), E>,
) -> Result<(), E> {
    if !size.fits_into(&into) {
        return Ok(());
    }
    let there = Installed::read(from, size, None, Duration::ZERO);
    let mut copier = Copier { new: Installed::empty(into), carry_out };
    for (index, hop) in (0..).zip(&there.hops).skip(1).filter(|(_, hop)| hop.ifindex != 0) {
        copier.act(&Action::WriteHop { index, hop: *hop })?;
    }
    for (key, live) in &there.live {
        copier.service(from, &there, (key, live))?;
    }
    for (&key, &delivery) in &there.deliveries {
        copier.act(&Action::PutDelivery { key, delivery })?;
    }
    for &prefix in &there.gateways {
        copier.act(&Action::PutGateway { prefix })?;
    }
    Ok(())
}

struct Copier<F> {
    new: Installed,
    carry_out: F,
}

impl<E, F: FnMut(&Action) -> Result<(), E>> Copier<F> {
    fn act(&mut self, action: &Action) -> Result<(), E> {
        (self.carry_out)(action)?;
        self.new.apply(action, Duration::ZERO);
        Ok(())
    }

    fn service(
        &mut self,
        from: &Raw<'_>,
        there: &Installed,
        (key, live): (&ServiceKey, &Live),
    ) -> Result<(), E> {
        let value = *there.entry(live.spot);
        let ring = there.own_ring(live);
        let (Some(hash), Some((bucket, entry))) = (live.ring_hash, self.free_spot(key)) else {
            return Ok(());
        };
        if ring.size > 0 {
            let block = from.slots.block(ring.first_slot, ring.size);
            let slots = SlotBlock { slots: Slots::Inherited(block.as_ref().into()), hash };
            self.act(&Action::WriteSlots { first: ring.first_slot, slots })?;
        }
        for index in there.region(live).filter(|&index| in_use(&there.backends[index as usize])) {
            self.act(&Action::ClearBackendCounters { first: index, count: 1 })?;
            self.act(&Action::WriteBackend { index, backend: there.backends[index as usize] })?;
        }
        let passed: Vec<u32> = self.new.passed(key, bucket).collect();
        for bucket in passed {
            if self.new.buckets[bucket as usize].overflowed == 0 {
                self.act(&Action::SetOverflowed { bucket, value: 1 })?;
            }
        }
        let server_ids: Vec<_> = there.server_ids_of(value.backends).map(|(key, id)| (*key, *id)).collect();
        for (key, server) in server_ids {
            self.act(&Action::PutServerId { key, server })?;
        }
        for range in there.allowed_by(value.id) {
            self.act(&Action::PutRange { service: value.id, range })?;
        }
        self.act(&Action::PublishEntry { bucket, entry, value, room: live.room })
    }

    /// Where a lookup finds `key`, if there is room.
    fn free_spot(&self, key: &ServiceKey) -> Option<Spot> {
        let (home, mask) = (bucket_of(key, self.new.mask()), self.new.mask());
        let buckets = (0..MAX_PROBE.min(mask + 1)).map(|step| home.wrapping_add(step) & mask);
        let mut spots = buckets.flat_map(|bucket| (0..BUCKET_ENTRIES).map(move |entry| (bucket, entry)));
        spots.find(|&spot| self.new.entry(spot).key().is_none())
    }
}

impl Capacities {
    /// Whether no map is larger than its counterpart in `other`.
    fn fits_into(&self, other: &Self) -> bool {
        let sizes = |c: &Self| {
            [c.buckets, c.slots, c.backends, c.service_ids, c.hops, c.deliveries, c.gateways, c.source_ranges]
        };
        sizes(self).iter().zip(sizes(other)).all(|(size, other)| *size <= other)
    }
}
