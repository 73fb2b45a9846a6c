//! Flows that wait a moment, so that those asked of the same backend share a message.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use fairlead_abi::message::ASK_FLOWS;
use fairlead_abi::{Address, AskedFlow, ServiceKey};

/// How long a flow waits at most for others.
pub const BATCH_DELAY: Duration = Duration::from_millis(2);

/// Whom a message is for.
pub(super) type To = (ServiceKey, Address);

/// See the module. Bounded by what is asked for: each flow waits once per backend.
#[derive(Debug, Default)]
pub(super) struct Batches {
    open: BTreeMap<To, Batch>,
    /// When each was opened, in order; full ones have left before.
    due: VecDeque<(Duration, To)>,
}

#[derive(Debug)]
struct Batch {
    due: Duration,
    flows: Vec<AskedFlow>,
}

impl Batches {
    /// Adds a flow; returns the batch if it is full.
    pub(super) fn add(&mut self, to: To, flow: AskedFlow, now: Duration) -> Option<Vec<AskedFlow>> {
        let due = now + BATCH_DELAY;
        let batch = self.open.entry(to).or_insert_with(|| {
            self.due.push_back((due, to));
            Batch { due, flows: Vec::new() }
        });
        batch.flows.push(flow);
        if batch.flows.len() < ASK_FLOWS {
            return None;
        }
        self.open.remove(&to).map(|batch| batch.flows)
    }

    /// A batch that has waited long enough.
    pub(super) fn next(&mut self, now: Duration) -> Option<(To, Vec<AskedFlow>)> {
        while let Some(&(due, to)) = self.due.front()
            && due <= now
        {
            self.due.pop_front();
            // One that was full has left; a newer one for the same backend has its own time.
            if self.open.get(&to).is_some_and(|batch| batch.due == due) {
                return self.open.remove(&to).map(|batch| (to, batch.flows));
            }
        }
        None
    }

    /// When [`next`](Self::next) may have one.
    pub(super) fn due(&self) -> Option<Duration> {
        self.due.front().map(|&(due, _)| due)
    }
}
