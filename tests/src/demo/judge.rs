//! Whether a connection broke because its slot was moved: only then it isn't counted as a failure.
//!
//! Asked right after it broke, on the gateway that its packets go to: a connection to a pod that is up, whose flow now
//! belongs to another pod, was moved. To which pod it was is known of a kept connection by who has answered on it, of
//! a new one, which broke in its first moments, by the flows of the receivers. Anything else that breaks a connection
//! is a failure.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use fairlead_abi::{FlowState, protocol};
use serde_json::Value;

use super::stage::Stage;
use crate::load::{Load, Request};
use crate::world::Pod;

/// How often new requests are looked at.
const PERIOD: Duration = Duration::from_millis(20);

/// Numbers of requests, in the order of the load's record.
#[derive(Debug, Default)]
pub(super) struct Moved(Mutex<BTreeSet<usize>>);

impl Moved {
    /// Marks those that are among `requests`, which are the load's from its first one on.
    pub(super) fn mark(&self, requests: &mut [Request]) {
        for number in &*self.numbers() {
            if let Some(request) = requests.get_mut(*number) {
                request.broken_by_move = true;
            }
        }
    }

    fn numbers(&self) -> MutexGuard<'_, BTreeSet<usize>> {
        self.0.lock().expect("never poisoned: nothing panics under it")
    }
}

/// Puts those whose connections were moved into `moved`. Ends when `over`.
pub(super) fn judge(stage: &Stage, load: &Load, over: &AtomicBool, moved: &Moved) -> Result<()> {
    let mut next = 0;
    loop {
        let last = over.load(Ordering::Acquire);
        let requests = load.requests_from(next);
        for (number, request) in requests.iter().enumerate() {
            if request.broke_connection() && was_moved(stage, request)? {
                moved.numbers().insert(next + number);
            }
        }
        next += requests.len();
        if last {
            return Ok(());
        }
        thread::sleep(PERIOD);
    }
}

fn was_moved(stage: &Stage, request: &Request) -> Result<bool> {
    let client = stage.world.client(&request.client).addresses();
    let client = client.iter().find(|address| address.is_ipv4() == request.server.is_ipv4());
    let client = SocketAddr::new(*client.context("clients have both families")?, request.port);
    let pods = pods_of_connection(stage, request, client)?;
    if !pods.iter().any(|pod| stage.is_up(pod.name())) {
        return Ok(false);
    }
    let gateway = stage.agents.of(&stage.entry(&request.client)?);
    let explained = gateway.ask(&["explain", &client.to_string(), &request.server.to_string()])?;
    let now: IpAddr =
        backend(&explained).with_context(|| format!("explain names no backend: {explained}"))?.parse()?;
    Ok(pods.iter().any(|pod| stage.is_up(pod.name()) && !pod.addresses().contains(&now)))
}

/// The pods that know the connection: the one that has answered, or those that have seen its SYN.
fn pods_of_connection<'a>(stage: &'a Stage, request: &Request, client: SocketAddr) -> Result<Vec<&'a Pod>> {
    if let Some(before) = &request.before {
        return Ok(vec![stage.world.pod(&before.pod)]);
    }
    let mut endpoints = BTreeSet::new();
    for node in &stage.world.layout.nodes {
        // A receiver whose programs were taken away knows nothing.
        let flows = stage.agents.of(&node.host.name).flows().unwrap_or_default();
        let seen = flows.into_iter().filter(|(flow, entry)| {
            IpAddr::from(flow.client) == client.ip()
                && u16::from_be_bytes(flow.client_port) == client.port()
                && flow.protocol == protocol::TCP
                && IpAddr::from(entry.vip) == request.server.ip()
                && u16::from_be_bytes(entry.port) == request.server.port()
                && entry.state != FlowState::Unproven as u8
        });
        endpoints.extend(seen.map(|(flow, _)| IpAddr::from(flow.endpoint)));
    }
    let knows = |pod: &&Pod| pod.addresses().iter().any(|address| endpoints.contains(address));
    Ok(stage.world.pods().iter().filter(knows).collect())
}

/// The address of the endpoint that a flow goes to.
fn backend(explained: &Value) -> Option<&str> {
    explained["backend"]["address"].as_str()
}
