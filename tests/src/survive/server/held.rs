//! A server's log: whose connections it held, and until when it lived.
//!
//! A file for each start of the process. Lines are gathered and written every [`PERIOD`], each time with the time
//! of [`clock`](crate::survive::clock): a server that is killed -9 has been alive until its last one, and not for longer
//! than a period after it. Its lock tells whether it still lives.

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::{MissedTickBehavior, interval};

use crate::survive::clock;
use crate::survive::identity::Server;

/// From one writing to the next.
pub(in crate::survive) const PERIOD: Duration = Duration::from_millis(100);

/// A line of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::survive) enum Line {
    /// It has answered this client on its connection of this number.
    Held(SocketAddr, u64),
    /// It lived at this time.
    Alive(Duration),
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held(client, connection) => writeln!(f, "held {client} {connection}"),
            Self::Alive(at) => writeln!(f, "alive {}", at.as_millis()),
        }
    }
}

impl Line {
    /// `None` also for one that was cut off by the end of its writer.
    pub(in crate::survive) fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_suffix('\n')?.split(' ');
        match (words.next()?, words.next()?, words.next()) {
            ("held", client, Some(connection)) => {
                Some(Self::Held(client.parse().ok()?, connection.parse().ok()?))
            }
            ("alive", at, None) => Some(Self::Alive(Duration::from_millis(at.parse().ok()?))),
            _ => None,
        }
    }
}

/// The file of a server's log.
pub(in crate::survive) fn log_file(directory: &Path, start: u32) -> PathBuf {
    directory.join(format!("held-{start}.log"))
}

/// The log that a server writes.
pub(super) struct Held {
    /// Locked as long as the process lives.
    file: File,
    gathered: Mutex<String>,
}

impl Held {
    pub(super) fn create(directory: &Path, server: &Server) -> Result<Self> {
        let path = log_file(directory, server.start);
        let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
        file.lock()?;
        Ok(Self { file, gathered: Mutex::new(Line::Alive(clock::now()).to_string()) })
    }

    /// Costs nothing now.
    pub(super) fn note(&self, client: SocketAddr, connection: u64) {
        let line = Line::Held(client, connection).to_string();
        self.gathered.lock().expect("never poisoned: nothing panics under it").push_str(&line);
    }

    /// Writes what was gathered, again and again.
    pub(super) async fn keep_writing(&self) -> Result<()> {
        let mut times = interval(PERIOD);
        times.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            times.tick().await;
            let mut lines = std::mem::take(&mut *self.gathered.lock().expect("never poisoned"));
            lines.push_str(&Line::Alive(clock::now()).to_string());
            (&self.file).write_all(lines.as_bytes()).context("write the log")?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_understood_unless_they_are_cut_off() {
        let client = "[2001:db8::1]:10000".parse().unwrap();
        for line in [Line::Held(client, 3), Line::Alive(Duration::from_millis(1234))] {
            let text = line.to_string();
            assert_eq!(Line::parse(&text), Some(line));
            assert_eq!(Line::parse(text.trim_end()), None);
        }
        assert_eq!(Line::parse("alive now\n"), None);
    }
}
