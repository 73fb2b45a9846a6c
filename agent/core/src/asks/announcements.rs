//! Announcements: what each receiver's agent tells all gateways unasked, of its endpoints that hold flows.
//!
//! A gateway that has just come, or is behind, doesn't know of an endpoint that has left its slices, or has only just come
//! into them; by its announcement it does, and asks it. And only who has heard of all of them after a packet came can say
//! that its flow is nobody's. A count takes a node with many flows longer than gateways wait: meanwhile it lists whichever of
//! its endpoints could have flows, which takes no time.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use fairlead_abi::message::{
    ANNOUNCED, ANNOUNCED_WORDS, ANNOUNCEMENT_WORDS, MAGIC, message_kind, message_tag,
};
use fairlead_abi::{Address, Announced, Announcement, Header, ServiceKey};
use ipnet::IpNet;

use super::Backend;
use super::keys::Keys;
use super::letters::{Refusal, sealed};
use super::polls::NodeId;
use crate::stable::Stable;

/// How often a receiver announces at least, whatever it holds.
pub const ANNOUNCE_EVERY: Duration = Duration::from_secs(5);

/// A node of which nothing has been heard for so long holds nothing any more: its connections have timed out or broken.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(120);

/// Words of the longest message.
pub(super) const WORDS: usize = ANNOUNCEMENT_WORDS + ANNOUNCED * ANNOUNCED_WORDS;

/// Nodes of which announcements are kept, at most.
const MOST_NODES: usize = 1 << 14;

/// How often it is told of a cluster that its nodes announce what is not theirs.
pub const STRANGE_EVERY: Duration = Duration::from_secs(600);

/// What a receiver holds, and when it was counted; or what it may hold, and when that was so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Its clock when it is told, milliseconds since 1970; grows.
    pub turn: u64,
    /// How long ago.
    pub age: Duration,
    /// No flows can be missing.
    pub whole: bool,
    /// Those of its endpoints that hold any.
    pub held: Vec<Announced>,
    /// They are all that could, and were not counted.
    pub list: bool,
}

/// The messages by which a node tells that; `nonce` is the number of the first, and grows by as many.
#[must_use]
pub fn announcements(node: &NodeId, counted: &Counted, keys: &Keys, nonce: &mut u64) -> Vec<Vec<u8>> {
    let most = ANNOUNCED * usize::from(u8::MAX);
    let held = &counted.held[..counted.held.len().min(most)];
    let parts = held.len().div_ceil(ANNOUNCED).max(1);
    let part = |part: usize| {
        let some = &held[part * ANNOUNCED..held.len().min((part + 1) * ANNOUNCED)];
        *nonce = nonce.wrapping_add(1);
        let begins = Announcement {
            header: Header {
                magic: MAGIC,
                kind: message_kind::ANNOUNCE,
                count: u8::try_from(some.len()).expect("at most ANNOUNCED"),
                key: keys.first.id,
                nonce: *nonce,
                tag: 0,
            },
            node: number(node),
            turn: counted.turn,
            age: u32::try_from(counted.age.as_millis()).unwrap_or(u32::MAX),
            part: u8::try_from(part).expect("at most 255 parts"),
            parts: u8::try_from(parts).expect("as before"),
            whole: (counted.whole && held.len() == counted.held.len()).into(),
            list: counted.list.into(),
        };
        let mut words = begins.words().to_vec();
        words.extend(some.iter().flat_map(Announced::words));
        sealed(&mut words, keys.first)
    };
    (0..parts).map(part).collect()
}

/// A node as messages name it.
fn number((cluster, node): &NodeId) -> u64 {
    Stable::new(0).bytes(cluster.as_bytes()).bytes(&[0]).bytes(node.as_bytes()).finish()
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Announcements {
    /// By the cluster whose key they have: who has one's can't speak for another's nodes.
    nodes: BTreeMap<(Arc<str>, u64), Node>,
    /// All clusters, and the addresses that their endpoints may have.
    pod_cidrs: BTreeMap<Arc<str>, Vec<IpNet>>,
    /// Clusters whose nodes announced what is not theirs, and when that was told.
    told_strange: BTreeMap<Arc<str>, Duration>,
}

/// What is left out of an announcement: endpoints that are not of its cluster, as they would be of its slices.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Strangers {
    pub(super) count: u64,
    /// One of them, where it is time to tell.
    pub(super) tell: Option<(Arc<str>, Address)>,
}

/// The last that a node has told.
#[derive(Debug, Default)]
struct Node {
    /// When anything came.
    heard: Duration,
    /// The turn of the last that has come whole.
    turn: Option<u64>,
    /// The last count among those.
    count: Option<Told>,
    /// The last list, if it is younger than that.
    list: Option<Told>,
    /// One of which parts are missing yet.
    coming: Option<(Told, BTreeMap<u8, Vec<Announced>>)>,
}

#[derive(Debug)]
struct Told {
    turn: u64,
    /// When it was so, at the earliest.
    at: Duration,
    whole: bool,
    list: bool,
    held: Vec<Announced>,
}

/// An endpoint that holds flows, or may, as its receiver announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcing {
    /// The service.
    pub service: ServiceKey,
    /// The endpoint's outer address.
    pub outer: Address,
    /// How many; `None`: nobody has counted them.
    pub flows: Option<u32>,
    /// When that was so.
    pub at: Duration,
    /// It is announced by an address of the VIP's IP version, too.
    pub second: bool,
}

impl Announcing {
    /// Whether a gateway with these tunnels reaches the endpoint by this address: each by one only.
    #[must_use]
    pub fn is_reached_by(&self, tunnels: &[IpNet]) -> bool {
        let of_vip = |tunnel: &IpNet| tunnel.addr().is_ipv4() == IpAddr::from(self.service.vip).is_ipv4();
        !self.second || !tunnels.iter().any(of_vip)
    }
}

impl Announcements {
    /// These are all clusters, and the addresses that their endpoints may have.
    pub(super) fn listen_to(&mut self, pod_cidrs: BTreeMap<Arc<str>, Vec<IpNet>>) {
        self.told_strange.retain(|cluster, _| pod_cidrs.contains_key(cluster));
        self.pod_cidrs = pod_cidrs;
    }

    pub(super) fn clusters(&self) -> impl Iterator<Item = &Arc<str>> {
        self.pod_cidrs.keys()
    }

    /// Takes a message at `now`, if it has the tag of one of these `keys`.
    pub(super) fn received<'a>(
        &mut self,
        words: &[u64],
        header: &Header,
        keys: impl Iterator<Item = (&'a Arc<str>, Keys)>,
        now: Duration,
    ) -> Result<Strangers, Refusal> {
        let (begins, rest) = words.split_first_chunk::<ANNOUNCEMENT_WORDS>().ok_or(Refusal::Malformed)?;
        let begins = Announcement::of(*begins);
        let (held, []) = rest.as_chunks::<ANNOUNCED_WORDS>() else { return Err(Refusal::Malformed) };
        if held.len() != usize::from(header.count) || begins.part >= begins.parts {
            return Err(Refusal::Malformed);
        }
        let mut known = keys.filter_map(|(cluster, keys)| Some((cluster, keys.get(header.key)?)));
        let (cluster, key) = known.next().ok_or(Refusal::Stranger)?;
        let id = (Arc::clone(cluster), begins.node);
        if message_tag(key.key, words) != header.tag {
            return Err(Refusal::Forged);
        }
        self.forget(now);
        if self.nodes.len() >= MOST_NODES && !self.nodes.contains_key(&id) {
            return Err(Refusal::Stranger);
        }
        let (held, strangers) = self.own(&id.0, held.iter().map(|&words| Announced::of(words)));
        let strangers = self.note_strangers(&id.0, &strangers, now);
        self.nodes.entry(id).or_default().told(&begins, held, now);
        Ok(strangers)
    }

    /// Those of a cluster's endpoints, and the addresses of others.
    fn own(
        &self,
        cluster: &Arc<str>,
        announced: impl Iterator<Item = Announced>,
    ) -> (Vec<Announced>, Vec<Address>) {
        let cidrs = self.pod_cidrs.get(cluster).map(Vec::as_slice).unwrap_or_default();
        let may = |held: &Announced| cidrs.iter().any(|cidr| cidr.contains(&IpAddr::from(held.about.outer)));
        let (own, others): (Vec<_>, Vec<_>) = announced.partition(may);
        (own, others.iter().map(|held| held.about.outer).collect())
    }

    fn note_strangers(&mut self, cluster: &Arc<str>, outers: &[Address], now: Duration) -> Strangers {
        let Some(&first) = outers.first() else { return Strangers::default() };
        let tell = self.told_strange.get(cluster).is_none_or(|told| now >= *told + STRANGE_EVERY);
        if tell {
            self.told_strange.insert(Arc::clone(cluster), now);
        }
        Strangers { count: outers.len() as u64, tell: tell.then(|| (Arc::clone(cluster), first)) }
    }

    /// What endpoints hold. One may be counted and in a younger list too.
    pub(super) fn all(&self) -> impl Iterator<Item = Announcing> {
        self.nodes.values().flat_map(Node::told_last).flat_map(|told| {
            let one = |held: &Announced| {
                let flows = Some(held.flows).filter(|_| !told.list);
                Some(Announcing {
                    service: held.about.service()?,
                    outer: held.about.outer,
                    flows,
                    at: told.at,
                    second: held.second == 1,
                })
            };
            told.held.iter().filter_map(one)
        })
    }

    /// Whether all nodes that announce have done so since, and these are among them.
    pub(super) fn whole_since(
        &self,
        since: Duration,
        nodes: impl Iterator<Item = NodeId>,
        now: Duration,
    ) -> bool {
        let is_whole = |node: &Node| node.told_last().any(|told| told.whole && told.at >= since);
        let lives = |node: &&Node| now < node.heard + FORGOTTEN_AFTER;
        self.nodes.values().filter(lives).all(is_whole)
            && nodes
                .map(|id| (Arc::clone(&id.0), number(&id)))
                .all(|id| self.nodes.get(&id).is_some_and(is_whole))
    }

    fn forget(&mut self, now: Duration) {
        self.nodes.retain(|_, node| now < node.heard + FORGOTTEN_AFTER);
    }
}

impl Node {
    fn told(&mut self, part: &Announcement, held: Vec<Announced>, now: Duration) {
        // An old one again, or late.
        if self.turn.is_some_and(|last| part.turn <= last) {
            return;
        }
        self.heard = now;
        if self.coming.as_ref().is_none_or(|(coming, _)| part.turn > coming.turn) {
            let at = now.saturating_sub(Duration::from_millis(part.age.into()));
            let told =
                Told { turn: part.turn, at, whole: part.whole == 1, list: part.list == 1, held: Vec::new() };
            self.coming = Some((told, BTreeMap::new()));
        }
        let Some((told, parts)) = &mut self.coming else { return };
        if part.turn == told.turn {
            parts.insert(part.part, held);
        }
        if parts.len() == usize::from(part.parts) {
            let held = std::mem::take(parts).into_values().flatten().collect();
            if let Some((told, _)) = self.coming.take() {
                self.take(Told { held, ..told });
            }
        }
    }

    fn take(&mut self, told: Told) {
        self.turn = Some(told.turn);
        if told.list {
            self.list = Some(told);
        } else {
            // It was begun before the list was made, and ended after: then the list says more.
            self.list.take_if(|list| list.at <= told.at);
            self.count = Some(told);
        }
    }

    /// What counts of what it has told.
    fn told_last(&self) -> impl Iterator<Item = &Told> {
        self.count.iter().chain(&self.list)
    }
}

/// The nodes of backends that take new connections: they have receivers, and those announce.
pub(super) fn nodes(backends: &[Backend]) -> impl Iterator<Item = NodeId> {
    backends.iter().filter(|backend| !backend.leaving).map(Backend::node_id)
}
