//! Fragments: only a datagram's first one has its ports, so what became of that is remembered for the others.

use core::mem::offset_of;

use crate::Address;

/// A datagram that comes in fragments, as all of them name it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FragmentKey {
    /// Source.
    pub source: Address,
    /// Destination.
    pub destination: Address,
    /// Identification, as it stands in the packet; of IPv4 the last two bytes.
    pub id: [u8; 4],
    /// IPv4: TCP or UDP. IPv6: 0, for there only the first fragment's word counts (RFC 8200 4.5).
    pub protocol: u8,
    /// [`Family`](crate::Family) of the addresses as a number.
    pub family: u8,
    /// Zero.
    pub padding: [u8; 2],
}

/// What became of a datagram's first fragment.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FragmentEntry {
    /// Where this node is the receiver: the endpoint, which replaces the VIP; in replies: the VIP, which replaces the
    /// endpoint.
    pub address: Address,
    /// Source and destination port as they stand in the first fragment.
    pub ports: [u8; 4],
    /// Where this node is the gateway: index in `BACKENDS` of the backend that was chosen last; else 0.
    pub backend: u32,
    /// Of an endpoint's reply: [`FragmentEntry::REPLY`]. Of a client's packet, where this node is the receiver:
    /// [`FragmentEntry::TAKEN`], [`FragmentEntry::SENT_BACK`], or the number of the [`DropReason`](crate::DropReason) why
    /// it was not delivered; else [`FragmentEntry::ELSEWHERE`].
    pub outcome: u32,
    /// Bytes of the datagram that the first fragment holds.
    pub length: u16,
    /// TCP or UDP.
    pub protocol: u8,
    /// By what the backend was chosen: a [`kind`](crate::kind).
    pub kind: u8,
    /// Zero.
    pub padding: u32,
    /// When it came: nanoseconds of the kernel's clock.
    pub seen_ns: u64,
}

impl FragmentEntry {
    /// Delivered to an endpoint of this node.
    pub const TAKEN: u32 = u32::MAX;
    /// No endpoint of this node was meant.
    pub const ELSEWHERE: u32 = u32::MAX - 1;
    /// The endpoint doesn't know the flow.
    pub const SENT_BACK: u32 = u32::MAX - 2;
    /// An endpoint of this node answers: only further fragments that leave follow it, and none that come in.
    pub const REPLY: u32 = u32::MAX - 3;
    /// So long it holds. Identifications of IPv4 come round: on a fast link sooner than what hosts wait (30 to 60 s).
    pub const LIFE_NS: u64 = 10_000_000_000;

    /// Whether a further fragment that comes at `now_ns` of the same clock follows it, an endpoint's reply or a client's
    /// packet. What is noted of the one says nothing of the other, for both directions may have the same addresses and
    /// identification.
    #[inline(always)]
    #[must_use]
    pub const fn leads(&self, now_ns: u64, is_reply: bool) -> bool {
        now_ns.wrapping_sub(self.seen_ns) <= Self::LIFE_NS && (self.outcome == Self::REPLY) == is_reply
    }
}

/// Most bytes of a frame that is held until its datagram's first fragment has come: what fits a page beside the kernel's
/// own when it is sent again.
pub const MOST_HELD: usize = 3072;

/// A frame in the ring buffer `EARLY`: a fragment that came before its first.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct EarlyFragment {
    /// Its datagram.
    pub key: FragmentKey,
    /// The interface that it came in by.
    pub ifindex: u32,
    /// Bytes of the frame.
    pub length: u32,
    /// The frame; the ring buffer holds no more of it than that.
    pub frame: [u8; MOST_HELD],
}

const _: () = {
    assert!(size_of::<FragmentKey>() == 40 && size_of::<FragmentEntry>() == 48);
    assert!(offset_of!(FragmentKey, id) == 32 && offset_of!(FragmentEntry, seen_ns) == 40);
    assert!(offset_of!(EarlyFragment, frame) == 48 && size_of::<EarlyFragment>() == 48 + MOST_HELD);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_came_lately_and_the_same_way_is_followed() {
        let seen = |outcome| FragmentEntry { outcome, seen_ns: 5, ..FragmentEntry::default() };
        for outcome in [FragmentEntry::TAKEN, FragmentEntry::ELSEWHERE, FragmentEntry::SENT_BACK, 7] {
            let first = seen(outcome);
            assert!(first.leads(5, false) && first.leads(5 + FragmentEntry::LIFE_NS, false));
            assert!(!first.leads(6 + FragmentEntry::LIFE_NS, false), "too long ago");
            assert!(!first.leads(5, true), "no reply's");
        }
        assert!(seen(FragmentEntry::REPLY).leads(5, true) && !seen(FragmentEntry::REPLY).leads(5, false));
    }
}
