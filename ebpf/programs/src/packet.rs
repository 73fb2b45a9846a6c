//! The one bounds-checked reader through which every access to a packet goes.

use aya_ebpf::programs::XdpContext;
use fairlead_abi::DropReason;

/// Largest offset that is ever read at; the verifier wants a bound.
const MAX_OFFSET: usize = 0x3fff;

/// The linear part of a packet, until the next helper that changes it.
#[derive(Clone, Copy)]
pub struct Packet {
    start: usize,
    end: usize,
}

impl Packet {
    /// The packet of `ctx` as it is now.
    #[inline(always)]
    #[must_use]
    pub fn new(ctx: &XdpContext) -> Self {
        Self { start: ctx.data(), end: ctx.data_end() }
    }

    /// The packet between two addresses, as a `__sk_buff` gives them.
    #[inline(always)]
    #[must_use]
    pub const fn between(start: usize, end: usize) -> Self {
        Self { start, end }
    }

    /// A pointer to `T` at `offset`, if the linear part holds all of it. Not aligned in general.
    #[inline(always)]
    #[must_use]
    pub fn at<T>(&self, offset: usize) -> Option<*mut T> {
        if offset > MAX_OFFSET {
            return None;
        }
        let pointer = self.start + offset;
        if pointer + size_of::<T>() > self.end {
            return None;
        }
        Some(pointer as *mut T)
    }

    /// A copy of the plain value at `offset`, or [`DropReason::Truncated`].
    #[inline(always)]
    pub fn read<T: Copy>(&self, offset: usize) -> Result<T, DropReason> {
        match self.at::<T>(offset) {
            // SAFETY: within the packet by `at`; `T` is plain data; BPF reads of any alignment are allowed
            // (target feature allows-misaligned-mem-access).
            Some(pointer) => Ok(unsafe { pointer.read_unaligned() }),
            None => Err(DropReason::Truncated),
        }
    }

    /// Overwrites the bytes at `offset`, or [`DropReason::Truncated`] and nothing is written.
    #[inline(always)]
    pub fn write<T: Copy>(&self, offset: usize, value: T) -> Result<(), DropReason> {
        match self.at::<T>(offset) {
            Some(pointer) => {
                // SAFETY: as in `read`.
                unsafe { pointer.write_unaligned(value) };
                Ok(())
            }
            None => Err(DropReason::Truncated),
        }
    }

    /// Bytes in the linear part.
    #[inline(always)]
    #[must_use]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether there is no byte.
    #[inline(always)]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }
}
