//! Nothing of a pod outlives its world, whichever way that ends.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use fairlead_tests::world;
use nix::sys::signal::Signal::SIGINT;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::{Cluster, until};

/// Files, namespaces and processes that carry a world's id.
fn traces(id: &str) -> Vec<String> {
    let mut found = Vec::new();
    for directory in ["/run/netns", world::RUNS, world::DATA] {
        let Ok(entries) = fs::read_dir(directory) else { continue };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let ours = names.filter(|name| name == id || name.starts_with(&format!("{id}-")));
        found.extend(ours.map(|name| format!("{directory}/{name}")));
    }
    let mark = format!("FAIRLEAD_WORLD={id}");
    for entry in fs::read_dir("/proc").unwrap() {
        let path = entry.unwrap().path();
        let environment = fs::read(path.join("environ")).unwrap_or_default();
        if environment.split(|&byte| byte == 0).any(|variable| variable == mark.as_bytes()) {
            let line = fs::read(path.join("cmdline")).unwrap_or_default();
            found.push(String::from_utf8_lossy(&line).replace('\0', " "));
        }
    }
    found
}

/// A process that holds a world with pods that run, and the world's id.
fn start_child(how: &str) -> (Child, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_fairlead-held-world"))
        .args([how, "kubelets"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut id = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut id).unwrap();
    (child, id.trim().to_owned())
}

fn sleepers(id: &str) -> usize {
    traces(id).iter().filter(|line| line.starts_with("sleep 1000")).count()
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
    assert_eq!(traces(&id), Vec::<String>::new());
}

#[test]
fn nothing_is_left_after_a_panic() {
    let (mut child, id) = start_child("panic");
    assert!(id.starts_with("fl-"), "{id}");
    assert!(!child.wait().unwrap().success());
    assert_eq!(traces(&id), Vec::<String>::new());
}

#[test]
fn nothing_is_left_after_ctrl_c() {
    let (mut child, id) = start_child("wait");
    assert_eq!(sleepers(&id), 4, "{:?}", traces(&id));
    kill(Pid::from_raw(child.id().try_into().unwrap()), SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(128 + SIGINT as i32));
    assert_eq!(traces(&id), Vec::<String>::new());
}

#[test]
fn what_a_killed_run_left_is_removed_by_the_next() {
    let (mut killed, id) = start_child("wait");
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert_eq!(sleepers(&id), 4, "{:?}", traces(&id));
    world::remove_abandoned().unwrap();
    assert_eq!(traces(&id), Vec::<String>::new());
}
