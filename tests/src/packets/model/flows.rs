//! Flows as a receiver knows them. The time of their last packet is left at 0.

use std::collections::BTreeMap;

use fairlead_abi::{Address, FlowEntry, FlowKey, FlowState};

/// Both tables, with room for everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flows {
    /// `FLOWS`.
    pub established: BTreeMap<FlowKey, FlowEntry>,
    /// `HALF_OPEN`.
    pub half_open: BTreeMap<FlowKey, FlowEntry>,
}

/// What counts of a client's packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    /// The endpoint is to take it, whether it knows the flow or not.
    pub(super) unmarked: bool,
    /// TCP's; 0 for UDP, as the numbers are.
    pub(super) flags: u8,
    pub(super) sequence: u32,
    pub(super) acknowledged: u32,
}

impl Flows {
    /// A client's packet came; whether it is to be delivered.
    pub(super) fn client_sent(
        &mut self,
        key: &FlowKey,
        vip: Address,
        port: [u8; 2],
        mss: u16,
        sent: Sent,
    ) -> bool {
        let Sent { unmarked, flags, sequence: client_sequence, acknowledged } = sent;
        let (opens, resets) = (flags & 0x12 == 0x02, flags & 0x04 != 0);
        let state = if opens && unmarked { FlowState::HalfOpen } else { FlowState::Unproven };
        let fresh = FlowEntry { vip, port, mss, state: state as u8, client_sequence, ..FlowEntry::default() };
        let same = |entry: &FlowEntry| entry.vip == vip && entry.port == port;
        if opens && unmarked {
            // It says nothing yet; what is established stays so.
            self.half_open.insert(*key, fresh);
            return true;
        }
        let half_open = self.half_open.contains_key(key);
        let fits = |entry: &FlowEntry| unmarked || key.protocol != 6 || of_connection(entry, &sent);
        if let Some(entry) = self.established.get(key).filter(|entry| same(entry) && fits(entry)) {
            if key.protocol == 6 && resets && client_sequence == entry.client_sequence {
                let entry = self.established.get_mut(key).expect("it is there");
                (entry.state, entry.client_ended) = (FlowState::Closing as u8, 1);
                return true;
            }
            let (closing, ends) = (entry.state == FlowState::Closing as u8, flags & 0x01 != 0);
            let ahead = client_sequence.wrapping_sub(entry.client_sequence).cast_signed();
            let near = (-(1 << 19)..1 << 16).contains(&ahead);
            if key.protocol == 6 && ends && near && of_connection(entry, &sent) {
                self.established.get_mut(key).expect("it is there").client_ended = 1;
            }
            // After the end, another connection of the same ports may have begun.
            if !closing || !half_open {
                return true;
            }
        }
        let Some(half) = self.half_open.get_mut(key).filter(|half| same(half)) else {
            // A reset is not answered: nothing begins by it.
            if unmarked && !resets {
                self.half_open.insert(*key, fresh);
            }
            return unmarked;
        };
        if resets {
            return unmarked || client_sequence == half.client_sequence.wrapping_add(1);
        }
        let waits = key.protocol == 6 && half.state == FlowState::HalfOpen as u8 && half.sequence != 0;
        if waits && acknowledged == half.sequence.wrapping_add(1) {
            half.client_sequence = client_sequence;
            self.promote(key, FlowState::Established);
            return true;
        }
        unmarked || key.protocol == 17
    }

    /// An endpoint's packet leaves: what it is rewritten by.
    pub(super) fn endpoint_sent(
        &mut self,
        key: &FlowKey,
        tcp_flags: u8,
        [sequence, acknowledged]: [u32; 2],
    ) -> Option<FlowEntry> {
        // Where it acknowledges, it says what the client sends next; what a client's packet says may be a lie.
        let acknowledge = |entry: &mut FlowEntry| {
            if tcp_flags & 0x10 != 0 {
                entry.client_sequence = acknowledged;
            }
        };
        let (ends, resets) = (tcp_flags & 0x05 != 0, tcp_flags & 0x04 != 0);
        if tcp_flags & 0x02 != 0
            && let Some(half) = self.half_open.get_mut(key)
        {
            half.sequence = sequence;
            return Some(*half);
        }
        if let Some(entry) = self.established.get_mut(key) {
            entry.sequence = sequence;
            acknowledge(entry);
            if ends {
                entry.state = FlowState::Closing as u8;
            }
            return Some(*entry);
        }
        let half = *self.half_open.get(key)?;
        // An answer proves the flow; a refusal proves nothing.
        if !resets {
            let half = self.half_open.get_mut(key)?;
            half.sequence = sequence;
            acknowledge(half);
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

/// Whether TCP's numbers lie within 128 MiB of the connection's last ones, in either direction; the client's own within 1
/// MiB, where the endpoint has ended it, and less than 64 KiB ahead or 512 KiB behind, where both have. No flow is idle
/// here: there is no clock.
fn of_connection(entry: &FlowEntry, sent: &Sent) -> bool {
    let near = |a: u32, b: u32, behind: i64, ahead: i64| {
        let apart = i64::from(a.wrapping_sub(b).cast_signed());
        (-behind..ahead).contains(&apart)
    };
    let acknowledges = sent.flags & 0x10 != 0;
    let (behind, ahead) = match (entry.state == FlowState::Closing as u8, entry.client_ended) {
        (true, 1) => (1 << 19, 1 << 16),
        (true, _) => (1 << 20, 1 << 20),
        _ => (1 << 27, 1 << 27),
    };
    near(sent.sequence, entry.client_sequence, behind, ahead)
        && (!acknowledges || near(sent.acknowledged, entry.sequence, 1 << 27, 1 << 27))
}
