//! The BPF programs by themselves, through BPF_PROG_TEST_RUN: rows of packets, and random packets against a model.
#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "tests: of small numbers, and nobody's library"
)]

#[path = "programs/allowed.rs"]
mod allowed;
#[path = "programs/ask.rs"]
mod ask;
#[path = "programs/bounce.rs"]
mod bounce;
#[path = "programs/by_hand.rs"]
mod by_hand;
#[path = "programs/carried.rs"]
mod carried;
#[path = "programs/cut.rs"]
mod cut;
#[path = "programs/differential.rs"]
mod differential;
#[path = "programs/egress.rs"]
mod egress;
#[path = "programs/flows.rs"]
mod flows;
#[path = "programs/forward.rs"]
mod forward;
#[path = "programs/fragments.rs"]
mod fragments;
#[path = "programs/icmp.rs"]
mod icmp;
#[path = "programs/knowing.rs"]
mod knowing;
#[path = "programs/node.rs"]
mod node;
#[path = "programs/probe.rs"]
mod probe;
#[path = "programs/quic.rs"]
mod quic;
#[path = "programs/receive.rs"]
mod receive;
#[path = "programs/recent.rs"]
mod recent;
#[path = "programs/refuse.rs"]
mod refuse;
#[path = "programs/sockets.rs"]
mod sockets;
#[path = "programs/spread.rs"]
mod spread;
#[path = "programs/story.rs"]
mod story;
#[path = "programs/swept.rs"]
mod swept;
#[path = "programs/too_big.rs"]
mod too_big;
