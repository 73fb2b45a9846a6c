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
    /// Source and destination port; zero for ICMP.
    pub(super) ports: [u8; 4],
    pub(super) tcp_flags: u8,
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
    let (protocol, at) = match ip.family {
        Family::V4 if ip.header_length < 20 || ip.length < ip.header_length => {
            return Err(DropReason::Malformed);
        }
        Family::V4 if ip.fragment => return Err(DropReason::Fragment),
        Family::V4 => (ip.next, ip.at + ip.header_length),
        Family::V6 => behind_extensions(frame, ip)?,
    };
    if ip.end() > limit {
        return Err(DropReason::Truncated);
    }
    let least = match (ip.family, protocol) {
        (_, 6) => 20,
        (_, 17) | (Family::V4, 1) | (Family::V6, 58) => 8,
        _ => return Err(DropReason::UnsupportedProtocol),
    };
    if at + least > ip.end() {
        return Err(DropReason::Truncated);
    }
    let header = frame.get(at..at + least).ok_or(DropReason::Truncated)?;
    let ports =
        if least == 20 || protocol == 17 { [header[0], header[1], header[2], header[3]] } else { [0; 4] };
    let tcp_flags = if protocol == 6 { header[13] } else { 0 };
    Ok(Payload { at, protocol, ports, tcp_flags })
}

/// Protocol and offset of what stands behind four IPv6 extension headers at most, of 256 bytes at most each.
fn behind_extensions(frame: &[u8], ip: &Ip) -> Result<(u8, usize), DropReason> {
    let (mut next, mut at) = (ip.next, ip.at + 40);
    for number in 0.. {
        match next {
            44 => return Err(DropReason::Fragment),
            0 | 43 | 60 if number < 4 => {}
            0 | 43 | 60 => return Err(DropReason::ExtensionHeader),
            _ => break,
        }
        let header = frame.get(at..at + 2).ok_or(DropReason::Truncated)?;
        let length = (usize::from(header[1]) + 1) * 8;
        if length > 256 {
            return Err(DropReason::ExtensionHeader);
        }
        next = header[0];
        at += length;
    }
    if at > ip.end() {
        return Err(DropReason::Malformed);
    }
    Ok((next, at))
}
