//! Nothing of a world outlives it, whichever way it ends; a kept one runs on.

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use fairlead_tests::world::{self, Holder, Plan, Traces, World, interrupt};
use nix::sys::signal::Signal::{SIGINT, SIGTERM};

use super::url;

fn hold(how: &str) -> Holder {
    Holder::start(&[how]).unwrap()
}

fn traces(id: &str) -> Traces {
    Traces::of(id).unwrap()
}

/// Five hosts and the router, the directory; two nginx, and what they and the pods have started.
fn is_whole(id: &str) {
    let found = traces(id);
    assert_eq!(found.files.len(), 6 + 1, "{found:?}");
    assert!(found.programs.len() >= 2, "{found:?}");
}

fn is_gone(id: &str) {
    assert_eq!(traces(id), Traces::default());
}

#[test]
fn nothing_is_left_after_a_normal_end() {
    let world = World::build(&Plan::small()).unwrap();
    let id = world.id().to_owned();
    is_whole(&id);
    drop(world);
    is_gone(&id);
}

#[test]
fn nothing_is_left_after_a_panic() {
    let mut holder = hold("panic");
    assert!(!holder.wait().unwrap().success());
    is_gone(holder.id());
}

#[test]
fn nothing_is_left_after_signals() {
    for signals in [&[SIGINT][..], &[SIGTERM], &[SIGINT, SIGINT, SIGTERM], &[SIGTERM, SIGINT]] {
        let mut holder = hold("wait");
        is_whole(holder.id());
        holder.interrupt(signals).unwrap();
        // Those that arrive together have no order.
        let code = holder.wait().unwrap().code();
        assert!(signals.iter().any(|&signal| code == Some(128 + signal as i32)), "{signals:?}: {code:?}");
        is_gone(holder.id());
    }
}

#[test]
fn nothing_is_left_of_a_demo_that_is_interrupted() {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_fairlead-demo"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let id = format!("fl-{}-1", demo.id());
    // In the midst of it: agents run, and have pinned what would outlive them.
    let deadline = Instant::now() + Duration::from_secs(60);
    let pins = || traces(&id).files.into_iter().filter(|file| file.starts_with(world::PINS)).count();
    while pins() < 12 {
        assert!(demo.try_wait().unwrap().is_none(), "the demo has ended");
        assert!(Instant::now() < deadline, "no agents: {:?}", traces(&id));
        thread::sleep(Duration::from_millis(20));
    }
    // Whoever is impatient presses Ctrl-C again, or ends it otherwise: the removal goes on.
    interrupt(&demo, &[SIGINT, SIGINT, SIGTERM]).unwrap();
    assert_eq!(demo.wait().unwrap().code(), Some(130));
    is_gone(&id);
}

#[test]
fn what_a_killed_run_left_is_removed_by_the_next() {
    let mut killed = hold("wait");
    killed.kill().unwrap();
    is_whole(killed.id());
    let mut next = hold("panic");
    next.wait().unwrap();
    is_gone(killed.id());
    is_gone(next.id());
}

#[test]
fn what_a_killed_run_left_is_removed_without_a_next_one_and_what_lives_stays() {
    let mut killed = hold("wait");
    let mut living = hold("wait");
    killed.kill().unwrap();
    // Unless another test's run was faster.
    let removed = world::remove_abandoned().unwrap();
    is_gone(killed.id());
    assert!(!removed.iter().any(|id| id == living.id()), "{removed:?}");
    is_whole(living.id());
    living.interrupt(&[SIGTERM]).unwrap();
    living.wait().unwrap();
}

#[test]
fn a_kept_world_runs_on_until_it_is_removed() {
    let world = World::build(&Plan::small()).unwrap();
    let client = world.client("us-central1").clone();
    let address = world.pods()[0].addresses()[0];
    let id = world.keep().unwrap();
    assert!(world::kept().unwrap().contains(&id));
    assert_eq!(client.get(&url(address, "/healthz")).unwrap().status, 200);
    world::remove(&id).unwrap();
    is_gone(&id);
}
