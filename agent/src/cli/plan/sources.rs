//! The clusters' states as an agent that started now would have them. Sources are read, nothing is kept on disk.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use fairlead_core::model::ClusterState;

use crate::cli::node::{Node, age, age_text};
use crate::federation::{Federation, LastGood};

/// How long sources may take.
const READ_SOURCES: Duration = Duration::from_secs(10);

/// By cluster.
pub(super) type States = BTreeMap<Arc<str>, ClusterState>;

/// The clusters' states: read now or, where a source can't be, what was last known of it; and who knows what is wrong
/// with the sources.
pub(super) fn sources(node: &Node, notes: &mut Vec<String>) -> Result<(States, Federation)> {
    let config = node.whole_config()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut states, federation) = runtime.block_on(async {
        let mut federation = Federation::start(config, None);
        let reading = async {
            while !federation.all_read() {
                federation.changed().await;
            }
        };
        let in_time = tokio::time::timeout(READ_SOURCES, reading).await.is_ok();
        if !in_time {
            notes.push(format!("some sources were not read within {} s", READ_SOURCES.as_secs()));
        }
        (federation.states().clone(), federation)
    });
    runtime.shutdown_background();
    let unreachable: Vec<Arc<str>> =
        states.iter().filter(|(_, state)| !state.reachable).map(|(name, _)| Arc::clone(name)).collect();
    for cluster in unreachable {
        let restored = last_good(node, &cluster);
        let known = restored.context(format!("the last known state of {cluster}"));
        match known {
            Ok(Some((age, state))) => {
                notes.push(format!("cluster {cluster} can't be read; what was known {age} ago counts"));
                states.insert(cluster, state);
            }
            Ok(None) => notes.push(format!("cluster {cluster} can't be read, and nothing was known of it")),
            Err(error) => notes.push(format!("cluster {cluster} can't be read: {error:#}")),
        }
    }
    Ok((states, federation))
}

/// What was last known of each cluster: an agent that starts compares what the sources say with it, and holds endpoints
/// that are suddenly gone.
pub(super) fn kept(node: &Node, states: &States) -> States {
    let of_cluster = |cluster: &Arc<str>| match last_good(node, cluster) {
        Ok(Some((_, state))) => Some((Arc::clone(cluster), state)),
        // That it can't be read is told where it would be served from.
        Ok(None) | Err(_) => None,
    };
    states.keys().filter_map(of_cluster).collect()
}

fn last_good(node: &Node, cluster: &Arc<str>) -> Result<Option<(String, ClusterState)>> {
    let restored = LastGood::of(&node.state_directory).read(cluster)?;
    Ok(restored.map(|restored| {
        let state = ClusterState { shards: restored.shards, ..ClusterState::default() };
        (age_text(age(restored.written)), state)
    }))
}
