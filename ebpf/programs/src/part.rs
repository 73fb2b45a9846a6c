//! Which part of a datagram a packet has: what headers say of fragments, and what can't be a fragment.

use fairlead_abi::DropReason;

use crate::{
    headers::{Ipv4, protocol},
    packet::Packet,
    parse::{self, Ip, Transport},
};

/// Which part of a datagram a packet has.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Part {
    /// The datagram's identification, as in [`FragmentKey::id`](fairlead_abi::FragmentKey::id).
    pub id: [u8; 4],
    /// Bytes of the datagram before this part.
    pub offset: u16,
    /// Bytes of this part.
    pub length: u16,
    /// It isn't the last one.
    pub more: bool,
}

impl Part {
    /// A datagram that is one packet.
    pub const WHOLE: Self = Self { id: [0; 4], offset: 0, length: 0, more: false };

    /// Whether it is a fragment with the datagram's ports.
    #[inline(always)]
    #[must_use]
    pub const fn is_first(&self) -> bool {
        self.offset == 0 && self.more
    }

    /// Whether it is a fragment without them.
    #[inline(always)]
    #[must_use]
    pub const fn is_later(&self) -> bool {
        self.offset != 0
    }

    /// A part of `length` bytes, as a header says.
    #[inline(always)]
    fn new(id: [u8; 4], offset: u16, more: bool, length: usize) -> Result<Self, DropReason> {
        if offset as usize + length > 0xffff {
            return Err(DropReason::Malformed);
        }
        let part = Self { id, offset, length: length as u16, more };
        // Nobody but the sender of the last one has a reason to choose such a length (RFC 1858; RFC 8200 4.5).
        if (more && !length.is_multiple_of(8)) || (length == 0 && part.is_later()) {
            return Err(DropReason::FragmentTiny);
        }
        Ok(part)
    }
}

/// What the IPv4 header of a fragment says of it.
#[inline(always)]
pub fn of_v4(packet: &Packet, ip: &Ip) -> Result<Part, DropReason> {
    let [a, b, c, d]: [u8; 4] = packet.read(ip.l3 + 4)?;
    let field = u16::from_be_bytes([c, d]);
    let more = field & Ipv4::MORE_FRAGMENTS != 0;
    Part::new([0, 0, a, b], field << 3, more, ip.length - ip.header_length)
}

/// What the fragment header `offset` bytes behind the IPv6 header says.
#[inline(always)]
pub fn of_v6(packet: &Packet, ip: &Ip, offset: usize) -> Result<Part, DropReason> {
    let [_, [a, b], c, d]: [[u8; 2]; 4] = packet.read(ip.l3 + offset)?;
    let field = u16::from_be_bytes([a, b]);
    if ip.length < offset + 8 {
        return Err(DropReason::Malformed);
    }
    let [e, f] = d;
    Part::new([c[0], c[1], e, f], field & !7, field & 1 != 0, ip.length - offset - 8)
}

/// What a first fragment carries, of which it holds `length` bytes: the whole header, or nothing can be said.
#[inline(always)]
pub fn first(packet: &Packet, protocol: u8, l4: usize, length: usize) -> Result<Transport, DropReason> {
    if protocol != protocol::TCP && protocol != protocol::UDP {
        return Err(DropReason::Fragment);
    }
    let carried = parse::ports(packet, protocol, l4, length).map_err(|_| DropReason::FragmentTiny)?;
    if protocol == protocol::TCP {
        let words: u8 = packet.read(l4 + 12)?;
        if length < ((words >> 4) as usize) << 2 {
            return Err(DropReason::FragmentTiny);
        }
    }
    Ok(carried)
}

/// What a fragment carries that is not the first: it can't be more than a later part of what the first one says.
#[inline(always)]
pub fn later(ip: &Ip, protocol: u8, l4: usize, part: &Part) -> Result<Transport, DropReason> {
    match protocol {
        // It would change flags or ports that were judged by then (RFC 1858, RFC 3128).
        protocol::TCP if part.offset < 20 => Err(DropReason::FragmentTiny),
        protocol::TCP | protocol::UDP => Ok(Transport { protocol, l4, ports: [0; 4], tcp_flags: 0 }),
        _ if ip.v6 && parse::is_extension(protocol) => {
            Ok(Transport { protocol, l4, ports: [0; 4], tcp_flags: 0 })
        }
        _ => Err(DropReason::Fragment),
    }
}
