//! Which endpoints of a shard are for the zone that the group plans from, where its EndpointSlices say so (hints).
//!
//! As kube-proxy takes hints: they count where every endpoint that could take connections has some, and one of them is
//! for this zone; else all endpoints are for all. Which shard serves is not decided here, but by distance and capacity.

use super::candidates::Candidate;

/// Marks the candidates whose hints are for other zones only. `zone` is empty where the group's gateways stand in several.
pub(super) fn keep_to(zone: &str, candidates: &mut [Candidate<'_>]) {
    if zone.is_empty() || candidates.iter().all(|candidate| candidate.of.zones.is_empty()) {
        return;
    }
    let shards = candidates.iter().map(|candidate| candidate.shard).max().map_or(0, |last| last + 1);
    let is_for = |candidate: &Candidate<'_>| candidate.of.zones.iter().any(|hinted| **hinted == *zone);
    for shard in 0..shards {
        let usable = || candidates.iter().filter(|c| c.shard == shard && c.ready && c.passes);
        let counts = usable().all(|candidate| !candidate.of.zones.is_empty()) && usable().any(is_for);
        if counts {
            let others = candidates.iter_mut().filter(|c| c.shard == shard && !is_for(c));
            others.for_each(|candidate| candidate.elsewhere = true);
        }
    }
}
