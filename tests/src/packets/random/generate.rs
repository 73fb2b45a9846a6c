//! Valid packets of all kinds, with random fields.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fairlead_abi::{Flow, flow_hash, mark};

use super::{
    Rng,
    scene::{
        CLIENTS_V4, CLIENTS_V6, ENDPOINTS, FIRST_CLIENT_PORT, OWN, PORTS, SEED, SERVERS, SOURCES, VIPS,
        address, endpoint_of, fits, server_id,
    },
};
use crate::packets::build::{Carried, Frame, IpPacket, Tcp, Udp, flags, gue, ip, ipip, tcp, udp};

/// Sequence numbers of endpoints' packets: few, so that a client's ACK may fit one.
const SEQUENCES: [u32; 3] = [7, 0xffff_ffff, 0x0102_0304];
/// Source ports of clients: few, so that flows meet again.
const CLIENT_PORTS: usize = 3;

/// A frame for a node of the scene.
pub fn packet(rng: &mut Rng) -> Vec<u8> {
    let packet = match rng.below(16) {
        0..8 => client(rng).0,
        8..13 => tunnel(rng, 0),
        13 | 14 => bounce(rng),
        _ => return noise(rng),
    };
    frame(rng, packet).bytes()
}

/// A frame that an endpoint of the scene sends to a client.
pub fn reply(rng: &mut Rng) -> Vec<u8> {
    let vip = address(rng.pick(&VIPS));
    let number = rng.below(2);
    let (endpoint, port) = endpoint_of(vip.is_ipv4(), number, rng.pick(&PORTS));
    let client = client_address(rng, vip);
    let to = client_port(rng);
    if rng.once_in(8) {
        return reported(rng, vip, (endpoint, port), (client, to));
    }
    let carried = if rng.once_in(4) {
        Carried::Udp(Udp { checksum: !rng.once_in(4), ..udp(port, to, &payload(rng, 100)) })
    } else {
        let mut segment = Tcp { sequence: rng.pick(&SEQUENCES), ..segment(rng, port, to) };
        // BPF_PROG_TEST_RUN takes less than a page where it makes an skb.
        segment.payload.truncate(1400);
        Carried::Tcp(segment)
    };
    let packet = ip(endpoint, client, carried);
    let packet = if rng.once_in(4) { fragment(rng, &packet) } else { packet };
    frame(rng, packet).bytes()
}

/// A frame with an ICMP error, of an endpoint or of its node, about what a client sent it.
fn reported(
    rng: &mut Rng,
    vip: IpAddr,
    (endpoint, port): (IpAddr, u16),
    (client, to): (IpAddr, u16),
) -> Vec<u8> {
    let carried = if rng.once_in(3) {
        Carried::Tcp(Tcp { payload: vec![], ..segment(rng, to, port) })
    } else {
        Carried::Udp(udp(to, port, &payload(rng, 30)))
    };
    let mut quoted = ip(client, endpoint, carried);
    if rng.once_in(8) {
        quoted = unusual(rng, quoted);
    }
    let quote = quoted.bytes();
    let kind = if vip.is_ipv4() { rng.pick(&[3, 11, 12, 5]) } else { rng.pick(&[1, 2, 3, 4, 129]) };
    let sender = if rng.once_in(4) { random_address(rng, vip) } else { endpoint };
    let receiver = if rng.once_in(8) { random_address(rng, vip) } else { client };
    let rest = [0, 0, 5, rng.byte()];
    let error = Carried::Icmp { kind, code: rng.pick(&[0, 1, 3, 4]), rest, payload: quote };
    frame(rng, ip(sender, receiver, error)).bytes()
}

fn frame(rng: &mut Rng, packet: IpPacket) -> Frame {
    let mut frame = Frame::new([2, 0, 0, 0, 9, 1], [2, 0, 0, 0, 9, 2], packet);
    let tags = rng.pick(&[0, 0, 0, 0, 0, 0, 1, 1, 2, 3]);
    let vlan = rng.word();
    frame = frame.tagged(&[vlan, 1, 2][..tags]);
    if tags == 2 && rng.once_in(2) {
        frame.tags[0][..2].copy_from_slice(&[0x88, 0xa8]);
    }
    if rng.once_in(8) {
        frame.padding = rng.bytes(46);
    }
    frame
}

/// What is no IP packet.
fn noise(rng: &mut Rng) -> Vec<u8> {
    let kind = rng.pick(&[[8, 6], [0x86, 0xdd], [8, 0], [0x88, 0xcc], [0, 4], [0x81, 0]]);
    let length = 2 + rng.below(80);
    [rng.bytes(12), kind.to_vec(), rng.bytes(length)].concat()
}

/// A packet as clients send them, most of them for a VIP, and its ports, which not all fragments have.
fn client(rng: &mut Rng) -> (IpPacket, [u16; 2]) {
    let vip = address(rng.pick(&VIPS));
    let destination = if rng.once_in(16) { random_address(rng, vip) } else { vip };
    let source = client_address(rng, vip);
    let carried = match rng.below(16) {
        0..7 => {
            let (from, to) = (client_port(rng), port(rng));
            let acknowledged = rng.pick(&SEQUENCES).wrapping_add(1);
            Carried::Tcp(Tcp { acknowledged, ..segment(rng, from, to) })
        }
        7..11 => {
            let (from, to) = (client_port(rng), port(rng));
            let payload = if rng.once_in(2) { quic(rng) } else { sized_payload(rng) };
            Carried::Udp(Udp { checksum: !rng.once_in(4), ..udp(from, to, &payload) })
        }
        11 => echo(rng, vip),
        12 | 13 => error(rng, vip, source),
        14 => {
            let [kind, code] = [rng.byte(), rng.byte()];
            Carried::Icmp { kind, code, rest: [0; 4], payload: payload(rng, 60) }
        }
        _ => Carried::Raw(rng.byte(), payload(rng, 60)),
    };
    let ports = match &carried {
        Carried::Tcp(segment) => [segment.source, segment.destination],
        Carried::Udp(datagram) => [datagram.source, datagram.destination],
        _ => [0; 2],
    };
    let packet = ip(source, destination, carried);
    let packet = if rng.once_in(4) { fragment(rng, &packet) } else { unusual(rng, packet) };
    (packet, ports)
}

/// One of a packet's fragments, by few names: so that they meet others of the same datagram, or of another one.
fn fragment(rng: &mut Rng, packet: &IpPacket) -> IpPacket {
    let mut packet = packet.clone();
    if rng.once_in(8) {
        packet.extensions.push((60, rng.bytes(6)));
    }
    let size = rng.pick(&[8, 8, 16, 24, 24, 32, 256, 1400]);
    let mut fragments = packet.fragments(size, u16::try_from(rng.below(2)).expect("small"));
    fragments.truncate(6);
    fragments.swap_remove(rng.below(fragments.len()))
}

/// Random header fields; sometimes options, extension headers or a fragment.
fn unusual(rng: &mut Rng, mut packet: IpPacket) -> IpPacket {
    packet.ttl = rng.pick(&[64, 64, 64, 255, 2, 1, 0]);
    packet.tos = rng.byte();
    packet.id = rng.word();
    packet.fragment = rng.pick(&[0x4000, 0x4000, 0x4000, 0x4000, 0, 0x8000, 0x2000, 0x0010]);
    if rng.once_in(8) {
        packet.options = vec![1; 4 * (1 + rng.below(10))];
    }
    if rng.once_in(6) {
        for _ in 0..=rng.below(5) {
            let kind = rng.pick(&[0, 43, 60, 60, 44]);
            let words = rng.pick(&[0, 0, 1, 3, 31, 32]);
            packet.extensions.push((kind, rng.bytes(6 + 8 * words)));
        }
    }
    packet
}

fn segment(rng: &mut Rng, source: u16, destination: u16) -> Tcp {
    let flags = rng.pick(&[
        flags::SYN,
        flags::ACK,
        flags::ACK,
        flags::SYN_ACK,
        0x18,
        0x11,
        0x14,
        flags::RST,
        0x02 | 0xc0,
    ]);
    let options = match rng.below(5) {
        0 => vec![2, 4, 5, 0xb4],
        3 => vec![2, 4, 2, 0x18],
        1 => vec![1, 2, 4, 5, 0xb4, 1, 3, 0], // at an odd offset; the last one is bad
        2 => vec![8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 2, 4, 0x23, 0x28, 0, 0],
        _ => vec![],
    };
    Tcp {
        // Near each other, or far apart.
        sequence: u32::from(rng.word()) << rng.pick(&[0, 0, 0, 16]),
        options,
        payload: sized_payload(rng),
        ..tcp(source, destination, flags)
    }
}

fn echo(rng: &mut Rng, vip: IpAddr) -> Carried {
    let kind = if vip.is_ipv4() { 8 } else { 128 };
    Carried::Icmp { kind, code: 0, rest: [1, 2, 3, rng.byte()], payload: payload(rng, 64) }
}

/// An ICMP error about a packet that the VIP sent to `client`, or to somebody else, or of somebody else's.
fn error(rng: &mut Rng, vip: IpAddr, client: IpAddr) -> Carried {
    let kind = if vip.is_ipv4() { rng.pick(&[3, 11, 12, 5]) } else { rng.pick(&[1, 2, 3, 4]) };
    let sender = if rng.once_in(8) { random_address(rng, vip) } else { vip };
    let (from, to) = (port(rng), client_port(rng));
    let carried = if rng.once_in(3) {
        Carried::Udp(udp(from, to, &payload(rng, 30)))
    } else {
        Carried::Tcp(segment(rng, from, to))
    };
    let mut quoted = ip(sender, client, carried);
    if rng.once_in(6) {
        quoted = unusual(rng, quoted);
    }
    let mut quote = quoted.bytes();
    if rng.once_in(2) {
        quote.truncate(rng.pick(&[20, 27, 28, 40, 47, 48, 68, 128]));
    }
    let rest = [0, 0, 5, rng.byte()];
    Carried::Icmp { kind, code: rng.pick(&[0, 1, 3, 4]), rest, payload: quote }
}

/// A tunnel packet of some gateway or stranger.
fn tunnel(rng: &mut Rng, depth: usize) -> IpPacket {
    let (inner, ports) =
        if depth < 2 && rng.once_in(12) { (tunnel(rng, depth + 1), [0; 2]) } else { client(rng) };
    let source = address(rng.pick(&SOURCES));
    let mut endpoint = rng.pick(&ENDPOINTS);
    while !fits(endpoint, source) {
        endpoint = rng.pick(&ENDPOINTS);
    }
    let outer = if rng.once_in(2) {
        ipip(source, address(endpoint), &inner)
    } else {
        gue(source, address(endpoint), 0xc000 | rng.word(), &inner)
    };
    let outer = IpPacket { id: mark_for(rng, &inner, ports, false), ..outer };
    match rng.below(16) {
        0 => unusual(rng, outer),
        1 => IpPacket { tos: outer.tos | 3, ..outer },
        _ => outer,
    }
}

/// A tunnel packet that comes back, or seems to.
fn bounce(rng: &mut Rng) -> IpPacket {
    let (inner, ports) = client(rng);
    let own = address(rng.pick(&OWN));
    let far = rng.pick(if own.is_ipv4() {
        &["192.0.2.101", "192.0.2.102"]
    } else {
        &["2001:db8:200::101", "2001:db8:200::102"]
    });
    let outer = if rng.once_in(2) {
        ipip(address(far), own, &inner)
    } else {
        gue(address(far), own, 0xc000 | rng.word(), &inner)
    };
    let id = mark_for(rng, &inner, ports, true);
    if rng.once_in(16) { unusual(rng, outer) } else { IpPacket { id, ..outer } }
}

/// Most often a right mark, else none or a wrong one. Of ICMP errors none is right but by chance.
fn mark_for(rng: &mut Rng, inner: &IpPacket, ports: [u16; 2], back: bool) -> u16 {
    let [[a, b], [c, d]] = ports.map(u16::to_be_bytes);
    let hash = flow_hash(SEED, &Flow { client: inner.source.into(), ports: [a, b, c, d] });
    match rng.below(10) {
        0..2 => 0,
        2 => rng.word(),
        3 => mark(hash, rng.pick(&[1, 2, 3, 4, 5]), !back),
        _ => mark(hash, rng.pick(&[1, 1, 2, 3, 4, 5]), back),
    }
}

fn port(rng: &mut Rng) -> u16 {
    if rng.once_in(20) { rng.pick(&[0, 6080, 65535]) } else { rng.pick(&PORTS) }
}

fn client_port(rng: &mut Rng) -> u16 {
    FIRST_CLIENT_PORT + u16::try_from(rng.below(CLIENT_PORTS)).expect("a port")
}

/// One of a few clients, any address, or one that no client can have.
fn client_address(rng: &mut Rng, vip: IpAddr) -> IpAddr {
    let v4 = vip.is_ipv4();
    match rng.below(12) {
        0..8 => address(rng.pick(if v4 { &CLIENTS_V4 } else { &CLIENTS_V6 })),
        8..11 => random_address(rng, vip),
        _ if v4 => {
            address(rng.pick(&["127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "240.0.0.1", VIPS[0]]))
        }
        _ => address(rng.pick(&["::", "::1", "::2", "ff02::1", "fe80::1", "::ffff:192.0.2.50", VIPS[2]])),
    }
}

fn random_address(rng: &mut Rng, like: IpAddr) -> IpAddr {
    let bytes = rng.bytes(16);
    if like.is_ipv4() {
        Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into()
    } else {
        let mut address: [u8; 16] = bytes.try_into().expect("16 bytes");
        address[0] = 0x20;
        Ipv6Addr::from(address).into()
    }
}

/// A datagram of QUIC with some server's ID; sometimes with another form, version, length or configuration, or cut.
fn quic(rng: &mut Rng) -> Vec<u8> {
    let number = u16::try_from(rng.below(SERVERS)).expect("few");
    let first = if rng.once_in(8) { rng.byte() } else { rng.byte() & 0x1f };
    let nonce = if rng.once_in(8) { rng.below(12) } else { 4 + rng.below(8) };
    let id = [&[first], &server_id(number)[..], &rng.bytes(nonce)].concat();
    let length = if rng.once_in(8) { rng.byte() } else { u8::try_from(id.len()).expect("short") };
    let header = if rng.once_in(2) {
        vec![0x40 | rng.byte() & 0x3f]
    } else {
        let version =
            rng.pick(&[[0, 0, 0, 1], [0, 0, 0, 1], [0x6b, 0x33, 0x43, 0xcf], [0; 4], [0xff, 0, 0, 29]]);
        let form = 0xc0 | rng.pick(&[0, 1, 2, 2, 2, 3, 3]) << 4 | rng.byte() & 0xf;
        [&[form], &version[..], &[length]].concat()
    };
    let mut datagram = [header, id, payload(rng, 40)].concat();
    if rng.once_in(16) {
        datagram.truncate(rng.below(24));
    }
    datagram
}

fn payload(rng: &mut Rng, most: usize) -> Vec<u8> {
    let length = rng.below(most + 1);
    rng.bytes(length)
}

/// Mostly small; sometimes around what paths carry, sometimes of more than one page.
fn sized_payload(rng: &mut Rng) -> Vec<u8> {
    let length = match rng.below(32) {
        0..20 => rng.below(20),
        20..28 => rng.below(300),
        28 => 1100 + rng.below(200),
        29 | 30 => 1300 + rng.below(200),
        _ => rng.pick(&[3300, 3500, 4000, 8000]) + rng.below(100),
    };
    rng.bytes(length)
}
