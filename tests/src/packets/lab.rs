//! Loads the programs on maps filled from [`Tables`], under an instance of its own, and runs them by
//! BPF_PROG_TEST_RUN. Everything is gone when the lab is dropped, also by a panic.

use std::{
    collections::BTreeMap,
    env, process,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, bail};
use aya::{
    Pod, TestRun as _, TestRunOptions,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, ProgramArray, RingBuf, lpm_trie::Key},
    programs::Program,
};
use fairlead::dataplane::{Capacities, Dataplane, Early, Instance, Namespaces, Programs, Sweep};
use fairlead_abi::{
    Address, CacheBucket, CacheTag, Cached, ClientKey, Delivery, DeliveryKey, DropReason, FlowEntry,
    FlowEvent, FlowKey, FragmentEntry, FragmentKey, HeldFlows, ProbeTarget, RecentBucket, Server, ServerKey,
    Settings, SipKey, map, program,
};

use super::{Counts, Tables};

/// Room of the tables that tests fill.
const TABLES: fairlead_core::planner::Capacities = fairlead_core::planner::Capacities {
    buckets: 0,
    slots: 1024,
    backends: 256,
    service_ids: 128,
    hops: 16,
    deliveries: 256,
    gateways: 64,
    source_ranges: 256,
};

/// What a program made of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// XDP's or TC's number.
    pub action: u32,
    /// The packet afterwards.
    pub frame: Vec<u8>,
}

/// The programs, loaded.
pub struct Lab {
    instance: Instance,
    settings: Settings,
    dataplane: Dataplane,
    flows: HashMap<MapData, FlowKey, FlowEntry>,
    half_open: HashMap<MapData, FlowKey, FlowEntry>,
    fragments: HashMap<MapData, FragmentKey, FragmentEntry>,
    early: RingBuf<MapData>,
    out: Vec<u8>,
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = self.instance.remove() {
            eprintln!("pins are left behind: {error}");
        }
    }
}

impl Lab {
    /// With room for thousands of flows.
    pub fn new(settings: &Settings, tables: &Tables) -> Result<Self> {
        Self::with_flows(settings, tables, 8192)
    }

    /// With room for so many established flows.
    pub fn with_flows(settings: &Settings, tables: &Tables, flows: u32) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let instance = Instance::new(&format!("test-{}-{number}", process::id()));
        let buckets = settings.bucket_mask + 1;
        let capacities = Capacities {
            tables: fairlead_core::planner::Capacities { buckets, ..TABLES },
            flows,
            half_open: 16_384,
            probes: 16,
            cache: settings.cache_mask + 1,
            fragments: 4096,
        };
        let recent_mask = settings.recent_mask.min(capacities.recent() - 1);
        let settings = &Settings { recent_mask, ..*settings };
        let mut guard = RemoveOnError(Some(instance.clone()));
        let dataplane = Dataplane::load(&instance, &programs(), settings, &capacities).map_err(with_log)?;
        fill(&instance, tables, settings)?;
        let lab = Self {
            flows: HashMap::try_from(open(&instance, map::FLOWS)?)?,
            half_open: HashMap::try_from(open(&instance, map::HALF_OPEN)?)?,
            fragments: HashMap::try_from(open(&instance, map::FRAGMENTS)?)?,
            early: RingBuf::try_from(open(&instance, map::EARLY)?)?,
            instance,
            settings: *settings,
            dataplane,
            out: vec![0; 16_384],
        };
        guard.0 = None;
        Ok(lab)
    }

    /// Runs the XDP program on a frame that comes in by the loopback interface, number 1.
    pub fn ingress(&mut self, frame: &[u8]) -> Result<Run> {
        self.run(program::INGRESS, frame, None)
    }

    /// Runs the XDP program with `room` bytes less headroom than the usual 256 (as metadata, a multiple of four).
    pub fn ingress_with_less_headroom(&mut self, frame: &[u8], room: u32) -> Result<Run> {
        let data = [&vec![0; room as usize], frame].concat();
        let end = u32::try_from(data.len())?;
        let context: Vec<u8> = [room, end, 0, 0, 0, 0].iter().flat_map(|field| field.to_ne_bytes()).collect();
        self.run(program::INGRESS, &data, Some(&context))
    }

    /// Runs the TCX program on a frame of a socket with `mark`.
    pub fn egress(&mut self, frame: &[u8], mark: u32) -> Result<Run> {
        let context: Vec<u8> = [0, 0, mark].iter().flat_map(|field: &u32| field.to_ne_bytes()).collect();
        self.run(program::EGRESS, frame, (mark != 0).then_some(&context[..]))
    }

    fn run(&mut self, name: &str, frame: &[u8], context: Option<&[u8]>) -> Result<Run> {
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut self.out),
            ctx_in: context,
            ..TestRunOptions::default()
        };
        let result = match self.dataplane.program_mut(name) {
            Some(Program::Xdp(program)) => program.test_run(options),
            Some(Program::SchedClassifier(program)) => program.test_run(options),
            _ => bail!("there is no program {name}"),
        };
        let result = result.with_context(|| format!("{name} on {} bytes", frame.len()))?;
        let length = result.data_size_out as usize;
        Ok(Run { action: result.return_value, frame: self.out[..length].to_vec() })
    }

    /// Has no program that what isn't the rule could go on in: it is dropped as inconsistent.
    pub fn take_slow_path_away(&mut self) -> Result<()> {
        let mut programs = ProgramArray::try_from(self.dataplane.map_mut(map::PROGRAMS)?)?;
        Ok(programs.clear_index(&program::SLOW_INDEX)?)
    }

    /// Gives the programs a key of messages.
    pub fn set_key(&self, number: u32, key: &SipKey) -> Result<()> {
        let mut keys = HashMap::<_, u32, SipKey>::try_from(open(&self.instance, map::KEYS)?)?;
        Ok(keys.insert(number, key, 0)?)
    }

    /// Says which namespace an endpoint is in, by its number in this thread's.
    pub fn set_namespace(&self, outer: &Address, number: u32) -> Result<()> {
        let mut table = HashMap::<_, Address, u32>::try_from(open(&self.instance, map::NAMESPACES)?)?;
        Ok(table.insert(outer, number, 0)?)
    }

    /// Which namespaces endpoints are in.
    pub fn namespaces(&self) -> Result<BTreeMap<Address, u32>> {
        let table = HashMap::<_, Address, u32>::try_from(open(&self.instance, map::NAMESPACES)?)?;
        Ok(table.iter().collect::<Result<_, MapError>>()?)
    }

    /// What the agent would keep them by.
    pub fn take_namespaces(&mut self) -> Result<Namespaces> {
        self.dataplane.take_namespaces()?.context("they were taken before")
    }

    /// Why the kernel refused programs that look sockets up.
    #[must_use]
    pub fn blind(&self) -> Option<&str> {
        self.dataplane.blind()
    }

    /// Says how many flows a delivery has.
    pub fn set_held(&self, about: &DeliveryKey, held: &HeldFlows) -> Result<()> {
        let mut table = HashMap::<_, DeliveryKey, HeldFlows>::try_from(open(&self.instance, map::HELD)?)?;
        Ok(table.insert(about, held, 0)?)
    }

    /// Says that flows may be missing from now on.
    pub fn lose_flows(&mut self) -> Result<()> {
        let until = self.ticks()?.wrapping_add(1_000_000);
        self.set_lost(until)
    }

    /// Says that no flows are missing any more.
    pub fn find_flows(&self) -> Result<()> {
        self.set_lost(0)
    }

    fn set_lost(&self, until: u32) -> Result<()> {
        let mut lost = Array::<_, u64>::try_from(open(&self.instance, map::LOST)?)?;
        Ok(lost.set(0, u64::from(until), 0)?)
    }

    /// The clock that flows are stamped by.
    pub fn ticks(&mut self) -> Result<u32> {
        Ok(self.dataplane.ticks()?)
    }

    /// What the agent takes flows out with; what endpoints said before is forgotten.
    pub fn take_sweep(&mut self) -> Result<Sweep> {
        self.dataplane.take_sweep(self.settings.seed)?.context("it was not taken before")
    }

    /// Fills the flow cache anew.
    pub fn fill_cache(&self, tables: &Tables) -> Result<()> {
        fill_cache(&self.instance, tables, &self.settings)
    }

    /// All counters, as they stand.
    pub fn counts(&self) -> Result<Counts> {
        let reader = self.dataplane.counters()?;
        let mut counts = Counts::default();
        for reason in DropReason::ALL {
            counts.drops.insert(*reason, reader.drops(*reason)?);
        }
        for event in FlowEvent::ALL {
            counts.events.insert(*event, reader.events(*event)?);
        }
        for id in 0..TABLES.service_ids {
            counts.services.insert(id, reader.service(id)?);
        }
        for index in 0..TABLES.backends {
            counts.backends.insert(index, reader.backend(index)?);
        }
        Ok(counts.without_zeroes())
    }

    /// The table of established flows.
    pub fn flows(&self) -> Result<BTreeMap<FlowKey, FlowEntry>> {
        Ok(self.flows.iter().collect::<Result<_, MapError>>()?)
    }

    /// The table of half-open flows.
    pub fn half_open(&self) -> Result<BTreeMap<FlowKey, FlowEntry>> {
        Ok(self.half_open.iter().collect::<Result<_, MapError>>()?)
    }

    /// A packet of this client came back so often until it was claimed.
    pub fn give_back(&mut self, client: &Address, bounces: u32) -> Result<()> {
        Ok(self.dataplane.bounces(self.settings.seed)?.give_back(client, bounces)?)
    }

    /// Notes an established flow, or makes it old; of what endpoints said, nothing else is remembered.
    pub fn set_flow(&mut self, key: &FlowKey, entry: &FlowEntry) -> Result<()> {
        self.flows.insert(key, entry, 0)?;
        self.clear_recent()
    }

    /// Takes a flow out of the table; what its endpoint said lately stays where that is.
    pub fn remove_flow(&mut self, key: &FlowKey) -> Result<()> {
        Ok(self.flows.remove(key)?)
    }

    fn clear_recent(&self) -> Result<()> {
        let mut recent = Array::<_, RecentBucket>::try_from(open(&self.instance, map::RECENT)?)?;
        (0..=self.settings.recent_mask)
            .try_for_each(|index| Ok(recent.set(index, RecentBucket::default(), 0)?))
    }

    /// What became of datagrams' first fragments.
    pub fn fragments(&self) -> Result<BTreeMap<FragmentKey, FragmentEntry>> {
        Ok(self.fragments.iter().collect::<Result<_, MapError>>()?)
    }

    /// Notes what became of a first fragment, or makes it old.
    pub fn set_fragment(&mut self, key: &FragmentKey, entry: &FragmentEntry) -> Result<()> {
        Ok(self.fragments.insert(key, entry, 0)?)
    }

    /// The fragments that the agent would have got since.
    pub fn early(&mut self) -> Vec<Early> {
        let mut early = Vec::new();
        while let Some(record) = self.early.next() {
            early.extend(Early::read(&record));
        }
        early
    }

    /// Forgets all flows and fragments.
    pub fn clear_flows(&mut self) -> Result<()> {
        for key in self.flows()?.into_keys() {
            self.flows.remove(&key)?;
        }
        for key in self.half_open()?.into_keys() {
            self.half_open.remove(&key)?;
        }
        for key in self.fragments()?.into_keys() {
            self.fragments.remove(&key)?;
        }
        self.clear_recent()
    }
}

/// The environment's `FAIRLEAD_BPF` names an ELF to test instead of what the agent embeds: one that was spoilt on
/// purpose, to see the tests fail.
fn programs() -> Programs {
    env::var_os("FAIRLEAD_BPF").map_or(Programs::Embedded, |path| Programs::File(path.into()))
}

/// Removes the pins of an instance that could not be set up.
struct RemoveOnError(Option<Instance>);

impl Drop for RemoveOnError {
    fn drop(&mut self) {
        if let Some(instance) = self.0.take() {
            let _ = instance.remove();
        }
    }
}

/// The verifier's log is long, and what it is about stands at its end.
fn with_log(error: fairlead::dataplane::Error) -> anyhow::Error {
    let text = format!("{:#}", anyhow::Error::from(error));
    let end: String = text.chars().rev().take(4000).collect::<Vec<_>>().into_iter().rev().collect();
    anyhow::anyhow!("{end}")
}

fn open(instance: &Instance, name: &str) -> Result<Map> {
    let data = MapData::from_pin(instance.maps().join(name)).with_context(|| format!("map {name}"))?;
    Ok(Map::from_map_data(data)?)
}

/// Writes `tables` into the maps of an instance.
fn fill(instance: &Instance, tables: &Tables, settings: &Settings) -> Result<()> {
    let slots = tables.services.iter().flat_map(|service| service.slots.iter().copied());
    let backends = tables.services.iter().flat_map(|service| service.backends.iter().copied());
    write_array(instance, map::HOPS, 1, tables.hops.iter().copied())?;
    write_array(instance, map::BACKENDS, 1, backends)?;
    write_array(instance, map::SLOTS, 0, slots)?;
    write_array(instance, map::SERVICES, 0, tables.buckets(settings.bucket_mask).into_iter())?;
    fill_cache(instance, tables, settings)?;
    let mut servers = HashMap::<_, ServerKey, Server>::try_from(open(instance, map::SERVER_IDS)?)?;
    for (key, server) in tables.servers() {
        servers.insert(key, server, 0)?;
    }
    let mut allowed = LpmTrie::<_, ClientKey, u32>::try_from(open(instance, map::ALLOWED)?)?;
    for (key, range) in &tables.allowed {
        let length = 32 + if range.addr().is_ipv4() { 96 } else { 0 } + u32::from(range.prefix_len());
        let client = Address::from(range.network()).bytes;
        allowed.insert(&Key::new(length, ClientKey { service: tables.service(key).id, client }), 1, 0)?;
    }
    let mut deliveries = HashMap::<_, DeliveryKey, Delivery>::try_from(open(instance, map::DELIVERIES)?)?;
    for (key, delivery) in &tables.deliveries {
        deliveries.insert(key, delivery, 0)?;
    }
    let mut probes = HashMap::<_, u32, ProbeTarget>::try_from(open(instance, map::PROBES)?)?;
    for (number, target) in &tables.probes {
        probes.insert(number, target, 0)?;
    }
    let mut gateways = LpmTrie::<_, [u8; 16], u32>::try_from(open(instance, map::GATEWAYS)?)?;
    for prefix in &tables.gateways {
        let mapped = if prefix.addr().is_ipv4() { 96 } else { 0 };
        let length = mapped + u32::from(prefix.prefix_len());
        gateways.insert(&Key::new(length, Address::from(prefix.network()).bytes), 1, 0)?;
    }
    Ok(())
}

/// What the agent of a gateway would have learned.
fn fill_cache(instance: &Instance, tables: &Tables, settings: &Settings) -> Result<()> {
    let mut buckets = vec![CacheBucket::default(); settings.cache_mask as usize + 1];
    for (key, flow, backend) in &tables.cache {
        let tag = CacheTag::new(settings.seed, tables.service(key).id, flow);
        let bucket = &mut buckets[tag.bucket(settings.cache_mask) as usize];
        let free = bucket.entries.iter_mut().find(|entry| **entry == 0).context("no room in the cache")?;
        *free = tag.entry(*backend);
    }
    write_array(instance, map::CACHE, 0, buckets.into_iter())?;
    let mut cached = vec![Cached::default(); Cached::elements(TABLES.slots) as usize];
    for slot in tables.cached_slots(settings.seed) {
        cached[slot as usize / Cached::SLOTS].slots[slot as usize % Cached::SLOTS] = 1;
    }
    write_array(instance, map::CACHED, 0, cached.into_iter())
}

fn write_array<T: Pod>(
    instance: &Instance,
    name: &str,
    first: u32,
    values: impl Iterator<Item = T>,
) -> Result<()> {
    let mut array = Array::try_from(open(instance, name)?)?;
    for (index, value) in (first..).zip(values) {
        array.set(index, value, 0).with_context(|| format!("map {name}, index {index}"))?;
    }
    Ok(())
}
