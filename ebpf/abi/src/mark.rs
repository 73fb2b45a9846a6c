//! The mark: what a gateway tells a receiver about its choice, where it costs no byte.
//!
//! Sixteen bits: the outer IPv4 identification, which is free because tunnel packets are never fragmented (RFC 6864), or
//! the lower bits of the outer IPv6 flow label. Bits 0 to 2 say by what the backend was chosen, bit 3 that the packet was
//! bounced, the others are check bits over these and the flow's hash, which only those compute who know the seed.

const K1: u64 = 0x9e37_79b9_7f4a_7c15;
const K2: u64 = 0xd6e8_feb8_6659_fd93;

/// The packet was bounced: it is on its way from a receiver back to its gateway.
const BOUNCED: u16 = 0b1000;
const KIND: u16 = 0b0111;
const CHECKED: u16 = KIND | BOUNCED;

/// By what a backend was chosen. Steps after one another only ever grow, but for the first.
pub mod kind {
    /// The receiver is to take the packet, whether it knows the flow or not; the mark is 0.
    pub const UNMARKED: u8 = 0;
    /// The slot's current backend.
    pub const CURRENT: u8 = 1;
    /// What the flow cache says.
    pub const GUESS: u8 = 2;
    /// The slot's newest former backend; the numbers after it are the older ones.
    pub const FORMER: u8 = 3;
    /// The oldest former backend.
    pub const LAST: u8 = 5;
}

/// The mark of a packet whose backend was chosen by a [`kind`].
#[inline(always)]
#[must_use]
pub const fn mark(hash: u32, kind: u8, bounced: bool) -> u16 {
    if kind == kind::UNMARKED {
        return 0;
    }
    let low = kind as u16 | if bounced { BOUNCED } else { 0 };
    low | check(hash, low) << 4
}

/// The [`kind`] of a mark, and whether the packet was bounced; `None`: the mark is damaged, or of another flow.
#[inline(always)]
#[must_use]
pub const fn read_mark(mark: u16, hash: u32) -> Option<(u8, bool)> {
    if mark == 0 {
        return Some((kind::UNMARKED, false));
    }
    let low = mark & CHECKED;
    let kind = (low & KIND) as u8;
    if kind == kind::UNMARKED || kind > kind::LAST || mark >> 4 != check(hash, low) {
        return None;
    }
    Some((kind, low & BOUNCED != 0))
}

/// Whether a mark says that its packet was bounced, be it damaged or not.
#[inline(always)]
#[must_use]
pub const fn is_bounced(mark: u16) -> bool {
    mark & BOUNCED != 0
}

#[inline(always)]
const fn check(hash: u32, low: u16) -> u16 {
    let mut h = (hash as u64 | (low as u64) << 32).wrapping_mul(K2);
    h ^= h >> 29;
    (h.wrapping_mul(K1) >> 52) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for kind in kind::CURRENT..=kind::LAST {
            for bounced in [false, true] {
                let mark = mark(0x1234_5678, kind, bounced);
                assert_eq!(read_mark(mark, 0x1234_5678), Some((kind, bounced)));
                assert_eq!(is_bounced(mark), bounced);
            }
        }
        assert_eq!(mark(1, kind::UNMARKED, false), 0);
        assert_eq!(read_mark(0, 1), Some((kind::UNMARKED, false)));
    }

    #[test]
    fn hardly_any_damage_and_hardly_any_other_flow_goes_unnoticed() {
        let (mut damaged, mut strange) = (0, 0);
        for number in 0..10_000_u32 {
            let hash = number.wrapping_mul(0x9e37_79b9);
            let mark = mark(hash, kind::CURRENT, false);
            for bit in 0..16 {
                damaged += u32::from(read_mark(mark ^ 1 << bit, hash).is_some());
            }
            strange += u32::from(read_mark(mark, hash ^ 1 << (number % 32)).is_some());
        }
        // Of 40,000 marks with another kind or direction (a kind of 0 is never taken), one in 4096 may fit.
        assert!(damaged < 25, "{damaged}");
        assert!(strange < 12, "{strange}");
    }
}
