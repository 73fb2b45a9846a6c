//! Which shard takes how much of a service's new connections.
//!
//! The nearest shards are filled up to their capacity, the rest spills to the next; proportionally to capacity within
//! the same distance. When all are full, all take more than their capacity, in proportion to it.

use super::Distance;

/// What counts of a shard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taker {
    pub(super) distance: Distance,
    /// Endpoints that may take new connections; 0: the shard takes nothing.
    pub(super) endpoints: u32,
    /// New connections per second; `None`: no limit.
    pub(super) capacity: Option<u64>,
    /// What part of its share it may take, 0 to 1; less than 1 while it is let in gradually.
    pub(super) let_in: f64,
}

/// The share of each, adding up to 1; all 0 where none has endpoints.
pub(super) fn shares(takers: &[Taker], demand: u64) -> Vec<f64> {
    // Without demand the nearest get everything, whatever their capacity: as if it were next to nothing.
    #[expect(clippy::cast_precision_loss, reason = "connections per second are far below 2^53")]
    let demand = (demand as f64).max(1e-6);
    let limit = |taker: &Taker| taker.capacity.map_or(f64::INFINITY, exact);
    let limits: Vec<f64> = takers.iter().map(limit).collect();
    let settled = fill(takers, &limits, demand);
    if takers.iter().all(|taker| taker.let_in >= 1.0) {
        return settled.iter().map(|taken| taken / demand).collect();
    }
    // What a returning shard isn't given yet goes where it would go if the shard had only that capacity.
    let lowered = |((taker, taken), limit): ((&Taker, &f64), &f64)| {
        if taker.let_in < 1.0 { taken * taker.let_in } else { *limit }
    };
    let limits: Vec<f64> = takers.iter().zip(&settled).zip(&limits).map(lowered).collect();
    fill(takers, &limits, demand).iter().map(|taken| taken / demand).collect()
}

#[expect(clippy::cast_precision_loss, reason = "connections per second are far below 2^53")]
fn exact(capacity: u64) -> f64 {
    capacity as f64
}

/// What each takes of `demand`, nearest first, each up to its limit as long as another has room.
fn fill(takers: &[Taker], limits: &[f64], demand: f64) -> Vec<f64> {
    let mut taken = vec![0.0; takers.len()];
    let mut left = demand;
    let mut tiers: Vec<Distance> =
        takers.iter().filter(|taker| taker.endpoints > 0).map(|taker| taker.distance).collect();
    tiers.sort_unstable();
    tiers.dedup();
    for tier in tiers {
        let members: Vec<usize> =
            (0..takers.len()).filter(|&at| takers[at].distance == tier && takers[at].endpoints > 0).collect();
        left = fill_tier(takers, limits, &members, left, &mut taken);
        if left <= 0.0 {
            return taken;
        }
    }
    spread(takers, left, &mut taken);
    taken
}

/// Gives the members of one tier what they have room for; what is left over comes back.
fn fill_tier(takers: &[Taker], limits: &[f64], members: &[usize], left: f64, taken: &mut [f64]) -> f64 {
    let weights = weights(takers, members);
    let mut open: Vec<usize> = (0..members.len()).collect();
    let mut left = left;
    loop {
        let total: f64 = open.iter().map(|&m| weights[m]).sum();
        if total <= 0.0 || left <= 0.0 {
            return left.max(0.0);
        }
        let full = |m: &usize| left * weights[*m] / total >= limits[members[*m]];
        let (filled, rest): (Vec<usize>, Vec<usize>) = open.iter().copied().partition(full);
        if filled.is_empty() {
            for &m in &rest {
                taken[members[m]] = left * weights[m] / total;
            }
            return 0.0;
        }
        for m in filled {
            taken[members[m]] = limits[members[m]];
            left -= limits[members[m]];
        }
        open = rest;
    }
}

/// Everything is full: all take more, in proportion. A returning one doesn't, unless there is no other.
fn spread(takers: &[Taker], left: f64, taken: &mut [f64]) {
    let present = |at: &usize| takers[*at].endpoints > 0;
    let mut members: Vec<usize> =
        (0..takers.len()).filter(present).filter(|&at| takers[at].let_in >= 1.0).collect();
    if members.is_empty() {
        members = (0..takers.len()).filter(present).collect();
    }
    let weights = weights(takers, &members);
    let total: f64 = weights.iter().sum();
    for (&at, weight) in members.iter().zip(&weights) {
        taken[at] += left * weight / total;
    }
}

/// In what proportion shards of one distance share: by capacity; by endpoints where one of them has no limit, or none
/// has any capacity.
fn weights(takers: &[Taker], members: &[usize]) -> Vec<f64> {
    let by_endpoints = || members.iter().map(|&at| f64::from(takers[at].endpoints)).collect();
    let capacities: Option<Vec<f64>> = members.iter().map(|&at| takers[at].capacity.map(exact)).collect();
    match capacities {
        Some(capacities) if capacities.iter().sum::<f64>() > 0.0 => capacities,
        _ => by_endpoints(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taker(distance: Distance, endpoints: u32, capacity: impl Into<Option<u64>>) -> Taker {
        Taker { distance, endpoints, capacity: capacity.into(), let_in: 1.0 }
    }

    fn percents(takers: &[Taker], demand: u64) -> Vec<f64> {
        shares(takers, demand).iter().map(|share| (share * 1e6).round() / 1e4).collect()
    }

    use Distance::{Away, Cluster, Region, Zone};

    #[test]
    fn the_nearest_takes_all_without_demand_or_limit() {
        let fleet = [taker(Region, 3, None), taker(Cluster, 3, 100), taker(Away(10), 30, None)];
        assert_eq!(percents(&fleet, 0), [0.0, 100.0, 0.0]);
        assert_eq!(percents(&fleet, 100), [0.0, 100.0, 0.0], "full, but not over");
        assert_eq!(percents(&[taker(Away(7), 1, None)], 5), [100.0]);
    }

    #[test]
    fn what_is_too_much_spills_to_the_next() {
        // 1,000 per second: 100 stay, 300 spill to the zone, the rest goes to the region.
        let fleet = [taker(Cluster, 1, 100), taker(Zone, 3, 300), taker(Region, 9, None)];
        assert_eq!(percents(&fleet, 1000), [10.0, 30.0, 60.0]);
    }

    #[test]
    fn equals_share_by_capacity() {
        let fleet =
            [taker(Cluster, 1, 100), taker(Region, 3, 300), taker(Region, 1, 100), taker(Away(1), 9, None)];
        // 200 spill to the region, which has 400: three to one.
        assert_eq!(percents(&fleet, 300), [33.3333, 50.0, 16.6667, 0.0]);
    }

    #[test]
    fn one_without_limit_makes_equals_share_by_endpoints() {
        let fleet = [taker(Region, 1, 100), taker(Region, 3, None)];
        assert_eq!(percents(&fleet, 200), [25.0, 75.0]);
        // A quarter of 800 would be 200: the limited one stops at 100.
        assert_eq!(percents(&fleet, 800), [12.5, 87.5]);
    }

    #[test]
    fn all_full_share_by_capacity() {
        let fleet = [taker(Cluster, 1, 100), taker(Away(5), 3, 300)];
        // 400 of 800 are placed, 400 more are spread 1:3.
        assert_eq!(percents(&fleet, 800), [25.0, 75.0]);
        assert_eq!(
            percents(&[taker(Cluster, 1, 0), taker(Zone, 3, 0)], 10),
            [25.0, 75.0],
            "no capacity at all"
        );
    }

    #[test]
    fn without_endpoints_nobody_takes() {
        assert_eq!(shares(&[taker(Cluster, 0, None)], 10), [0.0]);
        assert_eq!(percents(&[taker(Cluster, 0, None), taker(Away(9), 2, None)], 10), [0.0, 100.0]);
        assert!(shares(&[], 10).is_empty());
    }

    #[test]
    fn a_returning_shard_takes_its_part_only() {
        let mut fleet = [taker(Cluster, 3, None), taker(Zone, 3, None), taker(Region, 3, None)];
        fleet[0].let_in = 0.25;
        assert_eq!(percents(&fleet, 40), [25.0, 75.0, 0.0]);
        fleet[1].let_in = 0.5;
        assert_eq!(
            percents(&fleet, 40),
            [25.0, 0.0, 75.0],
            "without the first, the second had nothing to return to"
        );
        let alone = [Taker { let_in: 0.25, ..taker(Cluster, 3, None) }];
        assert_eq!(percents(&alone, 40), [100.0], "there is nobody else");
    }

    #[test]
    fn a_returning_shard_among_full_ones_is_not_overrun() {
        let mut fleet = [taker(Cluster, 1, 100), taker(Zone, 1, 100)];
        fleet[0].let_in = 0.5;
        // It would take 100 of 200; half of that, the other one the rest although that is over its capacity.
        assert_eq!(percents(&fleet, 200), [25.0, 75.0]);
    }
}
