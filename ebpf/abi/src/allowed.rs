//! Whom services let in: the table of the ranges that restricted services allow.

/// A client of a service. The data of a key of `ALLOWED`, whose length in bits is [`ClientKey::SERVICE_BITS`] and that of
/// the range as it stands in an [`Address`](crate::Address): 96 + n for an IPv4 prefix.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientKey {
    /// [`ServiceEntry::id`](crate::ServiceEntry::id).
    pub service: u32,
    /// [`Address::bytes`](crate::Address::bytes): not an `Address`, so that there is no room between the two.
    pub client: [u8; 16],
}

impl ClientKey {
    /// Bits of a key before the client's: they are always compared.
    pub const SERVICE_BITS: u32 = 32;
}

const _: () = {
    assert!(size_of::<ClientKey>() == 20 && align_of::<ClientKey>() == 4);
    assert!(core::mem::offset_of!(ClientKey, client) == 4);
};
