//! Whatever the federation looks like: the order of its description doesn't matter, nor what was planned before.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::fixtures::*;
use crate::model::*;

/// One shard in few words: pods, those not ready, capacity of each, fewest healthy.
#[derive(Clone, Debug)]
struct Sketch {
    cluster: u8,
    service: usize,
    pods: u16,
    unready: u16,
    capacity: Option<u32>,
    min_healthy: u32,
    requested: bool,
}

const SERVICES: [&str; 3] = ["web", "shop", "api"];

fn sketch() -> impl Strategy<Value = Sketch> {
    let numbers = (0u8..9, 0usize..3, any::<u16>(), any::<u16>());
    let options = (prop::option::of(0u32..200), 0u32..4, any::<bool>());
    (numbers, options).prop_map(|((cluster, service, pods, unready), (capacity, min_healthy, requested))| {
        Sketch {
            cluster,
            service,
            pods: pods & 0xfff,
            unready: unready & (unready >> 2),
            capacity,
            min_healthy,
            requested,
        }
    })
}

impl Sketch {
    fn spec(&self) -> ShardSpec {
        let mut spec = shard(self.cluster, 0);
        spec.options.capacity_per_endpoint = self.capacity;
        spec.options.min_healthy = self.min_healthy;
        spec.wants_v6 = self.requested;
        spec.ports[0].quic = self.service == 1;
        if self.requested {
            // Services may ask for the same one.
            spec.requested_vips = vec![format!("192.0.2.{}", 50 + self.service / 2).parse().unwrap()];
        }
        let pods = (0..12).filter(|n| self.pods & (1 << n) != 0).map(|n| {
            let mut endpoint = endpoint(self.cluster, n + 1);
            endpoint.conditions.ready = self.unready & (1 << n) == 0;
            endpoint
        });
        spec.endpoints = Arc::new(pods.collect());
        spec
    }
}

/// States from sketches; the last of a shard counts.
fn states_of(sketches: &[Sketch]) -> States {
    services(sketches.iter().map(|sketch| (sketch.cluster, SERVICES[sketch.service], sketch.spec())))
}

fn health_of(bad: &[(u8, u8)]) -> Health {
    let mut health = Health::default();
    for &(cluster, n) in bad {
        judge(&mut health, std::net::Ipv4Addr::new(10, cluster, 0, n), ProbeState::Bad);
    }
    health
}

fn bad() -> impl Strategy<Value = Vec<(u8, u8)>> {
    prop::collection::vec((0u8..9, 1u8..13), 0..20)
}

fn plan(planner: &mut Planner, model: &Model, health: &Health, demand: u64, ms: u64) -> Planned {
    let per_second = SERVICES.map(|service| (name(service), demand)).into();
    let inputs = Inputs {
        model,
        health,
        demand: &Demand { per_second },
        links: &Arc::default(),
        held: &Held::default(),
        silent: &Arc::default(),
        now: Duration::from_millis(ms),
    };
    planner.plan(&inputs)
}

proptest! {
    #[test]
    fn the_order_of_input_does_not_matter(
        sketches in prop::collection::vec(sketch(), 1..12),
        bad in bad(),
        demand in 0u64..3000,
        seed in any::<u64>(),
    ) {
        let declared = Arc::new(declarations(9));
        let states = states_of(&sketches);
        let mut shuffled = states.clone();
        for spec in shuffled.values_mut().flat_map(|state| state.shards.values_mut()) {
            let endpoints = Arc::make_mut(&mut Arc::make_mut(spec).endpoints);
            let key = |e: &Endpoint| u64::from(e.v4.unwrap().to_bits()).wrapping_mul(seed | 1);
            endpoints.sort_by_key(key);
        }
        let mut other = (*declared).clone();
        other.pools.reverse();
        other.gateways.reverse();
        let health = health_of(&bad);
        let a = plan(&mut Planner::new(), &merged(&declared, &states, None), &health, demand, 0);
        let b = plan(&mut Planner::new(), &merged(&Arc::new(other), &shuffled, None), &health, demand, 0);
        prop_assert_eq!(a.tables.fingerprint(), b.tables.fingerprint());
        prop_assert_eq!(a, b);
    }

    #[test]
    fn what_was_planned_before_only_saves_time(
        rounds in prop::collection::vec((prop::collection::vec(sketch(), 0..6), bad(), 0u64..1000, 0u64..3000), 1..5),
    ) {
        let mut declarations = declarations(9);
        // Returning shards and lingering endpoints are history on purpose.
        (declarations.tuning.return_steps, declarations.tuning.linger) = (0, Duration::ZERO);
        let declared = Arc::new(declarations);
        let mut planner = Planner::new();
        let mut model = Model::default();
        let (mut sketches, mut ms) = (Vec::new(), 0);
        for (more, bad, demand, pause) in rounds {
            sketches.extend(more);
            ms += pause;
            model = merged(&declared, &states_of(&sketches), Some(&model));
            let health = health_of(&bad);
            let with = plan(&mut planner, &model, &health, demand, ms);
            prop_assert_eq!(&with, &plan(&mut Planner::new(), &model, &health, demand, ms));
        }
    }

    #[test]
    fn shares_and_rings_make_sense(
        sketches in prop::collection::vec(sketch(), 1..12),
        bad in bad(),
        demand in 0u64..3000,
    ) {
        let model = merged(&Arc::new(declarations(9)), &states_of(&sketches), None);
        let planned = plan(&mut Planner::new(), &model, &health_of(&bad), demand, 0);
        for table in planned.tables.services.values().filter(|table| table.protocol.is_some()) {
            let ready = table.shards.iter().any(|shard| shard.ready > 0);
            prop_assert_eq!(!table.ring.is_empty(), ready, "a ring is empty only when no endpoint is ready");
            let whole: u32 = table.shards.iter().map(|shard| shard.share.0).sum();
            prop_assert!(!ready || whole.abs_diff(Share::WHOLE.0) <= 9, "shares add up to {}", whole);
            for (position, backend) in (0u16..=u16::MAX).zip(&table.backends) {
                let holds = table.ring.contains(&position);
                prop_assert!(!holds || backend.weight > 0);
                prop_assert_eq!(backend.weight > 0, backend.verdict.is_taken());
            }
            prop_assert!(table.backends.is_sorted_by(|a, b| a.outer < b.outer));
        }
    }
}
