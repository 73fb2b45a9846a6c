//! What programs tell the agent about single flows.

use core::mem::offset_of;

use crate::{Address, Family, Flow, ServiceKey};

/// One report in the ring buffer `REPORTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowReport {
    /// The VIP.
    pub vip: Address,
    /// The client.
    pub client: Address,
    /// Of a claim: the source of the tunnel packet, which is the gateway's; all zero: this node's own.
    pub gateway: Address,
    /// Of a claim: the destination of the tunnel packet, which stands for the endpoint.
    pub outer: Address,
    /// Client's and VIP's port, as they stand in the packet.
    pub ports: [u8; 4],
    /// TCP's sequence number, host byte order.
    pub sequence: u32,
    /// TCP's acknowledgment number, host byte order.
    pub acknowledged: u32,
    /// The flow's hash.
    pub hash: u32,
    /// [`ReportKind`] as a number.
    pub what: u8,
    /// TCP or UDP.
    pub protocol: u8,
    /// [`Family`] of `vip` as a number.
    pub family: u8,
    /// TCP's flags.
    pub tcp_flags: u8,
    /// Of a claim: the [`kind`](crate::kind) of mark that the packet came with.
    pub kind: u8,
    /// Zero.
    pub padding: [u8; 3],
}

/// What a report says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ReportKind {
    /// At a gateway: no backend of the slot knows the flow.
    Unclaimed = 1,
    /// At a receiver: a packet that was not for the slot's current backend is of a flow that is known here.
    Claim = 2,
}

impl FlowReport {
    /// The service.
    #[must_use]
    pub const fn service(&self) -> ServiceKey {
        let port = u16::from_be_bytes([self.ports[2], self.ports[3]]);
        ServiceKey { vip: self.vip, port, protocol: self.protocol, family: self.family }
    }

    /// The flow among those of its service.
    #[must_use]
    pub const fn flow(&self) -> Flow {
        Flow { client: self.client, ports: self.ports }
    }
}

const _: () = {
    assert!(size_of::<FlowReport>() == 88);
    assert!(offset_of!(FlowReport, ports) == 64 && offset_of!(FlowReport, what) == 80);
    assert!(Family::V4 as u8 == 4);
};
