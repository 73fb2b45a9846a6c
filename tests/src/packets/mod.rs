//! The BPF programs by themselves: a packet in, a verdict and a packet out.
//!
//! [`build`] writes packets from scratch, with checksums of its own; a [`Lab`] loads the programs on maps filled from
//! [`Tables`] and runs them by BPF_PROG_TEST_RUN; [`model`] says in plain Rust what they must do, sharing nothing
//! with them but the abi crate; [`random`] makes packets of all kinds and spoils them. What differs between program
//! and model is printed as a [`Row`](report::Row).
pub mod build;
pub mod checksum;
pub mod counts;
pub mod lab;
pub mod model;
pub mod pod;
pub mod random;
pub mod report;
pub mod tables;

pub use build::{Carried, Frame, IpPacket};
pub use counts::Counts;
pub use lab::{Lab, Run};
pub use tables::{Service, Tables};
