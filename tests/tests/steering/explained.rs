//! `fairlead explain` against what really happens.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use fairlead_tests::world::{Agent, Federation, Plan};

use crate::served::{Served, pod_of};

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
    // Most of the time goes into starting the command.
    thread::scope(|scope| {
        for part in flows.chunks(250) {
            scope.spawn(move || part.iter().for_each(|flow| assert_explained(agent, flow)));
        }
    });
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
