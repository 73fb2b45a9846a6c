//! What is remembered of each request.

use std::fmt;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

/// How a request is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// HTTP on a connection of its own.
    NewConnection,
    /// HTTP on a connection that stays.
    KeptConnection,
    /// One datagram and its answer, from a port of its own.
    Datagram,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NewConnection => "new connection",
            Self::KeptConnection => "kept connection",
            Self::Datagram => "datagram",
        })
    }
}

/// Who answered.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// The pod's zone.
    pub zone: Arc<str>,
    /// The pod's cluster.
    pub cluster: Arc<str>,
    /// The pod.
    pub pod: Arc<str>,
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Failure {
    /// No complete answer in time.
    #[error("no complete answer in time")]
    Timeout,
    /// RST, or an ICMP error that says that nobody listens.
    #[error("refused")]
    Refused,
    /// RST on an established connection.
    #[error("reset")]
    Reset,
    /// The connection ended in the middle.
    #[error("closed before the answer was complete")]
    Closed,
    /// An ICMP error, or no route.
    #[error("unreachable")]
    Unreachable,
    /// An HTTP status other than 200.
    #[error("status {0}")]
    Status(u16),
    /// Not what our servers answer.
    #[error("malformed answer")]
    Malformed,
    /// Anything else.
    #[error("{0}")]
    Other(ErrorKind),
}

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    /// Name of the client.
    pub client: Arc<str>,
    /// How it was made.
    pub kind: Kind,
    /// Where to: VIP and port.
    pub server: SocketAddr,
    /// The client's port; 0 where it has failed before it had one.
    pub port: u16,
    /// From the load's start to its own.
    pub started: Duration,
    /// From its start to the answer or failure.
    pub took: Duration,
    /// Who answered on this connection before; `None` for a connection's first request.
    pub before: Option<Identity>,
    /// Who answered, or why nobody did.
    pub outcome: Result<Identity, Failure>,
    /// Whether it failed only because the slot of its connection was moved. The load can't know; whoever counts
    /// finds out and sets it.
    pub broken_by_move: bool,
}

impl Request {
    /// Whether it was answered.
    #[must_use]
    pub fn answered(&self) -> bool {
        self.outcome.is_ok()
    }

    /// Whether it failed on a connection, and not for want of one.
    #[must_use]
    pub fn broke_connection(&self) -> bool {
        self.kind != Kind::Datagram && self.port != 0 && self.outcome.is_err()
    }
}

impl Identity {
    /// From `zone=Z cluster=C pod=P`, anything after it on the line ignored.
    #[must_use]
    pub fn parse(answer: &[u8]) -> Option<Self> {
        let line = answer.split(|&byte| byte == b'\n').next()?;
        let mut words = str::from_utf8(line).ok()?.split(' ');
        let mut word = |name: &str| Some(words.next()?.strip_prefix(name)?.strip_prefix('=')?.into());
        Some(Self { zone: word("zone")?, cluster: word("cluster")?, pod: word("pod")? })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.cluster, self.pod)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionRefused => Self::Refused,
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Self::Reset,
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown => {
                Self::Unreachable
            }
            ErrorKind::TimedOut => Self::Timeout,
            ErrorKind::UnexpectedEof => Self::Closed,
            kind => Self::Other(kind),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities() {
        let identity = Identity::parse(b"zone=a cluster=b pod=c received=7\nrest").unwrap();
        assert_eq!((&*identity.zone, &*identity.cluster, &*identity.pod), ("a", "b", "c"));
        assert_eq!(Identity::parse(b"zone=a pod=c cluster=b\n"), None);
        assert_eq!(Identity::parse(b"<html>"), None);
        assert_eq!(Identity::parse(b""), None);
    }
}
