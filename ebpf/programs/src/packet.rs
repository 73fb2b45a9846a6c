//! The one bounds-checked reader through which every access to a packet goes.

use core::mem::MaybeUninit;

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
        // SAFETY: fields of the context. Volatile, or the compiler would have a subprogram's caller read them, as
        // plain numbers, which the verifier takes for no pointers.
        let (start, end) = unsafe {
            let context = ctx.ctx;
            ((&raw const (*context).data).read_volatile(), (&raw const (*context).data_end).read_volatile())
        };
        Self { start: start as usize, end: end as usize }
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
        let offset = opaque(offset);
        if offset > MAX_OFFSET {
            return None;
        }
        let pointer = if is_known(offset) { self.start + offset } else { opaque(self.start + offset) };
        let end = if is_known(offset) && size_of::<T>() > 1 {
            pointer + size_of::<T>()
        } else {
            past::<T>(pointer)
        };
        if end > self.end {
            return None;
        }
        Some(pointer as *mut T)
    }

    /// A copy of the plain value at `offset`, or [`DropReason::Truncated`].
    #[inline(always)]
    pub fn read<T: Copy>(&self, offset: usize) -> Result<T, DropReason> {
        match self.at::<T>(offset) {
            // SAFETY: within the packet by `at`, and `T` is plain data.
            Some(pointer) => Ok(unsafe { load(pointer) }),
            None => Err(DropReason::Truncated),
        }
    }

    /// Overwrites the bytes at `offset`, or [`DropReason::Truncated`] and nothing is written.
    #[inline(always)]
    pub fn write<T: Copy>(&self, offset: usize, value: T) -> Result<(), DropReason> {
        match self.at::<T>(offset) {
            Some(pointer) => {
                // SAFETY: as in `read`.
                unsafe { store(pointer, value) };
                Ok(())
            }
            None => Err(DropReason::Truncated),
        }
    }

    /// Bytes in the linear part.
    #[inline(always)]
    #[must_use]
    pub fn len(&self) -> usize {
        // Opaque, or the difference is mixed into other sums, pointer by pointer.
        opaque(self.end - self.start)
    }

    /// Whether there is no byte.
    #[inline(always)]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }
}

/// Whether the compiler knows the number: then so does the verifier, and nothing need be hidden.
#[cfg(target_arch = "bpf")]
#[inline(always)]
fn is_known(number: usize) -> bool {
    core::intrinsics::is_val_statically_known(number)
}

/// The same number, of which the compiler knows nothing more: it must keep the pointer (or offset) that was
/// checked, for the verifier does not see that another that it makes anew is the same.
#[cfg(target_arch = "bpf")]
#[inline(always)]
fn opaque(mut pointer: usize) -> usize {
    if is_known(pointer) {
        return pointer;
    }
    // SAFETY: a register is moved to itself (without any instruction, the ELF's line table has two lines for one
    // place, which the kernel refuses).
    unsafe {
        core::arch::asm!("{0} = {0}", inout(reg) pointer, options(pure, nomem, nostack, preserves_flags))
    };
    pointer
}

/// Where a `T` at `pointer` ends, added up where the compiler can't turn the comparison into one (`>=` for a
/// single byte) that the verifier draws nothing from.
#[cfg(target_arch = "bpf")]
#[inline(always)]
fn past<T>(mut pointer: usize) -> usize {
    // SAFETY: one addition.
    unsafe {
        core::arch::asm!(
            "{0} += {1}", inout(reg) pointer, const size_of::<T>(), options(pure, nomem, nostack, preserves_flags)
        );
    }
    pointer
}

#[cfg(not(target_arch = "bpf"))]
fn is_known(_number: usize) -> bool {
    false
}

#[cfg(not(target_arch = "bpf"))]
fn opaque(pointer: usize) -> usize {
    pointer
}

#[cfg(not(target_arch = "bpf"))]
fn past<T>(pointer: usize) -> usize {
    pointer + size_of::<T>()
}

/// Copies a value out of a packet by the largest words that its size is a multiple of.
///
/// Headers stand at odd offsets. BPF's loads take any alignment, but LLVM splits what it knows to be unaligned
/// into bytes, three times the instructions; with the target feature that forbids it to, it also misaligns the
/// stack, which the verifier refuses. So words are loaded as if they were aligned: plain integers on a machine to
/// which alignment is nothing.
///
/// # Safety
/// `from` points to readable bytes of the packet, as many as `T` has; `T` is plain data.
#[inline(always)]
unsafe fn load<T: Copy>(from: *const T) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    let to = value.as_mut_ptr();
    // SAFETY: see above; all words of `value` are written.
    unsafe {
        if const { size_of::<T>().is_multiple_of(8) } {
            copy::<T, u64>(from, to);
        } else if const { size_of::<T>().is_multiple_of(4) } {
            copy::<T, u32>(from, to);
        } else if const { size_of::<T>().is_multiple_of(2) } {
            copy::<T, u16>(from, to);
        } else {
            copy::<T, u8>(from, to);
        }
        value.assume_init()
    }
}

/// # Safety
/// `from` can be loaded from as words, `to` is a value of the program's own.
#[inline(always)]
unsafe fn copy<T, W: Copy>(from: *const T, to: *mut T) {
    for word in 0..const { size_of::<T>() / size_of::<W>() } {
        // SAFETY: see above.
        unsafe { to.cast::<W>().add(word).write_unaligned(*from.cast::<W>().add(word)) }
    }
}

/// The reverse of [`load`].
///
/// # Safety
/// `to` points to writable bytes of the packet, as many as `T` has; `T` is plain data.
#[inline(always)]
unsafe fn store<T: Copy>(to: *mut T, value: T) {
    let from = &raw const value;
    // SAFETY: see above.
    unsafe {
        if const { size_of::<T>().is_multiple_of(8) } {
            put::<T, u64>(from, to);
        } else if const { size_of::<T>().is_multiple_of(4) } {
            put::<T, u32>(from, to);
        } else if const { size_of::<T>().is_multiple_of(2) } {
            put::<T, u16>(from, to);
        } else {
            put::<T, u8>(from, to);
        }
    }
}

/// # Safety
/// `from` is a value of the program's own, `to` can be stored to as words.
#[inline(always)]
unsafe fn put<T, W: Copy>(from: *const T, to: *mut T) {
    for word in 0..const { size_of::<T>() / size_of::<W>() } {
        // SAFETY: see above.
        unsafe { *to.cast::<W>().add(word) = from.cast::<W>().add(word).read_unaligned() }
    }
}
