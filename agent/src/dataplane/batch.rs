//! Many entries of a hash table by one system call (`BPF_MAP_LOOKUP_BATCH` and `BPF_MAP_UPDATE_BATCH`, kernel 5.6).
//!
//! The kernel walks bucket by bucket, each as a whole: an entry that stays is met exactly once, whatever comes and goes
//! beside it. Going from key to key can't promise that, for it begins anew at a key that is gone.

use std::{ffi::c_long, io};

use aya::{
    Pod,
    maps::{HashMap, IterableMap, MapData, MapError},
    sys::SyscallError,
};
use nix::{errno::Errno, libc};

use super::Error;

/// Entries of one call. A bucket has about one; it would have to have more than these for the kernel to give up.
const ENTRIES: usize = 4096;
const LOOKUP: Command = Command { number: 24, name: "BPF_MAP_LOOKUP_BATCH" };
const UPDATE: Command = Command { number: 26, name: "BPF_MAP_UPDATE_BATCH" };

struct Command {
    number: c_long,
    name: &'static str,
}

/// The `batch` of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// Hands all entries to `each`, some thousand at a time.
pub(super) fn read<K: Pod + Default, V: Pod + Default>(
    name: &'static str,
    table: &HashMap<MapData, K, V>,
    mut each: impl FnMut(&[K], &[V]) -> Result<(), Error>,
) -> Result<(), Error> {
    let (mut keys, mut values) = (vec![K::default(); ENTRIES], vec![V::default(); ENTRIES]);
    let mut place: Option<u32> = None;
    loop {
        let mut next = 0_u32;
        let mut attributes = Attributes {
            in_batch: place.as_ref().map_or(0, |place| (&raw const *place).addr() as u64),
            out_batch: (&raw mut next).expose_provenance() as u64,
            keys: keys.as_mut_ptr().expose_provenance() as u64,
            values: values.as_mut_ptr().expose_provenance() as u64,
            ..attributes(table, ENTRIES)
        };
        // SAFETY: the table's keys and values are `K`s and `V`s, any bytes of which are values; there is room for as many
        // as `count` says, and for the place, which is a number of a bucket.
        let ended = match unsafe { call(&LOOKUP, &mut attributes) } {
            Ok(()) => false,
            Err(Errno::ENOENT) => true,
            Err(errno) => return Err(refused(name, &LOOKUP, errno)),
        };
        let count = attributes.count as usize;
        each(&keys[..count], &values[..count])?;
        if ended {
            return Ok(());
        }
        place = Some(next);
    }
}

/// Writes entries, over what is there; how many the table had no room for.
pub(super) fn write<K: Pod, V: Pod>(
    name: &'static str,
    table: &mut HashMap<MapData, K, V>,
    entries: (&[K], &[V]),
) -> Result<u64, Error> {
    let (mut keys, mut values) = entries;
    let mut left_out = 0;
    while !keys.is_empty() {
        let count = keys.len().min(values.len());
        let mut attributes = Attributes {
            keys: keys.as_ptr().expose_provenance() as u64,
            values: values.as_ptr().expose_provenance() as u64,
            ..attributes(table, count)
        };
        // SAFETY: the table's keys and values are `K`s and `V`s; there are `count` of each, and they are only read.
        match unsafe { call(&UPDATE, &mut attributes) } {
            Ok(()) => break,
            Err(Errno::E2BIG) => {
                // All before this one were written. Later ones may be there already, and be written over.
                let after = attributes.count as usize + 1;
                (keys, values) = (&keys[after..], &values[after..]);
                left_out += 1;
            }
            Err(errno) => return Err(refused(name, &UPDATE, errno)),
        }
    }
    Ok(left_out)
}

fn attributes<K: Pod, V: Pod>(table: &HashMap<MapData, K, V>, count: usize) -> Attributes {
    use std::os::fd::{AsFd as _, AsRawFd as _};
    let map = table.map().fd().as_fd().as_raw_fd();
    Attributes {
        count: u32::try_from(count).expect("a batch is small"),
        map: u32::try_from(map).expect("open descriptors are not negative"),
        ..Attributes::default()
    }
}

/// # Safety
/// What `attributes` points to is as large as `command` takes it to be, and may be written where it writes.
unsafe fn call(command: &Command, attributes: &mut Attributes) -> Result<(), Errno> {
    // SAFETY: the caller's promise; the structure itself is as long as is said.
    let outcome = unsafe {
        libc::syscall(libc::SYS_bpf, command.number, &raw mut *attributes, size_of::<Attributes>())
    };
    Errno::result(outcome).map(drop)
}

fn refused(map: &'static str, command: &Command, errno: Errno) -> Error {
    let source = SyscallError { call: command.name, io_error: io::Error::from(errno) };
    Error::map(map)(MapError::SyscallError(source))
}
