//! What a load's requests say about each event that happened meanwhile.
//!
//! A request belongs to the last event before its start; one that was in flight when the next event came and failed
//! belongs to that one, which is what it failed of. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::request::Request;

/// Failures that begin later than this after an event count as after recovery.
pub const RECOVERY: Duration = Duration::from_millis(1_000);

/// A request that fails, and began within this time before an event, was in flight when it came. Answers take a few
/// milliseconds: what waits for longer has failed before the event.
const IN_FLIGHT: Duration = Duration::from_millis(100);

/// Something that was done to the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// E.g. `zone_back`.
    pub name: String,
    /// From the load's start.
    pub at: Duration,
}

/// What requests saw from one event to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EventReport {
    /// The event.
    pub name: String,
    /// All requests, those that were broken by a move included.
    pub requests: u64,
    /// Not answered fully in time.
    pub failed: u64,
    /// Those that began more than [`RECOVERY`] after the event.
    pub failed_after_recovery: u64,
    /// From the event to the start of the last failed request; 0 if none failed.
    pub recovery_ms: u64,
    /// Connections that a moved slot broke; they are in no other count of failures.
    pub broken_by_move: u64,
    /// Answers by client and zone.
    #[serde(skip)]
    pub answers: BTreeMap<String, BTreeMap<String, u64>>,
    /// What failed, by client and in words.
    #[serde(skip)]
    pub failures: BTreeMap<String, BTreeMap<String, u64>>,
}

/// A report per event, in the events' order. Requests before the first event are left out.
#[must_use]
pub fn per_event(events: &[Event], requests: &[Request]) -> Vec<EventReport> {
    let report = |event: &Event| EventReport { name: event.name.clone(), ..EventReport::default() };
    let mut reports: Vec<_> = events.iter().map(report).collect();
    for request in requests {
        if let Some(number) = event_of(events, request) {
            reports[number].count(&events[number], request);
        }
    }
    reports
}

/// The event that a request belongs to; `events` are in order of time.
fn event_of(events: &[Event], request: &Request) -> Option<usize> {
    let began_after = events.partition_point(|event| event.at <= request.started);
    let in_flight_at =
        |event: &Event| event.at <= request.started + request.took && event.at - request.started <= IN_FLIGHT;
    match events.get(began_after) {
        Some(next) if !request.answered() && in_flight_at(next) => Some(began_after),
        _ => began_after.checked_sub(1),
    }
}

impl EventReport {
    fn count(&mut self, event: &Event, request: &Request) {
        self.requests += 1;
        let after = request.started.saturating_sub(event.at);
        let client = || request.client.to_string();
        match &request.outcome {
            Ok(identity) => {
                let answers = self.answers.entry(client()).or_default();
                *answers.entry(identity.zone.to_string()).or_default() += 1;
            }
            Err(failure) => {
                let version = if request.server.is_ipv4() { "IPv4" } else { "IPv6" };
                let moved = if request.broken_by_move { ", its slot was moved" } else { "" };
                let what = format!("{}, {version}: {failure}{moved}", request.kind);
                *self.failures.entry(client()).or_default().entry(what).or_default() += 1;
                if request.broken_by_move {
                    self.broken_by_move += 1;
                    return;
                }
                self.failed += 1;
                self.failed_after_recovery += u64::from(after > RECOVERY);
                let after_ms = u64::try_from(after.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX);
                self.recovery_ms = self.recovery_ms.max(after_ms);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::request::{Failure, Identity, Kind};

    fn request(started_ms: u64, took_ms: u64, answered: bool) -> Request {
        let identity = Identity { zone: "z".into(), cluster: "z".into(), pod: "p".into() };
        Request {
            client: "c".into(),
            kind: Kind::NewConnection,
            server: "203.0.113.1:80".parse().unwrap(),
            port: 1,
            started: Duration::from_millis(started_ms),
            took: Duration::from_millis(took_ms),
            before: None,
            outcome: if answered { Ok(identity) } else { Err(Failure::Timeout) },
            broken_by_move: false,
        }
    }

    fn event(name: &str, at_ms: u64) -> Event {
        Event { name: name.to_owned(), at: Duration::from_millis(at_ms) }
    }

    #[test]
    fn failures_count_for_the_event_before_them() {
        let events = [event("pod", 1_000), event("pod_back", 4_000)];
        let requests = [
            request(900, 5, true),      // before all events
            request(950, 20, false),    // before all events, and over
            request(1_100, 500, false), // recovering
            request(1_700, 500, false),
            request(1_800, 5, true),
            request(2_001, 5, false), // one millisecond too late
            request(4_000, 5, true),
        ];
        let reports = per_event(&events, &requests);
        let pod = &reports[0];
        assert_eq!((pod.requests, pod.failed, pod.failed_after_recovery), (4, 3, 1));
        assert_eq!(pod.recovery_ms, 1_001);
        let back = &reports[1];
        assert_eq!((back.requests, back.failed, back.failed_after_recovery, back.recovery_ms), (1, 0, 0, 0));
        assert_eq!(back.answers["c"]["z"], 1);
        assert_eq!(pod.failures["c"]["new connection, IPv4: no complete answer in time"], 3);
    }

    #[test]
    fn a_failure_exactly_at_the_limit_is_within_recovery() {
        let reports = per_event(&[event("zone", 1_000)], &[request(2_000, 500, false)]);
        assert_eq!((reports[0].failed_after_recovery, reports[0].recovery_ms), (0, 1_000));
    }

    #[test]
    fn what_was_in_flight_failed_of_the_event() {
        let events = [event("pod", 1_000), event("pod_back", 4_000)];
        let reports = per_event(&events, &[request(3_950, 500, false), request(3_960, 500, true)]);
        assert_eq!((reports[0].failed, reports[0].requests), (0, 1));
        assert_eq!((reports[1].failed, reports[1].recovery_ms), (1, 0));
    }

    #[test]
    fn what_had_waited_for_long_failed_of_something_else() {
        let events = [event("pod", 1_000), event("pod_back", 4_000)];
        let reports = per_event(&events, &[request(3_800, 500, false)]);
        assert_eq!(reports[0].failed_after_recovery, 1);
        assert_eq!(reports[1].requests, 0);
    }

    #[test]
    fn a_moved_slot_is_counted_apart() {
        let moved = Request { broken_by_move: true, ..request(2_500, 1, false) };
        let reports = per_event(&[event("drain", 1_000)], &[moved]);
        let drain = &reports[0];
        assert_eq!((drain.requests, drain.failed, drain.failed_after_recovery), (1, 0, 0));
        assert_eq!((drain.recovery_ms, drain.broken_by_move), (0, 1));
    }

    #[test]
    fn json_has_the_promised_fields() {
        let report = EventReport { name: "zone".to_owned(), requests: 100, ..EventReport::default() };
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            r#"{"name":"zone","requests":100,"failed":0,"failed_after_recovery":0,"recovery_ms":0,"broken_by_move":0}"#
        );
    }
}
