//! Counters. Each stands once per CPU; readers add them up.

/// Packets and bytes of the packets as they came in, Ethernet header included.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Of one service.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceCounters {
    /// Packets that were forwarded.
    pub packets: u64,
    /// Their bytes, Ethernet header included.
    pub bytes: u64,
    /// TCP SYNs among them.
    pub connections: u64,
}

/// Of one backend.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendCounters {
    /// Packets that were forwarded.
    pub packets: u64,
    /// TCP SYNs among them.
    pub connections: u64,
}

/// A token bucket.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimit {
    /// `ktime` of the last refill, nanoseconds.
    pub refilled_ns: u64,
    /// Messages that may still be sent.
    pub tokens: u64,
}
