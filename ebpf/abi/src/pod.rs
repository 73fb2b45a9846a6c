//! Leave for the agent's BPF library to copy these types from and to the kernel byte by byte.

use aya::Pod;

use crate::{
    Address, Backend, BackendCounters, Bucket, CacheBucket, Cached, ClientKey, Counter, Delivery,
    DeliveryKey, FlowEntry, FlowKey, FlowReport, FragmentEntry, FragmentKey, HeldFlows, Hop, ProbeTarget,
    RateLimit, RecentBucket, Server, ServerKey, ServiceCounters, Settings, SipKey, Slot,
};

macro_rules! pod {
    ($($type:ty),* $(,)?) => {
        $(
            // SAFETY: plain integers and arrays of them, `repr(C)`, with any padding as fields of its own.
            unsafe impl Pod for $type {}
        )*
    };
}

pod!(
    Address,
    Backend,
    BackendCounters,
    Bucket,
    CacheBucket,
    Cached,
    ClientKey,
    Counter,
    Delivery,
    DeliveryKey,
    FlowEntry,
    FlowKey,
    FlowReport,
    FragmentEntry,
    FragmentKey,
    HeldFlows,
    Hop,
    ProbeTarget,
    RateLimit,
    RecentBucket,
    Server,
    ServerKey,
    ServiceCounters,
    Settings,
    SipKey,
    Slot,
);
