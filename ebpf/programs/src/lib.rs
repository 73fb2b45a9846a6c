//! fairlead's BPF programs: what XDP and TCX do on a node's NIC.
//!
//! A packet comes in through [`gateway`] (for a VIP: steer and forward) or [`receiver`] (a gateway's tunnel
//! packet: unwrap and deliver); replies and probes leave through [`egress`]. The agent fills the maps; the
//! programs write only counters, flows and the rate limit. Nothing here loops without a bound, and every
//! dropped packet has a [`DropReason`](fairlead_abi::DropReason).
#![no_std]

pub mod checksum;
pub mod count;
pub mod egress;
pub mod encap;
pub mod gateway;
pub mod headers;
pub mod icmp;
pub mod ingress;
pub mod maps;
pub mod packet;
pub mod parse;
pub mod probe;
pub mod receiver;
pub mod reply;
pub mod steer;

/// Reads one field of the settings that the program was loaded with.
#[macro_export]
macro_rules! setting {
    ($field:ident) => {{
        // SAFETY: a read-only static; volatile, because the loader replaces its bytes.
        unsafe { core::ptr::read_volatile(&raw const $crate::maps::SETTINGS.$field) }
    }};
}
