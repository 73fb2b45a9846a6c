//! Directories and what is known of them.

use std::fs;

use fairlead_core::model::{ObjectName, ShardSpec};
use tempfile::TempDir;

use super::*;

mod directories;
mod drains;
mod faults;

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {type: LoadBalancer, loadBalancerClass: fairlead.io/vip, ports: [{port: 80}]}\n";

fn service(name: &str, port: u32) -> String {
    SERVICE.replace("name: web", &format!("name: {name}")).replace("port: 80", &format!("port: {port}"))
}

fn slice(service: &str, name: &str, family: &str, endpoints: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: {family}\n\
         metadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: {service}}}}}\n\
         ports: [{{name: '', port: 8080}}]\nendpoints: [{endpoints}]\n"
    )
}

struct World {
    dir: TempDir,
    manifests: Manifests,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let manifests =
            Manifests::new("c1".into(), dir.path().to_owned(), Defaults::default(), Store::default());
        Self { dir, manifests }
    }

    fn write(&mut self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self.manifests.refresh(&Changed::Anything, &|_| false);
    }

    fn remove(&mut self, name: &str) {
        fs::remove_file(self.dir.path().join(name)).unwrap();
        self.manifests.refresh(&Changed::Anything, &|_| false);
    }

    fn shards(&mut self) -> BTreeMap<ObjectName, Arc<ShardSpec>> {
        self.manifests.store().shards().clone()
    }

    fn shard(&mut self, name: &str) -> Option<Arc<ShardSpec>> {
        self.shards().get(&ObjectName::new("shop", name)).cloned()
    }

    fn port(&mut self, name: &str) -> Option<u16> {
        self.shard(name).map(|shard| shard.ports[0].port)
    }

    /// `pod v4 v6 ready receiver` of each endpoint.
    fn endpoints(&mut self, name: &str) -> Vec<String> {
        let text = |e: &fairlead_core::model::Endpoint| {
            let addresses: Vec<_> = e.addresses().map(|a| a.to_string()).collect();
            let flags = [
                (e.conditions.ready, " ready"),
                (e.conditions.terminating, " terminating"),
                (e.receiver, " receiver"),
            ];
            let flags: String = flags.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
            format!("{} {}{flags}", e.pod, addresses.join(" "))
        };
        self.shard(name).map(|shard| shard.endpoints.iter().map(text).collect()).unwrap_or_default()
    }

    fn problems(&self) -> Vec<String> {
        let root = format!("{}/", self.dir.path().display());
        self.manifests.problems().iter().map(|problem| problem.to_string().replace(&root, "")).collect()
    }
}

#[test]
fn what_kubectl_prints_becomes_a_dual_stack_shard() {
    let mut world = World::new();
    world.write("all.yaml", include_str!("../../fixtures/kubectl.yaml"));
    assert_eq!(world.problems(), Vec::<String>::new());
    assert_eq!(world.shards().len(), 1, "the service `kubernetes` is not ours");
    let shard = world.shard("web").unwrap();
    assert_eq!(shard.requested_vips.len(), 2);
    let ports: Vec<_> = shard.ports.iter().map(|p| format!("{} {}/{}", p.name, p.port, p.protocol)).collect();
    assert_eq!(ports, ["http 80/tcp", "https 443/tcp", "quic 443/udp"]);
    assert_eq!(shard.options.capacity_per_endpoint, Some(400));
    assert_eq!(
        world.endpoints("web"),
        [
            "web-6d4b75cb6d-hx2kq 10.2.1.5 2001:db8:2:1::5 ready receiver",
            "web-6d4b75cb6d-zq8lm 10.2.2.9 terminating",
        ]
    );
    assert_eq!(shard.endpoints[0].ports["http"], 8080);
    assert_eq!(world.manifests.ignored(), 3, "the other service, the ConfigMap and the List itself");
}

#[test]
fn endpoints_of_a_service_that_publishes_all_take_connections_until_they_are_gone() {
    let mut world = World::new();
    let publishing =
        |publish: bool| SERVICE.replace("spec: {", &format!("spec: {{publishNotReadyAddresses: {publish}, "));
    // As the slice controller writes them for such a service, and by hand.
    let endpoints = "{addresses: [10.0.0.1], conditions: {ready: true, serving: false, terminating: false}, targetRef: {name: a}}, \
                     {addresses: [10.0.0.2], conditions: {ready: true, serving: true, terminating: true}, targetRef: {name: b}}, \
                     {addresses: [10.0.0.3], conditions: {ready: false, serving: false}, targetRef: {name: c}}";
    world.write("slice.yaml", &slice("web", "web-1", "IPv4", endpoints));
    let takes_new = |world: &mut World| {
        let shard = world.shard("web").unwrap();
        shard.endpoints.iter().map(fairlead_core::model::Endpoint::takes_new).collect::<Vec<_>>()
    };
    for (publish, expected) in
        [(false, [true, false, false]), (true, [true; 3]), (false, [true, false, false])]
    {
        world.write("web.yaml", &publishing(publish));
        assert_eq!((takes_new(&mut world), world.problems()), (expected.to_vec(), vec![]), "{publish}");
    }
    world.write("web.yaml", &publishing(true));
    world
        .write("slice.yaml", &slice("web", "web-1", "IPv4", "{addresses: [10.0.0.1], targetRef: {name: a}}"));
    assert_eq!(takes_new(&mut world), [true], "who has left its slice is gone");
}

#[test]
fn the_same_as_json_and_as_files_in_directories() {
    let mut world = World::new();
    world.write("all.yaml", include_str!("../../fixtures/kubectl.yaml"));
    let whole = world.shards();
    let mut apart = World::new();
    for (i, node) in crate::yaml::Objects::new(include_str!("../../fixtures/kubectl.yaml")).enumerate() {
        let json: serde_json::Value = crate::yaml::from_node(&node.unwrap()).unwrap();
        apart.write(&format!("{i}/{i}.json"), &serde_json::to_string_pretty(&json).unwrap());
    }
    assert_eq!(apart.problems(), Vec::<String>::new());
    assert_eq!(apart.shards(), whole);
}

#[test]
fn a_broken_file_keeps_what_it_had_and_the_others_count() {
    let good = service("web", 80) + "---\n" + &service("api", 81);
    let rows: &[(&[u8], &str)] = &[
        (b"", "is empty: to remove its objects, remove the file"),
        (b"\n  \n", "is empty: to remove its objects, remove the file"),
        (b"a: [1", "not YAML: unclosed bracket '['"),
        (b"a: {b: c\nkind: x\n", "not YAML: "),
        (b"\x00\x01\x02\xff", "is not text in UTF-8"),
        (b"kind: A\nkind: B\n", "\"kind\" stands twice in this mapping"),
    ];
    for (bytes, expected) in rows {
        let mut world = World::new();
        world.write("a.yaml", &good);
        world.write("b.yaml", &service("other", 82));
        fs::write(world.dir.path().join("a.yaml"), bytes).unwrap();
        world.write("b.yaml", &service("other", 83));
        assert_eq!(
            (world.port("web"), world.port("api"), world.port("other")),
            (Some(80), Some(81), Some(83))
        );
        let problems = world.problems();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(
            problems[0].starts_with("cluster c1: a.yaml:") && problems[0].contains(expected),
            "{problems:?}"
        );
        assert!(problems[0].ends_with("; the objects that the file had stay"));
        world.write("a.yaml", &service("web", 90));
        assert_eq!((world.port("web"), world.port("api")), (Some(90), None), "repaired");
        assert_eq!(world.problems(), Vec::<String>::new());
    }
}

#[test]
fn a_rejected_object_keeps_its_last_good_version() {
    let mut world = World::new();
    world.write("a.yaml", &(service("web", 80) + "---\n" + &service("api", 81)));
    world.write(
        "a.yaml",
        &(service("web", 0) + "---\n" + &service("api", 91) + "---\n" + &service("new", 70000)),
    );
    assert_eq!((world.port("web"), world.port("api"), world.port("new")), (Some(80), Some(91), None));
    assert_eq!(
        world.problems(),
        [
            "cluster c1: a.yaml:4:79: Service shop/web: spec.ports[0].port: 0 is not a port: use 1 to 65535; the object's last good version stays, if there is one",
            "cluster c1: a.yaml:14:79: Service shop/new: spec.ports[0].port: 70000 is not a port: use 1 to 65535; the object's last good version stays, if there is one",
        ]
    );
    world.write("a.yaml", &service("web", 80).replace("LoadBalancer,", "ClusterIP,"));
    assert_eq!((world.port("web"), world.port("api")), (None, None), "not ours any more, and gone");
}

#[test]
fn objects_that_are_none_or_not_well_formed() {
    let rows = [
        (
            service("web", 80).replace("port: 80", "port: http"),
            "a.yaml:4:79: Service shop/web: spec.ports[0].port: expected a whole number, found \"http\"",
        ),
        (
            service("web", 80).replace("type: LoadBalancer", "type: true"),
            "a.yaml:4:14: Service shop/web: spec.type: true is not a string: write it in quotes, \"true\"",
        ),
        (
            service("web", 80).replace("name: web, ", ""),
            "a.yaml:1:1: has no name: metadata.name is missing or not text",
        ),
        (
            service("web", 80).replace("name: web", "name: 5"),
            "a.yaml:1:1: has no name: metadata.name is missing or not text",
        ),
        ("just text".to_owned(), "a.yaml:1:1: is no Kubernetes object: kind or apiVersion is missing"),
        ("replicas: 3\n".to_owned(), "a.yaml:1:1: is no Kubernetes object: kind or apiVersion is missing"),
        (
            "apiVersion: discovery.k8s.io/v1beta1\nkind: EndpointSlice\n".to_owned(),
            "a.yaml:1:1: has an apiVersion that is not read: write discovery.k8s.io/v1",
        ),
    ];
    for (text, expected) in rows {
        let mut world = World::new();
        world.write("a.yaml", &(text + "\n---\n" + &service("api", 81)));
        let problems = world.problems();
        assert!(
            problems.len() == 1 && problems[0].starts_with(&format!("cluster c1: {expected}")),
            "{problems:?}\n{expected}"
        );
        assert_eq!(world.port("api"), Some(81), "its neighbour counts");
    }
    let mut world = World::new();
    world.write("a.yaml", &(service("web", 80).replace("spec: {", "spec: {unknownField: [1, {a: b}], ")));
    assert_eq!(
        (world.port("web"), world.problems().len()),
        (Some(80), 0),
        "fields of later versions of Kubernetes"
    );
    world.write("a.yaml", "# nothing any more\n");
    assert_eq!((world.port("web"), world.problems().len()), (None, 0), "a file of comments has no objects");
}

#[test]
fn of_an_object_in_two_files_the_first_by_path_counts() {
    let mut world = World::new();
    world.write("b.yaml", &service("web", 81));
    world.write("a.yaml", &service("web", 80));
    assert_eq!(world.port("web"), Some(80));
    let root = world.dir.path().display().to_string();
    assert_eq!(
        world.problems(),
        ["cluster c1: b.yaml: Service shop/web: stands in a.yaml too, which counts: remove one"],
        "{root}"
    );
    world.write("b.yaml", &service("web", 82));
    assert_eq!(world.port("web"), Some(80));
    world.remove("a.yaml");
    assert_eq!((world.port("web"), world.problems().len()), (Some(82), 0));
    world.write("b.yaml", &(service("web", 80) + "---\n" + &service("web", 81)));
    assert_eq!(world.port("web"), Some(80));
    assert_eq!(
        world.problems(),
        [
            "cluster c1: b.yaml:6:1: Service shop/web: stands in this file before: the first one counts; remove one"
        ]
    );
}

#[test]
fn slices_merge_and_of_an_endpoint_in_two_the_better_conditions_count() {
    let endpoint = |address: &str, uid: &str, ready: bool| {
        format!(
            "{{addresses: ['{address}'], nodeName: n1, targetRef: {{name: p-{uid}, uid: {uid}}}, conditions: {{ready: {ready}}}}}"
        )
    };
    let mut world = World::new();
    world.write("web.yaml", &service("web", 80));
    assert_eq!(world.endpoints("web"), Vec::<String>::new());
    world.write(
        "1.yaml",
        &slice(
            "web",
            "s1",
            "IPv4",
            &format!("{}, {}", endpoint("10.0.0.1", "a", false), endpoint("10.0.0.2", "b", true)),
        ),
    );
    world.write(
        "2.yaml",
        &slice(
            "web",
            "s2",
            "IPv4",
            &format!("{}, {}", endpoint("10.0.0.1", "a", true), endpoint("10.0.0.3", "c", false)),
        ),
    );
    world.write(
        "6.yaml",
        &slice(
            "web",
            "s6",
            "IPv6",
            &format!("{}, {}", endpoint("2001:db8::2", "b", true), endpoint("2001:db8::4", "d", true)),
        ),
    );
    world.write("other.yaml", &slice("other", "o", "IPv4", &endpoint("10.0.0.9", "z", true)));
    let expected =
        ["p-a 10.0.0.1 ready", "p-b 10.0.0.2 2001:db8::2 ready", "p-c 10.0.0.3", "p-d 2001:db8::4 ready"];
    assert_eq!(world.endpoints("web"), expected);
    world.write(
        "node.yaml",
        "apiVersion: v1\nkind: Node\nmetadata: {name: n1, labels: {fairlead.io/receiver: 'true'}}\n",
    );
    assert_eq!(world.endpoints("web"), expected.map(|text| format!("{text} receiver")));
    world.remove("2.yaml");
    world.remove("node.yaml");
    assert_eq!(
        world.endpoints("web"),
        ["p-a 10.0.0.1", "p-b 10.0.0.2 2001:db8::2 ready", "p-d 2001:db8::4 ready"]
    );
}

#[test]
fn what_did_not_change_stays_the_same_arc() {
    let mut world = World::new();
    world.write("a.yaml", &(service("web", 80) + "---\n" + &service("api", 81)));
    world.write("b.yaml", &slice("web", "s1", "IPv4", "{addresses: [10.0.0.1]}"));
    let before = world.shards();
    world.write("b.yaml", &slice("web", "s1", "IPv4", "{addresses: [10.0.0.2]}"));
    let after = world.shards();
    let same = |name: &str| {
        Arc::ptr_eq(&before[&ObjectName::new("shop", name)], &after[&ObjectName::new("shop", name)])
    };
    assert_eq!((same("web"), same("api")), (false, true));
    // Rewritten with other spaces: nothing changed.
    world.write(
        "a.yaml",
        &(service("web", 80).replace("{port: 80}", "{port:   80}") + "---\n" + &service("api", 81)),
    );
    let again = world.shards();
    assert!(after.iter().all(|(name, shard)| Arc::ptr_eq(shard, &again[name])));
}
