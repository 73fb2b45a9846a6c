//! What a kubelet tells of a pod beside its status: Kubernetes events.

use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;

use super::node::Node;

/// Tells something wrong. Where the API server doesn't take it, it is lost, and standard error has it.
pub(super) async fn warn(node: &Node, pod: &Pod, reason: &str, message: &str) {
    let metadata = &pod.metadata;
    let namespace = metadata.namespace.as_deref().unwrap_or("default");
    let name = metadata.name.as_deref().unwrap_or_default();
    let now = Timestamp::now().to_string();
    let event = json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": format!("{name}."), "namespace": namespace},
        "involvedObject": {
            "apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": name, "uid": metadata.uid,
        },
        "type": "Warning",
        "reason": reason,
        "message": message,
        "source": {"component": "kubelet", "host": node.name()},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    });
    let events = Api::<Event>::namespaced(node.client.clone(), namespace);
    let sent = async {
        let event: Event = serde_json::from_value(event).map_err(|error| error.to_string())?;
        events.create(&PostParams::default(), &event).await.map_err(|error| error.to_string())
    };
    if let Err(error) = sent.await {
        eprintln!("kubelet of {}: {namespace}/{name}: {reason}: {message} (not told: {error})", node.name());
    }
}
