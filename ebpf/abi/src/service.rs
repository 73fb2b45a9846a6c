//! The service table: buckets of entries with the keys inline, so that a lookup is one array access.
//!
//! The agent maps the table into its memory and publishes with single aligned 64-bit stores: an entry counts
//! once its last word ([`ServiceEntry::port`] … [`ServiceEntry::id`]) is stored, and is gone once that word is 0.

use crate::{Address, Family, Ring};

/// Entries of one bucket.
pub const BUCKET_ENTRIES: usize = 3;

/// Buckets that a lookup visits at most, from the key's own on: a bucket whose `overflowed` is not 0 sends it on.
pub const MAX_PROBE: u32 = 4;

/// IP protocol numbers (IANA) that a service can have.
pub mod protocol {
    /// No protocol and port 0: the entry that says "this address is a VIP".
    pub const ANY: u8 = 0;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
}

/// What packets are matched by. With port 0 and protocol 0, the VIP itself: every VIP has such an entry too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// The VIP.
    pub vip: Address,
    /// Host byte order.
    pub port: u16,
    /// See [`protocol`].
    pub protocol: u8,
    /// [`Family`] as a number.
    pub family: u8,
}

impl ServiceKey {
    /// The key of `vip`, `port` (host byte order) and `protocol`.
    #[inline(always)]
    #[must_use]
    pub const fn new(vip: Address, port: u16, protocol: u8, family: Family) -> Self {
        Self { vip, port, protocol, family: family as u8 }
    }

    /// The key of the VIP itself.
    #[inline(always)]
    #[must_use]
    pub const fn vip_only(vip: Address, family: Family) -> Self {
        Self::new(vip, 0, protocol::ANY, family)
    }

    /// Port (network byte order), protocol and family as one word, as they stand in a [`ServiceEntry`].
    #[inline(always)]
    #[must_use]
    pub const fn tag(&self) -> u32 {
        let p = self.port.to_be_bytes();
        u32::from_ne_bytes([p[0], p[1], self.protocol, self.family])
    }
}

/// One service: a VIP, port and protocol.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceEntry {
    /// The VIP.
    pub vip: Address,
    /// Network byte order; 0 for the VIP itself.
    pub port: [u8; 2],
    /// See [`protocol`].
    pub protocol: u8,
    /// [`Family`] as a number; 0 marks a free entry.
    pub family: u8,
    /// Index of its counters, 1 or more; stays the same for the life of the service.
    pub id: u32,
    /// Where its slots are; switched by one 64-bit store.
    pub ring: Ring,
    /// Index in `BACKENDS` of its backend 0; never changes in place.
    pub backends: u32,
    /// [`ServiceEntry::PASS_UNSERVED`], [`ServiceEntry::RECENT`], [`ServiceEntry::BY_CLIENT`], [`ServiceEntry::QUIC`],
    /// [`ServiceEntry::RESTRICTED`].
    pub flags: u32,
}

impl ServiceEntry {
    /// On a VIP's own entry: ports that are not served go up to the local stack instead of being dropped.
    pub const PASS_UNSERVED: u32 = 1;
    /// On a service over UDP: its slots have changed lately, so that packets of flows that began before may be for
    /// former backends.
    pub const RECENT: u32 = 2;
    /// All flows of a client have the same slot.
    pub const BY_CLIENT: u32 = 4;
    /// On a service over UDP: packets of QUIC whose connection ID names a server go there.
    pub const QUIC: u32 = 8;
    /// Clients outside of all ranges that `ALLOWED` has of the service are refused.
    pub const RESTRICTED: u32 = 16;

    /// The key, or `None` where the entry is free.
    #[must_use]
    pub const fn key(&self) -> Option<ServiceKey> {
        if self.family == 0 {
            return None;
        }
        Some(ServiceKey {
            vip: self.vip,
            port: u16::from_be_bytes(self.port),
            protocol: self.protocol,
            family: self.family,
        })
    }

    /// Port, protocol and family as one word: equal to [`ServiceKey::tag`] of its key, 0 where free.
    #[inline(always)]
    #[must_use]
    pub const fn tag(&self) -> u32 {
        u32::from_ne_bytes([self.port[0], self.port[1], self.protocol, self.family])
    }
}

/// Two cache lines of the service table.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// In no order; free ones anywhere.
    pub entries: [ServiceEntry; BUCKET_ENTRIES],
    /// Not 0: a key that belongs here may stand in a following bucket.
    pub overflowed: u32,
    /// Zero.
    pub padding: u32,
}

const _: () = {
    assert!(size_of::<ServiceEntry>() == 40);
    assert!(core::mem::offset_of!(ServiceEntry, port) == 16);
    assert!(core::mem::offset_of!(ServiceEntry, ring) == 24);
    assert!(core::mem::offset_of!(ServiceEntry, backends) == 32);
    assert!(size_of::<Bucket>() == 128);
    assert!(core::mem::offset_of!(Bucket, overflowed) == 120);
};
