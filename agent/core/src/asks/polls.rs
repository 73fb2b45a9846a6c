//! Which nodes are silent, and how many flows each backend holds: questions without flows, on a schedule.
//!
//! Each node is asked four times a second through one of its backends, whichever answered last; after an answer that is
//! missing through another, so that the end of one pod is not taken for that of its node. Each backend is asked for its
//! counts every 10 s, and every 5 s once it takes no new connections, as far as the limit lets. Any answer is a sign of
//! life, and brings counts.
//!
//! Who doesn't hear for a while must not blame others: after a time in which answers were not taken, counting begins
//! anew; and where no node at all answered, the first one that does speaks for those that fell silent with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fairlead_abi::{Address, ServiceKey};

use super::Backend;
use super::limits::{Bucket, Level, Rate};
use super::opening::Opening;
use super::pending::ANSWER_WITHIN;
use crate::stable::Stable;

/// How often a node is asked whether it lives.
pub const BEAT: Duration = Duration::from_millis(250);

/// So many in a row have to be unanswered for a node to be silent: with [`BEAT`] it is within 850 ms.
pub const MISSED: u32 = 3;

/// For so long no node is judged while answers may wait: whoever keeps the socket busy must not keep dead nodes in use.
const BEHIND_AT_MOST: Duration = Duration::from_secs(10);

/// Nodes that were heard last within so long of each other have fallen silent together.
const TOGETHER: Duration = Duration::from_secs(2);

/// How often a backend is asked for its counts.
pub const COUNT_EVERY: Duration = Duration::from_secs(10);

/// How often one is that takes no new connections: somebody waits for it to be empty.
pub const COUNT_LEAVING_EVERY: Duration = Duration::from_secs(5);

/// A node among those of all clusters: its cluster and name.
pub type NodeId = (Arc<str>, Arc<str>);

/// A backend of a service.
pub(super) type Pair = (ServiceKey, Address);

/// What a backend holds, as its receiver counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Flows of the service.
    pub flows: u32,
    /// Connections opened since its receiver began to count.
    pub connections: u64,
    /// When that was counted, at the earliest.
    pub at: Duration,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Polls {
    rate: Rate,
    bucket: Bucket,
    pairs: BTreeMap<Pair, Polled>,
    nodes: BTreeMap<NodeId, Node>,
    beats: BTreeSet<(Duration, NodeId)>,
    /// Nodes that become silent then unless they answer.
    verdicts: BTreeSet<(Duration, NodeId)>,
    counts: BTreeSet<(Duration, Pair)>,
    /// Nodes that are silent no more, without having answered.
    absolved: Vec<NodeId>,
    /// Since when answers may wait to be taken.
    behind: Option<Duration>,
}

#[derive(Debug)]
struct Polled {
    node: NodeId,
    every: Duration,
    due: Duration,
    heard: Option<Duration>,
    holding: Option<Holding>,
    opening: Opening,
    leaving: bool,
}

#[derive(Debug, Default)]
struct Node {
    pairs: BTreeSet<Pair>,
    /// Those asked since it last answered.
    tried: BTreeSet<Pair>,
    unanswered: u32,
    silent: bool,
    /// When it answered last.
    heard: Option<Duration>,
    /// No network lies between.
    own: bool,
    beat: Duration,
    verdict: Option<Duration>,
}

impl Polls {
    pub(super) fn new(rate: Rate) -> Self {
        Self {
            rate,
            bucket: Bucket::default(),
            pairs: BTreeMap::new(),
            nodes: BTreeMap::new(),
            beats: BTreeSet::new(),
            verdicts: BTreeSet::new(),
            counts: BTreeSet::new(),
            absolved: Vec::new(),
            behind: None,
        }
    }

    /// A service's backends are these now. What is known of those that stay is kept.
    pub(super) fn set(&mut self, service: ServiceKey, backends: &[Backend], now: Duration) {
        let wanted: BTreeMap<Address, &Backend> = backends.iter().map(|b| (b.outer, b)).collect();
        let of_service = (service, Address::default())..=(service, Address::v6([0xff; 16]));
        let gone: Vec<Pair> = self
            .pairs
            .range(of_service)
            .filter(|((_, outer), polled)| wanted.get(outer).is_none_or(|b| b.node_id() != polled.node))
            .map(|(pair, _)| *pair)
            .collect();
        gone.into_iter().for_each(|pair| self.remove(pair));
        for backend in backends {
            self.add((service, backend.outer), backend, now);
            if let Some(node) = self.nodes.get_mut(&backend.node_id()) {
                node.own |= backend.own;
            }
        }
    }

    /// A backend answered at `now`. Returns its node if that was silent.
    pub(super) fn answered(&mut self, pair: Pair, held: Option<Holding>, now: Duration) -> Option<NodeId> {
        let polled = self.pairs.get_mut(&pair)?;
        polled.heard = Some(now);
        if let Some(holding) = held {
            polled.holding = Some(holding);
            polled.opening.counted(&holding);
            self.counts.remove(&(polled.due, pair));
            polled.due = now + polled.every;
            self.counts.insert((polled.due, pair));
        }
        let id = polled.node.clone();
        let node = self.nodes.get_mut(&id)?;
        node.tried.clear();
        node.unanswered = 0;
        let before = node.heard.replace(now);
        if let Some(at) = node.verdict.take() {
            self.verdicts.remove(&(at, id.clone()));
        }
        if !node.silent {
            return None;
        }
        if self.is_cut_off() {
            self.absolve(before.unwrap_or_default().saturating_sub(TOGETHER));
        }
        self.nodes.get_mut(&id)?.silent = false;
        self.absolved.retain(|other| *other != id);
        Some(id)
    }

    /// Whether no other node answers: it is this gateway that can't be heard, or can't hear.
    fn is_cut_off(&self) -> bool {
        self.nodes.values().filter(|node| !node.own).all(|node| node.silent)
    }

    /// The same, where there are any.
    pub(super) fn hears_nobody(&self) -> bool {
        self.nodes.values().any(|node| !node.own) && self.is_cut_off()
    }

    /// Those that were heard since then have time to answer too.
    fn absolve(&mut self, since: Duration) {
        for (id, node) in self.nodes.iter_mut().filter(|(_, node)| node.silent) {
            if node.heard.is_some_and(|heard| heard >= since) {
                (node.silent, node.unanswered) = (false, 0);
                self.absolved.push(id.clone());
            }
        }
    }

    /// At `now`, answers may wait to be taken; whether that has been so for so long that nodes are judged all the same.
    pub(super) fn fell_behind(&mut self, now: Duration) -> bool {
        now >= *self.behind.get_or_insert(now) + BEHIND_AT_MOST
    }

    /// At `now`, all answers that have come were taken. Where others may have been lost for want of room, counting begins anew.
    pub(super) fn caught_up(&mut self, now: Duration) {
        if self.behind.take().is_some_and(|since| now >= since + BEAT) {
            self.verdicts.clear();
            for node in self.nodes.values_mut() {
                (node.unanswered, node.verdict) = (0, None);
            }
        }
    }

    /// The next node that has fallen silent by `now`, or that was and isn't any more. Whoever asks has told of all answers that
    /// have come.
    pub(super) fn judged(&mut self, now: Duration) -> Option<(NodeId, bool)> {
        if let Some(node) = self.absolved.pop() {
            return Some((node, false));
        }
        self.verdicts.first().filter(|(at, _)| *at <= now)?;
        let (_, id) = self.verdicts.pop_first()?;
        let node = self.nodes.get_mut(&id)?;
        (node.verdict, node.silent) = (None, true);
        Some((id, true))
    }

    /// The next backend that is to be asked at `now`.
    pub(super) fn next(&mut self, now: Duration) -> Option<Pair> {
        self.next_beat(now).or_else(|| self.next_count(now))
    }

    /// When [`judged`](Self::judged) or [`next`](Self::next) has something.
    pub(super) fn due(&self) -> Option<Duration> {
        if !self.absolved.is_empty() {
            return Some(Duration::ZERO);
        }
        let first = |set: &BTreeSet<(Duration, NodeId)>| set.first().map(|(at, _)| *at);
        let counts = self.counts.first().filter(|_| self.rate.per_second > 0);
        let counts = counts.map(|&(at, _)| at.max(self.bucket.ready(self.rate)));
        [first(&self.verdicts), first(&self.beats), counts].into_iter().flatten().min()
    }

    pub(super) fn holding(&self, pair: Pair) -> Option<Holding> {
        self.pairs.get(&pair)?.holding
    }

    /// What is known of all backends.
    pub(super) fn holdings(&self) -> impl Iterator<Item = (Pair, Holding)> + '_ {
        self.pairs.iter().filter_map(|(&pair, polled)| Some((pair, polled.holding?)))
    }

    /// New connections per second of a service, as the receivers of all backends that take any have counted lately; `None`: not
    /// all have.
    pub(super) fn opened(&self, service: ServiceKey, now: Duration) -> Option<f64> {
        let of_service = self.pairs.range((service, Address::default())..=(service, Address::v6([0xff; 16])));
        of_service.clone().next()?;
        let rates = of_service.map(|(_, polled)| match polled.opening.rate(now) {
            None if polled.leaving => Some(0.0),
            rate => rate,
        });
        rates.sum()
    }

    /// Outer addresses of backends whose node is silent; none where all are.
    pub(super) fn silent(&self) -> BTreeSet<Address> {
        if self.is_cut_off() {
            return BTreeSet::new();
        }
        let silent = self.nodes.values().filter(|node| node.silent && !node.own);
        silent.flat_map(|node| &node.pairs).map(|&(_, outer)| outer).collect()
    }

    fn add(&mut self, pair: Pair, backend: &Backend, now: Duration) {
        let id = backend.node_id();
        let every = if backend.leaving { COUNT_LEAVING_EVERY } else { COUNT_EVERY };
        let soon = now + spread(every, &pair.1.bytes);
        match self.pairs.get_mut(&pair) {
            Some(polled) if polled.every == every => return,
            Some(polled) => {
                polled.leaving = backend.leaving;
                self.counts.remove(&(polled.due, pair));
                polled.every = every;
                polled.due = polled.due.min(soon);
                self.counts.insert((polled.due, pair));
                return;
            }
            None => {}
        }
        self.counts.insert((soon, pair));
        let polled = Polled {
            node: id.clone(),
            every,
            due: soon,
            heard: None,
            holding: None,
            opening: Opening::default(),
            leaving: backend.leaving,
        };
        self.pairs.insert(pair, polled);
        let node = self.nodes.entry(id).or_insert_with_key(|id| {
            let beat = now + spread(BEAT, id.1.as_bytes());
            self.beats.insert((beat, id.clone()));
            Node { beat, ..Node::default() }
        });
        node.pairs.insert(pair);
    }

    fn remove(&mut self, pair: Pair) {
        let Some(polled) = self.pairs.remove(&pair) else { return };
        self.counts.remove(&(polled.due, pair));
        let Some(node) = self.nodes.get_mut(&polled.node) else { return };
        node.pairs.remove(&pair);
        node.tried.remove(&pair);
        if node.pairs.is_empty() {
            let id = polled.node;
            self.beats.remove(&(node.beat, id.clone()));
            if let Some(at) = node.verdict {
                self.verdicts.remove(&(at, id.clone()));
            }
            if node.silent {
                self.absolved.push(id.clone());
            }
            self.nodes.remove(&id);
        }
    }

    fn next_beat(&mut self, now: Duration) -> Option<Pair> {
        self.beats.first().filter(|(at, _)| *at <= now)?;
        let (_, id) = self.beats.pop_first()?;
        let node = self.nodes.get_mut(&id)?;
        // From now, not from when it was due: an agent that was held up doesn't make up for it.
        node.beat = now + BEAT;
        self.beats.insert((node.beat, id.clone()));
        node.unanswered = node.unanswered.saturating_add(1);
        if node.unanswered >= MISSED && !node.silent && node.verdict.is_none() {
            let at = now + ANSWER_WITHIN;
            node.verdict = Some(at);
            self.verdicts.insert((at, id));
        }
        if node.tried.len() == node.pairs.len() {
            node.tried.clear();
        }
        let heard = |pair: &&Pair| self.pairs.get(*pair).and_then(|polled| polled.heard);
        let pair = *node.pairs.difference(&node.tried).max_by_key(heard)?;
        node.tried.insert(pair);
        Some(pair)
    }

    fn next_count(&mut self, now: Duration) -> Option<Pair> {
        let &(due, pair) = self.counts.first()?;
        if due > now || self.bucket.level(self.rate, now) == Level::Empty {
            return None;
        }
        self.bucket.take(self.rate, 1, now);
        self.counts.remove(&(due, pair));
        let polled = self.pairs.get_mut(&pair)?;
        polled.due = now + polled.every;
        self.counts.insert((polled.due, pair));
        Some(pair)
    }
}

/// A part of a period, the same for the same name: not all that are new at once are asked at once.
fn spread(period: Duration, name: &[u8]) -> Duration {
    let part = Stable::new(0).bytes(name).finish() >> 48;
    period * u32::try_from(part).expect("16 bits") / (1 << 16)
}
