//! Rows of input and what the file's author is told.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use fairlead_core::model::{Place as Where, ProbeKind};
use serde_json::Value;

use super::*;

const EXAMPLE: &str = include_str!("../../../deploy/config.example.yaml");

const GOOD: &str = "\
seed: 0x1
node:
  name: gw1
  cluster: a
  roles: [gateway]
  interfaces: [eth0]
clusters:
- name: a
  region: r1
  zone: z1
  podCidrs: [10.1.0.0/16]
  manifests: a
- name: b
  region: r2
  zone: z2
  podCidrs: [10.2.0.0/16]
  manifests: b
gateways:
- name: gw1
  cluster: a
  tunnel: [192.0.2.1]
- name: gw2
  region: r2
  tunnel: [192.0.2.16/28]
vipPools: [203.0.113.0/24]
distances:
- between: [r1, r2]
  distance: 10
";

/// A small one that holds.
pub(crate) fn good() -> Config {
    parse(GOOD, Path::new("f.yaml")).unwrap()
}

/// What is said about the good file with `from` replaced by `to`, or its end where `from` is empty.
fn said(from: &str, to: &str) -> Vec<String> {
    let text = if from.is_empty() { format!("{GOOD}{to}") } else { GOOD.replacen(from, to, 1) };
    assert_ne!(text, GOOD, "{from:?} is not in the file");
    match parse(&text, Path::new("f.yaml")) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn each_mistake_is_told_with_its_place() {
    let rows: &[(&str, &str, &str)] = &[
        ("seed: 0x1\n", "", "1:1: seed is missing; it must be given"),
        (
            "0x1",
            "12e4",
            "1:7: seed: what stands here is not a number of 64 bits: write 0x and up to 16 hexadecimal digits, such as `openssl rand -hex 8` prints",
        ),
        (
            "podCidrs: [10.2.0.0/16]",
            "podCidrs: [10.0.0.0/33]",
            "16:14: clusters[1].podCidrs[0]: \"10.0.0.0/33\" is not a CIDR: write an address and a prefix length, such as 10.4.0.0/16 or 2001:db8:4::/48",
        ),
        (
            "podCidrs: [10.2.0.0/16]",
            "podCidrs: [10.2.0.1/16]",
            "16:14: clusters[1].podCidrs[0]: \"10.2.0.1/16\" has bits behind its prefix: write 10.2.0.0/16",
        ),
        (
            "podCidrs: [10.2.0.0/16]",
            "podCIDRs: [10.2.0.0/16]",
            "16:3: clusters[1].podCIDRs: unknown field; did you mean podCidrs?",
        ),
        (
            "podCidrs: [10.2.0.0/16]",
            "podCidrs: []",
            "16:13: clusters[1].podCidrs: there must be at least one: endpoints outside of them are not accepted",
        ),
        (
            "podCidrs: [10.2.0.0/16]",
            "podCidrs: 10.2.0.0/16",
            "16:13: clusters[1].podCidrs: expected a list, found \"10.2.0.0/16\"",
        ),
        (
            "10.2.0.0/16",
            "10.1.128.0/17",
            "16:14: clusters[1].podCidrs[0]: 10.1.128.0/17 overlaps 10.1.0.0/16, the pods of cluster a: an address must mean one thing",
        ),
        (
            "10.2.0.0/16",
            "127.0.0.0/8",
            "16:14: clusters[1].podCidrs[0]: 127.0.0.0/8 has no addresses of hosts",
        ),
        (
            "- name: b",
            "- name: a",
            "13:9: clusters[1].name: clusters[0] is called \"a\" too: give this cluster another name",
        ),
        (
            "- name: b",
            "- name: B!",
            "13:9: clusters[1].name: \"B!\" is not a name: write 1 to 253 lower-case letters, digits, - and ., such as europe-west1-b",
        ),
        ("- name: b", "- name: 5", "13:9: clusters[1].name: expected a name, found 5"),
        (
            "manifests: b",
            "manifests: a/b",
            "17:14: clusters[1].manifests: cluster a reads a already: each needs its own directory",
        ),
        (
            "  cluster: a\n  roles",
            "  cluster: aa\n  roles",
            "4:12: node.cluster: there is no cluster \"aa\": did you mean a?",
        ),
        (
            "  cluster: a\n  roles",
            "  cluster: a\n  zone: z9\n  roles",
            "5:9: node.zone: is \"z9\", but cluster a is in \"z1\": leave it out",
        ),
        (
            "  cluster: a\n  roles",
            "  cluster: b\n  roles",
            "4:12: node.cluster: is \"b\", but its entry in gateways says \"a\"",
        ),
        (
            "  name: gw1",
            "  name: gw9",
            "3:9: node.name: a gateway needs an entry in gateways, and there is none called \"gw9\": add one with its tunnel addresses",
        ),
        ("[gateway]", "[]", "5:10: node.roles: a node must be gateway, receiver or both"),
        ("[gateway]", "[gateway, gateway]", "5:20: node.roles[1]: stands here twice: remove one"),
        ("[gateway]", "[router]", "5:11: node.roles[0]: \"router\" is none of gateway, receiver"),
        (
            "[eth0]",
            "[]",
            "6:15: node.interfaces: there must be at least one interface: `ip -br link` lists them",
        ),
        (
            "[eth0]",
            "[a/b]",
            "6:16: node.interfaces[0]: \"a/b\" is not the name of an interface: `ip -br link` lists them",
        ),
        (
            "tunnel: [192.0.2.1]",
            "tunnel: []",
            "21:11: gateways[0].tunnel: there must be at least one address or prefix",
        ),
        (
            "  region: r2\n  tunnel: [192.0.2.16/28]",
            "  region: r1\n  tunnel: ['2001:db8:9::/96']",
            "24:11: gateways[1].tunnel: gateway gw1 of the same group \"r1\" has tunnels of other IP versions: gateways of a group must have the same ones",
        ),
        (
            "tunnel: [192.0.2.1]",
            "tunnel: [192.0.2.20]",
            "24:12: gateways[1].tunnel[0]: 192.0.2.16/28 overlaps 192.0.2.20, the tunnels of gateway gw1: an address must mean one thing",
        ),
        (
            "tunnel: [192.0.2.1]",
            "tunnel: [192.0.2.1, 192.0.2.2]",
            "21:23: gateways[0].tunnel[1]: a second one of the same IP version: there can be one of each",
        ),
        (
            "tunnel: [192.0.2.1]",
            "tunnel: ['2001:db8::/64']",
            "21:12: gateways[0].tunnel[0]: 2001:db8::/64 is too wide: at most the last 32 bits can vary, /96",
        ),
        (
            "tunnel: [192.0.2.1]",
            "tunnel: [192.0.2.1/28]",
            "21:12: gateways[0].tunnel[0]: \"192.0.2.1/28\" has bits behind its prefix: write 192.0.2.1 or 192.0.2.0/28",
        ),
        (
            "tunnel: [192.0.2.1]",
            "tunnel: [here]",
            "21:12: gateways[0].tunnel[0]: \"here\" is neither an address nor a CIDR: write such as 192.0.2.7 or 192.0.2.16/28",
        ),
        (
            "  region: r2\n  tunnel",
            "  tunnel",
            "22:3: gateways[1]: where does it stand? Give cluster, or region (and zone)",
        ),
        (
            "  region: r2\n  tunnel",
            "  region: r2\n  cluster: c\n  tunnel",
            "24:12: gateways[1].cluster: there is no cluster \"c\": did you mean a?",
        ),
        (
            "203.0.113.0/24",
            "10.2.7.0/24",
            "25:12: vipPools[0]: 10.2.7.0/24 overlaps 10.2.0.0/16, the pods of cluster b: an address must mean one thing",
        ),
        (
            "203.0.113.0/24",
            "192.0.2.0/30",
            "25:12: vipPools[0]: 192.0.2.0/30 overlaps 192.0.2.1, the tunnels of gateway gw1: an address must mean one thing",
        ),
        ("[r1, r2]", "[r1]", "27:12: distances[0].between: there must be two regions, here are 1"),
        (
            "[r1, r2]",
            "[r1, rr2]",
            "27:17: distances[0].between[1]: nothing is in a region \"rr2\": did you mean r2?",
        ),
        (
            "[r1, r2]",
            "[r1, r1]",
            "27:12: distances[0].between: a region is at no distance from itself: remove this entry",
        ),
        (
            "",
            "- {between: [r2, r1], distance: 7}\n",
            "29:13: distances[1].between: their distance was given before: remove one entry",
        ),
        (
            "distance: 10",
            "distance: far",
            "28:13: distances[0].distance: expected a whole number, found \"far\"",
        ),
        ("distance: 10", "distance: -1", "28:13: distances[0].distance: -1 is not between 0 and 4294967295"),
        (
            "",
            "probes: {interval: 100ms, timeout: 1s}\n",
            "29:36: probes.timeout: must not be longer than interval: probes of an endpoint don't overlap",
        ),
        (
            "",
            "probes: {interval: 1ms, timeout: 10ms}\n",
            "29:20: probes.interval: 1ms is not between 50ms and 1h",
        ),
        (
            "",
            "probes: {interval: 100}\n",
            "29:20: probes.interval: expected a duration such as 200ms, found 100",
        ),
        (
            "",
            "probes: {interval: 1.5s}\n",
            "29:20: probes.interval: \"1.5s\" is not a duration: write a whole number and ms, s, m or h, such as 200ms",
        ),
        ("", "probes: {rise: 0}\n", "29:16: probes.rise: 0 is not between 1 and 100"),
        (
            "",
            "probes: {path: x y}\n",
            "29:16: probes.path: \"x y\" is not a path of HTTP: it begins with / and has no spaces",
        ),
        ("", "probes: {kind: ping}\n", "29:16: probes.kind: \"ping\" is none of tcp, http, https, none"),
        (
            "",
            "capacities: {slots: 2000}\n",
            "29:21: capacities.slots: too few for 32768 services of 251 slots each: 8224768 or more",
        ),
        (
            "",
            "capacities: {backends: 100}\n",
            "29:24: capacities.backends: too few for 32768 services of a backend each",
        ),
        (
            "",
            "tunnel: {mtu: 9000, encapsulation: vxlan}\n",
            "29:36: tunnel.encapsulation: \"vxlan\" is none of ipip, gue",
        ),
        ("", "tunnel: {mtu: 1200}\n", "29:15: tunnel.mtu: 1200 is not between 1328 and 65535"),
        (
            "",
            "admin: {address: localhost}\n",
            "29:18: admin.address: \"localhost\" is not an address and port: write such as 127.0.0.1:9440 or [::1]:9440",
        ),
        ("", "unservedPorts: reject\n", "29:16: unservedPorts: \"reject\" is none of drop, pass"),
        (
            "",
            "weather: fine\n",
            "29:1: weather: unknown field; there are instance, stateDirectory, admin, seed, node, clusters, gateways, vipPools, distances, probes, planner, tunnel, unservedPorts, icmpPerSecond, capacities",
        ),
        ("", "seed: 0x2\n", "29:1: \"seed\" stands twice in this mapping"),
        ("", "---\nseed: 0x2\n", "30:1: a second document: there can be only one"),
    ];
    for (from, to, expected) in rows {
        assert_eq!(said(from, to), [format!("f.yaml:{expected}")], "{from:?} to {to:?}");
    }
}

#[test]
fn every_problem_is_told_at_once_in_the_order_of_the_file() {
    let text =
        GOOD.replace("0x1", "x").replace("name: gw2", "name: gw1").replace("10.2.0.0/16", "10.2.0.0/99");
    let problems = parse(&text, Path::new("f.yaml")).unwrap_err();
    let lines: Vec<_> = problems.iter().map(|problem| (problem.place.line, problem.field.as_str())).collect();
    // What contradicts something else can't be judged before every field is read.
    assert_eq!(lines, [(1, "seed"), (16, "clusters[1].podCidrs[0]")]);
    let text = GOOD
        .replace("name: gw2", "name: gw1")
        .replace("203.0", "10.2")
        .replace("10.2.113.0/24", "10.2.0.0/15");
    let problems = parse(&text, Path::new("f.yaml")).unwrap_err();
    let fields: Vec<_> = problems.iter().map(|problem| problem.field.as_str()).collect();
    assert_eq!(fields, ["gateways[1].name", "vipPools[0]"]);
}

#[test]
fn what_is_no_configuration_at_all() {
    let rows = [
        ("", "f.yaml:1:1: there is nothing in the file"),
        ("# only a comment\n", "f.yaml:1:1: there is nothing in the file"),
        ("a: [", "f.yaml:1:4: not YAML: unclosed bracket '['"),
        ("just text", "f.yaml:1:1: expected a mapping, found \"just text\""),
    ];
    for (text, expected) in rows {
        let problems = parse(text, Path::new("f.yaml")).unwrap_err();
        assert_eq!(problems.iter().map(ToString::to_string).collect::<Vec<_>>(), [expected], "{text}");
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("missing.yaml");
    assert!(check(&path).unwrap_err()[0].to_string().contains("can't be read: No such file"));
    fs::write(&path, [0xff, 0xfe, 0x00]).unwrap();
    assert!(check(&path).unwrap_err()[0].message.contains("is not text in UTF-8"));
}

#[test]
fn the_example_holds_and_says_what_it_should() {
    let config = parse(EXAMPLE, Path::new("/etc/fairlead/config.yaml")).unwrap();
    assert_eq!(config.clusters[1].manifests, Path::new("/etc/fairlead/manifests/eu-b"));
    assert_eq!(config.state_directory(), Path::new("/var/lib/fairlead/default"));
    let declared = declarations(&config);
    assert_eq!(declared.here.place, Where::new("europe-west1", "europe-west1-b", "eu-b"));
    assert_eq!(declared.here.plans_from, declared.here.place);
    assert_eq!(&*declared.here.group, "europe-west1");
    assert!(
        declared.here.gateway && declared.here.receiver && declared.here.tunnel_v4 && declared.here.tunnel_v6
    );
    assert_eq!(declared.clusters.len(), 3);
    assert_eq!(&*declared.gateways[2].group, "asia-east1");
    assert_eq!(declared.distances.get("asia-east1", "us-central1"), Some(150));
    assert_eq!(declared.probe.kind, ProbeKind::Http);
    assert_eq!(declared.probe.interval, Duration::from_millis(200));
    assert_eq!(declared.tuning, fairlead_core::model::Tuning::default(), "the defaults are the core's");
}

#[test]
fn a_group_plans_from_what_its_gateways_share() {
    let text = GOOD.replace("  region: r2\n  tunnel", "  group: g\n  region: r1\n  zone: z9\n  tunnel");
    let text = text.replacen("- name: gw1\n", "- name: gw1\n  group: g\n", 1);
    let declared = declarations(&parse(&text, Path::new("f.yaml")).unwrap());
    assert_eq!(declared.here.place, Where::new("r1", "z1", "a"));
    assert_eq!(declared.here.plans_from, Where::new("r1", "", ""));
    // A node that is no gateway plans from where it stands.
    let text =
        GOOD.replace("  name: gw1\n  cluster", "  name: n1\n  cluster").replace("[gateway]", "[receiver]");
    let declared = declarations(&parse(&text, Path::new("f.yaml")).unwrap());
    assert_eq!(declared.here.plans_from, Where::new("r1", "z1", "a"));
    assert_eq!((&*declared.here.group, declared.here.tunnel_v4), ("r1", false));
}

/// Every field of the schema, `clusters[].name` and so on.
fn fields(schema: &Value, path: &str, all: &mut BTreeSet<String>) {
    if let Some(properties) = schema["properties"].as_object() {
        assert_eq!(schema["additionalProperties"], Value::Bool(false), "{path}");
        for (name, schema) in properties {
            assert!(!schema["description"].as_str().unwrap().is_empty(), "{path}.{name} says nothing");
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            fields(schema, &path, all);
            all.insert(path);
        }
    }
    if schema["items"].is_object() {
        fields(&schema["items"], &format!("{path}[]"), all);
    }
}

#[test]
fn the_schema_and_the_parser_agree() {
    let schema = schema();
    jsonschema::meta::validate(&schema).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let path = Path::new("/etc/fairlead/config.yaml");
    let mut config = parse(EXAMPLE, path).unwrap();
    config.state_directory = Some("/state".into());
    config.node.region = Some(types::Name("europe-west1".into()));
    config.node.zone = Some(types::Name("europe-west1-b".into()));
    config.gateways[1].region = config.node.region.clone();
    config.gateways[1].zone = config.node.zone.clone();
    config.gateways[1].group = Some(types::Name("g".into()));
    // Everything that the schema knows stands in this file, holds by both, and means the same.
    let shown = config.show();
    assert!(
        validator.is_valid(&shown),
        "{:?}",
        validator.iter_errors(&shown).map(|e| e.to_string()).collect::<Vec<_>>()
    );
    assert_eq!(parse(&shown.to_string(), path).unwrap(), config);
    let mut known = BTreeSet::new();
    fields(&schema, "", &mut known);
    for field in &known {
        let pointer = format!("/{}", field.replace("[]", "/1").replace('.', "/"));
        assert!(shown.pointer(&pointer).is_some(), "{field} is not in the file");
    }
    let docs = include_str!("../../../docs/configuration.md");
    for field in &known {
        assert!(docs.contains(&format!("| `{field}` |")), "docs/configuration.md doesn't explain {field}");
    }
    for (from, to) in
        [("0x1", "x"), ("podCidrs", "podCIDRs"), ("[gateway]", "[router]"), ("10.2.0.0/16", "x")]
    {
        let text = GOOD.replacen(from, to, 1);
        let node = Objects::single(&text).unwrap();
        let value: Value = crate::yaml::from_node(&node).unwrap();
        assert!(!validator.is_valid(&value), "the schema takes {to}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_file_is_read_only_where_it_may_have_changed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.yaml");
    fs::write(&path, GOOD).unwrap();
    // By its other name it is changed where nobody is told.
    let elsewhere = tempfile::tempdir().unwrap();
    let other_name = elsewhere.path().join("config.yaml");
    fs::hard_link(&path, &other_name).unwrap();
    let began = tokio::time::Instant::now();
    let mut watch = ConfigWatch::new(&path, Arc::new(check(&path).unwrap()));
    // Who waits does something else now and then, as the agent does.
    let tick = Duration::from_millis(250);
    assert!(tokio::time::timeout(tick, watch.next()).await.is_err());
    fs::write(&other_name, GOOD.replace("distance: 10", "distance: 20")).unwrap();
    let reload = loop {
        if let Ok(reload) = tokio::time::timeout(tick, watch.next()).await {
            break reload;
        }
    };
    assert!(matches!(reload, Reload::Applied(_)));
    assert_eq!(began.elapsed().as_secs(), 30, "it is looked at all the same");
}

#[test]
fn what_bounds_the_prober_is_fixed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.yaml");
    fs::write(&path, GOOD).unwrap();
    let mut watch = ConfigWatch::new(&path, Arc::new(check(&path).unwrap()));
    fs::write(&path, format!("{GOOD}probes: {{concurrency: 7, perSecond: 9}}\n")).unwrap();
    let Some(Reload::Refused(problems)) = watch.look() else { panic!("applied") };
    let said: Vec<_> = problems.iter().map(|p| p.field.as_str()).collect();
    assert_eq!(said, ["probes.concurrency", "probes.perSecond"]);
    assert!(problems[0].message.contains("restart"));
}

async fn next(watch: &mut ConfigWatch) -> Reload {
    tokio::time::timeout(Duration::from_secs(10), watch.next()).await.expect("a change is noticed")
}

#[tokio::test]
async fn a_changed_file_is_applied_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.yaml");
    fs::write(&path, GOOD).unwrap();
    let mut watch = ConfigWatch::new(&path, Arc::new(check(&path).unwrap()));

    fs::write(&path, GOOD.replace("distance: 10", "distance: 20")).unwrap();
    let Reload::Applied(config) = next(&mut watch).await else { panic!("refused") };
    assert_eq!(config.distances[0].distance, 20);

    fs::write(&path, GOOD.replace("distance: 10", "distance: 30").replace("0x1", "x")).unwrap();
    let Reload::Refused(problems) = next(&mut watch).await else { panic!("applied") };
    assert_eq!((problems.len(), problems[0].field.as_str(), problems[0].place.line), (1, "seed", 1));

    // As an editor does: written beside it, then renamed.
    let beside = dir.path().join("config.yaml.new");
    fs::write(&beside, GOOD.replace("0x1", "0x2").replace("eth0", "eth1")).unwrap();
    fs::rename(&beside, &path).unwrap();
    let Reload::Refused(problems) = next(&mut watch).await else { panic!("applied") };
    let said: Vec<_> = problems.iter().map(|p| (p.place.line, p.field.as_str())).collect();
    assert_eq!(said, [(1, "seed"), (6, "node.interfaces")]);
    assert!(problems[0].message.contains("restart"));

    fs::remove_file(&path).unwrap();
    let Reload::Refused(problems) = next(&mut watch).await else { panic!("applied") };
    assert!(problems[0].message.starts_with("can't be read"), "{}", problems[0]);

    fs::write(&path, GOOD).unwrap();
    let Reload::Applied(config) = next(&mut watch).await else { panic!("refused") };
    assert_eq!(config.distances[0].distance, 10);
}

#[test]
fn the_seed_is_never_shown() {
    let path = Path::new("/etc/fairlead/config.yaml");
    let with_seed = |seed: &str| GOOD.replacen("seed: 0x1\n", &format!("seed: {seed}\n"), 1);
    for wrong in ["8f3a9c0d1e2b4a57", "0x8f3a9c0d1e2b4a57ff", "[8f3a9c0d1e2b4a57]", "'8f3a9c0d1e2b4a57'"] {
        let problems = parse(&with_seed(wrong), path).unwrap_err();
        let said = format!("{problems:?} {}", problems[0]);
        assert!(said.contains("seed") && !said.contains("8f3a"), "{said}");
    }
    let config = parse(&with_seed("0x7b3"), path).unwrap();
    assert!(!format!("{:?}", config.seed).contains(&0x7b3.to_string()));
}
