//! Containers that end, pods that have to, and those that are on every node.

use std::time::Instant;

use super::{Cluster, until};

const CRASHING: &str = "apiVersion: v1
kind: Pod
metadata: {name: crashing, namespace: default}
spec:
  containers: [{name: shell, image: shell, args: [-c, 'exit 3']}]
---
apiVersion: v1
kind: Pod
metadata: {name: once, namespace: default}
spec:
  restartPolicy: Never
  containers: [{name: shell, image: shell, args: [-c, 'kill -9 $$$$; exit 5']}]
---
apiVersion: v1
kind: Pod
metadata: {name: missing, namespace: default}
spec:
  restartPolicy: Never
  containers: [{name: shell, image: shell, command: [/no/such/program]}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: job, namespace: default}
spec:
  template:
    spec:
      restartPolicy: OnFailure
      volumes: [{name: kept, emptyDir: {}}]
      containers:
      - name: shell
        image: shell
        args: [-c, 'test -e /kept/mark || { touch /kept/mark; exit 1; }']
        volumeMounts: [{name: kept, mountPath: /kept}]
---
apiVersion: v1
kind: Pod
metadata: {name: hanging, namespace: default}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{name: kept, emptyDir: {}}]
  containers:
  - name: shell
    image: shell
    args: [-c, 'touch /tmp/alive; while true; do sleep 1; done']
    livenessProbe: {exec: {command: [/usr/bin/test, -e, /tmp/alive]}, periodSeconds: 1, failureThreshold: 1}
    lifecycle: {preStop: {exec: {command: [/bin/touch, /kept/last-words]}}}
    volumeMounts: [{name: kept, mountPath: /kept}]
";

#[test]
fn containers_that_end_are_counted_and_started_again_as_their_pod_wants() {
    let cluster = Cluster::start(1);
    cluster.plane.apply(CRASHING).unwrap();
    let one = "{.status.containerStatuses[0]";
    let of = |pod: &'static str, paths: &'static str| {
        let cluster = &cluster;
        move || cluster.get(&["pod", pod], &paths.replace("{.", &format!("{one}.")))
    };

    let crashing = of("crashing", "{.state.waiting.reason} {.lastState.terminated.exitCode} {.restartCount}");
    let first = until(&cluster, "it is held back", crashing, |told| told.starts_with("CrashLoopBackOff 3 "));
    let restarts: u32 = first.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(restarts >= 1, "{first}");
    let began = Instant::now();
    let count = of("crashing", "{.restartCount}");
    until(&cluster, "it is tried again", count, |told| {
        told.parse().is_ok_and(|count: u32| count >= restarts + 2)
    });
    // 2 s and then 4 s, of which the first may have been running already.
    assert!(began.elapsed().as_secs() >= 3, "{:?}", began.elapsed());

    let terminated = "{.state.terminated.reason} {.state.terminated.exitCode} {.restartCount}";
    // As the first process of its PID namespace it is deaf to its own SIGKILL, as in a real container.
    until(&cluster, "it ended", of("once", terminated), |told| told == "Error 5 0");
    until(&cluster, "it never began", of("missing", terminated), |told| told == "StartError 128 0");
    let phase = |pod: &'static str| {
        let cluster = &cluster;
        move || cluster.get(&["pod", pod], "{.status.phase}")
    };
    until(&cluster, "it failed", phase("once"), |phase| phase == "Failed");
    let job = || cluster.get(&["job", "job"], "{.status.succeeded}");
    until(&cluster, "the Job is done at its second try", job, |done| done == "1");

    let hanging = of("hanging", "{.restartCount} {.state.running.startedAt}");
    until(&cluster, "it runs", &hanging, |told| told.starts_with("0 2"));
    let uid = cluster.get(&["pod", "hanging"], "{.metadata.uid}");
    let directory = cluster.world.data().unwrap().join(format!("kubelet/node-us-central1-a-1/pods/{uid}"));
    assert!(directory.exists());
    let began = Instant::now();
    cluster.plane.kubectl(&["delete", "pod", "hanging", "--wait=true", "--timeout=30s"]).unwrap();
    // The first process of a PID namespace doesn't hear SIGTERM unless it asks for it.
    assert!(began.elapsed().as_millis() >= 1000, "{:?}", began.elapsed());
    assert!(!directory.exists(), "its place is gone before its object");
}

const EVERYWHERE: &str = "apiVersion: apps/v1
kind: DaemonSet
metadata: {name: everywhere, namespace: default}
spec:
  selector: {matchLabels: {app: everywhere}}
  template:
    metadata: {labels: {app: everywhere}}
    spec:
      hostNetwork: true
      tolerations: [{operator: Exists}]
      containers:
      - name: nginx
        image: nginx:1.29
        ports: [{containerPort: 80}]
        readinessProbe: {tcpSocket: {port: 80}, periodSeconds: 1}
";

#[test]
fn a_daemon_set_is_on_every_node_with_its_addresses() {
    let cluster = Cluster::start(3);
    cluster.plane.apply(EVERYWHERE).unwrap();
    let ready = || cluster.get(&["daemonset", "everywhere"], "{.status.numberReady}");
    until(&cluster, "it is on three nodes", ready, |ready| ready == "3");
    let path = r#"{range .items[*]}{.spec.nodeName} {.status.podIPs[*].ip}{"\n"}{end}"#;
    let pods = cluster.get(&["pods"], path);
    let mut found: Vec<&str> = pods.lines().collect();
    found.sort_unstable();
    let nodes = ["node-us-central1-a-1", "node-us-central1-a-2", "node-us-central1-a-3"];
    let wanted = nodes.map(|node| {
        let (v4, v6) = cluster.world.uplink(node).unwrap().host;
        format!("{node} {v4} {v6}")
    });
    assert_eq!(found, wanted);
    for address in found.iter().flat_map(|line| line.split(' ').skip(1)) {
        assert!(cluster.fetch(address).is_ok(), "{address}");
    }
    let zones = cluster.get(&["nodes"], r"{.items[*].metadata.labels.topology\.kubernetes\.io/zone}");
    assert_eq!(zones, [super::CLUSTER; 3].join(" "));
    let leases = cluster.get(&["leases", "--namespace=kube-node-lease"], "{.items[*].metadata.name}");
    assert_eq!(leases, nodes.join(" "));
}
