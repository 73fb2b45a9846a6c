//! What the agent and the BPF programs agree on: the layout of every map, the hashes that both sides
//! compute, and the numbers of the drop reasons.
//!
//! Everything here is plain data in fixed layouts, asserted at compile time. A change of any of them is a
//! change of [`ABI`]: maps of another version are built beside these, never reinterpreted. Only flows are taken over
//! from another version, where it has the same [`FLOWS_LAYOUT`], and what slots remember, by [`STEERING_LAYOUT`].
#![no_std]

mod address;
mod allowed;
mod cache;
mod counters;
mod encap;
mod fragment;
mod hash;
mod mark;
pub mod message;
mod numbers;
#[cfg(feature = "aya")]
mod pod;
mod quic;
mod reason;
mod receiver;
mod recent;
mod report;
mod ring;
mod service;
mod settings;
mod siphash;
mod words;

pub use address::{Address, Family};
pub use allowed::ClientKey;
pub use cache::{CACHE_ENTRIES, CacheBucket, CacheTag, Cached};
pub use counters::{BackendCounters, Counter, FlowEvent, Limit, RateLimit, ServiceCounters};
pub use encap::{Encap, GUE_PORT, Hop, PROBE_MARK, PROBE_MARK_MASK, ProbeTarget, overhead};
pub use fragment::{EarlyFragment, FragmentEntry, FragmentKey, MOST_HELD};
pub use hash::{ALL_BOUNCES, Flow, bounces_of, bucket_of, flow_hash, slot_hash, slot_of};
pub use mark::{is_bounced, kind, mark, read_mark};
pub use message::{Announced, Announcement, Ask, AskedFlow, CONTROL_PORT, Claim, Count, Header};
pub use numbers::Numbers;
pub use quic::{
    CONNECTION_ID_MAX, CONNECTION_ID_MIN, QUIC_CONFIG, QUIC_HANDSHAKES, SERVER_ID_LENGTH, Server, ServerKey,
};
pub use reason::DropReason;
pub use receiver::{
    Delivery, DeliveryKey, ENDPOINT_OWNS_VIP, FLOWS_LAYOUT, FlowEntry, FlowKey, FlowState, HeldFlows,
    LEAVING, OWN_NAMESPACE,
};
pub use recent::{RECENT_ENTRIES, Recent, RecentBucket, RecentFlow, RecentTag};
pub use report::{FlowReport, ReportKind};
pub use ring::{Backend, NO_BACKEND, RING_SIZES, Ring, STEERING_LAYOUT, Slot};
pub use service::{BUCKET_ENTRIES, Bucket, MAX_PROBE, ServiceEntry, ServiceKey, protocol};
pub use settings::{Roles, Settings, SocketOffsets, TunnelSource};
pub use siphash::{SipHash, SipKey, siphash};

/// Version of every layout in this crate; part of the path under which maps are pinned.
pub const ABI: u32 = 4;

/// Names of the maps, as in the ELF and under the pin directory.
pub mod map {
    /// [`Bucket`](crate::Bucket)s by [`bucket_of`](crate::bucket_of); a power of two of them.
    pub const SERVICES: &str = "SERVICES";
    /// [`Slot`](crate::Slot)s of all rings, in blocks.
    pub const SLOTS: &str = "SLOTS";
    /// [`Backend`](crate::Backend)s of all services, in regions.
    pub const BACKENDS: &str = "BACKENDS";
    /// [`Server`](crate::Server)s by [`ServerKey`](crate::ServerKey).
    pub const SERVER_IDS: &str = "SERVER_IDS";
    /// Ranges of the clients that restricted services allow: longest-prefix match of [`ClientKey`](crate::ClientKey).
    pub const ALLOWED: &str = "ALLOWED";
    /// [`Hop`](crate::Hop)s; index 0 is never used.
    pub const HOPS: &str = "HOPS";
    /// Per CPU [`ServiceCounters`](crate::ServiceCounters) by service id.
    pub const SERVICE_COUNTERS: &str = "SERVICE_COUNTERS";
    /// Per CPU [`BackendCounters`](crate::BackendCounters) by index in `BACKENDS`.
    pub const BACKEND_COUNTERS: &str = "BACKEND_COUNTERS";
    /// Per CPU [`Counter`](crate::Counter) by [`DropReason`](crate::DropReason).
    pub const DROPS: &str = "DROPS";
    /// Per CPU numbers by [`FlowEvent`](crate::FlowEvent).
    pub const FLOW_EVENTS: &str = "FLOW_EVENTS";
    /// Per CPU [`RateLimit`](crate::RateLimit) by [`Limit`](crate::Limit).
    pub const LIMITS: &str = "LIMITS";
    /// Bounces of all clients and by client prefix, see [`bounces_of`](crate::bounces_of): the second in the upper half, how
    /// many there were in it in the lower.
    pub const BOUNCES: &str = "BOUNCES";
    /// [`CacheBucket`](crate::CacheBucket)s of the flow cache; a power of two of them.
    pub const CACHE: &str = "CACHE";
    /// [`Cached`](crate::Cached): beside the slots, which of them the flow cache may hold flows of.
    pub const CACHED: &str = "CACHED";
    /// [`FlowReport`](crate::FlowReport)s to the agent: a ring buffer.
    pub const REPORTS: &str = "REPORTS";
    /// [`Delivery`](crate::Delivery) by [`DeliveryKey`](crate::DeliveryKey).
    pub const DELIVERIES: &str = "DELIVERIES";
    /// Prefixes of gateways, whose tunnel packets a receiver takes: longest-prefix match of
    /// [`Address::bytes`](crate::Address), the length counted in bits of it (96 + n for an IPv4 prefix).
    pub const GATEWAYS: &str = "GATEWAYS";
    /// Established [`FlowEntry`](crate::FlowEntry)s by [`FlowKey`](crate::FlowKey); never evicted by the kernel.
    pub const FLOWS: &str = "FLOWS";
    /// Half-open [`FlowEntry`](crate::FlowEntry)s by [`FlowKey`](crate::FlowKey); an LRU.
    pub const HALF_OPEN: &str = "HALF_OPEN";
    /// What endpoints said lately of established flows, [`RecentBucket`](crate::RecentBucket)s; a power of two of them.
    pub const RECENT: &str = "RECENT";
    /// [`FragmentEntry`](crate::FragmentEntry)s by [`FragmentKey`](crate::FragmentKey); an LRU.
    pub const FRAGMENTS: &str = "FRAGMENTS";
    /// [`EarlyFragment`](crate::EarlyFragment)s to the agent: a ring buffer.
    pub const EARLY: &str = "EARLY";
    /// Of index 0: until when flows of this node may be missing in `FLOWS`, by the lower half of `jiffies64`; 0: never.
    pub const LOST: &str = "LOST";
    /// The namespaces that this node's endpoints are in, by their outer addresses: numbers that the kernel has for them in the
    /// agent's own, which is [`OWN_NAMESPACE`](crate::OWN_NAMESPACE).
    pub const NAMESPACES: &str = "NAMESPACES";
    /// Keys of messages between agents, [`SipKey`](crate::SipKey)s by their number.
    pub const KEYS: &str = "KEYS";
    /// [`HeldFlows`](crate::HeldFlows) by [`DeliveryKey`](crate::DeliveryKey).
    pub const HELD: &str = "HELD";
    /// [`ProbeTarget`](crate::ProbeTarget) by socket mark.
    pub const PROBES: &str = "PROBES";
    /// Programs that others go on in: pinned by itself, because each load of the programs has its own.
    pub const PROGRAMS: &str = "PROGRAMS";
    /// All others, which are pinned together.
    pub const ALL: [&str; 27] = [
        SERVICES,
        SLOTS,
        BACKENDS,
        SERVER_IDS,
        ALLOWED,
        HOPS,
        SERVICE_COUNTERS,
        BACKEND_COUNTERS,
        DROPS,
        FLOW_EVENTS,
        LIMITS,
        BOUNCES,
        CACHE,
        CACHED,
        REPORTS,
        DELIVERIES,
        GATEWAYS,
        FLOWS,
        RECENT,
        HALF_OPEN,
        FRAGMENTS,
        EARLY,
        LOST,
        NAMESPACES,
        KEYS,
        HELD,
        PROBES,
    ];
}

/// Names of the programs in the ELF.
pub mod program {
    /// XDP on a NIC: gateway, receiver or both, by [`Roles`](crate::Roles).
    pub const INGRESS: &str = "ingress";
    /// XDP too; [`INGRESS`] goes on in it where a packet is not the rule.
    pub const SLOW: &str = "slow";
    /// Where [`SLOW`] stands in the map `PROGRAMS`.
    pub const SLOW_INDEX: u32 = 0;
    /// XDP too; [`INGRESS`] goes on in it with tunnel packets for endpoints of this node.
    pub const TUNNEL: &str = "tunnel";
    /// Where [`TUNNEL`] stands in the map `PROGRAMS`.
    pub const TUNNEL_INDEX: u32 = 1;
    /// TCX egress on the same NIC: replies of endpoints, and probes.
    pub const EGRESS: &str = "egress";
    /// Returns the lower half of `jiffies64`; only ever run by BPF_PROG_TEST_RUN.
    pub const CLOCK: &str = "clock";
    /// Passes everything; a veth's peer needs some program for XDP_TX to reach it.
    pub const PASS: &str = "pass";
}
