//! IP addresses in one shape for both families.

/// An address in network byte order; IPv4 as `::ffff:a.b.c.d` (RFC 4291, 2.5.5.2).
///
/// Aligned so that it is compared as two words.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// Sixteen bytes as they stand in an IPv6 header.
    pub bytes: [u8; 16],
}

impl Address {
    /// From the four bytes of an IPv4 header.
    #[inline(always)]
    #[must_use]
    pub const fn v4(a: [u8; 4]) -> Self {
        // As one number: of bytes, a program calls memset for the zeros, and stores the others one by one.
        Self { bytes: (0xffff << 32 | u32::from_be_bytes(a) as u128).to_be_bytes() }
    }

    /// A copy of what stands in a map, as one number: as bytes, a program calls memmove for it.
    #[inline(always)]
    #[must_use]
    pub const fn copied(&self) -> Self {
        Self { bytes: u128::from_ne_bytes(self.bytes).to_ne_bytes() }
    }

    /// From the sixteen bytes of an IPv6 header.
    #[inline(always)]
    #[must_use]
    pub const fn v6(bytes: [u8; 16]) -> Self {
        Self { bytes }
    }

    /// The last four bytes: the IPv4 address of a mapped one.
    #[inline(always)]
    #[must_use]
    pub const fn to_v4(self) -> [u8; 4] {
        [self.bytes[12], self.bytes[13], self.bytes[14], self.bytes[15]]
    }

    /// Two words in memory order, for comparing and hashing.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "that half is meant")]
    pub const fn words(&self) -> [u64; 2] {
        // As one number: of bytes, a program loads them one by one.
        let all = u128::from_le_bytes(self.bytes);
        [(all as u64).to_le(), ((all >> 64) as u64).to_le()]
    }

    /// The address with these [`words`](Self::words).
    #[inline(always)]
    #[must_use]
    pub const fn of_words([upper, lower]: [u64; 2]) -> Self {
        let all = (u64::from_le(lower) as u128) << 64 | u64::from_le(upper) as u128;
        Self { bytes: all.to_le_bytes() }
    }

    /// Whether it is an IPv4 address in this shape.
    #[inline(always)]
    #[must_use]
    pub const fn is_v4(&self) -> bool {
        matches!(self.bytes, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ..])
    }
}

impl From<core::net::IpAddr> for Address {
    fn from(ip: core::net::IpAddr) -> Self {
        match ip {
            core::net::IpAddr::V4(a) => Self::v4(a.octets()),
            core::net::IpAddr::V6(a) => Self::v6(a.octets()),
        }
    }
}

impl From<Address> for core::net::IpAddr {
    fn from(a: Address) -> Self {
        if a.is_v4() { Self::from(a.to_v4()) } else { Self::from(a.bytes) }
    }
}

/// IP versions as they stand in [`ServiceKey`](crate::ServiceKey) and [`Backend`](crate::Backend): 0 means "free entry".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Family {
    /// IPv4.
    V4 = 4,
    /// IPv6.
    V6 = 6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub const fn of(ip: &core::net::IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

const _: () = assert!(size_of::<Address>() == 16 && align_of::<Address>() == 8);
