//! The world itself, with plain kernel routing and without fairlead: what it promises to the tests that use it.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "world/ends.rs"]
mod ends;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use fairlead_tests::client::Client;
use fairlead_tests::load::{Load, Mix, Target};
use fairlead_tests::world::{HTTP_PORT, Plan, Pod, UDP_PORT, World, bpf_elf};

fn url(address: IpAddr, path: &str) -> String {
    format!("http://{}{path}", SocketAddr::new(address, HTTP_PORT))
}

/// Whether the pod answers the client over both families and both protocols.
fn answers(client: &Client, pod: &Pod) -> bool {
    pod.addresses().iter().all(|&address| {
        let http = client.get(&url(address, "/")).is_ok_and(|answer| answer.text().contains(pod.name()));
        let udp = client.datagram(SocketAddr::new(address, UDP_PORT), b"ahoy");
        http && udp.is_ok_and(|answer| answer.ends_with(b"ahoy"))
    })
}

#[test]
fn a_client_reaches_nginx_and_echo_in_every_pod() {
    let world = World::build(&Plan::small()).unwrap();
    let client = world.client("us-central1");
    assert_eq!(world.pods().len(), 2);
    for pod in world.pods() {
        for address in pod.addresses() {
            let identity = format!("zone=us-central1-a cluster=us-central1-a pod={}\n", pod.name());
            let answer = client.get(&url(address, "/")).unwrap();
            assert_eq!((answer.status, answer.text()), (200, identity.clone()));

            let echo = client.datagram(SocketAddr::new(address, UDP_PORT), b"ahoy").unwrap();
            assert_eq!(String::from_utf8(echo).unwrap(), identity + "ahoy");
        }
    }
}

#[test]
fn downloads_and_uploads_are_whole() {
    let world = World::build(&Plan::small()).unwrap();
    let client = world.client("us-central1");
    let pattern: Vec<u8> = (0..=u8::MAX).cycle().take(1_048_576).collect();
    for address in world.pods()[0].addresses() {
        assert_eq!(client.get(&url(address, "/bytes/1048576")).unwrap().body, pattern);
        let answer = client.post(&url(address, "/upload"), &pattern).unwrap();
        assert_eq!(answer.status, 200);
        assert!(answer.text().ends_with("received=1048576\n"), "{}", answer.text());
    }
}

#[test]
fn a_pod_is_killed_and_started_again() {
    let world = World::build(&Plan::small()).unwrap();
    let client = world.client("us-central1");
    let pod = world.pod("pod-us-central1-a-1");
    pod.kill().unwrap();
    for address in pod.addresses() {
        let error = client.get(&url(address, "/")).unwrap_err();
        assert!(format!("{error:#}").ends_with("refused"), "{error:#}");
        let error = client.datagram(SocketAddr::new(address, UDP_PORT), b"ahoy").unwrap_err();
        assert!(format!("{error:#}").ends_with("refused"), "{error:#}");
    }
    assert!(answers(client, world.pod("pod-us-central1-a-2")));
    pod.start_again().unwrap();
    assert!(answers(client, pod));
}

#[test]
fn health_is_what_the_test_says() {
    let world = World::build(&Plan::small()).unwrap();
    let (client, pod) = (world.client("us-central1"), &world.pods()[0]);
    let status = || client.get(&url(pod.addresses()[0], "/healthz")).unwrap().status;
    assert_eq!(status(), 200);
    pod.set_healthy(false).unwrap();
    assert_eq!(status(), 503);
    pod.set_healthy(true).unwrap();
    assert_eq!(status(), 200);
}

#[test]
fn links_are_cut_and_brought_back() {
    let plan = Plan::default().region("us-central1", &["a"], 1).nodes(2).region("europe-west1", &["b"], 1);
    let world = World::build(&plan).unwrap();
    let client = world.client("europe-west1");
    let reached = || -> BTreeSet<&str> {
        let within = Duration::from_millis(300);
        let serves = |pod: &&Pod| {
            pod.addresses()
                .iter()
                .all(|&ip| client.namespace.connects(SocketAddr::new(ip, HTTP_PORT), within))
        };
        world.pods().iter().filter(serves).map(|pod| pod.name()).collect()
    };
    let all = BTreeSet::from(["pod-us-central1-a-1", "pod-us-central1-a-2", "pod-europe-west1-b-1"]);
    assert_eq!(reached(), all);
    world.cut("node-us-central1-a-2").unwrap();
    assert_eq!(reached(), BTreeSet::from(["pod-us-central1-a-1", "pod-europe-west1-b-1"]));
    world.cut("us-central1").unwrap();
    assert_eq!(reached(), BTreeSet::from(["pod-europe-west1-b-1"]));
    world.restore("us-central1").unwrap();
    assert_eq!(reached(), all);
    world.lose("us-central1-a", 100).unwrap();
    assert_eq!(reached(), BTreeSet::from(["pod-europe-west1-b-1"]));
    world.lose("us-central1-a", 0).unwrap();
    assert_eq!(reached(), all);
}

/// Packets to a VIP that have reached a gateway, by its address counters: nobody answers them here.
fn arrived(world: &World, gateway: &str) -> u64 {
    let rules = world.namespace(gateway).unwrap().command("nft", &["-j", "list", "counters"]).unwrap();
    let counters: serde_json::Value = serde_json::from_str(&rules).unwrap();
    let each = counters["nftables"].as_array().unwrap().iter();
    each.filter_map(|entry| entry["counter"]["packets"].as_u64()).sum()
}

#[test]
fn vip_traffic_enters_where_the_router_is_told() {
    let plan = Plan::default().region("us-central1", &[], 0).gateways(2).region("europe-west1", &[], 0);
    let world = World::build(&plan).unwrap();
    let (us1, us2, europe) = ("gateway-us-central1-1", "gateway-us-central1-2", "gateway-europe-west1-1");
    for gateway in [us1, us2, europe] {
        let count = "table inet count {
            counter vips {
            }
            chain input {
                type filter hook prerouting priority 0;
                ip daddr 203.0.113.0/24 counter name vips drop
                ip6 daddr 2001:db8:f::/64 counter name vips drop
            }
            }";
        world.namespace(gateway).unwrap().command("nft", &[count]).unwrap();
    }
    let seen = || [us1, us2, europe].map(|gateway| arrived(&world, gateway));
    // 32 flows of one packet each; a second SYN would come after a second.
    let send = || {
        let before = seen();
        world
            .client("us-central1")
            .namespace
            .run(|| {
                for vip in ["203.0.113.1:80", "[2001:db8:f::1]:80"] {
                    for _ in 0..16 {
                        let any = if vip.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
                        let _ = std::net::UdpSocket::bind(any)?.send_to(b"x", vip);
                    }
                }
                Ok(())
            })
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(2);
        while seen().iter().sum::<u64>() < before.iter().sum::<u64>() + 32 && Instant::now() < deadline {}
        let after = seen();
        [0, 1, 2].map(|number| after[number] - before[number])
    };

    let [one, two, other] = send();
    assert_eq!((one + two, other), (32, 0));
    assert!(one > 4 && two > 4, "ECMP by flow: {one} and {two}");

    world.route_vip("us-central1", &[us2]).unwrap();
    assert_eq!(send(), [0, 32, 0]);
    world.route_vip("client-us-central1-1", &[europe]).unwrap();
    assert_eq!(send(), [0, 0, 32]);
    world.route_vip("us-central1", &[us1, us2]).unwrap();
    world.cut(us1).unwrap();
    assert_eq!(send(), [0, 32, 0]);
    world.cut(us2).unwrap();
    let unreachable = world.client("us-central1").get("http://203.0.113.1/").unwrap_err();
    assert!(format!("{unreachable:#}").ends_with("unreachable"), "{unreachable:#}");
    let unreachable = world.client("us-central1").get("http://[2001:db8:f::1]/").unwrap_err();
    assert!(format!("{unreachable:#}").ends_with("unreachable"), "{unreachable:#}");
    world.restore(us1).unwrap();
    world.restore(us2).unwrap();
    let [one, two, other] = send();
    assert_eq!((one + two, other), (32, 0));
    assert!(one > 4 && two > 4, "ECMP by flow: {one} and {two}");
}

#[test]
fn the_largest_world_of_the_demo_is_up_within_seconds() {
    let began = Instant::now();
    let world = World::build(&Plan::three_regions()).unwrap();
    let took = began.elapsed();
    println!("1 router, 3 gateways, 9 nodes, 27 pods, 3 clients: {took:?}");
    for client in world.clients() {
        assert!(answers(client, world.pod("pod-asia-east1-c-3")));
    }
    // 1 s on an idle machine of two cores; others may run beside us.
    assert!(took < Duration::from_secs(15), "{took:?}");
    let began = Instant::now();
    drop(world);
    println!("removed in {:?}", began.elapsed());
}

#[test]
fn a_load_counts_what_a_killed_pod_costs() {
    let world = World::build(&Plan::small()).unwrap();
    let pod = &world.pods()[0];
    let target =
        Target { v4: pod.seat.address.0, v6: pod.seat.address.1, http_port: HTTP_PORT, udp_port: UDP_PORT };
    let load = Load::start(world.clients(), target, Mix::default()).unwrap();
    let wait_for = |requests: usize| {
        let first = load.requests_from(0).len();
        while load.requests_from(first).len() < requests {
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    load.event("quiet");
    wait_for(60);
    load.event("pod");
    pod.kill().unwrap();
    wait_for(60);
    load.event("pod_back");
    pod.start_again().unwrap();
    wait_for(60);
    let record = load.stop().unwrap();

    let [quiet, killed, back] = record.per_event().try_into().unwrap();
    assert!(quiet.requests >= 60, "{quiet:?}");
    assert_eq!((quiet.failed, quiet.recovery_ms), (0, 0), "{quiet:?}");
    assert_eq!(quiet.answers.len(), 1);
    assert!(killed.failed >= 59, "{killed:?}");
    assert!(killed.failed_after_recovery > 0, "nothing took over: {killed:?}");
    assert_eq!(back.failed_after_recovery, 0, "{back:?}");
    assert!(back.recovery_ms < 1_000, "{back:?}");
    let broken = record
        .requests
        .iter()
        .filter(|request| request.before.is_some() && request.broke_connection())
        .count();
    assert_eq!(broken, 8, "four kept connections of each family");
}

#[test]
fn a_link_can_have_the_program_that_passes_everything() {
    let world = World::build(&Plan::small()).unwrap();
    let hosts = ["gateway-us-central1-1", "node-us-central1-a-1"];
    world.attach_pass(&bpf_elf().unwrap(), &hosts).unwrap();
    let links = world.router.namespace.command("ip", &["-o", "link"]).unwrap();
    let with_xdp: Vec<_> = links.lines().filter(|line| line.contains(" xdp ")).collect();
    assert_eq!(with_xdp.len(), 2, "{links}");
    assert!(with_xdp.iter().all(|line| line.contains(": g0@") || line.contains(": n0@")), "{links}");
    assert!(answers(world.client("us-central1"), &world.pods()[0]));
    let pin = format!("/sys/fs/bpf/{}-pass", world.id());
    assert!(!std::path::Path::new(&pin).exists(), "the link keeps the program, not {pin}");
}

#[test]
fn the_bench_writes_one_json_document() {
    let programs = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bpf/bench.bpf.o");
    let bench = Command::new(env!("CARGO_BIN_EXE_fairlead-bench"))
        .args(["--elf", programs, "--quick", "--part", "packets", "--services", "1", "--case", "udp4"])
        .args(["-o", "json"])
        .output()
        .unwrap();
    assert!(bench.status.success(), "{}", String::from_utf8_lossy(&bench.stderr));
    let document: serde_json::Value = serde_json::from_slice(&bench.stdout).unwrap();
    let rows = document["packets"].as_array().unwrap();
    assert!(!rows.is_empty(), "{document}");
    for row in rows {
        assert_eq!((&row["case"], &row["services"]), (&"udp4".into(), &1.into()), "{row}");
        let number = |name: &str| row[name].as_f64().unwrap();
        assert!(number("ns_median") >= number("ns_min") && number("floor_ns_min") > 0.0, "{row}");
        assert!(number("ratio_min") > 0.0 && number("flows") >= 1.0 && number("busy") == 1.0, "{row}");
    }
    assert!(document["live"].is_array() && document["control"].is_array(), "{document}");
}
