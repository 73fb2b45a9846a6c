//! fairlead's decisions, as values.
//!
//! [`model`] says what is wanted: it merges the declared configuration and what many clusters report into one
//! set of services. [`planner`] turns a model into the tables that the kernel should hold, and the difference
//! to what it holds into an ordered plan. [`asks`] finds out which backend a flow is at, where no table says it,
//! [`fragments`] holds what came too early.
//!
//! Nothing here does I/O, reads a clock or runs a task: the same arguments give the same bytes on every machine.
#![forbid(unsafe_code)]

pub mod asks;
#[cfg(test)]
mod fixtures;
pub mod fragments;
pub mod model;
pub mod planner;
mod stable;
