//! Packets per second over a link: live frames on a veth pair, `ingress` in turns with the floor.
//!
//! The generator sends from the near end, the far end runs what is measured and sends back, and the near end counts and
//! drops, and takes the time of every so many. All of it happens on one CPU, so that a rate is the inverse of what one
//! packet costs from end to end. Calls are not timed: the kernel waits at the end of each for its pages, by whole ticks of
//! its clock, as long as some thousand packets take.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aya::programs::xdp::XdpLinkId;
use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions, XdpMode};
use fairlead::dataplane::Instance;
use fairlead_abi::{Hop, program};
use fairlead_core::planner::Route;
use nix::net::if_::if_nametoindex;
use serde::Serialize;

use super::case::{Case, FRAME};
use super::fleet::{Fleet, Kind};
use super::link::{self, FAR, NEAR, xdp};
use super::packets::rounded;
use super::plane::{Plane, Sizes};
use super::records::{BLOCK, Record};
use crate::world::Footprint;

/// Services that the tables hold, and flows of the traffic to one of them.
const SERVICES: u32 = 100;
const FLOWS: u32 = 131_072;
/// Frames that the kernel takes at a time, and that one call sends.
const BATCH: u32 = 64;
const FRAMES: u32 = 131_072;

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    /// Turns of both programs.
    pub(super) rounds: u32,
    /// How long a turn is.
    pub(super) turn: Duration,
}

/// One case's rates.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    pub(super) case: &'static str,
    pub(super) mpps: f64,
    pub(super) floor_mpps: f64,
}

/// Those of the cases that are forwarded.
pub(super) fn measure(
    footprint: &Footprint,
    elf: &Path,
    cases: &[Case],
    effort: Effort,
    mut on_row: impl FnMut(Row) + Send,
) -> Result<()> {
    let namespace = link::pair(footprint, "live")?;
    let instance = Instance::new(&format!("{}-live", footprint.id()));
    namespace.run(|| {
        let mut link = Link::new(&instance, elf)?;
        for &case in cases.iter().filter(|case| case.is_forwarded()) {
            on_row(link.measure(case, effort).with_context(|| case.name)?);
        }
        Ok(())
    })?;
    instance.remove()?;
    Ok(())
}

/// The pair, and the programs.
struct Link {
    plane: Plane,
    near: u32,
}

impl Link {
    fn new(instance: &Instance, elf: &Path) -> Result<Self> {
        let far = if_nametoindex(FAR)?;
        let route = Route { hop: Hop { ifindex: far, ..super::HOP }, ..super::ROUTE };
        let mut plane = Plane::load(instance, elf, (SERVICES, Kind::Everything), Sizes::SMALL)?;
        plane.turn(&Fleet::new(SERVICES, Kind::Everything, route)?)?;
        plane.check(SERVICES, Kind::Everything)?;
        xdp(&mut plane.dataplane, "live_sink")?.attach(NEAR, XdpMode::Driver)?;
        Ok(Self { plane, near: if_nametoindex(NEAR)? })
    }

    fn measure(&mut self, case: Case, effort: Effort) -> Result<Row> {
        let (mut ours, mut floor) = (Vec::new(), Vec::new());
        for _ in 0..effort.rounds {
            ours.push(self.turn(program::INGRESS, case, effort.turn)?);
            floor.push(self.turn("live_floor", case, effort.turn)?);
        }
        let best = |rates: Vec<f64>| rounded(rates.into_iter().fold(0.0, f64::max));
        Ok(Row { case: case.name, mpps: best(ours), floor_mpps: best(floor) })
    }

    /// Millions of packets per second that came back, in the best block.
    fn turn(&mut self, program: &str, case: Case, turn: Duration) -> Result<f64> {
        let id: XdpLinkId = xdp(&mut self.plane.dataplane, program)?.attach(FAR, XdpMode::Driver)?;
        let rate = self.rate(case, turn).with_context(|| program.to_owned());
        xdp(&mut self.plane.dataplane, program)?.detach(id)?;
        rate
    }

    fn rate(&mut self, case: Case, turn: Duration) -> Result<f64> {
        let cpu = super::current_cpu()?;
        Record::new(case, FLOWS, 1).write(&mut self.plane.dataplane)?;
        self.send(case)?;
        let (before, began) = (Record::read(&mut self.plane.dataplane, cpu)?, Instant::now());
        while began.elapsed() < turn {
            self.send(case)?;
        }
        let after = Record::read(&mut self.plane.dataplane, cpu)?;
        let (arrived, strange) = after.arrived();
        ensure!(strange == 0, "{strange} packets came back otherwise than they should");
        let (sent, came) = (after.runs() - before.runs(), arrived - before.arrived().0);
        ensure!(came * 100 >= sent * 99, "of {sent} packets only {came} came back");
        let took = after.fastest().context("no block of packets came back")?;
        #[expect(clippy::cast_precision_loss, reason = "a block takes milliseconds")]
        Ok(BLOCK as f64 * 1000.0 / took as f64)
    }

    fn send(&mut self, case: Case) -> Result<()> {
        let length = u32::try_from(FRAME)?;
        let context: Vec<u8> =
            [0, length, 0, self.near, 0, 0].iter().flat_map(|field| field.to_ne_bytes()).collect();
        let frame = case.frame();
        let options = TestRunOptions {
            data_in: Some(&frame),
            ctx_in: Some(&context),
            repeat: FRAMES,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::default()
        };
        xdp(&mut self.plane.dataplane, "live_generate")?.test_run(options).context("send live frames")?;
        Ok(())
    }
}
