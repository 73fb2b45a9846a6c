//! Builds a small world and holds it until it is ended, one way or the other: what the tests of a world's end run in a
//! process of its own. With `clusters`, it holds a control plane in it too, and another on loopback; with `kubelets`, pods of the first one run. The world's id is
//! the first line on standard output.
#![forbid(unsafe_code)]

use std::io::Write;
use std::net::Ipv6Addr;
use std::time::Duration;

use anyhow::Result;
use fairlead_tests::control_plane::{ControlPlane, Place, Wanted};
use fairlead_tests::kubelet::{Images, Kubelets, Settings};
use fairlead_tests::world::{Footprint, Plan, World};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |word: &str| arguments.iter().any(|argument| argument == word);
    let world = World::build(&Plan { control_planes: has("clusters") || has("kubelets"), ..Plan::small() })?;
    let kubelets = if has("kubelets") { Some(run_pods(&world)?) } else { None };
    let beside = if has("clusters") { Some(Footprint::claim()?) } else { None };
    let mut planes = Vec::new();
    if let Some(footprint) = &beside {
        let wanted = Wanted::new("us-central1-a").controllers();
        planes.push(ControlPlane::start(&Place::on_host(&world, "api-us-central1-a")?, &wanted)?);
        planes.push(ControlPlane::start(&Place::loopback(footprint, Ipv6Addr::LOCALHOST.into())?, &wanted)?);
    }
    writeln!(std::io::stdout(), "{}", world.id())?;
    // Named, so that it lives until here: it has to go before its world.
    let _kubelets = kubelets;
    if has("panic") {
        panic!("on purpose");
    }
    loop {
        std::thread::park();
    }
}

/// One pod with addresses of its own, and one on its node's network.
const PODS: &str = "apiVersion: v1
kind: Pod
metadata: {name: own, namespace: default}
spec:
  containers: [{name: shell, image: shell, args: [-c, 'sleep 1000 & sleep 1000']}]
---
apiVersion: v1
kind: Pod
metadata: {name: hosts, namespace: default}
spec:
  hostNetwork: true
  hostPID: true
  containers: [{name: shell, image: shell, args: [-c, 'sleep 1000 & sleep 1000']}]
";

/// A control plane and kubelets whose pods run.
fn run_pods(world: &World) -> Result<(Kubelets, ControlPlane)> {
    let place = Place::on_host(world, "api-us-central1-a")?;
    let plane = ControlPlane::start(&place, &Wanted::new("us-central1-a").kubelets())?;
    let images = Images::read("images: [{image: shell, command: [/bin/sh]}]")?;
    let kubelets = Kubelets::start(world, &plane, &Settings { images, back_off: Duration::from_secs(10) })?;
    plane.apply(PODS)?;
    plane.kubectl(&["wait", "pods", "--all", "--for=condition=Ready", "--timeout=60s"])?;
    Ok((kubelets, plane))
}
