use super::*;
use crate::world::Plan;

/// Manifests in a directory of their own, removed at the end.
struct Fixture {
    directory: PathBuf,
    manifests: Manifests,
}

impl Fixture {
    fn new(name: &str) -> Self {
        let directory =
            std::env::temp_dir().join(format!("fairlead-manifests-{}-{name}", std::process::id()));
        let layout = Plan::small().layout().unwrap();
        let manifests = Manifests::new(&directory, &layout.clusters[0], &layout).unwrap();
        manifests.add_service(&ServiceSpec::new("web", 1)).unwrap();
        Self { directory, manifests }
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.manifests.directory().join(file)).unwrap()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.directory).unwrap();
    }
}

#[test]
fn a_cluster_has_nodes_a_service_and_slices_of_both_families() {
    let fixture = Fixture::new("files");
    let mut names: Vec<_> = fs::read_dir(fixture.manifests.directory())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let wanted =
        ["nodes.yaml", "web-endpointslice-ipv4.yaml", "web-endpointslice-ipv6.yaml", "web-service.yaml"];
    assert_eq!(names, wanted);
    assert!(fixture.read("nodes.yaml").contains("fairlead.io/receiver: \"true\""));
    assert!(fixture.read("web-service.yaml").contains("fairlead.io/vip: \"203.0.113.1,2001:db8:f::1\""));
    assert!(fixture.read("web-endpointslice-ipv6.yaml").contains("- 2001:db8:1::2\n"));
}

#[test]
fn a_drained_pod_stays_in_its_slices_and_a_removed_one_goes() {
    let fixture = Fixture::new("drain");
    let slices = ["web-endpointslice-ipv4.yaml", "web-endpointslice-ipv6.yaml"];
    fixture.manifests.set("pod-us-central1-a-1", Condition::Terminating).unwrap();
    for slice in slices {
        let text = fixture.read(slice);
        assert_eq!(text.matches("ready: false\n    serving: true\n    terminating: true\n").count(), 1);
        assert_eq!(text.matches("ready: true\n    serving: true\n    terminating: false\n").count(), 1);
    }
    fixture.manifests.remove("pod-us-central1-a-1").unwrap();
    fixture.manifests.remove("pod-us-central1-a-2").unwrap();
    assert!(fixture.read(slices[0]).contains("endpoints: []\n"));
    fixture.manifests.set_all(Condition::Ready).unwrap();
    assert_eq!(fixture.read(slices[0]).matches("ready: true").count(), 2);
    assert!(fixture.manifests.set("pod-nowhere", Condition::Ready).is_err());
}

#[test]
fn a_copy_follows_unless_its_updates_are_stopped() {
    let fixture = Fixture::new("copies");
    let (manifests, copy) = (&fixture.manifests, fixture.directory.join("copy"));
    manifests.copy_for("gateway", copy.clone()).unwrap();
    let same = |file: &str| {
        fs::read_to_string(copy.join(file)).ok() == fs::read_to_string(manifests.directory().join(file)).ok()
    };
    let slice = "web-endpointslice-ipv4.yaml";
    assert!(same(slice) && same("nodes.yaml"));
    manifests.set("pod-us-central1-a-1", Condition::Terminating).unwrap();
    assert!(same(slice));
    manifests.stop_updates("gateway").unwrap();
    manifests.set("pod-us-central1-a-1", Condition::Ready).unwrap();
    assert!(!same(slice));
    manifests.remove_service("web").unwrap();
    assert!(!same(slice) && copy.join(slice).exists());
    manifests.resume_updates("gateway").unwrap();
    assert!(same(slice) && !copy.join(slice).exists());
    assert!(manifests.stop_updates("another").is_err());
}

#[test]
fn a_change_writes_only_the_files_that_it_concerns() {
    let fixture = Fixture::new("files-that-change");
    let (service, slice) = (fixture.read("web-service.yaml"), fixture.read("web-endpointslice-ipv4.yaml"));
    fixture.manifests.annotate("web", "fairlead.io/probe", Some("http")).unwrap();
    assert_ne!(fixture.read("web-service.yaml"), service);
    assert_eq!(fixture.read("web-endpointslice-ipv4.yaml"), slice);
    fixture.manifests.remove_service("web").unwrap();
    assert_eq!(fs::read_dir(fixture.manifests.directory()).unwrap().count(), 1);
}
