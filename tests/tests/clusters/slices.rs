//! EndpointSlices as Kubernetes' own controller makes them.

use fairlead_tests::control_plane::{ControlPlane, Wanted};

use super::{becomes, start};

const SHOP: &str = "apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Node
metadata: {name: node-1, labels: {topology.kubernetes.io/zone: us-central1-a}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  type: LoadBalancer
  loadBalancerClass: fairlead.io/vip
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: 8080}
";

fn pod(number: u8) -> String {
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{name: web-{number}, namespace: shop, labels: {{app: web}}}}
spec:
  nodeName: node-1
  containers: [{{name: web, image: nginx}}]
"
    )
}

/// What a kubelet would say of the pod.
fn report(plane: &ControlPlane, number: u8, ready: bool) {
    let ready = if ready { "True" } else { "False" };
    let status = serde_json::json!({"status": {
        "phase": "Running",
        "podIP": format!("198.18.1.{number}"),
        "podIPs": [{"ip": format!("198.18.1.{number}")}, {"ip": format!("2001:db8:1::{number}")}],
        "conditions": [{"type": "Ready", "status": ready}],
    }});
    let (pod, status) = (format!("web-{number}"), format!("--patch={status}"));
    let patch = ["--namespace=shop", "patch", "pod", &pod, "--subresource=status", "--type=merge", &status];
    plane.kubectl(&patch).unwrap();
}

/// Address and readiness of each endpoint of the service, in order.
fn endpoints(plane: &ControlPlane) -> String {
    let path =
        r#"--output=jsonpath={range .items[*].endpoints[*]}{.addresses[0]} {.conditions.ready}{"\n"}{end}"#;
    let of_web = "--selector=kubernetes.io/service-name=web";
    let text = plane.kubectl(&["--namespace=shop", "get", "endpointslices", of_web, path]).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.join(", ")
}

#[test]
fn the_controller_makes_slices_of_pods_whose_status_says_that_they_are_ready() {
    let (_footprint, plane) = start(&Wanted::new("us-central1-a").controllers());
    plane.apply(&format!("{SHOP}{}{}", pod(1), pod(2))).unwrap();
    report(&plane, 1, true);
    report(&plane, 2, true);
    becomes("198.18.1.1 true, 198.18.1.2 true, 2001:db8:1::1 true, 2001:db8:1::2 true", || endpoints(&plane));
    report(&plane, 2, false);
    becomes("198.18.1.1 true, 198.18.1.2 false, 2001:db8:1::1 true, 2001:db8:1::2 false", || {
        endpoints(&plane)
    });
    // No kubelet ends it: only at once does it go.
    plane.kubectl(&["--namespace=shop", "delete", "pod", "web-2", "--grace-period=0", "--force"]).unwrap();
    becomes("198.18.1.1 true, 2001:db8:1::1 true", || endpoints(&plane));

    plane.stop().unwrap();
    plane.start_again().unwrap();
    report(&plane, 1, false);
    becomes("198.18.1.1 false, 2001:db8:1::1 false", || endpoints(&plane));
}
