//! What a pod's manifest asks for and this kubelet doesn't do.
//!
//! In: a pod. Out: the fields, so that an event and a condition can name them. What every pod is given by default (DNS,
//! service links, a scheduler's name) is not told each time: there is no DNS, and Services have no variables.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Map, Value};

/// Of a pod's spec.
const SPEC: &[&str] = &[
    "affinity",
    "automountServiceAccountToken",
    "containers",
    "dnsPolicy",
    "enableServiceLinks",
    "hostNetwork",
    "hostPID",
    "hostname",
    "initContainers",
    "nodeName",
    "nodeSelector",
    "preemptionPolicy",
    "priority",
    "restartPolicy",
    "schedulerName",
    "serviceAccount",
    "serviceAccountName",
    "terminationGracePeriodSeconds",
    "tolerations",
    "volumes",
];

/// Of its containers.
const CONTAINER: &[&str] = &[
    "args",
    "command",
    "env",
    "envFrom",
    "image",
    "imagePullPolicy",
    "lifecycle",
    "livenessProbe",
    "name",
    "ports",
    "readinessProbe",
    "restartPolicy",
    "startupProbe",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "volumeMounts",
    "workingDir",
];

/// Of a container's mounts.
const MOUNT: &[&str] = &["mountPath", "name", "readOnly", "subPath", "subPathExpr"];

/// Paths of the fields that change nothing here.
pub(super) fn fields(pod: &Pod) -> Vec<String> {
    let Ok(Value::Object(spec)) = serde_json::to_value(&pod.spec) else { return Vec::new() };
    let mut found = others(&spec, SPEC, "spec");
    if let Some(Value::Object(affinity)) = spec.get("affinity") {
        found.extend(others(affinity, &["nodeAffinity"], "spec.affinity"));
        if let Some(Value::Object(nodes)) = affinity.get("nodeAffinity") {
            let required = "requiredDuringSchedulingIgnoredDuringExecution";
            found.extend(others(nodes, &[required], "spec.affinity.nodeAffinity"));
        }
    }
    // On the host's network each port is the host's.
    let own_ports = !spec.contains_key("hostNetwork");
    for kind in ["initContainers", "containers"] {
        for container in objects(spec.get(kind)) {
            let name = container.get("name").and_then(Value::as_str).unwrap_or_default();
            let place = format!("spec.{kind}[{name}]");
            found.extend(others(container, CONTAINER, &place));
            for mount in objects(container.get("volumeMounts")) {
                found.extend(others(mount, MOUNT, &format!("{place}.volumeMounts")));
            }
            let on_host = |port: &Map<String, Value>| port.contains_key("hostPort");
            if own_ports && objects(container.get("ports")).any(on_host) {
                found.push(format!("{place}.ports.hostPort"));
            }
            if container.get("lifecycle").is_some_and(|lifecycle| lifecycle.get("postStart").is_some()) {
                found.push(format!("{place}.lifecycle.postStart"));
            }
        }
    }
    found
}

fn objects(list: Option<&Value>) -> impl Iterator<Item = &Map<String, Value>> {
    list.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object)
}

fn others(object: &Map<String, Value>, known: &[&str], place: &str) -> Vec<String> {
    let empty = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    };
    let unknown = object.iter().filter(|(key, value)| !known.contains(&key.as_str()) && !empty(value));
    unknown.map(|(key, _)| format!("{place}.{key}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_effect_is_named_with_its_place() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {
            "runtimeClassName": "other",
            "securityContext": {},
            "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 1, "podAffinityTerm": {"topologyKey": "zone"}},
            ]}},
            "containers": [
                {
                    "name": "a", "image": "b", "resources": {"limits": {"cpu": "1"}},
                    "ports": [{"containerPort": 80, "hostPort": 80}],
                },
                {"name": "c", "lifecycle": {"postStart": {"exec": {"command": ["d"]}}}},
            ],
        }}))
        .unwrap();
        let places = [
            "spec.runtimeClassName",
            "spec.affinity.podAntiAffinity",
            "spec.containers[a].resources",
            "spec.containers[a].ports.hostPort",
            "spec.containers[c].lifecycle.postStart",
        ];
        assert_eq!(fields(&pod), places);
    }
}
