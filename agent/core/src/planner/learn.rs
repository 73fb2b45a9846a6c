//! What a gateway learned by asking: which backend holds a connection that comes to a slot.

use std::net::IpAddr;

use fairlead_abi::{Address, ServiceKey, slot_of};

use super::installed::in_use;
use super::{Action, Installed, ReadSlots, slots as pure};

/// Makes the backend at `outer` the newest former of the slot of `hash`, so that the next connections of the slot need no
/// asking. `None` where the slot names it already, or the service has no such backend or no slots.
///
/// To be carried out before anything else is planned: the slot is of the ring that stands now.
#[must_use]
pub fn learn(
    installed: &Installed,
    slots: &dyn ReadSlots,
    key: &ServiceKey,
    hash: u32,
    outer: IpAddr,
) -> Option<Action> {
    let live = installed.live.get(key)?;
    let ring = installed.own_ring(live);
    if ring.size == 0 {
        return None;
    }
    let outer = Address::from(outer);
    let is_sought = |&at: &u32| {
        let backend = &installed.backends[at as usize];
        in_use(backend) && backend.outer == outer
    };
    let mut region = installed.region(live);
    let start = region.start;
    let local = u16::try_from(region.find(is_sought)? - start).ok()?;
    let index = ring.first_slot + slot_of(hash, ring.size);
    let slot = pure::learn(*slots.block(index, 1).first()?, local)?;
    Some(Action::SetSlot { index, slot })
}
