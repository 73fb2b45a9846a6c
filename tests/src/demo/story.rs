//! The story: what is done to the world, one event after the other, and what fairlead promises for each.

use std::time::Duration;

use anyhow::Result;

use super::promises::Promise;
use super::stage::{RETURN, Stage};
use crate::load::statistics::RECOVERY;
use crate::world::other_elf;

/// One event.
pub(super) struct Act {
    /// As in the report.
    pub(super) name: String,
    /// One line for people.
    pub(super) told: String,
    pub(super) promise: Promise,
    /// After this time the zones that serve must be the right ones.
    pub(super) settles: Duration,
    pub(super) action: Action,
}

/// What is done to the stage; returns what else there is to tell of it.
pub(super) type Action = Box<dyn Fn(&Stage) -> Result<Option<String>>>;

/// How long is watched once things have settled.
pub(super) const WATCHED: Duration = Duration::from_millis(2_500);

/// Probes of 200 ms × 3 find what died; half a second is the machine's.
const SETTLES: Duration = RECOVERY.saturating_add(Duration::from_millis(500));

/// Two good probes, and then by and by.
const COMES_BACK: Duration = RETURN.saturating_add(Duration::from_millis(2_000));

/// Everything that happens, in order. Each region takes its turn, and its first zone is the one that its client is served from.
pub(super) fn story() -> Vec<Act> {
    let (us, europe) = ("us-central1", "europe-west1");
    let (europe_b, asia_a) = ("europe-west1-b", "asia-east1-a");
    let pod = "pod-us-central1-a-2";
    let mut acts = vec![act(
        "start",
        "nothing happens yet".to_owned(),
        Promise::NothingFails,
        Duration::from_millis(200),
        |_| Ok(None),
    )];
    acts.extend(pair(
        "pod",
        format!("{pod}: killed -9"),
        move |s| s.kill_pod(pod),
        move |s| s.start_pod(pod),
    ));
    acts.extend(pair(
        "cluster",
        format!("{europe_b}: all its pods are killed -9"),
        move |s| s.kill_cluster(europe_b),
        move |s| s.start_cluster(europe_b),
    ));
    acts.extend(pair(
        "zone",
        format!("{asia_a}: its links are cut"),
        move |s| s.cut_zone(asia_a),
        move |s| s.restore_zone(asia_a),
    ));
    acts.extend(pair(
        "region",
        format!("{us}: the links of its gateway and its nodes are cut"),
        move |s| s.cut_region(us, europe),
        move |s| s.restore_region(us),
    ));
    acts.extend(pair(
        "spill",
        format!("{europe_b}: its manifest says that an endpoint takes 2 new connections per second"),
        move |s| s.set_capacity(europe_b, Some(2)),
        move |s| s.set_capacity(europe_b, None),
    ));
    acts.extend(pair(
        "receiver_lost",
        format!("{asia_a}: its node's agent is killed -9 and its programs are removed"),
        move |s| s.lose_receiver(asia_a),
        move |s| s.restore_receiver(asia_a),
    ));
    acts.extend(agents());
    acts.extend(drains());
    acts
}

/// The second round: nothing breaks, the manifests say that pods are going.
fn drains() -> Vec<Act> {
    let (pod, us_a, europe_b, asia) =
        ("pod-europe-west1-b-1", "us-central1-a", "europe-west1-b", "asia-east1");
    let mut acts = Vec::new();
    acts.extend(pair(
        "pod_drained",
        format!("{pod}: its manifest says that it is being deleted"),
        move |s| s.drain_pod(pod),
        move |s| s.undrain_pod(pod),
    ));
    acts.extend(pair(
        "cluster_drained",
        format!("{us_a}: its manifests say that all its pods are being deleted"),
        move |s| s.drain(&[us_a]),
        move |s| s.undrain(&[us_a]),
    ));
    acts.extend(pair(
        "zone_drained",
        format!("{europe_b}: the manifests of the zone's cluster say so"),
        move |s| s.drain(&[europe_b]),
        move |s| s.undrain(&[europe_b]),
    ));
    acts.extend(pair(
        "region_drained",
        format!("{asia}: the manifests of all its clusters say so"),
        move |s| s.drain(&s.zones(asia)),
        move |s| s.undrain(&s.zones(asia)),
    ));
    acts
}

/// What is done to agents alone must cost nothing at all.
fn agents() -> Vec<Act> {
    let nothing = |name, told: &str, action: fn(&Stage) -> Result<Option<String>>| {
        act(name, told.to_owned(), Promise::NothingFails, SETTLES, action)
    };
    let upgraded = "every agent is ended and started again with other BPF programs, those that log";
    vec![
        nothing("agent_killed", "every agent on every gateway and node is killed -9", |s| {
            s.kill_agents().map(|()| None)
        }),
        nothing("agent_killed_back", "they are started again", |s| s.start_agents().map(|()| None)),
        nothing("agent_upgraded", upgraded, |s| s.replace_programs(Some(&other_elf()?)).map(Some)),
        nothing("agent_upgraded_back", "and again with the ones they were built with", |s| {
            s.replace_programs(None).map(Some)
        }),
    ]
}

fn pair(
    name: &str,
    told: String,
    away: impl Fn(&Stage) -> Result<()> + 'static,
    back: impl Fn(&Stage) -> Result<()> + 'static,
) -> [Act; 2] {
    let away = move |stage: &Stage| away(stage).map(|()| None);
    let back = move |stage: &Stage| back(stage).map(|()| None);
    [
        act(name, told, Promise::Recovers, SETTLES, away),
        act(&format!("{name}_back"), "it comes back".to_owned(), Promise::Recovers, COMES_BACK, back),
    ]
}

fn act(
    name: &str,
    told: String,
    promise: Promise,
    settles: Duration,
    action: impl Fn(&Stage) -> Result<Option<String>> + 'static,
) -> Act {
    Act { name: name.to_owned(), told, promise, settles, action: Box::new(action) }
}
