//! Drains of a configuration with three clusters, written into real directories.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;
use crate::config;

const DRAINS: &str = "apiVersion: v1\ndata:\n";
const END: &str = "kind: ConfigMap\nmetadata:\n  name: fairlead-drains\n  namespace: fairlead\n";

/// Clusters `eu-b` and `eu-c`, of zones `b` and `c` in `eu`, and `us-b` of zone `b` in `us`. Each has service `shop/web` with
/// pods `web-1` and `web-2` on nodes `n1` and `n2`; `eu-b` has `pay/web` too, with a pod `web-1` on `n9`.
struct World(TempDir);

impl World {
    fn new() -> Self {
        let world = Self(tempfile::tempdir().unwrap());
        for (cluster, number) in [("eu-b", 1), ("eu-c", 2), ("us-b", 3)] {
            fs::create_dir(world.path(cluster)).unwrap();
            let pods = [("web-1", "n1"), ("web-2", "n2")];
            fs::write(world.path(cluster).join("web.yaml"), service("shop", number, &pods)).unwrap();
        }
        fs::write(world.path("eu-b/pay.yaml"), service("pay", 4, &[("web-1", "n9")])).unwrap();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn clusters(&self) -> Vec<Cluster> {
        let mut text = "seed: 1\nnode: {name: g, region: eu, roles: [gateway], interfaces: [eth0]}\n\
                        gateways: [{name: g, region: eu, tunnel: [192.0.2.1]}]\nclusters:\n"
            .to_owned();
        for (cluster, number) in [("eu-b", 1), ("eu-c", 2), ("us-b", 3)] {
            let (region, zone) = cluster.split_once('-').unwrap();
            text += &format!(
                "- {{name: {cluster}, region: {region}, zone: {zone}, podCidrs: [10.{number}.0.0/16], manifests: {cluster}}}\n"
            );
        }
        clusters(&config::parse(&text, &self.path("config.yaml")).unwrap().clusters).unwrap()
    }

    /// What the command says, and what it fails by.
    fn drain(&self, kind: Kind, name: &str, undo: bool) -> (String, Vec<String>) {
        let mut clusters = self.clusters();
        let targets = match meant(&clusters, kind, name, undo) {
            Ok(targets) => targets,
            Err(error) => return (String::new(), vec![error.to_string()]),
        };
        let document = carry_out(&mut clusters, &targets, undo);
        let failures = document.failures.clone();
        (Document { failures: Vec::new(), ..document }.text(false), failures)
    }

    fn said(&self, kind: Kind, name: &str, undo: bool) -> String {
        let (said, failures) = self.drain(kind, name, undo);
        assert_eq!(failures, Vec::<String>::new());
        said
    }

    fn refused(&self, kind: Kind, name: &str, undo: bool) -> String {
        let (_, failures) = self.drain(kind, name, undo);
        assert_eq!(failures.len(), 1);
        failures[0].replace(&format!("{}/", self.0.path().display()), "")
    }

    fn written(&self, cluster: &str) -> Option<String> {
        fs::read_to_string(self.path(cluster).join(write::FILE)).ok()
    }

    /// `namespace/pod` of every endpoint of a cluster that is drained, as its source reads it.
    fn drained(&self, cluster: &str) -> Vec<String> {
        let clusters = self.clusters();
        let cluster = clusters.iter().find(|known| *known.name == *cluster).unwrap();
        let drained = cluster.endpoints().filter(|(_, endpoint)| endpoint.drained);
        drained.map(|(service, endpoint)| format!("{}/{}", service.namespace, endpoint.pod)).collect()
    }
}

fn service(namespace: &str, number: u8, pods: &[(&str, &str)]) -> String {
    let endpoint = |(last, (pod, node)): (u8, &(&str, &str))| {
        format!("{{addresses: [10.{number}.0.{last}], nodeName: {node}, targetRef: {{name: {pod}}}}}")
    };
    let endpoints: Vec<String> = (1..).zip(pods).map(endpoint).collect();
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: {namespace}}}\n\
         spec: {{type: LoadBalancer, loadBalancerClass: fairlead.io/vip, ports: [{{port: 80}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
         metadata: {{name: web-1, namespace: {namespace}, labels: {{kubernetes.io/service-name: web}}}}\n\
         ports: [{{name: '', port: 8080}}]\nendpoints: [{}]\n",
        endpoints.join(", ")
    )
}

#[test]
fn a_drain_stands_beside_the_manifests_and_goes_with_its_undoing() {
    let world = World::new();
    let drained = "pod eu-b/shop/web-2 takes no new connections: 1 endpoint of shop/web\n";
    assert_eq!(world.said(Kind::Pod, "eu-b/shop/web-2", false), drained);
    assert_eq!(world.written("eu-b").unwrap(), format!("{DRAINS}  pods: |\n    shop/web-2\n{END}"));
    assert_eq!((world.drained("eu-b"), world.drained("eu-c")), (vec!["shop/web-2".to_owned()], vec![]));
    let again = world.said(Kind::Pod, "eu-b/shop/web-2", false);
    assert_eq!(again, "pod eu-b/shop/web-2 is drained already: 1 endpoint of shop/web\n");
    // Of several pods called so, the drained one is meant.
    let undone = world.said(Kind::Pod, "web-2", true);
    assert_eq!(undone, "pod eu-b/shop/web-2 takes new connections again: 1 endpoint of shop/web\n");
    assert_eq!((world.written("eu-b"), world.drained("eu-b").len()), (None, 0));
    let undone = world.said(Kind::Pod, "eu-b/shop/web-2", true);
    assert_eq!(undone, "pod eu-b/shop/web-2 is not drained: 1 endpoint of shop/web\n");
    let left: Vec<_> =
        fs::read_dir(world.path("eu-b")).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn who_waits_hears_that_the_drain_is_undone() {
    let world = World::new();
    world.said(Kind::Zone, "eu/b", false);
    let targets = meant(&world.clusters(), Kind::Zone, "eu/b", false).unwrap();
    assert_eq!(wait::undone(&world.clusters(), &targets), None);
    // A broken file says nothing: what was drained stays.
    let file = world.path("eu-b").join(write::FILE);
    let good = fs::read_to_string(&file).unwrap();
    fs::write(&file, "a: [").unwrap();
    assert_eq!(wait::undone(&world.clusters(), &targets), None);
    fs::write(&file, good).unwrap();
    world.said(Kind::Cluster, "eu-b", true);
    assert_eq!(wait::undone(&world.clusters(), &targets), Some(&targets[0]));
}

#[test]
fn without_an_agent_nothing_is_said_to_happen() {
    let world = World::new();
    let said = |undo| {
        let mut clusters = world.clusters();
        let targets = meant(&clusters, Kind::Node, "eu-b/n1", undo).unwrap();
        Document { agent_running: false, ..carry_out(&mut clusters, &targets, undo) }.text(false)
    };
    assert_eq!(said(false), "node eu-b/n1 is to take no new connections: 1 endpoint of shop/web\n");
    assert_eq!(said(true), "node eu-b/n1 is to take new connections again: 1 endpoint of shop/web\n");
}

#[test]
fn a_pod_of_a_drained_node_stays_drained_when_its_own_drain_is_undone() {
    let world = World::new();
    world.said(Kind::Pod, "eu-b/shop/web-1", false);
    world.said(Kind::Node, "eu-b/n1", false);
    let note = "note: 1 endpoint of it stays drained, for node eu-b/n1 is drained too\n";
    for is in ["is not drained by itself any more", "is not drained by itself"] {
        let told = world.said(Kind::Pod, "eu-b/shop/web-1", true);
        assert_eq!(told, format!("pod eu-b/shop/web-1 {is}: 1 endpoint of shop/web\n{note}"));
    }
}

#[test]
fn undoing_what_is_gone_is_as_good_the_second_time() {
    let world = World::new();
    fs::write(world.path("eu-b").join(write::FILE), format!("{DRAINS}  pods: |\n    old/gone\n{END}"))
        .unwrap();
    world.said(Kind::Pod, "old/gone", true);
    assert_eq!(meant(&world.clusters(), Kind::Pod, "old/gone", true).unwrap(), []);
    assert_eq!(meant(&world.clusters(), Kind::Node, "n7", true).unwrap(), []);
    assert!(meant(&world.clusters(), Kind::Cluster, "asia", true).is_err(), "no cluster comes and goes");
}

#[test]
fn what_else_is_drained_or_stands_in_the_object_stays() {
    let world = World::new();
    let own = "# Of somebody.\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: fairlead-drains, namespace: fairlead, labels: {team: net}}\n\
               data: {pods: \"shop/web-2\\nold/gone\\n\", note: by hand}\n";
    fs::write(world.path("eu-b").join(write::FILE), own).unwrap();
    world.said(Kind::Node, "n9", false);
    let end = END.replace("metadata:\n", "metadata:\n  labels:\n    team: net\n");
    assert_eq!(
        world.written("eu-b").unwrap(),
        format!(
            "{DRAINS}  nodes: |\n    n9\n  note: by hand\n  pods: |\n    old/gone\n    shop/web-2\n{end}"
        )
    );
    assert_eq!(world.drained("eu-b"), ["pay/web-1", "shop/web-2"]);
    let undone = world.said(Kind::Pod, "old/gone", true);
    assert_eq!(undone, "pod eu-b/old/gone takes new connections again: 0 endpoints of 0 services\n");
    world.said(Kind::Node, "eu-b/n9", true);
    world.said(Kind::Pod, "shop/web-2", true);
    assert_eq!(world.written("eu-b").unwrap(), format!("{DRAINS}  note: by hand\n{end}"));
}

#[test]
fn a_zone_is_all_of_its_clusters_and_what_nobody_serves_any_more_is_told() {
    let world = World::new();
    let several = world.refused(Kind::Zone, "b", false);
    assert_eq!(several, "there are several zones \"b\": name one of eu/b, us/b");
    assert_eq!(
        world.said(Kind::Zone, "eu/b", false),
        "cluster eu-b takes no new connections: 3 endpoints of 2 services\n\
         note: no endpoint of pay/web is left that takes new connections: they are dropped\n"
    );
    assert_eq!(world.written("eu-b").unwrap(), format!("{DRAINS}  cluster: drained\n{END}"));
    world.said(Kind::Cluster, "us-b", false);
    world.said(Kind::Node, "eu-b/n1", false);
    assert_eq!(
        world.said(Kind::Zone, "c", false),
        "cluster eu-c takes no new connections: 2 endpoints of shop/web\n\
         note: no endpoint of shop/web is left that takes new connections: they are dropped\n"
    );
    assert_eq!(
        world.said(Kind::Cluster, "eu-b", true),
        "cluster eu-b takes new connections again: 3 endpoints of 2 services\n\
         note: 1 endpoint of it stays drained, for node eu-b/n1 is drained too\n"
    );
}

#[test]
fn names_that_are_not_there_or_are_several_are_told_with_those_that_are() {
    let world = World::new();
    let rows = [
        (
            Kind::Pod,
            "web-1",
            "there are several pods \"web-1\": name one of eu-b/pay/web-1, eu-b/shop/web-1, eu-c/shop/web-1, \
             us-b/shop/web-1",
        ),
        (
            Kind::Pod,
            "shop/web-2",
            "there are several pods \"shop/web-2\": name one of eu-b/shop/web-2, eu-c/shop/web-2, us-b/shop/web-2",
        ),
        (
            Kind::Pod,
            "eu-b/shop/wbe-2",
            "there is no pod \"eu-b/shop/wbe-2\"; did you mean eu-b/shop/web-2? There are eu-b/pay/web-1, \
             eu-b/shop/web-1, eu-b/shop/web-2, eu-c/shop/web-1, eu-c/shop/web-2, us-b/shop/web-1, us-b/shop/web-2",
        ),
        (Kind::Node, "n2", "there are several nodes \"n2\": name one of eu-b/n2, eu-c/n2, us-b/n2"),
        (Kind::Cluster, "asia", "there is no cluster \"asia\"; there are eu-b, eu-c, us-b"),
        (Kind::Zone, "z", "there is no zone \"z\"; there are eu/b, eu/c, us/b"),
    ];
    for (kind, name, expected) in rows {
        assert_eq!(world.refused(kind, name, false), expected);
    }
    assert!(
        world
            .refused(Kind::Node, "us-b/n9", false)
            .starts_with("there is no node \"us-b/n9\"; did you mean eu-b/n9? There are eu-b/n1, ")
    );
    fs::rename(world.path("us-b"), world.path("away")).unwrap();
    let told = world.refused(Kind::Pod, "api", false);
    assert!(told.ends_with("; the manifests of us-b can't be read"), "{told}");
    assert_eq!(
        world.refused(Kind::Cluster, "us-b", false),
        "the directory of the manifests of cluster us-b is missing: us-b: create it, or correct `manifests` in the \
         configuration"
    );
    // Slices alone, which belong to no Service: nobody knows pods by them.
    for cluster in ["eu-b", "eu-c"] {
        fs::write(world.path(cluster).join("web.yaml"), "# none\n").unwrap();
    }
    fs::write(
        world.path("eu-b/pay.yaml"),
        service("pay", 4, &[("web-1", "n9")]).split_once("---").unwrap().1,
    )
    .unwrap();
    let told = world.refused(Kind::Pod, "web-1", false);
    assert!(
        told.starts_with("there is no pod \"web-1\"; no Service that fairlead serves has any;"),
        "{told}"
    );
    fs::write(world.path("eu-b/pay.yaml"), service("pay", 4, &[("web-1", "n9")])).unwrap();
    let told = world.refused(Kind::Node, "eu-c/n9", false);
    assert!(told.starts_with("there is no node \"eu-c/n9\"; did you mean eu-b/n9?;"), "{told}");
}

#[test]
fn what_can_not_be_written_is_told_and_left_as_it_is() {
    let world = World::new();
    let broken = [
        ("a: [", "is broken, repair it first: not YAML: unclosed bracket '['"),
        ("kind: Secret\n", "it has another object: move it to another file"),
        ("a: 1\n---\nb: 1\n", "it has other objects too: move them to another file"),
    ];
    let file = world.path("eu-c").join(write::FILE);
    for (text, expected) in broken {
        fs::write(&file, text).unwrap();
        let told = world.refused(Kind::Cluster, "eu-c", false);
        assert_eq!(told, format!("what is drained of cluster eu-c: eu-c/fairlead-drains.yaml: {expected}"));
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
    }
    fs::remove_file(&file).unwrap();
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(
        world.refused(Kind::Cluster, "eu-c", false),
        "what is drained of cluster eu-c: eu-c/fairlead-drains.yaml: can't be read: it is a pipe, a socket or a device, not a \
         file"
    );
    fs::remove_file(&file).unwrap();
    let bad = format!("{DRAINS}  cluster: yes!\n{END}");
    fs::write(&file, &bad).unwrap();
    let told = world.refused(Kind::Cluster, "eu-c", false);
    assert!(
        told.ends_with(
            "repair it first: data.cluster: \"yes!\" is not \"drained\": write that, or remove the field"
        ),
        "{told}"
    );
    fs::rename(&file, world.path("eu-c/all.yaml")).unwrap();
    fs::write(world.path("eu-c/all.yaml"), bad.replace("yes!", "drained")).unwrap();
    assert_eq!(
        world.refused(Kind::Node, "eu-c/n1", false),
        "what is drained of cluster eu-c is said by ConfigMap fairlead/fairlead-drains in eu-c/all.yaml: change it there, \
         or remove it"
    );
    assert_eq!(world.written("eu-c"), None);
    // Another user, who may read but not write.
    let (root, directory) = (world.0.path(), world.path("us-b"));
    [root, &directory].into_iter().for_each(|path| permit(path, 0o755));
    nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65534));
    let told = world.refused(Kind::Cluster, "us-b", false);
    nix::unistd::setfsuid(nix::unistd::geteuid());
    assert_eq!(
        told,
        "us-b/fairlead-drains.yaml can't be written: not permitted; run this as a user who may change the manifests of \
         cluster us-b"
    );
    assert_eq!(world.written("us-b"), None);
}

fn permit(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}
