//! Several mistakes at once, and what is concluded from them.

use super::super::*;
use super::GOOD;

/// Lines and fields of all problems.
fn fields_of(text: &str) -> Vec<(u32, String)> {
    let problems = parse(text, Path::new("f.yaml")).unwrap_err();
    problems.into_iter().map(|problem| (problem.place.line, problem.field)).collect()
}

#[test]
fn every_problem_is_told_at_once_in_the_order_of_the_file() {
    let mut text = GOOD.to_owned();
    for (from, to) in [
        ("0x1", "x"),
        ("  cluster: a\n  roles", "  cluster: aa\n  roles"),
        ("name: b\n", "name: B\n"),
        ("10.2.0.0/16", "10.1.7.0/24, 10.2.0.0/99, 127.0.0.0/8"),
        ("manifests: b", "manifests: a"),
        ("- name: gw2", "- name: gw1"),
        ("192.0.2.16/28", "192.0.2.0/28"),
        ("203.0.113.0/24", "192.0.2.8/29"),
        ("[r1, r2]", "[r1, r1]"),
        ("distance: 10", "distance: far"),
    ] {
        assert!(text.contains(from), "{from:?} is not in the file");
        text = text.replacen(from, to, 1);
    }
    text += "probes: {interval: 100ms, timeout: 200ms, kind: ping}\ntunnel: {mtu: 70000}\n";
    text += "capacities: {slots: 2000, backends: 70, flows: 0}\nweather: fine\n";
    let expected = [
        (1, "seed"),
        (4, "node.cluster"),
        (13, "clusters[1].name"),
        (16, "clusters[1].podCidrs[0]"),
        (16, "clusters[1].podCidrs[1]"),
        (16, "clusters[1].podCidrs[2]"),
        (17, "clusters[1].manifests"),
        (22, "gateways[1].name"),
        (24, "gateways[1].tunnel[0]"),
        (25, "vipPools[0]"),
        (27, "distances[0].between"),
        (28, "distances[0].distance"),
        (29, "probes.timeout"),
        (29, "probes.kind"),
        (30, "tunnel.mtu"),
        (31, "capacities.slots"),
        (31, "capacities.backends"),
        (31, "capacities.flows"),
        (32, "weather"),
    ];
    assert_eq!(fields_of(&text), expected.map(|(line, field)| (line, field.to_owned())));
}

#[test]
fn nothing_is_concluded_from_what_could_not_be_read() {
    let rows: &[(&str, &str, &[&str])] = &[
        // Who refers to a cluster by its right name is not told that there is none.
        ("- name: a\n", "- name: A\n", &["clusters[0].name"]),
        ("- name: a\n", "- nmae: a\n", &["clusters[0].nmae"]),
        ("- name: a\n  region: r1", "- name: a\n  region: R1", &["clusters[0].region"]),
        ("  region: r2\n  zone", "  region: R2\n  zone", &["clusters[1].region"]),
        ("- name: gw1", "- name: GW1", &["gateways[0].name"]),
        ("  name: gw1", "  name: GW1", &["node.name"]),
        ("  cluster: a\n  roles", "  cluster: [a]\n  zone: z1\n  roles", &["node.cluster"]),
        ("  region: r2\n  tunnel", "  regoin: r2\n  tunnel", &["gateways[1].regoin"]),
        ("  region: r2\n  tunnel", "  region: 2\n  zone: z2\n  tunnel", &["gateways[1].region"]),
        ("[gateway]", "[gatewya]", &["node.roles[0]"]),
        ("[192.0.2.1]", "[192.0.2.300]", &["gateways[0].tunnel[0]"]),
        (
            "  region: r2\n  tunnel: [192.0.2.16/28]",
            "  region: r1\n  tunnel: [x]",
            &["gateways[1].tunnel[0]"],
        ),
        ("- between: [r1, r2]", "- between: [r1, 5]", &["distances[0].between[1]"]),
        ("", "probes: {interval: 100, timeout: 30s}\n", &["probes.interval"]),
        ("", "probes: {intreval: 30s, timeout: 30s}\n", &["probes.intreval"]),
        ("", "capacities: {services: many, slots: 2000}\n", &["capacities.services"]),
        ("", "capacities: [1]\n", &["capacities"]),
        (GOOD, "seed: 0x1\n", &["", "", ""]),
        // With no clusters at all, that is the problem, and not who refers to one.
        (
            &GOOD[GOOD.find("clusters:").unwrap()..GOOD.find("gateways:").unwrap()],
            "clusters: []\n",
            &["clusters"],
        ),
        (
            &GOOD[GOOD.find("gateways:").unwrap()..GOOD.find("vipPools:").unwrap()],
            "gateways: []\n",
            &["gateways"],
        ),
    ];
    for (from, to, expected) in rows {
        let text = if from.is_empty() { format!("{GOOD}{to}") } else { GOOD.replacen(from, to, 1) };
        assert_ne!(text, GOOD, "{from:?} is not in the file");
        let fields: Vec<String> = fields_of(&text).into_iter().map(|(_, field)| field).collect();
        assert_eq!(fields, *expected, "{from:?} to {to:?}");
    }
}
