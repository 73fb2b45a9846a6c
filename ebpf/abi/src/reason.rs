//! Why a packet was dropped.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $variant:ident = $number:literal, $name:literal;)*) => {
        /// Why a packet was dropped; also its index in the map `DROPS`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum DropReason {
            $($(#[doc = $doc])* $variant = $number,)*
        }

        impl DropReason {
            /// All of them, in order of number.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// One more than the largest number.
            pub const COUNT: u32 = 32;

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

reasons! {
    /// The packet ends before its headers do.
    Truncated = 0, "truncated";
    /// A header contradicts itself or the packet's length.
    Malformed = 1, "malformed";
    /// A fragment of a tunnel packet, or for a VIP one of neither TCP nor UDP: echo requests are answered whole only.
    Fragment = 2, "fragment";
    /// More than the supported number of IPv6 extension headers, or one that is not supported.
    ExtensionHeader = 3, "extension_header";
    /// Neither TCP, UDP nor an ICMP message that is understood, for a VIP.
    UnsupportedProtocol = 4, "unsupported_protocol";
    /// For a VIP, but a port or protocol that is not served.
    PortNotServed = 5, "port_not_served";
    /// The service has no backend.
    NoBackend = 6, "no_backend";
    /// The next hop towards the backend is not known.
    NoNextHop = 7, "no_next_hop";
    /// TTL or hop limit ran out.
    TtlExpired = 8, "ttl_expired";
    /// Too big for the path and not to be fragmented; the sender was told.
    TooBig = 9, "too_big";
    /// Too big for the path; the sender was not told, because it allows fragments or the limit was reached.
    TooBigSilent = 10, "too_big_silent";
    /// An echo request or an error over the rate limit.
    IcmpLimited = 11, "icmp_limited";
    /// An ICMP error that speaks of no flow of a service.
    IcmpUnrelated = 12, "icmp_unrelated";
    /// A tunnel packet from an address that is not a gateway's.
    StrangerTunnel = 13, "stranger_tunnel";
    /// A tunnel packet for a VIP and endpoint that this receiver doesn't deliver.
    NotDelivered = 14, "not_delivered";
    /// A tunnel packet that is damaged or holds something else than IP.
    BadTunnel = 15, "bad_tunnel";
    /// The receiver's table of flows is full.
    FlowsFull = 16, "flows_full";
    /// The kernel refused to make room for headers.
    NoHeadroom = 17, "no_headroom";
    /// A table held an index outside its bounds; the agent repairs it.
    Inconsistent = 18, "inconsistent";
    /// A broadcast, multicast or loopback address, or the VIP itself, where only a client's can stand.
    BadSource = 19, "bad_source";
    /// Our own encapsulated packet came back.
    Looped = 20, "looped";
    /// A tunnel packet whose mark is damaged, forged, or of the other direction.
    BadMark = 21, "bad_mark";
    /// No backend of the slot knows the flow; the agent asks whose it is.
    Unclaimed = 22, "unclaimed";
    /// More bounces than a client's prefix, or all clients together, may cause.
    BounceLimited = 23, "bounce_limited";
    /// A message between agents that is damaged, forged, or tagged with a key that is not known here.
    BadMessage = 24, "bad_message";
    /// A first fragment without its whole transport header, another one that begins within TCP's, or one whose length only the last can have.
    FragmentTiny = 25, "fragment_tiny";
    /// A fragment that overlaps its datagram's first one.
    FragmentOverlaps = 26, "fragment_overlaps";
    /// A fragment that came before its datagram's first one, or long after it, and could not be held.
    FragmentBeforeFirst = 27, "fragment_before_first";
    /// From a client outside of all ranges that the service allows.
    NotAllowed = 28, "not_allowed";
}
