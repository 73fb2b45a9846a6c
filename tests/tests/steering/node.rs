//! What happens to a node's interfaces, neighbours and routes while its agent runs.

use std::path::Path;
use std::time::Duration;

use fairlead_tests::load::Load;
use fairlead_tests::world::{Federation, Host, Namespace, PINS, Plan, bpf_elf};
use serde_json::json;

use crate::served::{NEW_ONLY, PATIENCE, Served, assert_nothing_failed, failures, wait, wait_for_requests};

fn gateway(served: &Served) -> &Host {
    &served.world.layout.gateways[0]
}

/// Both ends of the first gateway's link: its own namespace, and the router's with the interface there.
fn uplink(served: &Served) -> (&Namespace, &Namespace, &str) {
    let host = gateway(served);
    let own = served.world.namespace(&host.name).unwrap();
    (own, &served.world.router.namespace, &host.uplink.router_interface)
}

/// A small world that serves, and clients that ask all the time.
fn under_load() -> (Served, Load) {
    let served = Served::build(&Plan::small(), &Federation::default());
    served.wait_until_served();
    let load = served.load(NEW_ONLY);
    wait_for_requests(&load, 30);
    (served, load)
}

#[test]
fn an_interface_that_vanishes_and_returns_is_attached_again() {
    let served = Served::build(&Plan::small(), &Federation::default());
    served.wait_until_served();
    let host = gateway(&served);
    let own = served.world.namespace(&host.name).unwrap();
    own.ip(&["link del dev eth0".to_owned()]).unwrap();
    served.wait_for_status("word of it", |status| {
        status["ready"] == false && status["interfaces"][0]["problem"] == "the interface is gone"
    });
    assert!(!served.gateway().is_ready());
    served.world.remake_link(&host.name).unwrap();
    served.world.attach_pass(&bpf_elf().unwrap(), &[&host.name]).unwrap();
    served.wait_for_status("the interface's return", |status| {
        status["ready"] == true && status["interfaces"][0]["attached"] == true
    });
    served.wait_until_served();
    assert_eq!(served.answering(), served.pods());
    assert_eq!(served.gateway().ask(&["plan"]).unwrap()["refused"], json!(null));
}

#[test]
fn the_interface_of_a_node_vanishes_and_returns() {
    let served = Served::build(&Plan::small(), &Federation::default());
    served.wait_until_served();
    let node = served.node(0);
    served.world.namespace(node.host()).unwrap().ip(&["link del dev eth0".to_owned()]).unwrap();
    wait("unreadiness", || !node.is_ready());
    served.world.remake_link(node.host()).unwrap();
    served.world.attach_pass(&bpf_elf().unwrap(), &[node.host()]).unwrap();
    node.wait_until_ready(PATIENCE).unwrap();
    served.wait_until_served();
    wait("all pods", || served.is_served_by(&served.service, &served.pods()));
}

#[test]
fn a_strangers_program_is_neither_replaced_nor_hidden() {
    let served = Served::build(&Plan::small(), &Federation::default());
    served.wait_until_served();
    let agent = served.gateway();
    agent.process().kill().unwrap();
    agent.remove_pins().unwrap();
    let own = served.world.namespace(agent.host()).unwrap();
    let attached = || {
        let link = own.command("ip", &["-d", "link", "show", "dev", "eth0"]).unwrap();
        link.split_once("prog/xdp id ").map(|(_, rest)| rest.split(' ').next().unwrap().to_owned())
    };
    wait("a free interface", || attached().is_none());
    served.world.attach_strangers_program(&bpf_elf().unwrap(), agent.host()).unwrap();
    let id = attached().expect("it is attached");
    agent.process().start_again().unwrap();
    let ended = agent.process().wait(Duration::from_secs(10)).unwrap();
    assert_eq!(ended.code(), Some(1));
    let log = agent.process().log();
    let last = log.lines().last().unwrap_or_default();
    for words in ["interface eth0", "another XDP program is attached", "bpftool net show dev eth0"] {
        assert!(last.contains(words), "{last}");
    }
    assert!(!agent.is_ready());
    assert_eq!(attached(), Some(id), "the stranger's program stays");
    assert!(!Path::new(PINS).join(agent.instance()).exists(), "it leaves nothing behind that it has loaded");
}

#[test]
fn generic_mode_serves_and_is_warned_of() {
    let federation = Federation { xdp_mode: "generic".to_owned(), ..Federation::default() };
    let served = Served::build(&Plan::small(), &federation);
    served.wait_until_served();
    assert_eq!(served.answering(), served.pods());
    for agent in served.agents.iter() {
        let links =
            served.world.namespace(agent.host()).unwrap().command("ip", &["link", "show", "dev", "eth0"]);
        assert!(links.as_ref().unwrap().contains(" xdpgeneric "), "{links:?}");
        let log = agent.process().log();
        let is_warning = |line: &str| {
            line.contains(" WARN ") && line.contains("generic XDP mode") && line.contains("eth0")
        };
        assert!(log.lines().any(is_warning), "{log}");
        assert_eq!(agent.ask(&["status"]).unwrap()["interfaces"][0]["mode"], "generic");
    }
    // Who didn't ask for it has native mode, and no warning: the agents of all other tests, as here of one.
    let served = Served::build(&Plan::small(), &Federation::default());
    assert_eq!(served.gateway().ask(&["status"]).unwrap()["interfaces"][0]["mode"], "native");
    assert!(!served.gateway().process().log().contains("generic"));
}

#[test]
fn next_hops_follow_neighbours_and_routes() {
    let (served, load) = under_load();
    let (own, router, interface) = uplink(&served);
    // The router gets another MAC address, and says so as routers do when they take over from each other.
    load.event("neighbour");
    router.sysctl(&format!("ipv4/conf/{interface}/arp_notify"), "1").unwrap();
    router.sysctl(&format!("ipv6/conf/{interface}/ndisc_notify"), "1").unwrap();
    router.ip(&[format!("link set dev {interface} address 02:00:5e:00:00:01")]).unwrap();
    assert_recovers(&load);
    // Another next hop on the same link: by another address of the router.
    let other = "198.51.100.200";
    router.ip(&[format!("addr add {other}/32 dev {interface}")]).unwrap();
    load.event("route");
    for pod in served.world.pods() {
        own.ip(&[format!("route add {}/32 via {other} dev eth0 onlink", pod.seat.address.0)]).unwrap();
    }
    assert_recovers(&load);
    load.event("route_back");
    for pod in served.world.pods() {
        own.ip(&[format!("route del {}/32", pod.seat.address.0)]).unwrap();
    }
    assert_recovers(&load);
    let record = load.stop().unwrap();
    for report in record.per_event() {
        assert_eq!(report.failed_after_recovery, 0, "{report:?}: {:?}", failures(&record));
    }
}

#[test]
fn endpoints_behind_another_interface() {
    let served = Served::build(&Plan::small(), &Federation::default());
    served.wait_until_served();
    let (own, router, _) = uplink(&served);
    let (outer, inner) = (router.name(), own.name());
    router
        .ip(&[
            format!("link add second netns {outer} type veth peer name eth1 netns {inner}"),
            "addr add 198.51.100.200/31 dev second".to_owned(),
            "addr add 2001:db8:200:ff::1/64 dev second nodad".to_owned(),
            "link set dev second up".to_owned(),
        ])
        .unwrap();
    // Without it nothing takes what XDP sends over a veth.
    router.command("ethtool", &["-K", "second", "gro", "on"]).unwrap();
    let mut lines = vec![
        "addr add 198.51.100.201/31 dev eth1".to_owned(),
        "addr add 2001:db8:200:ff::2/64 dev eth1 nodad".to_owned(),
        "link set dev eth1 up".to_owned(),
    ];
    for pod in served.world.pods() {
        let (v4, v6) = pod.seat.address;
        lines.push(format!("route add {v4}/32 via 198.51.100.200"));
        lines.push(format!("route add {v6}/128 via 2001:db8:200:ff::1"));
    }
    own.ip(&lines).unwrap();
    let came_in = || {
        let devices = router.command("cat", &["/proc/net/dev"]).unwrap();
        let counts = devices.lines().find_map(|line| line.trim().strip_prefix("second:")).unwrap();
        counts.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    wait("the other way", || served.is_served_by(&served.service, &served.pods()) && came_in() > 500);
    let load = served.load(NEW_ONLY);
    wait_for_requests(&load, 120);
    assert_nothing_failed(load);
}

#[test]
fn a_forgotten_neighbour_is_used_while_it_is_asked() {
    let (served, load) = under_load();
    let (own, router, interface) = uplink(&served);
    // The router's answer takes longer than the kernel needs to forget, and less than it asks.
    router.sysctl(&format!("ipv4/conf/{interface}/arp_ignore"), "8").unwrap();
    own.ip(&["neigh flush dev eth0".to_owned()]).unwrap();
    assert_recovers(&load);
    router.sysctl(&format!("ipv4/conf/{interface}/arp_ignore"), "0").unwrap();
    assert_recovers(&load);
    let record = load.stop().unwrap();
    assert_eq!(failures(&record), [""; 0], "not one request is lost");
}

/// Waits until requests that began more than a second later have ended.
fn assert_recovers(load: &Load) {
    let then = load.now() + Duration::from_millis(1_300);
    wait("later requests", || load.requests_from(0).iter().any(|request| request.started > then));
    wait_for_requests(load, 40);
}
