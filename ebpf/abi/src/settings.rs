//! What a program is loaded with: read-only data, so that the verifier removes what a node doesn't need.

use crate::Address;

/// What the programs on this node do.
pub struct Roles;

impl Roles {
    /// Steer and forward packets for VIPs.
    pub const GATEWAY: u32 = 1;
    /// Unwrap packets for this node's endpoints, and rewrite their replies.
    pub const RECEIVER: u32 = 2;
}

/// Where tunnel packets come from: a prefix of the gateway's own.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunnelSource {
    /// The prefix's first address; all zero: no tunnels of this family.
    pub address: Address,
    /// Which of the last 32 bits vary by flow, as they stand in memory; 0 for a single address.
    pub vary: [u8; 4],
    /// Zero.
    pub padding: u32,
}

/// Where the kernel's sockets have what a receiver compares: offsets of fields, in bytes, which differ between kernels. All
/// zero: sockets are not looked up.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketOffsets {
    /// `tcp_sock.rcv_nxt`: what the client sends next.
    pub rcv_nxt: u32,
    /// `tcp_sock.rcv_wnd`: how much of that the endpoint takes.
    pub rcv_wnd: u32,
    /// `tcp_sock.snd_una`: the oldest byte that the client has not acknowledged.
    pub snd_una: u32,
    /// `tcp_sock.snd_nxt`: what the endpoint sends next.
    pub snd_nxt: u32,
    /// `tcp_request_sock.snt_isn`: the number of the SYN-ACK.
    pub snt_isn: u32,
    /// Zero.
    pub padding: u32,
}

/// The read-only data of every program, symbol `SETTINGS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Seed of [`flow_hash`](crate::flow_hash); the same on all gateways of a federation.
    pub seed: u64,
    /// [`Roles`].
    pub roles: u32,
    /// Number of buckets in `SERVICES` less one.
    pub bucket_mask: u32,
    /// Outer sources of IPv4 tunnels.
    pub tunnel_v4: TunnelSource,
    /// Outer sources of IPv6 tunnels.
    pub tunnel_v6: TunnelSource,
    /// ICMP errors and echo replies per second and CPU.
    pub icmp_per_second: u32,
    /// Number of buckets in `CACHE` less one.
    pub cache_mask: u32,
    /// Packets per second and CPU that a receiver bounces.
    pub bounces_per_second: u32,
    /// Bounced packets per second that a gateway sends on for the clients of one prefix: /24 of IPv4, /56 of IPv6.
    pub bounces_per_prefix: u32,
    /// Reports per second and CPU of flows that nobody claims.
    pub reports_per_second: u32,
    /// Bounced packets per second that a gateway sends on for all clients.
    pub bounces_in_all: u32,
    /// Number of buckets in `RECENT` less one.
    pub recent_mask: u32,
    /// Zero.
    pub padding: u32,
    /// How sockets of this node's endpoints are read.
    pub sockets: SocketOffsets,
}

const _: () = {
    assert!(size_of::<TunnelSource>() == 24 && size_of::<SocketOffsets>() == 24);
    assert!(size_of::<Settings>() == 120);
};
