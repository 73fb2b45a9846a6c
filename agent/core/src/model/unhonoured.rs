//! Fields of Services that have no effect here: nothing is wrong, but whoever set them should know.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{ObjectName, Problem, ShardSpec};

/// A field of a Service that asks for what gateways don't do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Unhonoured {
    /// `spec.externalTrafficPolicy: Local`.
    ExternalTrafficPolicy,
    /// `spec.healthCheckNodePort`.
    HealthCheckNodePort,
    /// `spec.trafficDistribution: PreferSameNode`.
    SameNode,
    /// `spec.trafficDistribution` of a name that is not known.
    TrafficDistribution,
}

impl Unhonoured {
    const ALL: [Self; 4] =
        [Self::ExternalTrafficPolicy, Self::HealthCheckNodePort, Self::SameNode, Self::TrafficDistribution];

    /// The field.
    #[must_use]
    pub const fn field(self) -> &'static str {
        match self {
            Self::ExternalTrafficPolicy => "spec.externalTrafficPolicy",
            Self::HealthCheckNodePort => "spec.healthCheckNodePort",
            Self::SameNode | Self::TrafficDistribution => "spec.trafficDistribution",
        }
    }

    /// Why it has no effect, and what is so instead.
    #[must_use]
    pub const fn why(self) -> &'static str {
        match self {
            Self::ExternalTrafficPolicy => {
                "Local has no effect: clients' addresses are kept with either, and gateways send straight to endpoints, on \
                 whatever node they are"
            }
            Self::HealthCheckNodePort => "is not asked: gateways probe the endpoints themselves",
            Self::SameNode => "no node is preferred to others: PreferSameNode is as PreferSameZone",
            Self::TrafficDistribution => "this value is not known here: only the slices' hints count",
        }
    }
}

/// What is to be noted of a service: of all its clusters, or of those that say so.
pub(super) fn notes<'a>(
    name: &ObjectName,
    shards: impl Iterator<Item = (&'a Arc<str>, &'a Arc<ShardSpec>)>,
) -> Vec<Problem> {
    let shards: Vec<_> = shards.collect();
    let mut notes = Vec::new();
    for what in Unhonoured::ALL {
        let says = |(_, spec): &&(&Arc<str>, &Arc<ShardSpec>)| spec.unhonoured.contains(&what);
        let note = |cluster: Option<&Arc<str>>| Problem {
            object: Some(name.clone()),
            cluster: cluster.cloned(),
            field: what.field().to_owned(),
            what: what.why().to_owned(),
            hint: None,
        };
        if shards.iter().all(|shard| says(&shard)) {
            notes.push(note(None));
        } else {
            notes.extend(shards.iter().filter(says).map(|(cluster, _)| note(Some(cluster))));
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_clusters_say_is_noted_once() {
        let told = |clusters: &[&[Unhonoured]]| -> Vec<String> {
            let names: Vec<Arc<str>> =
                ('a'..).take(clusters.len()).map(|c| Arc::from(c.to_string())).collect();
            let spec = |unhonoured: &&[Unhonoured]| {
                Arc::new(ShardSpec { unhonoured: unhonoured.to_vec(), ..ShardSpec::default() })
            };
            let specs: Vec<Arc<ShardSpec>> = clusters.iter().map(spec).collect();
            let notes = notes(&ObjectName::new("shop", "web"), names.iter().zip(&specs));
            notes.iter().map(ToString::to_string).collect()
        };
        use Unhonoured::{HealthCheckNodePort, SameNode};
        assert_eq!(told(&[&[], &[]]), [""; 0]);
        let asked = "spec.healthCheckNodePort: is not asked: gateways probe the endpoints themselves";
        assert_eq!(
            told(&[&[HealthCheckNodePort, SameNode], &[HealthCheckNodePort]]),
            [
                format!("Service shop/web: {asked}"),
                "cluster a: Service shop/web: spec.trafficDistribution: no node is preferred to others: PreferSameNode is as \
                 PreferSameZone"
                    .to_owned()
            ]
        );
    }
}
