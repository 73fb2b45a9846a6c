//! What a container sees: variables, files, tokens; and what of its manifest it has to do without.

use super::{Cluster, until};

const SEEING: &str = r#"apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: default}
data: {colour: blue, shape: round}
---
apiVersion: v1
kind: Secret
metadata: {name: keys, namespace: default}
stringData: {password: "pa ss"}
---
apiVersion: v1
kind: Pod
metadata: {name: seeing, namespace: default, labels: {app: seeing}}
spec:
  volumes:
  - {name: settings, configMap: {name: settings, items: [{key: colour, path: deep/colour}]}}
  - {name: live, configMap: {name: settings}}
  - {name: keys, secret: {secretName: keys, defaultMode: 0400}}
  - {name: fields, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: "metadata.labels['app']"}}]}}
  - {name: out, hostPath: {path: /var/lib/seeing, type: DirectoryOrCreate}}
  containers:
  - name: shell
    image: shell
    args:
    - -c
    - |
      exec >/out/said.new
      echo name=$NAME of=$NAMESPACE on=$NODE
      echo ip=$IP ips=$IPS host=$HOST
      echo colour=$COLOUR all=$all_shape expanded=$EXPANDED argument=$(NAME)
      echo secret=$PASSWORD file=$(cat /keys/password) mode=$(stat -c %a /keys/password)
      echo deep=$(cat /settings/deep/colour) labels=$(cat /fields/labels)
      echo namespace=$(cat $TOKENS/namespace) api=$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT
      curl -s --noproxy '*' --cacert $TOKENS/ca.crt -H "Authorization: Bearer $(cat $TOKENS/token)" \
        https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT/api/v1/namespaces/default/pods \
        | grep -o 'serviceaccount:[a-z:]*' | head -n 1
      touch /usr/own && echo first=$$$$
      mv /out/said.new /out/said
      trap 'exit 7' TERM
      while true; do cp /live/shape /out/shape; sleep 0.2; done
    env:
    - {name: TOKENS, value: /var/run/secrets/kubernetes.io/serviceaccount}
    - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: IPS, valueFrom: {fieldRef: {fieldPath: status.podIPs}}}
    - {name: HOST, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}
    - {name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: keys, key: password}}}
    - {name: EXPANDED, value: $(NAME)-$(COLOUR)}
    envFrom:
    - {prefix: all_, configMapRef: {name: settings}}
    volumeMounts:
    - {name: settings, mountPath: /settings}
    - {name: live, mountPath: /live}
    - {name: keys, mountPath: /keys, readOnly: true}
    - {name: fields, mountPath: /fields}
    - {name: out, mountPath: /out}
"#;

#[test]
fn a_container_sees_what_its_manifest_says() {
    let cluster = Cluster::start(1);
    cluster.plane.apply(SEEING).unwrap();
    let node = cluster.world.data().unwrap().join("kubelet/node-us-central1-a-1/host/var/lib/seeing");
    let read = |name: &str| std::fs::read_to_string(node.join(name)).unwrap_or_default();
    let said = until(&cluster, "it has seen all", || read("said"), |said| !said.is_empty());
    let ips = cluster.get(&["pod", "seeing"], "{.status.podIPs[*].ip}").replace(' ', ",");
    let (v4, v6) = ips.split_once(',').unwrap();
    assert!(v4.starts_with("198.18.1.") && v6.starts_with("2001:db8:1:"), "{ips}");
    let host = cluster.world.uplink("node-us-central1-a-1").unwrap().host.0;
    let server = cluster.plane.servers()[0];
    let wanted = [
        "name=seeing of=default on=node-us-central1-a-1".to_owned(),
        format!("ip={v4} ips={ips} host={host}"),
        "colour=blue all=round expanded=seeing-blue argument=seeing".to_owned(),
        "secret=pa ss file=pa ss mode=400".to_owned(),
        "deep=blue labels=seeing".to_owned(),
        format!("namespace=default api={server}"),
        // It is known by its token, and forbidden what nobody has allowed it.
        "serviceaccount:default:default".to_owned(),
        "first=1".to_owned(),
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), wanted);
    assert!(!std::path::Path::new("/usr/own").exists(), "what it writes to its root is its own");

    assert_eq!(read("shape"), "round");
    cluster
        .plane
        .kubectl(&["patch", "configmap", "settings", r#"--patch={"data": {"shape": "square"}}"#])
        .unwrap();
    until(&cluster, "a changed ConfigMap is seen", || read("shape"), |shape| shape == "square");
}

const LACKING: &str = "apiVersion: v1
kind: Pod
metadata: {name: lacking, namespace: default}
spec:
  containers:
  - name: shell
    image: shell
    args: [-c, 'exec sleep 1000']
    env:
    - {name: COLOUR, valueFrom: {configMapKeyRef: {name: later, key: colour}}}
---
apiVersion: v1
kind: Pod
metadata: {name: unknown, namespace: default}
spec:
  containers: [{name: one, image: 'registry.example/one:2'}]
---
apiVersion: v1
kind: Pod
metadata: {name: limited, namespace: default}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: shell, image: shell, args: [-c, 'exec sleep 1000'], resources: {limits: {memory: 64Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: elsewhere, namespace: default}
spec:
  nodeSelector: {nowhere: 'true'}
  containers: [{name: shell, image: shell}]
";

#[test]
fn what_a_pod_lacks_or_does_not_get_is_told_on_it() {
    let cluster = Cluster::start(1);
    cluster.plane.apply(LACKING).unwrap();
    let waits = "{.status.phase} {.status.containerStatuses[0].state.waiting.reason}: \
                 {.status.containerStatuses[0].state.waiting.message}";
    let becomes = |pod: &str, path: &str, wanted: &str| {
        let told = until(&cluster, pod, || cluster.get(&["pod", pod], path), |told| told.contains(wanted));
        assert!(told.contains(wanted), "{told}");
    };
    becomes(
        "lacking",
        waits,
        "Pending CreateContainerConfigError: env COLOUR: valueFrom: there is no ConfigMap default/later",
    );
    becomes(
        "unknown",
        waits,
        "Pending ErrImagePull: nothing stands for the image registry.example/one:2: add an entry to images",
    );
    becomes("elsewhere", "{.status.conditions[*].reason}", "Unschedulable");
    let honoured = r#"{.status.conditions[?(@.type=="fairlead.io/Honoured")].message}"#;
    becomes("limited", honoured, "no effect here: spec.containers[shell].resources");
    let events =
        cluster.get(&["events", "--field-selector=reason=NotHonoured"], "{.items[*].involvedObject.name}");
    assert_eq!(events, "limited");
    // It does run, and what was lacking may come.
    becomes("limited", "{.status.phase}", "Running");
    cluster.plane.kubectl(&["create", "configmap", "later", "--from-literal=colour=red"]).unwrap();
    becomes("lacking", "{.status.phase}", "Running");
}
