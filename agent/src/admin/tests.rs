//! The admin address over real connections, and metrics as text.

use std::io::Read;
use std::net::TcpStream as Client;

use fairlead_abi::{
    Address, BackendCounters, Counter, DropReason, Family, FlowEvent, ServiceCounters, ServiceKey,
};
use fairlead_core::planner::ServiceTable;

use super::reading::{BackendReading, ServiceReading};
use super::*;

/// As an agent with one service says it; written as the file in the state directory has it.
fn status() -> Status {
    let text = r#"{
        "written": {"secs_since_epoch": 1700000000, "nanos_since_epoch": 500000000},
        "pid": 4711, "version": "0.1.0", "abi": 1, "instance": "no-such-instance", "node": "gw-eu-1",
        "roles": ["gateway", "receiver"], "group": "eu", "program": "0011223344556677", "unready": [],
        "interfaces": [{"name": "eth0", "mode": "native", "attached": true, "problem": null}],
        "fingerprint": "aa", "installed_fingerprint": "aa",
        "clusters": [
            {"name": "eu-b", "reachable": true, "shards": 1, "restored": null},
            {"name": "us-a", "reachable": false, "shards": 2,
             "restored": {"secs_since_epoch": 1690000000, "nanos_since_epoch": 0}}
        ],
        "problems": [], "refused": [], "failure": null,
        "usage": [["SERVICES", 2, 32768]],
        "services": [{
            "name": {"namespace": "shop", "name": "web"}, "port_name": "http", "vip": "203.0.113.10", "port": 80,
            "protocol": "tcp", "flags": 0, "ring_hash": 1,
            "backends": [{
                "outer": "10.2.0.1", "endpoint": "10.2.0.1", "port": 8080, "encap": "ipip", "weight": 65535,
                "shard": 0, "pod": "p1", "verdict": "taken"
            }],
            "shards": [{
                "cluster": "eu-b", "distance": "zone", "reachable": true, "endpoints": 1, "ready": 1, "usable": 1,
                "capacity": null, "share": 65536, "state": "serving"
            }],
            "not_taken": []
        }]
    }"#;
    serde_json::from_str(text).unwrap()
}

fn maps(table: &ServiceTable) -> Maps<'_> {
    let key = ServiceKey::new(Address::v4([203, 0, 113, 10]), 80, 6, Family::V4);
    let counters = ServiceCounters { packets: 30, bytes: 4000, connections: 5 };
    let backend = |outer: [u8; 4], wanted, packets| BackendReading {
        service: 0,
        outer: Address::v4(outer),
        wanted,
        counters: BackendCounters { packets, connections: 1 },
    };
    Maps {
        services: vec![ServiceReading { key, table: Some(table), counters }],
        backends: vec![
            backend([10, 2, 0, 1], Some(&table.backends[0]), 20),
            backend([10, 2, 0, 9], None, 10),
        ],
        drops: vec![(DropReason::PortNotServed, Counter { packets: 7, bytes: 420 })],
        events: vec![(FlowEvent::Bounced, 3)],
        memory: vec![("SERVICES", 4096)],
        filled: vec![("FLOWS", 11, 262_144)],
    }
}

fn rendered(reading: &Reading<'_>) -> String {
    let mut text = Vec::new();
    metrics::write(reading, &mut text).unwrap();
    String::from_utf8(text).unwrap()
}

fn samples(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.starts_with('#')).collect()
}

#[test]
fn metrics_have_all_that_the_maps_and_the_agent_say() {
    let status = status();
    let probes =
        health::Snapshot { targets: 3, bad: 1, passed: 100, timed_out: 4, ..health::Snapshot::default() };
    let text = rendered(&Reading {
        status: &status,
        probes,
        asks: &asks::Counters { mine: 9, ..Default::default() },
        fragments: &fragments::Counters { sent_again: 6, ..Default::default() },
        maps: Some(maps(&status.services[0])),
    });
    let web = r#"namespace="shop",service="web",vip="203.0.113.10",port="80",protocol="tcp""#;
    let expected = [
        r#"fairlead_build_info{version="0.1.0",abi="1"} 1"#.to_owned(),
        r#"fairlead_node_info{instance_name="no-such-instance",node="gw-eu-1",group="eu",roles="gateway,receiver"} 1"#
            .to_owned(),
        r#"fairlead_program_info{tag="0011223344556677"} 1"#.to_owned(),
        "fairlead_ready 1".to_owned(),
        "fairlead_state_timestamp_seconds 1700000000.5".to_owned(),
        r#"fairlead_interface_attached{interface="eth0",mode="native"} 1"#.to_owned(),
        r#"fairlead_fingerprint_info{wanted="aa",installed="aa"} 1"#.to_owned(),
        "fairlead_slots_as_planned 1".to_owned(),
        r#"fairlead_cluster_reachable{cluster="eu-b"} 1"#.to_owned(),
        r#"fairlead_cluster_reachable{cluster="us-a"} 0"#.to_owned(),
        r#"fairlead_cluster_shards{cluster="us-a"} 2"#.to_owned(),
        r#"fairlead_cluster_restored_timestamp_seconds{cluster="us-a"} 1690000000"#.to_owned(),
        "fairlead_problems 0".to_owned(),
        "fairlead_notes 0".to_owned(),
        "fairlead_config_problems 0".to_owned(),
        "fairlead_apply_failed 0".to_owned(),
        "fairlead_probe_targets 3".to_owned(),
        "fairlead_probe_targets_bad 1".to_owned(),
        r#"fairlead_probes_total{result="passed"} 100"#.to_owned(),
        r#"fairlead_probes_total{result="timed_out"} 4"#.to_owned(),
        r#"fairlead_map_entries{map="SERVICES"} 2"#.to_owned(),
        r#"fairlead_map_entries{map="FLOWS"} 11"#.to_owned(),
        r#"fairlead_map_capacity_entries{map="SERVICES"} 32768"#.to_owned(),
        r#"fairlead_map_capacity_entries{map="FLOWS"} 262144"#.to_owned(),
        "fairlead_maps_readable 1".to_owned(),
        r#"fairlead_map_memory_bytes{map="SERVICES"} 4096"#.to_owned(),
        format!("fairlead_service_packets_total{{{web}}} 30"),
        format!("fairlead_service_bytes_total{{{web}}} 4000"),
        format!("fairlead_service_connections_total{{{web}}} 5"),
        format!("fairlead_service_endpoints{{{web}}} 1"),
        format!("fairlead_service_endpoints_taken{{{web}}} 1"),
        format!("fairlead_shard_share{{{web},cluster=\"eu-b\"}} 1"),
        format!("fairlead_backend_packets_total{{{web},cluster=\"eu-b\",pod=\"p1\",address=\"10.2.0.1\"}} 20"),
        format!("fairlead_backend_packets_total{{{web},cluster=\"\",pod=\"\",address=\"10.2.0.9\"}} 10"),
        format!("fairlead_backend_connections_total{{{web},cluster=\"eu-b\",pod=\"p1\",address=\"10.2.0.1\"}} 1"),
        r#"fairlead_dropped_packets_total{reason="port_not_served"} 7"#.to_owned(),
        r#"fairlead_dropped_bytes_total{reason="port_not_served"} 420"#.to_owned(),
        r#"fairlead_flow_events_total{event="bounced"} 3"#.to_owned(),
        r#"fairlead_asks_total{what="mine"} 9"#.to_owned(),
        r#"fairlead_early_fragments_total{what="sent_again"} 6"#.to_owned(),
    ];
    let samples = samples(&text);
    for line in &expected {
        assert!(samples.contains(&line.as_str()), "{line} is missing in\n{text}");
    }
}

#[test]
fn families_stand_together_and_each_is_described_once() {
    let status = status();
    let reading = Reading {
        status: &status,
        probes: health::Snapshot::default(),
        asks: &asks::Counters::default(),
        fragments: &fragments::Counters::default(),
        maps: Some(maps(&status.services[0])),
    };
    let text = rendered(&reading);
    let mut family = "";
    let mut seen = std::collections::BTreeSet::new();
    for line in text.lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            family = described.split(' ').next().unwrap();
            assert!(seen.insert(family), "{family} stands twice");
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().unwrap();
            assert_eq!(name, family, "a sample outside its family: {line}");
        }
    }
    let counters = text.lines().filter(|line| line.starts_with("# TYPE") && line.ends_with(" counter"));
    assert!(counters.clone().count() > 5);
    for line in counters {
        assert!(line.ends_with("_total counter"), "{line}");
    }
}

#[test]
fn every_metric_is_documented() {
    let docs = include_str!("../../../docs/metrics.md");
    let status = status();
    let reading = Reading {
        status: &status,
        probes: health::Snapshot::default(),
        asks: &asks::Counters::default(),
        fragments: &fragments::Counters::default(),
        maps: Some(maps(&status.services[0])),
    };
    for line in rendered(&reading).lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let name = line.split(' ').next().unwrap();
        assert!(docs.contains(&format!("`{name}`")), "{name} is not in docs/metrics.md");
    }
}

#[test]
fn who_is_not_ready_says_why() {
    let mut status = status();
    assert_eq!(readyz(&status).status(), StatusCode::OK);
    status.unready = vec!["the programs are not attached to eth0: the interface is gone".to_owned()];
    assert_eq!(readyz(&status).status(), StatusCode::SERVICE_UNAVAILABLE);
}

struct Served {
    address: SocketAddr,
    status: watch::Sender<Arc<Status>>,
}

async fn serve() -> Served {
    let admin = Admin::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let address = admin.address().unwrap();
    let (status, seen) = watch::channel(Arc::new(status()));
    let (_, asks) = watch::channel(asks::Counters::default());
    let (_, fragments) = watch::channel(fragments::Counters::default());
    tokio::spawn(admin.serve(seen, Arc::default(), (asks, fragments)));
    Served { address, status }
}

/// Sends a request and returns all that is answered until the end of the connection.
async fn ask(address: SocketAddr, request: &'static str) -> String {
    let asking = tokio::task::spawn_blocking(move || {
        let mut client = Client::connect(address).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        client.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        answer
    });
    asking.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_are_answered() {
    let served = serve().await;
    let live = ask(served.address, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(live.starts_with("HTTP/1.1 200 OK\r\n") && live.ends_with("\r\n\r\nalive\n"), "{live}");
    let ready = ask(served.address, "GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(ready.starts_with("HTTP/1.1 200 OK\r\n") && ready.ends_with("ready\n"), "{ready}");
    served
        .status
        .send_modify(|status| Arc::make_mut(status).unready = vec!["no tables were planned yet".to_owned()]);
    let unready = ask(served.address, "GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(unready.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{unready}");
    assert!(unready.ends_with("\r\n\r\nno tables were planned yet\n"), "{unready}");
    assert!(ask(served.address, "GET /x HTTP/1.1\r\nHost: x\r\n\r\n").await.starts_with("HTTP/1.1 404"));
    assert!(ask(served.address, "PUT /readyz HTTP/1.1\r\nHost: x\r\n\r\n").await.starts_with("HTTP/1.1 405"));
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_answered_also_where_there_are_no_maps() {
    let served = serve().await;
    let answer = ask(served.address, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{answer}");
    assert!(
        answer.contains("fairlead_ready 1\n") && answer.contains("fairlead_maps_readable 0\n"),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_are_cut_off_and_keep_nobody_out() {
    let served = serve().await;
    let slow: Vec<Client> = (0..CONNECTIONS)
        .map(|_| {
            let mut client = Client::connect(served.address).unwrap();
            client.write_all(b"GET /livez HT").unwrap();
            client
        })
        .collect();
    let began = Instant::now();
    let live = ask(served.address, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(live.ends_with("alive\n"), "{live}");
    assert!(began.elapsed() < 3 * HEAD_WITHIN, "{:?}", began.elapsed());
    drop(slow);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_too_large_is_refused() {
    let served = serve().await;
    let large: &'static str =
        Box::leak(format!("GET /livez HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "a".repeat(HEAD_BYTES)).into());
    let answer = ask(served.address, large).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
}
