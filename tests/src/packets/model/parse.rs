//! Frames, read by slices.

use fairlead_abi::{Address, DropReason, Family};

/// An IP header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ip {
    /// Where it begins in the frame.
    pub(super) at: usize,
    pub(super) family: Family,
    pub(super) source: Address,
    pub(super) destination: Address,
    /// Of the header without IPv6 extension headers.
    pub(super) header_length: usize,
    /// Of the whole packet, as the header says.
    pub(super) length: usize,
    pub(super) ttl: u8,
    pub(super) tos: u8,
    /// The protocol that the header itself names.
    pub(super) next: u8,
    pub(super) dont_fragment: bool,
    pub(super) fragment: bool,
}

/// What can be steered by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Payload {
    /// Where its header begins in the frame.
    pub(super) at: usize,
    pub(super) protocol: u8,
    /// Source and destination port; zero for ICMP, and for a fragment that isn't the first, until they are looked up.
    pub(super) ports: [u8; 4],
    pub(super) tcp_flags: u8,
    /// Of a fragment: which part of its datagram it is.
    pub(super) part: Option<Part>,
}

/// What a fragment's header says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) id: [u8; 4],
    /// Bytes before it.
    pub(super) offset: usize,
    pub(super) length: usize,
}

impl Part {
    fn new(id: [u8; 4], offset: usize, more: bool, length: usize) -> Result<Option<Self>, DropReason> {
        if offset == 0 && !more {
            return Ok(None);
        }
        match length {
            _ if offset + length > 65_535 => Err(DropReason::Malformed),
            0 if offset > 0 => Err(DropReason::FragmentTiny),
            _ if more && !length.is_multiple_of(8) => Err(DropReason::FragmentTiny),
            _ => Ok(Some(Self { id, offset, length })),
        }
    }
}

impl Ip {
    /// Where the packet ends in the frame, as its header says.
    pub(super) fn end(&self) -> usize {
        self.at + self.length
    }
}

impl Payload {
    pub(super) fn is_icmp(&self) -> bool {
        matches!(self.protocol, 1 | 58)
    }

    /// A SYN without an ACK.
    pub(super) fn opens(&self) -> bool {
        self.tcp_flags & 0x12 == 0x02
    }

    /// The part that has the ports, of several.
    pub(super) fn is_first(&self) -> bool {
        self.part.is_some_and(|part| part.offset == 0)
    }

    /// A part without them.
    pub(super) fn is_later(&self) -> bool {
        self.part.is_some_and(|part| part.offset > 0)
    }

    pub(super) fn destination_port(&self) -> u16 {
        u16::from_be_bytes([self.ports[2], self.ports[3]])
    }
}

/// The IP header of a frame with two VLAN tags at most.
pub(super) fn frame(frame: &[u8]) -> Option<Ip> {
    let mut at = 12;
    for _ in 0..2 {
        if let [0x81, 0x00] | [0x88, 0xa8] = frame.get(at..at + 2)? {
            at += 4;
        }
    }
    match frame.get(at..at + 2)? {
        [0x08, 0x00] => packet(frame, at + 2).filter(|ip| ip.family == Family::V4),
        [0x86, 0xdd] => packet(frame, at + 2).filter(|ip| ip.family == Family::V6),
        _ => None,
    }
}

/// The IP header at an offset, of the family that its version says.
pub(super) fn packet(frame: &[u8], at: usize) -> Option<Ip> {
    match frame.get(at)? >> 4 {
        4 => ipv4(frame.get(at..at + 20)?, at),
        6 => ipv6(frame.get(at..at + 40)?, at),
        _ => None,
    }
}

fn ipv4(header: &[u8], at: usize) -> Option<Ip> {
    let fragment = u16::from_be_bytes([header[6], header[7]]);
    Some(Ip {
        at,
        family: Family::V4,
        source: Address::v4(header[12..16].try_into().ok()?),
        destination: Address::v4(header[16..20].try_into().ok()?),
        header_length: usize::from(header[0] & 15) * 4,
        length: u16::from_be_bytes([header[2], header[3]]).into(),
        ttl: header[8],
        tos: header[1],
        next: header[9],
        dont_fragment: fragment & 0x4000 != 0,
        fragment: fragment & 0x2000 != 0 || fragment & 0x1fff != 0,
    })
}

fn ipv6(header: &[u8], at: usize) -> Option<Ip> {
    Some(Ip {
        at,
        family: Family::V6,
        source: Address::v6(header[8..24].try_into().ok()?),
        destination: Address::v6(header[24..40].try_into().ok()?),
        header_length: 40,
        length: 40 + usize::from(u16::from_be_bytes([header[4], header[5]])),
        ttl: header[7],
        tos: header[0] << 4 | header[1] >> 4,
        next: header[6],
        dont_fragment: true,
        fragment: false,
    })
}

/// The EtherType and the header of what a tunnel packet with `outer` bytes of headers holds.
pub(super) fn inside(frame: &[u8], ip: &Ip, outer: usize) -> Result<([u8; 2], Ip), DropReason> {
    if ip.fragment {
        return Err(DropReason::Fragment);
    }
    if ip.end() > frame.len() || ip.length < outer {
        return Err(DropReason::BadTunnel);
    }
    let version = frame.get(ip.at + outer).ok_or(DropReason::BadTunnel)? >> 4;
    let kind = match (ip.next, version) {
        (4 | 17, 4) => [0x08, 0x00],
        (41 | 17, 6) => [0x86, 0xdd],
        _ => return Err(DropReason::BadTunnel),
    };
    Ok((kind, packet(frame, ip.at + outer).ok_or(DropReason::BadTunnel)?))
}

/// What a packet that must end before the offset `limit` carries, or why it can't be steered by it.
pub(super) fn payload(frame: &[u8], ip: &Ip, limit: usize) -> Result<Payload, DropReason> {
    let (protocol, at, part) = match ip.family {
        Family::V4 if ip.header_length < 20 || ip.length < ip.header_length => {
            return Err(DropReason::Malformed);
        }
        Family::V4 => (ip.next, ip.at + ip.header_length, part_v4(frame, ip)?),
        Family::V6 => behind_extensions(frame, ip)?,
    };
    if ip.end() > limit {
        return Err(DropReason::Truncated);
    }
    let is_v6 = ip.family == Family::V6;
    if let Some(Part { offset: offset @ 1.., .. }) = part {
        return match protocol {
            6 if offset < 20 => Err(DropReason::FragmentTiny),
            6 | 17 => Ok(Payload { at, protocol, ports: [0; 4], tcp_flags: 0, part }),
            0 | 43 | 44 | 60 if is_v6 => Ok(Payload { at, protocol, ports: [0; 4], tcp_flags: 0, part }),
            _ => Err(DropReason::Fragment),
        };
    }
    let (least, too_short) = match (ip.family, protocol, part) {
        (Family::V4, 58, _) | (Family::V6, 1, _) => return Err(DropReason::UnsupportedProtocol),
        (_, 6, None) => (20, DropReason::Truncated),
        (_, 1 | 17 | 58, None) => (8, DropReason::Truncated),
        // The whole header, options included.
        (_, 6, _) => {
            (frame.get(at + 12).map_or(20, |words| usize::from(words >> 4) * 4), DropReason::FragmentTiny)
        }
        (_, 17, _) => (8, DropReason::FragmentTiny),
        (_, _, Some(_)) => return Err(DropReason::Fragment),
        _ => return Err(DropReason::UnsupportedProtocol),
    };
    let least = if protocol == 6 { least.max(20) } else { least };
    if at + least > ip.end() {
        return Err(too_short);
    }
    let header = frame.get(at..at + least).ok_or(too_short)?;
    let ports =
        if matches!(protocol, 6 | 17) { [header[0], header[1], header[2], header[3]] } else { [0; 4] };
    let tcp_flags = if protocol == 6 { header[13] } else { 0 };
    Ok(Payload { at, protocol, ports, tcp_flags, part })
}

fn part_v4(frame: &[u8], ip: &Ip) -> Result<Option<Part>, DropReason> {
    let header = &frame[ip.at..];
    let field = usize::from(header[6]) << 8 | usize::from(header[7]);
    let id = [0, 0, header[4], header[5]];
    Part::new(id, (field & 0x1fff) * 8, field & 0x2000 != 0, ip.length - ip.header_length)
}

/// Protocol and offset of what stands behind four IPv6 extension headers at most, of 256 bytes at most each, and what the
/// one fragment header among them says. It ends the chain where what follows is another fragment's.
fn behind_extensions(frame: &[u8], ip: &Ip) -> Result<(u8, usize, Option<Part>), DropReason> {
    let (mut next, mut at) = (ip.next, ip.at + 40);
    let (mut part, mut fragment_headers) = (None, 0);
    for number in 0.. {
        match next {
            0 | 43 | 44 | 60 if number < 4 => {}
            0 | 43 | 44 | 60 => return Err(DropReason::ExtensionHeader),
            _ => break,
        }
        let header = frame.get(at..at + 2).ok_or(DropReason::Truncated)?;
        let length = (usize::from(header[1]) + 1) * 8;
        if next == 44 {
            fragment_headers += 1;
            if fragment_headers > 1 {
                return Err(DropReason::Malformed);
            }
            let header = frame.get(at..at + 8).ok_or(DropReason::Truncated)?;
            let rest = ip.end().checked_sub(at + 8).ok_or(DropReason::Malformed)?;
            let field = usize::from(header[2]) << 8 | usize::from(header[3]);
            let id = [header[4], header[5], header[6], header[7]];
            part = Part::new(id, field & 0xfff8, field & 1 != 0, rest)?;
            next = header[0];
            at += 8;
            if part.is_some_and(|part| part.offset > 0) {
                return Ok((next, at, part));
            }
            continue;
        }
        if length > 256 {
            return Err(DropReason::ExtensionHeader);
        }
        next = header[0];
        at += length;
    }
    if at > ip.end() {
        return Err(DropReason::Malformed);
    }
    Ok((next, at, part))
}
