//! A random mix of what can happen. All of it comes of a seed, so that a run can be repeated.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::stage::{ABROAD, GATEWAYS, NEAR_NODES, SERVING, SPARE, Stage};
use crate::packets::random::Rng;
use crate::world::Condition::{Ready, Terminating};

/// Things that happen.
const STEPS: usize = 30;

/// From one to the next, at most, in milliseconds.
const PAUSE_MS: usize = 600;

/// Plays a mix. Some of it takes time, and some waits for an agent to be ready.
pub(super) fn play(stage: &Stage, seed: u64) -> Result<()> {
    let mut mix = Mix { stage, rng: Rng::new(seed), away: false, dead: BTreeSet::new(), abroad: false };
    for _ in 0..STEPS {
        mix.step()?;
        let pause = u64::try_from(mix.rng.below(PAUSE_MS))?;
        thread::sleep(Duration::from_millis(pause));
    }
    Ok(())
}

struct Mix<'a> {
    stage: &'a Stage,
    rng: Rng,
    /// The third gateway is dead.
    away: bool,
    /// Hosts whose agents are dead.
    dead: BTreeSet<&'static str>,
    /// The other region's gateways have the traffic.
    abroad: bool,
}

impl Mix<'_> {
    fn step(&mut self) -> Result<()> {
        match self.rng.below(12) {
            0..4 => self.change_an_endpoint(),
            4 | 5 => self.rehash(),
            6 => self.flip(),
            7 => self.kill_or_return_a_gateway(),
            8 => self.kill_or_start_an_agent(),
            9 => self.stage.lose_probes(GATEWAYS[0], NEAR_NODES[0], self.rng.once_in(2)),
            10 => self.stage.stop_updates(GATEWAYS[1], self.rng.once_in(2)),
            _ => self.stage.kill_pod(SERVING[7]),
        }
    }

    /// Any but the first two, which always serve, and the last, which may be killed.
    fn change_an_endpoint(&mut self) -> Result<()> {
        let pods = [&SERVING[2..7], &SPARE].concat();
        let pod = self.rng.pick(&pods);
        match self.rng.below(3) {
            0 => self.stage.say(&[pod], Ready),
            1 => self.stage.say(&[pod], Terminating),
            _ => self.stage.say(&[pod], Ready).and_then(|()| self.stage.deselect(pod)),
        }
    }

    fn rehash(&mut self) -> Result<()> {
        if self.abroad {
            return Ok(());
        }
        let mut gateways = self.living();
        let by = self.rng.below(gateways.len());
        gateways.rotate_left(by);
        self.stage.route(&gateways)
    }

    fn flip(&mut self) -> Result<()> {
        self.abroad = !self.abroad;
        let gateways = if self.abroad { self.stage.gateways_of(ABROAD) } else { self.living() };
        self.stage.route(&gateways)
    }

    fn kill_or_return_a_gateway(&mut self) -> Result<()> {
        self.away = !self.away;
        let gateways = if self.abroad { self.stage.gateways_of(ABROAD) } else { self.living() };
        if self.away {
            self.dead.insert(GATEWAYS[2]);
            self.stage.kill_gateway(GATEWAYS[2], &gateways)
        } else {
            self.dead.remove(GATEWAYS[2]);
            self.stage.return_gateway(GATEWAYS[2], &gateways)
        }
    }

    fn kill_or_start_an_agent(&mut self) -> Result<()> {
        let host = self.rng.pick(&[GATEWAYS[0], GATEWAYS[1], NEAR_NODES[0], NEAR_NODES[1]]);
        if self.dead.remove(host) {
            self.stage.start_agents(&[host])
        } else {
            self.dead.insert(host);
            self.stage.kill_agents(&[host])
        }
    }

    fn living(&self) -> Vec<&'static str> {
        let end = if self.away { 2 } else { 3 };
        GATEWAYS[..end].to_vec()
    }
}
