//! What a gateway learned by asking: which backend holds a connection that comes to a slot.

use std::net::IpAddr;

use fairlead_abi::{Address, ServiceKey, slot_of};

use super::installed::{Live, in_use};
use super::{Action, Installed, ReadSlots, slots as pure};

impl Installed {
    /// Where a flow of a service with this hash is looked for: the service's id, the index of the slot in `SLOTS`, and the
    /// number of the backend at `outer` in the service's own list. `None`: there is no such service, or it has no slots, or
    /// no such backend.
    #[must_use]
    pub fn place(
        &self,
        key: &ServiceKey,
        hash: u32,
        outer: Option<IpAddr>,
    ) -> Option<(u32, u32, Option<u16>)> {
        let live = self.live.get(key)?;
        let ring = self.own_ring(live);
        if ring.size == 0 {
            return None;
        }
        let backend = match outer {
            Some(outer) => Some(self.number(live, outer.into())?),
            None => None,
        };
        Some((self.entry(live.spot).id, ring.first_slot + slot_of(hash, ring.size), backend))
    }

    /// The flags of a service's entry; 0 where there is none.
    #[must_use]
    pub fn flags(&self, key: &ServiceKey) -> u32 {
        self.live.get(key).map_or(0, |live| self.entry(live.spot).flags)
    }

    /// The number of a backend in its service's own list.
    fn number(&self, live: &Live, outer: Address) -> Option<u16> {
        let is_sought = |&at: &u32| {
            let backend = &self.backends[at as usize];
            in_use(backend) && backend.outer == outer
        };
        let mut region = self.region(live);
        let start = region.start;
        u16::try_from(region.find(is_sought)? - start).ok()
    }
}

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
    let (_, index, backend) = installed.place(key, hash, Some(outer))?;
    let slot = pure::learn(*slots.block(index, 1).first()?, backend?)?;
    Some(Action::SetSlot { index, slot })
}
