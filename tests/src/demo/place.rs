//! Which zones should serve whom: what a person who looks at the map would say.
//!
//! Knows only names and distances, nothing of fairlead's planner: the demo's answers are checked against this.

use std::collections::{BTreeMap, BTreeSet};

use crate::world::{Federation, Layout};

/// The zones around each region's gateways.
#[derive(Clone, Debug)]
pub(super) struct Map {
    /// By region: sets of zones at the same distance, the closest first.
    tiers: BTreeMap<String, Vec<BTreeSet<String>>>,
}

impl Map {
    /// A region's gateway stands in its first zone.
    pub(super) fn new(layout: &Layout, federation: &Federation) -> Self {
        let mut zones: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for cluster in &layout.clusters {
            zones.entry(&cluster.region).or_default().push(&cluster.zone);
        }
        let distance = |a: &str, b: &str| {
            let mut known = federation.distances.iter();
            known
                .find(|(x, y, _)| (x == a && y == b) || (x == b && y == a))
                .map_or(u32::MAX, |(_, _, distance)| *distance)
        };
        let set = |zones: &[&str]| zones.iter().map(|&zone| zone.to_owned()).collect::<BTreeSet<_>>();
        let mut tiers = BTreeMap::new();
        for (&region, own) in &zones {
            let mut others: Vec<_> = zones.keys().filter(|other| **other != region).collect();
            others.sort_by_key(|other| distance(region, other));
            let mut of_region = vec![set(&own[..1]), set(&own[1..])];
            of_region.extend(others.into_iter().map(|other| set(&zones[other])));
            of_region.retain(|tier| !tier.is_empty());
            tiers.insert(region.to_owned(), of_region);
        }
        Self { tiers }
    }

    /// The closest zones to the gateways of `region`, when those in `gone` can't serve.
    pub(super) fn closest(&self, region: &str, gone: &BTreeSet<String>) -> BTreeSet<String> {
        let left = |tier: &BTreeSet<String>| tier.difference(gone).cloned().collect::<BTreeSet<_>>();
        self.tiers[region].iter().map(left).find(|tier| !tier.is_empty()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::Plan;

    fn closest(region: &str, gone: &[&str]) -> Vec<String> {
        let map = Map::new(&Plan::three_regions().layout().unwrap(), &Federation::default());
        let gone = gone.iter().map(|&zone| zone.to_owned()).collect();
        map.closest(region, &gone).into_iter().collect()
    }

    #[test]
    fn first_the_zone_then_the_region_then_the_next_region() {
        assert_eq!(closest("europe-west1", &[]), ["europe-west1-b"]);
        assert_eq!(closest("europe-west1", &["europe-west1-b"]), ["europe-west1-c", "europe-west1-d"]);
        let europe = ["europe-west1-b", "europe-west1-c", "europe-west1-d"];
        assert_eq!(closest("europe-west1", &europe), ["us-central1-a", "us-central1-b", "us-central1-c"]);
        assert_eq!(closest("asia-east1", &["asia-east1-a", "asia-east1-b"]), ["asia-east1-c"]);
        let asia = ["asia-east1-a", "asia-east1-b", "asia-east1-c", "us-central1-a"];
        assert_eq!(closest("asia-east1", &asia), ["us-central1-b", "us-central1-c"]);
    }
}
