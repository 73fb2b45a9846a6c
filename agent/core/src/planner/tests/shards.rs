//! Which shards serve: the closest, what spills, what comes back.

use super::*;

#[test]
fn the_closest_serves() {
    // From c0 (region r0): itself, its region (c1, c2), r1 at 100 (c3), r2 at 200 (c6).
    let order = [vec![0], vec![1, 2], vec![3], vec![6]];
    for closest in 0..order.len() {
        let clusters: Vec<u8> = order[closest..].iter().flatten().copied().collect();
        let model = merged(&declared(), &states(clusters.iter().map(|&c| (c, shard(c, 2)))), None);
        let expected: Vec<String> = order[closest].iter().map(|c| format!("c{c}")).collect();
        assert_eq!(serving(web(&planned(&model, &Health::default()))), expected);
    }
}

#[test]
fn a_group_plans_from_what_its_gateways_share() {
    let mut regional = declarations(9);
    regional.here.plans_from = Place::new("r0", "", "");
    let model = merged(&Arc::new(regional), &states([0, 1, 3].map(|c| (c, shard(c, 2)))), None);
    assert_eq!(serving(web(&planned(&model, &Health::default()))), ["c0", "c1"]);
}

#[test]
fn what_is_too_much_for_the_closest_spills() {
    let mut near = shard(0, 2);
    near.options.capacity_per_endpoint = Some(50);
    let model = merged(&declared(), &states([(0, near), (1, shard(1, 3))]), None);
    let demand = Demand { per_second: [(name("web"), 400)].into() };
    let inputs = Inputs {
        model: &model,
        health: &Health::default(),
        demand: &demand,
        links: &Arc::default(),
        held: &Held::default(),
        silent: &Arc::default(),
        now: Duration::ZERO,
    };
    let planned = Planner::new().plan(&inputs);
    let table = web(&planned.tables);
    // 100 of 400 stay, by two endpoints; 300 go to three: 1/8 each, and 1/4 each.
    let shares: Vec<f64> = table.shards.iter().map(|shard| shard.share.percent()).collect();
    assert_eq!(shares, [25.0, 75.0]);
    let weights: Vec<u16> = table.backends.iter().map(|backend| backend.weight).collect();
    assert_eq!(weights, [32768, 32768, 65535, 65535, 65535]);
    let held = slots(table);
    let near = held["c0/p1"] + held["c0/p2"];
    assert!((55..=70).contains(&near), "{near} of 251 slots, a quarter is 63");
    assert_eq!(table.shards[1].state, ShardState::Spilled);
    assert_eq!(verdicts(table)[4], ("p3", Verdict::Spilled));
    assert_eq!(table.shards[0].capacity, Some(100));
}

#[test]
fn a_shard_comes_back_gradually() {
    let model = merged(&declared(), &states([(0, shard(0, 2)), (1, shard(1, 2))]), None);
    let mut planner = Planner::new();
    let (mut good, mut bad) = (Health::default(), Health::default());
    for n in [1, 2] {
        judge(&mut good, pod(0, n), ProbeState::Good);
        judge(&mut bad, pod(0, n), ProbeState::Bad);
    }
    assert_eq!(plan_at(&mut planner, &model, &good, 0).due, None, "a start doesn't ramp");
    assert_eq!(serving(web(&plan_at(&mut planner, &model, &bad, 1000).tables)), ["c1"]);
    let back = plan_at(&mut planner, &model, &good, 2000);
    let share = |planned: &Planned| web(&planned.tables).shards[0].share.percent().round();
    assert_eq!((share(&back), back.due), (20.0, Some(Duration::from_millis(3000))));
    assert_eq!(web(&back.tables).shards[0].state, ShardState::Returning { step: 1, of: 4 });
    assert_eq!(plan_at(&mut planner, &model, &good, 2999), back);
    for (ms, percent) in [(3000, 40.0), (4000, 60.0), (5000, 80.0), (6000, 100.0)] {
        assert_eq!(share(&plan_at(&mut planner, &model, &good, ms)), percent, "at {ms} ms");
    }
    assert_eq!(plan_at(&mut planner, &model, &good, 6000).due, None);
}

#[test]
fn another_planner_goes_on_letting_a_shard_in() {
    let model = merged(&declared(), &states([(0, shard(0, 1)), (1, shard(1, 2))]), None);
    let mut planner = Planner::new();
    let (mut good, mut bad) = (Health::default(), Health::default());
    judge(&mut good, pod(0, 1), ProbeState::Good);
    judge(&mut bad, pod(0, 1), ProbeState::Bad);
    plan_at(&mut planner, &model, &bad, 0);
    plan_at(&mut planner, &model, &good, 1000);
    let last = plan_at(&mut planner, &model, &good, 2000);
    let share = |planned: &Planned| web(&planned.tables).shards[0].share.percent().round();
    assert_eq!(share(&last), 40.0);
    let tables: Vec<_> = last.tables.services.values().map(|table| &**table).collect();
    let mut next = Planner::new();
    let half = Duration::from_millis(500);
    next.resume(tables.iter().copied(), (half, Duration::ZERO), &model.declared.tuning);
    let first = plan_at(&mut next, &model, &good, 0);
    assert_eq!((share(&first), first.due), (40.0, Some(half)));
    assert_eq!(share(&plan_at(&mut next, &model, &good, 500)), 60.0);
    assert_eq!(plan_at(&mut next, &model, &good, 2500).due, None);
}

#[test]
fn a_shard_whose_service_was_deleted_comes_back_gradually() {
    let declared = declared();
    let mut planner = Planner::new();
    let health = Health::default();
    let mut states = states([(0, shard(0, 2)), (1, shard(1, 2))]);
    let both = merged(&declared, &states, None);
    // The cluster can be read, and has no such service any more.
    states.get_mut("c0").unwrap().shards.clear();
    let one = merged(&declared, &states, Some(&both));
    assert_eq!(one.services[&name("web")].shards.len(), 1);
    states.get_mut("c1").unwrap().shards.clear();
    let none = merged(&declared, &states, Some(&one));
    assert!(none.services.is_empty());
    plan_at(&mut planner, &both, &health, 0);
    plan_at(&mut planner, &one, &health, 1_000);
    let back = plan_at(&mut planner, &both, &health, 2_000);
    let states: Vec<_> = web(&back.tables).shards.iter().map(|shard| shard.state).collect();
    assert_eq!(states, [ShardState::Returning { step: 1, of: 4 }, ShardState::Spilled]);
    // The whole service: nobody is there for whom it could be let in gradually.
    plan_at(&mut planner, &none, &health, 3_000);
    let anew = plan_at(&mut planner, &both, &health, 4_000);
    let states: Vec<_> = web(&anew.tables).shards.iter().map(|shard| shard.state).collect();
    assert_eq!(states, [ShardState::Serving, ShardState::Standby]);
}
