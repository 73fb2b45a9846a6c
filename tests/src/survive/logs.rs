//! What the servers' logs say: who lived until when, and held whose connections.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::identity::Server;
use super::server::Line;

/// The logs of all servers that there have been.
#[derive(Debug, Default)]
pub struct Logs {
    lives: BTreeMap<Server, Life>,
}

/// What the log of one server says.
#[derive(Debug, Default)]
struct Life {
    /// It was alive then, and died at most a period of its log later.
    last_sign: Duration,
    ended: bool,
    /// Its clients, each with when its log said so.
    held: Vec<(SocketAddr, Duration)>,
}

impl Logs {
    /// Reads those in the directories of these pods.
    pub fn read<'a>(pods: impl IntoIterator<Item = (&'a str, &'a Path)>) -> Result<Self> {
        let mut logs = Self::default();
        for (pod, directory) in pods {
            for entry in fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))? {
                let path = entry?.path();
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                let start = name.strip_prefix("held-").and_then(|name| name.strip_suffix(".log"));
                if let Some(start) = start.and_then(|start| start.parse().ok()) {
                    logs.lives.insert(Server { pod: pod.into(), start }, Life::read(&path)?);
                }
            }
        }
        Ok(logs)
    }

    /// Whether a server was dead at this time.
    #[must_use]
    pub fn was_dead(&self, server: &Server, at: Duration) -> bool {
        self.lives.get(server).is_some_and(|life| life.ended && life.last_sign <= at)
    }

    /// The server that took a client after this time.
    #[must_use]
    pub fn server_of(&self, client: SocketAddr, after: Duration) -> Option<&Server> {
        let held = |life: &Life| life.held.iter().any(|&(held, at)| held == client && at >= after);
        Some(self.lives.iter().find(|(_, life)| held(life))?.0)
    }

    /// Whether any server died between these times.
    #[must_use]
    pub fn one_died(&self, after: Duration, before: Duration) -> bool {
        self.lives.values().any(|life| {
            life.ended && life.last_sign + super::server::PERIOD >= after && life.last_sign <= before
        })
    }
}

impl Life {
    fn read(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        // Asked before reading: what is written after it doesn't count as its last.
        let ended = !matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock));
        let mut life = Self { ended, ..Self::default() };
        let mut clients = Vec::new();
        let (mut file, mut line) = (BufReader::new(file), String::new());
        while file.read_line(&mut line)? > 0 {
            match Line::parse(&line) {
                Some(Line::Held(client, _)) => clients.push(client),
                Some(Line::Alive(at)) => {
                    life.last_sign = at;
                    life.held.extend(clients.drain(..).map(|client| (client, at)));
                }
                // Its writer was killed in the midst of it.
                None => {}
            }
            line.clear();
        }
        Ok(life)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::survive::server::log_file;

    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("fairlead-logs-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn the_dead_are_told_from_the_living_by_their_locks_and_last_words() {
        let directory = Directory::new("dead");
        let text = "alive 1000\nheld 192.0.2.1:10000 1\nalive 1100\nheld 192.0.2.1:10001 2\nalive 12";
        let [dead, living] = [1, 2].map(|start| {
            fs::write(log_file(&directory.0, start), text).unwrap();
            Server { pod: "a".into(), start }
        });
        let lock = File::open(log_file(&directory.0, living.start)).unwrap();
        lock.lock().unwrap();
        let logs = Logs::read([("a", directory.0.as_path())]).unwrap();
        let ms = Duration::from_millis;
        assert!(logs.was_dead(&dead, ms(1100)));
        assert!(!logs.was_dead(&dead, ms(1099)));
        assert!(!logs.was_dead(&living, ms(5000)));
        assert!(!logs.was_dead(&Server { pod: "b".into(), start: 1 }, ms(5000)));
        assert!(logs.one_died(ms(1150), ms(1300)));
        assert!(!logs.one_died(ms(1250), ms(1300)));
        assert!(!logs.one_died(ms(900), ms(1050)));
    }

    #[test]
    fn clients_are_found_where_they_are_held() {
        let directory = Directory::new("clients");
        fs::write(log_file(&directory.0, 1), "held 192.0.2.1:10000 1\nalive 1100\n").unwrap();
        let logs = Logs::read([("a", directory.0.as_path())]).unwrap();
        let client: SocketAddr = "192.0.2.1:10000".parse().unwrap();
        let server = Server { pod: "a".into(), start: 1 };
        assert_eq!(logs.server_of(client, Duration::from_millis(1050)), Some(&server));
        assert_eq!(logs.server_of(client, Duration::from_millis(1101)), None, "that was an earlier one");
        assert_eq!(logs.server_of("192.0.2.1:10001".parse().unwrap(), Duration::ZERO), None);
    }
}
