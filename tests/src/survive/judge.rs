//! From what clients saw and what servers wrote to the rows of the report. Pure.
//!
//! A connection is broken whatever broke it. What excuses it is only that its server was dead when its client noticed,
//! as that server's log says. A connection that broke before its server had said who it is belongs to the server whose
//! log has its client; where none has, one that died while it was being opened excuses it: nobody can know more.
//!
//! A datagram says nothing of when its flow began, and nobody is asked for it: a gateway that has no memory of a slot's
//! former backends sends it to the current one. Where an event takes flows of UDP to such gateways, they may change
//! servers; the row counts them as broken all the same, and as `moved`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::Played;
use super::logs::Logs;
use super::outcome::{Break, Kind, Outcome, PROTOCOLS, Protocol};

/// What an event did to the connections of a protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// What was done.
    pub event: String,
    /// `tcp4`, `tcp6`, `udp` or `quic`.
    pub protocol: &'static str,
    /// Connections that were open before the event, and short ones that were opened meanwhile.
    pub connections: usize,
    /// Those that broke, all of them.
    pub broken: usize,
    /// Those among the broken whose server had been killed.
    pub endpoint_died: usize,
    /// Questions that gateways asked of receivers meanwhile, over all protocols.
    pub asked: u64,
    /// The longest wait of a connection that did not break.
    pub longest_stall_ms: u64,
    /// Those among the broken that are flows of UDP which another server took over, as it may.
    pub moved: usize,
    /// How they broke whose server lived: for people.
    #[serde(skip)]
    pub breaks: BTreeMap<(Kind, Break), usize>,
}

impl Row {
    /// Connections that broke, and should not have.
    #[must_use]
    pub fn lost(&self) -> usize {
        self.broken - self.endpoint_died - self.moved
    }
}

/// The rows of what was played, one for each protocol.
#[must_use]
pub fn rows(played: &Played) -> Vec<Row> {
    PROTOCOLS.iter().map(|&protocol| row(played, protocol)).collect()
}

fn row(played: &Played, protocol: Protocol) -> Row {
    let Played { event, moves_datagrams, record, logs, asked } = played;
    let mut row = Row {
        event: (*event).to_owned(),
        protocol: protocol.name(),
        connections: 0,
        broken: 0,
        endpoint_died: 0,
        asked: *asked,
        longest_stall_ms: 0,
        moved: 0,
        breaks: BTreeMap::new(),
    };
    let outcomes = &record.outcomes;
    for outcome in outcomes.iter().filter(|outcome| outcome.protocol == protocol) {
        row.connections += 1;
        match judge(outcome, logs) {
            Verdict::Survived => {
                let stall = u64::try_from(outcome.longest_stall.as_millis()).unwrap_or(u64::MAX);
                row.longest_stall_ms = row.longest_stall_ms.max(stall);
            }
            Verdict::EndpointDied => {
                row.broken += 1;
                row.endpoint_died += 1;
            }
            Verdict::Broken(Break::OtherServer) if *moves_datagrams && protocol == Protocol::Udp => {
                row.broken += 1;
                row.moved += 1;
            }
            Verdict::Broken(why) => {
                row.broken += 1;
                *row.breaks.entry((outcome.kind, why)).or_default() += 1;
            }
        }
    }
    row
}

/// What is to be said of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was whole to its end.
    Survived,
    /// It broke, and its server was dead.
    EndpointDied,
    /// It broke, and should not have.
    Broken(Break),
}

/// What is to be said of this one.
#[must_use]
pub fn judge(outcome: &Outcome, logs: &Logs) -> Verdict {
    match outcome.broken {
        None => Verdict::Survived,
        Some((_, at)) if endpoint_died(outcome, at, logs) => Verdict::EndpointDied,
        Some((why, _)) => Verdict::Broken(why),
    }
}

fn endpoint_died(outcome: &Outcome, at: Duration, logs: &Logs) -> bool {
    let server = outcome.server.as_ref().or_else(|| logs.server_of(outcome.client, outcome.opened));
    match server {
        Some(server) => logs.was_dead(server, at),
        None => logs.one_died(outcome.opened, at),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::survive::fleet::Record;
    use crate::survive::identity::Server;
    use crate::survive::server::log_file;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    /// One that held one client and died at 1100 ms or a little later.
    fn logs() -> Logs {
        let directory = std::env::temp_dir().join(format!("fairlead-judge-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        fs::write(log_file(&directory, 1), "held 192.0.2.1:40000 1\nalive 1100\n").unwrap();
        let logs = Logs::read([("a", directory.as_path())]).unwrap();
        fs::remove_dir_all(&directory).unwrap();
        logs
    }

    fn played(outcomes: Vec<Outcome>, moves_datagrams: bool) -> Played {
        let record = Record { outcomes, unopened: 0 };
        Played { event: "x", moves_datagrams, record, logs: logs(), asked: 3 }
    }

    fn outcome(server: Option<&str>, broken: Option<(Break, Duration)>) -> Outcome {
        Outcome {
            protocol: Protocol::Tcp4,
            kind: Kind::Idle,
            client: "192.0.2.1:10000".parse().unwrap(),
            opened: MS(500),
            server: server.map(|pod| Server { pod: pod.into(), start: 1 }),
            broken,
            longest_stall: MS(7),
        }
    }

    #[test]
    fn only_a_dead_server_excuses() {
        let broken = |server, at| outcome(server, Some((Break::Reset, MS(at))));
        let of_a_log = Outcome { client: "192.0.2.1:40000".parse().unwrap(), ..broken(None, 1150) };
        let outcomes = [
            outcome(Some("a"), None),
            broken(Some("a"), 1150),
            broken(Some("a"), 900),
            broken(Some("b"), 1150),
            broken(None, 1150),
            broken(None, 900),
            of_a_log,
        ];
        let [tcp4, tcp6, udp, quic] = rows(&played(outcomes.into(), false)).try_into().unwrap();
        assert_eq!((tcp4.connections, tcp4.broken, tcp4.endpoint_died), (7, 6, 3));
        assert_eq!((tcp4.asked, tcp4.longest_stall_ms), (3, 7));
        assert_eq!(tcp4.breaks, BTreeMap::from([((Kind::Idle, Break::Reset), 3)]));
        assert_eq!(tcp4.lost(), 3);
        assert_eq!([tcp6, udp, quic].map(|row| row.connections), [0; 3]);
    }

    #[test]
    fn another_server_may_take_over_a_flow_of_udp_where_gateways_have_no_memory_and_nothing_else() {
        let broken = |protocol, why| Outcome { protocol, ..outcome(Some("b"), Some((why, MS(900)))) };
        let outcomes = vec![
            broken(Protocol::Tcp6, Break::OtherServer),
            broken(Protocol::Udp, Break::OtherServer),
            broken(Protocol::Udp, Break::Unanswered),
            broken(Protocol::Quic, Break::OtherServer),
        ];
        let lost = |moves| rows(&played(outcomes.clone(), moves)).iter().map(Row::lost).collect::<Vec<_>>();
        assert_eq!(lost(false), [0, 1, 2, 1]);
        assert_eq!(lost(true), [0, 1, 1, 1]);
        assert_eq!(rows(&played(outcomes.clone(), true))[2].broken, 2);
    }

    #[test]
    fn a_row_has_the_fields_that_tools_read() {
        let [row, ..] = &rows(&played(Vec::new(), false))[..] else { panic!("a row for each protocol") };
        let json = serde_json::to_value(row).unwrap();
        let mut fields: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
        fields.sort_unstable();
        let wanted = [
            "asked",
            "broken",
            "connections",
            "endpoint_died",
            "event",
            "longest_stall_ms",
            "moved",
            "protocol",
        ];
        assert_eq!(fields, wanted);
    }
}
