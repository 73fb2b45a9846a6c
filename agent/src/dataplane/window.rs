//! A BPF array too large to be mapped as a whole: a window on it moves to wherever it is read or written.
//!
//! Every page that is mapped counts as the agent's memory, written or not. Blocks of one table stand close together,
//! so that the window seldom moves.

use std::{
    borrow::Cow,
    fmt,
    ops::Range,
    os::fd::{AsFd, OwnedFd},
    sync::{Mutex, PoisonError},
};

use aya::{Pod, maps::MapData};
use fairlead_abi::Slot;
use fairlead_core::planner::ReadSlots;

use super::{
    Error,
    mapped::{self, Mapped},
};

/// Bytes of a window, unless a block is larger.
const BYTES: usize = 1 << 20;
/// The largest page that windows may have to begin at: that of every machine is a part of it.
const PAGE: usize = 1 << 16;

/// A BPF array of `T`, a part of which is mapped.
pub(super) struct Windowed<T> {
    name: &'static str,
    map: OwnedFd,
    length: usize,
    // Moved by readers too. Held while a block is copied.
    window: Mutex<Option<Window<T>>>,
}

struct Window<T> {
    first: usize,
    mapped: Mapped<T>,
}

impl<T: Pod> Windowed<T> {
    /// Elements from one possible beginning of a window to the next.
    const STEP: usize = PAGE / size_of::<T>();

    /// Nothing of it is mapped yet.
    pub(super) fn new(name: &'static str, map: &MapData) -> Result<Self, Error> {
        const { assert!(PAGE.is_multiple_of(size_of::<T>())) }
        let length = mapped::length::<T>(name, map)?;
        let duplicate = map.fd().as_fd().try_clone_to_owned();
        let map =
            duplicate.map_err(|e| Error::Shape { map: name, what: format!("has no descriptor: {e}") })?;
        Ok(Self { name, map, length, window: Mutex::new(None) })
    }

    /// Runs `work` on the window that has all of `block`, whose place in it is given.
    fn with<R>(
        &self,
        block: Range<usize>,
        work: impl FnOnce(&mut Mapped<T>, usize) -> Result<R, Error>,
    ) -> Result<R, Error> {
        if block.end > self.length {
            return Err(Error::Bounds { map: self.name, index: block.end as u64 });
        }
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let has = |w: &Window<T>| w.first <= block.start && block.end <= w.first + w.mapped.elements().len();
        if !window.as_ref().is_some_and(has) {
            let first = block.start - block.start % Self::STEP;
            let end = block.end.max(first + BYTES / size_of::<T>()).min(self.length);
            // Before the next one is mapped.
            *window = None;
            let mapped = Mapped::part(self.name, self.map.as_fd(), first..end, true)?;
            *window = Some(Window { first, mapped });
        }
        let window = window.as_mut().expect("mapped above");
        let at = block.start - window.first;
        work(&mut window.mapped, at)
    }

    /// Writes elements of one word from `first` on.
    pub(super) fn fill(&mut self, first: u32, values: impl ExactSizeIterator<Item = T>) -> Result<(), Error> {
        let start = first as usize;
        self.with(start..start.saturating_add(values.len()), |mapped, at| mapped.fill(at, values))
    }
}

impl ReadSlots for Windowed<Slot> {
    fn block(&self, first: u32, count: u32) -> Cow<'_, [Slot]> {
        let start = first as usize;
        let block = start..start.saturating_add(count as usize).min(self.length);
        if block.is_empty() {
            return Cow::default();
        }
        let long = block.len();
        let copied = self.with(block, |mapped, at| Ok(mapped.elements()[at..at + long].to_vec()));
        match copied {
            Ok(slots) => Cow::Owned(slots),
            Err(error) => {
                tracing::error!(%error, "slots can't be read back");
                Cow::default()
            }
        }
    }
}

impl<T> fmt::Debug for Windowed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Windowed")
            .field("name", &self.name)
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}
