//! What the programs must do, in plain Rust: a frame in, a verdict, a frame and counters out.
//!
//! Written from the design and the abi crate's words, slowly and clearly: whole slices, no fast path, a hash map for
//! each table. It shares with the programs what the abi crate holds (layouts, hashes, reasons) and nothing else.
//! Messages of a gateway's own and bounces are never limited here: tests give the limits room. It has no clock, so it
//! claims nothing.

mod bounce;
mod flows;
mod fragments;
mod gateway;
mod icmp;
mod lookup;
mod parse;
mod quic;
mod receiver;
mod reply;

use fairlead_abi::{DropReason, Roles, Settings};

pub use flows::Flows;
pub use fragments::Fragments;

use super::{
    Counts, Tables,
    report::{DROP, PASS, REDIRECT, TRANSMIT},
};
use lookup::Lookup;
use parse::{Ip, Payload};

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// To the local stack, as this.
    Pass(Vec<u8>),
    /// Out of an interface, as this.
    Send(u32, Vec<u8>),
    /// It is dropped.
    Drop(DropReason),
    /// The agent gets it.
    Hold,
}

/// One node's programs and tables.
#[derive(Clone, Debug)]
pub struct Model {
    settings: Settings,
    lookup: Lookup,
    ingress_ifindex: u32,
    /// What it knows as a receiver.
    pub flows: Flows,
    /// What became of first fragments.
    pub fragments: Fragments,
    /// What it has counted.
    pub counts: Counts,
}

impl Model {
    /// A node without flows, whose packets come in by interface 1.
    #[must_use]
    pub fn new(settings: &Settings, tables: &Tables) -> Self {
        Self {
            settings: *settings,
            lookup: Lookup::new(tables),
            ingress_ifindex: 1,
            flows: Flows::default(),
            fragments: Fragments::default(),
            counts: Counts::default(),
        }
    }

    /// A frame comes in by the NIC: XDP's number, and the frame that goes on.
    pub fn ingress(&mut self, frame: &[u8]) -> (u32, Vec<u8>) {
        match self.decide(frame) {
            Verdict::Pass(frame) => (PASS, frame),
            Verdict::Send(ifindex, frame) if ifindex == self.ingress_ifindex => (TRANSMIT, frame),
            Verdict::Send(_, frame) => (REDIRECT, frame),
            Verdict::Drop(reason) => {
                self.counts.drop_one(reason, frame.len());
                (DROP, vec![])
            }
            Verdict::Hold => (DROP, vec![]),
        }
    }

    fn decide(&mut self, frame: &[u8]) -> Verdict {
        // What is not IP, or not even that, is for the local stack.
        let Some(ip) = parse::frame(frame) else { return Verdict::Pass(frame.to_vec()) };
        if self.is(Roles::GATEWAY)
            && let Some(verdict) = self.come_back(frame, &ip)
        {
            return verdict;
        }
        if self.is(Roles::RECEIVER)
            && let Some(verdict) = self.receive(frame, &ip)
        {
            return verdict;
        }
        if self.is(Roles::RECEIVER) && self.is_message(frame, &ip) {
            // No key is known here.
            return Verdict::Drop(DropReason::BadMessage);
        }
        if self.is(Roles::GATEWAY) {
            return self.steer(frame, &ip).unwrap_or_else(Verdict::Drop);
        }
        Verdict::Pass(frame.to_vec())
    }

    fn is(&self, role: u32) -> bool {
        self.settings.roles & role != 0
    }
}
