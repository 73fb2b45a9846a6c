//! How long planning and carrying out take, and how much memory that holds.
//!
//! Each number of services is measured in a process of its own, whose memory nothing else has touched.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use fairlead::dataplane::Instance;
use serde::{Deserialize, Serialize};

use super::fleet::{Fleet, Kind};
use super::packets::rounded;
use super::plane::Plane;

/// Numbers of services.
pub(super) const SERVICES: [u32; 3] = [100, 1000, 10_000];

/// One number of services.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) services: u32,
    /// From nothing, all of it carried out.
    pub(super) full_plan_ms: f64,
    /// An endpoint's readiness changed, all of it carried out.
    pub(super) one_change_ms: f64,
    pub(super) rss_mib: f64,
}

/// Has a child measure `services`, with `changes` changes.
pub(super) fn measure(id: &str, elf: &Path, services: u32, changes: u32) -> Result<Row> {
    let output = Command::new(std::env::current_exe()?)
        .args(["control", id, &services.to_string(), &changes.to_string()])
        .arg(elf)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("start the process that is measured")?;
    if !output.status.success() {
        bail!("measuring {services} services failed ({})", output.status);
    }
    serde_json::from_slice(&output.stdout).context("read what the measured process says")
}

/// What that child does.
pub(super) fn child(id: &str, elf: &Path, services: u32, changes: u32) -> Result<Row> {
    let instance = Instance::new(&format!("{id}-control"));
    let row = in_this_process(&instance, elf, services, changes);
    instance.remove()?;
    row
}

fn in_this_process(instance: &Instance, elf: &Path, services: u32, changes: u32) -> Result<Row> {
    let mut fleet = Fleet::new(services, Kind::Plain, super::ROUTE)?;
    let mut plane = Plane::load(instance, elf, services, Kind::Plain)?;
    let (planning, applying) = plane.turn(&fleet)?;
    plane.check(services, Kind::Plain)?;
    eprintln!("  {services} services: planned in {planning:.1?}, carried out in {applying:.1?}");
    let mut times = Vec::new();
    for change in 0..changes {
        // Spread over the services, none twice before all.
        fleet.flip(change.wrapping_mul(7919) % services)?;
        let (planning, applying) = plane.turn(&fleet)?;
        times.push(planning + applying);
    }
    times.sort();
    let median = times.get(times.len() / 2).copied().context("no change was made")?;
    Ok(Row {
        services,
        full_plan_ms: milliseconds(planning + applying),
        one_change_ms: milliseconds(median),
        rss_mib: rounded(own_memory_kib()? / 1024.0),
    })
}

fn milliseconds(duration: Duration) -> f64 {
    rounded(duration.as_secs_f64() * 1000.0)
}

/// What this process holds in memory, maps of the kernel that it has mapped among them.
fn own_memory_kib() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number =
        line.and_then(|line| line.split_whitespace().next()).context("no VmRSS in /proc/self/status")?;
    Ok(number.parse()?)
}
