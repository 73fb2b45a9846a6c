//! One probe: sockets, and what they say.
//!
//! Sockets are closed by a reset, never orderly: all endpoints of a service are asked at the same address and port,
//! so that a minute of TIME_WAIT for each probe would soon leave no client port to ask from.
//!
//! A TCP probe does not even finish the handshake (the SYN-ACK is all that it wants): with the ACK held back, the
//! reset answers the SYN-ACK. The application never sees a connection that says nothing, and the receiver's table
//! holds no flow of it.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fairlead_core::model::ProbeKind;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

mod http;
mod tls;

/// What to ask, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// Where to connect to.
    pub(super) to: SocketAddr,
    /// The VIP and its port, as HTTP names the host.
    pub(super) vip: SocketAddr,
    /// Of the socket; `None`: not through a tunnel.
    pub(super) mark: Option<u32>,
    pub(super) kind: ProbeKind,
    pub(super) path: Arc<str>,
    pub(super) timeout: Duration,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Outcome {
    Passed,
    Failed(Failure),
    /// This node could not ask; that says nothing about the endpoint.
    Unsent(io::Error),
}

/// Why a probe failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Connection refused.
    Refused,
    /// No answer in time.
    Timeout,
    /// The connection ended before the answer, or its address can't be reached.
    Disconnected,
    /// HTTP, but not 200 to 399.
    Status(u16),
    /// Not HTTP.
    NotHttp,
    /// The handshake failed.
    Tls,
}

/// Asks; a trait so that the prober's schedule is tested without sockets.
pub(super) trait Ask: Clone + Send + 'static {
    fn ask(&self, question: Question) -> impl Future<Output = Outcome> + Send;
}

/// Asks by real sockets.
#[derive(Clone)]
pub(super) struct Sockets {
    /// What sockets with a mark are bound to.
    interface: Option<Arc<str>>,
    tls: TlsConnector,
}

impl Sockets {
    pub(super) fn new(interface: Option<Arc<str>>) -> Result<Self, super::Error> {
        Ok(Self { interface, tls: TlsConnector::from(Arc::new(tls::config().map_err(super::Error::Tls)?)) })
    }

    fn socket(&self, question: &Question) -> io::Result<TcpSocket> {
        let socket = if question.to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_zero_linger()?;
        let options = SockRef::from(&socket);
        if question.kind == ProbeKind::Tcp {
            options.set_tcp_quickack(false)?;
        }
        if let Some(mark) = question.mark {
            options.set_mark(mark)?;
            // A local route for the VIP, with which a proxy takes its connections, must not keep the probe here.
            options.bind_device(self.interface.as_deref().map(str::as_bytes))?;
        }
        Ok(socket)
    }

    async fn connect(&self, question: &Question, deadline: Instant) -> Result<TcpStream, Outcome> {
        let socket = self.socket(question).map_err(Outcome::Unsent)?;
        match timeout_at(deadline, socket.connect(question.to)).await {
            Ok(connected) => connected.map_err(not_connected),
            Err(_) => Err(Outcome::Failed(Failure::Timeout)),
        }
    }
}

impl Ask for Sockets {
    async fn ask(&self, question: Question) -> Outcome {
        let deadline = Instant::now() + question.timeout;
        let stream = match self.connect(&question, deadline).await {
            Ok(stream) => stream,
            Err(outcome) => return outcome,
        };
        match question.kind {
            ProbeKind::Tcp | ProbeKind::None => Outcome::Passed,
            ProbeKind::Http => converse(stream, &question, deadline).await,
            ProbeKind::Https => {
                let name = ServerName::IpAddress(question.vip.ip().into());
                match timeout_at(deadline, self.tls.connect(name, stream)).await {
                    Ok(Ok(stream)) => converse(stream, &question, deadline).await,
                    Ok(Err(_)) => Outcome::Failed(Failure::Tls),
                    Err(_) => Outcome::Failed(Failure::Timeout),
                }
            }
        }
    }
}

/// Asks for the path, and lets the endpoint close.
async fn converse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    question: &Question,
    deadline: Instant,
) -> Outcome {
    let answer = timeout_at(deadline, http::get(&mut stream, question.vip, &question.path)).await;
    if answer.is_ok() {
        http::part(&mut stream).await;
    }
    match answer {
        Ok(Ok(())) => Outcome::Passed,
        Ok(Err(failure)) => Outcome::Failed(failure),
        Err(_) => Outcome::Failed(Failure::Timeout),
    }
}

/// Whether a connection failed there or here.
fn not_connected(error: io::Error) -> Outcome {
    use io::ErrorKind;
    match error.kind() {
        ErrorKind::ConnectionRefused => Outcome::Failed(Failure::Refused),
        ErrorKind::TimedOut => Outcome::Failed(Failure::Timeout),
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::HostUnreachable => {
            Outcome::Failed(Failure::Disconnected)
        }
        // No client port, no memory, no route, forbidden by a filter: all on this node.
        _ => Outcome::Unsent(error),
    }
}
