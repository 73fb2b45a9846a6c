//! Whether a kept connection broke because its slot was moved: only then it isn't counted as a failure.
//!
//! Asked right after it broke, on the gateway that its packets go to: a connection to a pod that is up, whose flow now
//! belongs to another pod, was moved. Anything else that breaks a connection is a failure.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::stage::Stage;
use crate::load::{Load, Request};

/// How often new requests are looked at.
const PERIOD: Duration = Duration::from_millis(20);

/// Numbers of the requests, in the order of the load's record, whose connections were moved. Ends when `over`.
pub(super) fn judge(stage: &Stage, load: &Load, over: &AtomicBool) -> Result<BTreeSet<usize>> {
    let mut moved = BTreeSet::new();
    let mut next = 0;
    loop {
        let last = over.load(Ordering::Acquire);
        let requests = load.requests_from(next);
        for (number, request) in requests.iter().enumerate() {
            if request.broke_connection() && was_moved(stage, request)? {
                moved.insert(next + number);
            }
        }
        next += requests.len();
        if last {
            return Ok(moved);
        }
        thread::sleep(PERIOD);
    }
}

fn was_moved(stage: &Stage, request: &Request) -> Result<bool> {
    let Some(before) = &request.before else { return Ok(false) };
    if !stage.is_up(&before.pod) {
        return Ok(false);
    }
    let client = stage.world.client(&request.client).addresses();
    let client = client.iter().find(|address| address.is_ipv4() == request.server.is_ipv4());
    let client = std::net::SocketAddr::new(*client.context("clients have both families")?, request.port);
    let gateway = stage.agents.of(&stage.entry(&request.client)?);
    let explained = gateway.ask(&["explain", &client.to_string(), &request.server.to_string()])?;
    let now = backend(&explained).with_context(|| format!("explain names no backend: {explained}"))?;
    let was = stage.world.pod(&before.pod).addresses();
    Ok(!was.contains(&now.parse()?))
}

/// The address of the endpoint that a flow goes to.
fn backend(explained: &Value) -> Option<&str> {
    explained["backend"]["address"].as_str()
}
