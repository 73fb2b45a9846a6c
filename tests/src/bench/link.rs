//! A link of one's own for programs to be attached to.

use anyhow::{Result, bail};
use aya::programs::{Program, Xdp};
use fairlead::dataplane::Dataplane;

use crate::world::{Footprint, Namespace};

/// One end of the link.
pub(super) const NEAR: &str = "near";
/// The other.
pub(super) const FAR: &str = "far";

/// A veth pair in a namespace that goes with the footprint; both ends are up.
pub(super) fn pair(footprint: &Footprint, name: &str) -> Result<Namespace> {
    let namespace = footprint.namespace(name)?;
    let pair = format!("link add {NEAR} type veth peer name {FAR}");
    let up = [NEAR, FAR].map(|end| format!("link set {end} up"));
    namespace.ip(&[&[pair], &up[..]].concat())?;
    Ok(namespace)
}

/// An XDP program of the ELF.
pub(super) fn xdp<'a>(dataplane: &'a mut Dataplane, name: &str) -> Result<&'a mut Xdp> {
    match dataplane.program_mut(name) {
        Some(Program::Xdp(program)) => Ok(program),
        _ => bail!("no program {name} in the ELF"),
    }
}
