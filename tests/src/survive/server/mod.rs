//! The server in the pods of this world: TCP connections that last, and a UDP echo.
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
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpSocket, UdpSocket};

use super::identity::{Identity, Server};
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

/// Serves until the process is ended. `log` is the directory of the server's log.
pub fn run(pod: &str, log: &Path, tcp_port: u16, udp_port: u16, addresses: &[IpAddr]) -> Result<()> {
    allow_many_files()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    runtime.block_on(serve(pod, log, tcp_port, udp_port, addresses))
}

/// Serves as long as its runtime lives.
pub(super) async fn serve(
    pod: &str,
    log: &Path,
    tcp_port: u16,
    udp_port: u16,
    addresses: &[IpAddr],
) -> Result<()> {
    let server = Server { pod: pod.into(), start: std::process::id() };
    let held = Held::create(log, &server)?;
    let place = Arc::new(Place { server, connections: AtomicU64::new(0), held });
    for &address in addresses {
        let udp = SocketAddr::new(address, udp_port);
        let udp = UdpSocket::bind(udp).await.with_context(|| format!("listen on {udp}"))?;
        tokio::spawn(tasks::echo_datagrams(udp, place.server.to_string()));
        let tcp = SocketAddr::new(address, tcp_port);
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
