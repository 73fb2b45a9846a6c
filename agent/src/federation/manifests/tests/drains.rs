//! What is drained, and what becomes of it where that can't be read.

use super::*;

fn drains(data: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: fairlead-drains, namespace: fairlead}}\ndata: {data}\n"
    )
}

fn endpoint(address: &str, pod: &str, node: &str) -> String {
    format!("{{addresses: ['{address}'], nodeName: {node}, targetRef: {{name: {pod}}}}}")
}

/// Service `web` with pods `a` and `b` on `n1` and `n2`, in both IP versions.
fn world() -> World {
    let mut world = World::new();
    world.write("web.yaml", &service("web", 80));
    let v4 = [endpoint("10.0.0.1", "a", "n1"), endpoint("10.0.0.2", "b", "n2")];
    let v6 = [endpoint("2001:db8::1", "a", "n1"), endpoint("2001:db8::2", "b", "n2")];
    world.write("4.yaml", &slice("web", "s4", "IPv4", &v4.join(", ")));
    world.write("6.yaml", &slice("web", "s6", "IPv6", &v6.join(", ")));
    world
}

/// The pods of `web` that are drained.
fn drained(world: &mut World) -> Vec<String> {
    let endpoints = Arc::clone(&world.shard("web").unwrap().endpoints);
    assert!(endpoints.iter().all(|endpoint| endpoint.addresses().count() == 2 && endpoint.conditions.ready));
    endpoints.iter().filter(|endpoint| endpoint.drained).map(|endpoint| endpoint.pod.to_string()).collect()
}

#[test]
fn pods_nodes_and_clusters_are_drained_and_come_back() {
    let mut world = world();
    let before = world.shard("web").unwrap();
    let rows: [(&str, &[&str]); 6] = [
        ("{pods: shop/a}", &["a"]),
        ("{pods: default/a}", &[]),
        ("{nodes: n2}", &["b"]),
        ("{nodes: n2, pods: shop/a}", &["a", "b"]),
        ("{cluster: drained}", &["a", "b"]),
        ("{}", &[]),
    ];
    for (data, expected) in rows {
        world.write("fairlead-drains.yaml", &drains(data));
        assert_eq!(drained(&mut world), expected, "{data}");
        assert_eq!(world.problems(), Vec::<String>::new());
    }
    world.write("fairlead-drains.yaml", &drains("{cluster: drained}"));
    let old = world.shard("web").unwrap();
    assert!(old.drained && !before.drained);
    world.write("api.yaml", &service("api", 81));
    assert!(Arc::ptr_eq(&old, &world.shard("web").unwrap()), "nothing of it has changed");
    world.remove("fairlead-drains.yaml");
    assert_eq!(world.shard("web").unwrap(), before);
    let another = drains("{cluster: drained}").replace("namespace: fairlead", "namespace: shop");
    world.write("another.yaml", &another);
    assert_eq!(
        (drained(&mut world).len(), world.manifests.ignored()),
        (0, 1),
        "another namespace's is nothing"
    );
}

#[test]
fn what_can_not_be_read_leaves_drained_what_was() {
    let mut world = world();
    world.write("fairlead-drains.yaml", &drains("{pods: shop/a}"));
    world.write("fairlead-drains.yaml", &drains("\n  pods: shop/b\n  nodes: |\n    n1\n    n 2"));
    assert_eq!(drained(&mut world), ["a"]);
    assert_eq!(
        world.problems(),
        [
            "cluster c1: fairlead-drains.yaml:7:5: ConfigMap fairlead/fairlead-drains: data.nodes: line 2: \"n 2\" is \
             not a node's name; the object's last good version stays, if there is one"
        ]
    );
    world.write("fairlead-drains.yaml", "a: [");
    assert_eq!(drained(&mut world), ["a"]);
    // After a restart, too.
    let (root, restored) = (world.dir.path().to_owned(), world.shards());
    world.manifests = Manifests::new("c1".into(), root, Defaults::default(), Store::new(restored));
    world.manifests.refresh(&Changed::Anything, &|_| false);
    assert_eq!(drained(&mut world), ["a"]);
    world.write("4.yaml", &fs::read_to_string(world.dir.path().join("4.yaml")).unwrap().replace("n1", "n3"));
    assert_eq!(drained(&mut world), ["a"], "its slice was written anew");
    world.write("fairlead-drains.yaml", &drains("{nodes: n2}"));
    assert_eq!((drained(&mut world), world.problems().len()), (vec!["b".to_owned()], 0));
    // Where the file is gone at a start, nothing is drained.
    let (root, restored) = (world.dir.path().to_owned(), world.shards());
    fs::remove_file(root.join("fairlead-drains.yaml")).unwrap();
    world.manifests = Manifests::new("c1".into(), root, Defaults::default(), Store::new(restored));
    assert_eq!(drained(&mut world), ["b"]);
    world.manifests.refresh(&Changed::Anything, &|_| false);
    assert_eq!(drained(&mut world), Vec::<String>::new());
}
