//! BPF arrays in the agent's own memory (`BPF_F_MMAPABLE`): reads without system calls, and writes that a
//! packet sees as whole 64-bit words.

use std::{
    borrow::Cow,
    marker::PhantomData,
    num::NonZeroUsize,
    ops::Range,
    os::fd::{AsFd, BorrowedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::{Pod, maps::MapData};
use fairlead_abi::Slot;
use fairlead_core::planner::ReadSlots;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::Error;

/// A BPF array of `T`, mapped. `T` is made of 64-bit words.
#[derive(Debug)]
pub(super) struct Mapped<T> {
    name: &'static str,
    start: NonNull<T>,
    length: usize,
    writable: bool,
    elements: PhantomData<T>,
}

// SAFETY: the memory is shared with the kernel anyway; all writes are atomic stores of words.
unsafe impl<T> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Mapped<T> {}

impl<T: Pod> Mapped<T> {
    const WORDS: usize = size_of::<T>() / 8;

    /// Maps all elements of `map`.
    pub(super) fn new(name: &'static str, map: &MapData, writable: bool) -> Result<Self, Error> {
        let length = length::<T>(name, map)?;
        Self::part(name, map.fd().as_fd(), 0..length, writable)
    }

    /// Maps some elements of the array behind `map`; the first one begins a page.
    pub(super) fn part(
        name: &'static str,
        map: BorrowedFd<'_>,
        elements: Range<usize>,
        writable: bool,
    ) -> Result<Self, Error> {
        const { assert!(size_of::<T>().is_multiple_of(8)) }
        let shape = |what: String| Error::Shape { map: name, what };
        let length = elements.len();
        let bytes =
            NonZeroUsize::new(length * size_of::<T>()).ok_or_else(|| shape("it has no entries".into()))?;
        let offset = i64::try_from(elements.start * size_of::<T>()).map_err(|_| shape("too large".into()))?;
        let access =
            if writable { ProtFlags::PROT_READ | ProtFlags::PROT_WRITE } else { ProtFlags::PROT_READ };
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe { mmap(None, bytes, access, MapFlags::MAP_SHARED, map, offset) }
            .map_err(|errno| shape(format!("can't be mapped into memory: {errno}")))?;
        Ok(Self { name, start: start.cast(), length, writable, elements: PhantomData })
    }

    /// All elements. Another agent's or the kernel's writes may show at any time; each word is whole.
    pub(super) fn elements(&self) -> &[T] {
        // SAFETY: `length` plain values, mapped as long as `self` lives. The programs never write these arrays
        // and one agent does (the instance's lock), through `&mut self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }

    /// One 64-bit word of an element.
    fn word(&mut self, index: u32, word: usize) -> Result<&AtomicU64, Error> {
        let at = index as usize;
        if at >= self.length || word >= Self::WORDS || !self.writable {
            return Err(Error::Bounds { map: self.name, index: index.into() });
        }
        // SAFETY: within the mapping, aligned (the mapping is of pages, elements of words), and only atomically
        // written.
        Ok(unsafe { AtomicU64::from_ptr(self.start.as_ptr().add(at).cast::<u64>().add(word)) })
    }

    /// Stores one word of an element; everything stored before is visible to whoever sees it.
    pub(super) fn store(&mut self, index: u32, word: usize, value: u64) -> Result<(), Error> {
        self.word(index, word)?.store(value, Ordering::Release);
        Ok(())
    }

    /// Replaces one word of an element by what `change` makes of it, which may be called more than once.
    pub(super) fn update(
        &mut self,
        index: u32,
        word: usize,
        change: impl Fn(u64) -> u64,
    ) -> Result<(), Error> {
        self.word(index, word)?.update(Ordering::Release, Ordering::Relaxed, change);
        Ok(())
    }

    /// Writes elements of one word from `first` on.
    pub(super) fn fill(
        &mut self,
        first: usize,
        values: impl ExactSizeIterator<Item = T>,
    ) -> Result<(), Error> {
        const { assert!(size_of::<T>() == 8) }
        let end = first.saturating_add(values.len());
        if end > self.length || !self.writable {
            return Err(Error::Bounds { map: self.name, index: end as u64 });
        }
        // SAFETY: within the mapping and aligned, as in `word`.
        let start = unsafe { self.start.as_ptr().add(first) }.cast::<u64>();
        for (at, value) in values.enumerate().take(end - first) {
            // SAFETY: as above. Only atomically written.
            unsafe { AtomicU64::from_ptr(start.add(at)) }.store(word_of(&value, 0), Ordering::Release);
        }
        Ok(())
    }

    /// Writes a whole element word by word, in the order that `order` gives.
    pub(super) fn write(
        &mut self,
        index: u32,
        value: &T,
        order: impl IntoIterator<Item = usize>,
    ) -> Result<(), Error> {
        for word in order {
            self.store(index, word, word_of(value, word))?;
        }
        Ok(())
    }
}

impl ReadSlots for Mapped<Slot> {
    fn block(&self, first: u32, count: u32) -> Cow<'_, [Slot]> {
        let end = (first as usize).saturating_add(count as usize).min(self.length);
        Cow::Borrowed(self.elements().get(first as usize..end).unwrap_or_default())
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length, and no reference outlives `self`. An error would leave the
        // memory mapped, which harms nobody.
        let _ = unsafe { munmap(self.start.cast(), self.length * size_of::<T>()) };
    }
}

/// How many elements an array has, where they are `T`s.
pub(super) fn length<T>(name: &'static str, map: &MapData) -> Result<usize, Error> {
    let info = map.info().map_err(Error::map(name))?;
    if info.value_size() as usize != size_of::<T>() {
        let what = format!("values of {} bytes, {} expected", info.value_size(), size_of::<T>());
        return Err(Error::Shape { map: name, what });
    }
    Ok(info.max_entries() as usize)
}

/// One word of a plain value, in memory order.
fn word_of<T: Pod>(value: &T, word: usize) -> u64 {
    assert!(word < size_of::<T>() / 8, "a value has so many words");
    // SAFETY: `T` is plain data and has this word; reads of any alignment.
    unsafe { (&raw const *value).cast::<u64>().add(word).read_unaligned() }
}
