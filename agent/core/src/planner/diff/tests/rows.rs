//! Single cases of planning changes.

use super::*;
use fairlead_abi::{Address, Family, Ring};

fn web_entry(bench: &Bench) -> ServiceEntry {
    *bench.kernel.entries().find(|(key, ..)| key.port == 80).expect("published").2
}

pub(super) fn kinds(plan: &Plan) -> Vec<&'static str> {
    let kind = |action: &Action| match action {
        Action::WriteHop { .. } => "hop",
        Action::ClearBackendCounters { .. } => "zero",
        Action::WriteBackend { .. } => "backend",
        Action::SetBackendHop { .. } => "set hop",
        Action::WriteSlots { .. } => "slots",
        Action::SetSlot { .. } => "slot",
        Action::ClearServiceCounters { .. } => "zero id",
        Action::SetOverflowed { .. } => "overflowed",
        Action::PublishEntry { .. } => "publish",
        Action::SwitchRing { .. } => "switch",
        Action::SetEntryFlags { .. } => "flags",
        Action::PutServerId { .. } => "server",
        Action::RemoveServerId { .. } => "forget server",
        Action::PutRange { .. } => "allow",
        Action::RemoveRange { .. } => "forget range",
        Action::PutDelivery { .. } => "deliver",
        Action::PutGateway { .. } => "gateway",
        Action::UnpublishEntry { .. } => "unpublish",
        Action::ClearBackend { .. } => "clear backend",
        Action::ClearHop { .. } => "clear hop",
        Action::RemoveDelivery { .. } => "forget delivery",
        Action::RemoveGateway { .. } => "forget gateway",
    };
    let mut kinds: Vec<_> = plan.actions.iter().map(kind).collect();
    kinds.dedup();
    kinds
}

#[test]
fn additions_first_deletions_later() {
    let mut bench = Bench::new(capacities());
    bench.converge(&Wish::of(0b110).tables());
    // One pod more, one less; no hop changes.
    let wanted = Wish::of(0b1100).tables();
    let plan = bench.diff(&wanted).unwrap();
    assert_eq!(kinds(&plan), ["hop", "zero", "backend", "slots", "switch"]);
    bench.carry_out(&plan);
    assert_eq!(plan.due, Some(bench.now + GRACE));
    assert_eq!(kinds(&bench.diff(&wanted).unwrap()), [""; 0], "packets may still read the old one");
    bench.now += GRACE;
    let plan = bench.diff(&wanted).unwrap();
    assert_eq!(kinds(&plan), ["clear backend"]);
    bench.carry_out(&plan);
    bench.now += GRACE;
    assert_eq!(kinds(&bench.diff(&wanted).unwrap()), ["clear hop"]);
}

#[test]
fn an_emptied_service_has_the_empty_ring() {
    let mut bench = Bench::new(capacities());
    bench.converge(&Wish::of(0b111).tables());
    assert_eq!(web_entry(&bench).ring.size, 251);
    let empty = Wish::of(0).tables();
    let plan = bench.diff(&empty).unwrap();
    assert!(plan.actions.iter().any(|action| {
        matches!(action, Action::SwitchRing { ring: Ring { first_slot: 0, size: 0 }, .. })
    }));
    bench.converge(&empty);
    assert_eq!(web_entry(&bench).ring, Ring { first_slot: 0, size: 0 });
    bench.assert_serves(&empty);
    bench.assert_clean(&empty);
}

#[test]
fn an_endpoint_more_needs_no_move() {
    let mut bench = Bench::new(capacities());
    bench.converge(&Wish::of(0xff).tables());
    let before = web_entry(&bench);
    bench.converge(&Wish::of(0x1ff).tables());
    assert_eq!((web_entry(&bench).backends, web_entry(&bench).id), (before.backends, before.id));
    // Outgrown: another region, the same counters.
    bench.converge(&Wish::of(u32::MAX).tables());
    assert_ne!(web_entry(&bench).backends, before.backends);
    assert_eq!(web_entry(&bench).id, before.id);
    bench.assert_serves(&Wish::of(u32::MAX).tables());
    bench.assert_clean(&Wish::of(u32::MAX).tables());
}

#[test]
fn another_next_hop_changes_one_word_of_each_backend() {
    let mut bench = Bench::new(capacities());
    bench.converge(&Wish::of(0b1111).tables());
    let moved = Wish { links: 1, ..Wish::of(0b1111) }.tables();
    let plan = bench.diff(&moved).unwrap();
    assert_eq!(kinds(&plan), ["hop", "set hop", "hop", "set hop"], "no slot is touched");
    bench.converge(&moved);
    bench.assert_serves(&moved);
    bench.assert_clean(&moved);
}

#[test]
fn flags_change_alone() {
    let mut bench = Bench::new(capacities());
    bench.converge(&Wish::of(0b1).tables());
    let passing = Wish { pass: true, ..Wish::of(0b1) }.tables();
    assert_eq!(kinds(&bench.diff(&passing).unwrap()), ["flags"]);
    bench.converge(&passing);
    bench.assert_serves(&passing);
}

#[test]
fn what_is_settled_costs_nothing_but_is_compared_after_reading_back() {
    let mut bench = Bench::new(capacities());
    let wanted = Wish::of(0b111).tables();
    bench.converge(&wanted);
    let plan = bench.diff(&wanted).unwrap();
    assert!(plan.is_empty() && plan.settled.is_empty(), "skipped");
    bench.installed = bench.reread();
    let plan = bench.diff(&wanted).unwrap();
    assert!(plan.is_empty() && plan.settled.len() == 2, "compared");
}

#[test]
fn rings_that_all_change_at_once_take_turns_where_room_is_short() {
    let mut bench = Bench::new(Capacities { slots: 8 * 251, ..capacities() });
    bench.converge(&Wish { services: [Some((0b11, 0)); 6], ..Wish::default() }.tables());
    let wanted = Wish { services: [Some((0b10, 0)); 6], ..Wish::default() }.tables();
    let mut turns = 0;
    loop {
        let plan = match bench.diff(&wanted) {
            Ok(plan) => plan,
            Err(PlanError::Full(full)) => {
                bench.now = full.retry_at.unwrap();
                continue;
            }
        };
        let switched = kinds(&plan).into_iter().filter(|kind| *kind == "switch").count();
        bench.carry_out(&plan);
        if plan.waits_for.is_none() {
            break;
        }
        turns += 1;
        assert_eq!((switched, plan.waits_for.map(|full| full.map)), (2, Some(Map::Slots)));
        assert!(turns < 6, "it goes on");
        bench.now = plan.due.unwrap();
    }
    assert_eq!(turns, 2);
    bench.assert_serves(&wanted);
}

#[test]
fn what_serves_follows_its_endpoints_while_something_new_is_refused() {
    let mut bench = Bench::new(Capacities { slots: 4 * 251, ..capacities() });
    bench.converge(&Wish::of(0b11).tables());
    let more = Wish { services: [Some((0b1, 0)); 6], ..Wish::default() }.tables();
    let PlanError::Full(full) = bench.diff(&more).unwrap_err();
    let plan = bench.follow(&more, full, Newcomers::Refused);
    assert_eq!((plan.waits_for, plan.behind), (Some(full), 0));
    // What other gateways steer here is not theirs to refuse.
    assert_eq!(kinds(&plan), ["deliver", "slots", "switch"]);
    bench.carry_out(&plan);
    assert_eq!(
        resolved(&bench.kernel),
        resolved_of(&Wish::of(0b1).tables()),
        "nothing new, no dead endpoint"
    );
    bench.now += GRACE;
    let plan = bench.follow(&more, full, Newcomers::Refused);
    assert_eq!(kinds(&plan), ["clear backend"]);
}

/// What each service of `tables` resolves to.
fn resolved_of(tables: &Tables) -> BTreeMap<ServiceKey, Vec<Option<IpAddr>>> {
    let slots = |table: &Arc<ServiceTable>| {
        (0..).map_while(|slot| table.backend(slot).map(|backend| Some(backend.outer))).collect()
    };
    tables.services.iter().map(|(key, table)| (*key, slots(table))).collect()
}

#[test]
fn one_service_that_outgrows_the_tables_holds_up_no_other() {
    let c = capacities();
    let cases = [
        (Capacities { slots: 4 * 251, ..c }, Map::Slots),
        (Capacities { backends: 29, ..c }, Map::Backends),
        (Capacities { hops: 3, ..c }, Map::Hops),
    ];
    for (capacities, map) in cases {
        let mut bench = Bench::new(capacities);
        let both = |first, second| {
            let mut wish = Wish::default();
            (wish.services[0], wish.services[1]) = (Some((first, 0)), Some((second, 0)));
            wish.tables()
        };
        bench.converge(&both(0b11, 0b11));
        // Which of the two the plan comes to first must not matter.
        for (wanted, still) in
            [(both(u32::MAX, 0b10), both(0b11, 0b10)), (both(0b10, u32::MAX), both(0b10, 0b10))]
        {
            let PlanError::Full(full) = bench.diff(&wanted).unwrap_err();
            assert_eq!((full.map, full.retry_at), (map, None));
            let plan = bench.follow(&wanted, full, Newcomers::Refused);
            assert_eq!(plan.behind, 1, "{map}");
            bench.carry_out(&plan);
            assert_eq!(resolved(&bench.kernel), resolved_of(&still), "{map}");
            for _ in 0..2 {
                bench.now += GRACE;
                bench.carry_out(&follow(
                    &wanted,
                    &bench.installed,
                    &bench.kernel.slots,
                    bench.now,
                    full,
                    Newcomers::Refused,
                ));
            }
            bench.now += GRACE;
            let plan = bench.follow(&wanted, full, Newcomers::Refused);
            assert_eq!(kinds(&plan), [""; 0], "{map}");
        }
        // Nothing of what didn't fit is left behind.
        bench.converge(&both(0b11, 0b11));
        bench.assert_serves(&both(0b11, 0b11));
        bench.assert_clean(&both(0b11, 0b11));
    }
}

#[test]
fn a_key_for_which_no_bucket_in_reach_has_room_holds_up_no_other() {
    let mut bench = Bench::new(Capacities { buckets: 64, ..capacities() });
    let in_one_bucket = |pods, count| {
        let mut tables = Wish::of(pods).tables();
        let (_, table) = tables.services.pop_last().unwrap();
        let ports = (1..=u16::MAX).filter_map(|port| {
            let table = ServiceTable { port, ..(*table).clone() };
            (fairlead_abi::bucket_of(&table.key(), 63) == 7).then(|| (table.key(), Arc::new(table)))
        });
        tables.services = ports.take(count).collect();
        tables
    };
    let reach = fairlead_abi::MAX_PROBE as usize * BUCKET_ENTRIES;
    bench.converge(&in_one_bucket(0b11, reach));
    let wanted = in_one_bucket(0b10, reach + 1);
    // What can go on does so first; then there is nothing left that would help.
    let full = loop {
        match bench.diff(&wanted) {
            Err(PlanError::Full(full)) => break full,
            Ok(plan) => {
                bench.carry_out(&plan);
                bench.now = plan.due.unwrap();
            }
        }
    };
    assert_eq!((full.map, full.retry_at), (Map::Services, None));
    assert_eq!(bench.follow(&wanted, full, Newcomers::Refused).behind, 0);
    let all = resolved_of(&wanted);
    let served = resolved(&bench.kernel);
    assert_eq!(served.len(), reach);
    assert!(served.iter().all(|(key, slots)| *slots == all[key]), "no slot names the dead endpoint");
}

#[test]
fn what_is_in_the_way_goes_first() {
    // Room for one ring of 1,021, and a bit.
    let mut bench = Bench::new(Capacities { slots: 1_500, ..capacities() });
    let one = |at: usize| {
        let mut wish = Wish::default();
        wish.services[at] = Some((0x3_ffff, 0));
        wish.tables()
    };
    bench.converge(&one(0));
    let plan = bench.diff(&one(1)).unwrap();
    assert_eq!(plan.waits_for.map(|full| full.map), Some(Map::Slots));
    assert_eq!(kinds(&plan), ["deliver", "unpublish", "forget delivery"]);
    bench.carry_out(&plan);
    let PlanError::Full(full) = bench.diff(&one(1)).unwrap_err();
    assert_eq!(full.retry_at, Some(bench.now + GRACE));
    bench.now = full.retry_at.unwrap();
    bench.converge(&one(1));
    bench.assert_serves(&one(1));
}

#[test]
fn a_ring_waits_for_room_while_the_old_one_serves() {
    let mut bench = Bench::new(Capacities { slots: 3 * 251 - 1, ..capacities() });
    for pods in [0b11, 0b111] {
        let plan = bench.diff(&Wish::of(pods).tables()).unwrap();
        bench.carry_out(&plan);
    }
    let wanted = Wish::of(0b101).tables();
    let PlanError::Full(full) = bench.diff(&wanted).unwrap_err();
    assert_eq!((full.map, full.retry_at), (Map::Slots, Some(GRACE)));
    bench.assert_serves(&Wish::of(0b111).tables());
    bench.now = GRACE;
    bench.converge(&wanted);
    bench.assert_serves(&wanted);
}

#[test]
fn roles_given_up_empty_the_tables() {
    let mut bench = Bench::new(capacities());
    bench.converge(&Wish { services: [Some((u32::MAX, 1)); 6], ..Wish::default() }.tables());
    bench.converge(&Tables::default());
    bench.assert_serves(&Tables::default());
    bench.assert_clean(&Tables::default());
    let left: Vec<_> = bench.installed.usage().into_iter().filter(|(_, used, _)| *used > 1).collect();
    assert_eq!(left, [], "index 0 of some is never used; all else is free again");
}

#[test]
fn services_are_counted_against_as_many_as_there_can_be() {
    let mut bench = Bench::new(capacities());
    bench.converge(&Wish::of(0b110).tables());
    let services = bench.installed.services().count() as u64;
    assert!(services > 1, "{services}");
    let used: Vec<_> = bench.installed.usage();
    for map in [Map::Services, Map::ServiceIds] {
        let row = used.iter().find(|(of, ..)| *of == map).unwrap();
        assert_eq!(*row, (map, services, u64::from(capacities().service_ids) - 1));
    }
}

#[test]
fn what_is_listed_is_what_stands_there() {
    let mut bench = Bench::new(capacities());
    bench.converge(&Wish::of(0b110).tables());
    let listed: Vec<_> = bench.installed.services().filter(|(key, ..)| key.port == 80).collect();
    let [(key, bucket, entry, value)] = listed[..] else { panic!("{listed:?}") };
    assert_eq!(bench.kernel.buckets[bucket as usize].entries[entry], *value);
    assert_eq!(key.family, Family::V4 as u8);
    let outers: Vec<Address> = bench.installed.backends_of(&key).map(|(_, backend)| backend.outer).collect();
    assert_eq!(outers, [2, 3].map(|n| Address::v4([10, 0, 0, n])));
}

#[test]
fn the_largest_service() {
    let mut wide = declarations(1);
    wide.clusters.get_mut("c0").unwrap().pod_cidrs = vec!["10.0.0.0/8".parse().unwrap()];
    let mut spec = shard(0, 0);
    let endpoints = (1..=65_535u32).map(|n| Endpoint {
        v4: Some(Ipv4Addr::from_bits(0x0a00_0000 + n)),
        v6: None,
        ..endpoint(0, 1)
    });
    spec.endpoints = Arc::new(endpoints.collect());
    let model = merged(&Arc::new(wide), &states([(0, spec)]), None);
    let wanted = planned(&model, &Health::default());
    let mut bench = Bench::new(Capacities { slots: 140_000, backends: 70_000, ..capacities() });
    let plan = bench.diff(&wanted).unwrap();
    bench.carry_out(&plan);
    bench.assert_fingerprint(&wanted);
}

impl Bench {
    fn assert_fingerprint(&self, wanted: &Tables) {
        let read = Installed::read(&self.kernel.raw(), self.kernel.capacities, None, self.now);
        assert_eq!(read.fingerprint(), wanted.fingerprint());
        assert_eq!(self.diff(wanted).unwrap().actions, []);
    }
}
