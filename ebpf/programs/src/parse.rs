//! From bytes to what the programs decide by: Ethernet, up to two VLAN tags, IPv4 with options, IPv6 with
//! extension headers, TCP, UDP, ICMP.
//!
//! Nothing is dropped here: what is wrong with a packet matters only once it is known to be for a VIP.

use aya_ebpf::programs::XdpContext;
use fairlead_abi::{Address, DropReason, Family, Flow};

use crate::{
    headers::{Icmp, Ipv4, Ipv6, ethertype, protocol, tcp},
    packet::Packet,
    part::{self, Part},
};

/// IPv6 extension headers that are passed over at most.
const MAX_EXTENSIONS: usize = 4;
/// Longest IPv6 extension header that is passed over, bytes.
const MAX_EXTENSION_LENGTH: usize = 256;

/// An IP packet's own header. All zero is a valid value, if no packet's.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ip {
    /// Source.
    pub source: Address,
    /// Destination.
    pub destination: Address,
    /// Offset of the header.
    pub l3: usize,
    /// Of the whole packet from `l3` on, as the header says; bytes.
    pub length: usize,
    /// IPv4: bytes of the header; IPv6: 40.
    pub header_length: usize,
    /// IPv6, not IPv4.
    pub v6: bool,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TOS or traffic class.
    pub tos: u8,
    /// Routers may not fragment it; always so with IPv6.
    pub dont_fragment: bool,
    /// Protocol or next header, as the IP header says.
    pub next: u8,
    /// IPv4: a fragment of a packet.
    pub fragment: bool,
}

impl Ip {
    /// IPv4 or IPv6.
    #[inline(always)]
    #[must_use]
    pub fn family(&self) -> Family {
        if self.v6 { Family::V6 } else { Family::V4 }
    }

    /// The ICMP of the other family, which means nothing here.
    #[inline(always)]
    const fn others_icmp(&self) -> u8 {
        if self.v6 { protocol::ICMP } else { protocol::ICMPV6 }
    }
}

/// What an IP packet carries.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Transport {
    /// Offset of its header.
    pub l4: usize,
    /// Source and destination port as they stand in the packet; 0 for ICMP.
    pub ports: [u8; 4],
    /// IANA number.
    pub protocol: u8,
    /// TCP flags; 0 for others.
    pub tcp_flags: u8,
}

/// A packet, as far as it is understood.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Parsed {
    /// The IP header.
    pub ip: Ip,
    /// What it carries; not set where that can't be steered. A fragment that isn't the first has no ports, and with IPv6
    /// no protocol, until they are looked up.
    pub carried: Transport,
    /// Which part of its datagram it is.
    pub part: Part,
}

impl Transport {
    /// Whether it is a message of ICMP or ICMPv6.
    #[inline(always)]
    #[must_use]
    pub fn is_icmp(&self) -> bool {
        self.protocol == protocol::ICMP || self.protocol == protocol::ICMPV6
    }

    /// Whether it opens a TCP connection.
    #[inline(always)]
    #[must_use]
    pub fn opens(&self) -> bool {
        self.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN
    }

    /// Whether it is its sender's last but for acknowledgements.
    #[inline(always)]
    #[must_use]
    pub fn ends(&self) -> bool {
        self.tcp_flags & (tcp::FIN | tcp::RST) != 0
    }

    /// The flow of a packet from `client`.
    #[inline(always)]
    #[must_use]
    pub fn flow(&self, client: Address) -> Flow {
        Flow { client, ports: self.ports }
    }

    /// Destination port, host byte order.
    #[inline(always)]
    #[must_use]
    pub fn destination_port(&self) -> u16 {
        u16::from_be_bytes([self.ports[2], self.ports[3]])
    }

    /// Source port, host byte order.
    #[inline(always)]
    #[must_use]
    pub fn source_port(&self) -> u16 {
        u16::from_be_bytes([self.ports[0], self.ports[1]])
    }
}

/// [`parse_at`]: the packet can be steered by what it carries.
pub const STEERABLE: u32 = u32::MAX;
/// [`parse_at`]: there is no IP header.
pub const NOT_IP: u32 = u32::MAX - 1;
/// [`parse_at`]: the packet is a fragment whose ports stand in another one.
pub const LATER: u32 = u32::MAX - 2;

/// Parses the IP packet at `l3` into `parsed`: [`STEERABLE`], [`LATER`], [`NOT_IP`], or the number of the
/// [`DropReason`] why what it carries can't be steered. `l3` 0: behind the Ethernet header and its tags.
/// `end` is the offset of the packet's end.
#[inline(always)]
pub fn parse_at(ctx: &XdpContext, l3: u32, end: u32, parsed: &mut Parsed) -> u32 {
    if ip_at(ctx, l3, parsed) == NOT_IP {
        return NOT_IP;
    }
    transport_at(ctx, end, parsed)
}

/// The first half of [`parse_at`]: finds the IP header. A subprogram, for a stack of its own.
#[inline(never)]
fn ip_at(ctx: &XdpContext, l3: u32, parsed: &mut Parsed) -> u32 {
    let packet = &Packet::new(ctx);
    let (l3, kind) = if l3 == 0 {
        match ethernet(packet) {
            Some(found) => found,
            None => return NOT_IP,
        }
    } else {
        match packet.read::<u8>(l3 as usize) {
            Ok(first) => (l3 as usize, if first >> 4 == 4 { ethertype::IPV4 } else { ethertype::IPV6 }),
            Err(_) => return NOT_IP,
        }
    };
    match ip(packet, l3, kind) {
        Some(ip) => {
            parsed.ip = ip;
            STEERABLE
        }
        None => NOT_IP,
    }
}

/// The second half of [`parse_at`]: what the packet carries. A subprogram, for a stack of its own.
#[inline(never)]
fn transport_at(ctx: &XdpContext, end: u32, parsed: &mut Parsed) -> u32 {
    let available = (end as usize).saturating_sub(parsed.ip.l3);
    match transport(&Packet::new(ctx), parsed, available) {
        Ok(()) if parsed.part.is_later() => LATER,
        Ok(()) => STEERABLE,
        Err(reason) => reason as u32,
    }
}

/// Offset of the IP header and its EtherType; `None`: too short or too many tags.
#[inline(always)]
#[must_use]
pub fn ethernet(packet: &Packet) -> Option<(usize, [u8; 2])> {
    let mut l3 = 14;
    let mut kind: [u8; 2] = packet.read(12).ok()?;
    if kind == ethertype::VLAN || kind == ethertype::PROVIDER_VLAN {
        kind = packet.read(16).ok()?;
        l3 = 18;
        if kind == ethertype::VLAN || kind == ethertype::PROVIDER_VLAN {
            kind = packet.read(20).ok()?;
            l3 = 22;
        }
    }
    Some((l3, kind))
}

/// The IP header at `l3`; `None`: it isn't one, or it is cut off.
#[inline(always)]
#[must_use]
pub fn ip(packet: &Packet, l3: usize, kind: [u8; 2]) -> Option<Ip> {
    match kind {
        ethertype::IPV4 => ipv4(packet, l3),
        ethertype::IPV6 => ipv6(packet, l3),
        _ => None,
    }
}

/// The IPv4 header at `l3`.
#[inline(always)]
#[must_use]
pub fn ipv4(packet: &Packet, l3: usize) -> Option<Ip> {
    let header: Ipv4 = packet.read(l3).ok()?;
    if header.version_ihl >> 4 != 4 {
        return None;
    }
    let fragment = u16::from_be_bytes(header.fragment);
    Some(Ip {
        v6: false,
        l3,
        source: Address::v4(header.source),
        destination: Address::v4(header.destination),
        length: u16::from_be_bytes(header.total_length) as usize,
        ttl: header.ttl,
        tos: header.tos,
        dont_fragment: fragment & Ipv4::DONT_FRAGMENT != 0,
        next: header.protocol,
        header_length: ((header.version_ihl & 0xf) as usize) << 2,
        fragment: fragment & Ipv4::FRAGMENTED != 0,
    })
}

/// The IPv6 header at `l3`.
#[inline(always)]
#[must_use]
pub fn ipv6(packet: &Packet, l3: usize) -> Option<Ip> {
    let header: Ipv6 = packet.read(l3).ok()?;
    let [a, b, ..] = header.version_class_label;
    if a >> 4 != 6 {
        return None;
    }
    Some(Ip {
        v6: true,
        l3,
        source: Address::v6(header.source),
        destination: Address::v6(header.destination),
        length: u16::from_be_bytes(header.payload_length) as usize + 40,
        ttl: header.hop_limit,
        tos: a << 4 | b >> 4,
        dont_fragment: true,
        next: header.next_header,
        header_length: 40,
        fragment: false,
    })
}

/// Finds what the packet `parsed.ip` carries, and which part of a datagram it is; or why it can't be steered. `available`
/// is the packet's length from its IP header on.
#[inline(always)]
pub fn transport(packet: &Packet, parsed: &mut Parsed, available: usize) -> Result<(), DropReason> {
    behind_ip(packet, parsed)?;
    // Read back from where the verifier doesn't know what stands there: else it goes through all that follows once for each
    // chain of extension headers.
    // SAFETY: fields of `parsed`.
    let (protocol, l4, part) = unsafe {
        (
            (&raw const parsed.carried.protocol).read_volatile(),
            (&raw const parsed.carried.l4).read_volatile(),
            (&raw const parsed.part).read_volatile(),
        )
    };
    let ip = &parsed.ip;
    if ip.length > available {
        return Err(DropReason::Truncated);
    }
    parsed.carried = if part.is_later() {
        part::later(ip, protocol, l4, &part)?
    } else {
        if protocol == ip.others_icmp() {
            return Err(DropReason::UnsupportedProtocol);
        }
        let length = (ip.l3 + ip.length).wrapping_sub(l4);
        if part.is_first() {
            part::first(packet, protocol, l4, length)?
        } else {
            ports(packet, protocol, l4, length)?
        }
    };
    Ok(())
}

/// Finds the protocol behind the IP header and its extensions, where that begins, and the part of a datagram.
#[inline(always)]
fn behind_ip(packet: &Packet, parsed: &mut Parsed) -> Result<(), DropReason> {
    let ip = &parsed.ip;
    let (protocol, offset, part) = match ip.family() {
        Family::V4 => {
            if ip.header_length < 20 || ip.length < ip.header_length {
                return Err(DropReason::Malformed);
            }
            let part = if ip.fragment { part::of_v4(packet, ip)? } else { Part::WHOLE };
            (ip.next, ip.header_length, part)
        }
        Family::V6 if is_extension(ip.next) => extensions(packet, ip)?,
        Family::V6 => (ip.next, 40, Part::WHOLE),
    };
    let l4 = ip.l3 + offset;
    // SAFETY: fields of `parsed`.
    unsafe {
        (&raw mut parsed.carried.protocol).write_volatile(protocol);
        (&raw mut parsed.carried.l4).write_volatile(l4);
        (&raw mut parsed.part).write_volatile(part);
    }
    Ok(())
}

/// Ports and flags of the header at `l4`, of which the IP packet holds `length` bytes.
#[inline(always)]
pub fn ports(packet: &Packet, protocol: u8, l4: usize, length: usize) -> Result<Transport, DropReason> {
    match protocol {
        protocol::TCP => {
            if length < 20 {
                return Err(DropReason::Truncated);
            }
            let ports: [u8; 4] = packet.read(l4)?;
            let [_, tcp_flags]: [u8; 2] = packet.read(l4 + 12)?;
            Ok(Transport { protocol, l4, ports, tcp_flags })
        }
        protocol::UDP => {
            if length < 8 {
                return Err(DropReason::Truncated);
            }
            Ok(Transport { protocol, l4, ports: packet.read(l4)?, tcp_flags: 0 })
        }
        protocol::ICMP | protocol::ICMPV6 => {
            if length < 8 {
                return Err(DropReason::Truncated);
            }
            let _: Icmp = packet.read(l4)?;
            Ok(Transport { protocol, l4, ports: [0; 4], tcp_flags: 0 })
        }
        _ => Err(DropReason::UnsupportedProtocol),
    }
}

/// Whether `next` is an IPv6 extension header that is known here.
#[inline(always)]
pub const fn is_extension(next: u8) -> bool {
    matches!(
        next,
        protocol::HOP_BY_HOP | protocol::ROUTING | protocol::FRAGMENT | protocol::DESTINATION_OPTIONS
    )
}

/// Passes over extension headers: the protocol behind them, its offset from the IP header, and what a fragment header
/// among them says. One that says nothing, for the packet is whole, is passed over as others are (RFC 6946).
#[inline(always)]
fn extensions(packet: &Packet, ip: &Ip) -> Result<(u8, usize, Part), DropReason> {
    let mut next = ip.next;
    let mut offset = 40;
    let (mut part, mut fragment_headers) = (Part::WHOLE, 0);
    for _ in 0..MAX_EXTENSIONS {
        if !is_extension(next) || part.is_later() {
            break;
        }
        let [following, words]: [u8; 2] = packet.read(ip.l3 + offset)?;
        let mut length = (words as usize + 1) << 3;
        if next == protocol::FRAGMENT {
            // There is one at most, so that nothing can be hidden behind a second one.
            fragment_headers += 1;
            if fragment_headers > 1 {
                return Err(DropReason::Malformed);
            }
            length = 8;
            part = part::of_v6(packet, ip, offset)?;
        }
        if length > MAX_EXTENSION_LENGTH {
            return Err(DropReason::ExtensionHeader);
        }
        next = following;
        offset += length;
    }
    if is_extension(next) && !part.is_later() {
        return Err(DropReason::ExtensionHeader);
    }
    if ip.length < offset {
        return Err(DropReason::Malformed);
    }
    Ok((next, offset, part))
}
