//! What is wanted: clusters, services, shards, endpoints, health.
//!
//! In come the node's declarations, what each cluster's source reports, and probe results; out goes a [`Model`]
//! of federated services with the [`Problem`]s that were found. A bad object rejects itself, never its
//! neighbours. No file, socket or clock is touched here; time is an argument.

mod allowed;
mod declared;
mod demand;
mod draft;
mod endpoints;
mod health;
mod held;
mod merge;
mod name;
mod options;
mod ports;
mod problem;
mod server_id;
mod service;
mod shard;
mod sources;
mod unhonoured;
mod vip;
mod withdrawal;

pub use declared::{Cluster, Declarations, Distances, Gateway, Here, Tuning, Tunnel};
pub use demand::{Demand, DemandFilter};
pub use endpoints::{Rejected, Rejection};
pub use health::{Health, Probe, ProbeState, ServiceHealth};
pub use held::{Held, Holding};
pub use merge::merge;
pub use name::{ObjectName, Place, Protocol};
pub use options::{ProbeKind, ProbeOptions, ProbeSpec, ServiceOptions};
pub use problem::Problem;
pub use server_id::{NoServerId, ServerId};
pub use service::{Model, Service, Shard, Vips};
pub use shard::{ClusterState, Conditions, Endpoint, ServicePort, ShardSpec, TargetPorts};
pub use unhonoured::Unhonoured;
pub use withdrawal::Withdrawn;
