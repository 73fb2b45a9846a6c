//! A fleet on this machine's loopback: what is whole is found whole, and what breaks is found broken.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use tokio::runtime::Runtime;

use super::*;
use crate::survive::Played;
use crate::survive::judge::rows;
use crate::survive::logs::Logs;
use crate::survive::outcome::{Break, PROTOCOLS, Protocol};
use crate::survive::server;

/// A server on a runtime of its own, and a member of a fleet on it.
struct Scene {
    server: Option<Runtime>,
    target: Target,
    directory: PathBuf,
    shared: Arc<Shared>,
    member: JoinHandle<Result<()>>,
}

/// Where QUIC is served, behind the other port and those of the members.
const QUIC: u16 = 90;

/// Two of each kind and IP version.
const MIX: Mix =
    Mix { downloads: 2, uploads: 2, idle: 2, chatty: 2, short_per_second: 20.0, flows: 2, quic: 8 };

impl Scene {
    /// Opens the fleet. Each test has ports of its own.
    fn open(port: u16) -> Self {
        let directory = std::env::temp_dir().join(format!("fairlead-fleet-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let target =
            Target { v4: Ipv4Addr::LOCALHOST, v6: Ipv6Addr::LOCALHOST, http_port: port, udp_port: port };
        let server = Some(start("a", &directory, port));
        let shared = Arc::<Shared>::default();
        let member = Arc::new(Member {
            shared: shared.clone(),
            addresses: [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            first_port: port + 1,
            target,
            quic_port: port + QUIC,
            mix: MIX,
        });
        let member = thread::spawn(move || block_on(member.run()));
        let scene = Self { server, target, directory, shared, member };
        scene.wait("all open", || scene.shared.opened.load(Ordering::Relaxed) == MIX.connections());
        scene
    }

    fn wait(&self, what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !holds() {
            assert!(Instant::now() < deadline, "{what}: {:?}", self.shared.first_failure());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// What became of all.
    fn end(self) -> Vec<Outcome> {
        self.shared.order.send_replace(Order::End);
        self.member.join().unwrap().unwrap();
        std::fs::remove_dir_all(&self.directory).unwrap();
        std::mem::take(&mut *self.shared.outcomes.lock().unwrap())
    }
}

/// Waits until it serves.
fn start(pod: &'static str, directory: &std::path::Path, port: u16) -> Runtime {
    let runtime = Runtime::new().unwrap();
    let directory = directory.to_owned();
    let addresses = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let ports = server::Ports { tcp: port, udp: port, quic: port + QUIC };
    runtime.spawn(async move { server::serve(pod, &directory, ports, &addresses).await });
    let deadline = Instant::now() + Duration::from_secs(20);
    for address in addresses {
        while std::net::TcpStream::connect((address, port)).is_err() {
            assert!(Instant::now() < deadline, "no server at {address}");
        }
    }
    runtime
}

#[test]
fn where_nothing_happens_nothing_is_broken() {
    let scene = Scene::open(21_000);
    let logs = || Logs::read([("a", scene.directory.as_path())]).unwrap();
    let held = |port| logs().server_of(SocketAddr::from(([127, 0, 0, 1], port)), Duration::ZERO).is_some();
    scene.wait("a log of all", || (0..8).all(|at| held(21_001 + at)));
    let outcomes = scene.end();
    let record = Record { outcomes, unopened: 0 };
    let rows = rows(&Played { record, ..Played::default() });
    let counts: Vec<_> = rows.iter().map(|row| (row.broken, row.connections)).collect();
    assert!(counts[..2].iter().all(|&(broken, count)| broken == 0 && count > 8), "{counts:?}");
    assert_eq!(counts[2], (0, 4));
    assert!(counts[3].0 == 0 && counts[3].1 >= 16, "{counts:?}");
}

#[test]
fn where_the_server_ends_all_is_broken() {
    let mut scene = Scene::open(21_100);
    scene.server.take().unwrap().shutdown_background();
    let outcomes = scene.end();
    let lasting = outcomes.iter().filter(|outcome| outcome.kind != Kind::Short);
    let mut of = BTreeMap::new();
    for outcome in lasting {
        let (why, _) = outcome.broken.unwrap_or_else(|| panic!("{outcome:?}"));
        *of.entry((outcome.protocol, why)).or_insert(0) += 1;
    }
    let [tcp4, tcp6, udp, quic] = PROTOCOLS.map(|protocol| {
        of.iter().filter(|((known, _), _)| *known == protocol).map(|(_, count)| count).sum::<usize>()
    });
    assert_eq!([tcp4, tcp6, udp, quic], [8, 8, 4, 16]);
    assert!(
        of.keys()
            .all(|(protocol, why)| matches!(protocol, Protocol::Udp | Protocol::Quic)
                || *why != Break::Unanswered),
        "{of:?}"
    );
}

#[test]
fn flows_that_another_server_answers_are_broken() {
    let mut scene = Scene::open(21_200);
    scene.server.take().unwrap().shutdown_background();
    scene.wait("the port", || std::net::TcpListener::bind(("127.0.0.1", 21_200)).is_ok());
    let other = start("b", &scene.directory, scene.target.http_port);
    let outcomes = scene.end();
    drop(other);
    let flows: Vec<_> = outcomes.iter().filter(|outcome| outcome.kind == Kind::Flow).collect();
    assert_eq!(flows.len(), 4);
    assert!(
        flows.iter().all(|flow| flow.broken.is_some_and(|(why, _)| why == Break::OtherServer)),
        "{flows:?}"
    );
}

#[test]
fn ports_are_used_again_on_purpose() {
    let scene = Scene::open(21_300);
    scene.shared.order.send_replace(Order::Reopen);
    scene.wait("all open again", || scene.shared.reopened.load(Ordering::Relaxed) == 2 * MIX.idle);
    let outcomes = scene.end();
    let broken: Vec<_> = outcomes.iter().filter(|outcome| outcome.broken.is_some()).collect();
    assert!(broken.is_empty(), "{broken:?}");
    let idle =
        outcomes.iter().filter(|outcome| outcome.kind == Kind::Idle && outcome.protocol != Protocol::Quic);
    assert_eq!(idle.count(), 4);
}

#[test]
fn clients_have_ports_enough() {
    let mut ports = Ports::default();
    let first = ports.take("a", 300).unwrap();
    assert_eq!(ports.take("a", 300).unwrap(), first + 300);
    assert_eq!(ports.take("b", 300).unwrap(), first);
    for _ in 0..100 {
        let port = ports.take("a", 300).unwrap();
        assert!(PORTS.contains(&port) && port + 300 <= PORTS.end);
    }
    assert!(ports.take("a", 30_000).is_err());
}

#[test]
fn a_mix_has_as_many_as_it_shall() {
    for mix in [Mix::of(250), Mix::idle(250)] {
        let count = (mix.kinds().len(), mix.flows, mix.quic_kinds().len());
        assert_eq!((count, mix.connections()), ((250, 125, 32), 814));
    }
}
