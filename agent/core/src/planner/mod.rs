//! A model into what the kernel should hold, and from there into what has to change.
//!
//! Model, health and demand give each shard its share, shares give weights, weights give Maglev rings, and rings
//! make up [`Tables`]. [`diff`] compares them with what is [`Installed`] and orders the changes in a [`Plan`]. The
//! data plane carries a plan out action by action and reports each to [`Installed::apply`]; nothing here talks to
//! the kernel.

mod alarms;
mod candidates;
mod copy;
mod deliveries;
mod diff;
mod history;
mod installed;
mod learn;
mod lingering;
mod maglev;
mod memo;
mod plan;
mod server_ids;
mod service;
mod shares;
mod slots;
mod tables;
mod verdict;
mod zones;

pub use copy::copy;
pub use diff::{Newcomers, diff, follow};
pub use installed::{Capacities, GRACE, Installed, Raw, ReadSlots};
pub use learn::learn;
pub use lingering::{LINGER_MIN, UNKNOWN_POD};
pub use memo::{Inputs, Planned, Planner};
pub(crate) use plan::Slots;
pub use plan::{Action, Full, Map, Plan, PlanError, SlotBlock};
pub use server_ids::{Clash, NamedServer};
pub use tables::{Links, Route, ServiceTable, Tables, WantedBackend};
pub use verdict::{Distance, NotTaken, ShardReport, ShardState, Share, Verdict};

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
