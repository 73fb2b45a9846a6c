//! ICMP and ICMPv6 for VIPs.

use fairlead_abi::{Address, Family, Flow};

use super::{super::checksum, Ip, Payload};

/// What a message is.
pub(super) enum Kind {
    /// An echo request.
    Echo,
    /// An error.
    Error,
    /// Something that is not for a VIP.
    Other,
}

/// What an error quotes.
pub(super) struct Quoted {
    /// Where its IP header begins in the frame.
    pub(super) ip: usize,
    /// Where its ports begin.
    pub(super) ports_at: usize,
    pub(super) protocol: u8,
    pub(super) source: Address,
    pub(super) destination: Address,
    /// Source and destination.
    pub(super) ports: [u8; 4],
}

impl Quoted {
    /// Nothing, unless this address had sent it.
    pub(super) fn of(self, sender: Address) -> Option<Self> {
        (self.source == sender).then_some(self)
    }

    /// The sender's port.
    pub(super) fn port(&self) -> u16 {
        u16::from_be_bytes([self.ports[0], self.ports[1]])
    }

    /// Of what a VIP sent: as the client's packets have it.
    pub(super) fn flow(&self) -> Flow {
        let [a, b, c, d] = self.ports;
        Flow { client: self.destination, ports: [c, d, a, b] }
    }
}

pub(super) fn kind_of(frame: &[u8], ip: &Ip, payload: &Payload) -> Kind {
    match (ip.family, frame[payload.at], frame[payload.at + 1]) {
        (Family::V4, 8, 0) | (Family::V6, 128, 0) => Kind::Echo,
        // Unreachable, time exceeded, parameter problem; with IPv6, too big.
        (Family::V4, 3 | 11 | 12, _) | (Family::V6, 1..=4, _) => Kind::Error,
        _ => Kind::Other,
    }
}

/// The request with source and destination exchanged at both layers, a TTL of our own, and the reply's type.
pub(super) fn echo_reply(frame: &[u8], ip: &Ip, payload: &Payload) -> Vec<u8> {
    let mut reply = frame.to_vec();
    exchange(&mut reply, 0, 6);
    let kind = match ip.family {
        Family::V4 => 0,
        Family::V6 => 129,
    };
    let sum = [frame[payload.at + 2], frame[payload.at + 3]];
    let sum = checksum::replaced(sum, &frame[payload.at..payload.at + 2], &[kind, 0]);
    reply[payload.at..payload.at + 4].copy_from_slice(&[kind, 0, sum[0], sum[1]]);
    let packet = &mut reply[ip.at..];
    match ip.family {
        Family::V4 => {
            let sum = checksum::replaced([packet[10], packet[11]], &[packet[8], 0], &[64, 0]);
            packet[8] = 64;
            packet[10..12].copy_from_slice(&sum);
            exchange(packet, 12, 4);
        }
        Family::V6 => {
            packet[7] = 64;
            exchange(packet, 8, 16);
        }
    }
    reply
}

/// Exchanges two neighbours of `length` bytes each.
pub(super) fn exchange(bytes: &mut [u8], at: usize, length: usize) {
    let (first, second) = bytes[at..at + 2 * length].split_at_mut(length);
    first.swap_with_slice(second);
}

/// What an error quotes; `None`: nothing of TCP or UDP, or it is no error.
pub(super) fn quoted(frame: &[u8], ip: &Ip, payload: &Payload) -> Option<Quoted> {
    if !matches!(kind_of(frame, ip, payload), Kind::Error) {
        return None;
    }
    let at = payload.at + 8;
    let quote = frame.get(at..ip.end())?;
    let (source, destination, protocol, header_length) = match ip.family {
        Family::V4 => {
            let header = quote.get(..20)?;
            let later_fragment = header[6] & 0x1f != 0 || header[7] != 0;
            let header_length = usize::from(header[0] & 15) * 4;
            if header[0] >> 4 != 4 || header_length < 20 || later_fragment {
                return None;
            }
            let (source, destination): ([u8; 4], [u8; 4]) =
                (header[12..16].try_into().ok()?, header[16..20].try_into().ok()?);
            (Address::v4(source), Address::v4(destination), header[9], header_length)
        }
        Family::V6 => {
            let header = quote.get(..40)?;
            if header[0] >> 4 != 6 {
                return None;
            }
            let (source, destination): ([u8; 16], [u8; 16]) =
                (header[8..24].try_into().ok()?, header[24..40].try_into().ok()?);
            (Address::v6(source), Address::v6(destination), header[6], 40)
        }
    };
    // Eight bytes of the quoted payload are always there (RFC 792).
    let transport = quote.get(header_length..header_length + 8)?;
    let ports = transport[..4].try_into().ok()?;
    let quoted = Quoted { ip: at, ports_at: at + header_length, protocol, source, destination, ports };
    matches!(protocol, 6 | 17).then_some(quoted)
}

/// "Fragmentation needed" (RFC 1191) or "packet too big" (RFC 4443) in the VIP's name, quoting 128 or 256 bytes of
/// the packet as it came; `None`: the packet is shorter than that.
pub(super) fn too_big(frame: &[u8], ip: &Ip, mtu: usize) -> Option<Vec<u8>> {
    let v4 = ip.family == Family::V4;
    let quote = frame.get(ip.at..ip.at + if v4 { 128 } else { 256 })?;
    let word = |number: usize| u16::try_from(number).expect("16 bits").to_be_bytes();
    let [a, b] = word(mtu);
    let (kind, code) = if v4 { (3, 4) } else { (2, 0) };
    let mut message = [&[kind, code, 0, 0, 0, 0, a, b], quote].concat();
    let length = word(message.len());
    let (us, them) = (ip.destination, ip.source);
    let header = if v4 {
        let total = word(message.len() + 20);
        let mut header = vec![0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, 1, 0, 0];
        header.extend([us.to_v4(), them.to_v4()].concat());
        let sum = checksum::internet(&[&header]);
        header[10..12].copy_from_slice(&sum);
        let sum = checksum::internet(&[&message]);
        message[2..4].copy_from_slice(&sum);
        header
    } else {
        let sum = checksum::internet(&[&us.bytes, &them.bytes, &length, &[0, 58], &message]);
        message[2..4].copy_from_slice(&sum);
        [&[0x60, 0, 0, 0, length[0], length[1], 58, 64], &us.bytes[..], &them.bytes].concat()
    };
    Some([&frame[6..12], &frame[..6], &frame[12..ip.at], &header, &message].concat())
}
