//! What fairlead promises, and whether a report keeps it. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::load::statistics::{EventReport, RECOVERY};
use crate::load::{Event, Kind, Request};

/// What may go wrong after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Promise {
    /// Requests may fail until what was taken away is passed over: a second with probes of 200 ms × 3.
    Recovers,
    /// Nothing may fail, and no connection may break.
    NothingFails,
}

/// Zones that may serve a client, by client.
pub(super) type Expected = BTreeMap<String, BTreeSet<String>>;

/// What was broken, in words; empty if all is well.
pub(super) fn broken(promise: Promise, report: &EventReport) -> Vec<String> {
    let EventReport { name, requests, failed, failed_after_recovery, recovery_ms, broken_by_move, .. } =
        report;
    let mut broken = Vec::new();
    if *requests < FEWEST_REQUESTS {
        broken.push(format!("{name}: only {}, which is too few to tell", counted(*requests, "request")));
    }
    match promise {
        Promise::Recovers => {
            if *failed_after_recovery > 0 {
                broken.push(format!(
                    "{name}: {} failed after recovery",
                    counted(*failed_after_recovery, "request")
                ));
            }
            if u128::from(*recovery_ms) > RECOVERY.as_millis() {
                broken.push(format!("{name}: recovery took {recovery_ms} ms"));
            }
        }
        Promise::NothingFails => {
            if *failed > 0 {
                broken.push(format!("{name}: {} failed, and none may", counted(*failed, "request")));
            }
            if *broken_by_move > 0 {
                broken.push(format!(
                    "{name}: {} broken by a moved slot, and none may be",
                    counted(*broken_by_move, "connection")
                ));
            }
        }
    }
    broken
}

/// `1 request`, `2 requests`.
pub(super) fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Fewer would say nothing.
const FEWEST_REQUESTS: u64 = 100;

/// Whether new connections and datagrams that began when the event had `settled` were answered by the zones that should;
/// in words where not. Kept connections rightly stay where they are, and so does a flow of datagrams, which one from a port
/// that was used before goes on with.
pub(super) fn misplaced(
    event: &Event,
    until: Duration,
    settled: Duration,
    expected: &Expected,
    requests: &[Request],
) -> Vec<String> {
    let mut seen: BTreeMap<&str, BTreeMap<&str, u64>> = BTreeMap::new();
    for request in requests {
        let during = request.started >= event.at + settled && request.started < until;
        let new = request.kind != Kind::KeptConnection;
        if let (true, true, Ok(identity)) = (during, new && !goes_on(request, requests), &request.outcome) {
            *seen.entry(&request.client).or_default().entry(&identity.zone).or_default() += 1;
        }
    }
    let mut wrong = Vec::new();
    for (client, zones) in expected {
        let Some(answers) = seen.get(client.as_str()) else {
            wrong.push(format!("{}: nobody answered {client}", event.name));
            continue;
        };
        for (zone, count) in answers.iter().filter(|(zone, _)| !zones.contains(**zone)) {
            let closest: Vec<_> = zones.iter().map(String::as_str).collect();
            let closest = closest.join(", ");
            wrong.push(format!(
                "{}: {zone} answered {client} {count} times, closest is {closest}",
                event.name
            ));
        }
        for zone in zones.iter().filter(|zone| !answers.contains_key(zone.as_str())) {
            wrong.push(format!("{}: {zone} answered {client} never, though it is closest", event.name));
        }
    }
    wrong
}

/// Whether a datagram is of a flow that its pod knew.
fn goes_on(request: &Request, requests: &[Request]) -> bool {
    let Ok(identity) = &request.outcome else { return false };
    let same = |other: &Request| {
        other.kind == Kind::Datagram
            && other.started < request.started
            && (&other.client, other.server, other.port) == (&request.client, request.server, request.port)
            && other.outcome.as_ref().is_ok_and(|before| before.pod == identity.pod)
    };
    request.kind == Kind::Datagram && requests.iter().any(same)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Failure, Identity};

    fn report(failed: u64, failed_after_recovery: u64, recovery_ms: u64, broken_by_move: u64) -> EventReport {
        EventReport {
            name: "zone".to_owned(),
            requests: 500,
            failed,
            failed_after_recovery,
            recovery_ms,
            broken_by_move,
            ..EventReport::default()
        }
    }

    #[test]
    fn recovering_may_take_a_second() {
        assert_eq!(broken(Promise::Recovers, &report(9, 0, 1_000, 4)), Vec::<String>::new());
        assert_eq!(broken(Promise::Recovers, &report(9, 1, 1_001, 0)).len(), 2);
        let few = EventReport { requests: 99, ..report(0, 0, 0, 0) };
        assert_eq!(broken(Promise::Recovers, &few).len(), 1);
    }

    #[test]
    fn where_nothing_may_fail_nothing_may_break() {
        assert_eq!(broken(Promise::NothingFails, &report(0, 0, 0, 0)), Vec::<String>::new());
        assert_eq!(broken(Promise::NothingFails, &report(1, 0, 0, 0)).len(), 1);
        assert_eq!(broken(Promise::NothingFails, &report(0, 0, 0, 1)).len(), 1);
    }

    fn answer(client: &str, kind: Kind, started_ms: u64, zone: &str) -> Request {
        Request {
            client: client.into(),
            kind,
            server: "203.0.113.1:80".parse().unwrap(),
            port: 1,
            started: Duration::from_millis(started_ms),
            took: Duration::from_millis(1),
            before: None,
            outcome: Ok(Identity { zone: zone.into(), cluster: zone.into(), pod: "p".into() }),
            broken_by_move: false,
        }
    }

    #[test]
    fn the_closest_must_serve_once_it_has_settled() {
        let event = Event { name: "zone".to_owned(), at: Duration::from_secs(10) };
        let until = Duration::from_secs(14);
        let expected = Expected::from([("c".to_owned(), BTreeSet::from(["a".to_owned(), "b".to_owned()]))]);
        let check =
            |requests: &[Request]| misplaced(&event, until, Duration::from_secs(1), &expected, requests);

        let good = [
            answer("c", Kind::NewConnection, 10_500, "z"), // not settled yet
            answer("c", Kind::NewConnection, 11_500, "a"),
            answer("c", Kind::Datagram, 11_600, "b"),
            answer("c", Kind::KeptConnection, 12_000, "z"), // stays where it was
            answer("other", Kind::NewConnection, 12_000, "z"),
            answer("c", Kind::NewConnection, 14_000, "z"), // the next event's
        ];
        assert_eq!(check(&good), Vec::<String>::new());
        assert_eq!(check(&good[..2]).len(), 1, "b never answered");
        let datagram = |port, started_ms| Request { port, ..answer("c", Kind::Datagram, started_ms, "z") };
        let wrong = [good.as_slice(), &[datagram(2, 13_000)]].concat();
        assert_eq!(check(&wrong).len(), 1);
        let flow = [datagram(3, 9_000), datagram(3, 13_000)];
        assert_eq!(check(&[good.as_slice(), &flow].concat()), Vec::<String>::new(), "of the same flow");
        let failed = Request { outcome: Err(Failure::Timeout), ..good[1].clone() };
        assert_eq!(check(&[failed]).len(), 1, "nobody answered");
    }
}
