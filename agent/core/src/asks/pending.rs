//! The flows that are being asked for, and what has been said of each.
//!
//! A flow is somebody's once one backend says so. Silence is not a no: who has not answered when the flow's next packet comes
//! is asked again. And that all have said no proves nothing yet: this gateway may not know all that there are. It does once
//! all receivers have announced what they hold after the flow was asked for first; then all are asked a last time, and what
//! they say unanimously holds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fairlead_abi::message::answer;
use fairlead_abi::{Address, AskedFlow, Flow, ServiceKey};

use super::Backend;
use super::announcements::ANNOUNCE_EVERY;

/// For so long after a question its answer is waited for; the next packet then asks those that are missing again.
pub const ANSWER_WITHIN: Duration = Duration::from_millis(100);

/// For so long a flow is asked for before it can be nobody's: all receivers announce twice, so that one message may be lost.
pub const SURE_AFTER: Duration = Duration::from_secs(2 * ANNOUNCE_EVERY.as_secs());

/// For so long a flow is known to be nobody's: a client that doubles its waiting sends again within, whenever it began.
pub const NOBODY_FOR: Duration = Duration::from_secs(12);

/// Where not all receivers have announced yet, or the limits don't let it be asked for, how soon to look again.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// For so long a no holds while a flow is asked for: then it says nothing of a client that has used the port again. One that
/// doubles its waiting from 200 ms on sends five packets within.
const NO_HOLDS: Duration = Duration::from_secs(5);

/// A flow is given up so long after it was asked for first; its next packet is the first again.
pub(super) const KEPT: Duration = Duration::from_secs(SURE_AFTER.as_secs() + 3);

/// Flows that are asked for, and settled ones, at most.
pub(super) const MOST_FLOWS: usize = 1 << 17;

/// Backends of all flows that are asked for, at most: a bit each.
pub(super) const MOST_BACKENDS: usize = 1 << 24;

/// A flow among all services'.
pub(super) type Id = (ServiceKey, Flow);

/// Those that may hold flows of a service.
#[derive(Clone, Debug)]
pub(super) struct Served {
    /// Sorted by `outer`.
    pub(super) backends: Arc<[Backend]>,
    /// All are asked by messages.
    pub(super) all_asked: bool,
}

/// What a packet of a flow leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// These have not said no: they are to be asked; `again`: not for the first time.
    Ask { missing: Vec<Address>, again: bool },
    /// It is being asked for.
    Asked,
    /// It was settled a moment ago.
    Settled,
    /// No place.
    NoRoom,
}

/// What an answer leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Mine,
    Nobodys,
}

#[derive(Debug)]
struct Case {
    /// Because of this packet.
    flow: AskedFlow,
    /// Sorted by `outer`, as they were when it was looked at last.
    backends: Arc<[Backend]>,
    /// Which of them said no: bits.
    no: Vec<u64>,
    /// How many did not.
    missing: usize,
    /// When it may be asked for again.
    again: Duration,
    /// When it was asked for first.
    began: Duration,
    /// When all of them were asked last.
    round: Duration,
    /// It is asked for a last time, now that all are known.
    last: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pending {
    cases: BTreeMap<Id, Case>,
    ends: BTreeSet<(Duration, Id)>,
    /// Those that all have said no to, and when to look whether that is all.
    refused: BTreeSet<(Duration, Id)>,
    /// Sum over `cases`.
    backends: usize,
    /// Until when, and whether nobody's. Of those found, so long that packets on their way don't ask again.
    settled: BTreeMap<Id, (Duration, Verdict)>,
    settled_ends: BTreeSet<(Duration, Id)>,
}

impl Pending {
    /// A packet of a flow came, and these may hold it.
    pub(super) fn standing(&mut self, id: &Id, flow: &AskedFlow, served: &Served, now: Duration) -> Standing {
        let backends = &served.backends;
        // Asked for because of somebody else's packet, or of a connection before.
        if self.cases.get(id).is_some_and(|case| !are_near(&case.flow, flow)) {
            self.remove(id);
        }
        if self.settled.get(id).is_some_and(|&(until, _)| now < until) {
            return Standing::Settled;
        }
        let Some(case) = self.cases.get_mut(id) else {
            let room = self.cases.len() < MOST_FLOWS && self.backends + backends.len() <= MOST_BACKENDS;
            let missing = backends.iter().map(|backend| backend.outer).collect();
            return if room { Standing::Ask { missing, again: false } } else { Standing::NoRoom };
        };
        if now < case.again {
            return Standing::Asked;
        }
        self.backends -= case.backends.len();
        case.compare(backends);
        self.backends += case.backends.len();
        if now >= case.round + NO_HOLDS && !case.last {
            *case = Case { began: case.began, ..Case::new(case.flow, Arc::clone(backends), now) };
        }
        if case.missing == 0 {
            return Standing::Asked;
        }
        Standing::Ask { missing: case.missing().collect(), again: true }
    }

    /// Those that are missing are asked; the questions leave by `sent`.
    pub(super) fn ask(&mut self, id: Id, flow: AskedFlow, backends: &Arc<[Backend]>, sent: Duration) {
        let case = self.cases.entry(id).or_insert_with(|| {
            self.backends += backends.len();
            self.ends.insert((sent + KEPT, id));
            Case::new(flow, Arc::clone(backends), sent)
        });
        case.again = sent + ANSWER_WITHIN;
    }

    /// A backend said one of [`answer`] of a flow; those of `served` may hold it now.
    pub(super) fn said(
        &mut self,
        id: &Id,
        outer: Address,
        said: u8,
        served: &Served,
        now: Duration,
    ) -> Option<Verdict> {
        let case = self.cases.get_mut(id)?;
        self.backends -= case.backends.len();
        case.compare(&served.backends);
        self.backends += case.backends.len();
        let verdict = case.said(outer, said)?;
        if verdict == Verdict::Nobodys && !case.last {
            self.refused.insert((now.max(case.began + SURE_AFTER), *id));
            return None;
        }
        self.remove(id);
        Some(verdict)
    }

    /// A flow that all have said no to for so long that it is time to look whether that is all of them, its packet, and since
    /// when it is asked for. It comes again soon, unless it is [asked for](Self::ask_last) by then.
    pub(super) fn refused(&mut self, now: Duration) -> Option<(Id, AskedFlow, Duration)> {
        while self.refused.first().is_some_and(|&(at, _)| at <= now) {
            let (_, id) = self.refused.pop_first()?;
            // Others may have come meanwhile, who have not said anything yet.
            let Some(case) = self.cases.get(&id).filter(|case| case.missing == 0 && !case.last) else {
                continue;
            };
            // A case of another packet began meanwhile.
            let early = now < case.began + SURE_AFTER;
            self.refused.insert((if early { case.began + SURE_AFTER } else { now + LOOK_AGAIN }, id));
            if !early {
                return Some((id, case.flow, case.began));
            }
        }
        None
    }

    /// These are asked once more; if all say no again, the flow is nobody's.
    pub(super) fn ask_last(&mut self, id: &Id, backends: &Arc<[Backend]>, sent: Duration) {
        let Some(case) = self.cases.get_mut(id) else { return };
        self.backends -= case.backends.len();
        let anew = Case::new(case.flow, Arc::clone(backends), sent);
        *case = Case { last: true, began: case.began, again: sent + ANSWER_WITHIN, ..anew };
        self.backends += backends.len();
    }

    /// The flow's verdict stands for a while. Returns a flow that is therefore nobody's no longer.
    pub(super) fn settle(&mut self, id: Id, verdict: Verdict, now: Duration) -> Option<Id> {
        let until = now + if verdict == Verdict::Nobodys { NOBODY_FOR } else { ANSWER_WITHIN };
        if let Some((before, _)) = self.settled.insert(id, (until, verdict)) {
            self.settled_ends.remove(&(before, id));
        }
        self.settled_ends.insert((until, id));
        if self.settled.len() > MOST_FLOWS { self.unsettle() } else { None }
    }

    /// Forgets what is over at `now`: how many flows were asked for in vain, and those that are nobody's no longer.
    pub(super) fn forget(&mut self, now: Duration) -> (u64, Vec<Id>) {
        let mut unanswered = 0;
        while let Some(&(ends, id)) = self.ends.first()
            && ends <= now
        {
            self.remove(&id);
            unanswered += 1;
        }
        let mut freed = Vec::new();
        while self.settled_ends.first().is_some_and(|&(until, _)| until <= now) {
            freed.extend(self.unsettle());
        }
        (unanswered, freed)
    }

    /// When [`forget`](Self::forget) has something to do.
    pub(super) fn due(&self) -> Option<Duration> {
        let first = |ends: &BTreeSet<(Duration, Id)>| ends.first().map(|&(at, _)| at);
        [first(&self.ends), first(&self.refused), first(&self.settled_ends)].into_iter().flatten().min()
    }

    /// Flows that are asked for, and settled ones.
    pub(super) fn len(&self) -> (usize, usize) {
        (self.cases.len(), self.settled.len())
    }

    fn remove(&mut self, id: &Id) {
        if let Some(case) = self.cases.remove(id) {
            self.backends -= case.backends.len();
            self.ends.remove(&(case.began + KEPT, *id));
        }
    }

    /// Ends the settled one that has the least time left.
    fn unsettle(&mut self) -> Option<Id> {
        let (_, id) = self.settled_ends.pop_first()?;
        let (_, verdict) = self.settled.remove(&id)?;
        (verdict == Verdict::Nobodys).then_some(id)
    }
}

impl Case {
    fn new(flow: AskedFlow, backends: Arc<[Backend]>, began: Duration) -> Self {
        let (no, missing) = (vec![0; backends.len().div_ceil(64)], backends.len());
        Self { flow, backends, no, missing, again: Duration::ZERO, began, round: began, last: false }
    }

    /// Goes on with the backends that there are now: what those said that were there before still holds.
    fn compare(&mut self, backends: &Arc<[Backend]>) {
        if Arc::ptr_eq(&self.backends, backends) {
            return;
        }
        let new = Self::new(self.flow, Arc::clone(backends), self.began);
        let mut now = Self { again: self.again, round: self.round, last: self.last, ..new };
        for (place, backend) in self.backends.iter().enumerate() {
            if has(&self.no, place) {
                now.note_no(backend.outer);
            }
        }
        *self = now;
    }

    fn said(&mut self, outer: Address, said: u8) -> Option<Verdict> {
        let place = self.place(outer)?;
        match said {
            answer::MINE => return Some(Verdict::Mine),
            answer::NOT_MINE if !has(&self.no, place) => self.note_no(outer),
            _ => {}
        }
        (self.missing == 0).then_some(Verdict::Nobodys)
    }

    fn note_no(&mut self, outer: Address) {
        if let Some(place) = self.place(outer) {
            self.no[place / 64] |= 1 << (place % 64);
            self.missing -= 1;
        }
    }

    fn missing(&self) -> impl Iterator<Item = Address> {
        self.backends.iter().enumerate().filter(|&(place, _)| !has(&self.no, place)).map(|(_, b)| b.outer)
    }

    fn place(&self, outer: Address) -> Option<usize> {
        self.backends.binary_search_by_key(&outer, |backend| backend.outer).ok()
    }
}

/// Whether two packets may be of the same connection: their numbers are within the largest window.
fn are_near(a: &AskedFlow, b: &AskedFlow) -> bool {
    const WINDOW: u32 = 1 << 27;
    let [a, b] = [a, b].map(|flow| u32::from_be_bytes(flow.sequence));
    a.wrapping_sub(b).wrapping_add(WINDOW) < 2 * WINDOW
}

fn has(bits: &[u64], place: usize) -> bool {
    bits[place / 64] & 1 << (place % 64) != 0
}
