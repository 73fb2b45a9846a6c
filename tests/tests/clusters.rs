//! Real control planes of Kubernetes: what they promise to the tests that use them.
#![allow(clippy::unwrap_used, unreachable_pub, reason = "tests, and nobody's library")]

#[path = "clusters/beside.rs"]
mod beside;
#[path = "clusters/data.rs"]
mod data;
#[path = "clusters/end.rs"]
mod end;
#[path = "clusters/hanging.rs"]
mod hanging;
#[path = "clusters/reached.rs"]
mod reached;
#[path = "clusters/slices.rs"]
mod slices;
#[path = "clusters/trust.rs"]
mod trust;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use fairlead_tests::control_plane::{ControlPlane, Place, Wanted};
use fairlead_tests::world::Footprint;

/// A control plane on loopback without controllers, behind what takes it away: so bound, a failed test still shows what
/// its programs said last.
fn one() -> (Footprint, ControlPlane) {
    start(&Wanted::new("us-central1-a"))
}

fn start(wanted: &Wanted) -> (Footprint, ControlPlane) {
    let footprint = Footprint::claim().unwrap();
    let place = Place::loopback(&footprint, Ipv4Addr::LOCALHOST.into()).unwrap();
    let plane = ControlPlane::start(&place, wanted).unwrap();
    (footprint, plane)
}

/// Makes an empty ConfigMap in the namespace `default`.
fn note(plane: &ControlPlane, name: &str) {
    let text = format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}, namespace: default}}}}");
    plane.apply(&text).unwrap();
}

/// The names of these, without what Kubernetes makes itself.
fn notes(plane: &ControlPlane) -> Vec<String> {
    let names = ["get", "configmaps", "--output=jsonpath={.items[*].metadata.name}"];
    let names = plane.kubectl(&names).unwrap();
    names.split_whitespace().filter(|name| *name != "kube-root-ca.crt").map(str::to_owned).collect()
}

/// Asks again until the answer is this one; controllers need a moment.
fn becomes(wanted: &str, mut ask: impl FnMut() -> String) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let answer = ask();
        if answer == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{answer:?} is not {wanted:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
