//! Fragments at a gateway: first ones, which are steered and noted, and others, which follow theirs.

use anyhow::Result;

use super::{Measured, Row};
use crate::bench::case::{Case, Part, TRANSMIT};
use crate::bench::packets::{Effort, FLOWS, INGRESS, attach};
use crate::bench::plane::Plane;

/// Datagrams that are remembered in the largest measurement: less than half of what the table has room for, because the
/// kernel makes room before it has to.
pub(super) const MOST: u32 = 1 << 17;

/// Each client has one datagram on its way.
pub(super) fn measure(plane: &mut Plane, effort: Effort) -> Result<Vec<Row>> {
    attach(&mut plane.dataplane, INGRESS)?;
    let mut rows = Vec::new();
    let measured = |name| Measured { name, program: INGRESS, verdict: TRANSMIT, event: None, tunnel: None };
    for (first, later, v6) in
        [("fragment_first4", "fragment_later4", false), ("fragment_first6", "fragment_later6", true)]
    {
        let of = |part| Case::fragment(v6, part);
        for flows in FLOWS.into_iter().filter(|&flows| flows <= MOST) {
            rows.push(measured(first).row(plane, (of(Part::First), flows, 0), effort)?);
            // The last that came have come within the ten seconds in which others can follow them.
            let all = Effort { passes: 1, turns: 1, packets: flows };
            measured(first).row(plane, (of(Part::First), flows, 0), all)?;
            rows.push(measured(later).row(plane, (of(Part::Last), flows, 0), effort)?);
        }
    }
    Ok(rows)
}
