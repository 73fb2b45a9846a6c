//! The example, the schema, and what the core is told.

mod changes;
mod mistakes;
mod together;

use std::collections::BTreeSet;
use std::time::Duration;

use fairlead_core::model::{Place as Where, ProbeKind};
use serde_json::Value;

use super::*;
use crate::config::types::ClusterConfig;
use crate::federation::{Access, Origin};

const EXAMPLE: &str = include_str!("../../../../deploy/config.example.yaml");

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

#[test]
fn the_example_holds_and_says_what_it_should() {
    let config = parse(EXAMPLE, Path::new("/etc/fairlead/config.yaml")).unwrap();
    let kubeconfig = Access::Kubeconfig { path: "/etc/fairlead/kubeconfigs/us-a".into(), context: None };
    let origins: Vec<Origin> = config.clusters.iter().map(ClusterConfig::origin).collect();
    assert_eq!(origins[0], Origin::Kubernetes(kubeconfig));
    assert_eq!(origins[1], Origin::Kubernetes(Access::InCluster));
    assert_eq!(origins[2], Origin::Manifests("/etc/fairlead/manifests/asia-a".into()));
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

/// A line that is an option when its `# ` is taken away.
fn uncommented(line: &str) -> String {
    let Some((before, after)) = line.split_once("# ") else { return line.to_owned() };
    let word = after.trim_start();
    let name = word.split(':').next().unwrap_or_default();
    let is_option = before.trim().is_empty()
        && (word.starts_with(&format!("{name}: ")) || word == format!("{name}:"))
        && name.chars().all(char::is_alphanumeric);
    if is_option { format!("{before}{after}") } else { line.to_owned() }
}

#[test]
fn the_example_has_every_field_with_its_default() {
    let path = Path::new("/etc/fairlead/config.yaml");
    let text: String = EXAMPLE.lines().map(|line| uncommented(line) + "\n").collect();
    let config = parse(&text, path).unwrap();
    let example = parse(EXAMPLE, path).unwrap();
    assert_eq!(declarations(&config), declarations(&example), "what stands behind # changes nothing");
    assert_eq!(config.state_directory(), example.state_directory());
    let numbers = |config: &Config| (config.capacities.clone(), config.probes.clone(), config.admin.clone());
    assert_eq!(numbers(&config), numbers(&example));
    let value: Value = crate::yaml::from_node(&Objects::single(&text).unwrap()).unwrap();
    let mut known = BTreeSet::new();
    fields(&schema(), "", &mut known);
    for field in &known {
        assert!((0..3).any(|index| has(&value, field, index)), "{field} is not in the example");
    }
}

/// Whether a field stands in `value`, where it is one of a list's elements in that with this number.
fn has(value: &Value, field: &str, index: usize) -> bool {
    let pointer = format!("/{}", field.replace("[]", &format!("/{index}")).replace('.', "/"));
    value.pointer(&pointer).is_some()
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
    config.secrets_file = Some("/secrets".into());
    config.clusters[0].context = Some("us-a".into());
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
        assert!((0..3).any(|index| has(&shown, field, index)), "{field} is not in the file");
    }
    let docs = include_str!("../../../../docs/configuration.md");
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

#[test]
fn any_tunnel_carries_the_smallest_packet_of_ipv6() {
    use fairlead_abi::{Encap, Family, overhead};
    let schema = schema();
    let least = &schema["properties"]["tunnel"]["properties"]["mtu"]["minimum"];
    assert_eq!(*least, 1280 + overhead(Encap::Gue, Family::V6), "the widest outer headers");
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
    let missing = |problems: Vec<ConfigProblem>| problems[0].message.clone();
    let advised = missing(check(&path).unwrap_err());
    assert!(advised.starts_with("can't be read: No such file"), "{advised}");
    assert!(advised.ends_with("; --config or FAIRLEAD_CONFIG names another file"), "{advised}");
    assert_eq!(
        missing(check_other(&path).unwrap_err()),
        advised.split_once("; ").unwrap().0,
        "no --config names it"
    );
    std::fs::write(&path, [0xff, 0xfe, 0x00]).unwrap();
    assert!(check(&path).unwrap_err()[0].message.contains("it is not text in UTF-8"));
    std::fs::remove_file(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let pipe = check(&path).unwrap_err()[0].message.clone();
    assert!(pipe.contains("it is a pipe, a socket or a device, not a file"), "{pipe}");
}
