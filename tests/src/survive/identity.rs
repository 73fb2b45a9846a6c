//! Who answers: a server is one start of one process in one pod, and each of its connections has a number.
//!
//! A connection that comes to another server, or to the same one as another connection, gives itself away by this.

use std::fmt;
use std::sync::Arc;

/// One start of a pod's server.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Server {
    /// Its pod.
    pub pod: Arc<str>,
    /// The number of its process.
    pub start: u32,
}

/// A server, and which of its connections this is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Who answers.
    pub server: Server,
    /// Counted by the server.
    pub connection: u64,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pod={} start={}", self.pod, self.start)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} connection={}", self.server, self.connection)
    }
}

impl Server {
    /// From what its display says.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let pod = words.next()?.strip_prefix("pod=")?.into();
        let start = words.next()?.strip_prefix("start=")?.parse().ok()?;
        words.next().is_none().then_some(Self { pod, start })
    }
}

impl Identity {
    /// From what its display says.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (server, connection) = text.split_once(" connection=")?;
        Some(Self { server: Server::parse(server)?, connection: connection.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_understood() {
        let identity = Identity { server: Server { pod: "pod-a-1".into(), start: 42 }, connection: 7 };
        assert_eq!(identity.to_string(), "pod=pod-a-1 start=42 connection=7");
        assert_eq!(Identity::parse(&identity.to_string()), Some(identity.clone()));
        assert_eq!(Server::parse(&identity.server.to_string()), Some(identity.server));
        for text in ["", "pod=a", "pod=a start=x", "pod=a start=1 more=2", "pod=a start=1 connection=-1"] {
            assert_eq!((Server::parse(text), Identity::parse(text)), (None, None), "{text}");
        }
    }
}
