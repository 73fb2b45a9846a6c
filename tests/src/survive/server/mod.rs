//! The server in the pods of this world: connections of TCP and QUIC that last, and a UDP echo.
//!
//! A connection's first line says what it is for ([`Request`]); the answer is a line that says who answers, and then:
//! a download gets its bytes at their pace, the rest of them at once when the client sends a byte; an upload is read and
//! judged; anything else is answered line by line. A datagram comes back with who answers. Thousands of
//! connections are one process with one thread.

mod held;
mod request;
mod tasks;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use fairlead_core::model::ServerId;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpSocket, UdpSocket};

use super::identity::{Identity, Server};
use crate::quic;
use held::Held;
#[cfg(test)]
pub(super) use held::log_file;
pub(super) use held::{Line, PERIOD};
pub(super) use request::piece;
pub use request::{PACE, Request};

/// What all tasks of a server share.
struct Place {
    server: Server,
    connections: AtomicU64,
    held: Held,
}

impl Place {
    /// Who answers this connection from now on; the log says so within [`held::PERIOD`].
    fn hold(&self, client: SocketAddr) -> Identity {
        let connection = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
        self.held.note(client, connection);
        Identity { server: self.server.clone(), connection }
    }
}

/// Where a server listens.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// TCP.
    pub tcp: u16,
    /// The UDP echo.
    pub udp: u16,
    /// QUIC.
    pub quic: u16,
}

/// Serves until the process is ended. `log` is the directory of the server's log.
pub fn run(pod: &str, log: &Path, ports: Ports, addresses: &[IpAddr]) -> Result<()> {
    allow_many_files()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    runtime.block_on(serve(pod, log, ports, addresses))
}

/// Serves as long as its runtime lives.
pub(super) async fn serve(pod: &str, log: &Path, ports: Ports, addresses: &[IpAddr]) -> Result<()> {
    let server = Server { pod: pod.into(), start: std::process::id() };
    let held = Held::create(log, &server)?;
    let place = Arc::new(Place { server, connections: AtomicU64::new(0), held });
    // One is enough for all of its addresses.
    let id = ServerId::of(*addresses.first().context("no address")?);
    for &address in addresses {
        let quic = quic::serve(SocketAddr::new(address, ports.quic), id)?;
        tokio::spawn(tasks::accept_quic(quic, Arc::clone(&place)));
        let udp = SocketAddr::new(address, ports.udp);
        let udp = UdpSocket::bind(udp).await.with_context(|| format!("listen on {udp}"))?;
        tokio::spawn(tasks::echo_datagrams(udp, place.server.to_string()));
        let tcp = SocketAddr::new(address, ports.tcp);
        let tcp = listen(tcp).with_context(|| format!("listen on {tcp}"))?;
        tokio::spawn(tasks::accept(tcp, Arc::clone(&place)));
    }
    place.held.keep_writing().await
}

/// With room for a thousand clients that come at once.
fn listen(address: SocketAddr) -> Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket.listen(4096)?)
}

/// Raises the limit of open files as far as it goes.
pub(super) fn allow_many_files() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raise the limit of open files")
}
