//! Fragments that came before their datagram's first one: taken out of the ring buffer, and given to the programs again.

use std::io;

use aya::maps::{HashMap, MapData, MapError, RingBuf};
use fairlead_abi::{EarlyFragment, FragmentEntry, FragmentKey, MOST_HELD, map};
use nix::time::{ClockId, clock_gettime};
use tokio::io::unix::AsyncFd;

use super::{Dataplane, Error, ingress::Ingress};

/// A frame as it came in, with a fragment in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Early {
    /// Its datagram.
    pub datagram: FragmentKey,
    /// The interface that it came in by.
    pub ifindex: u32,
    /// The frame.
    pub frame: Vec<u8>,
}

impl Early {
    /// From a record of the ring buffer `EARLY`; none where it is none.
    #[must_use]
    pub fn read(record: &[u8]) -> Option<Self> {
        let (head, frame) = record.split_at_checked(size_of::<EarlyFragment>() - MOST_HELD)?;
        let number = |at: usize| Some(u32::from_ne_bytes(head.get(at..at + 4)?.try_into().ok()?));
        let length = number(std::mem::offset_of!(EarlyFragment, length))?;
        // SAFETY: `head` has more bytes than the key, which is plain data and stands at its begin.
        let datagram = unsafe { head.as_ptr().cast::<FragmentKey>().read_unaligned() };
        let ifindex = number(std::mem::offset_of!(EarlyFragment, ifindex))?;
        (length as usize == frame.len()).then(|| Self { datagram, ifindex, frame: frame.to_vec() })
    }
}

/// The fragments that this node's programs could not place, and the way back to them.
pub struct EarlyFragments {
    ring: AsyncFd<RingBuf<MapData>>,
    firsts: HashMap<MapData, FragmentKey, FragmentEntry>,
    ingress: Ingress,
}

impl Dataplane {
    /// Takes what is needed to hold fragments; `None` when it was taken before.
    pub fn take_early_fragments(&mut self) -> Result<Option<EarlyFragments>, Error> {
        let Some(ring) = self.ebpf.take_map(map::EARLY) else { return Ok(None) };
        let Some(firsts) = self.ebpf.take_map(map::FRAGMENTS) else { return Ok(None) };
        let ingress = self.ingress()?;
        let shape = |error: io::Error| Error::Shape { map: map::EARLY, what: error.to_string() };
        let ring = RingBuf::try_from(ring).map_err(Error::map(map::EARLY))?;
        // SAFETY: the ring owns its descriptor, always names the same one, and is nobody else's.
        let ring = unsafe { AsyncFd::register(ring) };
        let ring = ring.map_err(|error| shape(error.into()))?;
        let firsts = HashMap::try_from(firsts).map_err(Error::map(map::FRAGMENTS))?;
        Ok(Some(EarlyFragments { ring, firsts, ingress }))
    }
}

impl EarlyFragments {
    /// Waits for fragments and takes some: at least one, at most `most`.
    pub async fn next(&mut self, most: usize) -> io::Result<Vec<Early>> {
        loop {
            let mut ready = self.ring.readable_mut().await?;
            let ring = ready.get_inner_mut();
            let mut early = Vec::new();
            while early.len() < most
                && let Some(record) = ring.next()
            {
                early.extend(Early::read(&record));
            }
            if early.len() < most {
                ready.clear_ready();
            }
            if !early.is_empty() {
                return Ok(early);
            }
        }
    }

    /// Whether the first fragment of a client's datagram has come, so lately that the programs let others follow it.
    pub fn has_first(&self, datagram: &FragmentKey) -> Result<bool, Error> {
        match self.firsts.get(datagram, 0) {
            Ok(first) => Ok(first.leads(now_ns(), false)),
            Err(MapError::KeyNotFound) => Ok(false),
            Err(error) => Err(Error::map(map::FRAGMENTS)(error)),
        }
    }

    /// Another handle on the programs, for a thread that may wait.
    pub fn ingress(&self) -> io::Result<Ingress> {
        self.ingress.try_clone()
    }
}

/// The programs' clock: nanoseconds, to some milliseconds.
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map(std::time::Duration::from);
    now.map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
}
