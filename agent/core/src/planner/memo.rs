//! A model into tables, again and again: what didn't change is not made again.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::mem::take;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use fairlead_abi::{Delivery, DeliveryKey, Family, ServiceEntry, ServiceKey};

use super::candidates::Target;
use super::deliveries::deliveries;
use super::history::History;
use super::lingering::{Inherited, Lingering};
use super::service::{Circumstances, Memory, table};
use super::{Installed, Links, ServiceTable, ShardState, Tables};
use crate::model::{
    Declarations, Demand, Health, Held, Model, ObjectName, Service, ServiceHealth, ServicePort, Tuning,
};

/// Everything that tables depend on.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// What is wanted.
    pub model: &'a Model,
    /// What probes see.
    pub health: &'a Health,
    /// What clients ask for.
    pub demand: &'a Demand,
    /// How outer destinations are reached.
    pub links: &'a Arc<Links>,
    /// What receivers say of flows.
    pub held: &'a Held,
    /// Outer destinations whose nodes don't answer.
    pub silent: &'a Arc<BTreeSet<IpAddr>>,
    /// Time since the agent's start.
    pub now: Duration,
}

/// What a [`Planner`] makes of its inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// What the kernel should hold.
    pub tables: Tables,
    /// When to plan again although no input changes: a returning shard's next step, or the end of what lingers.
    pub due: Option<Duration>,
}

/// Plans.
///
/// The tables are a function of the inputs, of which shards have lately come back and of which endpoints have left, nothing
/// else: what it keeps of earlier calls beyond that only saves time.
#[derive(Clone, Debug, Default)]
pub struct Planner {
    declared: Arc<Declarations>,
    services: BTreeMap<ObjectName, Planning>,
    /// Which shards were returning when this planner took over, of services that it has not planned yet.
    resumed: BTreeMap<ObjectName, History>,
    /// What may linger from before, of services that it has not planned yet.
    inherited: Inherited,
    /// The links last given, and what became of them.
    limited: Option<(Arc<Links>, Arc<Links>)>,
}

/// What was made of one service, and from what.
#[derive(Clone, Debug)]
struct Planning {
    service: Arc<Service>,
    health: Option<Arc<ServiceHealth>>,
    demand: u64,
    history: History,
    lingering: Lingering,
    tables: Vec<(ServiceKey, Arc<ServiceTable>)>,
    deliveries: Vec<(DeliveryKey, Delivery)>,
    due: Option<Duration>,
}

impl Planner {
    /// One that has seen nothing: no shard is returning.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Goes on letting in the shards that were returning in `tables`, which another planner made, `age` before `now`, and
    /// knows the endpoints that lingered.
    pub fn resume<'a>(
        &mut self,
        tables: impl IntoIterator<Item = &'a ServiceTable>,
        (age, now): (Duration, Duration),
        tuning: &Tuning,
    ) {
        for table in tables {
            self.inherited.resume(table, now);
            for shard in &table.shards {
                if let ShardState::Returning { step, .. } = shard.state {
                    let history = self.resumed.entry(table.name.clone()).or_default();
                    history.resume((table.key(), &shard.cluster), step, (age, now), tuning);
                }
            }
        }
    }

    /// What the kernel holds lingers as far as it isn't wanted, also where no table tells of it: a lost state directory
    /// breaks no connection.
    pub fn inherit(&mut self, installed: &Installed, now: Duration) {
        self.inherited.read(installed, now);
    }

    /// The tables of `inputs`.
    pub fn plan(&mut self, inputs: &Inputs<'_>) -> Planned {
        let declared = &inputs.model.declared;
        if self.declared != *declared {
            self.declared = Arc::clone(declared);
            self.limited = None;
            self.services.values_mut().for_each(|planning| planning.due = Some(Duration::ZERO));
        }
        self.services.retain(|name, _| inputs.model.services.contains_key(name));
        let mut tables = Tables {
            links: self.limit(inputs.links),
            silent: Arc::clone(inputs.silent),
            udp_unsettled: declared.tuning.udp_unsettled,
            ..Tables::default()
        };
        let mut due = None;
        for (name, service) in &inputs.model.services {
            let planning = self.plan_service(name, service, inputs);
            for (key, table) in &planning.tables {
                insert(&mut tables.services, *key, table);
            }
            tables.deliveries.extend(planning.deliveries.iter().copied());
            due = due.into_iter().chain(planning.due).min();
        }
        if declared.here.receiver {
            tables.gateways = gateways(declared);
        }
        Planned { tables, due }
    }

    /// The links with no route wider than what any tunnel carries: the same `Arc` for the same links.
    fn limit(&mut self, links: &Arc<Links>) -> Arc<Links> {
        if let Some((before, limited)) = &self.limited
            && Arc::ptr_eq(before, links)
        {
            return Arc::clone(limited);
        }
        let most = self.declared.here.tunnel_mtu;
        let mut limited = Arc::clone(links);
        if links.values().any(|route| route.mtu > most) {
            Arc::make_mut(&mut limited).values_mut().for_each(|route| route.mtu = route.mtu.min(most));
        }
        self.limited = Some((Arc::clone(links), Arc::clone(&limited)));
        limited
    }

    fn plan_service(&mut self, name: &ObjectName, service: &Arc<Service>, inputs: &Inputs<'_>) -> &Planning {
        let health = inputs.health.services.get(name);
        let demand = inputs.demand.of(name);
        let before = self.services.get(name);
        let resumed = before.is_none().then(|| self.resumed.remove(name)).flatten();
        let current = before.is_some_and(|planning| {
            planning.service == *service
                && planning.health.as_ref() == health
                && planning.demand == demand
                && planning.due.is_none_or(|due| inputs.now < due)
                && !planning.is_overtaken(inputs)
        });
        if !current {
            let past = match before {
                Some(before) => Past::of(before),
                None => Past::inherited(&mut self.inherited, service, resumed),
            };
            let planning = Planning::new((service, health, demand), inputs, past);
            self.services.insert(name.clone(), planning);
        }
        &self.services[name]
    }
}

/// What was made of a service before, by this planner or by an agent before this one.
struct Past<'a> {
    history: History,
    lingering: Lingering,
    tables: &'a [(ServiceKey, Arc<ServiceTable>)],
    deliveries: Cow<'a, [(DeliveryKey, Delivery)]>,
}

impl<'a> Past<'a> {
    fn of(before: &'a Planning) -> Self {
        Self {
            history: before.history.clone(),
            lingering: before.lingering.clone(),
            tables: &before.tables,
            deliveries: Cow::Borrowed(&before.deliveries),
        }
    }

    fn inherited(inherited: &mut Inherited, service: &Service, resumed: Option<History>) -> Self {
        let (lingering, deliveries) = inherited.take(&keys(service));
        Self {
            history: resumed.unwrap_or_default(),
            lingering,
            tables: &[],
            deliveries: Cow::Owned(deliveries),
        }
    }
}

/// Every port of every VIP.
fn keys(service: &Service) -> BTreeSet<ServiceKey> {
    let at = |vip: IpAddr| {
        let family = Family::of(&vip);
        let key =
            move |port: &ServicePort| ServiceKey::new(vip.into(), port.port, port.protocol.number(), family);
        service.served_at(vip).map(key)
    };
    service.vips.iter().flat_map(at).collect()
}

impl Planning {
    fn new(
        (service, health, demand): (&Arc<Service>, Option<&Arc<ServiceHealth>>, u64),
        inputs: &Inputs<'_>,
        past: Past<'_>,
    ) -> Self {
        let declared = &*inputs.model.declared;
        let circumstances = Circumstances {
            declared,
            health: health.map(|health| &**health),
            demand,
            held: inputs.held,
            now: inputs.now,
        };
        let mut planning = Self {
            service: Arc::clone(service),
            health: health.cloned(),
            demand,
            history: past.history,
            lingering: Lingering::default(),
            tables: Vec::new(),
            deliveries: deliveries(service, declared),
            due: None,
        };
        let mut lingered = past.lingering;
        if declared.here.receiver {
            planning.keep_deliveries(&past.deliveries, &lingered, &circumstances);
        }
        if declared.here.gateway {
            planning.make_tables(&circumstances, past.tables, &mut lingered);
        }
        let end = planning.lingering.due(inputs.held, declared);
        planning.due = planning.due.into_iter().chain(end).min();
        planning
    }

    /// Whether receivers have said what changes who lingers.
    fn is_overtaken(&self, inputs: &Inputs<'_>) -> bool {
        let (held, now, declared) = (inputs.held, inputs.now, &*inputs.model.declared);
        let ends = self.lingering.ends(held, now, declared);
        if ends || held.announced.is_empty() {
            return ends;
        }
        let own = self.own();
        self.tables.iter().any(|(_, table)| Lingering::lacks(table, &own, held, now, declared))
    }

    /// The addresses of this node's own endpoints of the service.
    fn own(&self) -> BTreeSet<IpAddr> {
        self.deliveries.iter().map(|(key, _)| key.outer.into()).collect()
    }

    /// Of what was delivered `before`, that which lingers.
    fn keep_deliveries(
        &mut self,
        before: &[(DeliveryKey, Delivery)],
        lingered: &Lingering,
        circumstances: &Circumstances<'_>,
    ) {
        let present = (&*self.deliveries, &keys(&self.service));
        let lingering = self.lingering.deliveries(before.iter().copied(), lingered, present, circumstances);
        self.deliveries.extend(lingering);
    }

    fn make_tables(
        &mut self,
        circumstances: &Circumstances<'_>,
        before: &[(ServiceKey, Arc<ServiceTable>)],
        lingered: &mut Lingering,
    ) {
        let service = Arc::clone(&self.service);
        let (mut history, mut lingering) = (take(&mut self.history), take(&mut self.lingering));
        let own = self.own();
        let mut memory = Memory { history: &mut history, lingered, lingering: &mut lingering, own: &own };
        memory.history.begin();
        for vip in service.vips.iter() {
            self.keep(vip_table(&service, vip), before);
            for port in service.served_at(vip) {
                let target = Target { service: &service, vip, port };
                let known = before.iter().chain(&self.tables).map(|(_, table)| table);
                let (table, due) = table(target, circumstances, &mut memory, known);
                self.due = self.due.into_iter().chain(due).min();
                self.keep(table, before);
            }
        }
        memory.history.end(circumstances.declared);
        (self.history, self.lingering) = (history, lingering);
    }

    /// The same `Arc` as before where the table is the same: that is how it is skipped later.
    fn keep(&mut self, table: ServiceTable, before: &[(ServiceKey, Arc<ServiceTable>)]) {
        let key = table.key();
        let same = before.iter().find(|(known, old)| *known == key && **old == table);
        self.tables.push((key, same.map_or_else(|| Arc::new(table), |(_, old)| Arc::clone(old))));
    }
}

/// The entry that says "this address is a VIP".
fn vip_table(service: &Service, vip: IpAddr) -> ServiceTable {
    ServiceTable {
        name: service.name.clone(),
        port_name: Arc::from(""),
        app_protocol: None,
        vip,
        port: 0,
        protocol: None,
        flags: if service.pass_unserved { ServiceEntry::PASS_UNSERVED } else { 0 },
        allowed: None,
        backends: Vec::new(),
        server_ids: Vec::new(),
        clashes: Vec::new(),
        ring: Arc::from([]),
        ring_hash: 0,
        shards: Vec::new(),
        not_taken: Vec::new(),
    }
}

/// Only VIPs by themselves can be there already, when two services share one: the first names it, the flags add up.
fn insert(
    services: &mut BTreeMap<ServiceKey, Arc<ServiceTable>>,
    key: ServiceKey,
    table: &Arc<ServiceTable>,
) {
    let known = services.entry(key).or_insert_with(|| Arc::clone(table));
    let flags = known.flags | table.flags;
    if known.flags != flags {
        Arc::make_mut(known).flags = flags;
    }
}

fn gateways(declared: &Declarations) -> BTreeSet<ipnet::IpNet> {
    declared.gateways.iter().flat_map(|gateway| &gateway.prefixes).map(ipnet::IpNet::trunc).collect()
}
