//! The kinds of packets that are measured, as bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use fairlead_abi::{QUIC_CONFIG, protocol};
use fairlead_core::model::ServerId;

use super::fleet::{PORT, vip_v4, vip_v6};
use super::records::HEADERS;

/// Every frame is this long: as much as a wrapper writes anew for each packet.
pub(super) const FRAME: usize = 80;
/// Clients count up from these.
const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 0);
const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 0);
/// From this port.
const CLIENT_PORT: u16 = 40_000;
/// And these are nobody's VIPs.
const STRANGER: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 0);

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// One kind of packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) name: &'static str,
    v6: bool,
    protocol: u8,
    tcp_flags: u8,
    stranger: bool,
    /// A packet of QUIC with a short header, whose connection ID names this server.
    server: Option<ServerId>,
    /// A fragment of a datagram.
    part: Option<Part>,
}

/// One of two fragments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// With the ports.
    First,
    /// Right behind.
    Last,
}

const fn case(name: &'static str, v6: bool, protocol: u8, tcp_flags: u8) -> Case {
    Case { name, v6, protocol, tcp_flags, stranger: false, server: None, part: None }
}

/// The extension header of fragments.
const FRAGMENT_HEADER: u8 = 44;
/// Bytes of the first fragment behind its IP header.
const FIRST: u16 = 16;
/// Of all datagrams in fragments: their sources differ.
const IDENTIFICATION: u16 = 0x1234;

/// All that are measured one by one.
const CASES: [Case; 9] = [
    case("tcp4", false, protocol::TCP, ACK),
    case("tcp6", true, protocol::TCP, ACK),
    case("udp4", false, protocol::UDP, 0),
    case("udp6", true, protocol::UDP, 0),
    case("syn4", false, protocol::TCP, SYN),
    case("syn6", true, protocol::TCP, SYN),
    case("icmp4", false, protocol::ICMP, 0),
    case("icmp6", true, protocol::ICMPV6, 0),
    Case { stranger: true, ..case("not_a_vip", false, protocol::TCP, ACK) },
];

/// The tunnel that a packet comes in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tunnel {
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    /// What its mark says: a [`kind`](fairlead_abi::kind).
    pub(super) kind: u8,
    /// It comes back to its gateway.
    pub(super) bounced: bool,
}

impl Tunnel {
    /// The headers around those of `case`, whose own Ethernet header it takes, and some bytes after its end; the mark is
    /// still to be written.
    pub(super) fn frame(&self, case: Case) -> [u8; 8 * HEADERS] {
        let inner = case.frame();
        let mut frame = [0; 8 * HEADERS];
        let (mac, packet) = inner.split_at(14);
        frame[..14].copy_from_slice(mac);
        let length =
            |outer: usize| u16::try_from(packet.len() + outer).expect("a frame is short").to_be_bytes();
        let within = match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let header = &mut frame[14..34];
                header[0] = 0x45;
                header[2..4].copy_from_slice(&length(20));
                header[6] = 0x40;
                header[8] = 64;
                header[9] = 4;
                header[12..16].copy_from_slice(&from.octets());
                header[16..20].copy_from_slice(&to.octets());
                34
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let header = &mut frame[14..54];
                header[0] = 0x60;
                header[4..6].copy_from_slice(&length(0));
                header[6] = 41;
                header[7] = 64;
                header[8..24].copy_from_slice(&from.octets());
                header[24..40].copy_from_slice(&to.octets());
                54
            }
            _ => panic!("a tunnel has one IP version"),
        };
        frame[within..within + packet.len()].copy_from_slice(packet);
        frame
    }
}

/// Those with these names; all, if there are no names.
pub(super) fn named(names: &[String]) -> Result<Vec<Case>> {
    if names.is_empty() {
        return Ok(CASES.to_vec());
    }
    let find = |name: &String| CASES.into_iter().find(|case| case.name == name);
    let known = CASES.map(|case| case.name).join(", ");
    names
        .iter()
        .map(|name| find(name).with_context(|| format!("no case {name}; there are {known}")))
        .collect()
}

/// XDP's verdicts.
pub(super) const PASS: usize = 2;
/// See [`PASS`].
pub(super) const TRANSMIT: usize = 3;

impl Case {
    /// What the gateway has to do with it.
    pub(super) fn verdict(self) -> usize {
        if self.stranger { PASS } else { TRANSMIT }
    }

    /// Whether it is IPv6, and so are the outer headers.
    pub(super) fn is_v6(self) -> bool {
        self.v6
    }

    /// Whether it is forwarded; the others are answered or passed.
    pub(super) fn is_forwarded(self) -> bool {
        !self.stranger && (self.protocol == protocol::TCP || self.protocol == protocol::UDP)
    }

    /// The packet that the floor wraps: this one, or one of TCP where this isn't one to be wrapped, whole in any case.
    pub(super) fn for_floor(self) -> Self {
        if self.is_forwarded() && self.part.is_none() { self } else { Self::tcp(self.v6) }
    }

    /// A case of TCP, with ACK.
    pub(super) const fn tcp(v6: bool) -> Self {
        if v6 { CASES[1] } else { CASES[0] }
    }

    /// A case of QUIC, for the server that an ID names.
    pub(super) const fn quic(v6: bool, server: ServerId) -> Self {
        Self { server: Some(server), ..if v6 { CASES[3] } else { CASES[2] } }
    }

    /// A case of UDP in fragments.
    pub(super) const fn fragment(v6: bool, part: Part) -> Self {
        Self { part: Some(part), ..if v6 { CASES[3] } else { CASES[2] } }
    }

    /// The client of its flow with this number.
    pub(super) fn client(self, flow: u32) -> IpAddr {
        if self.v6 {
            Ipv6Addr::from_bits(CLIENT_V6.to_bits() + u128::from(flow)).into()
        } else {
            Ipv4Addr::from_bits(CLIENT_V4.to_bits() + flow).into()
        }
    }

    /// Source and destination port, as they stand in the packet.
    pub(super) fn ports(self) -> [u8; 4] {
        let ([a, b], [c, d]) = (CLIENT_PORT.to_be_bytes(), PORT.to_be_bytes());
        [a, b, c, d]
    }

    /// The last four bytes of source and destination, from which flows and services are counted up.
    pub(super) fn address_ends(self) -> (u32, u32) {
        let frame = self.frame();
        let at =
            |offset: usize| u32::from_be_bytes(frame[offset..offset + 4].try_into().expect("four bytes"));
        if self.v6 { (at(34), at(50)) } else { (at(26), at(30)) }
    }

    /// The packet from the first client to the first service.
    pub(super) fn frame(self) -> [u8; FRAME] {
        let mut frame = [0; FRAME];
        frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
        frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
        let l4 = if self.v6 { self.ipv6(&mut frame) } else { self.ipv4(&mut frame) };
        self.transport(&mut frame[l4..]);
        frame
    }

    fn ipv4(self, frame: &mut [u8; FRAME]) -> usize {
        frame[12..14].copy_from_slice(&[0x08, 0]);
        let destination = if self.stranger { STRANGER } else { vip_v4(0) };
        let header = &mut frame[14..34];
        header[0] = 0x45;
        header[2..4].copy_from_slice(&length(14));
        header[6] = 0x40;
        header[8] = 64;
        header[9] = self.protocol;
        header[12..16].copy_from_slice(&CLIENT_V4.octets());
        header[16..20].copy_from_slice(&destination.octets());
        if let Some(part) = self.part {
            header[4..6].copy_from_slice(&IDENTIFICATION.to_be_bytes());
            let (offset, more) = match part {
                Part::First => (0, 1 << 13),
                Part::Last => (FIRST / 8, 0),
            };
            header[2..4].copy_from_slice(&(20 + FIRST).to_be_bytes());
            header[6..8].copy_from_slice(&(offset | more).to_be_bytes());
        }
        34
    }

    fn ipv6(self, frame: &mut [u8; FRAME]) -> usize {
        frame[12..14].copy_from_slice(&[0x86, 0xdd]);
        let header = &mut frame[14..54];
        header[0] = 0x60;
        header[4..6].copy_from_slice(&length(54));
        header[6] = self.protocol;
        header[7] = 64;
        header[8..24].copy_from_slice(&CLIENT_V6.octets());
        header[24..40].copy_from_slice(&vip_v6(0).octets());
        let Some(part) = self.part else { return 54 };
        header[4..6].copy_from_slice(&(8 + FIRST).to_be_bytes());
        header[6] = FRAGMENT_HEADER;
        let (offset, more) = match part {
            Part::First => (0, 1),
            Part::Last => (FIRST, 0),
        };
        let fragment = &mut frame[54..62];
        fragment[0] = self.protocol;
        fragment[2..4].copy_from_slice(&(offset | more).to_be_bytes());
        fragment[6..8].copy_from_slice(&IDENTIFICATION.to_be_bytes());
        62
    }

    fn transport(self, header: &mut [u8]) {
        match self.protocol {
            protocol::ICMP => header[0] = 8,
            protocol::ICMPV6 => header[0] = 128,
            _ => {
                header[..4].copy_from_slice(&self.ports());
            }
        }
        match self.protocol {
            protocol::TCP => {
                header[12] = 0x50;
                header[13] = self.tcp_flags;
            }
            protocol::UDP => {
                let bytes = u16::try_from(header.len()).expect("a frame is short");
                header[4..6].copy_from_slice(&bytes.to_be_bytes());
                if let Some(ServerId(id)) = self.server {
                    header[8..10].copy_from_slice(&[0x40, QUIC_CONFIG << 5]);
                    header[10..18].copy_from_slice(&id);
                }
            }
            _ => {}
        }
    }
}

/// Bytes from an offset to the frame's end, as headers have it.
fn length(from: usize) -> [u8; 2] {
    u16::try_from(FRAME - from).expect("a frame is short").to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str) -> Case {
        named(&[name.to_owned()]).unwrap()[0]
    }

    #[test]
    fn an_ipv4_frame_says_how_long_it_is() {
        let frame = of("udp4").frame();
        assert_eq!(frame[14..18], [0x45, 0, 0, 66]);
        assert_eq!(frame[23], 17);
        assert_eq!(frame[26..34], [100, 64, 0, 0, 198, 18, 0, 0]);
        assert_eq!(frame[36..40], [0, 80, 0, 46]);
    }

    #[test]
    fn an_ipv6_frame_says_how_long_its_payload_is() {
        let frame = of("syn6").frame();
        assert_eq!(frame[12..22], [0x86, 0xdd, 0x60, 0, 0, 0, 0, 26, 6, 64]);
        assert_eq!(frame[67], SYN);
        assert_eq!(of("syn6").address_ends(), (0, 0));
        assert_eq!(of("tcp4").address_ends(), (0x6440_0000, 0xc612_0000));
    }

    #[test]
    fn an_unknown_case_is_refused_with_the_known_ones() {
        let error = named(&["tcp5".to_owned()]).unwrap_err().to_string();
        assert!(error.starts_with("no case tcp5; there are tcp4, "), "{error}");
    }
}
