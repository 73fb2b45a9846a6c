//! Carries flows over into new tables: without its entry, an endpoint's next reply would leave in the endpoint's own name,
//! and the client would answer it with a reset.
//!
//! In: folders of maps beside the ones that were just built, whose flows have the same layout. Out: their entries, in the
//! new tables. They are copied when the new tables are made, and what has changed since is copied again just before and
//! just after the links are switched. An entry that packets have brought into a new table is never replaced by an older one.

use std::{
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use aya::maps::{HashMap, IterableMap as _, Map, MapData, MapError};
use fairlead_abi::{FlowEntry, FlowKey, FlowState, map};
use nix::errno::Errno;

use super::{Dataplane, Error, batch};

pub(super) type Table = HashMap<MapData, FlowKey, FlowEntry>;

/// An entry may be written so many ticks after the clock was read for it; far more than a program runs.
const LATE: u32 = 2000;
/// After this time everything is copied again: the clock's half that is compared wraps within weeks.
const LONG: Duration = Duration::from_secs(24 * 3600);
/// `BPF_NOEXIST` and `BPF_EXIST`.
const ONLY_NEW: u64 = 1;
const ONLY_KNOWN: u64 = 2;

/// The tables of flows that others are to be replaced by.
pub(super) struct Carry {
    flows: Pair,
    half_open: Pair,
    /// When the first of them was read, and what the clock said by which they are stamped.
    began: (Instant, u32),
}

/// What was carried over into a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carried {
    /// Its name.
    pub map: &'static str,
    /// Entries of the tables before.
    pub found: u64,
    /// Those of them that there was no room for.
    pub left_out: u64,
    /// Entries that it can have.
    pub capacity: u32,
}

/// A new table, and those before.
struct Pair {
    former: Vec<Table>,
    new: Table,
    /// No packet can have written to the new one.
    unused: bool,
    /// Which entries come first where not all may fit: those to be kept, or in an LRU those to be lost.
    first: fn(&FlowEntry) -> bool,
    carried: Carried,
}

/// Which of the tables of flows stand in a folder that is being built, before the programs are loaded on it.
#[derive(Clone, Copy)]
pub(super) struct Taken {
    flows: bool,
    half_open: bool,
}

impl Taken {
    /// Whether the table of established flows is neither there nor in a folder before.
    pub(super) fn lacks_flows(self, former: &[PathBuf]) -> bool {
        !self.flows && !former.iter().any(|folder| folder.join(map::FLOWS).exists())
    }

    /// Those in `folder`.
    pub(super) fn in_folder(folder: &Path) -> Self {
        let is_there = |name| folder.join(name).exists();
        Self { flows: is_there(map::FLOWS), half_open: is_there(map::HALF_OPEN) }
    }
}

impl Carry {
    /// From the folders `former` into the tables in `folder`; `None` where there is nothing to carry.
    pub(super) fn new(
        former: &[PathBuf],
        folder: &Path,
        taken: Taken,
        ticks: u32,
    ) -> Result<Option<Self>, Error> {
        let flows = Pair::open(map::FLOWS, former, folder, |flow| flow.state != FlowState::Closing as u8)?;
        let half_open =
            Pair::open(map::HALF_OPEN, former, folder, |flow| flow.state == FlowState::HalfOpen as u8)?;
        if flows.former.is_empty() && half_open.former.is_empty() {
            return Ok(None);
        }
        let flows = Pair { unused: !taken.flows, ..flows };
        let half_open = Pair { unused: !taken.half_open, ..half_open };
        Ok(Some(Self { flows, half_open, began: (Instant::now(), ticks) }))
    }

    /// Copies what is established: by far the most.
    pub(super) fn begin(&mut self) -> Result<(), Error> {
        self.flows.copy(None)
    }

    /// Packets may come to the new tables from now on.
    pub(super) fn links_switch(&mut self) {
        self.flows.unused = false;
        self.half_open.unused = false;
    }

    /// The tables of established flows that are to be replaced, once more.
    pub(super) fn former_flows(&self) -> Result<Vec<Table>, Error> {
        self.flows.former.iter().map(again).collect()
    }

    /// Copies what has changed since.
    fn catch_up(&mut self) -> Result<[Carried; 2], Error> {
        // A flow moves from the second table to the first: looked for in this order, it is found. And again at the end,
        // for most of what is new is there. One that has moved meanwhile stands in both: the first one counts.
        self.half_open.copy(None)?;
        let (then, ticks) = self.began;
        let few = self.flows.carried.left_out == 0 && then.elapsed() < LONG;
        self.flows.copy(few.then(|| ticks.wrapping_sub(LATE)))?;
        self.half_open.copy(None)?;
        let mut half_open = self.half_open.carried.clone();
        // It forgets instead of refusing.
        half_open.left_out = half_open.found.saturating_sub(half_open.capacity.into());
        Ok([self.flows.carried.clone(), half_open])
    }
}

impl Dataplane {
    /// Tells of flows that can't be carried over: those that stand in another layout, in folders that are `strange`, and those of a
    /// table that has no pin any more though packets were delivered by it.
    pub(super) fn tell_left_behind(&mut self, strange: &[PathBuf], vanished: bool) {
        for folder in strange {
            tracing::warn!(
                tables = %folder.display(),
                "flows are not carried over, for another version made them in another layout: what an endpoint sends \
                 before its client does resets their connection"
            );
        }
        if vanished {
            tracing::warn!(
                "the table of flows that packets were delivered by is not pinned any more: what an endpoint sends before its \
                 client does resets their connection"
            );
        }
        if (vanished || !strange.is_empty())
            && let Err(error) = self.tell_lost()
        {
            tracing::error!(%error, "connections of the tables before can't be taken up");
        }
    }

    /// Copies the flows of former folders into the tables of `folder`, of which those `taken` were there before. That it
    /// fails is no reason not to serve.
    pub(super) fn begin_to_carry(&mut self, former: &[PathBuf], folder: &Path, taken: Taken) {
        let begun = self.ticks().and_then(|ticks| {
            self.carry = Carry::new(former, folder, taken, ticks)?;
            self.carry.as_mut().map_or(Ok(()), Carry::begin)
        });
        if let Err(error) = begun {
            tracing::error!(%error, "flows of the tables before can't be copied");
        }
    }

    /// Copies flows of tables that are being replaced into those that replace them, as far as they have changed; to be
    /// called before the links are switched and again after. Nothing where no table of flows is replaced.
    pub fn carry_flows(&mut self) -> Result<Vec<Carried>, Error> {
        let Some(carry) = &mut self.carry else { return Ok(Vec::new()) };
        let mut carried = carry.catch_up()?.to_vec();
        carried.retain(|carried| carried.found > 0);
        if carried.iter().any(|carried| carried.left_out > 0) {
            self.tell_lost()?;
        }
        Ok(carried)
    }
}

impl Pair {
    fn open(
        name: &'static str,
        former: &[PathBuf],
        folder: &Path,
        first: fn(&FlowEntry) -> bool,
    ) -> Result<Self, Error> {
        let new = open(name, folder)?;
        let info = |table: &Table| table.map().info().map_err(Error::map(name));
        let (id, capacity) = (info(&new)?.id(), info(&new)?.max_entries());
        let mut tables = Vec::new();
        for folder in former.iter().filter(|folder| folder.join(name).exists()) {
            let table = open(name, folder)?;
            // The same one may be pinned here too.
            if info(&table)?.id() != id {
                tables.push(table);
            }
        }
        let carried = Carried { map: name, found: 0, left_out: 0, capacity };
        Ok(Self { former: tables, new, unused: false, first, carried })
    }

    /// Copies entries whose last packet came after `since`, or all.
    fn copy(&mut self, since: Option<u32>) -> Result<(), Error> {
        let Self { former, new, unused, first, carried } = self;
        let (name, overwrite) = (carried.map, *unused && former.len() == 1);
        (carried.found, carried.left_out) = (0, 0);
        for table in former.iter() {
            let entries = table.map().info().map_err(Error::map(name))?.max_entries();
            let all_fit = former.len() == 1 && entries <= carried.capacity;
            let rounds: &[Option<bool>] = if all_fit { &[None] } else { &[Some(true), Some(false)] };
            for &round in rounds {
                let is_wanted = |flow: &FlowEntry| {
                    round.is_none_or(|round| first(flow) == round)
                        && since.is_none_or(|since| is_after(flow, since))
                };
                batch::read(name, table, |keys, flows| {
                    if round != Some(false) {
                        carried.found += keys.len() as u64;
                    }
                    let wanted = keys.iter().zip(flows).filter(|(_, flow)| is_wanted(flow));
                    if overwrite {
                        let (keys, flows): (Vec<_>, Vec<_>) = wanted.map(|(key, flow)| (*key, *flow)).unzip();
                        carried.left_out += batch::write(name, new, (&keys, &flows))?;
                        return Ok(());
                    }
                    for (key, flow) in wanted {
                        carried.left_out += u64::from(!put(new, key, flow).map_err(Error::map(name))?);
                    }
                    Ok(())
                })?;
            }
        }
        Ok(())
    }
}

/// Puts an entry into a table that packets change too, unless it has a newer one; false where there is no room.
fn put(new: &mut Table, key: &FlowKey, flow: &FlowEntry) -> Result<bool, MapError> {
    let (flags, overtaken) = match new.get(key, 0) {
        Ok(known) if !is_newer(flow, &known) => return Ok(true),
        Ok(_) => (ONLY_KNOWN, Errno::ENOENT),
        Err(MapError::KeyNotFound) => (ONLY_NEW, Errno::EEXIST),
        Err(error) => return Err(error),
    };
    match new.insert(key, flow, flags) {
        Err(MapError::SyscallError(error)) => {
            match error.io_error.raw_os_error().map(Errno::from_raw) {
                // A packet was faster.
                Some(errno) if errno == overtaken => Ok(true),
                Some(Errno::E2BIG) => Ok(false),
                _ => Err(error.into()),
            }
        }
        other => other.map(|()| true),
    }
}

/// Whether a flow went on after `known`. A later packet alone is not worth the risk of overtaking another one's change.
fn is_newer(flow: &FlowEntry, known: &FlowEntry) -> bool {
    let progress = |flow: &FlowEntry| (flow.seen, flow.state, flow.sequence);
    progress(flow) > progress(known) && lasting(flow) != lasting(known)
}

/// An entry without what each packet changes.
fn lasting(flow: &FlowEntry) -> FlowEntry {
    let half_open = flow.state == FlowState::HalfOpen as u8;
    let sequence = if half_open { flow.sequence } else { 0 };
    FlowEntry { seen: 0, claimed: 0, client_sequence: 0, sequence, ..*flow }
}

fn is_after(flow: &FlowEntry, ticks: u32) -> bool {
    #[expect(clippy::cast_possible_truncation, reason = "the lower half, as `ticks` is")]
    let later = (flow.seen as u32).wrapping_sub(ticks);
    later < u32::MAX / 2
}

/// The same table by another descriptor.
fn again(table: &Table) -> Result<Table, Error> {
    let error = |source| Error::Shape { map: map::FLOWS, what: format!("has no other descriptor: {source}") };
    let descriptor = table.map().fd().as_fd().try_clone_to_owned().map_err(error)?;
    let map = MapData::from_fd(descriptor).and_then(Map::from_map_data).map_err(Error::map(map::FLOWS))?;
    HashMap::try_from(map).map_err(Error::map(map::FLOWS))
}

fn open(name: &'static str, folder: &Path) -> Result<Table, Error> {
    let map = MapData::from_pin(folder.join(name)).and_then(Map::from_map_data).map_err(Error::map(name))?;
    HashMap::try_from(map).map_err(Error::map(name))
}
