//! `fairlead explain` against what really happens.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use fairlead_tests::world::{Agent, Federation, Plan};

use crate::served::{Served, pod_of, wait};

/// Of each IP version and protocol.
const FLOWS: usize = 250;

/// A flow that was answered.
struct Flow {
    from: SocketAddr,
    /// As `explain` takes it.
    to: String,
    pod: String,
}

#[test]
fn explain_names_the_pod_that_answers_a_thousand_flows() {
    let served =
        Served::build(&Plan::default().region("us-central1", &["a", "b"], 3), &Federation::default());
    served.wait_until_served();
    let namespace = &served.client().namespace;
    let mut flows = Vec::new();
    for &vip in &served.service.vips {
        let (http, udp) =
            (SocketAddr::new(vip, served.service.http_port), SocketAddr::new(vip, served.service.udp_port));
        flows.extend(
            namespace.run(|| (0..FLOWS).map(|_| over_tcp(http)).collect::<Result<Vec<_>, _>>()).unwrap(),
        );
        flows.extend(
            namespace.run(|| (0..FLOWS).map(|_| over_udp(udp)).collect::<Result<Vec<_>, _>>()).unwrap(),
        );
    }
    assert_eq!(flows.len(), 1000);
    let agent = served.gateway();
    let forged = agent.ask(&["explain", "127.0.0.1:7", &flows[0].to]).unwrap();
    assert_eq!(forged["drop"]["reason"], "bad_source", "{forged:#}");
    assert_eq!(forged["backend"], serde_json::Value::Null, "{forged:#}");
    // Most of the time goes into starting the command.
    thread::scope(|scope| {
        for part in flows.chunks(250) {
            scope.spawn(move || part.iter().for_each(|flow| assert_explained(agent, flow)));
        }
    });
}

#[test]
fn the_seed_in_use_counts_whatever_the_configuration_says_by_now() {
    let served = Served::build(&Plan::small(), &Federation::default());
    served.wait_until_served();
    let agent = served.gateway();
    let vip = SocketAddr::new(served.service.vips[0], served.service.http_port).to_string();
    let slots = || -> Vec<serde_json::Value> {
        let asked =
            (1..=10).map(|port| agent.ask(&["explain", &format!("198.51.100.9:{port}"), &vip]).unwrap());
        asked.map(|told| told["slot"].clone()).collect()
    };
    let before = slots();
    let good = std::fs::read_to_string(agent.configuration()).unwrap();
    let others = good.lines().map(|line| if line.starts_with("seed:") { "seed: 0x1" } else { line });
    std::fs::write(agent.configuration(), others.collect::<Vec<_>>().join("\n")).unwrap();
    wait("the refusal", || {
        let notes = agent.ask(&["explain", "198.51.100.9:1", &vip]).unwrap()["notes"].to_string();
        notes.contains("another seed") && notes.contains("seed: can't change while the agent runs")
    });
    assert_eq!(slots(), before);
    assert!(agent.ask(&["plan"]).unwrap()["notes"].to_string().contains("another seed"));
}

fn assert_explained(agent: &Agent, flow: &Flow) {
    let told = agent.ask(&["explain", &flow.from.to_string(), &flow.to]).unwrap();
    assert_eq!(told["backend"]["pod"], flow.pod, "{} to {}: {told:#}", flow.from, flow.to);
    assert_eq!(told["drop"], serde_json::Value::Null);
}

fn over_tcp(to: SocketAddr) -> anyhow::Result<Flow> {
    let mut stream = TcpStream::connect(to)?;
    let from = stream.local_addr()?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.0\r\nHost: vip\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(Flow { from, to: to.to_string(), pod: pod_of(&answer) })
}

fn over_udp(to: SocketAddr) -> anyhow::Result<Flow> {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    socket.connect(to)?;
    socket.send(b"?")?;
    let mut answer = [0; 1500];
    let length = socket.recv(&mut answer)?;
    let (from, answer) = (socket.local_addr()?, String::from_utf8_lossy(&answer[..length]).into_owned());
    // The echo says who it is on a line of its own, before what it was sent.
    Ok(Flow { from, to: format!("{to}/udp"), pod: pod_of(answer.lines().next().unwrap_or_default()) })
}
