//! Probes: what this gateway sees of the endpoints.
//!
//! In come [`Targets`], derived from the model and its tables; out goes the core's
//! [`Health`](fairlead_core::model::Health), published as soon as an endpoint's state flips. A probe takes the way
//! of the traffic: it connects to the VIP, and the programs encapsulate it to the endpoint. Endpoints of this node
//! are asked directly, without a tunnel.
//!
//! Nothing here decides whether an endpoint is used: that is the planner's. UDP ports aren't probed; the planner
//! lets them follow the TCP ports of their pod.

mod ask;
mod counters;
mod judge;
mod numbers;
mod prober;
mod probing;
mod schedule;
mod targets;

pub use counters::{Counters, Snapshot};
pub use numbers::ProbeTable;
pub use prober::{Prober, Settings};
pub use targets::{Deriver, Outer, ServiceTargets, Target, Targets, Way};

/// Why the prober can't work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// How many files may be open can't be read.
    #[error("reading the limit of open files: {0}")]
    OpenFiles(#[source] std::io::Error),
    /// TLS can't be set up.
    #[error("setting TLS up for HTTPS probes: {0}")]
    Tls(#[source] tokio_rustls::rustls::Error),
}

#[cfg(test)]
mod tests;
