//! Objects as text, as `kubectl get -o yaml` prints them.

use std::fmt::Write as _;

use super::*;

impl Manifests {
    /// As `kubectl get nodes -o yaml` prints them: a list.
    pub(super) fn nodes(&self, state: &State) -> String {
        let mut text = String::from("apiVersion: v1\nitems:\n");
        for node in &self.nodes {
            let name = &node.host.name;
            let label = if state.receivers[name] {
                format!("\n      {RECEIVER_LABEL}: \"true\"")
            } else {
                String::new()
            };
            let (region, zone) = (&self.cluster.region, &self.cluster.zone);
            let (v4, v6) = node.host.uplink.host;
            let (pods_v4, pods_v6, version) = (&node.pods_v4, &node.pods_v6, state.version);
            write!(
                text,
                r#"- apiVersion: v1
  kind: Node
  metadata:
    creationTimestamp: "2026-01-01T00:00:00Z"
    labels:{label}
      kubernetes.io/hostname: {name}
      kubernetes.io/os: linux
      topology.kubernetes.io/region: {region}
      topology.kubernetes.io/zone: {zone}
    name: {name}
    resourceVersion: "{version}"
  spec:
    podCIDR: {pods_v4}
    podCIDRs:
    - {pods_v4}
    - {pods_v6}
  status:
    addresses:
    - address: {v4}
      type: InternalIP
    - address: {v6}
      type: InternalIP
    - address: {name}
      type: Hostname
    conditions:
    - lastHeartbeatTime: "2026-01-01T00:00:00Z"
      lastTransitionTime: "2026-01-01T00:00:00Z"
      message: kubelet is posting ready status
      reason: KubeletReady
      status: "True"
      type: Ready
"#
            )
            .expect("writing to a string doesn't fail");
        }
        text + "kind: List\nmetadata:\n  resourceVersion: \"\"\n"
    }

    pub(super) fn slice(&self, state: &State, service: &ServiceSpec, v4: bool) -> String {
        let (family, suffix) = if v4 { ("IPv4", "ipv4") } else { ("IPv6", "ipv6") };
        let ServiceSpec { namespace, name, .. } = service;
        let mut endpoints = String::new();
        for pod in &self.pods {
            if let Some(condition) = state.endpoints.get(&pod.seat.name) {
                endpoints.push_str(&endpoint(pod, *condition, v4, namespace, &self.cluster.zone));
            }
        }
        let endpoints = if endpoints.is_empty() {
            "endpoints: []\n".to_owned()
        } else {
            format!("endpoints:\n{endpoints}")
        };
        let version = state.version;
        let quic = match service.quic_port {
            Some(_) => format!(
                "- appProtocol: fairlead.io/quic\n  name: quic\n  port: {QUIC_PORT}\n  protocol: UDP\n"
            ),
            None => String::new(),
        };
        format!(
            r#"addressType: {family}
apiVersion: discovery.k8s.io/v1
{endpoints}kind: EndpointSlice
metadata:
  creationTimestamp: "2026-01-01T00:00:00Z"
  generateName: {name}-
  labels:
    endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io
    kubernetes.io/service-name: {name}
  name: {name}-{suffix}
  namespace: {namespace}
  resourceVersion: "{version}"
ports:
- name: http
  port: {HTTP_PORT}
  protocol: TCP
- name: echo
  port: {UDP_PORT}
  protocol: UDP
{quic}"#
        )
    }
}

fn endpoint(pod: &Pod, condition: Condition, v4: bool, namespace: &str, zone: &str) -> String {
    let address = if v4 { IpAddr::from(pod.seat.address.0) } else { pod.seat.address.1.into() };
    let (ready, serving, terminating) = match condition {
        Condition::Ready => (true, true, false),
        Condition::NotReady => (false, false, false),
        Condition::Terminating => (false, true, true),
    };
    let (name, node) = (&pod.seat.name, &pod.node);
    format!(
        r"- addresses:
  - {address}
  conditions:
    ready: {ready}
    serving: {serving}
    terminating: {terminating}
  nodeName: {node}
  targetRef:
    kind: Pod
    name: {name}
    namespace: {namespace}
  zone: {zone}
"
    )
}

pub(super) fn service_manifest(service: &ServiceSpec, version: u64) -> String {
    let ServiceSpec { namespace, name, vips, http_port, udp_port, quic_port, by_client, .. } = service;
    let ServiceSpec { annotations, source_ranges, .. } = service;
    let quic = quic_port.map_or_else(String::new, |port| {
        format!(
            "  - appProtocol: fairlead.io/quic\n    name: quic\n    port: {port}\n    protocol: UDP\n    targetPort: quic\n"
        )
    });
    let ranges: String = source_ranges.iter().map(|range| format!("  - {range}\n")).collect();
    let ranges = if ranges.is_empty() { ranges } else { format!("  loadBalancerSourceRanges:\n{ranges}") };
    let affinity = if *by_client { "ClientIP" } else { "None" };
    let vips = vips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let mut all = annotations.clone();
    if !vips.is_empty() {
        all.insert(VIPS_ANNOTATION.to_owned(), vips);
    }
    let annotations: String = all.iter().map(|(name, value)| format!("    {name}: {value:?}\n")).collect();
    let annotations = if all.is_empty() { String::new() } else { format!("  annotations:\n{annotations}") };
    format!(
        r#"apiVersion: v1
kind: Service
metadata:
{annotations}  creationTimestamp: "2026-01-01T00:00:00Z"
  name: {name}
  namespace: {namespace}
  resourceVersion: "{version}"
spec:
  allocateLoadBalancerNodePorts: false
  externalTrafficPolicy: Cluster
  internalTrafficPolicy: Cluster
  ipFamilies:
  - IPv4
  - IPv6
  ipFamilyPolicy: RequireDualStack
  loadBalancerClass: fairlead.io/vip
{ranges}  ports:
  - name: http
    port: {http_port}
    protocol: TCP
    targetPort: http
  - name: echo
    port: {udp_port}
    protocol: UDP
    targetPort: echo
{quic}  selector:
    app: {name}
  sessionAffinity: {affinity}
  type: LoadBalancer
status:
  loadBalancer: {{}}
"#
    )
}
