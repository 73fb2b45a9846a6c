//! Sources that are followed, and states on disk.

use std::fs;
use std::path::Path;
use std::time::Duration;

use fairlead_core::model::ObjectName;

use super::*;
use crate::config;

fn service(name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{type: LoadBalancer, loadBalancerClass: fairlead.io/vip, ports: [{{port: {port}}}]}}\n"
    )
}

/// A configuration with these clusters, their directories under `root`.
fn configuration(root: &Path, clusters: &[&str]) -> Config {
    let mut text = "seed: 1\nnode: {name: g, region: r, roles: [gateway], interfaces: [eth0]}\n\
                    gateways: [{name: g, region: r, tunnel: [192.0.2.1]}]\nclusters:\n"
        .to_owned();
    for (i, cluster) in clusters.iter().enumerate() {
        text += &format!(
            "- {{name: {cluster}, region: r, zone: z, podCidrs: [10.{i}.0.0/16], manifests: {cluster}}}\n"
        );
    }
    config::parse(&text, &root.join("config.yaml")).unwrap()
}

/// Waits until the federation is as `holds` wants it.
async fn until(federation: &mut Federation, what: &str, holds: impl Fn(&Federation) -> bool) {
    let wait = async {
        while !holds(federation) {
            federation.changed().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("not seen: {what}"));
}

fn port(federation: &Federation, cluster: &str, name: &str) -> Option<u16> {
    let shard = federation.states().get(cluster)?.shards.get(&ObjectName::new("shop", name))?;
    Some(shard.ports[0].port)
}

fn reachable(federation: &Federation, cluster: &str) -> bool {
    federation.states()[cluster].reachable
}

#[tokio::test]
async fn changes_of_files_arrive_and_a_broken_cluster_disturbs_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    for cluster in ["a", "b"] {
        fs::create_dir(root.join(cluster)).unwrap();
        fs::write(root.join(cluster).join("web.yaml"), service("web", 80)).unwrap();
    }
    let mut federation = Federation::start(&configuration(root, &["a", "b"]), None);
    until(&mut federation, "both are read", |f| {
        f.all_read() && port(f, "a", "web") == Some(80) && port(f, "b", "web") == Some(80)
    })
    .await;
    let other = federation.states()["b"].shards.clone();

    fs::write(root.join("a/web.yaml"), service("web", 81)).unwrap();
    until(&mut federation, "a file written in place", |f| port(f, "a", "web") == Some(81)).await;

    fs::write(root.join("a/.web.yaml"), service("web", 82)).unwrap();
    fs::rename(root.join("a/.web.yaml"), root.join("a/web.yaml")).unwrap();
    until(&mut federation, "a file renamed over it", |f| port(f, "a", "web") == Some(82)).await;

    fs::create_dir_all(root.join("a/deep/er")).unwrap();
    fs::write(root.join("a/deep/er/api.json"), r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"api","namespace":"shop"},"spec":{"type":"LoadBalancer","loadBalancerClass":"fairlead.io/vip","ports":[{"port":9}]}}"#).unwrap();
    until(&mut federation, "a file in a new directory", |f| port(f, "a", "api") == Some(9)).await;
    fs::write(root.join("a/deep/er/api.json"), "{").unwrap();
    until(&mut federation, "a broken file", |f| f.problems().len() == 1).await;
    assert_eq!((port(&federation, "a", "api"), &*federation.problems()[0].cluster), (Some(9), "a"));

    fs::remove_dir_all(root.join("a/deep")).unwrap();
    until(&mut federation, "a directory removed", |f| port(f, "a", "api").is_none()).await;

    fs::rename(root.join("a"), root.join("away")).unwrap();
    until(&mut federation, "the cluster's directory gone", |f| !reachable(f, "a")).await;
    assert_eq!(port(&federation, "a", "web"), Some(82), "what was known stays");
    fs::rename(root.join("away"), root.join("a")).unwrap();
    until(&mut federation, "the cluster's directory back", |f| reachable(f, "a")).await;
    fs::write(root.join("a/web.yaml"), service("web", 83)).unwrap();
    until(&mut federation, "a change after it came back", |f| port(f, "a", "web") == Some(83)).await;

    let now = &federation.states()["b"];
    assert!(now.reachable && now.shards.iter().all(|(name, shard)| Arc::ptr_eq(shard, &other[name])));
}

#[tokio::test]
async fn clusters_come_and_go_with_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    for cluster in ["a", "b", "c"] {
        fs::create_dir(root.join(cluster)).unwrap();
        fs::write(root.join(cluster).join("web.yaml"), service("web", 80)).unwrap();
    }
    let mut federation = Federation::start(&configuration(root, &["a", "b"]), None);
    until(&mut federation, "both are read", |f| reachable(f, "a") && reachable(f, "b")).await;
    federation.reconfigure(&configuration(root, &["b", "c"]));
    assert_eq!(federation.states().keys().map(|name| &**name).collect::<Vec<_>>(), ["b", "c"]);
    assert!(reachable(&federation, "b"), "undisturbed");
    until(&mut federation, "the new one is read", |f| port(f, "c", "web") == Some(80)).await;
}

#[tokio::test]
async fn the_last_good_state_serves_where_the_source_can_not_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let config = configuration(root, &["a"]);
    fs::create_dir(root.join("a")).unwrap();
    fs::write(root.join("a/web.yaml"), service("web", 80)).unwrap();
    let last_good = LastGood::open(root).unwrap();
    let mut federation = Federation::start(&config, Some(last_good.clone()));
    until(&mut federation, "it is read", |f| reachable(f, "a")).await;
    federation.keep(&Model::default());
    let kept = async {
        while last_good.read("a").unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), kept).await.expect("the state is kept");
    drop(federation);

    fs::rename(root.join("a"), root.join("away")).unwrap();
    let day = Duration::from_secs(24 * 3600);
    let file = fs::File::open(root.join("last-good/a.json")).unwrap();
    file.set_modified(file.metadata().unwrap().modified().unwrap() - 10 * day).unwrap();
    let mut federation = Federation::start(&config, Some(last_good));
    assert_eq!((port(&federation, "a", "web"), reachable(&federation, "a")), (Some(80), false));
    let age = |f: &Federation| f.restored("a").map(|then| then.elapsed().unwrap());
    assert!(age(&federation).unwrap() >= 10 * day && !federation.all_read());
    until(&mut federation, "the source was tried", Federation::all_read).await;
    assert_eq!((port(&federation, "a", "web"), reachable(&federation, "a")), (Some(80), false));
    fs::rename(root.join("away"), root.join("a")).unwrap();
    fs::write(root.join("a/web.yaml"), service("web", 81)).unwrap();
    until(&mut federation, "the source is back", |f| port(f, "a", "web") == Some(81)).await;
    assert!(age(&federation).is_none());
    fs::rename(root.join("a"), root.join("away")).unwrap();
    until(&mut federation, "it is away again", |f| !reachable(f, "a")).await;
    assert!(age(&federation).unwrap() < day, "what was known before the start doesn't count any more");
}

#[tokio::test]
async fn endpoints_that_are_held_stay_on_disk_and_are_held_after_a_restart() {
    use fairlead_core::model::{Health, merge};

    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let config = configuration(root, &["a"]);
    let declared = Arc::new(config::declarations(&config));
    let slice = |endpoints: &str| {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
             metadata: {{name: web-1, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}\n\
             ports: [{{name: '', port: 8080}}]\nendpoints: [{endpoints}]\n"
        )
    };
    let web = ObjectName::new("shop", "web");
    fs::create_dir(root.join("a")).unwrap();
    fs::write(root.join("a/web.yaml"), service("web", 80)).unwrap();
    fs::write(root.join("a/slice.yaml"), slice("{addresses: [10.0.0.1]}")).unwrap();
    let last_good = LastGood::open(root).unwrap();
    let mut federation = Federation::start(&config, Some(last_good.clone()));
    until(&mut federation, "it is read", |f| reachable(f, "a")).await;
    let model = merge(&declared, federation.states(), &Health::default(), None);
    assert_eq!(model.services[&web].shards[0].endpoints.len(), 1);

    // Emptied, and held: what is kept is what is held, whatever else changes.
    fs::write(root.join("a/slice.yaml"), slice("")).unwrap();
    fs::write(root.join("a/api.yaml"), service("api", 81)).unwrap();
    until(&mut federation, "it is emptied", |f| {
        port(f, "a", "api").is_some() && f.states()["a"].shards[&web].endpoints.is_empty()
    })
    .await;
    let model = merge(&declared, federation.states(), &Health::default(), Some(&model));
    assert!(model.services[&web].shards[0].held);
    federation.keep(&model);
    let api = ObjectName::new("shop", "api");
    let kept = async {
        loop {
            match last_good.read("a").unwrap() {
                Some(kept) if kept.shards.contains_key(&api) => return kept,
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let kept = tokio::time::timeout(Duration::from_secs(20), kept).await.expect("the state is kept");
    assert_eq!(kept.shards[&web].endpoints.len(), 1);
    drop(federation);

    // As the agent begins: what was known, then what the source says.
    let mut federation = Federation::start(&config, Some(last_good));
    assert!(!federation.all_read() && !federation.states()["a"].reachable, "what is on disk comes first");
    let model = merge(&declared, federation.states(), &Health::default(), None);
    until(&mut federation, "it is read again", |f| reachable(f, "a")).await;
    let model = merge(&declared, federation.states(), &Health::default(), Some(&model));
    let shard = &model.services[&web].shards[0];
    assert!(shard.held && shard.reachable && shard.endpoints.len() == 1);
}

fn shards() -> Shards {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("all.yaml"), include_str!("fixtures/kubectl.yaml")).unwrap();
    let mut manifests =
        Manifests::new("a".into(), dir.path().to_owned(), Defaults::default(), Store::default());
    manifests.refresh(&crate::directory::Changed::Anything, &|_| false);
    manifests.store().shards().clone()
}

#[test]
fn what_is_kept_comes_back_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let last_good = LastGood::open(dir.path()).unwrap();
    assert!(last_good.read("a").unwrap().is_none());
    let shards = shards();
    last_good.write(&"a".into(), &shards).unwrap();
    let restored = last_good.read("a").unwrap().unwrap();
    assert_eq!(restored.shards, shards);
    assert!(restored.written.elapsed().unwrap() < Duration::from_secs(60));
    let endpoints = &restored.shards.values().next().unwrap().endpoints;
    assert!(Arc::ptr_eq(&endpoints[0].ports, &endpoints[1].ports), "shared again");
}

#[test]
fn a_write_that_was_cut_off_leaves_the_old_state() {
    let dir = tempfile::tempdir().unwrap();
    let last_good = LastGood::open(dir.path()).unwrap();
    let shards = shards();
    last_good.write(&"a".into(), &shards).unwrap();
    let kept = dir.path().join("last-good/a.json");
    let bytes = fs::read(&kept).unwrap();
    // Killed at any moment before the rename, there is half a file beside the good one.
    for length in [0, 1, bytes.len() / 2, bytes.len() - 1] {
        let half = dir.path().join("last-good/.a.7.new");
        fs::write(&half, &bytes[..length]).unwrap();
        let last_good = LastGood::open(dir.path()).unwrap();
        assert_eq!(last_good.read("a").unwrap().unwrap().shards, shards);
        assert!(!half.exists(), "cleaned away");
        fs::write(&half, "of an agent that runs").unwrap();
        assert_eq!(LastGood::of(dir.path()).read("a").unwrap().unwrap().shards, shards);
        assert!(half.exists(), "reading takes nothing from an agent");
    }
    let wrong: Vec<(Vec<u8>, &str)> = vec![
        (bytes[..bytes.len() / 2].to_vec(), "EOF while parsing"),
        (Vec::new(), "EOF while parsing"),
        (
            String::from_utf8(bytes).unwrap().replacen("\"version\":1", "\"version\":2", 1).into_bytes(),
            "it has format 2, this fairlead reads 1",
        ),
    ];
    for (bytes, expected) in wrong {
        fs::write(&kept, bytes).unwrap();
        let error = last_good.read("a").unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_problem_of_a_source_fits_into_the_model() {
    let mut problem = SourceProblem {
        cluster: "a".into(),
        file: Some("/m/web.yaml".into()),
        place: Some(crate::yaml::Place { line: 3, column: 5 }),
        object: Some(convert::key(convert::Kind::Service, None, "web")),
        field: "spec.ports[0].port".to_owned(),
        message: "0 is not a port".to_owned(),
    };
    assert_eq!(
        problem.to_model().to_string(),
        "cluster a: Service default/web: spec.ports[0].port: 0 is not a port (in /m/web.yaml:3:5)"
    );
    problem.object = Some(convert::key(convert::Kind::EndpointSlice, Some("shop"), "api-1"));
    problem.field = "endpoints[1]".to_owned();
    assert_eq!(
        problem.to_model().to_string(),
        "cluster a: EndpointSlice shop/api-1: endpoints[1]: 0 is not a port (in /m/web.yaml:3:5)"
    );
    problem.field = String::new();
    assert_eq!(
        problem.to_model().to_string(),
        "cluster a: EndpointSlice shop/api-1: 0 is not a port (in /m/web.yaml:3:5)"
    );
}
