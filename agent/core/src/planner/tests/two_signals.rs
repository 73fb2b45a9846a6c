//! What an endpoint's readiness, its probes and its cluster's API server say together.

use super::*;

/// A row of DESIGN's table: one cluster near, with pod p1 judged, and one far.
fn two_signals(reachable: bool, ready: bool, probe: ProbeState) -> Arc<ServiceTable> {
    let mut near = shard(0, 2);
    Arc::make_mut(&mut near.endpoints)[0].conditions.ready = ready;
    let mut states = states([(0, near), (3, shard(3, 1))]);
    states.get_mut("c0").unwrap().reachable = reachable;
    let mut health = Health::default();
    judge(&mut health, pod(0, 1), probe);
    Arc::clone(web(&planned(&merged(&declared(), &states, None), &health)))
}

#[test]
fn reachable_ready_good_serves() {
    let table = two_signals(true, true, ProbeState::Good);
    assert_eq!(verdicts(&table)[0], ("p1", Verdict::Taken));
    assert!(slots(&table)["c0/p1"] > 100);
}

#[test]
fn reachable_ready_not_probed_serves() {
    assert_eq!(verdicts(&two_signals(true, true, ProbeState::Unknown))[0], ("p1", Verdict::Taken));
}

#[test]
fn reachable_ready_bad_is_removed() {
    let table = two_signals(true, true, ProbeState::Bad);
    assert_eq!(verdicts(&table)[0], ("p1", Verdict::ProbesFail));
    assert_eq!(slots(&table).keys().collect::<Vec<_>>(), ["c0/p2"]);
}

#[test]
fn reachable_not_ready_drains_whatever_probes_say() {
    for probe in [ProbeState::Good, ProbeState::Bad, ProbeState::Unknown] {
        let table = two_signals(true, false, probe);
        assert_eq!(verdicts(&table)[0], ("p1", Verdict::NotReady));
        assert_eq!(table.backends[0].weight, 0, "still in the list: its connections go on");
        assert_eq!(slots(&table).keys().collect::<Vec<_>>(), ["c0/p2"]);
    }
}

#[test]
fn unreachable_good_keeps_serving() {
    let table = two_signals(false, true, ProbeState::Good);
    assert_eq!(verdicts(&table)[0], ("p1", Verdict::Taken));
    assert!(!table.shards[0].reachable);
    assert_eq!(table.ring, two_signals(true, true, ProbeState::Good).ring);
}

#[test]
fn unreachable_bad_is_removed() {
    assert_eq!(verdicts(&two_signals(false, true, ProbeState::Bad))[0], ("p1", Verdict::ProbesFail));
}

#[test]
fn suddenly_empty_good_is_held() {
    let declared = declared();
    let mut health = Health::default();
    judge(&mut health, pod(0, 1), ProbeState::Good);
    let before = merged(&declared, &states([(0, shard(0, 1)), (3, shard(3, 1))]), None);
    let empty = states([(0, shard(0, 0)), (3, shard(3, 1))]);
    let after = merge(&declared, &empty, &health, Some(&before));
    let table = planned(&after, &health);
    let table = web(&table);
    assert_eq!(verdicts(table)[0], ("p1", Verdict::Held));
    assert_eq!(table.shards[0].state, ShardState::Held);
    assert_eq!(serving(table), ["c0"]);
    assert!(after.problems[0].what.contains("held"), "the alarm");
    judge(&mut health, pod(0, 1), ProbeState::Bad);
    let gone = merge(&declared, &empty, &health, Some(&after));
    assert_eq!(serving(web(&planned(&gone, &health))), ["c3"]);
}

#[test]
fn all_probes_failing_are_not_believed() {
    let mut health = Health::default();
    let states = states([(0, shard(0, 2)), (3, shard(3, 1))]);
    let model = merged(&declared(), &states, None);
    for (cluster, n) in [(0, 1), (0, 2), (3, 1)] {
        judge(&mut health, pod(cluster, n), ProbeState::Bad);
    }
    let tables = planned(&model, &health);
    let table = web(&tables);
    assert_eq!(verdicts(table)[0], ("p1", Verdict::Panic));
    assert_eq!(table.shards[0].state, ShardState::Panic);
    assert_eq!(serving(table), ["c0"]);
    // One that passes is enough to believe them again.
    judge(&mut health, pod(3, 1), ProbeState::Good);
    assert_eq!(serving(web(&planned(&model, &health))), ["c3"]);
}

#[test]
fn the_panic_threshold_can_be_higher() {
    let mut cautious = declarations(9);
    cautious.tuning.panic_percent = 50;
    let model = merged(&Arc::new(cautious), &states([(0, shard(0, 4))]), None);
    let mut health = Health::default();
    judge(&mut health, pod(0, 1), ProbeState::Bad);
    assert_eq!(slots(web(&planned(&model, &health))).len(), 3);
    judge(&mut health, pod(0, 2), ProbeState::Bad);
    let tables = planned(&model, &health);
    assert_eq!(slots(web(&tables)).len(), 4, "half of them pass, which is too few");
    assert_eq!(verdicts(web(&tables))[1..3], [("p2", Verdict::Panic), ("p3", Verdict::Taken)]);
}

#[test]
fn no_endpoint_at_all_is_an_empty_ring() {
    let mut spec = shard(0, 2);
    for endpoint in Arc::make_mut(&mut spec.endpoints) {
        endpoint.conditions = Conditions { ready: false, serving: true, terminating: true };
    }
    let tables = planned(&merged(&declared(), &states([(0, spec)]), None), &Health::default());
    let table = web(&tables);
    assert_eq!((table.ring.len(), table.backends.len(), table.ring_hash), (0, 2, 0));
    assert_eq!(verdicts(table), [("p1", Verdict::Draining), ("p2", Verdict::Draining)]);
}

#[test]
fn who_is_drained_takes_nothing_new_whatever_its_conditions() {
    let mut spec = shard(0, 3);
    let endpoints = Arc::make_mut(&mut spec.endpoints);
    endpoints[0].drained = true;
    (endpoints[1].drained, endpoints[1].conditions.ready) = (true, false);
    let tables = planned(&merged(&declared(), &states([(0, spec)]), None), &Health::default());
    let table = web(&tables);
    let expected = [("p1", Verdict::Draining), ("p2", Verdict::Draining), ("p3", Verdict::Taken)];
    assert_eq!(verdicts(table), expected);
    assert_eq!((slots(table).len(), table.shards[0].ready), (1, 1));
}

#[test]
fn min_healthy() {
    let mut near = shard(0, 3);
    near.options.min_healthy = 3;
    let model = merged(&declared(), &states([(0, near.clone()), (1, shard(1, 1))]), None);
    let mut health = Health::default();
    assert_eq!(serving(web(&planned(&model, &health))), ["c0"]);
    judge(&mut health, pod(0, 3), ProbeState::Bad);
    let tables = planned(&model, &health);
    assert_eq!(serving(web(&tables)), ["c1"]);
    assert_eq!(verdicts(web(&tables))[0], ("p1", Verdict::BelowMinHealthy { usable: 2, needed: 3 }));
    let alone = merged(&declared(), &states([(0, near)]), None);
    assert_eq!(slots(web(&planned(&alone, &health))).len(), 2, "too few are better than none");
}
