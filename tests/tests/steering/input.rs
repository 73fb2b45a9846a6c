//! Manifests and configurations that are wrong: what is wrong keeps its last good state and is told, all else goes on.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;

use fairlead_tests::load::Load;
use fairlead_tests::world::{Condition, Federation, Manifests, Plan, ServiceSpec};
use serde_json::{Value, json};

use crate::served::{NEW_ONLY, Served, assert_nothing_failed, wait};

/// A world with two services, a load on the first, and no problem.
struct Scene {
    served: Served,
    other: ServiceSpec,
    load: Load,
}

impl Scene {
    fn build() -> Self {
        let served = Served::build(&Plan::small(), &Federation::default());
        let other = ServiceSpec::new("other", 2);
        served.world.add_service(&other).unwrap();
        served.wait_until_served();
        served.wait_for_status("no problem", |status| status["problems"] == json!([]));
        let load = served.load(NEW_ONLY);
        Self { served, other, load }
    }

    fn manifests(&self) -> &Manifests {
        self.served.world.manifests("us-central1-a")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.manifests().directory().join(name)
    }

    /// Puts a changed copy of a file in its place.
    fn spoil(&self, file: &str, change: impl Fn(&str) -> String) {
        let (path, new) = (self.file(file), self.file(".spoilt"));
        let text = fs::read_to_string(&path).unwrap();
        let changed = change(&text);
        assert_ne!(changed, text, "{file} is not spoilt");
        fs::write(&new, changed).unwrap();
        fs::rename(new, path).unwrap();
    }

    /// Waits until one problem has all these words, and sees that the service serves as before.
    fn assert_told(&self, words: &[&str]) {
        self.served.wait_for_status(&format!("{words:?}"), |status| is_told(status, words));
        let log = self.served.gateway().process().log();
        let is_warned = |line: &str| line.contains(" WARN ") && words.iter().all(|word| line.contains(word));
        assert!(log.lines().any(is_warned), "{words:?} is not in the log: {log}");
        assert_eq!(self.served.answering(), self.served.pods());
        assert!(self.served.gateway().is_ready());
    }

    /// Has all files written again as they should be.
    fn mend(&self) {
        self.manifests().set_all(Condition::Ready).unwrap();
        self.served.wait_for_status("no problem", |status| status["problems"] == json!([]));
        assert!(self.served.gateway().process().log().contains(" INFO fairlead::app::problems: no more: "));
    }

    fn end(self) {
        assert_nothing_failed(self.load);
    }
}

fn is_told(status: &Value, words: &[&str]) -> bool {
    let problems = status["problems"].as_array().unwrap().iter().map(ToString::to_string);
    problems.into_iter().any(|problem| words.iter().all(|word| problem.contains(word)))
}

#[test]
fn a_file_that_is_no_yaml_or_empty_keeps_its_objects_and_others_change_on() {
    let scene = Scene::build();
    scene.spoil("web-endpointslice-ipv4.yaml", |text| format!("{text}  : }}{{ [\n"));
    scene.assert_told(&[
        "us-central1-a",
        "web-endpointslice-ipv4.yaml",
        "the objects that the file had stay",
    ]);
    // Another object of the same cluster goes on.
    let annotation = "fairlead.io/unserved-ports";
    scene.manifests().annotate("other", annotation, Some("never")).unwrap();
    scene.assert_told(&["other", annotation]);
    scene.manifests().annotate("other", annotation, None).unwrap();
    assert_eq!(scene.served.answering_for(&scene.other), scene.served.pods());
    scene.mend();

    // As a slow writer does it: empty for longer than anybody waits for it to be closed.
    let path = scene.file("web-service.yaml");
    let text = fs::read_to_string(&path).unwrap();
    let mut slow = File::create(&path).unwrap();
    scene.assert_told(&["web-service.yaml", "is empty"]);
    slow.write_all(&text.as_bytes()[..text.len() / 2]).unwrap();
    slow.flush().unwrap();
    assert_eq!(scene.served.answering(), scene.served.pods());
    slow.write_all(&text.as_bytes()[text.len() / 2..]).unwrap();
    drop(slow);
    scene.mend();
    scene.end();
}

#[test]
fn an_object_that_is_wrong_keeps_its_last_good_version() {
    let scene = Scene::build();
    scene.spoil("web-service.yaml", |text| text.replace("port: 80\n", "port: 0\n"));
    scene.assert_told(&["web", "spec.ports[0].port", "0 is not a port: use 1 to 65535"]);
    scene.mend();
    scene.spoil("web-endpointslice-ipv6.yaml", |text| text.replace("port: 8080\n", "port: 0\n"));
    scene.assert_told(&["web-ipv6", "ports[0].port", "0 is not a port"]);
    scene.mend();
    // What Kubernetes has and fairlead doesn't know disturbs nobody; an annotation of ours that isn't one is told.
    scene.spoil("web-service.yaml", |text| text.replace("spec:\n", "spec:\n  notYetInvented: 1\n"));
    scene.manifests().annotate("other", "fairlead.io/porbe", Some("http")).unwrap();
    scene.assert_told(&["other", "fairlead.io/porbe", "did you mean fairlead.io/probe?"]);
    scene.manifests().annotate("other", "fairlead.io/porbe", None).unwrap();
    scene.mend();
    scene.end();
}

#[test]
fn a_vip_and_port_that_another_service_has_is_told_and_stays_the_others() {
    let scene = Scene::build();
    let twin = ServiceSpec { name: "zwilling".to_owned(), ..scene.served.service.clone() };
    scene.manifests().add_service(&twin).unwrap();
    scene.assert_told(&[
        "zwilling",
        "VIP 203.0.113.1",
        "port 80/tcp of it is held by Service shop/web",
        "us-central1-a/zwilling-service.yaml",
    ]);
    scene.manifests().remove_service("zwilling").unwrap();
    scene.mend();
    scene.end();
}

#[test]
fn an_endpoint_outside_its_clusters_addresses_is_left_out_and_told() {
    let scene = Scene::build();
    let stranger = "endpoints:\n- addresses:\n  - 192.0.2.99\n  conditions:\n    ready: true\n  nodeName: node-us-central1-a-1\n  targetRef:\n    kind: Pod\n    name: stranger\n    namespace: shop\n";
    scene.spoil("web-endpointslice-ipv4.yaml", |text| text.replace("endpoints:\n", stranger));
    scene.assert_told(&["web", "stranger", "192.0.2.99", "web-endpointslice-ipv4.yaml"]);
    scene.mend();
    scene.end();
}

#[test]
fn of_65_536_endpoints_those_beyond_the_limit_are_left_out_and_told() {
    let federation = Federation::default().capacity("backends", 400_000).capacity("slots", 2_000_000);
    let served = Served::build(&Plan::small(), &federation);
    served.wait_until_served();
    let manifests = served.world.manifests("us-central1-a");
    let load = served.load(NEW_ONLY);
    // Nobody is there, so nobody is probed.
    let crowd = ServiceSpec::new("crowd", 3).annotation("fairlead.io/probe", "none");
    manifests.add_service(&crowd).unwrap();
    let path = manifests.directory().join("crowd-endpointslice-ipv6.yaml");
    let text = fs::read_to_string(&path).unwrap();
    let (before, after) = (text.find("endpoints:").unwrap(), text.find("kind: EndpointSlice").unwrap());
    let mut crowded = text[..before].to_owned() + "endpoints:\n";
    for number in 0..65_536 {
        let address = format!("2001:db8:1:0:1::{number:x}");
        writeln!(crowded, "- addresses: [\"{address}\"]\n  nodeName: node-us-central1-a-1").unwrap();
    }
    crowded.push_str(&text[after..]);
    fs::write(&path, crowded).unwrap();
    served.wait_for_status("a word", |status| is_told(status, &["crowd", "it can have 65,535 endpoints"]));
    assert_eq!(served.answering(), served.pods());
    manifests.remove_service("crowd").unwrap();
    served.wait_for_status("no problem", |status| {
        status["problems"] == json!([]) && status["failure"] == Value::Null
    });
    assert_nothing_failed(load);
}

#[test]
fn a_changed_configuration_that_is_wrong_is_refused_whole() {
    let scene = Scene::build();
    let agent = scene.served.gateway();
    let good = fs::read_to_string(agent.configuration()).unwrap();
    // The commands read the same file, so this is read where the agent keeps it.
    let state = agent.configuration().with_file_name("state");
    for (spoilt, words) in [
        (good.replace("probes:\n", "probes:\n  intervall: 1s\n"), "intervall"),
        (good.replace("fall: 3", "fall: 0"), "probes.fall"),
        (good.replace("  slots: ", "  slots: 2"), "can't change while the agent runs"),
        ("}{".to_owned(), "fairlead.yaml:1"),
    ] {
        assert_ne!(spoilt, good);
        fs::write(agent.configuration(), &spoilt).unwrap();
        let refused = || {
            let status = fs::read_to_string(state.join("status.json")).unwrap();
            let status: Value = serde_json::from_str(&status).unwrap();
            status["refused"]
                .as_array()
                .is_some_and(|all| all.iter().any(|why| why.to_string().contains(words)))
        };
        wait(&format!("a refusal with {words}"), refused);
        assert_eq!(scene.served.answering(), scene.served.pods());
    }
    fs::write(agent.configuration(), &good).unwrap();
    scene.served.wait_for_status("no refusal", |status| status["refused"] == json!([]));
    scene.end();
}

#[test]
fn secrets_that_are_none_are_told_and_the_ones_before_stay() {
    let scene = Scene::build();
    let secrets = scene.served.world.directory().join("secrets");
    let good = fs::read(&secrets).unwrap();
    fs::write(&secrets, "hunter2\n").unwrap();
    scene.assert_told(&["secretsFile", "secrets: line 1", "the secrets stay as they were"]);
    fs::remove_file(&secrets).unwrap();
    scene.assert_told(&["secretsFile", "No such file", "the secrets stay as they were"]);
    fs::write(&secrets, good).unwrap();
    scene.served.wait_for_status("no problem", |status| status["problems"] == json!([]));
    scene.end();
}
