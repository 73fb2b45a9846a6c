//! Whether that which asks if connections survive is right itself, in small.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;

use fairlead_tests::survive::judge::{Verdict, judge, rows};
use fairlead_tests::survive::outcome::{Kind, PROTOCOLS, Protocol};
use fairlead_tests::survive::{Played, play_alone};

/// Of each protocol.
const CONNECTIONS: usize = 120;

#[test]
fn nothing_is_broken_by_nothing() {
    let played = play_alone("nothing", CONNECTIONS).unwrap();
    for row in rows(&played) {
        let least = if row.protocol == "quic" { CONNECTIONS / 8 } else { CONNECTIONS };
        assert!(row.connections >= least, "{row:?}");
        assert_eq!((row.broken, row.endpoint_died), (0, 0), "{row:?}");
    }
    let outcomes = &played.record.outcomes;
    let kinds: BTreeSet<_> = outcomes.iter().map(|outcome| outcome.kind).collect();
    assert_eq!(kinds.len(), 6, "{kinds:?}");
    let protocols: BTreeSet<_> = outcomes.iter().map(|outcome| outcome.protocol).collect();
    assert_eq!(protocols, BTreeSet::from(PROTOCOLS));
}

#[test]
fn a_pod_that_is_killed_excuses_its_own_connections_and_no_others() {
    let Played { record, logs, .. } = play_alone("endpoint_killed", CONNECTIONS).unwrap();
    let mut excused = BTreeSet::new();
    // Those that lasted: they were open when it happened.
    for outcome in record.outcomes.iter().filter(|outcome| outcome.kind != Kind::Short) {
        let server = outcome.server.as_ref().unwrap();
        let is_the_dead_one = &*server.pod == "pod-us-central1-a-4";
        assert_eq!(judge(outcome, &logs) == Verdict::EndpointDied, is_the_dead_one, "{outcome:?}");
        if is_the_dead_one {
            excused.insert(outcome.protocol);
        }
    }
    // Of QUIC there are so few that the pod may have had none.
    excused.insert(Protocol::Quic);
    assert_eq!(excused, BTreeSet::from(PROTOCOLS));
}
