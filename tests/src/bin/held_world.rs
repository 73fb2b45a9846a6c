//! Builds a small world and holds it until it is ended, one way or the other: what the tests of a world's end run in a
//! process of its own. The world's id is the first line on standard output.
#![forbid(unsafe_code)]

use std::io::Write;

use anyhow::Result;
use fairlead_tests::world::{Plan, World};

fn main() -> Result<()> {
    let world = World::build(&Plan::small())?;
    writeln!(std::io::stdout(), "{}", world.id())?;
    if std::env::args().nth(1).as_deref() == Some("panic") {
        panic!("on purpose");
    }
    loop {
        std::thread::park();
    }
}
