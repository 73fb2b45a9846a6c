//! What the programs report of single flows: a ring buffer, read by one task of one agent.

use std::io;

use aya::{
    Pod,
    maps::{HashMap, MapData, RingBuf},
};
use fairlead_abi::{FlowReport, SipKey, map};
use tokio::io::unix::AsyncFd;

use super::{Dataplane, Error};

/// The reports of this node's programs.
pub struct Reports(AsyncFd<RingBuf<MapData>>);

impl Dataplane {
    /// Takes the reports; `None` when they were taken before.
    pub fn take_reports(&mut self) -> Result<Option<Reports>, Error> {
        let Some(ring) = self.ebpf.take_map(map::REPORTS) else { return Ok(None) };
        let ring = RingBuf::try_from(ring).map_err(Error::map(map::REPORTS))?;
        // SAFETY: the ring owns its descriptor, always names the same one, and is nobody else's.
        let waited = unsafe { AsyncFd::register(ring) };
        let waited = waited.map_err(|error| Error::Shape {
            map: map::REPORTS,
            what: format!("can't be waited for: {error}"),
        })?;
        Ok(Some(Reports(waited)))
    }

    /// Takes the table of keys that gateways' questions are tagged with; `None` when it was taken before.
    pub fn take_keys(&mut self) -> Result<Option<MessageKeys>, Error> {
        let Some(table) = self.ebpf.take_map(map::KEYS) else { return Ok(None) };
        Ok(Some(MessageKeys(HashMap::try_from(table).map_err(Error::map(map::KEYS))?)))
    }
}

impl Reports {
    /// Waits for reports and takes some: at least one, at most `most`.
    pub async fn next(&mut self, most: usize) -> io::Result<Vec<FlowReport>> {
        loop {
            let mut ready = self.0.readable_mut().await?;
            let ring = ready.get_inner_mut();
            let mut reports = Vec::new();
            while reports.len() < most
                && let Some(item) = ring.next()
            {
                reports.extend(plain::<FlowReport>(&item));
            }
            if reports.len() < most {
                ready.clear_ready();
            }
            if !reports.is_empty() {
                return Ok(reports);
            }
        }
    }
}

/// A report from its bytes; none where there are others than those of one.
fn plain<T: Pod>(bytes: &[u8]) -> Option<T> {
    if bytes.len() != size_of::<T>() {
        return None;
    }
    // SAFETY: plain data of that size, of any alignment.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// The keys by which this node's program tells questions of gateways from forged ones.
pub struct MessageKeys(HashMap<MapData, u32, SipKey>);

impl MessageKeys {
    /// From now on these count and no others.
    pub fn replace(&mut self, keys: &[(u32, SipKey)]) -> Result<(), Error> {
        let error = Error::map(map::KEYS);
        for (number, key) in keys {
            self.0.insert(number, key, 0).map_err(&error)?;
        }
        let known: Vec<u32> = self.0.keys().collect::<Result<_, _>>().map_err(&error)?;
        for number in known.iter().filter(|number| keys.iter().all(|(wanted, _)| wanted != *number)) {
            self.0.remove(number).map_err(&error)?;
        }
        Ok(())
    }
}
