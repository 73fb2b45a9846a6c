//! fairlead's BPF programs: what XDP and TCX do on a node's NIC.
//!
//! A packet comes in through [`fast`]: what is for a VIP is steered and forwarded, what isn't is passed. All that is
//! not the rule goes on in [`slow`], a program of its own with a stack of its own: tags, options, ICMP, endpoints
//! on this node, and every drop. Tunnel packets for the [`receiver`] go on in [`tunnel`], which has a rule of its own and
//! leaves the rest to the slow path, too. Replies and probes leave through [`egress`].
//! What a receiver doesn't know comes back by [`bounce`], and a [`fragment`] follows its datagram's first one. The agent fills
//! the maps; the programs write only counters, flows, first fragments, limits and reports, and remove entries of the [`cache`].
//! Nothing here loops
//! without a bound, and every dropped packet has a [`DropReason`](fairlead_abi::DropReason).
#![no_std]
#![expect(
    clippy::cast_possible_truncation,
    reason = "offsets and lengths are checked against the packet before; a fallible conversion leaves a branch in each program"
)]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a map key given by value is copied to the stack, which has 512 bytes"
)]
#![cfg_attr(
    target_arch = "bpf",
    feature(asm_experimental_arch, core_intrinsics),
    expect(internal_features, reason = "see `packet`")
)]

pub mod allowed;
pub mod ask;
pub mod bounce;
pub mod cache;
pub mod checksum;
pub mod count;
pub mod egress;
pub mod encap;
pub mod fast;
pub mod fragment;
pub mod gateway;
pub mod headers;
pub mod icmp;
pub mod limit;
pub mod maps;
pub mod packet;
pub mod parse;
pub mod part;
pub mod probe;
pub mod quic;
pub mod receiver;
pub mod recent;
pub mod reply;
pub mod report;
pub mod slow;
pub mod socket;
pub mod steer;
pub mod tunnel;
pub mod verdict;

/// Reads one field of the settings that the program was loaded with.
#[macro_export]
macro_rules! setting {
    ($($field:ident).+) => {{
        // SAFETY: a read-only static; volatile, because the loader replaces its bytes.
        unsafe { core::ptr::read_volatile(&raw const $crate::maps::SETTINGS.$($field).+) }
    }};
}
