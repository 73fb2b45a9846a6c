//! Endpoints that leave their slices, and how long they are kept.

use std::net::Ipv4Addr;

use fairlead_abi::Address;

use super::*;
use crate::fixtures::*;
use crate::model::*;
use crate::planner::{Capacities, Inputs, Links, Planned, Planner, Tables, diff};

const MIN: u64 = 2_000;
const HOUR: u64 = 3_600_000;

fn pod(n: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, n).into()
}

/// `c0` with some of its pods, the first of them on this node, and `c1` with one.
fn model(declared: &Arc<Declarations>, pods: &[u16]) -> Model {
    let mut spec = shard(0, 0);
    let endpoints = pods.iter().map(|&n| endpoint(0, n));
    let here = |mut endpoint: Endpoint| {
        if *endpoint.pod == *"p1" {
            endpoint.node = Arc::from("node-0");
        }
        endpoint
    };
    spec.endpoints = Arc::new(endpoints.map(here).collect());
    merged(declared, &states([(0, spec), (1, shard(1, 1))]), None)
}

/// A planner, what receivers say, and a clock.
struct Desk {
    declared: Arc<Declarations>,
    planner: Planner,
    held: Held,
    ms: u64,
}

impl Desk {
    fn new() -> Self {
        Self { declared: Arc::new(declarations(9)), planner: Planner::new(), held: Held::default(), ms: 0 }
    }

    fn plan(&mut self, pods: &[u16]) -> Planned {
        self.plan_model(&model(&self.declared, pods))
    }

    fn plan_model(&mut self, model: &Model) -> Planned {
        let inputs = Inputs {
            model,
            health: &Health::default(),
            demand: &Demand::default(),
            links: &Arc::new(Links::new()),
            held: &self.held,
            silent: &Arc::default(),
            now: Duration::from_millis(self.ms),
        };
        self.planner.plan(&inputs)
    }

    /// The receiver of a pod says so of the moment `ms`.
    fn hear(&mut self, service: ServiceKey, n: u8, flows: u64, ms: u64) {
        self.held.reports.insert((service, pod(n)), Holding { flows, at: Duration::from_millis(ms) });
    }
}

fn lingering(tables: &Tables) -> Vec<&str> {
    let of = web(tables).backends.iter().filter(|backend| backend.verdict == Verdict::Lingering);
    of.map(|backend| &*backend.pod).collect()
}

#[test]
fn who_leaves_keeps_its_place_but_no_slot() {
    let mut desk = Desk::new();
    let before = desk.plan(&[1, 2, 3]);
    assert_eq!(before.due, None);
    let after = desk.plan(&[2, 3]);
    assert_eq!(lingering(&after.tables), ["p1"]);
    let [old, new] = [&before, &after].map(|planned| &web(&planned.tables).backends[0]);
    assert_eq!((new.outer, new.encap, new.shard, new.port), (old.outer, Encap::Local, old.shard, 8080));
    assert_eq!(new.weight, 0);
    assert_eq!(after.due, Some(Duration::from_millis(HOUR)));
    // As if it had never been there.
    let alone = Desk::new().plan(&[2, 3]);
    assert_eq!(after.tables.fingerprint(), alone.tables.fingerprint());
    assert_eq!(web(&after.tables).shards, web(&alone.tables).shards);
    assert!(web(&after.tables).backends.is_sorted_by(|a, b| a.outer < b.outer));
    assert_eq!(slots(web(&after.tables)), slots(web(&alone.tables)));
    // The size of the ring counts those that are there: nine, whoever lingers.
    let nine: Vec<u16> = (1..=9).collect();
    let size = |tables: &Tables| web(tables).ring.len();
    assert_eq!((size(&desk.plan(&nine[1..]).tables), size(&desk.plan(&nine).tables)), (251, 509));
    // Back again, it is as any other.
    let back = desk.plan(&[1, 2, 3]);
    assert!(lingering(&back.tables).contains(&"p9"));
    assert_eq!(web(&back.tables).backends[0].verdict, Verdict::Taken);
}

#[test]
fn a_report_that_is_young_enough_ends_it() {
    let mut desk = Desk::new();
    let service = web(&desk.plan(&[1, 2, 3]).tables).key();
    desk.ms = 1_000;
    desk.plan(&[1]);
    for (n, flows, at) in [(2, 0, 1_000 + MIN - 1), (3, 7, 1_000 + MIN)] {
        desk.hear(service, n, flows, at);
    }
    desk.ms = 5_000;
    assert_eq!(lingering(&desk.plan(&[1]).tables), ["p2", "p3"]);
    desk.hear(service, 2, 0, 1_000 + MIN);
    assert_eq!(lingering(&desk.plan(&[1]).tables), ["p3"]);
    desk.hear(service, 3, 1, 60_000);
    desk.ms = 60_000;
    assert_eq!(desk.plan(&[1]).due, Some(Duration::from_millis(1_000 + MIN + HOUR)), "looked at again then");
    desk.ms = 59_999 + HOUR;
    let planned = desk.plan(&[1]);
    assert_eq!(
        (lingering(&planned.tables), planned.due),
        (vec!["p3"], Some(Duration::from_millis(60_000 + HOUR)))
    );
    desk.ms += 1;
    let planned = desk.plan(&[1]);
    assert_eq!((lingering(&planned.tables), planned.due), (vec![], None), "nothing was heard for an hour");
}

#[test]
fn where_nobody_ever_answers_it_ends_too() {
    let mut desk = Desk::new();
    desk.plan(&[1, 2]);
    desk.ms = 10;
    assert_eq!(desk.plan(&[1]).due, Some(Duration::from_millis(10 + HOUR)));
    desk.ms = 9 + HOUR;
    assert_eq!(lingering(&desk.plan(&[1]).tables), ["p2"]);
    desk.ms += 1;
    assert!(lingering(&desk.plan(&[1]).tables).is_empty());
}

#[test]
fn a_cluster_without_the_service_keeps_its_endpoints_one_that_is_taken_out_does_not() {
    let mut desk = Desk::new();
    let both = desk.plan(&[1]);
    assert_eq!(web(&both.tables).shards.len(), 2);
    let one = merged(&desk.declared, &states([(1, shard(1, 1))]), None);
    let after = desk.plan_model(&one);
    assert_eq!(lingering(&after.tables), ["p1"]);
    let table = web(&after.tables);
    let clusters: Vec<&str> = table.shards.iter().map(|shard| &*shard.cluster).collect();
    assert_eq!((clusters, table.backends[0].shard), (vec!["c1", "c0"], 1));
    assert_eq!(table.shards[1].state, crate::planner::ShardState::Empty);
    let again = desk.plan_model(&one);
    assert!(Arc::ptr_eq(web(&again.tables), table));
    let mut declared = (*desk.declared).clone();
    declared.clusters.remove("c0");
    let taken_out = desk.plan_model(&merged(&Arc::new(declared), &states([(1, shard(1, 1))]), None));
    assert!(lingering(&taken_out.tables).is_empty());
}

#[test]
fn a_service_that_goes_takes_its_endpoints_along() {
    let mut desk = Desk::new();
    desk.plan(&[1, 2]);
    let none = merged(&desk.declared, &states([]), None);
    let gone = desk.plan_model(&none);
    assert_eq!((gone.tables.services.len(), gone.tables.deliveries.len()), (0, 0));
    assert!(lingering(&desk.plan(&[1]).tables).is_empty());
}

#[test]
fn this_nodes_endpoints_are_delivered_to_yet() {
    let mut desk = Desk::new();
    let before = desk.plan(&[1, 2]);
    let service = web(&before.tables).key();
    let after = desk.plan(&[2]);
    let keys = |tables: &Tables| tables.deliveries.keys().copied().collect::<Vec<_>>();
    assert_eq!(keys(&after.tables), keys(&before.tables));
    for (key, delivery) in &after.tables.deliveries {
        let of = &before.tables.deliveries[key];
        let flags = if key.service().is_some() { LEAVING } else { 0 };
        assert_eq!(*delivery, Delivery { flags, ..*of });
    }
    desk.ms = 10_000;
    desk.hear(service, 1, 0, 10_000);
    let v4_over = desk.plan(&[2]);
    // Under its other address nothing has been heard of it.
    let v6: Address = "fd00::1".parse::<IpAddr>().unwrap().into();
    let outers: BTreeSet<Address> = v4_over.tables.deliveries.keys().map(|key| key.outer).collect();
    assert_eq!(outers, BTreeSet::from([v6]));
    let none = Holding { flows: 0, at: Duration::from_secs(10) };
    desk.held.reports.insert((service, v6.into()), none);
    assert_eq!(desk.plan(&[2]).tables.deliveries.len(), 0);
    let back = desk.plan(&[1, 2]);
    assert_eq!(back.tables.deliveries, before.tables.deliveries);
}

/// What the kernel holds once these tables are in it.
fn installed(tables: &Tables) -> Installed {
    let capacities = Capacities {
        buckets: 8,
        slots: 10_000,
        backends: 100,
        service_ids: 10,
        hops: 4,
        deliveries: 100,
        gateways: 8,
        source_ranges: 8,
    };
    let mut installed = Installed::empty(capacities);
    let plan = diff(tables, &installed, &Vec::new(), Duration::ZERO).unwrap();
    plan.actions.iter().for_each(|action| installed.apply(action, Duration::ZERO));
    installed
}

#[test]
fn the_next_agent_keeps_who_lingered_and_who_left_meanwhile() {
    let mut desk = Desk::new();
    desk.plan(&[1, 2, 3, 4]);
    let last = desk.plan(&[2, 3, 4]);
    let in_kernel = installed(&last.tables);
    // p2 leaves while no agent runs. Then the state is there, or lost.
    for (kept, p1) in [(true, "p1"), (false, "(unknown)")] {
        let mut next = Desk::new();
        next.ms = 50;
        let now = Duration::from_millis(next.ms);
        if kept {
            let tables: Vec<&ServiceTable> = last.tables.services.values().map(|table| &**table).collect();
            next.planner.resume(tables, (Duration::ZERO, now), &next.declared.tuning);
        }
        next.planner.inherit(&in_kernel, now);
        let planned = next.plan(&[3, 4]);
        assert_eq!(lingering(&planned.tables), [p1, "(unknown)"]);
        let table = web(&planned.tables);
        assert_eq!(table.backends[0].encap, Encap::Local);
        assert!(table.backends.iter().all(|backend| &*table.shards[usize::from(backend.shard)].cluster
            == "c0"
            || &*backend.pod == "p1"));
        assert_eq!(planned.due, Some(now + Duration::from_secs(3600)));
        assert_eq!(planned.tables.deliveries, last.tables.deliveries);
        assert_eq!(lingering(&next.plan(&[3, 4]).tables), [p1, "(unknown)"]);
    }
}

#[test]
fn who_was_never_seen_here_is_known_by_what_its_receiver_announces() {
    let mut desk = Desk::new();
    let before = desk.plan(&[1, 2]);
    let service = web(&before.tables).key();
    desk.ms = 500;
    let announce = |desk: &mut Desk, n: u8, flows: u64| {
        desk.hear(service, n, flows, desk.ms);
        desk.held.announced.insert((service, pod(n)), Duration::from_millis(desk.ms));
    };
    announce(&mut desk, 2, 5);
    announce(&mut desk, 3, 0);
    assert_eq!(desk.plan(&[1, 2]), before, "one is known, one holds nothing");
    announce(&mut desk, 3, 1);
    let after = desk.plan(&[1, 2]);
    assert_eq!(lingering(&after.tables), ["(unknown)"]);
    assert_eq!(after.tables.fingerprint(), before.tables.fingerprint());
    // A stranger that no cluster may have is none.
    desk.held.reports.insert((service, [9, 9, 9, 9].into()), Holding { flows: 1, at: Duration::ZERO });
    desk.held.announced.insert((service, [9, 9, 9, 9].into()), Duration::ZERO);
    assert_eq!(desk.plan(&[1, 2]), after);
    desk.ms = 500 + MIN;
    announce(&mut desk, 3, 0);
    assert!(lingering(&desk.plan(&[1, 2]).tables).is_empty());
    // One that may hold some, which nobody has counted, is asked too.
    desk.held.reports.remove(&(service, pod(4)));
    desk.held.announced.insert((service, pod(4)), Duration::from_millis(desk.ms));
    assert_eq!(lingering(&desk.plan(&[1, 2]).tables), ["(unknown)"]);
    desk.hear(service, 4, 0, desk.ms + MIN);
    desk.ms += MIN;
    assert!(lingering(&desk.plan(&[1, 2]).tables).is_empty());
    // Once it is in the slices, it is as any other.
    announce(&mut desk, 3, 7);
    assert!(lingering(&desk.plan(&[1, 2, 3]).tables).is_empty());
    assert_eq!(lingering(&desk.plan(&[1, 2]).tables), ["p3"], "by its name");
}

#[test]
fn an_announced_endpoint_is_sent_to_where_a_way_leads() {
    let other: IpAddr = "fd00:0::7".parse().unwrap();
    let mut desk = Desk::new();
    Arc::make_mut(&mut desk.declared).here.tunnel_v6 = false;
    let service = web(&desk.plan(&[1, 2]).tables).key();
    for outer in [pod(7), other] {
        desk.held.announced.insert((service, outer), Duration::ZERO);
    }
    let tables = desk.plan(&[1, 2]).tables;
    let lingers = web(&tables).backends.iter().filter(|backend| backend.verdict == Verdict::Lingering);
    let lingers: Vec<_> = lingers.map(|backend| (backend.outer, backend.encap)).collect();
    assert_eq!(lingers, [(pod(7), Encap::Ipip)]);
    // On this node no tunnel is needed.
    let own = BTreeSet::from([pod(7), other]);
    assert_eq!([pod(7), other].map(|outer| encap(outer, &own, &desk.declared)), [Some(Encap::Local); 2]);
}

#[test]
fn those_that_left_last_are_kept_where_there_is_no_room_for_all() {
    let left = |n: u8, s: u64| (pod(n), nameless(pod(n), Encap::Ipip, Duration::from_secs(s)));
    let all = BTreeMap::from([left(1, 5), left(2, 1), left(3, 5), left(4, 9)]);
    let kept = |room| newest(all.clone(), room).into_keys().collect::<Vec<_>>();
    assert_eq!(kept(4).len(), 4);
    assert_eq!(kept(2), [pod(3), pod(4)]);
    assert!(kept(0).is_empty());
}

/// As [`model`], and the port is QUIC.
fn quic_model(declared: &Arc<Declarations>, pods: &[u16]) -> Model {
    let mut spec = shard(0, 0);
    spec.ports[0].quic = true;
    spec.endpoints = Arc::new(pods.iter().map(|&n| endpoint(0, n)).collect());
    merged(declared, &states([(0, spec)]), None)
}

/// To which outer address each server ID leads.
fn servers(tables: &Tables) -> BTreeMap<ServerId, IpAddr> {
    let table = web(tables);
    assert_eq!(table.clashes, []);
    table
        .server_ids
        .iter()
        .map(|named| (named.id, table.backends[usize::from(named.backend)].outer))
        .collect()
}

fn ids(n: u16) -> [ServerId; 2] {
    let endpoint = endpoint(0, n);
    [endpoint.v4.unwrap().into(), endpoint.v6.unwrap().into()].map(ServerId::of)
}

#[test]
fn server_ids_lead_to_who_has_left_as_long_as_it_lingers() {
    let mut desk = Desk::new();
    let both: BTreeMap<ServerId, IpAddr> =
        [1, 2].into_iter().flat_map(|n| ids(n.into()).map(|id| (id, pod(n)))).collect();
    let (two, one) = (quic_model(&desk.declared, &[1, 2]), quic_model(&desk.declared, &[2]));
    let before = desk.plan_model(&two);
    assert_eq!(servers(&before.tables), both);
    let after = desk.plan_model(&one);
    assert_eq!((lingering(&after.tables), servers(&after.tables)), (vec!["p1"], both.clone()));
    let lean = after.tables.without_lingering().unwrap();
    assert_eq!(servers(&lean), ids(2).map(|id| (id, pod(2))).into());
    // The next agent knows it by the state, or by the kernel.
    let in_kernel = installed(&after.tables);
    for kept in [true, false] {
        let mut next = Desk::new();
        if kept {
            let tables = after.tables.services.values().map(|table| &**table);
            next.planner.resume(tables, (Duration::ZERO, Duration::ZERO), &next.declared.tuning);
        }
        next.planner.inherit(&in_kernel, Duration::ZERO);
        assert_eq!(servers(&next.plan_model(&one).tables), both, "{kept}");
    }
    desk.hear(web(&after.tables).key(), 1, 0, MIN);
    desk.ms = MIN;
    assert_eq!(servers(&desk.plan_model(&one).tables), ids(2).map(|id| (id, pod(2))).into());
}

#[test]
fn an_announced_endpoint_has_the_server_id_of_its_address() {
    let mut desk = Desk::new();
    let one = quic_model(&desk.declared, &[2]);
    let service = web(&desk.plan_model(&one).tables).key();
    let [id1, other1] = ids(1);
    let [_, other2] = ids(2);
    // One that has left, by both of its addresses, and one that is there, by the other one.
    for outer in [pod(1), "fd00::1".parse().unwrap(), "fd00::2".parse().unwrap()] {
        desk.held.reports.insert((service, outer), Holding { flows: 1, at: Duration::ZERO });
        desk.held.announced.insert((service, outer), Duration::ZERO);
    }
    let plan = desk.plan_model(&one);
    let found = servers(&plan.tables);
    assert_eq!((found[&id1], found[&other1]), (pod(1), "fd00::1".parse::<IpAddr>().unwrap()));
    assert_eq!(found[&other2], pod(2), "who is there comes first");
    let table = web(&plan.tables);
    let is_other = |text: &str| table.is_other_address(text.parse().unwrap());
    assert!(is_other("fd00::2") && !is_other("fd00::1") && !table.is_other_address(pod(2)));
}
