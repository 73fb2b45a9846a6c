//! Datagrams larger than any link: all fragments reach one pod, whatever their order, and so do those of its answers.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use fairlead_tests::packets::IpPacket;
use fairlead_tests::packets::build::{ip, udp};
use fairlead_tests::world::{ADMIN, Agent, Federation, Plan};
use socket2::{Domain, Protocol, Socket, Type};

use crate::served::{Served, pod_of, wait};

/// `IPPROTO_RAW`: packets with IP headers of their own.
const RAW: i32 = 255;
/// Bytes of each fragment's part: in a tunnel it still fits a link.
const SIZE: usize = 1200;

/// A client's flow, whose datagrams leave as the fragments that the test makes of them.
struct Flow {
    own: SocketAddr,
    vip: SocketAddr,
    socket: UdpSocket,
    raw: Socket,
}

impl Flow {
    fn new(served: &Served, vip: IpAddr) -> Self {
        let own = served.client().addresses().into_iter().find(|own| own.is_ipv4() == vip.is_ipv4()).unwrap();
        let domain = if vip.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let open = || {
            let socket = UdpSocket::bind(SocketAddr::new(own, 0))?;
            socket.set_read_timeout(Some(Duration::from_secs(3)))?;
            let raw = Socket::new(domain, Type::RAW, Some(Protocol::from(RAW)))?;
            Ok((socket, raw))
        };
        let (socket, raw) = served.client().namespace.run(open).unwrap();
        let own = socket.local_addr().unwrap();
        Self { own, vip: SocketAddr::new(vip, served.service.udp_port), socket, raw }
    }

    /// Sends the fragments of one datagram in this order, and waits for the answer: the pod, and the datagram.
    fn ask(&self, payload: &[u8], order: &[usize]) -> Option<(String, Vec<u8>)> {
        // A host names each of its datagrams otherwise, whatever flow they are of.
        static NEXT: AtomicU16 = AtomicU16::new(1);
        let datagram = udp(self.own.port(), self.vip.port(), payload);
        let packet = IpPacket { fragment: 0, ..ip(self.own.ip(), self.vip.ip(), datagram) };
        let parts = packet.fragments(SIZE, NEXT.fetch_add(1, Ordering::Relaxed));
        assert_eq!(parts.len(), order.len());
        for &part in order {
            let to = SocketAddr::new(self.vip.ip(), 0);
            self.raw.send_to(&parts[part].bytes(), &to.into()).unwrap();
        }
        let mut answer = vec![0; 65_536];
        let (length, from) = self.socket.recv_from(&mut answer).ok()?;
        assert_eq!(from, self.vip);
        let (pod, echo) = answer[..length].split_at(answer.iter().position(|&byte| byte == b'\n')?);
        Some((pod_of(std::str::from_utf8(pod).unwrap()), echo[1..].to_vec()))
    }
}

fn payload(seed: u8) -> Vec<u8> {
    (0..4000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8 ^ seed).collect()
}

/// What an agent counts that is not 0, of drops and fragments.
fn told(served: &Served, agent: &Agent) -> Vec<String> {
    let ask = || {
        let mut stream = TcpStream::connect(ADMIN)?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
        Ok(std::io::read_to_string(stream)?)
    };
    let metrics = served.world.namespace(agent.host()).unwrap().run(ask).unwrap();
    let wanted = |line: &&str| {
        ["fairlead_dropped_packets", "fairlead_flow_events", "fairlead_early"]
            .iter()
            .any(|name| line.starts_with(name))
            && !line.ends_with(" 0")
    };
    assert!(metrics.contains("fairlead_early"), "{metrics:.600}");
    metrics.lines().filter(wanted).map(str::to_owned).collect()
}

#[test]
fn fragments_reach_one_pod_in_any_order() {
    let plan = Plan::default().region("us-central1", &["a"], 2).nodes(2);
    let served = Served::build(&plan, &Federation::default());
    served.wait_until_served();
    let orders = [[0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 2, 3], [2, 3, 0, 1]];
    for &vip in &served.service.vips {
        for (number, order) in (0..).zip(orders.iter().cycle().take(16)) {
            let sent = payload(number);
            let answer = Flow::new(&served, vip).ask(&sent, order);
            let (pod, echo) = answer.unwrap_or_else(|| {
                let told = served.agents.iter().map(|agent| (agent.host().to_owned(), told(&served, agent)));
                panic!("no answer from {vip} to {order:?}: {:#?}", told.collect::<Vec<_>>())
            });
            assert!(served.pods().contains(&pod), "{pod}");
            assert!(echo == sent, "the datagram came back changed");
        }
    }
    let told = told(&served, served.gateway());
    let sent_again = |line: &String| line.starts_with("fairlead_early_fragments_total{what=\"sent_again\"}");
    assert!(told.iter().any(sent_again), "{told:?}");
}

#[test]
fn datagrams_larger_than_the_path_are_answered() {
    let plan = Plan::default().region("us-central1", &["a"], 2).nodes(2);
    let served = Served::build(&plan, &Federation::default());
    served.wait_until_served();
    for &vip in &served.service.vips {
        narrow(&served, vip);
        for (seed, size) in [(0, 1400), (1, 4000), (2, 4000), (3, 60_000)] {
            let sent: Vec<u8> = payload(seed).into_iter().cycle().take(size).collect();
            let answer =
                served.client().datagram(SocketAddr::new(vip, served.service.udp_port), &sent).unwrap();
            assert!(answer.ends_with(&sent), "{size} bytes came back changed");
        }
    }
}

/// The client's kernel knows that the path to a VIP carries less than its link: in tunnels, packets grow.
fn narrow(served: &Served, vip: IpAddr) {
    let namespace = &served.client().namespace;
    let route = namespace.command("ip", &["route", "get", &vip.to_string()]).unwrap();
    let words: Vec<&str> = route.split_whitespace().collect();
    let behind = |word| words[1 + words.iter().position(|found| *found == word).unwrap()];
    let line = format!("route replace {vip} via {} dev {} mtu 1400", behind("via"), behind("dev"));
    if vip.is_ipv4() { namespace.ip(&[line]).unwrap() } else { namespace.ip6(&[line]).unwrap() }
}

#[test]
fn fragments_stay_with_their_flow_while_endpoints_change() {
    let plan = Plan::default().region("us-central1", &["a"], 2).nodes(2);
    let served = Served::build(&plan, &Federation::default());
    served.wait_until_served();
    let flows: Vec<_> = served
        .service
        .vips
        .iter()
        .flat_map(|&vip| (0..8).map(move |_| vip))
        .map(|vip| Flow::new(&served, vip))
        .collect();
    let before: Vec<String> =
        flows.iter().map(|flow| flow.ask(&payload(1), &[0, 1, 2, 3]).expect("an answer").0).collect();
    // One takes no new flows any more, which moves slots.
    let cluster = &served.world.layout.clusters[0].name;
    let leaving = served.world.pods_of(cluster).next().unwrap().name();
    served.world.manifests(cluster).remove(leaving).unwrap();
    let stay = served.pods().into_iter().filter(|pod| pod != leaving).collect();
    wait("the change", || served.is_served_by(&served.service, &stay));
    for (flow, before) in flows.iter().zip(before) {
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]] {
            let (pod, echo) = flow.ask(&payload(2), &order).expect("an answer");
            assert_eq!((&pod, echo == payload(2)), (&before, true), "{order:?}");
        }
    }
}
