//! Headers as they stand in packets: plain integers and bytes, any content is valid.

/// IPv4 without options (RFC 791).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ipv4 {
    /// Version and header length in words.
    pub version_ihl: u8,
    /// Type of service.
    pub tos: u8,
    /// Network byte order.
    pub total_length: [u8; 2],
    /// Identification.
    pub id: [u8; 2],
    /// Flags and fragment offset, network byte order.
    pub fragment: [u8; 2],
    /// Time to live.
    pub ttl: u8,
    /// IANA number.
    pub protocol: u8,
    /// As it stands in memory.
    pub checksum: u16,
    /// Source.
    pub source: [u8; 4],
    /// Destination.
    pub destination: [u8; 4],
}

impl Ipv4 {
    /// The flag "don't fragment" in [`Ipv4::fragment`].
    pub const DONT_FRAGMENT: u16 = 0x4000;
    /// The flag "more fragments".
    pub const MORE_FRAGMENTS: u16 = 0x2000;
    /// Flag "more fragments" and the fragment offset.
    pub const FRAGMENTED: u16 = 0x3fff;
}

/// IPv6 (RFC 8200).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ipv6 {
    /// Version, traffic class, flow label.
    pub version_class_label: [u8; 4],
    /// Network byte order.
    pub payload_length: [u8; 2],
    /// IANA number.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source.
    pub source: [u8; 16],
    /// Destination.
    pub destination: [u8; 16],
}

/// The lower two bits of TOS or traffic class (RFC 3168).
pub mod ecn {
    /// Congestion experienced; each of its bits alone says that the transport understands that.
    pub const EXPERIENCED: u8 = 0b11;
}

/// UDP (RFC 768).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Udp {
    /// Network byte order.
    pub source: [u8; 2],
    /// Network byte order.
    pub destination: [u8; 2],
    /// Network byte order.
    pub length: [u8; 2],
    /// As it stands in memory.
    pub checksum: u16,
}

/// TCP without options (RFC 9293).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Tcp {
    /// Source and destination port, network byte order.
    pub ports: [[u8; 2]; 2],
    /// Network byte order.
    pub sequence: [u8; 4],
    /// Network byte order.
    pub acknowledgement: [u8; 4],
    /// Header length in words, in the upper half.
    pub offset: u8,
    /// Flags, as in [`tcp`].
    pub flags: u8,
    /// Window, checksum and urgent pointer.
    pub rest: [u8; 6],
}

/// The part of ICMP and ICMPv6 that all messages share (RFC 792, RFC 4443), with what errors say.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Icmp {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// As it stands in memory.
    pub checksum: u16,
    /// By type.
    pub rest: [u8; 4],
}

/// EtherTypes, as they stand in memory.
pub mod ethertype {
    /// IPv4.
    pub const IPV4: [u8; 2] = [0x08, 0x00];
    /// IPv6.
    pub const IPV6: [u8; 2] = [0x86, 0xdd];
    /// A VLAN tag (802.1Q).
    pub const VLAN: [u8; 2] = [0x81, 0x00];
    /// A provider's VLAN tag (802.1ad).
    pub const PROVIDER_VLAN: [u8; 2] = [0x88, 0xa8];
}

/// IP protocol numbers (IANA).
pub mod protocol {
    pub use fairlead_abi::protocol::{ICMP, ICMPV6, TCP, UDP};
    /// IPv4 in IP.
    pub const IPV4: u8 = 4;
    /// IPv6 in IP.
    pub const IPV6: u8 = 41;
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: u8 = 60;
}

/// Bits of the TCP flags' byte.
pub mod tcp {
    /// FIN.
    pub const FIN: u8 = 0x01;
    /// SYN.
    pub const SYN: u8 = 0x02;
    /// RST.
    pub const RST: u8 = 0x04;
    /// ACK.
    pub const ACK: u8 = 0x10;
    /// What begins or ends a connection.
    pub const BOUNDS: u8 = SYN | FIN | RST;
}

const _: () = {
    assert!(size_of::<Ipv4>() == 20 && size_of::<Ipv6>() == 40);
    assert!(size_of::<Udp>() == 8 && size_of::<Icmp>() == 8 && size_of::<Tcp>() == 20);
};
