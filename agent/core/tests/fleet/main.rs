//! A fleet of gateways before endpoints that come and go: no connection breaks as long as its endpoint lives.
//!
//! Planner, diff, mirror and learning are the real ones, one of each for every gateway, on arrays that are read as the program
//! reads them. What programs and receivers do is modelled after the design: bounces, claims into a bounded cache, asks with a
//! limit and losses, and QUIC by the server IDs of a connection whose client moves all the time. Updates come late or not at all, a router rehashes modulo the number of gateways.
//!
//! `FAIRLEAD_FLEETS` sets how many fleets, `FAIRLEAD_SEED` repeats one.

mod events;
mod gateway;
mod kernel;
mod random;
mod told;
mod world;

use world::{Outcome, World};

/// Fleets, unless `FAIRLEAD_FLEETS` says otherwise.
const FLEETS: u64 = 50;

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text:?} is no number")))
}

#[test]
fn no_connection_breaks_whose_endpoint_lives() {
    let seeds = match number_from("FAIRLEAD_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number_from("FAIRLEAD_FLEETS").unwrap_or(FLEETS),
    };
    let mut all = Outcome::default();
    let mut failed = Vec::new();
    for seed in seeds {
        let outcome = World::new(seed).run();
        if outcome.broken > 0 {
            failed.push((seed, outcome.broken));
        }
        all = all.plus(outcome);
    }
    println!("{all}");
    assert_eq!(failed, [], "FAIRLEAD_SEED and the connections that broke");
}

impl Outcome {
    fn plus(self, other: Self) -> Self {
        Self {
            connections: self.connections + other.connections,
            quic: self.quic + other.quic,
            died: self.died + other.died,
            broken: self.broken + other.broken,
            packets: self.packets + other.packets,
            bounces: self.bounces + other.bounces,
            looked: self.looked + other.looked,
            asks: self.asks + other.asks,
            put_off: self.put_off + other.put_off,
            longest: self.longest.max(other.longest),
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let each = |part: u64| part as f64 / self.packets.max(1) as f64;
        write!(
            f,
            "{} connections, {} of them of QUIC, {} ended with their endpoints, {} broke; {} packets: {:.4} bounces each, {:.3} of them looked \
             at the cache; {} asks, {} put off; at most {} ms without an answer",
            self.connections,
            self.quic,
            self.died,
            self.broken,
            self.packets,
            each(self.bounces),
            each(self.looked),
            self.asks,
            self.put_off,
            self.longest,
        )
    }
}
