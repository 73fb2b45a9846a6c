//! What a receiver knows: the pairs it delivers, whose packets it takes, and flows.

use core::mem::offset_of;

use crate::{Address, DropReason, ServiceKey};

/// The endpoint owns the VIP: it gets the unwrapped packet as it is.
pub const ENDPOINT_OWNS_VIP: u8 = 1;

/// The endpoint has left its slices: it takes no SYN, only flows that it knows.
pub const LEAVING: u8 = 2;

/// In the map `NAMESPACES`: the one that the programs' interface is in (`BPF_F_CURRENT_NETNS`).
pub const OWN_NAMESPACE: u32 = u32::MAX;

/// A VIP and port at an endpoint of this node.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryKey {
    /// The packet's outer destination.
    pub outer: Address,
    /// The inner destination.
    pub vip: Address,
    /// Network byte order.
    pub port: [u8; 2],
    /// TCP or UDP.
    pub protocol: u8,
    /// [`Family`](crate::Family) of `vip` as a number.
    pub family: u8,
    /// Zero.
    pub padding: u32,
}

impl DeliveryKey {
    /// The key that says "this is an endpoint of this node", whatever the VIP; its [`Delivery`] is all zero.
    #[must_use]
    pub const fn endpoint_only(outer: Address) -> Self {
        Self { outer, vip: Address { bytes: [0; 16] }, port: [0; 2], protocol: 0, family: 0, padding: 0 }
    }

    /// The service that it is a delivery of; none where it only says that an endpoint is here.
    #[must_use]
    pub const fn service(&self) -> Option<ServiceKey> {
        let Self { vip, port, protocol, family, .. } = *self;
        if protocol == 0 {
            None
        } else {
            Some(ServiceKey { vip, port: u16::from_be_bytes(port), protocol, family })
        }
    }
}

/// What a receiver makes of such a packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Delivery {
    /// The endpoint, in the family of the VIP.
    pub endpoint: Address,
    /// The endpoint's port, network byte order.
    pub port: [u8; 2],
    /// Largest segment that the tunnel carries, for the MSS of SYN-ACKs; 0: leave it.
    pub mss: u16,
    /// [`ENDPOINT_OWNS_VIP`] and [`LEAVING`].
    pub flags: u8,
    /// Zero.
    pub padding: [u8; 3],
}

impl Delivery {
    /// Whether its endpoint has an address of the VIP's IP version, and `key` says the other one.
    #[must_use]
    pub fn is_second(&self, key: &DeliveryKey) -> bool {
        key.protocol != 0 && self.endpoint != key.outer
    }
}

/// The layout of `FLOWS` and `HALF_OPEN`: kinds of map, fields of [`FlowKey`] and [`FlowEntry`], and what they mean. A
/// change of any of them takes a new name; as long as it stays, connections outlive a change of [`ABI`](crate::ABI),
/// for agents carry flows over from tables of any ABI with the same layout, older or newer.
pub const FLOWS_LAYOUT: &str = "2";

/// A connection as the endpoint sees it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowKey {
    /// The endpoint's address.
    pub endpoint: Address,
    /// The client's address.
    pub client: Address,
    /// Network byte order.
    pub endpoint_port: [u8; 2],
    /// Network byte order.
    pub client_port: [u8; 2],
    /// TCP or UDP.
    pub protocol: u8,
    /// Zero.
    pub padding: [u8; 3],
}

/// How to undo the rewriting in the flow's replies.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowEntry {
    /// The VIP.
    pub vip: Address,
    /// The VIP's port, network byte order.
    pub port: [u8; 2],
    /// As in [`Delivery::mss`].
    pub mss: u16,
    /// Of the endpoint's last packet, host byte order; half-open: of the SYN-ACK that left, 0 before it did.
    pub sequence: u32,
    /// [`FlowState`] as a number.
    pub state: u8,
    /// 1: the client has sent a FIN or RST, or somebody in its name. Versions that don't know that leave 0, and lose
    /// nothing by a 1: that needs no other [`FLOWS_LAYOUT`].
    pub client_ended: u8,
    /// When it was last claimed, in units of 2^[`FlowEntry::CLAIM_SHIFT`] nanoseconds of the kernel's clock.
    pub claimed: u16,
    /// What the client sends next, as the endpoint last acknowledged it; before that, of the client's first packet.
    pub client_sequence: u32,
    /// `jiffies64` of its last packet in either direction.
    pub seen: u64,
}

impl FlowEntry {
    /// About 8.4 ms.
    pub const CLAIM_SHIFT: u32 = 23;
}

/// What the agent has counted of the flows of a delivery.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeldFlows {
    /// Established flows; [`Count::UNKNOWN`](crate::Count::UNKNOWN): some may be missing.
    pub flows: u32,
    /// Ticks of `jiffies64` in a second; 0: not known.
    pub rate: u32,
    /// Connections opened since the agent began to count.
    pub connections: u64,
    /// The lower half of `jiffies64` when it was counted.
    pub counted: u64,
    /// For so many ticks it counts.
    pub valid: u64,
}

/// How far a flow has come. The first two stand in `HALF_OPEN`, the others in `FLOWS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FlowState {
    /// A SYN was seen.
    HalfOpen = 1,
    /// The client sent something else than a SYN (or UDP), and the endpoint has not answered yet.
    Unproven = 2,
    /// The client acknowledged the endpoint's SYN-ACK, or the endpoint answered.
    Established = 3,
    /// The endpoint sent a FIN or RST.
    Closing = 4,
}

const _: () = {
    assert!(size_of::<DeliveryKey>() == 40 && size_of::<Delivery>() == 24);
    // The programs write them as one word.
    assert!(offset_of!(DeliveryKey, port) == 32 && offset_of!(DeliveryKey, protocol) == 34);
    assert!(offset_of!(DeliveryKey, family) == 35 && offset_of!(DeliveryKey, padding) == 36);
    assert!(size_of::<FlowKey>() == 40 && size_of::<FlowEntry>() == 40);
    assert!(DropReason::COUNT < 64);
};

// `FLOWS_LAYOUT` "2".
const _: () = {
    assert!(offset_of!(FlowKey, endpoint) == 0 && offset_of!(FlowKey, client) == 16);
    assert!(offset_of!(FlowKey, endpoint_port) == 32 && offset_of!(FlowKey, client_port) == 34);
    assert!(offset_of!(FlowKey, protocol) == 36);
    assert!(offset_of!(FlowEntry, vip) == 0 && offset_of!(FlowEntry, port) == 16);
    assert!(offset_of!(FlowEntry, mss) == 18 && offset_of!(FlowEntry, sequence) == 20);
    assert!(offset_of!(FlowEntry, state) == 24 && offset_of!(FlowEntry, client_ended) == 25);
    assert!(offset_of!(FlowEntry, claimed) == 26);
    assert!(offset_of!(FlowEntry, client_sequence) == 28 && offset_of!(FlowEntry, seen) == 32);
    assert!(FlowState::HalfOpen as u8 == 1 && FlowState::Unproven as u8 == 2);
    assert!(FlowState::Established as u8 == 3 && FlowState::Closing as u8 == 4);
};
