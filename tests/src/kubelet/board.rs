//! What becomes of a pod's containers, told as it happens.
//!
//! In: what those who keep containers see. Out: the newest of it, for whoever writes the pod's status.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;

/// A container, as its pod's status will show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) state: State,
    pub(super) last: Option<Ended>,
    pub(super) restarts: i32,
    pub(super) started: bool,
    pub(super) ready: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    Waiting { reason: String, message: String },
    Running { since: Timestamp },
    Ended(Ended),
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// 128 and the signal where one ended it.
    pub(super) code: i32,
    pub(super) signal: Option<i32>,
    pub(super) reason: &'static str,
    pub(super) message: String,
    pub(super) began: Timestamp,
    pub(super) at: Timestamp,
}

/// All of a pod's containers by name.
#[derive(Debug)]
pub(super) struct Board(watch::Sender<BTreeMap<String, Seen>>);

impl Board {
    /// With these containers, which wait for that reason.
    pub(super) fn new(names: impl Iterator<Item = (String, &'static str)>) -> Self {
        let waits = |reason: &str| Seen {
            state: State::Waiting { reason: reason.to_owned(), message: String::new() },
            last: None,
            restarts: 0,
            started: false,
            ready: false,
        };
        Self(watch::channel(names.map(|(name, reason)| (name, waits(reason))).collect()).0)
    }

    pub(super) fn look(&self) -> watch::Receiver<BTreeMap<String, Seen>> {
        self.0.subscribe()
    }

    /// Tells only what is new.
    pub(super) fn change(&self, name: &str, change: impl FnOnce(&mut Seen)) {
        self.0.send_if_modified(|all| {
            let Some(seen) = all.get_mut(name) else { return false };
            let before = seen.clone();
            change(seen);
            *seen != before
        });
    }

    pub(super) fn wait(&self, name: &str, reason: &str, message: &str) {
        self.change(name, |seen| {
            if let State::Ended(ended) = &seen.state {
                seen.last = Some(ended.clone());
            }
            seen.state = State::Waiting { reason: reason.to_owned(), message: message.to_owned() };
        });
    }

    /// Waits until a container has started, by its startup probe where it has one.
    pub(super) async fn until_started(&self, name: &str) {
        let mut look = self.look();
        let started = |all: &BTreeMap<String, Seen>| all.get(name).is_none_or(|seen| seen.started);
        // The sender is ours, and lives.
        let _lives = look.wait_for(started).await;
    }
}
