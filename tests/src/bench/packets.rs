//! Nanoseconds per packet, by BPF_PROG_TEST_RUN of the wrappers, in turns with the floor.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::programs::{TestRun as _, TestRunOptions, XdpMode};
use fairlead::dataplane::Dataplane;
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

use super::case::{Case, TRANSMIT};
use super::link::{FAR, NEAR, xdp};
use super::records::{Record, check};

/// Flows that packets come from.
pub(super) const FLOWS: [u32; 4] = [1, 1024, 131_072, 1_048_576];

/// The gateway's `ingress` in its wrapper.
pub(super) const INGRESS: &str = "bench_ingress";
const FLOOR: &str = "bench_floor";

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    /// How often all combinations are gone through: the machine is slow for seconds, and must not be so for all of one
    /// combination's turns.
    pub(super) passes: u32,
    /// Turns of both programs at a combination; the first of them finds caches cold.
    pub(super) turns: u32,
    /// Packets of each program in a turn.
    pub(super) packets: u32,
}

/// One combination's times.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    case: &'static str,
    flows: u32,
    services: u32,
    busy: u32,
    #[serde(flatten)]
    times: Times,
}

impl Row {
    pub(super) fn case(&self) -> &str {
        self.case
    }

    pub(super) fn busy(&self) -> u32 {
        self.busy
    }

    pub(super) fn ratio(&self) -> f64 {
        self.times.ratio_min
    }

    /// As a line of the table.
    pub(super) fn columns(&self) -> [String; 8] {
        let [min, median, floor, ratio] = self.times.columns();
        let [flows, services, busy] = [self.flows, self.services, self.busy].map(|number| number.to_string());
        [self.case.to_owned(), flows, services, busy, min, median, floor, ratio]
    }
}

/// The cases, from all numbers of flows, on tables that hold `services`.
pub(super) fn measure(
    dataplane: &mut Dataplane,
    cases: &[Case],
    services: u32,
    effort: Effort,
) -> Result<Vec<Row>> {
    attach(dataplane, INGRESS)?;
    let mut busy = vec![1, services];
    busy.dedup();
    let of_case = |&case: &Case| {
        let busy = busy.clone();
        FLOWS.into_iter().flat_map(move |flows| busy.clone().into_iter().map(move |busy| (case, flows, busy)))
    };
    let all = cases.iter().flat_map(of_case);
    let mut combinations: Vec<_> =
        all.map(|(case, flows, busy)| Combination::new(case, flows, busy)).collect();
    for _ in 0..effort.passes {
        for combination in &mut combinations {
            let Combination { case, flows, busy, .. } = *combination;
            let which = || format!("{} of {flows} flows to {busy} of {services}", case.name);
            combination.measure(dataplane, effort).with_context(which)?;
        }
    }
    Ok(combinations.into_iter().map(|combination| combination.row(services)).collect())
}

/// Attaches a program and the floor: the kernel patches code, and waits, at each run of a program that is attached nowhere.
pub(super) fn attach(dataplane: &mut Dataplane, program: &str) -> Result<()> {
    for (program, end) in [(program, NEAR), (FLOOR, FAR)] {
        xdp(dataplane, program)?.attach(end, XdpMode::Driver)?;
    }
    Ok(())
}

/// One kind of packets, and what was measured of them.
struct Combination {
    case: Case,
    flows: u32,
    busy: u32,
    turns: Turns,
}

impl Combination {
    fn new(case: Case, flows: u32, busy: u32) -> Self {
        let ours = Side::new(INGRESS, case.verdict(), Record::new(case, flows, busy), &case.frame());
        Self { case, flows, busy, turns: Turns::new(ours, case, flows, busy) }
    }

    fn measure(&mut self, dataplane: &mut Dataplane, effort: Effort) -> Result<()> {
        self.turns.measure(dataplane, effort)
    }

    fn row(self, services: u32) -> Row {
        Row { case: self.case.name, flows: self.flows, services, busy: self.busy, times: self.turns.times() }
    }
}

/// A program in turns with the floor.
pub(super) struct Turns {
    ours: Side,
    floor: Side,
}

/// Nanoseconds per packet.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Times {
    ns_min: f64,
    ns_median: f64,
    floor_ns_min: f64,
    pub(super) ratio_min: f64,
}

impl Times {
    /// As the last cells of a line of a table.
    pub(super) fn columns(&self) -> [String; 4] {
        let times = [self.ns_min, self.ns_median, self.floor_ns_min].map(|time| format!("{time:.1}"));
        let [min, median, floor] = times;
        [min, median, floor, format!("{:.2}", self.ratio_min)]
    }
}

/// One of the two programs.
pub(super) struct Side {
    program: &'static str,
    verdict: usize,
    record: Record,
    frame: Vec<u8>,
    packets: u64,
    /// Nanoseconds per packet in each turn.
    times: Vec<f64>,
}

impl Turns {
    /// `ours` beside the floor of as many packets of `case`.
    pub(super) fn new(ours: Side, case: Case, flows: u32, busy: u32) -> Self {
        let of_floor = case.for_floor();
        let record = Record::new(of_floor, flows, busy);
        Self { ours, floor: Side::new(FLOOR, TRANSMIT, record, &of_floor.frame()) }
    }

    /// Both programs in turns.
    pub(super) fn measure(&mut self, dataplane: &mut Dataplane, effort: Effort) -> Result<()> {
        for _ in 0..effort.turns {
            for side in [&mut self.ours, &mut self.floor] {
                side.turn(dataplane, effort.packets).context(side.program)?;
            }
        }
        // The kernel counts runs while it times them, which costs as much as a packet does.
        ensure!(
            xdp(dataplane, FLOOR)?.info()?.run_count() == 0,
            "the kernel keeps statistics of BPF programs, and would be measured with them: set sysctl \
             kernel.bpf_stats_enabled to 0, and end what else asked for them (`bpftool prog profile`, \
             `cargo xtask test survive --flood`)"
        );
        Ok(())
    }

    pub(super) fn times(mut self) -> Times {
        self.ours.times.sort_by(f64::total_cmp);
        let ns_min = self.ours.times[0];
        let floor_ns_min = self.floor.times.into_iter().fold(f64::INFINITY, f64::min);
        Times {
            ns_min: rounded(ns_min),
            ns_median: rounded(self.ours.times[self.ours.times.len() / 2]),
            floor_ns_min: rounded(floor_ns_min),
            ratio_min: rounded(ns_min / floor_ns_min),
        }
    }

    /// Packets that the program was given.
    pub(super) fn packets(&self) -> u64 {
        self.ours.packets
    }
}

impl Side {
    /// Of `program`, on frames like this one, all of which get this verdict.
    pub(super) fn new(program: &'static str, verdict: usize, record: Record, frame: &[u8]) -> Self {
        Self { program, verdict, record, frame: frame.to_vec(), packets: 0, times: Vec::new() }
    }

    fn turn(&mut self, dataplane: &mut Dataplane, packets: u32) -> Result<()> {
        self.record.write(dataplane)?;
        self.times.push(run(dataplane, self.program, &self.frame, packets)?);
        self.record = Record::read(dataplane, super::current_cpu()?)?;
        self.packets += u64::from(packets);
        check(&self.record, self.packets, self.verdict)
    }
}

/// To three digits behind the point: more is noise.
pub(super) fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// Nanoseconds of this thread's own time per packet.
fn run(dataplane: &mut Dataplane, name: &str, frame: &[u8], packets: u32) -> Result<f64> {
    let program = xdp(dataplane, name)?;
    let options = TestRunOptions { data_in: Some(frame), repeat: packets, ..TestRunOptions::default() };
    let before = own_time()?;
    program.test_run(options).context("BPF_PROG_TEST_RUN")?;
    let spent = own_time()?.saturating_sub(before);
    #[expect(clippy::cast_precision_loss, reason = "a turn takes milliseconds")]
    Ok(spent.as_nanos() as f64 / f64::from(packets))
}

fn own_time() -> Result<Duration> {
    Ok(Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?))
}
