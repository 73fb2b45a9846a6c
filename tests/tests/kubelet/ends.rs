//! Nothing of a pod outlives its world, whichever way that ends.

use fairlead_tests::world::{self, Holder, Traces};
use nix::sys::signal::Signal::SIGINT;

use super::{Cluster, until};

fn is_gone(id: &str) {
    assert_eq!(Traces::of(id).unwrap(), Traces::default());
}

/// Holds a world with pods that run.
fn hold(how: &str) -> Holder {
    Holder::start(&[how, "kubelets"]).unwrap()
}

fn sleepers(id: &str) -> usize {
    Traces::of(id).unwrap().programs.iter().filter(|line| line.starts_with("sleep 1000")).count()
}

#[test]
fn nothing_is_left_after_a_normal_end() {
    let cluster = Cluster::start(1);
    let id = cluster.world.id().to_owned();
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: one, namespace: default}, \
               spec: {containers: [{name: one, image: shell, args: [-c, 'sleep 1000 & exec sleep 1000']}]}}";
    cluster.plane.apply(pod).unwrap();
    until(&cluster, "it runs", || sleepers(&id), |&count| count == 2);
    drop(cluster);
    is_gone(&id);
}

#[test]
fn nothing_is_left_after_a_panic() {
    let mut holder = hold("panic");
    assert!(holder.id().starts_with("fl-"), "{holder:?}");
    assert!(!holder.wait().unwrap().success());
    is_gone(holder.id());
}

#[test]
fn nothing_is_left_after_ctrl_c() {
    let mut holder = hold("wait");
    assert_eq!(sleepers(holder.id()), 4, "{:?}", Traces::of(holder.id()));
    holder.interrupt(&[SIGINT]).unwrap();
    assert_eq!(holder.wait().unwrap().code(), Some(128 + SIGINT as i32));
    is_gone(holder.id());
}

#[test]
fn what_a_killed_run_left_is_removed_by_the_next() {
    let mut holder = hold("wait");
    holder.kill().unwrap();
    assert_eq!(sleepers(holder.id()), 4, "{:?}", Traces::of(holder.id()));
    world::remove_abandoned().unwrap();
    is_gone(holder.id());
}
