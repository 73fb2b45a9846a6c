//! Whom an API server believes, and who believes it.

use fairlead_tests::control_plane::{Certificate, User, Wanted};

use super::{becomes, note, notes, one, start};

#[test]
fn a_bad_serving_certificate_is_refused_and_a_good_one_taken_again() {
    let (_footprint, plane) = one();
    note(&plane, "kept");
    for (certificate, told) in
        [(Certificate::Expired, "certificate has expired"), (Certificate::Foreign, "unknown authority")]
    {
        plane.stop().unwrap();
        plane.start_with(certificate).unwrap();
        let error = format!("{:#}", plane.kubectl(&["get", "--raw=/readyz"]).unwrap_err());
        assert!(error.contains(told), "{certificate:?}: {error}");
    }
    plane.stop().unwrap();
    plane.start_again().unwrap();
    assert_eq!(notes(&plane), ["kept"]);
}

#[test]
fn the_serving_certificate_is_good_for_the_names_that_were_wanted_and_no_others() {
    let wanted = Wanted::new("us-central1-a").also_named("api.example").also_named("2001:db8::1");
    let (_footprint, plane) = start(&wanted);
    let ask = |name: &str| plane.kubectl(&[&format!("--tls-server-name={name}"), "get", "--raw=/readyz"]);
    for name in ["api.example", "2001:db8::1", "kubernetes.default.svc"] {
        assert_eq!(ask(name).unwrap(), "ok", "{name}");
    }
    let error = format!("{:#}", ask("other.example").unwrap_err());
    assert!(error.contains("not other.example"), "{error}");
}

#[test]
fn users_and_service_accounts_may_do_what_they_are_let() {
    let (_footprint, plane) = one();
    let user = plane.kubeconfig(&User::new("gateway-1").in_group("gateways")).unwrap();
    let user = plane.write_kubeconfig("gateway-1.kubeconfig", &user).unwrap();
    plane.kubectl(&["--namespace=default", "create", "serviceaccount", "fairlead"]).unwrap();
    let account = plane.service_account_kubeconfig("default", "fairlead").unwrap();
    let account = plane.write_kubeconfig("fairlead.kubeconfig", &account).unwrap();

    note(&plane, "kept");
    // Kubernetes' own role `view` is empty where no controller fills it.
    plane.kubectl(&["create", "clusterrole", "reads", "--verb=list", "--resource=configmaps"]).unwrap();
    let read = ["get", "configmaps", "--output=name"];
    for (kubeconfig, name, subject) in [
        (&user, "gateway-1", "--group=gateways"),
        (&account, "system:serviceaccount:default:fairlead", "--serviceaccount=default:fairlead"),
    ] {
        let who = ["auth", "whoami", "--output=jsonpath={.status.userInfo.username}"];
        assert_eq!(plane.kubectl_as(kubeconfig, &who).unwrap(), name);
        let error = format!("{:#}", plane.kubectl_as(kubeconfig, &read).unwrap_err());
        assert!(error.contains("Forbidden") && error.contains(name), "{error}");
        let binding = format!("reads-{}", subject.len());
        plane.kubectl(&["create", "clusterrolebinding", &binding, "--clusterrole=reads", subject]).unwrap();
        // RBAC hears of it by a watch of its own.
        becomes("configmap/kept\n", || {
            plane.kubectl_as(kubeconfig, &read).unwrap_or_else(|error| format!("{error:#}"))
        });
    }
}
