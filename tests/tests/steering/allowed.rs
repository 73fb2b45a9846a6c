//! `loadBalancerSourceRanges`, as clients meet it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use fairlead_tests::client::Client;
use fairlead_tests::world::{Agent, Federation, Plan, ServiceSpec};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::served::{PATIENCE, Served, wait};

/// How long a packet that is dropped is waited for.
const SHORT: Duration = Duration::from_millis(300);

fn build(federation: &Federation) -> Served {
    Served::build(&Plan::small().clients(2), federation)
}

/// The service, which lets these addresses in.
fn allowing(service: &ServiceSpec, addresses: impl IntoIterator<Item = IpAddr>) -> ServiceSpec {
    let range = |address: IpAddr| format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 });
    ServiceSpec { source_ranges: addresses.into_iter().map(range).collect(), ..service.clone() }
}

/// At which VIPs and ports a client is served.
fn served_at(client: &Client, service: &ServiceSpec) -> Vec<SocketAddr> {
    let http = |vip: &IpAddr| SocketAddr::new(*vip, service.http_port);
    let echo = |vip: &IpAddr| SocketAddr::new(*vip, service.udp_port);
    let over_tcp = service.vips.iter().map(http).filter(|to| client.namespace.connects(*to, SHORT));
    let over_udp = service.vips.iter().map(echo).filter(|to| answers(client, *to));
    over_tcp.chain(over_udp).collect()
}

/// Whether the echo answers one of two datagrams.
fn answers(client: &Client, to: SocketAddr) -> bool {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let ask = || {
        let socket = std::net::UdpSocket::bind((any, 0))?;
        socket.set_read_timeout(Some(SHORT))?;
        socket.connect(to)?;
        socket.send(b"?")?;
        Ok(socket.recv(&mut [0; 1500]).is_ok())
    };
    client.namespace.run(ask).unwrap() || client.namespace.run(ask).unwrap()
}

/// A connection on which requests follow each other.
fn open(client: &Client, to: SocketAddr) -> TcpStream {
    let stream = client.namespace.run(|| Ok(TcpStream::connect(to)?)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

fn request(mut stream: &TcpStream) {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: vip\r\n\r\n").unwrap();
}

/// Whether an answer comes in time.
fn answered(mut stream: &TcpStream, within: Duration) -> bool {
    stream.set_read_timeout(Some(within)).unwrap();
    stream.read(&mut [0; 4096]).is_ok_and(|length| length > 0)
}

fn refused_packets(agent: &Agent) -> u64 {
    let counters = agent.ask(&["counters", "--all"]).unwrap();
    let drops = counters["drops"].as_array().unwrap().iter();
    drops.filter(|row| row["reason"] == "not_allowed").map(|row| row["packets"].as_u64().unwrap()).sum()
}

fn restart(agent: &Agent, change: impl Fn()) {
    agent.process().signal(Signal::SIGTERM).unwrap();
    assert_eq!(agent.process().wait(PATIENCE).unwrap().code(), Some(0));
    change();
    agent.process().start_again().unwrap();
}

#[test]
fn who_is_not_allowed_is_refused_whatever_connections_he_has() {
    let served = build(&Federation::default());
    served.wait_until_served();
    let [first, second] = served.world.clients() else { panic!("two clients") };
    let (agent, manifests) = (served.gateway(), served.world.manifests("us-central1-a"));
    let service = &served.service;
    assert_eq!((served_at(first, service).len(), served_at(second, service).len()), (4, 4));
    let kept: Vec<TcpStream> =
        service.vips.iter().map(|&vip| open(first, SocketAddr::new(vip, service.http_port))).collect();
    for stream in &kept {
        request(stream);
        assert!(answered(stream, PATIENCE));
    }
    assert_eq!(refused_packets(agent), 0);

    manifests.add_service(&allowing(service, second.addresses())).unwrap();
    wait("the ranges", || served_at(first, service).is_empty());
    assert_eq!(served_at(second, service).len(), 4);
    for stream in &kept {
        request(stream);
        assert!(!answered(stream, SHORT), "its connection is cut");
    }
    assert!(refused_packets(agent) > 8);
    for (number, vip) in service.vips.iter().enumerate() {
        let vip = SocketAddr::new(*vip, service.http_port).to_string();
        let told = |client: &Client| {
            let client = SocketAddr::new(client.addresses()[number], 40_000).to_string();
            agent.ask(&["explain", &client, &vip]).unwrap()
        };
        assert_eq!(told(first)["drop"]["reason"], "not_allowed");
        let allowed = told(second);
        assert_eq!(allowed["drop"], Value::Null, "{allowed:#}");
        let range = format!("{}/{}", second.addresses()[number], if number == 0 { 32 } else { 128 });
        assert_eq!(allowed["allowed"], json!([range]));
    }
    let rows = agent.ask(&["services"]).unwrap()["services"].as_array().unwrap().clone();
    assert!(
        rows.iter().all(|row| row["allowed"].as_array().is_some_and(|ranges| ranges.len() == 1)),
        "{rows:?}"
    );

    // Neither a new agent nor new tables let anybody in meanwhile.
    let larger = || {
        let text = fs::read_to_string(agent.configuration()).unwrap();
        assert!(text.contains("slots: 1048576"), "{text}");
        fs::write(agent.configuration(), text.replace("slots: 1048576", "slots: 2097152")).unwrap();
    };
    for change in [&(|| {}) as &dyn Fn(), &larger] {
        restart(agent, change);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(3) {
            assert_eq!(served_at(first, service), []);
        }
        agent.wait_until_ready(PATIENCE).unwrap();
        assert_eq!(served_at(second, service).len(), 4);
    }

    // What was sent meanwhile is sent again, and arrives: the endpoint never heard of it.
    manifests.add_service(service).unwrap();
    wait("no ranges", || served_at(first, service).len() == 4);
    for stream in &kept {
        assert!(answered(stream, PATIENCE), "the connection goes on");
    }
    assert!(agent.ask(&["services"]).unwrap()["services"][0]["allowed"].is_null());
}

#[test]
fn a_full_table_lets_nobody_in_who_is_not_allowed() {
    let served = build(&Federation::default().capacity("sourceRanges", 3));
    served.wait_until_served();
    let [first, second] = served.world.clients() else { panic!("two clients") };
    let (agent, manifests) = (served.gateway(), served.world.manifests("us-central1-a"));
    let service = &served.service;
    // One for each port of each VIP: one too many.
    manifests.add_service(&allowing(service, second.addresses())).unwrap();
    served.wait_for_status("the failure", |status| {
        let told = status["failure"].as_str().unwrap_or_default();
        let words = [
            "clients are refused",
            "ALLOWED is full: 4 of 3",
            "raise capacities.sourceRanges in the configuration",
        ];
        words.iter().all(|word| told.contains(word))
    });
    assert_eq!(served_at(first, service), []);
    assert_eq!(served_at(second, service).len(), 3, "one port has no room for its range");
    assert!(agent.is_ready(), "all services serve");
    manifests.add_service(&allowing(service, second.addresses()[..1].iter().copied())).unwrap();
    served.wait_for_status("no failure", |status| status["failure"] == Value::Null);
    assert_eq!(served_at(second, service).len(), 2, "IPv4 fits");
    assert_eq!(served_at(first, service), []);
    served.wait_for_status("that IPv6 is shut", |status| {
        status["problems"].to_string().contains("no IPv6 client is allowed by all clusters")
    });
}

#[test]
fn clusters_that_differ_let_in_whom_all_allow() {
    let served = Served::build(
        &Plan::default().region("us-central1", &["a", "b"], 1).clients(2),
        &Federation::default(),
    );
    served.wait_until_served();
    let [first, second] = served.world.clients() else { panic!("two clients") };
    let service = &served.service;
    let (a, b) = (served.world.manifests("us-central1-a"), served.world.manifests("us-central1-b"));
    let all = first.addresses().into_iter().chain(second.addresses());
    a.add_service(&allowing(service, all)).unwrap();
    b.add_service(&allowing(service, second.addresses())).unwrap();
    wait("the ranges", || served_at(first, service).is_empty());
    assert_eq!(served_at(second, service).len(), 4);
    served.wait_for_status("the difference", |status| {
        let problems = status["problems"].to_string();
        problems.contains(
            "differs from that of cluster us-central1-a: only clients that all clusters allow are let in",
        )
    });
}
