//! Whose is this flow? The asking side of "the endpoint decides".
//!
//! In come packets that all backends refused (by [`Asker::event`]), datagrams from receivers and their agents
//! ([`Asker::received`]), and which backends may hold flows ([`Asker::serve`]). Out come datagrams to send and what
//! was found out ([`Output`], by [`Asker::poll`]); [`Asker::due`] says when to poll next. Time is counted from the
//! agent's start. Nothing here does I/O, and nothing grows with what comes from outside: all is bounded.
//!
//! The same questions watch nodes and bring each backend's counts. A caller hands in all datagrams that have come
//! before it polls, or a node would seem silent whose answer lies in the socket; where it can't, it says so
//! ([`Asker::poll_behind`]).

mod announcements;
mod asker;
mod batches;
mod claims;
mod counters;
mod keys;
mod letters;
mod limits;
mod opening;
mod output;
mod pending;
mod polls;
mod seen;

use std::sync::Arc;

use fairlead_abi::Address;

pub use announcements::{ANNOUNCE_EVERY, Announcing, Counted, STRANGE_EVERY, announcements};
pub use asker::Asker;
pub use batches::BATCH_DELAY;
pub use claims::claims;
pub use counters::Counters;
pub use keys::{Key, Keys, SecretError, Secrets};
pub use limits::{Limits, Rate};
pub use output::Output;
pub use pending::{ANSWER_WITHIN, NOBODY_FOR, SURE_AFTER};
pub use polls::{BEAT, COUNT_EVERY, COUNT_LEAVING_EVERY, Holding, MISSED, NodeId};

/// A backend that may hold flows of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Outer destination: where it is asked, and what identifies it in its service.
    pub outer: Address,
    /// Whose keys its messages have.
    pub cluster: Arc<str>,
    /// Its node in that cluster.
    pub node: Arc<str>,
    /// It takes no new connections.
    pub leaving: bool,
    /// It is on the gateway's own node: no network lies between.
    pub own: bool,
}

impl Backend {
    fn node_id(&self) -> NodeId {
        (Arc::clone(&self.cluster), Arc::clone(&self.node))
    }
}

#[cfg(test)]
mod announcement_tests;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;
