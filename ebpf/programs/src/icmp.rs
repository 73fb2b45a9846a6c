//! ICMP and ICMPv6 for VIPs: echo is answered, errors go to the backend that owns the flow that they speak
//! of, and a sender is told when its packet is too big.

use aya_ebpf::{
    helpers::{bpf_csum_diff, bpf_xdp_adjust_head, bpf_xdp_adjust_tail},
    programs::XdpContext,
};
use fairlead_abi::{Address, DropReason, Family, Flow, Limit, ServiceEntry, ServiceKey};

use crate::{
    checksum, count,
    encap::{self, Tags},
    headers::{Icmp, Ipv4, Ipv6, ethertype, protocol},
    limit,
    maps::Scratch,
    packet::Packet,
    parse::{Ip, Parsed, Transport},
    steer,
    verdict::{self, Verdict},
};

/// Bytes of the packet that "fragmentation needed" quotes: the largest IPv4 header and more than eight bytes.
const QUOTE_V4: usize = 128;
/// Bytes of the packet that "packet too big" quotes.
const QUOTE_V6: usize = 256;
/// Hop limit of what a gateway says itself.
const OWN_TTL: u8 = 64;

/// What an ICMP error quotes.
#[derive(Clone, Copy)]
pub struct Quoted {
    /// Offset of the quoted IP header.
    pub l3: usize,
    /// Offset of the quoted ports.
    pub l4: usize,
    /// TCP or UDP.
    pub protocol: u8,
    /// Its source.
    pub source: Address,
    /// Its destination.
    pub destination: Address,
    /// Source and destination port, as they stand in the quoted packet.
    pub ports: [u8; 4],
}

impl Quoted {
    /// Only what this sender had sent.
    #[inline(always)]
    pub fn of(self, sender: Address) -> Result<Self, DropReason> {
        if self.source.words() == sender.words() { Ok(self) } else { Err(DropReason::IcmpUnrelated) }
    }

    /// Of a VIP's packet: the flow as the client's packets have it.
    #[inline(always)]
    #[must_use]
    pub fn flow(&self) -> Flow {
        let [a, b, c, d] = self.ports;
        Flow { client: self.destination, ports: [c, d, a, b] }
    }

    /// Of a VIP's packet: the VIP's port, host byte order.
    #[inline(always)]
    #[must_use]
    pub fn vip_port(&self) -> u16 {
        u16::from_be_bytes([self.ports[0], self.ports[1]])
    }
}

/// What an ICMP message for a VIP comes to.
pub enum Answer {
    /// It was an echo request, and is its reply now.
    Echoed,
    /// It is an error that concerns a flow of a service.
    Concerns(&'static ServiceEntry, Flow),
}

/// An ICMP message for a VIP, whose own entry is `vip`.
#[inline(always)]
pub fn for_vip(
    packet: &Packet,
    ip: &Ip,
    carried: &Transport,
    vip: &ServiceEntry,
) -> Result<Answer, DropReason> {
    let message: Icmp = packet.read(carried.l4)?;
    match (ip.family(), message.kind) {
        (Family::V4, 8) | (Family::V6, 128) if message.code == 0 => {
            echo(packet, ip, carried, &message, vip.id)
        }
        (family, kind) if is_error(family, kind) => {
            let quoted = quoted(packet, ip, carried)?.of(ip.destination)?;
            let key = ServiceKey::new(ip.destination, quoted.vip_port(), quoted.protocol, family);
            let service = steer::find(&key).ok_or(DropReason::IcmpUnrelated)?;
            Ok(Answer::Concerns(service, quoted.flow()))
        }
        _ => Err(DropReason::UnsupportedProtocol),
    }
}

/// Unreachable, too big, time exceeded, parameter problem.
#[inline(always)]
const fn is_error(family: Family, kind: u8) -> bool {
    match family {
        Family::V4 => matches!(kind, 3 | 11 | 12),
        Family::V6 => matches!(kind, 1..=4),
    }
}

/// What an ICMP error quotes: a TCP or UDP packet of its own family.
#[inline(always)]
pub fn quoted(packet: &Packet, ip: &Ip, carried: &Transport) -> Result<Quoted, DropReason> {
    let l3 = carried.l4 + 8;
    let unrelated = DropReason::IcmpUnrelated;
    if !is_error(ip.family(), packet.read(carried.l4)?) {
        return Err(unrelated);
    }
    let (source, destination, protocol, length) = match ip.family() {
        Family::V4 if carried.protocol == protocol::ICMP => {
            let header: Ipv4 = packet.read(l3).map_err(|_| unrelated)?;
            let length = ((header.version_ihl & 0xf) as usize) << 2;
            let offset = u16::from_be_bytes(header.fragment) & 0x1fff;
            if header.version_ihl >> 4 != 4 || length < 20 || offset != 0 {
                return Err(unrelated);
            }
            (Address::v4(header.source), Address::v4(header.destination), header.protocol, length)
        }
        Family::V6 if carried.protocol == protocol::ICMPV6 => {
            let header: Ipv6 = packet.read(l3).map_err(|_| unrelated)?;
            if header.version_class_label[0] >> 4 != 6 {
                return Err(unrelated);
            }
            (Address::v6(header.source), Address::v6(header.destination), header.next_header, 40)
        }
        _ => return Err(unrelated),
    };
    if protocol != protocol::TCP && protocol != protocol::UDP {
        return Err(unrelated);
    }
    let l4 = l3 + length;
    // Eight bytes are always quoted (RFC 792); fewer are no flow.
    let [ports, _]: [[u8; 4]; 2] = packet.read(l4).map_err(|_| unrelated)?;
    if l4 + 8 > ip.l3 + ip.length {
        return Err(unrelated);
    }
    Ok(Quoted { l3, l4, protocol, source, destination, ports })
}

/// Turns an echo request into its reply, in place.
#[inline(always)]
fn echo(
    packet: &Packet,
    ip: &Ip,
    carried: &Transport,
    message: &Icmp,
    vip: u32,
) -> Result<Answer, DropReason> {
    if !limit::may(Limit::Icmp) {
        return Err(DropReason::IcmpLimited);
    }
    let reply = match ip.family() {
        Family::V4 => 0,
        Family::V6 => 129,
    };
    let (old, new) = ([message.kind, message.code], [reply, 0]);
    let sum = checksum::replace(message.checksum, word(old), word(new));
    packet.write(carried.l4, new)?;
    packet.write(carried.l4 + 2, sum)?;
    match ip.family() {
        Family::V4 => {
            let [ttl, next, a, b]: [u8; 4] = packet.read(ip.l3 + 8)?;
            let sum = checksum::replace(u16::from_ne_bytes([a, b]), word([ttl, next]), word([OWN_TTL, next]));
            packet.write(ip.l3 + 8, OWN_TTL)?;
            packet.write(ip.l3 + 10, sum)?;
            packet.write(ip.l3 + 12, [ip.destination.to_v4(), ip.source.to_v4()])?;
        }
        Family::V6 => {
            packet.write(ip.l3 + 7, OWN_TTL)?;
            packet.write(ip.l3 + 8, [ip.destination.words(), ip.source.words()])?;
        }
    }
    let [to, from]: [[u8; 6]; 2] = packet.read(0)?;
    packet.write(0, [from, to])?;
    count::answered(vip, ip.l3 + ip.length);
    Ok(Answer::Echoed)
}

#[inline(always)]
const fn word(bytes: [u8; 2]) -> u64 {
    u16::from_ne_bytes(bytes) as u64
}

/// Tells the sender of `scratch.packet`, which ends at the offset `end`, how big it may be for the backend that was
/// chosen; the packet itself is dropped. XDP's verdict. A subprogram: see [`slow`](crate::slow).
#[inline(never)]
pub fn too_big(ctx: &XdpContext, scratch: &Scratch, end: u32) -> u32 {
    let backend = &scratch.steered.backend;
    let growth = encap::growth(backend).unwrap_or(0);
    let mtu = (backend.mtu as u32).saturating_sub(growth as u32);
    verdict::finish(ctx, refuse(ctx, scratch, mtu, end as usize))
}

#[inline(always)]
fn refuse(ctx: &XdpContext, scratch: &Scratch, mtu: u32, end: usize) -> Result<Verdict, DropReason> {
    let Parsed { ip, carried, .. } = &scratch.packet;
    // Of an ICMP error nobody is told anything (RFC 1122 3.2.2, RFC 4443 2.4).
    if !ip.dont_fragment || carried.is_icmp() || !limit::may(Limit::Icmp) {
        return Err(DropReason::TooBigSilent);
    }
    let packet = &Packet::new(ctx);
    match ip.family() {
        Family::V4 => say_too_big::<QUOTE_V4, 28>(ctx, packet, ip, mtu, end)?,
        Family::V6 => say_too_big::<QUOTE_V6, 48>(ctx, packet, ip, mtu, end)?,
    }
    count::dropped(DropReason::TooBig as u32, end);
    Ok(Verdict::Transmit)
}

/// Replaces the packet by the message: `HEADERS` bytes of IP and ICMP, then `QUOTE` bytes of the packet.
#[inline(always)]
fn say_too_big<const QUOTE: usize, const HEADERS: usize>(
    ctx: &XdpContext,
    packet: &Packet,
    ip: &Ip,
    mtu: u32,
    end: usize,
) -> Result<(), DropReason> {
    let failed = DropReason::TooBigSilent;
    let [to, from]: [[u8; 6]; 2] = packet.read(0)?;
    let tags = Tags::read(packet, ip.l3)?;
    let cut = (ip.l3 + QUOTE) as i32 - end as i32;
    if cut > 0 {
        return Err(failed);
    }
    // SAFETY: the helpers check their arguments; pointers into the packet are taken anew below.
    let refused = unsafe {
        bpf_xdp_adjust_tail(ctx.ctx, cut) != 0 || bpf_xdp_adjust_head(ctx.ctx, -(HEADERS as i32)) != 0
    };
    if refused {
        return Err(failed);
    }
    let packet = Packet::new(ctx);
    packet.write(0, [from, to])?;
    tags.write(&packet)?;
    let l4 = ip.l3 + HEADERS - 8;
    let quote = packet.at::<[u8; QUOTE]>(ip.l3 + HEADERS).ok_or(failed)?;
    // SAFETY: `quote` points to QUOTE bytes of the packet.
    let quoted =
        unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, quote.cast(), QUOTE as u32, 0) } as u32 as u64;
    let [a, b] = (mtu as u16).to_be_bytes();
    let (kind, code) = match ip.family() {
        Family::V4 => (3, 4),
        Family::V6 => (2, 0),
    };
    let mut sum = quoted + word([kind, code]) + word([a, b]);
    match ip.family() {
        Family::V4 => own_v4(&packet, ip, (HEADERS + QUOTE) as u16)?,
        Family::V6 => {
            let length = (QUOTE + 8) as u16;
            own_v6(&packet, ip, length)?;
            sum += checksum::sum_of(&ip.source)
                + checksum::sum_of(&ip.destination)
                + word(length.to_be_bytes())
                + word([0, protocol::ICMPV6]);
        }
    }
    packet.write(l4, Icmp { kind, code, checksum: !checksum::fold(sum), rest: [0, 0, a, b] })
}

/// An IPv4 header from the packet's destination to its source.
#[inline(always)]
fn own_v4(packet: &Packet, ip: &Ip, total_length: u16) -> Result<(), DropReason> {
    let total_length = total_length.to_be_bytes();
    let sum = word([0x45, 0])
        + word(total_length)
        + word([OWN_TTL, protocol::ICMP])
        + checksum::sum_of(&ip.source)
        + checksum::sum_of(&ip.destination);
    packet.write(ip.l3 - 2, ethertype::IPV4)?;
    packet.write(
        ip.l3,
        Ipv4 {
            version_ihl: 0x45,
            tos: 0,
            total_length,
            id: [0; 2],
            fragment: [0; 2],
            ttl: OWN_TTL,
            protocol: protocol::ICMP,
            checksum: !checksum::fold(sum),
            source: ip.destination.to_v4(),
            destination: ip.source.to_v4(),
        },
    )
}

/// An IPv6 header from the packet's destination to its source.
#[inline(always)]
fn own_v6(packet: &Packet, ip: &Ip, payload_length: u16) -> Result<(), DropReason> {
    packet.write(ip.l3 - 2, ethertype::IPV6)?;
    packet.write(
        ip.l3,
        Ipv6 {
            version_class_label: [0x60, 0, 0, 0],
            payload_length: payload_length.to_be_bytes(),
            next_header: protocol::ICMPV6,
            hop_limit: OWN_TTL,
            source: ip.destination.bytes,
            destination: ip.source.bytes,
        },
    )
}
