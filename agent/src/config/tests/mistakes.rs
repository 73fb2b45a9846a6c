//! Rows of input and what the file's author is told.

use super::super::*;
use super::GOOD;

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
            "1:7: seed: what stands here is not a number of 64 bits: write 0x and up to 16 hexadecimal digits, as `echo 0x$(openssl rand -hex 8)` prints",
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
            "10.2.0.0/16",
            "0.0.0.0/0",
            "16:14: clusters[1].podCidrs[0]: 0.0.0.0/0 holds all addresses of IPv4: write those that are meant",
        ),
        (
            "10.2.0.0/16",
            "\"::/0\"",
            "16:14: clusters[1].podCidrs[0]: ::/0 holds all addresses of IPv6: write those that are meant",
        ),
        (
            "10.2.0.0/16",
            "0.0.0.0/1",
            "16:14: clusters[1].podCidrs[0]: 0.0.0.0/1 holds addresses that no host has, such as 0.0.0.0",
        ),
        (
            "192.0.2.16/28",
            "\"::/0\"",
            "24:12: gateways[1].tunnel[0]: ::/0 holds all addresses of IPv6: write those that are meant",
        ),
        ("192.0.2.16/28", "0.0.0.0", "24:12: gateways[1].tunnel[0]: 0.0.0.0/32 has no addresses of hosts"),
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
            "  manifests: b\n",
            "",
            "13:3: clusters[1]: where are its objects? Give kubeconfig, the file that leads to its API server; or inCluster: \
             true; or manifests, a directory",
        ),
        (
            "  manifests: b",
            "  manifests: b\n  inCluster: true",
            "17:14: clusters[1].manifests: stands beside inCluster, and only one can count: remove one of them",
        ),
        (
            "  manifests: b",
            "  manifests: b\n  context: b",
            "18:12: clusters[1].context: is a name in a kubeconfig: give kubeconfig too, or remove this",
        ),
        (
            "  manifests: a\n- name: b\n  region: r2\n  zone: z2\n  podCidrs: [10.2.0.0/16]\n  manifests: b",
            "  kubeconfig: k\n- name: b\n  region: r2\n  zone: z2\n  podCidrs: [10.2.0.0/16]\n  kubeconfig: k",
            "17:15: clusters[1].kubeconfig: cluster a has the same API server: each needs its own",
        ),
        ("  manifests: b", "  inCluster: 1", "17:14: clusters[1].inCluster: expected true or false, found 1"),
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
            "limits: {asksPerPrefix: 51, asksPerSecond: 50}\n",
            "29:25: limits.asksPerPrefix: 51 is more than asksPerSecond, 50, which all prefixes share: lower it",
        ),
        (
            "",
            "limits: {bouncesInAll: 19999}\n",
            "29:9: limits.bouncesPerPrefix: 20000 is more than bouncesInAll, 19999, which all prefixes share: lower it",
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
            "capacities: {gateways: 1}\n",
            "29:24: capacities.gateways: too few for the tunnel addresses of all gateways: 2 or more",
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
        ("", "tunnel: {mtu: 70000}\n", "29:15: tunnel.mtu: 70000 is not between 1328 and 65535"),
        ("", "tunnel: {mtu: -1}\n", "29:15: tunnel.mtu: -1 is not between 1328 and 65535"),
        (
            "",
            "admin: {address: localhost}\n",
            "29:18: admin.address: \"localhost\" is not an address and port: write such as 127.0.0.1:9440 or [::1]:9440",
        ),
        ("", "unservedPorts: reject\n", "29:16: unservedPorts: \"reject\" is none of drop, pass"),
        (
            "",
            "weather: fine\n",
            "29:1: weather: unknown field; there are instance, stateDirectory, admin, seed, secretsFile, node, clusters, gateways, vipPools, distances, probes, planner, tunnel, unservedPorts, icmpPerSecond, limits, capacities",
        ),
        ("", "seed: 0x2\n", "29:1: \"seed\" stands twice in this mapping"),
        ("", "---\nseed: 0x2\n", "30:1: a second document: there can be only one"),
    ];
    for (from, to, expected) in rows {
        assert_eq!(said(from, to), [format!("f.yaml:{expected}")], "{from:?} to {to:?}");
    }
}
