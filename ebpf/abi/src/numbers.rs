//! TCP's numbers, by which packets of a flow are told from those of another connection with the same ports.

use crate::{FlowEntry, FlowState};

/// Of a client's packet, host byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Of its first byte.
    pub sequence: u32,
    /// Of what it acknowledges.
    pub acknowledged: u32,
}

impl Numbers {
    /// Whether they are near those of the flow's last packets, at a reading `now` of `jiffies64`; the packet acknowledges
    /// something, or doesn't. Else it is another connection of the same ports, which some other endpoint may know. Each
    /// number of a strange one fits by chance once in sixteen times; both once in a million where the flow is idle, as one is
    /// whose client has used the ports again.
    #[inline(always)]
    #[must_use]
    pub const fn are_near(&self, known: &FlowEntry, acknowledges: bool, now: u64) -> bool {
        let is_over = known.state == FlowState::Closing as u8;
        let sent = self.sequence.wrapping_sub(known.client_sequence);
        let got = self.acknowledged.wrapping_sub(known.sequence);
        let both_ended = is_over && known.client_ended != 0;
        if now.wrapping_sub(known.seen) > IDLE {
            let first = if both_ended { LAST } else { AFTER_SILENCE };
            return first.has(sent) && (!acknowledges || ACKNOWLEDGED.has(got))
                || acknowledges && !is_over && BURST.has(sent) && ACKNOWLEDGED_BY_BURST.has(got);
        }
        // After the endpoint's end a client hardly sends more, and may have much to acknowledge yet.
        let sends = if both_ended {
            LAST
        } else if is_over {
            STEP
        } else {
            WINDOW
        };
        sends.has(sent) && (!acknowledges || WINDOW.has(got))
    }

    /// Whether a client's FIN with them can be the last of the flow: not where much before it is still on its way.
    #[inline(always)]
    #[must_use]
    pub const fn may_be_last(&self, known: &FlowEntry) -> bool {
        LAST.has(self.sequence.wrapping_sub(known.client_sequence))
    }
}

/// How far behind and ahead of another a number may be, in bytes.
#[derive(Clone, Copy)]
pub(crate) struct Range {
    pub(crate) behind: u32,
    pub(crate) ahead: u32,
}

impl Range {
    #[inline(always)]
    const fn has(self, apart: u32) -> bool {
        apart.wrapping_add(self.behind) < self.behind + self.ahead
    }

    const fn size(self) -> u64 {
        self.behind as u64 + self.ahead as u64
    }
}

/// More than any window that is in use: so far apart can numbers be while data is on its way.
pub(crate) const WINDOW: Range = Range { behind: 1 << 27, ahead: 1 << 27 };
/// More than any packet, segmented by the device or not: so far apart can they be when all has arrived.
const STEP: Range = Range { behind: 1 << 20, ahead: 1 << 20 };
/// After both ends have said that they send no more. A client that uses its ports again while it remembers the connection
/// begins 65,537 bytes on (Linux), so that next to always one of the two numbers would fit.
const LAST: Range = Range { behind: 1 << 19, ahead: 1 << 16 };
/// Ticks after which all has arrived: a second on the fastest clock.
pub(crate) const IDLE: u64 = 1000;

/// After a silence: what the client sends first, or sends once more.
pub(crate) const AFTER_SILENCE: Range = Range { behind: 1 << 19, ahead: 1 << 20 };
/// With it: the endpoint's last packet, segmented by the device or not, or what came before that and was lost.
pub(crate) const ACKNOWLEDGED: Range = Range { behind: 1 << 20, ahead: 1 << 18 };
/// After a silence: what the client sends at once, until the endpoint's first acknowledgement ends the silence. As much as
/// one of 100 Gbit/s in a millisecond, and more than hosts' buffers have unless they are told to.
const BURST: Range = Range { behind: 0, ahead: 1 << 24 };
/// All of that acknowledges the same: the endpoint's last packet.
const ACKNOWLEDGED_BY_BURST: Range = Range { behind: 0, ahead: 1 << 17 };

// Of strange pairs of numbers no more fit than if both were within a step.
const _: () = assert!(
    AFTER_SILENCE.size() * ACKNOWLEDGED.size() + BURST.size() * ACKNOWLEDGED_BY_BURST.size()
        <= STEP.size() * STEP.size()
);
// And so of numbers alone, where a packet acknowledges nothing.
const _: () = assert!(AFTER_SILENCE.size() <= STEP.size());
