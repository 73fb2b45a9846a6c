//! EndpointSlice objects.

use super::*;

fn slice_of(text: &str) -> (Option<Slice>, Vec<String>) {
    let object: EndpointSlice = read(text);
    let (slice, faults) = slice(&object);
    (slice, told(&faults))
}

const HEAD: &str = "metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}\nports: [{name: http, port: 8080}]\n";

#[test]
fn conditions_that_are_not_said_have_their_meaning() {
    let rows = [
        ("", (true, true, false)),
        ("conditions: {}", (true, true, false)),
        ("conditions: {ready: null}", (true, true, false)),
        ("conditions: {ready: false}", (false, false, false)),
        ("conditions: {ready: false, serving: true, terminating: true}", (false, true, true)),
        ("conditions: {ready: true, serving: false}", (true, false, false)),
    ];
    for (conditions, (ready, serving, terminating)) in rows {
        let separator = if conditions.is_empty() { "" } else { ", " };
        let text = format!(
            "{HEAD}addressType: IPv4\nendpoints: [{{addresses: [10.0.0.1]{separator}{conditions}}}]\n"
        );
        let (slice, faults) = slice_of(&text);
        assert_eq!(faults, Vec::<String>::new());
        assert_eq!(
            slice.unwrap().endpoints[0].endpoint.conditions,
            Conditions { ready, serving, terminating },
            "{conditions}"
        );
    }
}

#[test]
fn endpoints_are_known_by_the_best_name_that_they_have() {
    let text = format!(
        "{HEAD}addressType: IPv4\nendpoints:\n\
         - {{addresses: [10.0.0.1, 10.0.0.99], nodeName: n, targetRef: {{name: p, uid: u}}}}\n\
         - {{addresses: [10.0.0.2], nodeName: n, targetRef: {{name: p}}, hostname: h}}\n\
         - {{addresses: [10.0.0.3], nodeName: n, hostname: h}}\n\
         - {{addresses: [10.0.0.4], hostname: h}}\n\
         - {{addresses: [10.0.0.5]}}\n"
    );
    let (slice, faults) = slice_of(&text);
    assert_eq!(faults, Vec::<String>::new());
    let slice = slice.unwrap();
    assert_eq!(slice.service, ObjectName::new("shop", "web"));
    let known: Vec<_> = slice.endpoints.iter().map(|e| (e.identity.clone(), &*e.endpoint.pod)).collect();
    let address = |text: &str| Identity::Address(text.parse().unwrap());
    assert_eq!(
        known,
        [
            (Identity::Uid("u".into()), "p"),
            (Identity::Pod("p".into()), "p"),
            (Identity::Host("n".into(), "h".into()), "h"),
            (address("10.0.0.4"), "h"),
            (address("10.0.0.5"), "10.0.0.5"),
        ]
    );
    assert_eq!(slice.endpoints[0].endpoint.v4, Some("10.0.0.1".parse().unwrap()));
    assert!(Arc::ptr_eq(&slice.endpoints[0].endpoint.ports, &slice.endpoints[4].endpoint.ports));
    assert_eq!(slice.endpoints[0].endpoint.ports["http"], 8080);
}

#[test]
fn a_bad_endpoint_is_left_out_alone_and_a_bad_slice_is_rejected() {
    let text = format!(
        "{HEAD}addressType: IPv4\nendpoints: [{{addresses: [10.0.0.1]}}, {{addresses: [x]}}, {{addresses: ['2001:db8::1']}}, {{addresses: []}}]\n"
    );
    let (slice, faults) = slice_of(&text);
    assert_eq!(slice.unwrap().endpoints.len(), 1);
    assert_eq!(
        faults,
        [
            "endpoints[1].addresses[0]: \"x\" is not an IP address; the endpoint is left out",
            "endpoints[2].addresses[0]: 2001:db8::1 is not of the slice's addressType; the endpoint is left out",
            "endpoints[3].addresses: the endpoint has no address; it is left out",
        ]
    );
    let rows = [
        ("addressType: IPX\n", "REJECTED addressType: \"IPX\" is neither IPv4 nor IPv6"),
        ("addressType: FQDN\n", "addressType: names can't be steered to, only IPv4 and IPv6 addresses"),
    ];
    for (text, expected) in rows {
        assert_eq!(slice_of(&format!("{HEAD}{text}")), (None, vec![expected.to_owned()]));
    }
    let text = HEAD.replace("8080", "0") + "addressType: IPv4\n";
    assert_eq!(
        slice_of(&text),
        (None, vec!["REJECTED ports[0].port: 0 is not a port: use 1 to 65535".to_owned()])
    );
    let text = HEAD.replace("kubernetes.io/service-name", "other") + "addressType: IPv4\n";
    assert_eq!(slice_of(&text), (None, Vec::new()), "a slice of no service");
}

#[test]
fn hints_for_zones_are_kept() {
    let text = format!(
        "{HEAD}addressType: IPv4\nendpoints:\n\
         - {{addresses: [10.0.0.1], zone: a, hints: {{forZones: [{{name: a}}, {{name: b}}], forNodes: [{{name: n}}]}}}}\n\
         - {{addresses: [10.0.0.2], zone: b}}\n"
    );
    let (slice, faults) = slice_of(&text);
    assert_eq!(faults, Vec::<String>::new());
    let zones: Vec<Vec<String>> = slice
        .unwrap()
        .endpoints
        .iter()
        .map(|e| e.endpoint.zones.iter().map(ToString::to_string).collect())
        .collect();
    assert_eq!(zones, [vec!["a".to_owned(), "b".to_owned()], vec![]]);
}
