//! Nothing of a control plane outlives its world, whichever way that ends.

use fairlead_tests::control_plane::Wanted;
use fairlead_tests::world::{self, Holder, Traces};
use nix::sys::signal::Signal::{SIGINT, SIGTERM};

use super::{becomes, start};

/// The names of the programs that run for a world, sorted.
fn programs(id: &str) -> Vec<String> {
    let lines = Traces::of(id).unwrap().programs;
    let name = |line: &String| line.split(' ').next()?.rsplit('/').next().map(str::to_owned);
    let mut names: Vec<String> = lines.iter().filter_map(name).collect();
    names.sort();
    names
}

fn is_gone(id: &str) {
    assert_eq!(Traces::of(id).unwrap(), Traces::default());
}

/// Holds a world with a control plane in it, and one on loopback.
fn hold(how: &str) -> Holder {
    Holder::start(&[how, "clusters"]).unwrap()
}

/// Its second world, of the control plane on loopback.
fn second(id: &str) -> String {
    let (process, _) = id.rsplit_once('-').unwrap();
    format!("{process}-2")
}

const THREE: [&str; 3] = ["etcd", "kube-apiserver", "kube-controller-manager"];

/// Whether a whole control plane runs for this world, beside whatever else.
fn runs_all(id: &str) -> bool {
    let programs = programs(id);
    THREE.iter().all(|name| programs.iter().any(|found| found == name))
}

#[test]
fn nothing_is_left_after_a_normal_end() {
    let (footprint, plane) = start(&Wanted::new("us-central1-a").controllers());
    let id = footprint.id().to_owned();
    // The kernel shows no command line in the moment in which a program is loaded.
    becomes(&THREE.join(" "), || programs(&id).join(" "));
    assert_eq!(
        Traces::of(&id).unwrap().files,
        [format!("{}/{id}", world::RUNS), format!("{}/{id}", world::DATA)]
    );
    drop(plane);
    assert_eq!(programs(&id), Vec::<String>::new());
    drop(footprint);
    is_gone(&id);
}

#[test]
fn nothing_is_left_after_a_panic() {
    let mut holder = hold("panic");
    assert!(!holder.wait().unwrap().success());
    is_gone(holder.id());
    is_gone(&second(holder.id()));
}

#[test]
fn nothing_is_left_after_signals() {
    for signals in [&[SIGINT][..], &[SIGTERM, SIGINT]] {
        let mut holder = hold("wait");
        let second = second(holder.id());
        for id in [holder.id(), &second] {
            becomes("true", || runs_all(id).to_string());
        }
        holder.interrupt(signals).unwrap();
        let code = holder.wait().unwrap().code();
        assert!(signals.iter().any(|&signal| code == Some(128 + signal as i32)), "{signals:?}: {code:?}");
        is_gone(holder.id());
        is_gone(&second);
    }
}

#[test]
fn what_a_killed_run_left_is_removed_by_the_next() {
    let mut holder = hold("wait");
    holder.kill().unwrap();
    let second = second(holder.id());
    for id in [holder.id(), &second] {
        becomes("true", || runs_all(id).to_string());
    }
    world::remove_abandoned().unwrap();
    is_gone(holder.id());
    is_gone(&second);
}
