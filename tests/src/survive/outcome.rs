//! What became of a connection.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use thiserror::Error;

use super::identity::Server;

/// What a connection is made of, as in a row of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over either: a flow counts as a connection.
    Udp,
    /// QUIC over either.
    Quic,
}

/// All of them.
pub const PROTOCOLS: [Protocol; 4] = [Protocol::Tcp4, Protocol::Tcp6, Protocol::Udp, Protocol::Quic];

impl Protocol {
    /// Of a TCP connection to this server.
    #[must_use]
    pub fn tcp(server: SocketAddr) -> Self {
        if server.is_ipv4() { Self::Tcp4 } else { Self::Tcp6 }
    }

    /// As in the report.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp4 => "tcp4",
            Self::Tcp6 => "tcp6",
            Self::Udp => "udp",
            Self::Quic => "quic",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What a connection is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Bytes come all the time.
    Download,
    /// Bytes go all the time.
    Upload,
    /// Silent from before the event until after it.
    Idle,
    /// A line and its answer, again and again.
    Chatty,
    /// Two lines; opened and closed all the time.
    Short,
    /// Datagrams and their answers.
    Flow,
}

/// How a connection broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Error)]
pub enum Break {
    /// RST.
    #[error("reset")]
    Reset,
    /// The server ended it too early.
    #[error("closed")]
    Closed,
    /// Nothing came for longer than the client's patience.
    #[error("unanswered")]
    Unanswered,
    /// Another server answered, or the same one as another connection.
    #[error("answered by another")]
    OtherServer,
    /// Other bytes than those that were asked for.
    #[error("wrong bytes")]
    WrongBytes,
    /// An ICMP error, or no route.
    #[error("unreachable")]
    Unreachable,
    /// Opened again from the same port, it did not come about.
    #[error("not opened again")]
    NotOpened,
    /// Anything else.
    #[error("{0}")]
    Other(ErrorKind),
}

impl From<io::Error> for Break {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionRefused => Self::Reset,
            ErrorKind::UnexpectedEof => Self::Closed,
            ErrorKind::TimedOut => Self::Unanswered,
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Self::Unreachable,
            kind => Self::Other(kind),
        }
    }
}

/// One connection from its opening to its end. Times are those of [`clock`](super::clock).
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What it was made of.
    pub protocol: Protocol,
    /// What it was used for.
    pub kind: Kind,
    /// The client's end.
    pub client: SocketAddr,
    /// When its client began to open it.
    pub opened: Duration,
    /// Who answered first; `None` where it broke before that.
    pub server: Option<Server>,
    /// How it broke, and when its client noticed.
    pub broken: Option<(Break, Duration)>,
    /// The longest time that its client waited for what it should have got at once.
    pub longest_stall: Duration,
}
