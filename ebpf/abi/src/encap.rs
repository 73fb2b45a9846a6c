//! How a packet leaves a gateway.

use crate::{Address, Family};

/// Destination port of GUE (IANA, draft-ietf-intarea-gue).
pub const GUE_PORT: u16 = 6080;

/// Upper byte of the socket mark of probes; the rest is the key in `PROBES`.
pub const PROBE_MARK: u32 = 0xfa00_0000;

/// Which bits of a socket mark say that it is a probe's.
pub const PROBE_MARK_MASK: u32 = 0xff00_0000;

/// What a gateway puts around a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Encap {
    /// The inner packet follows the outer IP header (RFC 2003, RFC 2473, RFC 4213).
    Ipip = 1,
    /// UDP and, without a header of its own, the inner packet (GUE variant 1).
    Gue = 2,
    /// Nothing: the endpoint is on this node.
    Local = 3,
}

/// Bytes that encapsulation adds.
#[inline(always)]
#[must_use]
pub const fn overhead(encap: Encap, outer: Family) -> u16 {
    let ip = match outer {
        Family::V4 => 20,
        Family::V6 => 40,
    };
    match encap {
        Encap::Ipip => ip,
        Encap::Gue => ip + 8,
        Encap::Local => 0,
    }
}

/// A next hop on a link. An entry is written whole before a backend names it and never changes while one does.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Hop {
    /// Of the neighbour.
    pub destination_mac: [u8; 6],
    /// Of the interface.
    pub source_mac: [u8; 6],
    /// Of the interface that it leaves by, never a VLAN's; 0 marks a free entry.
    pub ifindex: u32,
    /// VLAN tags as they stand in the frame (TPID, TCI), outermost first; zeros: none.
    pub tags: [[u8; 4]; 2],
}

/// Where a probe with some socket mark goes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbeTarget {
    /// Outer destination, as in [`Backend::outer`](crate::Backend).
    pub outer: Address,
    /// [`Encap`] as a number.
    pub encap: u8,
    /// [`Family`] of `outer` as a number.
    pub family: u8,
    /// Zero.
    pub padding: [u8; 2],
    /// Of the interface towards `outer`; 0: the one that the probe is about to leave by.
    pub ifindex: u32,
}

const _: () = {
    assert!(size_of::<Hop>() == 24);
    assert!(size_of::<ProbeTarget>() == 24);
};
