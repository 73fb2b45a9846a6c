//! Writes packets, layer by layer, with right lengths and checksums.
//!
//! Tests build both what goes in and what is expected to come out; nothing is copied from a program's output.

use std::net::IpAddr;

use fairlead_abi::GUE_PORT;

use super::checksum;

/// A MAC address.
pub type Mac = [u8; 6];

/// TCP's flags.
pub mod flags {
    /// FIN.
    pub const FIN: u8 = 0x01;
    /// SYN.
    pub const SYN: u8 = 0x02;
    /// RST.
    pub const RST: u8 = 0x04;
    /// ACK.
    pub const ACK: u8 = 0x10;
    /// SYN and ACK.
    pub const SYN_ACK: u8 = SYN | ACK;
}

/// An Ethernet frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Destination.
    pub to: Mac,
    /// Source.
    pub from: Mac,
    /// VLAN tags, outermost first: TPID and TCI.
    pub tags: Vec<[u8; 4]>,
    /// What it carries.
    pub packet: IpPacket,
    /// Bytes behind the IP packet.
    pub padding: Vec<u8>,
}

/// An IP packet of either family.
#[derive(Clone, Debug)]
pub struct IpPacket {
    /// Source.
    pub source: IpAddr,
    /// Destination, of the same family.
    pub destination: IpAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TOS or traffic class.
    pub tos: u8,
    /// IPv4's identification; IPv6's flow label (its lower 16 bits).
    pub id: u16,
    /// IPv4's flags and fragment offset.
    pub fragment: u16,
    /// IPv4's options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// IPv6's extension headers: next-header number and the bytes behind the first two, 8n + 6 of them.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// What it carries.
    pub carried: Carried,
}

/// What an IP packet carries.
#[derive(Clone, Debug)]
pub enum Carried {
    /// TCP.
    Tcp(Tcp),
    /// UDP.
    Udp(Udp),
    /// ICMP or ICMPv6, by the family of the packet.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// The four bytes behind the checksum.
        rest: [u8; 4],
        /// What follows.
        payload: Vec<u8>,
    },
    /// Another IP packet.
    Packet(Box<IpPacket>),
    /// Anything: its IANA number and bytes.
    Raw(u8, Vec<u8>),
}

/// A TCP segment.
#[derive(Clone, Debug)]
pub struct Tcp {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledged: u32,
    /// See [`flags`].
    pub flags: u8,
    /// Options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// Data.
    pub payload: Vec<u8>,
}

/// A UDP datagram.
#[derive(Clone, Debug)]
pub struct Udp {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
    /// Without, the field is 0.
    pub checksum: bool,
    /// Data.
    pub payload: Vec<u8>,
}

/// A TCP segment without data.
#[must_use]
pub fn tcp(source: u16, destination: u16, flags: u8) -> Tcp {
    Tcp { source, destination, sequence: 1000, acknowledged: 0, flags, options: vec![], payload: vec![] }
}

/// A UDP datagram with a checksum.
#[must_use]
pub fn udp(source: u16, destination: u16, payload: &[u8]) -> Udp {
    Udp { source, destination, checksum: true, payload: payload.to_vec() }
}

/// A packet with DF set, TTL 64, and nothing unusual.
#[must_use]
pub fn ip(
    source: impl Into<IpAddr>,
    destination: impl Into<IpAddr>,
    carried: impl Into<Carried>,
) -> IpPacket {
    IpPacket {
        source: source.into(),
        destination: destination.into(),
        ttl: 64,
        tos: 0,
        id: 0,
        fragment: 0x4000,
        options: vec![],
        extensions: vec![],
        carried: carried.into(),
    }
}

/// `inner` in a GUE packet (variant 1: no header of its own) from `port`; outer TTL 64, DF, no checksum.
#[must_use]
pub fn gue(
    source: impl Into<IpAddr>,
    destination: impl Into<IpAddr>,
    port: u16,
    inner: &IpPacket,
) -> IpPacket {
    let datagram = Udp { source: port, destination: GUE_PORT, checksum: false, payload: inner.bytes() };
    IpPacket { tos: inner.tos, ..ip(source, destination, datagram) }
}

/// `inner` in an IPIP packet; outer TTL 64, DF.
#[must_use]
pub fn ipip(source: impl Into<IpAddr>, destination: impl Into<IpAddr>, inner: &IpPacket) -> IpPacket {
    IpPacket { tos: inner.tos, ..ip(source, destination, Carried::Packet(Box::new(inner.clone()))) }
}

impl From<Tcp> for Carried {
    fn from(segment: Tcp) -> Self {
        Self::Tcp(segment)
    }
}

impl From<Udp> for Carried {
    fn from(datagram: Udp) -> Self {
        Self::Udp(datagram)
    }
}

impl Frame {
    /// Without tags or padding.
    #[must_use]
    pub fn new(to: Mac, from: Mac, packet: IpPacket) -> Self {
        Self { to, from, tags: vec![], packet, padding: vec![] }
    }

    /// With 802.1Q tags, outermost first.
    #[must_use]
    pub fn tagged(mut self, vlans: &[u16]) -> Self {
        self.tags =
            vlans.iter().map(|vlan| [0x81, 0, vlan.to_be_bytes()[0], vlan.to_be_bytes()[1]]).collect();
        self
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let kind = if self.packet.source.is_ipv4() { [8, 0] } else { [0x86, 0xdd] };
        let mut bytes = [self.to, self.from].concat();
        bytes.extend(self.tags.iter().flatten());
        bytes.extend(kind);
        bytes.extend(self.packet.bytes());
        bytes.extend(&self.padding);
        bytes
    }
}

impl IpPacket {
    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let (protocol, carried) = self.carried.bytes(self.source, self.destination);
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let words = 5 + u8::try_from(self.options.len() / 4).expect("40 bytes of options at most");
                let mut header = vec![0x40 | words, self.tos];
                header.extend(length(usize::from(words) * 4 + carried.len()));
                header.extend(self.id.to_be_bytes());
                header.extend(self.fragment.to_be_bytes());
                header.extend([self.ttl, protocol, 0, 0]);
                header.extend(source.octets());
                header.extend(destination.octets());
                header.extend(&self.options);
                let sum = checksum::internet(&[&header]);
                header[10..12].copy_from_slice(&sum);
                [header, carried].concat()
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let (next, extensions) = self.extension_headers(protocol);
                let [a, b] = self.id.to_be_bytes();
                let mut header = vec![0x60 | self.tos >> 4, self.tos << 4, a, b];
                header.extend(length(extensions.len() + carried.len()));
                header.extend([next, self.ttl]);
                header.extend(source.octets());
                header.extend(destination.octets());
                [header, extensions, carried].concat()
            }
            _ => panic!("{} and {} are of different families", self.source, self.destination),
        }
    }

    /// Its fragments, each with `size` bytes of what it carries at most, named by `id`. With IPv6, extension headers stand in
    /// all of them.
    #[must_use]
    pub fn fragments(&self, size: usize, id: u16) -> Vec<Self> {
        let (protocol, carried) = self.carried.bytes(self.source, self.destination);
        let size = size / 8 * 8;
        let count = carried.len().div_ceil(size).max(1);
        let parts = (0..count).map(|number| &carried[number * size..carried.len().min((number + 1) * size)]);
        let fragment = |(number, part): (usize, &[u8])| {
            let more = u16::from(number + 1 < count);
            let eighths = u16::try_from(number * size / 8).expect("less than 64 KiB");
            let carried = Carried::Raw(protocol, part.to_vec());
            if self.source.is_ipv4() {
                return Self { id, fragment: more << 13 | eighths, carried, ..self.clone() };
            }
            let [a, b] = (eighths << 3 | more).to_be_bytes();
            let [c, d] = id.to_be_bytes();
            let mut extensions = self.extensions.clone();
            extensions.push((44, vec![a, b, 0, 0, c, d]));
            Self { extensions, carried, ..self.clone() }
        };
        parts.enumerate().map(fragment).collect()
    }

    /// The first next-header number and the chain that ends with `protocol`.
    fn extension_headers(&self, protocol: u8) -> (u8, Vec<u8>) {
        let mut next = protocol;
        let mut chain = Vec::new();
        for (kind, body) in self.extensions.iter().rev() {
            let words = u8::try_from((body.len() + 2) / 8 - 1).expect("2048 bytes at most");
            chain = [&[next, words], body.as_slice(), &chain].concat();
            next = *kind;
        }
        (next, chain)
    }
}

impl Carried {
    /// IANA number and bytes.
    fn bytes(&self, source: IpAddr, destination: IpAddr) -> (u8, Vec<u8>) {
        match self {
            Self::Tcp(segment) => (6, segment.bytes(source, destination)),
            Self::Udp(datagram) => (17, datagram.bytes(source, destination)),
            Self::Icmp { kind, code, rest, payload } => {
                let message = [&[*kind, *code, 0, 0], &rest[..], payload].concat();
                if source.is_ipv4() {
                    (1, with_sum(message, 2, &[]))
                } else {
                    let pseudo = pseudo_header(source, destination, 58, message.len());
                    (58, with_sum(message, 2, &pseudo))
                }
            }
            Self::Packet(packet) => (if packet.source.is_ipv4() { 4 } else { 41 }, packet.bytes()),
            Self::Raw(protocol, bytes) => (*protocol, bytes.clone()),
        }
    }
}

impl Tcp {
    fn bytes(&self, source: IpAddr, destination: IpAddr) -> Vec<u8> {
        let words = 5 + u8::try_from(self.options.len() / 4).expect("40 bytes of options at most");
        let mut segment = [self.source.to_be_bytes(), self.destination.to_be_bytes()].concat();
        segment.extend(self.sequence.to_be_bytes());
        segment.extend(self.acknowledged.to_be_bytes());
        segment.extend([words << 4, self.flags, 0xfa, 0xf0, 0, 0, 0, 0]);
        segment.extend(&self.options);
        segment.extend(&self.payload);
        let pseudo = pseudo_header(source, destination, 6, segment.len());
        with_sum(segment, 16, &pseudo)
    }
}

impl Udp {
    fn bytes(&self, source: IpAddr, destination: IpAddr) -> Vec<u8> {
        let mut datagram = [self.source.to_be_bytes(), self.destination.to_be_bytes()].concat();
        datagram.extend(length(8 + self.payload.len()));
        datagram.extend([0, 0]);
        datagram.extend(&self.payload);
        if !self.checksum {
            return datagram;
        }
        let pseudo = pseudo_header(source, destination, 17, datagram.len());
        let mut datagram = with_sum(datagram, 6, &pseudo);
        if datagram[6..8] == [0, 0] {
            datagram[6..8].copy_from_slice(&[0xff, 0xff]);
        }
        datagram
    }
}

/// `message` with the checksum over the pseudo header and itself at `at`.
fn with_sum(mut message: Vec<u8>, at: usize, pseudo: &[u8]) -> Vec<u8> {
    let sum = checksum::internet(&[pseudo, &message]);
    message[at..at + 2].copy_from_slice(&sum);
    message
}

/// What transport checksums also cover (RFC 793, RFC 8200 8.1).
fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, bytes: usize) -> Vec<u8> {
    let address = |ip| match ip {
        IpAddr::V4(ip) => std::net::Ipv4Addr::octets(&ip).to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    [address(source), address(destination), length(bytes).to_vec(), vec![0, protocol]].concat()
}

fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).expect("a packet of less than 64 KiB").to_be_bytes()
}
