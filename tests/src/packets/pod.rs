//! A pod with real sockets beside the programs: a node's namespace, where test runs happen, and a pod's behind a veth.
//!
//! Neither has a name, so nothing is left behind however the test ends. The pod's clients are played by hand in its own
//! namespace: [`Hand`] sends segments and hears the kernel's, so that a test knows all numbers.

use std::fs::{self, File};
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::gettid;
use socket2::{Domain, Protocol, Socket, Type};

use super::build::{self, Tcp};

/// How long the kernel may take for an answer on its loopback interface.
const PATIENCE: Duration = Duration::from_secs(5);

/// The pod's namespace.
pub struct Pod(File);

/// Runs `work` in the namespace of a node that has a pod with these addresses, which are its clients' too.
pub fn beside_a_pod<T: Send>(addresses: &[IpAddr], work: impl FnOnce(&Pod) -> T + Send) -> Result<T> {
    on_own_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let pod = Pod::new()?;
        pod.set_up(addresses)?;
        Ok(work(&pod))
    })
}

impl Pod {
    /// Behind a veth of this thread's namespace: by that the kernel gives it a number there.
    fn new() -> Result<Self> {
        thread::scope(|scope| {
            let (tell, told) = mpsc::channel();
            let (end, ended) = mpsc::channel::<()>();
            scope.spawn(move || {
                let made = unshare(CloneFlags::CLONE_NEWNET).map_err(anyhow::Error::from);
                let own = made.and_then(|()| Ok(File::open("/proc/thread-self/ns/net")?));
                let _nobody_asks = tell.send(own.map(|own| (own, gettid())));
                // Until its other end is there.
                let _either_way = ended.recv();
            });
            let (own, thread) = told.recv().context("the pod's thread has ended")??;
            let made = run("ip", &format!("link add pod type veth peer name eth0 netns {thread}"));
            drop(end);
            made.and_then(|()| run("ip", "link set pod up")).map(|()| Self(own))
        })
    }

    fn set_up(&self, addresses: &[IpAddr]) -> Result<()> {
        self.run(|| {
            run("ip", "link set lo up")?;
            run("nft", "add table inet hand")?;
            run("nft", "add chain inet hand out { type filter hook output priority 0 ; }")?;
            // The kernel knows nothing of clients that are played by hand.
            run("nft", "add rule inet hand out tcp flags & rst == rst drop")?;
            for address in addresses {
                let nodad = if address.is_ipv6() { " nodad" } else { "" };
                run("ip", &format!("address add {address} dev lo{nodad}"))?;
            }
            Ok(())
        })
    }

    /// Runs `work` in the pod. Sockets that it makes stay there wherever they go.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        on_own_thread(|| {
            setns(&self.0, CloneFlags::CLONE_NEWNET)?;
            work()
        })
    }

    /// Writes a value below `/proc/sys/net` there.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.run(|| Ok(fs::write(format!("/proc/sys/net/{key}"), value)?))
    }

    /// A client of the pod.
    pub fn client(&self, client: SocketAddr, pod: SocketAddr) -> Result<Hand> {
        self.run(|| {
            let socket = Socket::new(Domain::for_address(pod), Type::RAW, Some(Protocol::TCP))?;
            socket.bind(&SocketAddr::new(client.ip(), 0).into())?;
            socket.connect(&SocketAddr::new(pod.ip(), 0).into())?;
            socket.set_read_timeout(Some(PATIENCE))?;
            Ok(Hand { socket, client, pod })
        })
    }
}

/// A client by hand.
pub struct Hand {
    socket: Socket,
    client: SocketAddr,
    pod: SocketAddr,
}

/// What the pod's kernel sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// TCP's flags.
    pub flags: u8,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledged: u32,
}

impl Hand {
    /// Sends a segment to the pod, whatever ports it says.
    pub fn send(&self, segment: Tcp) -> Result<()> {
        let segment = Tcp { source: self.client.port(), destination: self.pod.port(), ..segment };
        let packet = build::ip(self.client.ip(), self.pod.ip(), segment).bytes();
        let header = if self.pod.is_ipv4() { 20 } else { 40 };
        self.socket.send(&packet[header..])?;
        Ok(())
    }

    /// The next segment for this client.
    pub fn hear(&self) -> Result<Heard> {
        loop {
            let mut buffer = [0; 2048];
            let length = (&self.socket).read(&mut buffer).context("the pod says nothing")?;
            // IPv4 raw sockets give the IP header too.
            let header = if self.pod.is_ipv4() { usize::from(buffer[0] & 0xf) * 4 } else { 0 };
            let Some(tcp) = buffer[..length].get(header..).and_then(|tcp| tcp.first_chunk::<20>()) else {
                bail!("{length} bytes are no segment");
            };
            let word = |at: usize| u32::from_be_bytes([tcp[at], tcp[at + 1], tcp[at + 2], tcp[at + 3]]);
            let ports = [self.pod.port().to_be_bytes(), self.client.port().to_be_bytes()].concat();
            if tcp[..4] == ports {
                return Ok(Heard { flags: tcp[13], sequence: word(4), acknowledged: word(8) });
            }
        }
    }
}

fn run(program: &str, arguments: &str) -> Result<()> {
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let output =
        Command::new(program).args(&arguments).env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin").output()?;
    if !output.status.success() {
        bail!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
