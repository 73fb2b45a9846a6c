//! Flows as a receiver knows them. The time of their last packet is left at 0.

use std::collections::BTreeMap;

use fairlead_abi::{Address, DropReason, FlowEntry, FlowKey, FlowState};

/// Both tables, with room for everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flows {
    /// `FLOWS`.
    pub established: BTreeMap<FlowKey, FlowEntry>,
    /// `HALF_OPEN`.
    pub half_open: BTreeMap<FlowKey, FlowEntry>,
}

impl Flows {
    /// A client's packet is delivered. `acknowledged` is TCP's number, as the flags are; 0 for UDP.
    pub(super) fn client_sent(
        &mut self,
        key: &FlowKey,
        vip: Address,
        port: [u8; 2],
        mss: u16,
        tcp_flags: u8,
        acknowledged: u32,
    ) -> Result<(), DropReason> {
        let (opens, resets) = (tcp_flags & 0x12 == 0x02, tcp_flags & 0x04 != 0);
        let state = if opens { FlowState::HalfOpen } else { FlowState::Unproven };
        let fresh = FlowEntry { vip, port, mss, state: state as u8, ..FlowEntry::default() };
        let same = |entry: &FlowEntry| entry.vip == vip && entry.port == port;
        if opens {
            // It says nothing yet; what is established stays so.
            self.half_open.insert(*key, fresh);
            return Ok(());
        }
        if let Some(entry) = self.established.get(key).filter(|entry| same(entry)) {
            // After the end, another connection of the same ports may have begun.
            let ended = entry.state == FlowState::Closing as u8;
            if !ended || !self.half_open.contains_key(key) {
                return Ok(());
            }
        }
        // A reset is not answered: nothing begins by it.
        if resets {
            return Ok(());
        }
        match self.half_open.get_mut(key).filter(|half| same(half)) {
            None => {
                self.half_open.insert(*key, fresh);
            }
            Some(half) => {
                let waits =
                    key.protocol == 6 && half.state == FlowState::HalfOpen as u8 && half.sequence != 0;
                if waits && acknowledged == half.sequence.wrapping_add(1) {
                    self.promote(key, FlowState::Established);
                }
            }
        }
        Ok(())
    }

    /// An endpoint's packet leaves: what it is rewritten by.
    pub(super) fn endpoint_sent(&mut self, key: &FlowKey, tcp_flags: u8, sequence: u32) -> Option<FlowEntry> {
        let (ends, resets) = (tcp_flags & 0x05 != 0, tcp_flags & 0x04 != 0);
        if tcp_flags & 0x02 != 0
            && let Some(half) = self.half_open.get_mut(key)
        {
            half.sequence = sequence;
            return Some(*half);
        }
        if let Some(entry) = self.established.get_mut(key) {
            if ends {
                entry.state = FlowState::Closing as u8;
            }
            return Some(*entry);
        }
        let half = *self.half_open.get(key)?;
        // An answer proves the flow; a refusal proves nothing.
        if !resets {
            self.promote(key, if ends { FlowState::Closing } else { FlowState::Established });
        }
        Some(half)
    }

    /// What is known of a flow; asking changes nothing.
    pub(super) fn known(&self, key: &FlowKey) -> Option<FlowEntry> {
        self.established.get(key).or_else(|| self.half_open.get(key)).copied()
    }

    fn promote(&mut self, key: &FlowKey, state: FlowState) {
        if let Some(half) = self.half_open.remove(key) {
            self.established.insert(*key, FlowEntry { state: state as u8, ..half });
        }
    }
}
