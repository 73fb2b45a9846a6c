//! Connections whose flows their receiver has lost: it finds them by their endpoints' sockets.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use fairlead_tests::world::{Agent, Federation, PINS, Plan};
use socket2::{Domain, Socket, Type};

use crate::drained::{Kept, drain};
use crate::served::{PATIENCE, Served, wait};
use crate::upgrade::restart;

/// Two endpoints, each on a node of its own.
fn two_pods() -> Served {
    let plan = Plan::default().region("us-central1", &["a"], 1).nodes(2);
    let served = Served::build(&plan, &Federation::default());
    served.wait_until_served_by(&[&served.service], &served.pods());
    served
}

/// All receivers start again without these of their tables, of which one is that of flows.
fn lose(served: &Served, tables: &[&str]) {
    for number in 0..served.world.layout.nodes.len() {
        let node = served.node(number);
        let pins = Path::new(PINS).join(node.instance()).join("v4");
        restart(node, || tables.iter().for_each(|table| fs::remove_file(pins.join(table)).unwrap()));
        let log = node.process().log();
        assert!(log.contains("is not pinned any more"), "{log}");
        let known = node.flows().unwrap();
        assert!(known.iter().all(|(key, _)| !is_of_a_client(served, &key.client.into())), "{known:?}");
    }
}

fn is_of_a_client(served: &Served, address: &IpAddr) -> bool {
    served.client().addresses().contains(address)
}

/// New connections go to this pod alone from now on.
fn leave_only(served: &Served, drained: &str, left: &str) {
    let agent = served.gateway();
    drain(agent, &["pod", drained]);
    served.wait_until_served_by(&[&served.service], &BTreeSet::from([left.to_owned()]));
}

fn other(served: &Served, pod: &str) -> String {
    served.pods().into_iter().find(|other| other != pod).unwrap()
}

/// Packets that no backend of their slot knew.
fn unclaimed(agent: &Agent) -> u64 {
    let flows = agent.ask(&["flows"]).unwrap();
    let events = flows["events"].as_array().unwrap();
    let event = events.iter().find(|event| event["event"] == "unclaimed").unwrap();
    event["packets"].as_u64().unwrap()
}

#[test]
fn idle_connections_outlive_the_loss_of_all_flows_at_drained_endpoints_too() {
    let served = two_pods();
    let mut kept: Vec<Kept> = served
        .service
        .vips
        .iter()
        .flat_map(|&vip| (0..8).map(move |_| vip))
        .map(|vip| Kept::open(&served, vip))
        .collect();
    let pods: Vec<String> = kept.iter().map(|kept| kept.pod.clone()).collect();
    assert_eq!(pods.iter().cloned().collect::<BTreeSet<_>>(), served.pods());
    let drained = pods[0].clone();
    leave_only(&served, &drained, &other(&served, &drained));
    let before = unclaimed(served.gateway());
    lose(&served, &["FLOWS"]);
    for (kept, pod) in kept.iter_mut().zip(&pods) {
        assert_eq!(kept.ask(), *pod);
    }
    assert_eq!(unclaimed(served.gateway()), before, "nobody had to be asked");
    for number in 0..2 {
        let status = served.node(number).ask(&["status"]).unwrap();
        assert!(!status["problems"].to_string().contains("can't be looked up"), "{status:#}");
    }

    // Where the slots don't remember the endpoint either, it is asked and says that it has them.
    for number in 0..2 {
        served.node(number).forget_flows().unwrap();
    }
    let gateway = served.gateway();
    restart(gateway, || {
        gateway.remove_pins().unwrap();
        fs::remove_dir_all(gateway.state_directory()).unwrap();
    });
    for (kept, pod) in kept.iter_mut().zip(&pods) {
        assert_eq!(kept.ask(), *pod);
    }
}

#[test]
fn a_gateway_asks_its_own_endpoint_s_socket_too() {
    let served = Served::by_its_own_nodes();
    served.wait_until_served_by(&[&served.service], &served.pods());
    let gateway = served.node(0);
    let own = &served.world.pods()[0].name().to_owned();
    let mut kept: Vec<Kept> = Vec::new();
    for &vip in &served.service.vips {
        let of_own = || Some(Kept::open(&served, vip)).filter(|kept| kept.pod == *own);
        kept.push(std::iter::repeat_with(of_own).flatten().next().unwrap());
    }
    drain(gateway, &["pod", own]);
    let others = BTreeSet::from([other(&served, own)]);
    wait("the other pod alone", || served.is_served_by(&served.service, &others));
    let before = unclaimed(gateway);
    // Without slots nobody remembers whom to look for.
    lose(&served, &["FLOWS", "SLOTS"]);
    for kept in &mut kept {
        assert_eq!(kept.ask(), *own);
    }
    assert!(unclaimed(gateway) > before, "it was asked for");
}

#[test]
fn a_handshake_whose_half_open_flow_was_forgotten_is_ended_where_it_began() {
    let served = two_pods();
    let pods: Vec<String> = served.pods().into_iter().collect();
    leave_only(&served, &pods[0], &pods[1]);
    let client = &served.client().namespace;
    let nft = |words: &str| client.command("nft", &words.split(' ').collect::<Vec<_>>()).unwrap();
    nft("add table inet late");
    nft("add chain inet late out { type filter hook output priority 0 ; }");
    for &vip in &served.service.vips {
        let before = unclaimed(served.gateway());
        // The client's kernel doesn't get through to the endpoint with what ends the handshake.
        nft("add rule inet late out tcp flags & (syn|ack) == ack drop");
        nft("add rule inet late out tcp flags & rst == rst drop");
        let address = SocketAddr::new(vip, served.service.http_port);
        let mut stream = client.run(|| Ok(TcpStream::connect(address)?)).unwrap();
        for number in 0..2 {
            served.node(number).forget_flows().unwrap();
        }
        nft("flush chain inet late out");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: vip\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains(&pods[1]), "{answer}");
        assert_eq!(unclaimed(served.gateway()), before, "nobody had to be asked");
    }
}

/// A connection from this port of the client.
fn connect_from(served: &Served, vip: IpAddr, port: u16) -> TcpStream {
    let client = served.client().addresses().into_iter().find(|address| address.is_ipv4() == vip.is_ipv4());
    let to = SocketAddr::new(vip, served.service.http_port);
    let connect = || {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::new(client.unwrap(), port).into())?;
        socket.connect_timeout(&to.into(), Duration::from_secs(5))?;
        Ok(socket.into())
    };
    served.client().namespace.run(connect).unwrap()
}

#[test]
fn a_port_used_again_finds_its_own_endpoint_and_not_the_one_that_remembers_the_end_of_the_other() {
    const PORT: u16 = 61_234;
    let served = two_pods();
    let pods: Vec<String> = served.pods().into_iter().collect();
    let agent = served.gateway();
    leave_only(&served, &pods[1], &pods[0]);
    for &vip in &served.service.vips {
        // The endpoint ends first: it is the one that remembers.
        let mut stream = connect_from(&served, vip, PORT);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: vip\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains(&pods[0]), "{answer}");
    }
    drain(agent, &["pod", &pods[1], "--undo"]);
    leave_only(&served, &pods[0], &pods[1]);
    let mut kept: Vec<Kept> =
        served.service.vips.iter().map(|&vip| Kept::of(connect_from(&served, vip, PORT))).collect();
    assert!(kept.iter().all(|kept| kept.pod == pods[1]));
    drain(agent, &["pod", &pods[0], "--undo"]);
    leave_only(&served, &pods[1], &pods[0]);
    lose(&served, &["FLOWS"]);
    for kept in &mut kept {
        assert_eq!(kept.ask(), pods[1]);
    }
}
