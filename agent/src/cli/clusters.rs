//! `fairlead clusters`: what the agent knows of each cluster's source.

use std::time::SystemTime;

use anyhow::{Result, anyhow};
use serde::Serialize;

use super::node::{Freshness, Node, age, age_text};
use super::output::Output;
use super::table::{Cell, Style, Table};
use crate::federation::Tally;
use crate::status::ClusterStatus;

/// What is shown.
#[derive(Serialize)]
struct Document {
    #[serde(flatten)]
    freshness: Freshness,
    clusters: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    cluster: String,
    /// Where its objects are, in words.
    source: String,
    /// The source can be read.
    reachable: bool,
    /// For how long it can, or can't.
    since_seconds: Option<u64>,
    /// Where it can't: how old is what is known of it.
    age_seconds: Option<u64>,
    objects: Tally,
    endpoints: usize,
    drained: Vec<String>,
    last_error: Option<Failure>,
}

#[derive(Serialize)]
struct Failure {
    seconds_ago: u64,
    message: String,
}

/// Shows the sources of all clusters, as the agent found them last.
pub(super) fn clusters(node: &Node, output: Output) -> Result<()> {
    let status = node.status.as_ref().map_err(|error| anyhow!("{error}"))?;
    let freshness = node.freshness();
    let clusters = status.clusters.iter().map(Row::new).collect();
    Ok(output.show(&Document { freshness, clusters }, Document::text)?)
}

impl Row {
    fn new(status: &ClusterStatus) -> Self {
        let seconds = |then: Option<SystemTime>| then.map(age);
        let failure = status.failure.as_ref();
        Self {
            cluster: status.name.to_string(),
            source: status.source.clone(),
            reachable: status.reachable,
            since_seconds: seconds(status.since),
            age_seconds: seconds(status.restored),
            objects: status.objects,
            endpoints: status.endpoints,
            drained: status.drained.clone(),
            last_error: failure
                .map(|(at, message)| Failure { seconds_ago: age(*at), message: message.clone() }),
        }
    }

    /// Such as `connected for 5 min`.
    fn state(&self) -> Cell {
        let (word, style) = if self.reachable {
            ("connected", Style::Good)
        } else if self.age_seconds.is_some() {
            ("stale", Style::Warning)
        } else {
            ("unknown", Style::Bad)
        };
        let since = self.since_seconds.map(|seconds| format!(" for {}", age_text(seconds)));
        Cell::new(format!("{word}{}", since.unwrap_or_default())).style(style)
    }
}

impl Document {
    fn text(&self, colour: bool) -> String {
        let mut table = Table::new(&[
            "CLUSTER",
            "STATE",
            ">AGE",
            ">SERVICES",
            ">SLICES",
            ">ENDPOINTS",
            ">RECEIVERS",
            "DRAINED",
            "SOURCE",
        ]);
        let mut errors = String::new();
        for row in &self.clusters {
            let drained = if row.drained.is_empty() { None } else { Some(row.drained.join(", ")) };
            table.row(vec![
                Cell::new(&row.cluster),
                row.state(),
                Cell::maybe(row.age_seconds.map(age_text)),
                Cell::new(row.objects.services),
                Cell::new(row.objects.slices),
                Cell::new(row.endpoints),
                Cell::new(row.objects.receivers),
                Cell::maybe(drained),
                Cell::new(&row.source),
            ]);
            if let Some(Failure { seconds_ago, message }) = &row.last_error {
                let style = if row.reachable { Style::Dim } else { Style::Warning };
                let line = format!("{}: {} ago: {message}", row.cluster, age_text(*seconds_ago));
                errors += &(style.paint(&line, colour) + "\n");
            }
        }
        let footer = Style::Dim.paint(&self.freshness.line_of_agent(), colour);
        table.render(colour) + &errors + &footer
    }
}
