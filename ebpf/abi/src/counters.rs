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

/// What has a [`RateLimit`], and its index in the map `LIMITS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Limit {
    /// ICMP errors and echo replies of a gateway.
    Icmp = 0,
    /// A gateway's reports of flows that no backend of their slot knows.
    Unclaimed = 1,
    /// Packets that a receiver bounces.
    Bounces = 2,
}

impl Limit {
    /// How many there are.
    pub const COUNT: usize = 3;
}

macro_rules! events {
    ($($(#[doc = $doc:literal])* $variant:ident = $number:literal, $name:literal;)*) => {
        /// What becomes of packets whose flow the slot's current backend may not know; also the index in the map
        /// `FLOW_EVENTS`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum FlowEvent {
            $($(#[doc = $doc])* $variant = $number,)*
        }

        impl FlowEvent {
            /// All of them, in order of number.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// One more than the largest number.
            pub const COUNT: u32 = 16;

            /// Its name in metrics and on the command line.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What it means, in one sentence.
            #[must_use]
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),*),)* }
            }
        }
    };
}

events! {
    /// A gateway sent a packet where its flow cache said.
    Guess = 0, "guess";
    /// A gateway removed an entry of its flow cache: a new connection began, or the guess was wrong.
    Forgotten = 1, "forgotten";
    /// A receiver sent a packet back whose flow it doesn't know.
    Bounced = 2, "bounced";
    /// A gateway sent a packet on that came back.
    SentOn = 3, "sent_on";
    /// A gateway passed over a backend whose node doesn't answer.
    PassedOver = 4, "passed_over";
    /// No backend of its slot knows a packet's flow.
    Unclaimed = 5, "unclaimed";
    /// A receiver took a packet that was not for the slot's current backend, and told its agent.
    Claimed = 6, "claimed";
    /// A fragment came before its datagram's first one and was given to the agent, which sends it again.
    FragmentHeld = 7, "fragment_held";
    /// A gateway chose the endpoint that the connection ID of a QUIC packet names.
    NamedServer = 8, "named_server";
}
