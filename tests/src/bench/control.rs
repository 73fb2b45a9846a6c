//! How long planning and carrying out take, and how much memory an agent has then.
//!
//! Each number of services is planned for in a process of its own, whose memory nothing else has touched.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use fairlead::dataplane::Instance;
use serde::{Deserialize, Serialize};

use super::agent;
use super::fleet::{Fleet, Kind};
use super::packets::rounded;
use super::plane::{Plane, Sizes};
use crate::world::Footprint;

/// Numbers of services.
pub(super) const SERVICES: [u32; 3] = [100, 1000, 10_000];

/// One number of services.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    pub(super) services: u32,
    /// From nothing, all of it carried out.
    pub(super) full_plan_ms: f64,
    /// An endpoint's readiness changed, all of it carried out.
    pub(super) one_change_ms: f64,
    /// Of an agent at rest.
    pub(super) rss_mib: f64,
}

/// What the child says.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Times {
    full_plan_ms: f64,
    one_change_ms: f64,
}

/// Has a child plan for `services`, with `changes` changes, and an agent load as many.
pub(super) fn measure(footprint: &Footprint, elf: &Path, services: u32, changes: u32) -> Result<Row> {
    let Times { full_plan_ms, one_change_ms } = times(footprint, elf, services, changes)?;
    let rss_mib = rounded(agent::memory(footprint, services)?);
    Ok(Row { services, full_plan_ms, one_change_ms, rss_mib })
}

fn times(footprint: &Footprint, elf: &Path, services: u32, changes: u32) -> Result<Times> {
    let output = Command::new(std::env::current_exe()?)
        .args(["control", footprint.id(), &services.to_string(), &changes.to_string()])
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
pub(super) fn child(id: &str, elf: &Path, services: u32, changes: u32) -> Result<Times> {
    let instance = Instance::new(&format!("{id}-control"));
    let times = in_this_process(&instance, elf, services, changes);
    instance.remove()?;
    times
}

fn in_this_process(instance: &Instance, elf: &Path, services: u32, changes: u32) -> Result<Times> {
    let mut fleet = Fleet::new(services, Kind::Plain, super::ROUTE)?;
    let mut plane = Plane::load(instance, elf, (services, Kind::Plain), Sizes::SMALL)?;
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
    Ok(Times { full_plan_ms: milliseconds(planning + applying), one_change_ms: milliseconds(median) })
}

fn milliseconds(duration: Duration) -> f64 {
    rounded(duration.as_secs_f64() * 1000.0)
}
