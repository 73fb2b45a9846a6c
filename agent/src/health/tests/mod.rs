//! The prober as a whole: its schedule in paused time, its questions on real sockets, its targets from real plans.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use fairlead_core::model::{Health, ObjectName, Probe, ProbeKind, ProbeSpec, ProbeState};
use tokio::sync::watch;

use super::{ServiceTargets, Target, Targets, Way};

mod sockets;
mod targets;
mod timing;

const MS: Duration = Duration::from_millis(1);

fn web() -> ObjectName {
    ObjectName::new("shop", "web")
}

/// Probes of 200 ms, three failures, two good ones.
fn spec(kind: ProbeKind) -> ProbeSpec {
    ProbeSpec { kind, interval: 200 * MS, timeout: 200 * MS, rise: 2, fall: 3, ..ProbeSpec::default() }
}

/// An endpoint on this node, with one port `http`.
fn direct(to: SocketAddr, spec: &ProbeSpec) -> Target {
    Target {
        address: to.ip(),
        port: Arc::from("http"),
        pod: Arc::from(format!("pod-{to}")),
        vip: "192.0.2.1:80".parse().unwrap(),
        way: Way::Direct(to),
        spec: Arc::new(spec.clone()),
    }
}

/// The targets of one service.
fn of_web(mut targets: Vec<Target>) -> Arc<Targets> {
    targets.sort_by(|a, b| (a.address, &a.port).cmp(&(b.address, &b.port)));
    let service = Arc::new(ServiceTargets { targets, problems: Vec::new() });
    Arc::new(Targets { services: BTreeMap::from([(web(), service)]) })
}

fn probe_of(health: &Health, address: IpAddr) -> Probe {
    health.services.get(&web()).map(|service| service.get(address, "http")).unwrap_or_default()
}

/// Waits until the endpoint has the state, and says since when.
async fn becomes(health: &mut watch::Receiver<Arc<Health>>, address: IpAddr, state: ProbeState) -> Duration {
    let all = health.wait_for(|health| probe_of(health, address).state == state).await.unwrap();
    probe_of(&all, address).since
}
