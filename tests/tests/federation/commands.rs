//! Commands that read and write at API servers.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use fairlead_tests::world::own_program;

use super::followed::{config_text, kubeconfig, ours, slice};
use super::one;

/// Runs `fairlead`; what it wrote to standard output and error, and whether it was done.
fn run(config: &Path, arguments: &[&str]) -> (String, bool) {
    let mut command = Command::new(own_program("fairlead", "FAIRLEAD_BIN").unwrap());
    let Output { status, stdout, stderr } =
        command.arg("--config").arg(config).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
    (text, status.success())
}

#[test]
fn drains_are_written_at_the_server_and_plans_read_it() {
    let (footprint, plane) = one();
    plane.apply(&(ours("web") + &slice("web-1", "web", &["10.1.0.1"]))).unwrap();
    plane
        .apply("{apiVersion: v1, kind: Node, metadata: {name: n1, labels: {fairlead.io/receiver: \"true\"}}}")
        .unwrap();
    let config = footprint.directory().join("config.yaml");
    let text = config_text(&[(plane.name(), &kubeconfig(&plane))]);
    let state = footprint.directory().join("state");
    fs::write(&config, format!("{text}instance: {}\nstateDirectory: {}\n", footprint.id(), state.display()))
        .unwrap();

    let (told, done) = run(&config, &["drain", "node", "n1"]);
    assert!(!done && told.contains("kubectl create namespace fairlead"), "{told}");
    plane.kubectl(&["create", "namespace", "fairlead"]).unwrap();
    let (told, done) = run(&config, &["drain", "node", "n1"]);
    assert!(done && told.contains("1 endpoint of default/web"), "{told}");
    let data =
        ["get", "configmap", "fairlead-drains", "--namespace=fairlead", "--output=jsonpath={.data.nodes}"];
    assert_eq!(plane.kubectl(&data).unwrap().trim(), "n1");
    let (told, done) = run(&config, &["drain", "pod", "nobody"]);
    assert!(!done && told.contains("there is no pod \"nobody\""), "{told}");
    let (told, done) = run(&config, &["drain", "node", "n1", "--undo"]);
    assert!(done, "{told}");
    assert!(plane.kubectl(&data).is_err(), "what drains nothing is removed");

    let (told, done) = run(&config, &["plan"]);
    assert!(done && told.contains("write backend    10.1.0.1"), "{told}");
    plane.stop().unwrap();
    let (told, done) = run(&config, &["drain", "node", "n1"]);
    assert!(
        !done && told.contains("cluster us-central1-a can't be read") && told.contains("refused"),
        "{told}"
    );
    let (told, _) = run(&config, &["plan"]);
    assert!(told.contains("cluster us-central1-a can't be read"), "{told}");
}
