//! What of a cluster's objects counts.

use super::followed::{Followed, endpoints, has_web, ours, problems, service, slice};
use super::one;

#[test]
fn services_of_our_class_and_their_endpoints_are_followed() {
    let (_footprint, plane) = one();
    plane
        .apply(&(service("other", "example.com/other") + &slice("other-1", "other", &["10.1.0.9"])))
        .unwrap();
    plane.apply(&(ours("web") + &slice("web-1", "web", &["10.1.0.1"]))).unwrap();
    let mut followed = Followed::of(&plane);
    followed.until_read();
    assert!(has_web(followed.said(), &["10.1.0.1"]), "{:#?}", followed.said());
    assert_eq!((endpoints(followed.said(), "other"), followed.said().ignored), (None, 1));
    let tally = followed.said().objects;
    assert_eq!((tally.services, tally.slices), (1, 1), "of others nothing is kept");

    plane.apply(&slice("web-2", "web", &["2001:db8:1::1"])).unwrap();
    followed.until("another slice", |followed| has_web(followed.said(), &["10.1.0.1", "2001:db8:1::1"]));
    plane.apply(&slice("web-1", "web", &["10.1.0.2", "10.1.0.3"])).unwrap();
    followed.until("other endpoints", |followed| {
        has_web(followed.said(), &["10.1.0.2", "10.1.0.3", "2001:db8:1::1"])
    });
    plane.kubectl(&["delete", "endpointslice", "web-1"]).unwrap();
    followed.until("a slice is gone", |followed| has_web(followed.said(), &["2001:db8:1::1"]));
    plane.kubectl(&["delete", "service", "web"]).unwrap();
    followed.until("the service is gone", |followed| endpoints(followed.said(), "web").is_none());
    assert_eq!(problems(followed.said()), Vec::<String>::new());
}

#[test]
fn a_service_that_becomes_ours_has_the_endpoints_that_it_had_before() {
    let (_footprint, plane) = one();
    let of_cluster = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: default}\nspec:\n  ports: [{name: http, port: 80}]\n---\n";
    plane.apply(&(of_cluster.to_owned() + &slice("web-1", "web", &["10.1.0.1"]))).unwrap();
    let mut followed = Followed::of(&plane);
    followed.until_read();
    assert_eq!(endpoints(followed.said(), "web"), None);
    plane.apply(&ours("web")).unwrap();
    followed.until("it is ours", |followed| has_web(followed.said(), &["10.1.0.1"]));
    plane.apply(&slice("web-1", "web", &["10.1.0.2"])).unwrap();
    followed.until("its endpoints are followed", |followed| has_web(followed.said(), &["10.1.0.2"]));
}

#[test]
fn nodes_say_whether_they_receive_and_a_config_map_what_is_drained() {
    let (_footprint, plane) = one();
    plane.apply(&(ours("web") + &slice("web-1", "web", &["10.1.0.1"]))).unwrap();
    plane.apply("{apiVersion: v1, kind: Node, metadata: {name: n1}}").unwrap();
    let mut followed = Followed::of(&plane);
    followed.until_read();
    let first = |followed: &Followed| {
        let shards = followed.said().state.shards.values().next().unwrap();
        (shards.endpoints[0].receiver, shards.endpoints[0].drained)
    };
    assert_eq!(first(&followed), (false, false));
    plane.kubectl(&["label", "node", "n1", "fairlead.io/receiver=true"]).unwrap();
    followed.until("it receives", |followed| first(followed) == (true, false));
    plane.kubectl(&["create", "namespace", "fairlead"]).unwrap();
    let drains =
        ["create", "configmap", "fairlead-drains", "--namespace=fairlead", "--from-literal=nodes=n1"];
    plane.kubectl(&drains).unwrap();
    followed.until("its node is drained", |followed| first(followed) == (true, true));
    plane.kubectl(&["delete", "configmap", "fairlead-drains", "--namespace=fairlead"]).unwrap();
    followed.until("it is drained no longer", |followed| first(followed) == (true, false));
    plane.kubectl(&["delete", "node", "n1"]).unwrap();
    followed.until("its node is gone", |followed| first(followed) == (false, false));
}

#[test]
fn what_is_wrong_in_an_object_is_told_with_its_field() {
    let (_footprint, plane) = one();
    let annotated = ours("web")
        .replace("namespace: default", "namespace: default, annotations: {fairlead.io/vip: nowhere}");
    plane.apply(&(annotated + &ours("api"))).unwrap();
    let mut followed = Followed::of(&plane);
    followed.until_read();
    let told = problems(followed.said());
    assert_eq!(told.len(), 1, "{told:?}");
    let begin = "cluster us-central1-a: Service default/web: metadata.annotations";
    assert!(told[0].starts_with(begin) && told[0].contains("fairlead.io/vip"), "{told:?}");
    assert_eq!(endpoints(followed.said(), "web"), None);
    assert_eq!(endpoints(followed.said(), "api"), Some(Vec::new()), "others are untouched");
    plane.apply(&ours("web")).unwrap();
    plane.kubectl(&["annotate", "service", "web", "fairlead.io/vip-"]).unwrap();
    followed.until("it is mended", |followed| problems(followed.said()).is_empty());
    assert_eq!(endpoints(followed.said(), "web"), Some(Vec::new()));
}
