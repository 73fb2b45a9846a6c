//! `fairlead accept-withdrawal`: what is held of a cluster, because it is suddenly gone, may go.

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::node::Node;
use super::output::Output;
use crate::federation::Acceptance;
use crate::text::nearest;

/// What is shown.
#[derive(Serialize)]
struct Document {
    cluster: String,
    /// What was held, in words.
    held: Vec<String>,
    agent_running: bool,
}

/// Tells this node's agent that what is gone of a cluster shall be. Others are told on their nodes.
pub(super) fn accept_withdrawal(node: &Node, cluster: &str, output: Output) -> Result<()> {
    let names = || node.clusters().into_iter().flatten().map(|cluster| &*cluster.name.0);
    if !names().any(|name| name == cluster) {
        let hint = nearest(cluster, names())
            .map_or("`fairlead clusters` lists them".to_owned(), |near| format!("did you mean {near}?"));
        bail!("there is no cluster {cluster:?}: {hint}");
    }
    let status = node.status.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
    let of_cluster = status.problems.iter().filter(|problem| problem.cluster.as_deref() == Some(cluster));
    let is_held = |hint: &str| hint.contains("accept-withdrawal");
    let held = of_cluster.filter(|problem| problem.hint.as_deref().is_some_and(is_held));
    let held: Vec<String> = held
        .map(|problem| {
            let object = problem.object.as_ref().map_or_else(|| problem.field.clone(), ToString::to_string);
            format!("{object}: {}", problem.what)
        })
        .collect();
    if held.is_empty() {
        bail!("nothing of cluster {cluster} is held");
    }
    Acceptance::of(&node.state_directory)
        .tell(cluster)
        .with_context(|| format!("can't tell the agent: write below {}", node.state_directory.display()))?;
    let document = Document { cluster: cluster.to_owned(), held, agent_running: node.running };
    Ok(output.show(&document, |document, _| document.text())?)
}

impl Document {
    fn text(&self) -> String {
        let mut text = format!("what is gone of cluster {} is let go on this node:\n", self.cluster);
        for held in &self.held {
            text += &format!("  {held}\n");
        }
        if !self.agent_running {
            text += "no agent runs here: the next one does it\n";
        }
        text
    }
}
