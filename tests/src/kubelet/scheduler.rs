//! Binds pods that have no node yet.
//!
//! In: pods without a node, and the nodes. Out: bindings, round robin over the nodes that are ready and may have the pod; where
//! there is none, the pod's condition `PodScheduled` says why. Honoured are `nodeSelector`, the required part of
//! `nodeAffinity` without `Gt` and `Lt`, taints and tolerations, `unschedulable`. Not honoured: preferences, affinity
//! between pods, topology spread, resources and ports on hosts, which the kubelet tells; priorities and other schedulers'
//! names, of which nobody is told.

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, Taint, Toleration};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::node::{AGAIN, PATIENCE};

/// Between two looks for pods without a node.
const LOOK: Duration = Duration::from_millis(200);

/// Binds, for ever.
pub(super) async fn run(client: Client) {
    let mut turn = 0;
    loop {
        let pause = match timeout(PATIENCE, bind_all(&client, &mut turn)).await {
            Ok(Ok(())) => LOOK,
            // It is away, and will be back.
            _ => AGAIN,
        };
        sleep(pause).await;
    }
}

async fn bind_all(client: &Client, turn: &mut usize) -> Result<()> {
    let unbound = ListParams::default().fields("spec.nodeName=,status.phase=Pending");
    let pods = Api::<Pod>::all(client.clone()).list(&unbound).await?;
    let waiting = |pod: &&Pod| {
        let gated = pod.spec.as_ref().and_then(|spec| spec.scheduling_gates.as_ref());
        pod.metadata.deletion_timestamp.is_none() && gated.is_none_or(Vec::is_empty)
    };
    let pods: Vec<&Pod> = pods.items.iter().filter(waiting).collect();
    if pods.is_empty() {
        return Ok(());
    }
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await?.items;
    for pod in pods {
        let fitting: Vec<&Node> = nodes.iter().filter(|node| fits(pod, node)).collect();
        if fitting.is_empty() {
            tell_unschedulable(client, pod, nodes.len()).await?;
            continue;
        }
        let node = fitting[*turn % fitting.len()];
        *turn += 1;
        bind(client, pod, node).await?;
    }
    Ok(())
}

async fn bind(client: &Client, pod: &Pod, node: &Node) -> Result<()> {
    let name = pod.metadata.name.as_deref().context("a pod has a name")?;
    let binding = json!({
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": name, "uid": pod.metadata.uid},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node.metadata.name},
    });
    let pods = Api::<Pod>::namespaced(client.clone(), pod.metadata.namespace.as_deref().unwrap_or("default"));
    let bound: kube::Result<serde_json::Value> =
        pods.create_subresource("binding", name, &PostParams::default(), &binding).await;
    match bound {
        // Somebody was faster, or it is gone.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        bound => Ok(bound.map(drop)?),
    }
}

async fn tell_unschedulable(client: &Client, pod: &Pod, nodes: usize) -> Result<()> {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let message = format!("none of {nodes} nodes is ready and may have it");
    let known = conditions.into_iter().flatten().any(|condition| {
        condition.reason.as_deref() == Some("Unschedulable")
            && condition.message.as_deref() == Some(&*message)
    });
    if known {
        return Ok(());
    }
    let status = json!({"status": {"conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message},
    ]}});
    let pods = Api::<Pod>::namespaced(client.clone(), pod.metadata.namespace.as_deref().unwrap_or("default"));
    let name = pod.metadata.name.as_deref().context("a pod has a name")?;
    match pods.patch_status(name, &PatchParams::default(), &Patch::Strategic(status)).await {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        patched => Ok(patched.map(drop)?),
    }
}

/// Whether a node may have a pod.
fn fits(pod: &Pod, node: &Node) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let selected = spec.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required =
        affinity.and_then(|node| node.required_during_scheduling_ignored_during_execution.as_ref());
    let wanted = required.is_none_or(|terms| terms.node_selector_terms.iter().any(|term| meets(node, term)));
    let node_spec = node.spec.clone().unwrap_or_default();
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let kept_away = node_spec.taints.iter().flatten().any(|taint| {
        taint.effect != "PreferNoSchedule"
            && !tolerations.iter().any(|toleration| tolerates(toleration, taint))
    });
    let ready = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = ready.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    // A DaemonSet's pods tolerate both by taints.
    let open = node_spec.unschedulable != Some(true)
        || tolerations
            .iter()
            .any(|toleration| toleration.key.as_deref() == Some("node.kubernetes.io/unschedulable"));
    selected && wanted && !kept_away && ready && open
}

fn meets(node: &Node, term: &NodeSelectorTerm) -> bool {
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let by_label = term.match_expressions.iter().flatten();
    let by_field = term.match_fields.iter().flatten();
    let name = |key: &str| if key == "metadata.name" { node.metadata.name.as_ref() } else { None };
    by_label.clone().all(|wanted| matches(wanted, labels.get(&wanted.key)))
        && by_field.clone().all(|wanted| matches(wanted, name(&wanted.key)))
        // An empty term fits nothing.
        && by_label.chain(by_field).next().is_some()
}

fn matches(wanted: &NodeSelectorRequirement, value: Option<&String>) -> bool {
    let among = || value.is_some_and(|value| wanted.values.iter().flatten().any(|one| one == value));
    match wanted.operator.as_str() {
        "In" => among(),
        "NotIn" => !among(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    let any_value = toleration.operator.as_deref() == Some("Exists");
    (effect.is_empty() || effect == taint.effect)
        && (key == taint.key || key.is_empty() && any_value)
        && (any_value
            || toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: &serde_json::Value) -> Pod {
        serde_json::from_value(json!({"spec": spec})).unwrap()
    }

    fn node(name: &str, ready: &str, taints: &serde_json::Value) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"zone": name}},
            "spec": {"taints": taints},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap()
    }

    #[test]
    fn a_node_has_to_be_ready_and_what_the_pod_selects() {
        let anywhere = pod(&json!({"containers": []}));
        assert!(fits(&anywhere, &node("a", "True", &json!([]))));
        assert!(!fits(&anywhere, &node("a", "Unknown", &json!([]))));
        let selects = pod(&json!({"containers": [], "nodeSelector": {"zone": "b"}}));
        assert!(!fits(&selects, &node("a", "True", &json!([]))));
        assert!(fits(&selects, &node("b", "True", &json!([]))));
    }

    #[test]
    fn a_daemon_sets_pod_goes_to_its_node_alone() {
        let fields = json!([{"key": "metadata.name", "operator": "In", "values": ["b"]}]);
        let terms = json!({"nodeSelectorTerms": [{"matchFields": fields}]});
        let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": terms});
        let ours = pod(&json!({"containers": [], "affinity": {"nodeAffinity": required}}));
        assert!(!fits(&ours, &node("a", "True", &json!([]))));
        assert!(fits(&ours, &node("b", "True", &json!([]))));
    }

    #[test]
    fn taints_keep_away_who_does_not_tolerate_them() {
        let tainted = node("a", "True", &json!([{"key": "gateway", "value": "yes", "effect": "NoSchedule"}]));
        let tolerant = |toleration| pod(&json!({"containers": [], "tolerations": [toleration]}));
        assert!(!fits(&pod(&json!({"containers": []})), &tainted));
        assert!(fits(&tolerant(json!({"operator": "Exists"})), &tainted));
        assert!(fits(&tolerant(json!({"key": "gateway", "value": "yes"})), &tainted));
        assert!(!fits(&tolerant(json!({"key": "gateway", "value": "no"})), &tainted));
        assert!(!fits(
            &tolerant(json!({"key": "gateway", "operator": "Exists", "effect": "NoExecute"})),
            &tainted
        ));
    }
}
