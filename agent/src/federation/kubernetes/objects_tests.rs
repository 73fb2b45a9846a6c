use fairlead_core::model::ShardSpec;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use kube::api::PartialObjectMeta;

use super::*;

fn metadata(name: &str, version: u64) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some("shop".to_owned()),
        resource_version: Some(version.to_string()),
        ..ObjectMeta::default()
    }
}

/// A Service of the class `class`, with this port.
fn service_with(name: &str, version: u64, class: &str, port: i32) -> Raw {
    let port = ServicePort { name: Some("http".to_owned()), port, ..ServicePort::default() };
    Raw::Service(Box::new(Service {
        metadata: metadata(name, version),
        spec: Some(ServiceSpec {
            type_: Some("LoadBalancer".to_owned()),
            load_balancer_class: Some(class.to_owned()),
            ports: Some(vec![port]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }))
}

fn service(name: &str, version: u64) -> Raw {
    service_with(name, version, convert::CLASS, 80)
}

/// A slice of a service, with one endpoint at 10.0.0.`address`.
fn slice(name: &str, version: u64, service: &str, address: u8) -> Raw {
    let mut metadata = metadata(name, version);
    metadata.labels = Some([(convert::SERVICE_LABEL.to_owned(), service.to_owned())].into());
    let endpoint = Endpoint { addresses: vec![format!("10.0.0.{address}")], ..Endpoint::default() };
    let port = EndpointPort { name: Some("http".to_owned()), port: Some(8080), ..EndpointPort::default() };
    Raw::Slice(Box::new(EndpointSlice {
        metadata,
        address_type: "IPv4".to_owned(),
        endpoints: Some(vec![endpoint]),
        ports: Some(vec![port]),
    }))
}

fn objects() -> Objects {
    Objects::new("a".into(), Defaults::default(), Store::default())
}

fn name(name: &str) -> ObjectName {
    ObjectName::new("shop", name)
}

impl Objects {
    fn hear_of(&mut self, kind: Kind, event: Told) -> Option<ObjectName> {
        self.hear(Heard { kind, event })
    }

    fn is(&mut self, raw: Raw) -> Option<ObjectName> {
        self.hear_of(identify(&raw).0.kind, Told::Is(raw))
    }

    fn is_gone(&mut self, raw: Raw) {
        let nothing = self.hear_of(identify(&raw).0.kind, Told::Gone(raw));
        assert_eq!(nothing, None);
    }

    fn list(&mut self, kind: Kind, listed: Vec<Raw>) {
        self.hear_of(kind, Told::Listing);
        for raw in listed {
            self.is(raw);
        }
        self.hear_of(kind, Told::Listed);
    }

    /// Lists all kinds.
    fn list_all(&mut self, services: Vec<Raw>, slices: Vec<Raw>) {
        self.list(Kind::Node, Vec::new());
        self.list(Kind::Drains, Vec::new());
        self.list(Kind::Service, services);
        self.list(Kind::EndpointSlice, slices);
    }

    /// The last bytes of the addresses of a service's endpoints; `None`: there is no such service.
    fn addresses(&mut self, of: &str) -> Option<Vec<u8>> {
        let spec = self.store.shards().get(&name(of))?;
        Some(spec.endpoints.iter().filter_map(|endpoint| Some(endpoint.v4?.octets()[3])).collect())
    }
}

#[test]
fn only_slices_of_our_services_are_kept() {
    let mut objects = objects();
    let other = service_with("other", 2, "example.com/other", 80);
    objects.list_all(
        vec![service("web", 1), other],
        vec![slice("web-1", 3, "web", 1), slice("other-1", 4, "other", 2), slice("none-1", 5, "none", 3)],
    );
    assert!(objects.has_listed_all());
    assert_eq!(objects.addresses("web"), Some(vec![1]));
    assert_eq!((objects.addresses("other"), objects.ignored()), (None, 1));
    assert!(objects.store.slices_of(&name("other")).is_empty());
    assert_eq!(objects.versions.len(), 2);
}

#[test]
fn what_a_new_list_does_not_name_is_gone() {
    let mut objects = objects();
    objects.list_all(
        vec![service("web", 1), service("api", 1)],
        vec![slice("web-1", 1, "web", 1), slice("web-2", 1, "web", 2), slice("api-1", 1, "api", 3)],
    );
    objects.list(Kind::EndpointSlice, vec![slice("web-2", 1, "web", 2), slice("api-1", 7, "api", 4)]);
    assert_eq!(objects.addresses("web"), Some(vec![2]));
    assert_eq!(objects.addresses("api"), Some(vec![4]));
    objects.list(Kind::Service, vec![service("web", 1)]);
    assert_eq!(objects.addresses("api"), None);
    assert!(objects.store.slices_of(&name("api")).is_empty(), "its slices are forgotten with it");
}

#[test]
fn what_is_older_is_passed_over() {
    let mut objects = objects();
    objects.list_all(vec![service("web", 1)], vec![slice("web-1", 9, "web", 9)]);
    objects.is(slice("web-1", 8, "web", 8));
    assert_eq!((objects.addresses("web"), objects.newest()), (Some(vec![9]), 9));
    objects.is(slice("web-1", 10, "web", 10));
    assert_eq!((objects.addresses("web"), objects.newest()), (Some(vec![10]), 10));
}

#[test]
fn a_server_that_was_set_back_is_believed() {
    let mut objects = objects();
    objects.list_all(vec![service("web", 90)], vec![slice("web-1", 91, "web", 9)]);
    objects.distrust_versions();
    objects.list_all(vec![service("web", 4)], vec![slice("web-1", 5, "web", 5)]);
    assert_eq!((objects.addresses("web"), objects.newest()), (Some(vec![5]), 5));
}

#[test]
fn slices_of_a_service_that_becomes_ours_are_fetched() {
    let mut objects = objects();
    let other = |version| service_with("web", version, "example.com/other", 80);
    objects.list_all(vec![other(1)], vec![slice("web-1", 2, "web", 1), slice("web-2", 3, "web", 2)]);
    assert_eq!(objects.is(service("web", 4)), Some(name("web")));
    // Meanwhile: one has changed, one is deleted, one is new.
    objects.is(slice("web-1", 6, "web", 6));
    objects.is_gone(slice("web-2", 7, "web", 2));
    objects.is(slice("web-3", 8, "web", 8));
    objects.fetched(&name("web"), vec![slice("web-1", 2, "web", 1), slice("web-2", 3, "web", 2)]);
    let mut addresses = objects.addresses("web").unwrap();
    addresses.sort_unstable();
    assert_eq!(addresses, [6, 8]);
    assert_eq!(objects.is(service("web", 9)), None, "they are known now");
    objects.is(other(10));
    assert_eq!((objects.addresses("web"), objects.ignored()), (None, 1));
    // One that was fetched for nothing.
    assert_eq!(objects.is(service("web", 11)), Some(name("web")));
    objects.is_gone(service("web", 12));
    objects.fetched(&name("web"), vec![slice("web-1", 6, "web", 6)]);
    assert_eq!(objects.addresses("web"), None);
    assert!(objects.versions.is_empty() && objects.fetching.is_empty());
}

#[test]
fn a_rejected_object_keeps_its_last_good_version() {
    let mut objects = objects();
    objects.list_all(vec![service("web", 1)], vec![slice("web-1", 2, "web", 1)]);
    objects.is(service_with("web", 3, convert::CLASS, 0));
    assert_eq!(objects.addresses("web"), Some(vec![1]));
    let told: Vec<String> = objects.problems().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "cluster a: Service shop/web: spec.ports[0].port: 0 is not a port: use 1 to 65535; the object's last good version \
             stays, if there is one"
        ]
    );
    objects.is(service("web", 4));
    assert_eq!(objects.problems().count(), 0);
    objects.is(service_with("web", 5, convert::CLASS, 0));
    objects.is_gone(service("web", 6));
    assert_eq!((objects.addresses("web"), objects.problems().count()), (None, 0));
}

#[test]
fn what_was_known_before_a_restart_counts_until_all_is_listed() {
    let restored = ShardSpec::default();
    let shards = [(name("web"), Arc::new(restored.clone())), (name("gone"), Arc::new(restored))];
    let mut objects = Objects::new("a".into(), Defaults::default(), Store::new(shards.into()));
    objects.list(Kind::Service, vec![service("web", 1)]);
    assert!(objects.addresses("gone").is_some());
    objects.list_all(vec![service("web", 1)], vec![slice("web-1", 2, "web", 1)]);
    assert_eq!((objects.addresses("web"), objects.addresses("gone")), (Some(vec![1]), None));
}

#[test]
fn nodes_are_known_by_their_metadata() {
    let node = |version, receiver: &str| {
        let mut metadata = metadata("n1", version);
        metadata.namespace = None;
        metadata.labels = Some([(convert::RECEIVER_LABEL.to_owned(), receiver.to_owned())].into());
        Raw::Node(Box::new(PartialObjectMeta { metadata, ..PartialObjectMeta::default() }))
    };
    let mut with_node = slice("web-1", 2, "web", 1);
    if let Raw::Slice(slice) = &mut with_node {
        slice.endpoints.as_mut().unwrap()[0].node_name = Some("n1".to_owned());
    }
    let mut objects = objects();
    objects.list_all(vec![service("web", 1)], vec![with_node]);
    let receives = |objects: &mut Objects| objects.store.shards()[&name("web")].endpoints[0].receiver;
    assert!(!receives(&mut objects));
    objects.is(node(3, "true"));
    assert!(receives(&mut objects) && objects.nodes().contains("n1"));
    objects.is(node(4, "false"));
    assert!(!receives(&mut objects));
}

#[test]
fn more_endpoints_than_there_is_room_for_are_told_and_left_out() {
    let mut objects = objects();
    objects.most_endpoints = 2;
    objects.list_all(vec![service("web", 1)], vec![slice("web-1", 2, "web", 1), slice("web-2", 3, "web", 2)]);
    objects.is(slice("web-3", 4, "web", 3));
    assert_eq!(objects.addresses("web").unwrap().len(), 2);
    let told: Vec<String> = objects.problems().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "cluster a: EndpointSlice shop/web-3: endpoints: the cluster has more than 2 endpoints of ours, and there is no room for \
          these; the object's last good version stays, if there is one"
        ]
    );
    objects.is_gone(slice("web-1", 5, "web", 1));
    objects.is(slice("web-3", 6, "web", 3));
    assert_eq!((objects.addresses("web"), objects.problems().count()), (Some(vec![2, 3]), 0));
    objects.is_gone(service("web", 7));
    assert_eq!(objects.endpoints, 0);
}

#[test]
fn slices_that_were_passed_over_in_a_list_that_goes_on_are_fetched() {
    let mut objects = objects();
    objects.list_all(Vec::new(), Vec::new());
    objects.hear_of(Kind::EndpointSlice, Told::Listing);
    assert!(!objects.has_listed_all(), "what is known is of two moments");
    objects.is(slice("web-1", 2, "web", 1));
    assert_eq!(objects.is(service("web", 3)), Some(name("web")));
    objects.hear_of(Kind::EndpointSlice, Told::Listed);
    objects.fetched(&name("web"), vec![slice("web-1", 2, "web", 1)]);
    assert_eq!(objects.addresses("web"), Some(vec![1]));
    // On a new connection services are listed before slices are heard of.
    objects.begin();
    objects.list(Kind::Service, vec![service("web", 3), service("api", 4)]);
    assert!(objects.fetching.is_empty());
    objects.list(Kind::EndpointSlice, vec![slice("web-1", 2, "web", 1), slice("api-1", 5, "api", 5)]);
    assert_eq!(objects.addresses("api"), Some(vec![5]));
}
