//! Several control planes on one machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::thread;
use std::time::{Duration, Instant};

use fairlead_tests::control_plane::{ControlPlane, Place, Wanted};
use fairlead_tests::world::Footprint;

/// A shard of one service: endpoints of both families with this number in their addresses.
fn shard(number: u8) -> String {
    let slice = |family: &str, address: &str| {
        let name = family.to_lowercase();
        format!(
            "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: web-{name}
  namespace: shop
  labels: {{kubernetes.io/service-name: web}}
addressType: {family}
endpoints:
- addresses: ['{address}']
  conditions: {{ready: true}}
ports:
- {{name: http, port: 8080, protocol: TCP}}
"
        )
    };
    let service = "apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: shop
  annotations: {fairlead.io/vip: '203.0.113.1,2001:db8:f::1'}
spec:
  type: LoadBalancer
  loadBalancerClass: fairlead.io/vip
  ipFamilyPolicy: RequireDualStack
  ports:
  - {name: http, port: 80, targetPort: 8080}
";
    let (v4, v6) = (format!("198.18.{number}.2"), format!("2001:db8:{number}::2"));
    format!("{service}{}{}", slice("IPv4", &v4), slice("IPv6", &v6))
}

fn read(plane: &ControlPlane, kind: &str, path: &str) -> String {
    plane.kubectl(&["--namespace=shop", "get", kind, &format!("--output=jsonpath={path}")]).unwrap()
}

#[test]
fn two_stand_side_by_side_and_know_nothing_of_each_other() {
    let footprint = Footprint::claim().unwrap();
    let start = |name: &str, address: IpAddr| {
        let place = Place::loopback(&footprint, address).unwrap();
        ControlPlane::start(&place, &Wanted::new(name)).unwrap()
    };
    let began = Instant::now();
    let (one, other) = thread::scope(|scope| {
        let one = scope.spawn(|| start("us-central1-a", Ipv4Addr::LOCALHOST.into()));
        let other = scope.spawn(|| start("europe-west1-b", Ipv6Addr::LOCALHOST.into()));
        (one.join().unwrap(), other.join().unwrap())
    });
    let took = began.elapsed();
    println!("two control planes: {took:?}");
    // 3 s on an idle machine of two cores; others may run beside us.
    assert!(took < Duration::from_secs(45), "{took:?}");

    for (plane, number) in [(&one, 1), (&other, 2)] {
        plane.apply(&shard(number)).unwrap();
        assert_eq!(
            read(plane, "service/web", "{.spec.type} {.spec.loadBalancerClass}"),
            "LoadBalancer fairlead.io/vip"
        );
    }
    let addresses = |plane| read(plane, "endpointslices", "{.items[*].endpoints[*].addresses[*]}");
    assert_eq!(addresses(&one), "198.18.1.2 2001:db8:1::2");
    assert_eq!(addresses(&other), "198.18.2.2 2001:db8:2::2");
    one.kubectl(&["--namespace=shop", "delete", "service", "web"]).unwrap();
    assert_eq!(read(&one, "services", "{.items[*].metadata.name}"), "");
    assert_eq!(read(&other, "services", "{.items[*].metadata.name}"), "web");

    let twice = Place::loopback(&footprint, Ipv4Addr::LOCALHOST.into()).unwrap();
    let error = ControlPlane::start(&twice, &Wanted::new("us-central1-a")).unwrap_err();
    assert!(format!("{error:#}").contains("is there a control plane us-central1-a already?"), "{error:#}");
}

#[test]
fn one_that_does_not_start_says_which_program_and_why() {
    let footprint = Footprint::claim().unwrap();
    let place = Place::loopback(&footprint, Ipv4Addr::LOCALHOST.into()).unwrap();
    // The name becomes part of the address of who issues tokens, which can't hold this.
    let error = ControlPlane::start(&place, &Wanted::new("%zz")).unwrap_err();
    let error = format!("{error:#}");
    assert!(error.starts_with("kube-apiserver of %zz has ended: "), "{error}");
    assert!(error.contains("service-account-issuer"), "{error}");
}

#[test]
fn a_custom_resource_is_known_once_its_definition_is_applied() {
    let (_footprint, plane) = super::one();
    let definition = "apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: imports.fairlead.example}
spec:
  group: fairlead.example
  scope: Namespaced
  names: {kind: Import, plural: imports, singular: import}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {ips: {type: array, items: {type: string}}}}}}
";
    plane.apply(definition).unwrap();
    plane
        .kubectl(&["wait", "--for=condition=Established", "--timeout=30s", "crd/imports.fairlead.example"])
        .unwrap();
    let import = "{apiVersion: fairlead.example/v1, kind: Import, \
                  metadata: {name: web, namespace: default}, spec: {ips: [203.0.113.1]}}";
    plane.apply(import).unwrap();
    let read = ["get", "imports.fairlead.example", "web", "--output=jsonpath={.spec.ips[0]}"];
    assert_eq!(plane.kubectl(&read).unwrap(), "203.0.113.1");
}
