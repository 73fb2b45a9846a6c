//! Receivers for tests: what their programs answer, in plain Rust, and a service of some backends.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fairlead_abi::message::{
    ASK_WORDS, COUNT_WORDS, FLOW_WORDS, HEADER_WORDS, TAG_WORD, answer, message_kind, message_tag,
};
use fairlead_abi::{Address, AskedFlow, Count, Family, Flow, Header, ServiceKey, protocol};

use super::letters::{opened, sealed};
use super::*;

pub(super) const OLD: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
pub(super) const NEW: &str = "ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100";

pub(super) fn secrets(text: &str) -> Secrets {
    Secrets::parse(text).unwrap()
}

pub(super) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(super) fn service() -> ServiceKey {
    ServiceKey::new(Address::v4([192, 0, 2, 1]), 443, protocol::TCP, Family::V4)
}

/// The outer address of backend `n`.
pub(super) fn outer(n: u8) -> Address {
    Address::v4([10, n % 3, 0, n])
}

/// The addresses of pods of cluster `n`.
pub(super) fn cidr(n: usize) -> ipnet::IpNet {
    format!("10.{n}.0.0/16").parse().unwrap()
}

/// Backend `n`: in cluster `c0` to `c2`, on one of each cluster's two nodes.
pub(super) fn backend(n: u8) -> Backend {
    let (cluster, node) = (format!("c{}", n % 3), format!("n{}", n / 3 % 2));
    Backend { outer: outer(n), cluster: cluster.into(), node: node.into(), leaving: false, own: false }
}

pub(super) fn backends(count: u8) -> Vec<Backend> {
    (0..count).map(backend).collect()
}

/// A stray packet's flow.
pub(super) fn asked(n: u32) -> AskedFlow {
    let [a, b, c, d] = n.to_be_bytes();
    AskedFlow {
        client: Address::v4([100 + a, b, c, 1]),
        client_port: [4, d],
        flags: 0x10,
        ..AskedFlow::default()
    }
}

pub(super) fn flow(n: u32) -> Flow {
    let AskedFlow { client, client_port: [a, b], .. } = asked(n);
    Flow { client, ports: [a, b, 1, 187] }
}

/// All receivers of all clusters.
#[derive(Debug)]
pub(super) struct Receivers {
    pub(super) secrets: Secrets,
    /// Whose a flow is.
    pub(super) owners: BTreeMap<Flow, Address>,
    /// Those whose tables are new.
    pub(super) new: BTreeSet<Address>,
    /// Those that don't answer.
    pub(super) dead: BTreeSet<Address>,
}

impl Receivers {
    pub(super) fn new() -> Self {
        Self { secrets: secrets(OLD), owners: BTreeMap::new(), new: BTreeSet::new(), dead: BTreeSet::new() }
    }

    /// The answer to a question that came to `outer`.
    pub(super) fn answer(&self, outer: Address, message: &[u8]) -> Option<Vec<u8>> {
        let (mut words, header) = opened(message)?;
        let key = self.secrets.keys(&format!("c{}", outer.bytes[13])).get(header.key)?;
        let right_size = words.len() == if header.count == 0 { COUNT_WORDS } else { ASK_WORDS };
        let tagged = message_tag(key.key, &words) == header.tag;
        if self.dead.contains(&outer) || header.kind != message_kind::ASK || !right_size || !tagged {
            return None;
        }
        let mut count = Count::of(*words.first_chunk()?);
        if count.about.outer != outer {
            return None;
        }
        count.header.kind = message_kind::ANSWER;
        count.flows = u32::try_from(self.owners.values().filter(|&&owner| owner == outer).count()).unwrap();
        count.connections = 1000 + u64::from(count.flows);
        count.state = u8::from(self.new.contains(&outer));
        words[..COUNT_WORDS].copy_from_slice(&count.words());
        for words in words[COUNT_WORDS..].as_chunks_mut::<FLOW_WORDS>().0.iter_mut().take(header.count.into())
        {
            let mut flow = AskedFlow::of(*words);
            let id = asker::flow_of(service(), flow.client, flow.client_port);
            flow.answer = if self.owners.get(&id) == Some(&outer) { answer::MINE } else { answer::NOT_MINE };
            *words = flow.words();
        }
        words[TAG_WORD] = 0;
        Some(sealed(&mut words, key))
    }
}

pub(super) fn header(message: &[u8]) -> Header {
    Header::of(*opened(message).unwrap().0.first_chunk::<HEADER_WORDS>().unwrap())
}

pub(super) fn asker(text: &str, limits: Limits) -> Asker {
    asker_of(text, limits, 0x1234_5678_9abc_def0)
}

/// An asker that listens to all clusters.
pub(super) fn asker_of(text: &str, limits: Limits, random: u64) -> Asker {
    let mut asker = Asker::new(secrets(text), limits, random);
    asker.listen_to((0..3).map(|n| (CLUSTERS[n].into(), vec![cidr(n)])).collect());
    asker
}

/// Polls, hands questions to receivers and their answers back, until nothing is left to do at `now`.
pub(super) fn exchange(asker: &mut Asker, receivers: &Receivers, now: Duration) -> Vec<Output> {
    let mut found = Vec::new();
    loop {
        let outputs = asker.poll(now);
        if outputs.is_empty() {
            return found;
        }
        for output in outputs {
            let Output::Send { to, message } = &output else {
                found.push(output);
                continue;
            };
            if let Some(answer) = receivers.answer(*to, message) {
                asker.received(&answer, *to, now);
            }
        }
    }
}

/// Steps of a millisecond. All nodes announce every five seconds.
pub(super) fn run(asker: &mut Asker, receivers: &Receivers, from: u64, to: u64) -> Vec<(u64, Output)> {
    let mut found = Vec::new();
    for at in from..to {
        if at % 5000 == 0 {
            announce(asker, receivers, at);
        }
        found.extend(exchange(asker, receivers, ms(at)).into_iter().map(|output| (at, output)));
    }
    found
}

/// All nodes announce that they hold nothing that a gateway needs to know of, counted just now.
pub(super) fn announce(asker: &mut Asker, receivers: &Receivers, at: u64) {
    for cluster in CLUSTERS {
        for name in ["n0", "n1"] {
            let counted = Counted { turn: 1 + at, whole: true, ..Counted::default() };
            let keys = receivers.secrets.keys(cluster);
            for message in announcements(&node(cluster, name), &counted, &keys, &mut 0) {
                asker.received(&message, Address::default(), ms(at));
            }
        }
    }
}

const CLUSTERS: [&str; 3] = ["c0", "c1", "c2"];

pub(super) fn node(cluster: &str, name: &str) -> NodeId {
    (Arc::from(cluster), Arc::from(name))
}
