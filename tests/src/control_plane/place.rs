//! Where a control plane runs: its namespace, its addresses and ports, its directory.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Result, bail, ensure};

use crate::world::{Footprint, MARK, Namespace, Process, World};

/// The first port that is handed out, and how many; the kernel gives connections others by itself.
const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 10_000;

/// A place for any number of control planes.
#[derive(Clone, Debug)]
pub struct Place {
    /// The id of the world that they go with.
    world: String,
    directory: PathBuf,
    /// This process's own if there is none.
    namespace: Option<Namespace>,
    addresses: Vec<IpAddr>,
}

impl Place {
    /// On this machine's loopback, reached at `127.0.0.1` or `::1`; it goes with the footprint.
    pub fn loopback(footprint: &Footprint, address: IpAddr) -> Result<Self> {
        ensure!(address.is_loopback(), "{address}: a control plane outside of a world stays on loopback");
        let directory = footprint.data()?;
        Ok(Self { world: footprint.id().to_owned(), directory, namespace: None, addresses: vec![address] })
    }

    /// In the namespace of a host of a world, such as those that
    /// [`Plan::control_planes`](crate::world::Plan::control_planes) makes: reached at the addresses of its uplink by everybody
    /// in that world; it goes with the world.
    pub fn on_host(world: &World, host: &str) -> Result<Self> {
        let (v4, v6) = world.uplink(host)?.host;
        Ok(Self {
            world: world.id().to_owned(),
            directory: world.data()?,
            namespace: Some(world.namespace(host)?.clone()),
            addresses: vec![v4.into(), v6.into()],
        })
    }

    /// Where it is reached, the first one preferably.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// The one that servers listen at.
    pub(super) fn listens(&self) -> IpAddr {
        match self.addresses[..] {
            [one] => one,
            _ => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    pub(super) fn namespace(&self) -> Option<&Namespace> {
        self.namespace.as_ref()
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// What its processes have in their environment: the mark by which whoever removes the world finds them; and no proxy
    /// of the user's stands between them.
    pub(super) fn environment(&self) -> [(&'static str, &str); 3] {
        [(MARK, &self.world), ("NO_PROXY", "*"), ("no_proxy", "*")]
    }

    /// Runs `work` in its namespace.
    pub(super) fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        match &self.namespace {
            Some(namespace) => namespace.run(work),
            None => work(),
        }
    }

    pub(super) fn process(
        &self,
        name: &str,
        program: &Path,
        arguments: &[&str],
        log: &Path,
    ) -> Result<Process> {
        let environment = self.environment();
        Process::start_marked(name, self.namespace.as_ref(), &environment, program, arguments, log)
    }

    /// Ports for one control plane that nobody listens at.
    pub(super) fn ports(&self) -> Result<Ports> {
        self.run(|| {
            let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
            let (etcd, peer) = (free_port(loopback)?, free_port(loopback)?);
            Ok(Ports { etcd, peer, api_server: free_port(self.listens())? })
        })
    }
}

/// Of one control plane; they stay the same when it is started again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    pub(super) etcd: u16,
    pub(super) peer: u16,
    pub(super) api_server: u16,
}

/// Never the same twice in this process; another process begins elsewhere.
fn free_port(address: IpAddr) -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let begin = u16::try_from(std::process::id() % 1_000 * 10).expect("below 10,000");
    for _ in 0..PORTS {
        let offset = begin + NEXT.fetch_add(1, Ordering::Relaxed) % PORTS;
        let port = FIRST_PORT + offset % PORTS;
        if TcpListener::bind((address, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port of {address} from {FIRST_PORT} to {} is free", FIRST_PORT + PORTS - 1)
}
