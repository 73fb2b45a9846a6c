//! Floods: packets that look as if they were of living connections, or of nobody's, as fast as one core sends them.
//!
//! They are sent by raw sockets of a client, whose kernel routes them: through the router, the gateways and the receivers
//! into the pods. What comes back goes nowhere.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use aya::programs::loaded_programs;
use aya::sys::{Stats, enable_stats};
use fairlead_abi::CONTROL_PORT;
use fairlead_abi::message::{MAGIC, message_kind};
use nix::errno::Errno;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::stage::{GATEWAYS, SERVING, Stage};
use crate::load::Target;
use crate::packets::IpPacket;
use crate::packets::build::{self, Tcp, flags};
use crate::packets::random::Rng;

/// The ports that clients bind.
const PORTS: std::ops::Range<u16> = super::fleet::PORTS;
/// The client whose kernel sends.
const SENDER: usize = 0;
/// For so long the programs are timed without a flood.
const QUIET: Duration = Duration::from_secs(1);
/// Names of the programs that packets meet.
const PROGRAMS: [&str; 2] = ["ingress", "slow"];

/// Packets of a flood, one after the other.
type Make = fn(&mut Rng, &Scene) -> IpPacket;

/// Who can be meant.
struct Scene {
    target: Target,
    clients: Vec<[IpAddr; 2]>,
    gateways: Vec<[IpAddr; 2]>,
    pods: Vec<[IpAddr; 2]>,
}

/// SYNs: of clients that nobody has, and of the ports of living connections.
pub(super) fn syns(stage: &Stage, frames: u64) -> Result<()> {
    flood(stage, frames, "SYNs", |rng, scene| {
        let (client, vip) = if rng.once_in(2) { scene.living(rng) } else { scene.stranger(rng) };
        segment(rng, client, vip, scene.target.http_port, flags::SYN)
    })
}

/// ACKs that belong to no connection: a living one of the same ports has other numbers.
pub(super) fn acks(stage: &Stage, frames: u64) -> Result<()> {
    flood(stage, frames, "stray ACKs", |rng, scene| {
        let (client, vip) = if rng.once_in(2) { scene.living(rng) } else { scene.stranger(rng) };
        let all = [flags::ACK, flags::ACK | flags::FIN, flags::RST, flags::SYN_ACK];
        let chosen = rng.pick(&all);
        segment(rng, client, vip, scene.target.http_port, chosen)
    })
}

/// Tunnel packets with marks, and messages of agents, by somebody who is neither gateway nor receiver, or says to be.
pub(super) fn forged(stage: &Stage, frames: u64) -> Result<()> {
    flood(stage, frames, "forged marks and claims", |rng, scene| {
        let (client, vip) = scene.living(rng);
        let family = usize::from(vip.is_ipv6());
        let gateway = rng.pick(&scene.gateways)[family];
        let pod = rng.pick(&scene.pods)[family];
        if rng.once_in(4) {
            let mut message = [&MAGIC.to_le_bytes()[..], &[message_kind::CLAIM, 1]].concat();
            message.extend(rng.bytes(84));
            return build::ip(pod, gateway, build::udp(CONTROL_PORT, CONTROL_PORT, &message));
        }
        let inner = segment(rng, client, vip, scene.target.http_port, flags::ACK);
        let (from, to) = if rng.once_in(2) { (pod, gateway) } else { (gateway, pod) };
        IpPacket { id: rng.word(), ..build::ipip(from, to, &inner) }
    })
}

impl Scene {
    fn of(stage: &Stage) -> Result<Self> {
        let both = |(v4, v6): (Ipv4Addr, Ipv6Addr)| [v4.into(), v6.into()];
        let hosts = stage.world.layout.gateways.iter().filter(|host| GATEWAYS.contains(&&*host.name));
        let pods = stage.world.pods().iter().filter(|pod| SERVING.contains(&pod.name()));
        Ok(Self {
            target: stage.target()?.0,
            clients: stage.world.clients().iter().map(|client| client.addresses()).collect(),
            gateways: hosts.map(|host| both(host.uplink.host)).collect(),
            pods: pods.map(|pod| pod.addresses()).collect(),
        })
    }

    fn vip(&self, rng: &mut Rng) -> IpAddr {
        if rng.once_in(2) { self.target.v4.into() } else { self.target.v6.into() }
    }

    /// The address and port of a client that may have a connection, and the VIP.
    fn living(&self, rng: &mut Rng) -> (SocketAddr, IpAddr) {
        let vip = self.vip(rng);
        let client = rng.pick(&self.clients)[usize::from(vip.is_ipv6())];
        let port = PORTS.start + u16::try_from(rng.below(PORTS.len())).expect("below the ports' number");
        (SocketAddr::new(client, port), vip)
    }

    fn stranger(&self, rng: &mut Rng) -> (SocketAddr, IpAddr) {
        let vip = self.vip(rng);
        let [a, b, c, d, ..] = rng.next().to_be_bytes();
        let client = match vip {
            IpAddr::V4(_) => IpAddr::from([198, 18, a, b]),
            IpAddr::V6(_) => {
                let [low, high] = [[a, b], [c, d]].map(u16::from_be_bytes);
                Ipv6Addr::new(0x2001, 0xdb8, 0x9999, 0, 0, 0, high, low).into()
            }
        };
        (SocketAddr::new(client, rng.word()), vip)
    }
}

fn segment(rng: &mut Rng, client: SocketAddr, vip: IpAddr, port: u16, tcp_flags: u8) -> IpPacket {
    let mut number = || u32::from(rng.word()) << 16 | u32::from(rng.word());
    let (sequence, acknowledged) = (number(), number());
    let segment = Tcp { sequence, acknowledged, ..build::tcp(client.port(), port, tcp_flags) };
    build::ip(client.ip(), vip, segment)
}

/// Sends `frames` packets, and says how fast that went and what programs cost meanwhile.
fn flood(stage: &Stage, frames: u64, what: &str, make: Make) -> Result<()> {
    let scene = Scene::of(stage)?;
    let _stats = enable_stats(Stats::RunTime).context("count what programs cost")?;
    let before = Spent::now()?;
    std::thread::sleep(QUIET);
    let quiet = Spent::now()?;
    let began = Instant::now();
    let sent = stage.world.clients()[SENDER].namespace.run(|| send(frames, &scene, make))?;
    let took = began.elapsed();
    let flooded = Spent::now()?;
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let rate = sent as f64 / took.as_secs_f64() / 1000.0;
    eprintln!(
        "  {sent} {what} in {:.1} s: {rate:.0} thousand a second; a run of a program took {} ns without them, {} ns with them",
        took.as_secs_f64(),
        quiet.since(&before),
        flooded.since(&quiet)
    );
    Ok(())
}

/// How many the kernel took.
fn send(frames: u64, scene: &Scene, make: Make) -> Result<u64> {
    let raw = |domain| -> Result<Socket> {
        // Of this protocol, the packet begins with its own IP header, in both versions.
        Socket::new(domain, Type::RAW, Some(Protocol::from(nix::libc::IPPROTO_RAW)))
            .context("open a raw socket")
    };
    let (v4, v6) = (raw(Domain::IPV4)?, raw(Domain::IPV6)?);
    let mut rng = Rng::new(frames);
    let mut sent = 0;
    for _ in 0..frames {
        let packet = make(&mut rng, scene);
        let to = SockAddr::from(SocketAddr::new(packet.destination, 0));
        let socket = if packet.destination.is_ipv4() { &v4 } else { &v6 };
        match socket.send_to(&packet.bytes(), &to) {
            Ok(_) => sent += 1,
            Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {}
            Err(error) => return Err(error).context("send a packet of a flood"),
        }
    }
    Ok(sent)
}

/// What all agents' programs have cost since they are counted.
#[derive(Clone, Copy)]
struct Spent {
    time: Duration,
    runs: u64,
}

impl Spent {
    fn now() -> Result<Self> {
        let mut spent = Self { time: Duration::ZERO, runs: 0 };
        for program in loaded_programs() {
            // One may go while the list is read.
            let Ok(program) = program else { continue };
            if program.name_as_str().is_some_and(|name| PROGRAMS.contains(&name)) {
                spent.time += program.run_time();
                spent.runs += program.run_count();
            }
        }
        Ok(spent)
    }

    /// Nanoseconds of a run since then; a tail call is no run of its own.
    fn since(&self, before: &Self) -> u128 {
        let runs = self.runs.saturating_sub(before.runs).max(1);
        self.time.saturating_sub(before.time).as_nanos() / u128::from(runs)
    }
}
