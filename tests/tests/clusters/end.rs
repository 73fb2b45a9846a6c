//! Nothing of a control plane outlives its world, whichever way that ends.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use fairlead_tests::control_plane::Wanted;
use fairlead_tests::world;
use nix::sys::signal::Signal::{SIGINT, SIGTERM};
use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::{becomes, start};

/// Files and namespaces that carry a world's id, and the programs that run for it.
fn traces(id: &str) -> (Vec<String>, Vec<String>) {
    let mut files = Vec::new();
    for directory in ["/run/netns", world::RUNS, world::DATA, world::PINS] {
        let Ok(entries) = fs::read_dir(directory) else { continue };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let ours = names.filter(|name| name == id || name.starts_with(&format!("{id}-")));
        files.extend(ours.map(|name| format!("{directory}/{name}")));
    }
    let mut programs = Vec::new();
    for entry in fs::read_dir("/proc").unwrap() {
        let line = fs::read(entry.unwrap().path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(&format!("{id}/")) {
            let name = line.split(' ').next().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
            programs.push(name.to_owned());
        }
    }
    programs.sort();
    (files, programs)
}

fn nothing() -> (Vec<String>, Vec<String>) {
    (Vec::new(), Vec::new())
}

/// A process that holds a world with a control plane in it and one on loopback, and the world's id.
fn start_child(how: &str) -> (Child, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_fairlead-held-world"))
        .args([how, "clusters"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut id = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut id).unwrap();
    (child, id.trim().to_owned())
}

/// Its second world, of the control plane on loopback.
fn second(id: &str) -> String {
    let (process, _) = id.rsplit_once('-').unwrap();
    format!("{process}-2")
}

const THREE: [&str; 3] = ["etcd", "kube-apiserver", "kube-controller-manager"];

/// Whether a whole control plane runs for this world, beside whatever else.
fn runs_all(id: &str) -> bool {
    let programs = traces(id).1;
    THREE.iter().all(|name| programs.iter().any(|found| found == name))
}

#[test]
fn nothing_is_left_after_a_normal_end() {
    let (footprint, plane) = start(&Wanted::new("us-central1-a").controllers());
    let id = footprint.id().to_owned();
    // The kernel shows no command line in the moment in which a program is loaded.
    becomes(&THREE.join(" "), || traces(&id).1.join(" "));
    assert_eq!(traces(&id).0, [format!("{}/{id}", world::RUNS), format!("{}/{id}", world::DATA)]);
    drop(plane);
    assert_eq!(traces(&id).1, Vec::<String>::new());
    drop(footprint);
    assert_eq!(traces(&id), nothing());
}

#[test]
fn nothing_is_left_after_a_panic() {
    let (mut child, id) = start_child("panic");
    assert!(!child.wait().unwrap().success());
    assert_eq!((traces(&id), traces(&second(&id))), (nothing(), nothing()));
}

#[test]
fn nothing_is_left_after_signals() {
    for signals in [&[SIGINT][..], &[SIGTERM, SIGINT]] {
        let (mut child, id) = start_child("wait");
        for id in [&id, &second(&id)] {
            becomes("true", || runs_all(id).to_string());
        }
        for &signal in signals {
            kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let code = child.wait().unwrap().code();
        assert!(signals.iter().any(|&signal| code == Some(128 + signal as i32)), "{signals:?}: {code:?}");
        assert_eq!((traces(&id), traces(&second(&id))), (nothing(), nothing()), "{signals:?}");
    }
}

#[test]
fn what_a_killed_run_left_is_removed_by_the_next() {
    let (mut killed, left) = start_child("wait");
    killed.kill().unwrap();
    killed.wait().unwrap();
    for id in [&left, &second(&left)] {
        becomes("true", || runs_all(id).to_string());
    }
    world::remove_abandoned().unwrap();
    assert_eq!((traces(&left), traces(&second(&left))), (nothing(), nothing()));
}
