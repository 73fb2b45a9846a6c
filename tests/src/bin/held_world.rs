//! Builds a small world and holds it until it is ended, one way or the other: what the tests of a world's end run in a
//! process of its own. With `clusters`, it holds a control plane in it too, and another on loopback. The world's id is
//! the first line on standard output.
#![forbid(unsafe_code)]

use std::io::Write;
use std::net::Ipv6Addr;

use anyhow::Result;
use fairlead_tests::control_plane::{ControlPlane, Place, Wanted};
use fairlead_tests::world::{Footprint, Plan, World};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |word: &str| arguments.iter().any(|argument| argument == word);
    let world = World::build(&Plan { control_planes: has("clusters"), ..Plan::small() })?;
    let beside = if has("clusters") { Some(Footprint::claim()?) } else { None };
    let mut planes = Vec::new();
    if let Some(footprint) = &beside {
        let wanted = Wanted::new("us-central1-a").controllers();
        planes.push(ControlPlane::start(&Place::on_host(&world, "api-us-central1-a")?, &wanted)?);
        planes.push(ControlPlane::start(&Place::loopback(footprint, Ipv6Addr::LOCALHOST.into())?, &wanted)?);
    }
    writeln!(std::io::stdout(), "{}", world.id())?;
    if has("panic") {
        panic!("on purpose");
    }
    loop {
        std::thread::park();
    }
}
