//! `fairlead explain`: where a connection goes, and why not elsewhere.
//!
//! The pinned maps and the agent's state come in; the way of a connection is found on the maps ([`way`]), shown, and the
//! command fails where what is asked for is not steered.

mod meant;
mod text;
mod tries;
mod way;

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Result, bail};
use fairlead_abi::DropReason;
use fairlead_core::planner::ShardState;
use ipnet::IpNet;
use serde::Serialize;

use super::address::{Client, Vip};
use super::node::{Freshness, Node};
use super::output::{Format, Output};
use super::row::BackendRow;
use super::table::Style;
pub(super) use meant::fitting;
use tries::{Cache, Try, Way};
use way::explanation;

/// Everything about one connection, or about all of one client.
#[derive(Debug, Serialize)]
struct Explanation {
    client: IpAddr,
    client_port: Option<u16>,
    vip: IpAddr,
    /// Where it is known.
    port: Option<u16>,
    protocol: String,
    /// Why it is not steered at all, in words.
    not_steered: Option<String>,
    service: Option<String>,
    port_name: Option<Arc<str>>,
    ring_size: u32,
    /// The client's address alone decides (`sessionAffinity: ClientIP`), and not its port.
    by_client: bool,
    /// The ranges of the clients that the service lets in (`loadBalancerSourceRanges`), as the maps have them; `None`: all.
    allowed: Option<Vec<IpNet>>,
    /// Where the client's port is known, or doesn't matter.
    slot: Option<u32>,
    /// Where that slot's connections go.
    backend: Option<BackendRow>,
    /// Backends that held the slot before and exist yet, the newest first.
    formers: Vec<Try>,
    /// What the flow cache has of the flow.
    cache: Option<Cache>,
    /// Where each kind of packet goes.
    ways: Vec<Way>,
    /// Why the packet is dropped instead.
    drop: Option<Drop>,
    /// Where the client's port is not known: how many of its ports go to which backend, most first.
    ports: Vec<Ports>,
    shards: Vec<Shard>,
    /// Every endpoint.
    endpoints: Vec<BackendRow>,
    /// What the maps and the agent's state disagree about; the maps are right.
    differences: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Drop {
    reason: &'static str,
    description: &'static str,
}

impl From<DropReason> for Drop {
    fn from(reason: DropReason) -> Self {
        Self { reason: reason.name(), description: reason.description().trim() }
    }
}

/// The source ports of a client that go to one backend.
#[derive(Debug, Serialize)]
struct Ports {
    address: Option<IpAddr>,
    pod: Option<Arc<str>>,
    cluster: Option<Arc<str>>,
    ports: u32,
    share: f64,
}

/// A shard, with its place; distance and share as an endpoint's row has them.
#[derive(Debug, Serialize)]
struct Shard {
    cluster: Arc<str>,
    region: Option<Arc<str>>,
    zone: Option<Arc<str>>,
    distance: String,
    reachable: bool,
    endpoints: u32,
    ready: u32,
    usable: u32,
    /// New connections per second; `None`: no limit.
    capacity: Option<u64>,
    share: f64,
    state: ShardState,
}

#[derive(Serialize)]
struct Document {
    #[serde(flatten)]
    freshness: Freshness,
    #[serde(flatten)]
    explanation: Explanation,
    /// How the configuration differs from what packets are steered by.
    notes: Vec<String>,
}

/// Says where a connection goes.
pub(super) fn explain(node: &Node, client: Client, vip: Vip, output: Output) -> Result<()> {
    let (view, numbers) = (node.view()?, node.counters()?);
    let picture = node.picture(&view)?;
    let seed = match node.seed {
        Some(seed) => seed,
        None => match &node.config {
            Ok(config) => config.seed.0,
            Err(_) => bail!(
                "the seed of the flows' hash is not known: no agent has left it in the state directory, and the configuration \
                 doesn't hold"
            ),
        },
    };
    let explanation = explanation(&picture, seed, client, vip, &numbers)?;
    let document = Document { freshness: node.freshness(), explanation, notes: notes(node) };
    // What is not steered has no table for people: the error says all.
    if document.explanation.not_steered.is_none() || output.format == Format::Json {
        output.show(&document, |document, colour| {
            let notes = document.notes.iter().map(|note| format!("note: {note}\n")).collect::<String>();
            document.explanation.text(colour)
                + &Style::Warning.paint(&notes, colour)
                + &Style::Dim.paint(&document.freshness.line(), colour)
        })?;
    }
    match document.explanation.not_steered {
        Some(why) => bail!(why),
        None => Ok(()),
    }
}

fn notes(node: &Node) -> Vec<String> {
    let mut notes = node.departures();
    if node.seed.is_none() {
        notes.push(
            "the seed of the programs in use is not known: the slot is by that of the configuration"
                .to_owned(),
        );
    }
    if node.config.as_ref().is_ok_and(|config| config.secrets_file.is_none()) {
        notes.push(
            "without a secretsFile no backend is asked: what none of these knows is dropped".to_owned(),
        );
    }
    notes
}
