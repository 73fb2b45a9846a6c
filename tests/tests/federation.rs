//! Clusters as their real API servers have them: what the federation makes of them, and what it keeps while they don't answer.
#![allow(clippy::unwrap_used, unreachable_pub, reason = "tests, and nobody's library")]

#[path = "federation/away.rs"]
mod away;
#[path = "federation/commands.rs"]
mod commands;
#[path = "federation/deaf.rs"]
mod deaf;
#[path = "federation/followed.rs"]
mod followed;
#[path = "federation/neighbours.rs"]
mod neighbours;
#[path = "federation/objects.rs"]
mod objects;
#[path = "federation/rights.rs"]
mod rights;
#[path = "federation/served.rs"]
mod served;
#[path = "federation/slices.rs"]
mod slices;

use std::net::Ipv4Addr;

use fairlead_tests::control_plane::{ControlPlane, Place, Wanted};
use fairlead_tests::world::Footprint;

/// Control planes on loopback, one for each name, behind what takes them away: so bound, a failed test still shows what their
/// programs said last.
fn planes<const N: usize>(names: [&str; N]) -> (Footprint, [ControlPlane; N]) {
    let footprint = Footprint::claim().unwrap();
    let place = Place::loopback(&footprint, Ipv4Addr::LOCALHOST.into()).unwrap();
    let planes = names.map(|name| ControlPlane::start(&place, &Wanted::new(name)).unwrap());
    (footprint, planes)
}

fn one() -> (Footprint, ControlPlane) {
    let (footprint, [plane]) = planes(["us-central1-a"]);
    (footprint, plane)
}
