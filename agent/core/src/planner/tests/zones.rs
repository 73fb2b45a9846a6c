//! Hints of EndpointSlices: endpoints of the zone that the group plans from.

use super::*;

/// Shard c0, whose pods are hinted for these zones each; the group plans from `z0`.
fn hinted(zones: &[&[&str]]) -> ShardSpec {
    let mut spec = shard(0, u16::try_from(zones.len()).unwrap());
    for (endpoint, zones) in Arc::make_mut(&mut spec.endpoints).iter_mut().zip(zones) {
        endpoint.zones = zones.iter().map(|zone| Arc::from(*zone)).collect();
    }
    spec
}

fn verdicts_of(spec: ShardSpec, health: &Health) -> Vec<Verdict> {
    let model = merged(&declared(), &states([(0, spec)]), None);
    verdicts(web(&planned(&model, health))).into_iter().map(|(_, verdict)| verdict).collect()
}

#[test]
fn endpoints_that_are_hinted_for_the_zone_take_what_is_new() {
    use Verdict::{OtherZone, Taken};
    let rows: [(&[&[&str]], &[Verdict]); 6] = [
        (&[&["z0"], &["z1"], &["z0", "z1"]], &[Taken, OtherZone, Taken]),
        // One that has no hint, or none for this zone: then all are for all.
        (&[&["z0"], &["z1"], &[]], &[Taken, Taken, Taken]),
        (&[&["z1"], &["z2"]], &[Taken, Taken]),
        (&[&[], &[]], &[Taken, Taken]),
        (&[&["z0"], &["z0"]], &[Taken, Taken]),
        (&[&["Z0"], &["z1"]], &[Taken, Taken]),
    ];
    for (zones, expected) in rows {
        assert_eq!(verdicts_of(hinted(zones), &Health::default()), expected, "{zones:?}");
    }
    let tables =
        planned(&merged(&declared(), &states([(0, hinted(&[&["z0"], &["z1"]]))]), None), &Health::default());
    assert_eq!(slots(web(&tables)).keys().collect::<Vec<_>>(), ["c0/p1"]);
    assert_eq!(web(&tables).backends.len(), 2, "the other keeps its connections");
}

#[test]
fn where_the_zones_own_endpoints_fail_the_others_take_over() {
    let mut health = Health::default();
    judge(&mut health, pod(0, 1), ProbeState::Bad);
    let spec = || hinted(&[&["z0"], &["z1"], &["z2"]]);
    assert_eq!(verdicts_of(spec(), &health), [Verdict::ProbesFail, Verdict::Taken, Verdict::Taken]);
    let mut leaving = spec();
    Arc::make_mut(&mut leaving.endpoints)[0].conditions =
        Conditions { ready: false, serving: true, terminating: true };
    assert_eq!(verdicts_of(leaving, &Health::default()), [Verdict::Draining, Verdict::Taken, Verdict::Taken]);
    // In a panic, nobody is left out.
    for n in 1..=3 {
        judge(&mut health, pod(0, n), ProbeState::Bad);
    }
    assert_eq!(verdicts_of(spec(), &health), [Verdict::Panic; 3]);
}

#[test]
fn a_shard_is_able_by_all_its_endpoints_and_has_room_by_the_zones() {
    let mut spec = hinted(&[&["z0"], &["z1"], &["z2"]]);
    spec.options.min_healthy = 3;
    spec.options.capacity_per_endpoint = Some(50);
    let model = merged(&declared(), &states([(0, spec), (3, shard(3, 2))]), None);
    let tables = planned(&model, &Health::default());
    let shards = &web(&tables).shards;
    assert_eq!((shards[0].state, shards[0].usable, shards[0].capacity), (ShardState::Serving, 3, Some(50)));
    assert_eq!(shards[1].state, ShardState::Standby);
}

#[test]
fn a_group_in_several_zones_has_none() {
    let mut regional = declarations(9);
    regional.here.plans_from = Place::new("r0", "", "");
    let spec = hinted(&[&["z0"], &["z1"]]);
    let model = merged(&Arc::new(regional), &states([(0, spec)]), None);
    let tables = planned(&model, &Health::default());
    assert_eq!(verdicts(web(&tables)), [("p1", Verdict::Taken), ("p2", Verdict::Taken)]);
}
