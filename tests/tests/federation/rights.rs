//! What an agent may do in a cluster: no more than `deploy/base` grants.

use std::path::Path;

use super::followed::{Followed, has_web, ours, problems, slice};
use super::one;

#[test]
fn the_granted_rights_suffice_and_a_missing_one_is_told() {
    let (_footprint, plane) = one();
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/base");
    plane.kubectl(&["apply", "--kustomize", base.to_str().unwrap()]).unwrap();
    plane.apply(&(ours("web") + &slice("web-1", "web", &["10.1.0.1"]))).unwrap();
    let text = plane.service_account_kubeconfig("fairlead", "fairlead-agent").unwrap();
    let file = plane.write_kubeconfig("agent.kubeconfig", &text).unwrap();
    let mut followed = Followed::by(&plane, &file);
    followed.until_read();
    assert!(has_web(followed.said(), &["10.1.0.1"]));
    for (verb, resource) in [
        ("get", "secrets"),
        ("create", "services"),
        ("get", "services"),
        ("list", "pods"),
        ("list", "configmaps"),
    ] {
        let asked = ["auth", "can-i", verb, resource, "--namespace=fairlead"];
        let answer = plane.kubectl_as(&file, &asked).unwrap_err();
        assert!(format!("{answer:#}").contains("no"), "{verb} {resource}: {answer:#}");
    }
    // Of each rule: without it something is told.
    for (kind, rule) in [("EndpointSlices", "1"), ("Nodes", "2")] {
        let patch = format!("[{{\"op\": \"remove\", \"path\": \"/rules/{rule}\"}}]");
        plane.kubectl(&["patch", "clusterrole", "fairlead-agent", "--type=json", "--patch", &patch]).unwrap();
        let mut without = Followed::by(&plane, &file);
        without.until(kind, |followed| {
            let told = problems(followed.said());
            told.iter()
                .any(|told| told.contains(&format!("{kind} can't be watched")) && told.contains("forbidden"))
        });
        plane.kubectl(&["apply", "--kustomize", base.to_str().unwrap()]).unwrap();
        without.until_read();
        assert!(has_web(without.said(), &["10.1.0.1"]));
    }
}
