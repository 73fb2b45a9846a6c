//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624). All words as they stand in memory.

use fairlead_abi::Address;

/// Folds a sum to 16 bits.
#[inline(always)]
#[must_use]
pub const fn fold(mut sum: u64) -> u16 {
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The sum over an address, to add to others: of an IPv4 address only its four bytes.
#[inline(always)]
#[must_use]
pub const fn sum_of(address: &Address) -> u64 {
    if address.is_v4() {
        return u32::from_ne_bytes(address.to_v4()) as u64;
    }
    let [a, b] = address.words();
    (a & 0xffff_ffff) + (a >> 32) + (b & 0xffff_ffff) + (b >> 32)
}

/// `checksum` after words that add up to `old` were replaced by ones that add up to `new` (RFC 1624, equation 3).
#[inline(always)]
#[must_use]
pub const fn replace(checksum: u16, old: u64, new: u64) -> u16 {
    !fold((!checksum as u64 & 0xffff) + (!fold(old) as u64 & 0xffff) + fold(new) as u64)
}

/// The IPv4 header checksum after TTL was lowered by one.
#[inline(always)]
#[must_use]
pub const fn lowered_ttl(checksum: u16) -> u16 {
    // TTL is the first byte of its word: one less there is a word less by that much in memory order.
    // 0xffff becomes 0, as the kernel's ip_decrease_ttl has it.
    let sum = checksum as u32 + u16::from_ne_bytes([1, 0]) as u32;
    (sum + (sum >= 0xffff) as u32) as u16
}
