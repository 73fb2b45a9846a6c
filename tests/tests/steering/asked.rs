//! Connections that no backend of their slot knows: their endpoint is found by asking, and who has none is told so.

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use fairlead_tests::world::{Federation, Plan, Pod, ServiceSpec};
use nix::sys::signal::Signal;

use crate::served::{PATIENCE, Served, pod_of, wait};

/// A connection that is kept, by whom it is answered.
struct Kept {
    stream: TcpStream,
    pod: String,
}

impl Kept {
    /// One to each VIP.
    fn open(served: &Served) -> Vec<Self> {
        let open = |&vip| {
            let address = SocketAddr::new(vip, served.service.http_port);
            let connect = || Ok(TcpStream::connect_timeout(&address, Duration::from_secs(1))?);
            let mut stream = served.client().namespace.run(connect).unwrap();
            // A client that doubles its waiting may have to send several times.
            stream.set_read_timeout(Some(4 * PATIENCE)).unwrap();
            let pod = ask(&mut stream).unwrap();
            Self { stream, pod }
        };
        served.service.vips.iter().map(open).collect()
    }
}

/// Asks once more over the same connection: who answers.
fn ask(stream: &mut TcpStream) -> Result<String, ErrorKind> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n").map_err(|error| error.kind())?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\n") || !answer.windows(4).any(|four| four == b"pod=") {
        let mut some = [0; 1024];
        match stream.read(&mut some).map_err(|error| error.kind())? {
            0 => return Err(ErrorKind::UnexpectedEof),
            count => answer.extend_from_slice(&some[..count]),
        }
    }
    Ok(pod_of(&String::from_utf8(answer).unwrap()))
}

fn pod<'w>(served: &'w Served, name: &str) -> &'w Pod {
    served.world.pods().iter().find(|pod| pod.name() == name).unwrap()
}

#[test]
fn a_connection_that_nobody_has_any_more_is_reset() {
    assert_strays_are_reset(&Served::build(
        &Plan::default().region("us-central1", &["a", "b"], 1),
        &Federation::default(),
    ));
}

/// The gateway has an endpoint of its own, and asks itself too.
#[test]
fn so_it_is_where_nodes_are_their_own_gateways() {
    assert_strays_are_reset(&Served::by_its_own_nodes());
}

fn assert_strays_are_reset(served: &Served) {
    served.wait_until_served();
    for mut kept in Kept::open(served) {
        // Its end doesn't reach the client: nobody knows any more whose name it would have to leave in.
        for number in 0..2 {
            served.node(number).forget_flows().unwrap();
        }
        let pod = pod(served, &kept.pod);
        pod.kill().unwrap();
        pod.start_again().unwrap();
        assert_eq!(ask(&mut kept.stream), Err(ErrorKind::ConnectionReset));
    }
}

#[test]
fn an_endpoint_that_a_new_gateway_cant_know_is_heard_of_and_asked() {
    let served = Served::build(&Plan::default().region("us-central1", &["a"], 3), &Federation::default());
    served.wait_until_served();
    let mut kept = Kept::open(&served);
    let left: BTreeSet<&str> = kept.iter().map(|kept| kept.pod.as_str()).collect();
    for name in &left {
        served.world.manifests("us-central1-a").remove(name).unwrap();
    }
    let stay: BTreeSet<String> = served.pods().into_iter().filter(|name| !left.contains(&**name)).collect();
    served.wait_until_served_by(&[&served.service], &stay);
    let gateway = served.gateway();
    gateway.process().signal(Signal::SIGKILL).unwrap();
    gateway.process().wait(PATIENCE).unwrap();
    gateway.remove_pins().unwrap();
    fs::remove_dir_all(gateway.state_directory()).unwrap();
    gateway.process().start_again().unwrap();
    for kept in &mut kept {
        assert_eq!(ask(&mut kept.stream), Ok(kept.pod.clone()));
    }
    // An endpoint is announced by both of its addresses, and is one backend.
    let services = gateway.ask(&["services"]).unwrap();
    let backends = services["services"].as_array().unwrap().iter().map(|row| &row["backends"]);
    let backends: Vec<u64> = backends.map(|number| number.as_u64().unwrap()).collect();
    assert!(backends.iter().all(|&number| number <= 3), "{services:#}");
    assert!(backends.contains(&3), "{services:#}");
}

#[test]
fn a_client_is_kept_at_one_endpoint_and_turning_that_on_or_off_breaks_no_connection() {
    let served = Served::build(&Plan::default().region("us-central1", &["a"], 3), &Federation::default());
    served.wait_until_served();
    let all = served.pods();
    assert_eq!(served.answering(), all);
    let mut kept: Vec<Kept> = (0..4).flat_map(|_| Kept::open(&served)).collect();
    for by_client in [true, false] {
        let service = ServiceSpec { by_client, ..served.service.clone() };
        served.world.manifests("us-central1-a").add_service(&service).unwrap();
        // One endpoint for each of the client's addresses, or all of them.
        wait("the change", || {
            let answering = served.answering();
            if by_client { answering.len() <= 2 } else { answering == all }
        });
        for kept in kept.iter_mut().chain(&mut Kept::open(&served)) {
            assert_eq!(ask(&mut kept.stream), Ok(kept.pod.clone()));
        }
    }
}
