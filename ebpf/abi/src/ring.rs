//! Rings, their slots, and the backends that slots name.

use crate::Address;

/// Sizes that a ring can have: primes, about a factor of two apart (Maglev, NSDI 2016, section 3.4).
pub const RING_SIZES: [u32; 9] = [251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65537];

/// The layout of `SERVICES`, `SLOTS`, `BACKENDS`, `HOPS`, `SERVER_IDS`, `DELIVERIES` and `GATEWAYS`, and how a flow's hash
/// finds its slot. A change of any of them takes a new name; as long as it stays, agents begin new tables, also those of
/// another [`ABI`](crate::ABI), with a copy of those in use, so that slots go on remembering whom they named.
pub const STEERING_LAYOUT: &str = "1";

/// A slot's index that names no backend.
pub const NO_BACKEND: u16 = u16::MAX;

/// A block of slots; read and written as one 64-bit word.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ring {
    /// Index in `SLOTS`.
    pub first_slot: u32,
    /// One of [`RING_SIZES`]; 0: the service has no backend.
    pub size: u32,
}

/// One slot: indexes into the service's own backend list; read and written as one 64-bit word.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot {
    /// Where new connections go.
    pub current: u16,
    /// Backends that held the slot before and still exist, newest first; [`NO_BACKEND`] where there is none.
    pub formers: [u16; 3],
}

impl Slot {
    /// A slot without formers.
    #[must_use]
    pub const fn new(current: u16) -> Self {
        Self { current, formers: [NO_BACKEND; 3] }
    }
}

/// What a slot points to. A free entry is all zero.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backend {
    /// Outer destination: the endpoint's address in the tunnel's family. Does not change while the entry is in use.
    pub outer: Address,
    /// Index in `HOPS`; 0: its next hop is not known. Switched together with `mtu` by one 64-bit store.
    pub hop: u32,
    /// What the path to it carries, outer headers included; bytes.
    pub mtu: u16,
    /// [`Encap`](crate::Encap) as a number, perhaps with [`Backend::SILENT`]; 0 marks a free entry.
    pub encap: u8,
    /// [`Family`](crate::Family) of `outer` as a number.
    pub family: u8,
}

impl Backend {
    /// A bit of `encap`: its node doesn't answer now, so that all but new connections pass it over.
    pub const SILENT: u8 = 0x80;

    /// [`Encap`](crate::Encap) as a number, whether its node answers or not.
    #[inline(always)]
    #[must_use]
    pub const fn kind(&self) -> u8 {
        self.encap & !Self::SILENT
    }

    /// Whether its node doesn't answer now.
    #[inline(always)]
    #[must_use]
    pub const fn is_silent(&self) -> bool {
        self.encap & Self::SILENT != 0
    }

    /// The same, of a node that answers.
    #[inline(always)]
    #[must_use]
    pub const fn answering(self) -> Self {
        Self { encap: self.kind(), ..self }
    }
}

const _: () = {
    assert!(size_of::<Ring>() == 8 && size_of::<Slot>() == 8);
    assert!(size_of::<Backend>() == 24);
    assert!(core::mem::offset_of!(Backend, hop) == 16);
};
