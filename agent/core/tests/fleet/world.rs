//! What is true, whoever knows it: endpoints, connections, and what happens to them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use fairlead_core::model::{Declarations, ShardSpec};

use crate::gateway::Gateway;
use crate::random::Random;
use crate::told::{declarations, endpoint, hash, spec};

/// Seconds of a run.
const SECONDS: u64 = 120;
/// New connections in a second.
const NEW: u64 = 80;
/// Of a hundred connections, how many end in a second.
const END: u64 = 3;
/// Of a hundred asks, counts and their answers, how many are lost.
const LOSS: u64 = 5;
/// Of a hundred updates, how many a gateway misses until the next second.
const LATE: u64 = 50;
/// After so long without an answer a client gives up.
const PATIENCE: u64 = 15_000;
/// From one look at what is to be sent to the next.
const TICK: u64 = 200;
/// Each connection of so many is one of QUIC.
const QUIC: u64 = 8;

/// What came of a run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) connections: u64,
    pub(crate) quic: u64,
    pub(crate) died: u64,
    pub(crate) broken: u64,
    pub(crate) packets: u64,
    pub(crate) bounces: u64,
    pub(crate) looked: u64,
    pub(crate) asks: u64,
    pub(crate) put_off: u64,
    pub(crate) longest: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) in_slices: bool,
    pub(crate) ready: bool,
    /// Its process, or its whole node, ended then.
    pub(crate) killed: Option<u64>,
    /// Nobody answers for it.
    pub(crate) node_dead: bool,
    pub(crate) added: u64,
    pub(crate) left: u64,
    pub(crate) flows: BTreeSet<u64>,
    /// Those of its flows that are of QUIC.
    pub(crate) quic: u64,
}

impl Pod {
    pub(crate) fn is_alive(&self) -> bool {
        self.killed.is_none()
    }

    /// Whether its receiver tells all gateways of it: it has left, or is so young that some may not have heard of it.
    fn is_announced(&self, ms: u64) -> bool {
        !self.node_dead && (!self.in_slices || ms < self.added + 30_000)
    }
}

pub(crate) struct Connection {
    hash: u32,
    owner: IpAddr,
    /// Its packets name their endpoint.
    quic: bool,
    next: u64,
    wait: u64,
    /// Since when nothing has been answered.
    unanswered: Option<u64>,
}

pub(crate) struct World {
    pub(crate) random: Random,
    pub(crate) ms: u64,
    pub(crate) declared: Arc<Declarations>,
    pub(crate) pods: BTreeMap<IpAddr, Pod>,
    pub(crate) spec: Arc<ShardSpec>,
    pub(crate) gateways: BTreeMap<u32, Gateway>,
    pub(crate) joined: u32,
    pub(crate) connections: BTreeMap<u64, Connection>,
    pub(crate) out: Outcome,
}

/// What a receiver does with a packet.
enum Answer {
    Takes,
    Bounces,
    /// Nobody is there.
    None,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut world = Self {
            random: Random::new(seed),
            ms: 0,
            declared: Arc::new(declarations()),
            pods: BTreeMap::new(),
            spec: Arc::default(),
            gateways: BTreeMap::new(),
            joined: 0,
            connections: BTreeMap::new(),
            out: Outcome::default(),
        };
        (0..8).for_each(|_| world.add());
        world.publish();
        (0..3).for_each(|_| world.join());
        world
    }

    pub(crate) fn run(mut self) -> Outcome {
        for second in 1..=SECONDS {
            self.ms = second * 1_000;
            if second.is_multiple_of(2) {
                self.something_happens();
            }
            self.publish();
            self.gateways_follow();
            self.clients_come_and_go();
            for tick in 0..1_000 / TICK {
                self.ms = second * 1_000 + tick * TICK;
                self.clients_send();
            }
        }
        self.out
    }

    /// What the API server says now.
    fn publish(&mut self) {
        let ms = self.ms;
        for pod in self.pods.values_mut() {
            if pod.node_dead && pod.killed.is_some_and(|then| ms >= then + 10_000) {
                pod.in_slices = false;
            }
        }
        let listed = self.pods.iter().filter(|(_, pod)| pod.in_slices);
        let endpoints = Arc::new(listed.map(|(&outer, pod)| endpoint(outer, pod.ready)).collect());
        if self.spec.endpoints != endpoints {
            self.spec = Arc::new(ShardSpec { endpoints, ..spec() });
        }
    }

    fn gateways_follow(&mut self) {
        let ms = self.ms;
        let dead_for =
            |pod: &Pod, long: u64| pod.node_dead && pod.killed.is_some_and(|then| ms >= then + long);
        let which = |long: u64| -> BTreeSet<IpAddr> {
            self.pods.iter().filter(|(_, pod)| dead_for(pod, long)).map(|(&outer, _)| outer).collect()
        };
        let (silent, failing) = (Arc::new(which(1_000)), which(3_000));
        for gateway in self.gateways.values_mut() {
            if !self.random.percent(LATE) {
                gateway.see(&self.spec);
            }
            gateway.silent = Arc::clone(&silent);
            gateway.probe(&failing);
            for (&outer, pod) in self.pods.iter().filter(|(_, pod)| pod.is_announced(ms)) {
                if !self.random.percent(LOSS) {
                    gateway.hear(outer, (pod.flows.len() as u64 - pod.quic, pod.quic), ms);
                }
            }
            gateway.turn(ms);
        }
    }

    fn clients_come_and_go(&mut self) {
        let ended: Vec<u64> = self.connections.keys().copied().filter(|_| self.random.percent(END)).collect();
        ended.into_iter().for_each(|flow| self.end(flow));
        for _ in 0..NEW {
            self.connect();
        }
    }

    fn end(&mut self, flow: u64) {
        let Some(connection) = self.connections.remove(&flow) else { return };
        let pod = self.pods.get_mut(&connection.owner).expect("it was there");
        pod.quic -= u64::from(connection.quic && pod.flows.contains(&flow));
        pod.flows.remove(&flow);
    }

    /// A client opens a connection; where nobody takes it, it tries another time.
    fn connect(&mut self) {
        let flow = self.out.connections;
        let (hash, ms, quic) = (hash(flow), self.ms, flow.is_multiple_of(QUIC));
        let gateway = self.gateway_of(flow);
        let owner = if quic { gateway.quic_current(hash) } else { gateway.current(flow, hash) };
        let Some(owner) = owner else { return };
        let pod = self.pods.get_mut(&owner).expect("gateways name only pods");
        // Its node's agent knows that it has left.
        if !pod.is_alive() || (!pod.in_slices && ms >= pod.left + 500) {
            return;
        }
        pod.flows.insert(flow);
        pod.quic += u64::from(quic);
        self.out.connections += 1;
        self.out.quic += u64::from(quic);
        let next = ms + self.random.below(1_000);
        self.connections.insert(flow, Connection { hash, owner, quic, next, wait: TICK, unanswered: None });
    }

    /// As the worst of routers does it: modulo how many there are.
    fn gateway_of(&mut self, flow: u64) -> &mut Gateway {
        let at = (hash(flow) >> 3) as usize % self.gateways.len();
        self.gateways.values_mut().nth(at).expect("fewer than there are")
    }

    fn clients_send(&mut self) {
        let ms = self.ms;
        let due = self.connections.iter().filter(|(_, connection)| connection.next <= ms);
        for flow in due.map(|(&flow, _)| flow).collect::<Vec<_>>() {
            let answered = self.send(flow);
            let idle = self.random.below(3_000);
            let Some(connection) = self.connections.get_mut(&flow) else { continue };
            if answered {
                (connection.unanswered, connection.wait, connection.next) = (None, TICK, ms + idle);
                continue;
            }
            let since = *connection.unanswered.get_or_insert(ms);
            (connection.next, connection.wait) = (ms + connection.wait, (connection.wait * 2).min(3_200));
            self.out.longest = self.out.longest.max(ms - since);
            if ms - since > PATIENCE {
                self.out.broken += 1;
                self.end(flow);
            }
        }
    }

    /// Sends a packet of a connection; whether it is answered.
    fn send(&mut self, flow: u64) -> bool {
        let (hash, owner, ms) = {
            let connection = &self.connections[&flow];
            if connection.quic {
                return self.send_by_name(flow);
            }
            (connection.hash, connection.owner, self.ms)
        };
        let (way, guessed, looked) = self.gateway_of(flow).way(flow, hash);
        self.out.packets += 1;
        self.out.looked += u64::from(looked);
        for (number, &outer) in way.iter().enumerate() {
            match self.deliver(outer, owner) {
                Answer::None => return false,
                Answer::Takes => {
                    if number > 0 {
                        self.gateway_of(flow).claim(flow, hash, outer, false);
                    }
                    return true;
                }
                Answer::Bounces => self.out.bounces += 1,
            }
            if guessed && number == 0 {
                self.gateway_of(flow).forget(flow);
            }
        }
        if self.gateway_of(flow).is_nobodys(flow, ms) {
            // The current backend answers RST to what it doesn't know.
            self.out.broken += 1;
            self.end(flow);
            return false;
        }
        self.ask(flow, hash, owner);
        false
    }

    /// Sends a packet of QUIC; whether it is answered. Other endpoints say nothing to it.
    fn send_by_name(&mut self, flow: u64) -> bool {
        let owner = self.connections[&flow].owner;
        // The client moves: another gateway gets it each time, in another flow.
        let here = self.random.below(1 << 32);
        let gateway = self.gateway_of(here);
        let server = gateway.quic_server(owner);
        let to = server.or_else(|| gateway.quic_current(hash(here)));
        self.out.packets += 1;
        assert!(server.is_none_or(|server| server == owner), "{owner}'s ID names {server:?}");
        to.is_some_and(|to| matches!(self.deliver(to, owner), Answer::Takes))
    }

    fn deliver(&self, outer: IpAddr, owner: IpAddr) -> Answer {
        if self.pods[&outer].node_dead {
            Answer::None
        } else if outer == owner {
            Answer::Takes
        } else {
            Answer::Bounces
        }
    }

    /// Asks everyone that the gateway knows of whose a flow is.
    fn ask(&mut self, flow: u64, hash: u32, owner: IpAddr) {
        if !self.gateway_of(flow).may_ask() {
            self.out.put_off += 1;
            return;
        }
        self.out.asks += 1;
        let table = self.gateway_of(flow).table.clone().expect("it has taken a turn");
        let lost: Vec<bool> = table.backends.iter().map(|_| self.random.percent(LOSS)).collect();
        let silent = table.backends.iter().any(|backend| self.pods[&backend.outer].node_dead);
        let known = self.gateway_of(flow).knows(owner);
        let answers = table.backends.iter().zip(&lost).any(|(backend, lost)| backend.outer == owner && !lost);
        let ms = self.ms;
        let gateway = self.gateway_of(flow);
        if answers {
            gateway.learn(flow, hash, owner, ms);
        } else if !known && !silent && !lost.contains(&true) {
            gateway.nobody_claims(flow, ms);
        }
    }
}
