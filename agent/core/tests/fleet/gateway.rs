//! One gateway: its agent (the real planner and mirror), its tables, and the cache of flows that it was told of.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use fairlead_abi::{ServiceKey, slot_of};
use fairlead_core::model::{
    Declarations, Demand, Health, Held, Holding, Model, Protocol, ServerId, ShardSpec, merge,
};
use fairlead_core::planner::{Inputs, Installed, Links, Planner, ServiceTable, diff, learn};

use crate::kernel::{CAPACITIES, Kernel, Named};
use crate::told::{CLUSTER, hash, shards};

/// Flows that a cache holds.
const CACHE: usize = 256;
/// For how long nobody must claim a flow before that is believed: this gateway may not know everyone yet.
const NOBODYS: u64 = 10_000;
/// Asks that a gateway may send in a second.
const ASKS: u32 = 200;

pub(crate) struct Gateway {
    declared: Arc<Declarations>,
    planner: Planner,
    installed: Installed,
    pub(crate) kernel: Kernel,
    model: Option<Model>,
    pub(crate) table: Option<Arc<ServiceTable>>,
    /// The table of QUIC.
    quic: Option<Arc<ServiceTable>>,
    /// What it has seen last of the API server.
    spec: Arc<ShardSpec>,
    /// What its probes say.
    pub(crate) health: Health,
    /// Whom its probes wrongly find dead.
    pub(crate) blind: Option<IpAddr>,
    pub(crate) held: Held,
    pub(crate) silent: Arc<BTreeSet<IpAddr>>,
    cache: HashMap<u64, IpAddr>,
    /// The cached ones, oldest first.
    order: VecDeque<u64>,
    /// Flows that everyone says not to know: since when, and when it was said last.
    nobody: HashMap<u64, (u64, u64)>,
    /// Slots that the cache may hold something for.
    marked: Vec<bool>,
    asks: u32,
}

impl Gateway {
    /// With empty tables, and knowing nothing of what was before.
    pub(crate) fn join(declared: &Arc<Declarations>, spec: &Arc<ShardSpec>) -> Self {
        Self {
            declared: Arc::clone(declared),
            planner: Planner::new(),
            installed: Installed::empty(CAPACITIES),
            kernel: Kernel::new(),
            model: None,
            table: None,
            quic: None,
            spec: Arc::clone(spec),
            health: Health::default(),
            blind: None,
            held: Held::default(),
            silent: Arc::default(),
            cache: HashMap::new(),
            order: VecDeque::new(),
            nobody: HashMap::new(),
            marked: Vec::new(),
            asks: ASKS,
        }
    }

    /// Another agent takes over the tables; what the one before knew is lost.
    pub(crate) fn restart(&mut self, ms: u64) {
        let now = Duration::from_millis(ms);
        self.installed = Installed::read(&self.kernel.raw(), CAPACITIES, None, now);
        self.planner = Planner::new();
        self.planner.inherit(&self.installed, now);
        (self.model, self.held) = (None, Held::default());
    }

    pub(crate) fn see(&mut self, spec: &Arc<ShardSpec>) {
        self.spec = Arc::clone(spec);
    }

    /// A turn of its agent.
    pub(crate) fn turn(&mut self, ms: u64) {
        let now = Duration::from_millis(ms);
        let model = merge(&self.declared, &shards(&self.spec), &self.health, self.model.as_ref());
        let inputs = Inputs {
            model: &model,
            health: &self.health,
            demand: &Demand::default(),
            links: &Arc::new(Links::new()),
            held: &self.held,
            silent: &self.silent,
            now,
        };
        let planned = self.planner.plan(&inputs);
        let plan = diff(&planned.tables, &self.installed, &self.kernel.slots, now).expect("there is room");
        for action in &plan.actions {
            self.kernel.apply(action);
            self.installed.apply(action, now);
        }
        self.installed.settle(&plan);
        let of = |protocol| {
            planned.tables.services.values().find(|table| table.protocol == Some(protocol)).map(Arc::clone)
        };
        (self.table, self.quic) = (of(Protocol::Tcp), of(Protocol::Udp));
        self.model = Some(model);
        self.asks = ASKS;
        self.mark_all();
    }

    pub(crate) fn key(&self) -> ServiceKey {
        self.table.as_ref().expect("it has taken a turn").key()
    }

    /// Whether it knows that an endpoint exists.
    pub(crate) fn knows(&self, outer: IpAddr) -> bool {
        self.table.iter().flat_map(|table| &table.backends).any(|backend| backend.outer == outer)
    }

    /// A receiver says what one of its endpoints holds.
    pub(crate) fn hear(&mut self, outer: IpAddr, (flows, quic): (u64, u64), ms: u64) {
        let at = Duration::from_millis(ms);
        for (key, flows) in [(self.key(), flows), (self.quic_key(), quic)] {
            self.held.reports.insert((key, outer), Holding { flows, at });
            self.held.announced.insert((key, outer), at);
        }
    }

    fn quic_key(&self) -> ServiceKey {
        self.quic.as_ref().expect("it has taken a turn").key()
    }

    /// Where a packet of QUIC goes that begins a connection, or names nobody known here: by its flow.
    pub(crate) fn quic_current(&self, hash: u32) -> Option<IpAddr> {
        let entry = self.kernel.lookup(&self.quic_key())?;
        self.kernel.named(entry, hash)[0].map(|named| named.outer)
    }

    /// Where a packet goes whose connection ID names this endpoint.
    pub(crate) fn quic_server(&self, owner: IpAddr) -> Option<IpAddr> {
        self.kernel.server(self.kernel.lookup(&self.quic_key())?, ServerId::of(owner))
    }

    /// Where a SYN goes.
    pub(crate) fn current(&mut self, flow: u64, hash: u32) -> Option<IpAddr> {
        self.forget(flow);
        let entry = self.kernel.lookup(&self.key())?;
        self.kernel.named(entry, hash)[0].map(|named| named.outer)
    }

    /// Where any other packet goes, one after the other; whether the first is a guess from the cache, and whether the cache was
    /// looked at.
    pub(crate) fn way(&self, flow: u64, hash: u32) -> (Vec<IpAddr>, bool, bool) {
        let Some(entry) = self.kernel.lookup(&self.key()) else { return (Vec::new(), false, false) };
        let looked = self.marked.get(slot_of(hash, entry.ring.size) as usize).copied().unwrap_or(false);
        let guess = self.cache.get(&flow).copied().filter(|_| looked);
        let answers = |named: &Named| !named.silent;
        let named =
            self.kernel.named(entry, hash).into_iter().flatten().filter(answers).map(|named| named.outer);
        let guess_answers = guess.filter(|outer| !self.silent.contains(outer));
        let mut way: Vec<IpAddr> = guess_answers.into_iter().chain(named).collect();
        // The one that has just refused it is passed over.
        way.dedup();
        (way, guess_answers.is_some(), looked)
    }

    /// A receiver says that a flow is its own.
    pub(crate) fn claim(&mut self, flow: u64, hash: u32, outer: IpAddr, asked: bool) {
        self.nobody.remove(&flow);
        if self.cache.len() >= CACHE && !self.cache.contains_key(&flow) {
            if !asked {
                return;
            }
            let oldest = self.order.pop_front().expect("the cache is full");
            self.cache.remove(&oldest);
        }
        if self.cache.insert(flow, outer).is_none() {
            self.order.push_back(flow);
        }
        let size = self.kernel.lookup(&self.key()).map_or(0, |entry| entry.ring.size);
        if let Some(marked) = self.marked.get_mut(slot_of(hash, size) as usize) {
            *marked = true;
        }
    }

    /// What was learned by asking: the flow is cached, and its slot names the backend from now on.
    pub(crate) fn learn(&mut self, flow: u64, hash: u32, outer: IpAddr, ms: u64) {
        self.claim(flow, hash, outer, true);
        let action = learn(&self.installed, &self.kernel.slots, &self.key(), hash, outer);
        if let Some(action) = action {
            self.kernel.apply(&action);
            self.installed.apply(&action, Duration::from_millis(ms));
        }
    }

    pub(crate) fn forget(&mut self, flow: u64) {
        if self.cache.remove(&flow).is_some() {
            self.order.retain(|cached| *cached != flow);
        }
        self.nobody.remove(&flow);
    }

    /// Whether it may ask yet.
    pub(crate) fn may_ask(&mut self) -> bool {
        let may = self.asks > 0;
        self.asks -= u32::from(may);
        may
    }

    /// Whether everyone has said for long that it is not theirs.
    pub(crate) fn is_nobodys(&self, flow: u64, ms: u64) -> bool {
        self.nobody.get(&flow).is_some_and(|&(since, last)| last - since >= NOBODYS && ms < last + 3_000)
    }

    /// Everyone has said that it is not theirs.
    pub(crate) fn nobody_claims(&mut self, flow: u64, ms: u64) {
        self.nobody.entry(flow).or_insert((ms, ms)).1 = ms;
    }

    /// The bytes beside the slots, of another ring perhaps.
    fn mark_all(&mut self) {
        let size = self.kernel.lookup(&self.key()).map_or(0, |entry| entry.ring.size);
        if self.marked.len() != size as usize {
            self.marked = vec![false; size as usize];
            let hashes: BTreeMap<u64, u32> = self.order.iter().map(|&flow| (flow, hash(flow))).collect();
            for hash in hashes.into_values() {
                self.marked[slot_of(hash, size) as usize] = true;
            }
        }
    }

    /// What its probes say, after a while, of an endpoint that is `dead`.
    pub(crate) fn probe(&mut self, dead: &BTreeSet<IpAddr>) {
        use fairlead_core::model::{ObjectName, Probe, ProbeState};
        let mut health = Health::default();
        let bad = Probe { state: ProbeState::Bad, since: Duration::ZERO };
        for &outer in dead.iter().chain(&self.blind) {
            health.set(&ObjectName::new("shop", CLUSTER), outer, &Arc::from("http"), bad);
        }
        self.health = health;
    }
}
