//! What the agent consists of, and how it comes up.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use fairlead_abi::{Encap, Roles, ServiceKey, Settings};
use fairlead_core::{
    asks::Counters,
    model::{Declarations, Demand, Health, Model},
    planner::{Installed, Links, Planned, Planner, WantedBackend},
};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::{
    Error, Options, capacities, demand::Sampler, interfaces::Interface, problems::Told,
    remembered::Remembered, settings, turn::Failure,
};
use crate::{
    asks::{self, Finding, Heard, Opened, OwnCount, OwnList, Served},
    config::{self, Config, ConfigWatch, types::Role},
    dataplane::{
        Bounces, Dataplane, FlowCache, Instance, Lock, Sweep, follow_namespaces, routes, socket_offsets,
    },
    federation::{Federation, LastGood},
    fragments,
    health::{self, Deriver, ProbeTable, Prober, Targets},
    status::{self, Status},
};

/// Findings about flows that wait to be carried out at most; more wait at their source.
const FINDINGS: usize = 4096;

/// Every stage, and the snapshots between them.
pub(super) struct Stages {
    pub(super) config: Arc<Config>,
    pub(super) config_watch: ConfigWatch,
    pub(super) refused: Vec<String>,
    pub(super) declared: Arc<Declarations>,
    pub(super) federation: Federation,
    pub(super) probes_counted: Arc<health::Counters>,
    pub(super) deriver: Deriver,
    pub(super) health: watch::Receiver<Arc<Health>>,
    pub(super) targets: watch::Sender<Arc<Targets>>,
    pub(super) links: watch::Receiver<Arc<Links>>,
    pub(super) outers: watch::Sender<Arc<BTreeSet<IpAddr>>>,
    /// Outer addresses of this node's own endpoints.
    pub(super) endpoints: watch::Sender<Arc<BTreeSet<IpAddr>>>,
    /// Those of which it is known which namespace they are in, as far as that can be; closed where nobody looks.
    pub(super) placed: watch::Receiver<Arc<BTreeSet<IpAddr>>>,
    /// Why their sockets are not looked up, if they aren't.
    pub(super) blind: Option<String>,
    pub(super) sampler: Sampler,
    pub(super) demand: Demand,
    pub(super) planner: Planner,
    pub(super) model: Option<Model>,
    pub(super) planned: Option<Planned>,
    pub(super) installed: Installed,
    pub(super) dataplane: Dataplane,
    /// Locked by the thread that sweeps, while it does.
    pub(super) sweep: Option<Arc<Mutex<Sweep>>>,
    pub(super) interfaces: Vec<Interface>,
    pub(super) failure: Option<Failure>,
    /// Problems that the log has.
    pub(super) told: Told,
    /// There is something of what is planned to serve from.
    pub(super) filled: bool,
    /// What an agent before this one knew.
    pub(super) remembered: Remembered,
    /// What isn't served, for want of room.
    pub(super) unserved: BTreeSet<ServiceKey>,
    /// These programs and tables are those that packets meet.
    pub(super) taken_up: bool,
    /// Not begun while probes would not get anywhere.
    pub(super) probing: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    pub(super) due: Option<Duration>,
    pub(super) status: watch::Sender<Arc<Status>>,
    /// What receivers said.
    pub(super) heard: watch::Receiver<Arc<Heard>>,
    /// Flows that this node's own endpoints hold, from each sweep.
    pub(super) own_count: watch::Receiver<Arc<OwnCount>>,
    /// For the sweep.
    pub(super) tell_own: watch::Sender<Arc<OwnCount>>,
    /// Which of them could hold any, where a sweep takes long.
    pub(super) tell_list: watch::Sender<Arc<OwnList>>,
    /// How fast receivers see connections being opened.
    pub(super) opened: watch::Receiver<Arc<Opened>>,
    /// What was found out about flows.
    pub(super) findings: mpsc::Receiver<Finding>,
    /// For those who ask.
    pub(super) served: watch::Sender<Arc<Served>>,
    /// What they counted.
    pub(super) counted: watch::Receiver<Counters>,
    /// Fragments that came too early.
    pub(super) fragments: watch::Receiver<fairlead_core::fragments::Counters>,
    /// A gateway's.
    pub(super) cache: Option<FlowCache>,
    /// A gateway's.
    pub(super) bounces: Option<Bounces>,
    pub(super) started: Instant,
    _lock: Lock,
}

impl Stages {
    /// Brings all stages up; nothing is attached or changed in the kernel's tables yet.
    pub(super) fn start(
        options: &Options,
        config: &Arc<Config>,
        (instance, lock): (Instance, Lock),
        status: watch::Sender<Arc<Status>>,
    ) -> Result<Self, Error> {
        let started = Instant::now();
        let last_good = LastGood::open(&config.state_directory())?;
        let wanted = capacities(config);
        let capacities = wanted.no_less_than_in_use(&instance)?;
        if capacities != wanted {
            tracing::warn!(
                "capacities in the configuration are smaller than the tables in use, which keep their sizes for as long as \
                 packets are steered by them: `fairlead status` shows these"
            );
        }
        let (settings, mut blind) = with_sockets(settings(config, &capacities));
        let mut dataplane = Dataplane::load(&instance, &options.programs, &settings, &capacities)?;
        blind = blind.or_else(|| dataplane.blind().map(|why| format!("the kernel refuses it: {why}")));
        if dataplane.repeat_log().map_err(super::system("reading what the BPF programs log"))?.is_some() {
            tracing::warn!(
                "these BPF programs log what they drop (fairlead_ebpf=debug): for debugging only, they are slower"
            );
        }
        // By another seed, flows have other slots.
        if status::read_seed(&config.state_directory()) == Some(config.seed.0)
            && let Err(error) = dataplane.copy_tables(capacities.tables)
        {
            tracing::error!(%error, "the tables in use can't be copied: slots don't know whom they named before");
        }
        let installed = Installed::read(&dataplane.observe()?, capacities.tables, None, Duration::ZERO);
        let declared = Arc::new(config::declarations(config));
        let (outers, wanted) = watch::channel(Arc::default());
        let (found, links) = watch::channel(Arc::default());
        tokio::spawn(routes::follow(wanted, found));
        let (targets, to_probe) = watch::channel(Arc::default());
        let remembered = Remembered::read(&config.state_directory());
        let to_hops = links.clone();
        let (results, health) = watch::channel(Arc::new(remembered.health.clone()));
        let prober = prober(config, &mut dataplane, started)?;
        let probes_counted = prober.counters();
        let (served, asked) = watch::channel(Arc::default());
        let (tell, heard) = watch::channel(Arc::default());
        let (tell_own, own_count) = watch::channel(Arc::default());
        let (tell_list, listed) = watch::channel(Arc::default());
        let (find, findings) = mpsc::channel(FINDINGS);
        let (count, counted) = watch::channel(Counters::default());
        let (flows, flows_told) = watch::channel(Arc::default());
        let (tell_opened, opened) = watch::channel(Arc::default());
        let ends = asks::Ends { findings: find, heard: tell, counted: count, flows, opened: tell_opened };
        let counts = (flows_told, own_count.clone());
        tokio::spawn(status::keep_counts(config.state_directory(), counts, started));
        let cache = if config.has(Role::Gateway) { dataplane.take_cache(config.seed.0)? } else { None };
        let bounces = config.has(Role::Gateway).then(|| dataplane.bounces(config.seed.0)).transpose()?;
        if let Some(parts) =
            asks(config, &mut dataplane, (asked, (own_count.clone(), listed), ends), started)?
        {
            let task = asks::Task::new(parts);
            let task = task
                .map_err(super::system("binding the socket for messages of other agents (UDP port 6082)"))?;
            tokio::spawn(task.run());
        }
        let (count_fragments, fragments) = watch::channel(fairlead_core::fragments::Counters::default());
        if let Some(early) = dataplane.take_early_fragments()? {
            tokio::spawn(fragments::hold(early, config.has(Role::Gateway), count_fragments));
        }
        let (endpoints, to_place) = watch::channel(Arc::default());
        let (tell_placed, placed) = watch::channel(Arc::default());
        if config.has(Role::Receiver)
            && blind.is_none()
            && let Some(namespaces) = dataplane.take_namespaces()?
        {
            tokio::spawn(follow_namespaces(to_place, tell_placed, namespaces));
        }
        let sweep = if config.has(Role::Receiver) { dataplane.take_sweep(config.seed.0)? } else { None };
        let mut stages = Self {
            config_watch: ConfigWatch::new(&options.config, Arc::clone(config)),
            refused: Vec::new(),
            federation: Federation::start(config, Some(last_good)),
            probes_counted,
            deriver: Deriver::default(),
            health,
            targets,
            links,
            outers,
            endpoints,
            placed,
            blind,
            sampler: Sampler::new(&declared.tuning, &remembered.demand),
            demand: remembered.demand.clone(),
            heard,
            own_count,
            tell_own,
            tell_list,
            opened,
            findings,
            served,
            counted,
            fragments,
            cache,
            bounces,
            planner: remembered.planner(&declared.tuning, &installed),
            model: None,
            planned: None,
            installed,
            sweep: sweep.map(|sweep| Arc::new(Mutex::new(sweep))),
            dataplane,
            interfaces: config.node.interfaces.iter().map(|name| Interface::new(&name.0)).collect(),
            failure: None,
            told: Told::default(),
            filled: false,
            remembered,
            unserved: BTreeSet::new(),
            taken_up: false,
            probing: Some(Box::pin(prober.run(to_probe, to_hops, results))),
            due: None,
            status,
            started,
            config: Arc::clone(config),
            declared,
            _lock: lock,
        };
        if stages.dataplane.probes_pass() {
            stages.begin_to_probe();
        }
        Ok(stages)
    }

    /// Once; until then, what is remembered of endpoints counts.
    pub(super) fn begin_to_probe(&mut self) {
        self.probing.take().map(tokio::spawn);
    }

    /// Another configuration counts from now on.
    pub(super) fn reconfigure(&mut self, config: &Arc<Config>) {
        tracing::info!("the changed configuration is applied");
        self.refused.clear();
        self.config = Arc::clone(config);
        self.declared = Arc::new(config::declarations(config));
        self.sampler.retune(&self.declared.tuning);
        self.federation.reconfigure(config);
    }

    /// A changed configuration was refused; the one in use stays.
    pub(super) fn refuse(&mut self, problems: &[config::ConfigProblem]) {
        self.refused = problems.iter().map(ToString::to_string).collect();
        self.publish();
    }

    /// Time since the start, as the core counts it.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// When the next turn is due although nothing changes.
    pub(super) fn due(&self) -> Instant {
        let planned = self.planned.as_ref().and_then(|planned| planned.due);
        let due = self.due.into_iter().chain(planned).min();
        self.started + due.unwrap_or(self.now() + Duration::from_secs(3600))
    }

    /// How many gateways share this one's clients.
    pub(super) fn gateways_of_group(&self) -> usize {
        let group = &self.declared.here.group;
        self.declared.gateways.iter().filter(|gateway| gateway.group == *group).count().max(1)
    }

    /// Whether all gateways there are belong to this one's group.
    pub(super) fn is_only_group(&self) -> bool {
        let group = &self.declared.here.group;
        self.declared.gateways.iter().all(|gateway| gateway.group == *group)
    }

    /// The outer destinations of all wanted backends.
    pub(super) fn outers_of(planned: &Planned) -> BTreeSet<IpAddr> {
        Self::outers(planned, |_| true)
    }

    /// Those of the backends that take new connections.
    pub(super) fn taken_outers_of(planned: &Planned) -> BTreeSet<IpAddr> {
        Self::outers(planned, |backend| backend.weight > 0)
    }

    fn outers(planned: &Planned, which: impl Fn(&WantedBackend) -> bool) -> BTreeSet<IpAddr> {
        let backends = planned.tables.services.values().flat_map(|table| &table.backends);
        let remote = backends.filter(|backend| backend.encap != Encap::Local && which(backend));
        remote.map(|backend| backend.outer).collect()
    }
}

/// The settings of a receiver's programs, which look sockets up where this kernel says how, or why it doesn't.
fn with_sockets(settings: Settings) -> (Settings, Option<String>) {
    if settings.roles & Roles::RECEIVER == 0 {
        return (settings, None);
    }
    match socket_offsets() {
        Ok(sockets) => (Settings { sockets, ..settings }, None),
        Err(why) => (settings, Some(why)),
    }
}

/// What this node's own endpoints hold, and which could.
type Own = (watch::Receiver<Arc<OwnCount>>, watch::Receiver<Arc<OwnList>>);

/// What the task needs that asks other agents; nothing without secrets.
fn asks(
    config: &Config,
    dataplane: &mut Dataplane,
    (served, (counted, listed), ends): (watch::Receiver<Arc<Served>>, Own, asks::Ends),
    started: Instant,
) -> Result<Option<asks::Parts>, Error> {
    let Some(file) = &config.secrets_file else {
        tracing::warn!(
            "no secretsFile: connections that no backend of their slot knows are not asked for, and break"
        );
        return Ok(None);
    };
    let secrets = asks::read_secrets(file).map_err(|what| Error::Secrets { what })?;
    let (Some(reports), Some(keys)) = (dataplane.take_reports()?, dataplane.take_keys()?) else {
        return Ok(None);
    };
    let is_both = config.has(Role::Gateway) && config.has(Role::Receiver);
    let ingress = is_both.then(|| dataplane.ingress()).transpose()?;
    let tunnels = |gateway: &config::types::GatewayConfig| {
        gateway.tunnel.iter().map(|prefix| prefix.0).collect::<Vec<_>>()
    };
    let own = if config.has(Role::Gateway) { config.own_gateway().map(tunnels) } else { None };
    Ok(Some(asks::Parts {
        secrets_file: file.clone(),
        secrets,
        limits: settings::limits(config),
        cluster: config.node.cluster.as_ref().map(|name| Arc::clone(&name.0)),
        node: Arc::clone(&config.node.name.0),
        own: own.unwrap_or_default(),
        gateways: config.gateways.iter().flat_map(tunnels).collect(),
        reports,
        keys,
        ingress,
        served,
        counted,
        listed,
        ends,
        started,
    }))
}

fn prober(config: &Config, dataplane: &mut Dataplane, started: Instant) -> Result<Prober, Error> {
    let probes = if config.has(Role::Gateway) { dataplane.take_probes()? } else { None };
    let settings = health::Settings {
        concurrency: config.probes.concurrency,
        per_second: config.probes.per_second,
        interface: config.node.interfaces.first().map(|name| Arc::clone(&name.0)),
        seed: fairlead_abi::Address::from(own_address(config)).words().into_iter().fold(0, u64::wrapping_add),
    };
    let table = probes.map(|probes| Box::new(probes) as Box<dyn ProbeTable>);
    Ok(Prober::new(settings, table, started.into_std())?)
}

/// Something that sets this gateway apart from others.
fn own_address(config: &Config) -> IpAddr {
    let own = config.own_gateway().and_then(|own| own.tunnel.first());
    own.map_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), |prefix| prefix.0.addr())
}
