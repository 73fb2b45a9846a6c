//! Too little room, where nothing stands yet and where endpoints come and go.

use super::*;

fn of_pods(pods: [u32; 6]) -> Tables {
    Wish { services: pods.map(|pods| (pods > 0).then_some((pods, 0))), ..Wish::default() }.tables()
}

fn refused(bench: &Bench, wanted: &Tables) -> Full {
    let PlanError::Full(full) = bench.diff(wanted).unwrap_err();
    assert_eq!(full.retry_at, None);
    full
}

/// The names of the services that lookups find.
fn served(bench: &Bench, wanted: &Tables) -> Vec<String> {
    let found = wanted.services.iter().filter(|(key, _)| bench.kernel.lookup(key).is_some());
    let ports = found.clone().filter(|(_, table)| table.protocol.is_some());
    assert_eq!(found.count(), 2 * ports.clone().count(), "each port's VIP, no other");
    let names: BTreeSet<String> = ports.map(|(_, table)| table.name.name.to_string()).collect();
    names.into_iter().collect()
}

fn let_in(bench: &mut Bench, wanted: &Tables, last: &BTreeSet<ServiceKey>) {
    let full = refused(bench, wanted);
    let newcomers = Newcomers::LetIn { last };
    let plan = bench.follow(wanted, full, newcomers);
    assert_eq!(plan.waits_for, Some(full));
    bench.carry_out(&plan);
    let again = bench.follow(wanted, full, newcomers);
    assert_eq!(again.actions, [], "the rest doesn't fit");
}

#[test]
fn full_tables_are_refused_whole() {
    let wide = Wish { services: [Some((u32::MAX, 0)); 6], ..Wish::default() }.tables();
    let narrow = Wish::of(0b11).tables();
    let c = capacities();
    let refused = [
        (Capacities { buckets: 2, ..c }, Map::Services),
        (Capacities { slots: 12_233, ..c }, Map::Slots),
        (Capacities { backends: 192, ..c }, Map::Backends),
        (Capacities { service_ids: 12, ..c }, Map::ServiceIds),
        (Capacities { hops: 4, ..c }, Map::Hops),
        (Capacities { deliveries: 20, ..c }, Map::Deliveries),
        (Capacities { gateways: 1, ..c }, Map::Gateways),
    ];
    for (capacities, map) in refused {
        let mut bench = Bench::new(capacities);
        let held = if map == Map::Gateways { Tables::default() } else { narrow.clone() };
        bench.converge(&held);
        let PlanError::Full(full) = bench.diff(&wide).unwrap_err();
        assert_eq!((full.map, full.retry_at), (map, None));
        assert!(full.needed > full.capacity, "{full}");
        assert!(full.to_string().contains(&format!("capacities.{}", map.capacity())), "{full}");
        bench.assert_serves(&held);
    }
    // With exactly what it takes, it fits.
    let exact = Capacities {
        buckets: 4,
        slots: 12_234,
        backends: 193,
        service_ids: 13,
        hops: 5,
        deliveries: 56,
        gateways: 2,
        source_ranges: 0,
    };
    let mut bench = Bench::new(exact);
    bench.converge(&wide);
    bench.assert_serves(&wide);
}

#[test]
fn empty_tables_take_in_what_they_have_room_for() {
    let (c, wanted) = (capacities(), of_pods([0b110; 6]));
    let cases = [
        // Room for four rings: one of them stays free.
        Capacities { slots: 4 * 251, ..c },
        Capacities { backends: 1 + 4 * 2, ..c },
        Capacities { service_ids: 1 + 2 * 3 + 1, ..c },
    ];
    for capacities in cases {
        let mut bench = Bench::new(capacities);
        let_in(&mut bench, &wanted, &BTreeSet::new());
        assert_eq!(served(&bench, &wanted), ["a", "b", "c"], "{capacities:?}");
        let left_out = bench.installed.lacks(&wanted);
        assert_eq!(left_out.len(), 6, "a VIP and a port of each");
        assert!(bench.installed.holds_some_of(&wanted));

        // An agent that comes after it leaves out the same ones, and takes in the others though they come first.
        let mut bench = Bench::new(capacities);
        let not_before = wanted.services.keys().filter(|key| !left_out.contains(key)).copied().collect();
        let_in(&mut bench, &wanted, &not_before);
        assert_eq!(served(&bench, &wanted), ["d", "e", "f"], "{capacities:?}");

        // Endpoints are replaced all the same.
        let other = of_pods([0b1010; 6]);
        let full = refused(&bench, &other);
        for _ in 0..6 {
            bench.carry_out(&follow(
                &other,
                &bench.installed,
                &bench.kernel.slots,
                bench.now,
                full,
                Newcomers::Refused,
            ));
            bench.now += GRACE;
        }
        let served = resolved(&bench.kernel);
        let gone = IpAddr::from([10, 0, 0, 3]);
        assert_eq!(served.len(), 6);
        assert!(served.values().flatten().all(|to| *to != Some(gone)), "{capacities:?}");
    }
}

#[test]
fn too_large_a_service_keeps_no_other_out() {
    let mut bench = Bench::new(Capacities { slots: 4 * 251, ..capacities() });
    let wanted = of_pods([0b1, u32::MAX, 0b1, 0b1, 0, 0]);
    let_in(&mut bench, &wanted, &BTreeSet::new());
    assert_eq!(served(&bench, &wanted), ["a", "c", "d"]);
}

#[test]
fn an_empty_receiver_takes_in_what_it_has_room_for() {
    // Two endpoints here with two addresses each: for two services, and by themselves.
    let mut bench = Bench::new(Capacities { deliveries: 8, ..capacities() });
    let wanted = of_pods([0b1_0000_0001, 0b1_0000_0001, 0, 0, 0, 0]);
    let_in(&mut bench, &wanted, &BTreeSet::new());
    assert_eq!(bench.kernel.deliveries.len(), 8);
    assert_eq!(bench.installed.lacks(&wanted).len(), 1);
}

#[test]
fn a_full_receiver_follows_the_endpoints_that_it_knows() {
    let mut bench = Bench::new(Capacities { deliveries: 8, ..capacities() });
    let (old, new) = (1 | 1 << 8, 1 << 16 | 1 << 24);
    bench.converge(&of_pods([old, 0, 0, 0, 0, 0]));
    assert_eq!(bench.kernel.deliveries.len(), 8);
    // All pods are replaced, and a service comes for which there is no room.
    let wanted = of_pods([new, new, 0, 0, 0, 0]);
    let full = refused(&bench, &wanted);
    assert_eq!(full.map, Map::Deliveries);
    bench.carry_out(&follow(
        &wanted,
        &bench.installed,
        &bench.kernel.slots,
        bench.now,
        full,
        Newcomers::Refused,
    ));
    assert_eq!(bench.kernel.deliveries, of_pods([new, 0, 0, 0, 0, 0]).deliveries);
    // Where there is room for one endpoint less, the others are delivered to.
    let more = of_pods([new | 1, 0, 0, 0, 0, 0]);
    let full = refused(&bench, &more);
    bench.carry_out(&follow(
        &more,
        &bench.installed,
        &bench.kernel.slots,
        bench.now,
        full,
        Newcomers::Refused,
    ));
    assert_eq!(bench.kernel.deliveries, of_pods([new, 0, 0, 0, 0, 0]).deliveries);
}

#[test]
fn deliveries_are_replaced_one_by_one_where_all_of_them_fit() {
    let mut bench = Bench::new(Capacities { deliveries: 8, ..capacities() });
    bench.converge(&of_pods([1 | 1 << 8, 0, 0, 0, 0, 0]));
    let wanted = of_pods([1 << 16 | 1 << 24, 0, 0, 0, 0, 0]);
    let plan = bench.diff(&wanted).unwrap();
    assert_eq!(plan.waits_for, None);
    bench.carry_out(&plan);
    bench.assert_serves(&wanted);
}

#[test]
fn a_local_endpoint_is_delivered_to_while_another_table_is_full() {
    let mut bench = Bench::new(Capacities { slots: 4 * 251, ..capacities() });
    bench.converge(&of_pods([0b10, 0, 0, 0, 0, 0]));
    assert_eq!(bench.kernel.deliveries.len(), 0);
    let wanted = of_pods([0b1, 1, 1, 1, 1, 1]);
    let full = refused(&bench, &wanted);
    assert_eq!(full.map, Map::Slots);
    bench.carry_out(&follow(
        &wanted,
        &bench.installed,
        &bench.kernel.slots,
        bench.now,
        full,
        Newcomers::Refused,
    ));
    assert_eq!(
        resolved(&bench.kernel),
        resolved(&{
            let mut alone = Bench::new(capacities());
            alone.converge(&of_pods([0b1, 0, 0, 0, 0, 0]));
            alone.kernel
        })
    );
    assert_eq!(bench.kernel.deliveries, wanted.deliveries);
}
