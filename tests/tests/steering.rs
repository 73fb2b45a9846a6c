//! One VIP, served by agents on gateways and nodes: real packets through real programs, seen from the client.
#![allow(clippy::unwrap_used, unreachable_pub, reason = "tests, and nobody's library")]

#[path = "steering/agent.rs"]
mod agent;
#[path = "steering/allowed.rs"]
mod allowed;
#[path = "steering/asked.rs"]
mod asked;
#[path = "steering/carried.rs"]
mod carried;
#[path = "steering/clocks.rs"]
mod clocks;
#[path = "steering/cni.rs"]
mod cni;
#[path = "steering/commands.rs"]
mod commands;
#[path = "steering/drained.rs"]
mod drained;
#[path = "steering/explained.rs"]
mod explained;
#[path = "steering/fragments.rs"]
mod fragments;
#[path = "steering/full.rs"]
mod full;
#[path = "steering/health.rs"]
mod health;
#[path = "steering/input.rs"]
mod input;
#[path = "steering/killed.rs"]
mod killed;
#[path = "steering/node.rs"]
mod node;
#[path = "steering/places.rs"]
mod places;
#[path = "steering/quic.rs"]
mod quic;
#[path = "steering/served.rs"]
mod served;
#[path = "steering/serving.rs"]
mod serving;
#[path = "steering/sockets.rs"]
mod sockets;
#[path = "steering/swapped.rs"]
mod swapped;
#[path = "steering/tables.rs"]
mod tables;
#[path = "steering/upgrade.rs"]
mod upgrade;
