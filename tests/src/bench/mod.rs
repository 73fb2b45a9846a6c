//! The bench: what a packet costs, what a link carries, how long planning takes.
//!
//! In: the ELF of the programs with their wrappers. Out: a table, or one JSON document; progress goes to standard
//! error. What is measured is compared with a floor (see `packets`) in the same minute, because the speed of a machine
//! drifts. Nothing here fails for being slow; it fails if a packet had another verdict than it should.

mod agent;
mod case;
mod connections;
mod control;
mod fleet;
mod link;
mod live;
mod packets;
mod plane;
mod records;
mod report;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use fairlead::dataplane::Instance;
use fairlead_abi::Hop;
use fairlead_core::planner::Route;
use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;
use serde::Serialize;

use crate::world::Footprint;
use case::Case;
use fleet::{Fleet, Kind};
use plane::{Plane, Sizes};

/// How the bench is to be run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The programs with their wrappers, `bench.bpf.o`.
    pub elf: PathBuf,
    /// Every combination, each for a shorter time.
    pub quick: bool,
    /// Standard output is one JSON document.
    pub json: bool,
    /// Only one of the parts.
    pub part: Option<Part>,
    /// Only these cases; all, if empty.
    pub cases: Vec<String>,
    /// Only tables of so many services.
    pub services: Option<u32>,
}

/// A part of the bench.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Nanoseconds per packet.
    Packets,
    /// The same of packets whose endpoint has to be found or to know them.
    Connections,
    /// Packets per second over a link.
    Live,
    /// Planning.
    Control,
}

/// All that was measured; parts that were not are empty.
#[derive(Debug, Default, Serialize)]
struct Results {
    packets: Vec<packets::Row>,
    connections: Vec<connections::Row>,
    live: Vec<live::Row>,
    control: Vec<control::Row>,
}

/// Numbers of services that packets are measured with.
const SERVICES: [u32; 3] = [1, 100, 10_000];

/// How endpoints are reached: by the loopback interface, which BPF_PROG_TEST_RUN has packets come in by.
const ROUTE: Route = Route { hop: HOP, routed_by: HOP.ifindex, mtu: 1500 };
const HOP: Hop = Hop {
    destination_mac: [2, 0, 0, 0, 0, 2],
    source_mac: [2, 0, 0, 0, 0, 1],
    ifindex: 1,
    tags: [[0; 4]; 2],
};

/// Measures, and says what was found.
pub fn run(options: &Options) -> Result<()> {
    let began = Instant::now();
    let footprint = Footprint::claim()?;
    let wanted = |part| options.part.is_none_or(|only| only == part);
    let cases = case::named(&options.cases)?;
    let mut results = Results::default();
    if wanted(Part::Control) {
        let changes = if options.quick { 11 } else { 51 };
        for services in
            control::SERVICES.into_iter().filter(|&n| options.services.is_none_or(|only| n == only))
        {
            eprintln!("planning for {services} services");
            results.control.push(control::measure(&footprint, &options.elf, services, changes)?);
        }
    }
    pin()?;
    if wanted(Part::Packets) {
        measure_packets(&footprint, options, &cases, &mut results.packets)?;
    }
    if wanted(Part::Connections) {
        measure_connections(&footprint, options, &mut results.connections)?;
    }
    if wanted(Part::Live) {
        eprintln!("live frames on a veth pair");
        let (rounds, turn) = if options.quick { (5, 100) } else { (12, 250) };
        let effort = live::Effort { rounds, turn: Duration::from_millis(turn) };
        live::measure(&footprint, &options.elf, &cases, effort, |row| results.live.push(row))?;
    }
    eprintln!("measured in {:.0?}", began.elapsed());
    if options.json {
        println!("{}", serde_json::to_string_pretty(&results)?);
    } else {
        print!("{}", report::text(&results));
    }
    Ok(())
}

/// What the process does that [`Part::Control`] measures; one row on standard output.
pub fn run_control(id: &str, elf: &Path, services: u32, changes: u32) -> Result<()> {
    println!("{}", serde_json::to_string(&control::child(id, elf, services, changes)?)?);
    Ok(())
}

fn measure_packets(
    footprint: &Footprint,
    options: &Options,
    cases: &[Case],
    rows: &mut Vec<packets::Row>,
) -> Result<()> {
    let (passes, packets) = if options.quick { (6, 20_000) } else { (20, 50_000) };
    let effort = packets::Effort { passes, turns: 4, packets };
    let namespace = link::pair(footprint, "packets")?;
    for services in SERVICES.into_iter().filter(|&n| options.services.is_none_or(|only| n == only)) {
        eprintln!("packets, {services} services");
        let instance = Instance::new(&format!("{}-packets", footprint.id()));
        let mut plane = Plane::load(&instance, &options.elf, (services, Kind::Everything), Sizes::SMALL)?;
        plane.turn(&Fleet::new(services, Kind::Everything, ROUTE)?)?;
        plane.check(services, Kind::Everything)?;
        rows.extend(namespace.run(|| packets::measure(&mut plane.dataplane, cases, services, effort))?);
        drop(plane);
        instance.remove()?;
    }
    Ok(())
}

fn measure_connections(
    footprint: &Footprint,
    options: &Options,
    rows: &mut Vec<connections::Row>,
) -> Result<()> {
    let (passes, packets) = if options.quick { (4, 20_000) } else { (20, 50_000) };
    let effort = packets::Effort { passes, turns: 4, packets };
    eprintln!("packets of connections that have moved, and a receiver's");
    let namespace = link::pair(footprint, "connections")?;
    let instance = Instance::new(&format!("{}-connections", footprint.id()));
    for connections::Part { kind, sizes, measure } in connections::PARTS {
        let mut plane = Plane::load(&instance, &options.elf, (1, kind), sizes)?;
        plane.turn(&Fleet::new(1, kind, ROUTE)?)?;
        rows.extend(namespace.run(|| measure(&mut plane, effort))?);
        drop(plane);
        instance.remove()?;
    }
    Ok(())
}

/// Keeps this thread, and those that it makes, on the CPU where it runs now.
fn pin() -> Result<()> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).context("ask for the CPUs of this process")?;
    // The last one: interrupts go to the first on many machines.
    let cpu = (0..CpuSet::count()).rev().find(|&cpu| allowed.is_set(cpu).unwrap_or(false));
    let mut one = CpuSet::new();
    one.set(cpu.context("this process may use no CPU")?)?;
    sched_setaffinity(Pid::from_raw(0), &one).context("stay on one CPU")
}

fn current_cpu() -> Result<usize> {
    sched_getcpu().context("ask for the CPU of this thread")
}
