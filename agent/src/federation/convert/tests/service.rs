//! Service objects.

use super::*;

/// A service of ours with these annotations and this in its spec.
fn service_with(annotations: &[(&str, &str)], spec: &str) -> (Option<ShardSpec>, Vec<String>) {
    let annotations: String =
        annotations.iter().map(|(key, value)| format!("    {key}: '{value}'\n")).collect();
    let text = format!(
        "metadata:\n  name: web\n  annotations:\n    other: x\n{annotations}\
         spec:\n  type: LoadBalancer\n  loadBalancerClass: fairlead.io/vip\n{spec}"
    );
    let (spec, faults) = service(&read(&text), Defaults::default());
    (spec, told(&faults))
}

const PORTS: &str = "  ports: [{port: 80}]\n";

#[test]
fn a_services_age_is_that_of_its_object() {
    let spec = "spec: {type: LoadBalancer, loadBalancerClass: fairlead.io/vip, ports: [{port: 80}]}";
    for (metadata, created) in [
        ("{name: web, creationTimestamp: \"2026-01-01T00:00:00Z\"}", Some(1_767_225_600)),
        ("{name: web}", None),
    ] {
        let object = read(&format!("metadata: {metadata}\n{spec}\n"));
        let (shard, faults) = service(&object, Defaults::default());
        assert_eq!(shard.unwrap().created, created, "{faults:?}");
    }
}

#[test]
fn annotations_set_options() {
    let all = [
        ("fairlead.io/vip", "203.0.113.7, 2001:db8::7"),
        ("fairlead.io/capacity-per-endpoint", "250"),
        ("fairlead.io/min-healthy", "2"),
        ("fairlead.io/probe", "https"),
        ("fairlead.io/probe-path", "/ok?x=1"),
        ("fairlead.io/probe-port", "9000"),
        ("fairlead.io/probe-interval", "200ms"),
        ("fairlead.io/probe-timeout", "100ms"),
        ("fairlead.io/probe-rise", "4"),
        ("fairlead.io/probe-fall", "5"),
        ("fairlead.io/endpoint-owns-vip", "true"),
        ("fairlead.io/unserved-ports", "pass"),
    ];
    assert_eq!(all.len(), annotations::NAMES.len(), "every annotation is tested");
    let (spec, faults) = service_with(&all, PORTS);
    assert_eq!(faults, Vec::<String>::new());
    let spec = spec.unwrap();
    assert_eq!(spec.requested_vips, ["203.0.113.7", "2001:db8::7"].map(|ip| ip.parse::<IpAddr>().unwrap()));
    assert_eq!((spec.wants_v4, spec.wants_v6), (true, true));
    let options = &spec.options;
    assert_eq!((options.capacity_per_endpoint, options.min_healthy), (Some(250), 2));
    assert!(options.endpoint_owns_vip && options.pass_unserved_ports);
    let probe = &options.probe;
    assert_eq!(
        (probe.kind, probe.path.as_deref(), probe.port),
        (Some(ProbeKind::Https), Some("/ok?x=1"), Some(9000))
    );
    assert_eq!(probe.interval, Some(Duration::from_millis(200)));
    assert_eq!(probe.timeout, Some(Duration::from_millis(100)));
    assert_eq!((probe.rise, probe.fall), (Some(4), Some(5)));
    let docs = include_str!("../../../../../docs/manifests.md");
    for name in annotations::NAMES {
        assert!(
            docs.contains(&format!("| `fairlead.io/{name}` |")),
            "docs/manifests.md doesn't explain {name}"
        );
    }
}

#[test]
fn session_affinity_is_that_of_kubernetes() {
    let spec = |affinity: &str| {
        let spec = format!(
            "spec: {{type: LoadBalancer, loadBalancerClass: fairlead.io/vip, {affinity} ports: [{{port: 80}}]}}"
        );
        service(&read(&format!("metadata: {{name: web}}\n{spec}\n")), Defaults::default())
    };
    for (affinity, by_client) in
        [("", false), ("sessionAffinity: None,", false), ("sessionAffinity: ClientIP,", true)]
    {
        assert_eq!(spec(affinity).0.unwrap().by_client, by_client, "{affinity}");
    }
    let (shard, faults) = spec("sessionAffinity: Cookie,");
    assert!(shard.is_none());
    assert!(format!("{faults:?}").contains("\\\"Cookie\\\" is neither None nor ClientIP"), "{faults:?}");
}

#[test]
fn source_ranges_are_those_of_kubernetes() {
    const ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
    let of = |annotation: Option<&str>, field: &str| {
        let annotations: Vec<_> = annotation.map(|value| (ANNOTATION, value)).into_iter().collect();
        let (spec, faults) = service_with(&annotations, &format!("{PORTS}{field}"));
        let ranges = spec.map(|spec| spec.source_ranges.iter().map(ToString::to_string).collect::<Vec<_>>());
        (ranges.map(|ranges| ranges.join(" ")), faults)
    };
    let rows = [
        (None, "", ""),
        (None, "  loadBalancerSourceRanges: []\n", ""),
        (None, "  loadBalancerSourceRanges: [192.0.2.0/24, '2001:db8::/32']\n", "192.0.2.0/24 2001:db8::/32"),
        // As API servers take them: with spaces, and bits beside the prefix.
        (
            None,
            "  loadBalancerSourceRanges: [' 192.0.2.77/24 ', '2001:db8::7/64']\n",
            "192.0.2.0/24 2001:db8::/64",
        ),
        (None, "  loadBalancerSourceRanges: ['::ffff:192.0.2.0/120']\n", "192.0.2.0/24"),
        (Some(""), "", ""),
        (Some("  "), "", ""),
        (
            Some("192.0.2.0/24, 198.51.100.7/32,2001:db8::/32"),
            "",
            "192.0.2.0/24 198.51.100.7/32 2001:db8::/32",
        ),
        (Some("192.0.2.0/24"), "  loadBalancerSourceRanges: [198.51.100.0/24]\n", "198.51.100.0/24"),
        (Some("nonsense"), "  loadBalancerSourceRanges: [198.51.100.0/24]\n", "198.51.100.0/24"),
    ];
    for (annotation, field, expected) in rows {
        assert_eq!(of(annotation, field), (Some(expected.to_owned()), vec![]), "{annotation:?} {field}");
    }
    let right = "is not a range of addresses: write such as 192.0.2.0/24 or 2001:db8::/32";
    let rows = [
        (
            None,
            "  loadBalancerSourceRanges: [192.0.2.0/24, 192.0.2.7]\n",
            "spec.loadBalancerSourceRanges[1]: \"192.0.2.7\"",
        ),
        (
            Some("192.0.2.0/24,,"),
            "",
            "metadata.annotations[\"service.beta.kubernetes.io/load-balancer-source-ranges\"]: \"\"",
        ),
    ];
    for (annotation, field, place) in rows {
        let (ranges, faults) = of(annotation, field);
        assert_eq!((ranges, faults[0].as_str()), (None, format!("REJECTED {place} {right}").as_str()));
    }
}

#[test]
fn what_gateways_do_not_do_is_noted_and_rejects_nothing() {
    use fairlead_core::model::Unhonoured::*;
    let rows: [(&str, &[_]); 9] = [
        ("", &[]),
        ("externalTrafficPolicy: Cluster", &[]),
        ("externalTrafficPolicy: Local", &[ExternalTrafficPolicy]),
        (
            "{externalTrafficPolicy: Local, healthCheckNodePort: 30123}",
            &[ExternalTrafficPolicy, HealthCheckNodePort],
        ),
        ("internalTrafficPolicy: Local", &[]),
        ("allocateLoadBalancerNodePorts: true", &[]),
        ("trafficDistribution: PreferClose", &[]),
        ("trafficDistribution: PreferSameNode", &[SameNode]),
        ("trafficDistribution: PreferTheMoon", &[TrafficDistribution]),
    ];
    for (field, expected) in rows {
        let fields = field.trim_matches(['{', '}']).split(", ");
        let fields: String =
            fields.filter(|field| !field.is_empty()).map(|field| format!("  {field}\n")).collect();
        let (spec, faults) = service_with(&[], &format!("{PORTS}{fields}"));
        assert_eq!((spec.unwrap().unhonoured, faults), (expected.to_vec(), vec![]), "{field}");
    }
    let (spec, _) = service_with(&[], &format!("{PORTS}  publishNotReadyAddresses: true\n"));
    assert!(spec.unwrap().publish_not_ready);
    let (spec, _) =
        service_with(&[], "  ports: [{port: 80, appProtocol: kubernetes.io/h2c}, {port: 81, name: a}]\n");
    let told: Vec<_> = spec.unwrap().ports.iter().map(|port| port.app_protocol.clone()).collect();
    assert_eq!(told, [Some("kubernetes.io/h2c".into()), None]);
}

#[test]
fn a_bad_annotation_rejects_the_service_and_says_what_would_be_right() {
    let rows = [
        (
            "vip",
            "203.0.113",
            "\"203.0.113\" is not an IP address: write such as 203.0.113.7 or 203.0.113.7,2001:db8::7",
        ),
        (
            "vip",
            "203.0.113.7,203.0.113.8",
            "203.0.113.8 is a second address of the same IP version: there can be one of each",
        ),
        ("capacity-per-endpoint", "1O0", "\"1O0\" is not a whole number from 1 to 4294967295"),
        ("capacity-per-endpoint", "0", "\"0\" is not a whole number from 1 to 4294967295"),
        ("probe", "ping", "\"ping\" is none of tcp, http, https, none"),
        ("probe-path", "healthz", "\"healthz\" is not a path of HTTP: it begins with / and has no spaces"),
        ("probe-port", "70000", "\"70000\" is not a whole number from 1 to 65535"),
        (
            "probe-interval",
            "1",
            "\"1\" is not a duration: write a whole number and ms, s, m or h, such as 200ms",
        ),
        ("probe-interval", "1ms", "1ms is not between 50ms and 1h"),
        ("probe-rise", "-1", "\"-1\" is not a whole number from 1 to 100"),
        ("endpoint-owns-vip", "yes", "\"yes\" is neither true nor false"),
        ("unserved-ports", "reject", "\"reject\" is neither pass nor drop"),
    ];
    for (name, value, expected) in rows {
        let key = format!("fairlead.io/{name}");
        let (spec, faults) = service_with(&[(&key, value)], PORTS);
        assert_eq!(faults, [format!("REJECTED metadata.annotations[\"{key}\"]: {expected}")]);
        assert_eq!(spec, None);
    }
    let rows = [("fairlead.io/probe-timeout", "1s"), ("fairlead.io/probe-interval", "500ms")];
    let (spec, faults) = service_with(&rows, PORTS);
    assert_eq!(
        faults,
        [
            "REJECTED metadata.annotations[\"fairlead.io/probe-timeout\"]: must not be longer than fairlead.io/probe-interval"
        ]
    );
    assert_eq!(spec, None);
}

#[test]
fn an_unknown_annotation_of_ours_is_told_but_rejects_nothing() {
    let (spec, faults) =
        service_with(&[("fairlead.io/probe_path", "/x"), ("fairlead.io/weather", "fine")], PORTS);
    assert_eq!(
        faults,
        [
            "metadata.annotations[\"fairlead.io/probe_path\"]: there is no such annotation: did you mean fairlead.io/probe-path?",
            "metadata.annotations[\"fairlead.io/weather\"]: there is no such annotation: docs/manifests.md lists them",
        ]
    );
    assert!(spec.is_some());
}

#[test]
fn ports_protocols_and_families() {
    let (spec, faults) = service_with(
        &[],
        "  ports:\n  - {port: 80, name: a}\n  - {port: 53, protocol: UDP, name: b}\n  - {port: 9, protocol: SCTP, name: c}\n  ipFamilies: [IPv6]\n",
    );
    assert_eq!(
        faults,
        ["spec.ports[2].protocol: \"SCTP\" is not served, only TCP and UDP are; this port is left out"]
    );
    let spec = spec.unwrap();
    let ports: Vec<_> = spec.ports.iter().map(|p| (p.port, p.protocol, &*p.name)).collect();
    assert_eq!(ports, [(80, Protocol::Tcp, "a"), (53, Protocol::Udp, "b")]);
    assert_eq!((spec.wants_v4, spec.wants_v6), (false, true));
    let rejected = [
        ("  ports: [{port: 0}]\n", "REJECTED spec.ports[0].port: 0 is not a port: use 1 to 65535"),
        (
            "  ports: [{port: 1}, {port: 65536}]\n",
            "REJECTED spec.ports[1].port: 65536 is not a port: use 1 to 65535",
        ),
        ("  ports: []\n", "REJECTED spec.ports: there is no TCP or UDP port: add one"),
        (
            "  ports: [{port: 1}]\n  ipFamilies: [IPv5]\n",
            "REJECTED spec.ipFamilies[0]: \"IPv5\" is neither IPv4 nor IPv6",
        ),
        (
            "  ports: [{port: 1}]\n  loadBalancerIP: here\n",
            "REJECTED spec.loadBalancerIP: \"here\" is not an IP address: write such as 203.0.113.7",
        ),
    ];
    for (text, expected) in rejected {
        assert_eq!(service_with(&[], text), (None, vec![expected.to_owned()]), "{text}");
    }
    let families = [
        ("", (true, false)),
        ("  loadBalancerIP: 203.0.113.7\n", (true, false)),
        ("  loadBalancerIP: 2001:db8::7\n", (false, true)),
        ("  ipFamilyPolicy: PreferDualStack\n", (true, true)),
        ("  ipFamilies: [IPv4, IPv6]\n", (true, true)),
    ];
    for (text, expected) in families {
        let (spec, _) = service_with(&[], &format!("{PORTS}{text}"));
        let spec = spec.unwrap();
        assert_eq!((spec.wants_v4, spec.wants_v6), expected, "{text}");
    }
    let (spec, _) = service_with(
        &[("fairlead.io/vip", "203.0.113.9")],
        &format!("{PORTS}  loadBalancerIP: 203.0.113.7\n"),
    );
    assert_eq!(
        spec.unwrap().requested_vips,
        ["203.0.113.9".parse::<IpAddr>().unwrap()],
        "the annotation counts"
    );
}

#[test]
fn udp_ports_are_quic_where_they_say_so() {
    let quic = |protocol: &str, app: &str| {
        let ports = format!("  ports: [{{port: 443, protocol: {protocol}, appProtocol: {app}}}]\n");
        let (spec, faults) = service_with(&[], &ports);
        (spec.map(|spec| spec.ports[0].quic), faults.join(" "))
    };
    assert_eq!(quic("UDP", "fairlead.io/quic"), (Some(true), String::new()));
    for other in ["quic", "kubernetes.io/h2c", "example.com/quic", "\"\""] {
        assert_eq!(quic("UDP", other), (Some(false), String::new()), "{other} is for others to read");
    }
    let (none, told) = quic("TCP", "fairlead.io/quic");
    let expected = "REJECTED spec.ports[0].appProtocol: fairlead.io/quic is for UDP ports: write protocol: UDP, or leave it out";
    assert_eq!((none, told.as_str()), (None, expected));
    let (without, told) = quic("UDP", "fairlead.io/quick");
    let expected = "spec.ports[0].appProtocol: there is no fairlead.io/quick: did you mean fairlead.io/quic?";
    assert_eq!((without, told.as_str()), (Some(false), expected));
}

#[test]
fn other_services_are_none_of_ours() {
    for spec in [
        "type: ClusterIP",
        "type: LoadBalancer",
        "{type: LoadBalancer, loadBalancerClass: other/lb}",
        "{type: ClusterIP, loadBalancerClass: fairlead.io/vip}",
    ] {
        let text = format!(
            "metadata: {{name: x, annotations: {{fairlead.io/vip: nonsense}}}}\nspec: {}\n",
            if spec.starts_with('{') { spec.to_owned() } else { format!("{{{spec}}}") }
        );
        assert_eq!(service(&read(&text), Defaults::default()), (None, Vec::new()), "{spec}");
    }
}
