//! A Deployment and its Service: pods that serve, and what the slices say of them.

use super::{Cluster, until};

const WEB: &str = "apiVersion: v1
kind: ConfigMap
metadata: {name: pages, namespace: default}
data:
  site.conf: |
    server {
      listen 80 default_server;
      listen [::]:80 default_server;
      root /pages;
    }
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec:
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: http}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: default}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 8
      volumes:
      - {name: pages, emptyDir: {}}
      - {name: sites, configMap: {name: pages}}
      initContainers:
      - name: page
        image: shell
        args: [-c, 'echo $POD on $NODE > /pages/index.html']
        env:
        - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
        volumeMounts:
        - {name: pages, mountPath: /pages}
      containers:
      - name: nginx
        image: nginx:1.29
        ports:
        - {name: http, containerPort: 80}
        readinessProbe:
          httpGet: {path: /, port: http}
          periodSeconds: 1
          failureThreshold: 2
        lifecycle:
          preStop: {sleep: {seconds: 4}}
        volumeMounts:
        - {name: pages, mountPath: /pages}
        - {name: sites, mountPath: /etc/nginx/sites-enabled}
";

/// Whether there are that many endpoints of each family, all of them ready.
fn all_ready(endpoints: &[String], pods: usize) -> bool {
    endpoints.len() == 2 * pods && endpoints.iter().all(|line| line.ends_with(" true true false"))
}

#[test]
fn a_deployment_serves_and_its_slices_say_what_is_so() {
    let cluster = Cluster::start(2);
    cluster.plane.apply(WEB).unwrap();
    let slices = || cluster.endpoints("web");
    let ready = until(&cluster, "three pods are ready", slices, |lines| all_ready(lines, 3));

    // Each is reached from another host, by both families, and says who it is.
    let mut said: Vec<String> = ready
        .iter()
        .map(|line| cluster.fetch(line.split(' ').next().unwrap()).unwrap().trim().to_owned())
        .collect();
    said.sort();
    let mut pods: Vec<String> = cluster
        .get(&["pods"], r#"{range .items[*]}{.metadata.name} on {.spec.nodeName}{"\n"}{end}"#)
        .lines()
        .flat_map(|line| [line.to_owned(), line.to_owned()])
        .collect();
    pods.sort();
    assert_eq!(said, pods);
    for node in ["node-us-central1-a-1", "node-us-central1-a-2"] {
        assert!(pods.iter().any(|line| line.ends_with(node)), "{pods:?}");
    }

    // The page goes, and so does the endpoint; it comes back as it went.
    let address = ready[0].split(' ').next().unwrap();
    let of_one = |line: &&String| line.starts_with(address);
    let name = cluster.fetch(address).unwrap().split(' ').next().unwrap().to_owned();
    let uid = cluster.get(&["pod", &name], "{.metadata.uid}");
    let node = cluster.get(&["pod", &name], "{.spec.nodeName}");
    let page =
        cluster.world.data().unwrap().join(format!("kubelet/{node}/pods/{uid}/volumes/pages/index.html"));
    let away = page.with_extension("away");
    std::fs::rename(&page, &away).unwrap();
    until(&cluster, "its probe fails", slices, |lines| {
        lines.iter().find(of_one).is_some_and(|line| line.ends_with(" false false false"))
    });
    assert_eq!(cluster.get(&["pod", &name], "{.status.containerStatuses[0].ready}"), "false");
    std::fs::rename(&away, &page).unwrap();
    until(&cluster, "its probe passes", slices, |lines| all_ready(lines, 3));

    // Two end with grace: they serve, and the slices say that they do and that they end.
    cluster.plane.kubectl(&["scale", "deployment", "web", "--replicas=1"]).unwrap();
    let ending = |line: &&String| line.ends_with(" false true true");
    let lines = until(&cluster, "two end", slices, |lines| lines.iter().filter(ending).count() == 4);
    let last = lines.iter().find(ending).unwrap().split(' ').next().unwrap();
    assert!(cluster.fetch(last).is_ok(), "{last} serves while it ends");
    let one = until(&cluster, "one is left", slices, |lines| all_ready(lines, 1));
    until(
        &cluster,
        "the others' objects are gone",
        || cluster.get(&["pods"], "{.items[*].metadata.name}"),
        |names| names.split(' ').count() == 1,
    );
    assert!(cluster.fetch(last).is_err(), "{last} is gone");
    assert!(cluster.fetch(one[0].split(' ').next().unwrap()).is_ok());
}

#[test]
fn a_control_plane_that_comes_back_finds_the_pods_as_they_are() {
    let cluster = Cluster::start(1);
    cluster.plane.apply(&WEB.replace("replicas: 3", "replicas: 1")).unwrap();
    let slices = || cluster.endpoints("web");
    let ready = until(&cluster, "a pod is ready", slices, |lines| all_ready(lines, 1));
    let address = ready[0].split(' ').next().unwrap();
    let path = "{.items[*].metadata.uid} {.items[*].status.containerStatuses[0].state.running.startedAt} \
                {.items[*].status.containerStatuses[0].restartCount}";
    let before = cluster.get(&["pods"], path);

    cluster.plane.kill().unwrap();
    assert!(cluster.fetch(address).is_ok(), "it serves while nobody watches");
    cluster.plane.start_again().unwrap();
    assert_eq!(cluster.get(&["pods"], path), before);
    // It is heard again: another pod comes.
    cluster.plane.kubectl(&["scale", "deployment", "web", "--replicas=2"]).unwrap();
    until(&cluster, "another is ready", slices, |lines| all_ready(lines, 2));
    let pods = cluster.get(&["pods"], "{.items[*].status.containerStatuses[0].restartCount}");
    assert_eq!(pods, "0 0");
}
