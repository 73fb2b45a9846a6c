//! The BPF programs by themselves, through BPF_PROG_TEST_RUN: rows of packets, and random packets against a model.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "programs/differential.rs"]
mod differential;
