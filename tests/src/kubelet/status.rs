//! A pod's status, from what its containers do.
//!
//! In: what the [`Board`](super::board::Board) says, and where the pod is. Out: a patch for the API server. Pure, but for the
//! times at which conditions changed, which it keeps.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::board::{Ended, Seen, State};

/// What a pod has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Course {
    /// Its containers are kept.
    Kept,
    /// All of them have ended for good, well or not.
    Ended { well: bool },
}

/// Writes the statuses of one pod.
#[derive(Debug)]
pub(super) struct Writer {
    began: Timestamp,
    /// Of each condition: what it was, and since when.
    since: BTreeMap<&'static str, (bool, Timestamp)>,
    /// What of the manifest has no effect.
    pub(super) unhonoured: Vec<String>,
}

impl Writer {
    pub(super) fn new() -> Self {
        Self { began: Timestamp::now(), since: BTreeMap::new(), unhonoured: Vec::new() }
    }

    /// The patch. `addresses` are the pod's, once it has any, and `hosts` its node's.
    pub(super) fn write(
        &mut self,
        pod: &Pod,
        seen: &BTreeMap<String, Seen>,
        course: Course,
        addresses: Option<[IpAddr; 2]>,
        hosts: [IpAddr; 2],
    ) -> Value {
        let spec = pod.spec.clone().unwrap_or_default();
        let firsts = spec.init_containers.unwrap_or_default();
        let of = |containers: &[Container]| -> Vec<Seen> {
            containers.iter().filter_map(|container| seen.get(&container.name).cloned()).collect()
        };
        let (initial, main) = (of(&firsts), of(&spec.containers));
        let done = |seen: &Seen| match &seen.state {
            State::Ended(ended) => ended.code == 0,
            _ => seen.started,
        };
        let initialized = initial.iter().all(done) || main.iter().any(|seen| !is_new(seen));
        let ready = course == Course::Kept && main.iter().all(|seen| seen.ready);
        let gates =
            spec.readiness_gates.iter().flatten().all(|gate| has_condition(pod, &gate.condition_type));
        let mut conditions = vec![
            self.condition("PodReadyToStartContainers", addresses.is_some(), "", ""),
            self.condition("Initialized", initialized, "ContainersNotInitialized", ""),
            self.condition("ContainersReady", ready, "ContainersNotReady", ""),
            self.condition("Ready", ready && gates, "ContainersNotReady", ""),
            self.condition("PodScheduled", true, "", ""),
        ];
        if !self.unhonoured.is_empty() {
            let message = format!("no effect here: {}", self.unhonoured.join(", "));
            conditions.push(self.condition("fairlead.io/Honoured", false, "NotHonoured", &message));
        }
        let mut status = json!({
            "phase": phase(&main, course),
            "startTime": self.began.to_string(),
            "hostIP": hosts[0],
            "hostIPs": hosts.map(|ip| json!({"ip": ip})),
            "conditions": conditions,
            "containerStatuses": statuses(&spec.containers, seen),
        });
        if !firsts.is_empty() {
            status["initContainerStatuses"] = statuses(&firsts, seen);
        }
        if let Some(addresses) = addresses {
            status["podIP"] = json!(addresses[0]);
            status["podIPs"] = json!(addresses.map(|ip| json!({"ip": ip})));
        }
        json!({"status": status})
    }

    fn condition(&mut self, kind: &'static str, is: bool, reason: &str, message: &str) -> Value {
        let known = self.since.entry(kind).or_insert_with(|| (is, Timestamp::now()));
        if known.0 != is {
            *known = (is, Timestamp::now());
        }
        let status = if is { "True" } else { "False" };
        let reason = if is { Value::Null } else { json!(reason) };
        json!({
            "type": kind, "status": status, "reason": reason, "message": message,
            "lastTransitionTime": known.1.to_string(),
        })
    }
}

/// Whether it has never run.
fn is_new(seen: &Seen) -> bool {
    matches!(seen.state, State::Waiting { .. }) && seen.last.is_none()
}

fn has_condition(pod: &Pod, kind: &str) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == kind && condition.status == "True")
}

fn phase(main: &[Seen], course: Course) -> &'static str {
    match course {
        Course::Ended { well: true } => "Succeeded",
        Course::Ended { well: false } => "Failed",
        Course::Kept if main.iter().any(is_new) => "Pending",
        Course::Kept => "Running",
    }
}

fn statuses(containers: &[Container], seen: &BTreeMap<String, Seen>) -> Value {
    let known = containers.iter().filter_map(|container| Some((container, seen.get(&container.name)?)));
    known.map(|(container, seen)| status(container, seen)).collect()
}

fn status(container: &Container, seen: &Seen) -> Value {
    let state = match &seen.state {
        State::Waiting { reason, message } => json!({"waiting": {"reason": reason, "message": message}}),
        State::Running { since } => json!({"running": {"startedAt": since.to_string()}}),
        State::Ended(ended) => json!({"terminated": terminated(ended)}),
    };
    let last = seen.last.as_ref().map_or(json!({}), |ended| json!({"terminated": terminated(ended)}));
    json!({
        "name": container.name, "image": container.image.as_deref().unwrap_or_default(), "imageID": "",
        "ready": seen.ready, "started": seen.started, "restartCount": seen.restarts, "state": state,
        "lastState": last,
    })
}

fn terminated(ended: &Ended) -> Value {
    json!({
        "exitCode": ended.code, "signal": ended.signal, "reason": ended.reason, "message": ended.message,
        "startedAt": ended.began.to_string(), "finishedAt": ended.at.to_string(),
    })
}
