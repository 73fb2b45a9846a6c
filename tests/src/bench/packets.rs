//! Nanoseconds per packet, by BPF_PROG_TEST_RUN of the wrappers, in turns with the floor.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use aya::programs::{Program, TestRun as _, TestRunOptions};
use fairlead::dataplane::Dataplane;
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

use super::case::{Case, TRANSMIT};
use super::records::{Record, check};

/// Flows that packets come from.
pub(super) const FLOWS: [u32; 4] = [1, 1024, 131_072, 1_048_576];

const INGRESS: &str = "bench_ingress";
const FLOOR: &str = "bench_floor";

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    /// Turns of both programs.
    pub(super) rounds: u32,
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
    ns_min: f64,
    ns_median: f64,
    floor_ns_min: f64,
    ratio_min: f64,
}

impl Row {
    pub(super) fn case(&self) -> &str {
        self.case
    }

    pub(super) fn busy(&self) -> u32 {
        self.busy
    }

    pub(super) fn ratio(&self) -> f64 {
        self.ratio_min
    }

    /// As a line of the table.
    pub(super) fn columns(&self) -> [String; 8] {
        [
            self.case.to_owned(),
            self.flows.to_string(),
            self.services.to_string(),
            self.busy.to_string(),
            format!("{:.1}", self.ns_min),
            format!("{:.1}", self.ns_median),
            format!("{:.1}", self.floor_ns_min),
            format!("{:.2}", self.ratio_min),
        ]
    }
}

/// The cases, from all numbers of flows, on tables that hold `services`.
pub(super) fn measure(
    dataplane: &mut Dataplane,
    cases: &[Case],
    services: u32,
    effort: Effort,
    mut on_row: impl FnMut(Row),
) -> Result<()> {
    let mut busy = vec![1, services];
    busy.dedup();
    for &case in cases {
        for flows in FLOWS {
            for &busy in &busy {
                let combination = || format!("{} of {flows} flows to {busy} of {services}", case.name);
                let times = turns(dataplane, case, flows, busy, effort).with_context(combination)?;
                on_row(row((case, flows, services, busy), times));
            }
        }
    }
    Ok(())
}

fn row((case, flows, services, busy): (Case, u32, u32, u32), (mut ours, floor): (Vec<f64>, Vec<f64>)) -> Row {
    ours.sort_by(f64::total_cmp);
    let ns_min = ours[0];
    let floor_ns_min = floor.into_iter().fold(f64::INFINITY, f64::min);
    Row {
        case: case.name,
        flows,
        services,
        busy,
        ns_min: rounded(ns_min),
        ns_median: rounded(ours[ours.len() / 2]),
        floor_ns_min: rounded(floor_ns_min),
        ratio_min: rounded(ns_min / floor_ns_min),
    }
}

/// To three digits behind the point: more is noise.
pub(super) fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// Nanoseconds per packet in each turn: ours and the floor's.
fn turns(
    dataplane: &mut Dataplane,
    case: Case,
    flows: u32,
    busy: u32,
    effort: Effort,
) -> Result<(Vec<f64>, Vec<f64>)> {
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    let of_floor = if case.is_forwarded() { case } else { case.as_tcp() };
    let mut records = [Record::new(case, flows, busy), Record::new(of_floor, flows, busy)];
    for round in 0..u64::from(effort.rounds) {
        for (program, times) in [(INGRESS, &mut ours), (FLOOR, &mut floor)] {
            let own = usize::from(program == FLOOR);
            records[own].write(dataplane)?;
            times.push(run(dataplane, program, case, effort.packets)?);
            records[own] = Record::read(dataplane, super::current_cpu()?)?;
            let packets = (round + 1) * u64::from(effort.packets);
            let verdict = if program == FLOOR { TRANSMIT } else { case.verdict() };
            check(&records[own], packets, verdict).context(program)?;
        }
    }
    Ok((ours, floor))
}

/// Nanoseconds of this thread's own time per packet.
fn run(dataplane: &mut Dataplane, name: &str, case: Case, packets: u32) -> Result<f64> {
    let Some(Program::Xdp(program)) = dataplane.program_mut(name) else {
        bail!("no program {name} in the ELF")
    };
    let frame = case.frame();
    let options = TestRunOptions { data_in: Some(&frame), repeat: packets, ..TestRunOptions::default() };
    let before = own_time()?;
    program.test_run(options).context("BPF_PROG_TEST_RUN")?;
    let spent = own_time()?.saturating_sub(before);
    #[expect(clippy::cast_precision_loss, reason = "a turn takes milliseconds")]
    Ok(spent.as_nanos() as f64 / f64::from(packets))
}

fn own_time() -> Result<Duration> {
    Ok(Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?))
}
