//! The receiver: a gateway's tunnel packet for an endpoint of this node is unwrapped, rewritten to the
//! endpoint's address and port, and left to the local stack to deliver.

use aya_ebpf::{btf_maps::lpm_trie::Key, helpers::bpf_xdp_adjust_head, programs::XdpContext};
use fairlead_abi::{
    Address, Delivery, DeliveryKey, DropReason, ENDPOINT_OWNS_VIP, Family, FlowKey, GUE_PORT,
};

use crate::{
    checksum,
    encap::Tags,
    headers::{ecn, ethertype, protocol},
    icmp,
    maps::{DELIVERIES, GATEWAYS, Scratch},
    packet::Packet,
    parse::{Ip, Parsed},
    reply,
    verdict::{self, UNDECIDED, Verdict},
};

/// Whether it is a tunnel packet at all, ours or not.
#[inline(always)]
#[must_use]
pub fn is_tunnel(packet: &Packet, ip: &Ip) -> bool {
    outer_length(packet, ip).is_some()
}

/// [`check`] and [`deliver`]: all is well.
pub const FINE: u32 = u32::MAX;

/// Whether the tunnel packet `scratch.packet`, which ends at the offset `end`, can be unwrapped: [`FINE`] and
/// `scratch.outer` is set, or the number of the [`DropReason`] why not. A subprogram: see [`slow`](crate::slow).
#[inline(never)]
pub fn check(ctx: &XdpContext, scratch: &mut Scratch, end: u32) -> u32 {
    match try_check(&Packet::new(ctx), &scratch.packet.ip, end as usize) {
        Ok(outer) => {
            scratch.outer = outer as u32;
            FINE
        }
        Err(reason) => reason as u32,
    }
}

/// Bytes of the outer headers.
#[inline(always)]
fn try_check(packet: &Packet, ip: &Ip, end: usize) -> Result<usize, DropReason> {
    let outer = outer_length(packet, ip).ok_or(DropReason::Truncated)?;
    if !from_gateway(ip) {
        return Err(DropReason::StrangerTunnel);
    }
    if ip.fragment {
        return Err(DropReason::Fragment);
    }
    if ip.l3 + ip.length > end || ip.length < outer {
        return Err(DropReason::BadTunnel);
    }
    inner_kind(packet, ip, outer).ok_or(DropReason::BadTunnel)?;
    Ok(outer)
}

/// The tunnel packet `scratch.packet` can't be delivered, by the number of a [`DropReason`]: XDP's verdict, or
/// [`UNDECIDED`] where it isn't for an endpoint of this node, and so none of ours. A subprogram: see
/// [`slow`](crate::slow).
#[inline(never)]
pub fn refuse(ctx: &XdpContext, scratch: &mut Scratch, reason: u32) -> u32 {
    scratch.delivery = DeliveryKey::endpoint_only(scratch.packet.ip.destination);
    if DELIVERIES.get_ptr(&scratch.delivery).is_none() {
        return UNDECIDED;
    }
    verdict::finish(ctx, Ok(Verdict::Dropped(reason)))
}

/// EtherType of what a tunnel packet holds, where that is what its outer header says.
#[inline(always)]
fn inner_kind(packet: &Packet, ip: &Ip, outer: usize) -> Option<[u8; 2]> {
    let version: u8 = packet.read(ip.l3 + outer).ok()?;
    match (ip.next, version >> 4) {
        (protocol::IPV4 | protocol::UDP, 4) => Some(ethertype::IPV4),
        (protocol::IPV6 | protocol::UDP, 6) => Some(ethertype::IPV6),
        _ => None,
    }
}

/// Rewrites `scratch.inner`, a packet for a VIP, to the endpoint that `scratch.delivery.outer` stands for, and notes
/// its flow: [`FINE`], or the number of the [`DropReason`] why not. A subprogram: see [`slow`](crate::slow).
#[inline(never)]
pub fn deliver(ctx: &XdpContext, scratch: &mut Scratch) -> u32 {
    let packet = &Packet::new(ctx);
    let rewritten = if scratch.inner.carried.is_icmp() {
        rewrite_error(packet, scratch)
    } else {
        rewrite_packet(packet, scratch)
    };
    match rewritten {
        Ok(()) => FINE,
        Err(reason) => reason as u32,
    }
}

/// Bytes of the outer headers of a tunnel packet; `None`: it isn't one. Gateways don't send GUE in fragments, of which
/// all but the first have other bytes where a port would be.
#[inline(always)]
fn outer_length(packet: &Packet, ip: &Ip) -> Option<usize> {
    match ip.next {
        protocol::IPV4 | protocol::IPV6 if ip.header_length >= 20 => Some(ip.header_length),
        protocol::UDP if ip.header_length >= 20 && !ip.fragment => {
            let port: [u8; 2] = packet.read(ip.l3 + ip.header_length + 2).ok()?;
            (u16::from_be_bytes(port) == GUE_PORT).then_some(ip.header_length + 8)
        }
        _ => None,
    }
}

#[inline(always)]
fn from_gateway(ip: &Ip) -> bool {
    GATEWAYS.get(&Key::new(128, ip.source.bytes)).is_some()
}

/// Takes the outer headers of `scratch.packet` off: Ethernet header and tags move up to the inner packet. XDP's
/// verdict. A subprogram: see [`slow`](crate::slow).
#[inline(never)]
pub fn unwrap(ctx: &XdpContext, scratch: &Scratch) -> u32 {
    verdict::finish(ctx, try_unwrap(ctx, scratch).map(|()| Verdict::Pass))
}

#[inline(always)]
fn try_unwrap(ctx: &XdpContext, scratch: &Scratch) -> Result<(), DropReason> {
    let (ip, outer) = (&scratch.packet.ip, scratch.outer as usize);
    let packet = &Packet::new(ctx);
    let kind = inner_kind(packet, ip, outer).ok_or(DropReason::BadTunnel)?;
    carry_congestion(packet, ip, &scratch.inner.ip)?;
    let macs: [u8; 12] = packet.read(0)?;
    let tags = Tags::read(packet, ip.l3)?;
    // SAFETY: the helper checks its argument; pointers into the packet are taken anew below.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, outer as i32) } != 0 {
        return Err(DropReason::BadTunnel);
    }
    let packet = Packet::new(ctx);
    packet.write(0, macs)?;
    tags.write(&packet)?;
    packet.write(ip.l3 - 2, kind)
}

/// A router that had to mark congestion on the outer header meant the inner packet (RFC 6040 4.2).
#[inline(always)]
fn carry_congestion(packet: &Packet, outer: &Ip, inner: &Ip) -> Result<(), DropReason> {
    if outer.tos & ecn::EXPERIENCED != ecn::EXPERIENCED {
        return Ok(());
    }
    // Gateways copy the inner field: nobody can have marked what doesn't understand it.
    if inner.tos & ecn::EXPERIENCED == 0 {
        return Err(DropReason::BadTunnel);
    }
    let [first, second]: [u8; 2] = packet.read(inner.l3)?;
    match inner.family() {
        Family::V4 => {
            let marked = [first, second | ecn::EXPERIENCED];
            let sum: u16 = packet.read(inner.l3 + 10)?;
            packet.write(inner.l3 + 10, checksum::replace(sum, word([first, second]), word(marked)))?;
            packet.write(inner.l3, marked)
        }
        Family::V6 => packet.write(inner.l3 + 1, second | ecn::EXPERIENCED << 4),
    }
}

#[inline(always)]
fn rewrite_packet(packet: &Packet, scratch: &mut Scratch) -> Result<(), DropReason> {
    let Parsed { ip, carried } = scratch.inner;
    let port = [carried.ports[2], carried.ports[3]];
    let delivery = find(&mut scratch.delivery, &ip, port, carried.protocol)?;
    scratch.flow = FlowKey {
        endpoint: delivery.endpoint,
        client: ip.source,
        endpoint_port: delivery.port,
        client_port: [carried.ports[0], carried.ports[1]],
        protocol: carried.protocol,
        padding: [0; 3],
    };
    reply::note(packet, scratch, delivery.mss)?;
    if delivery.flags & ENDPOINT_OWNS_VIP != 0 {
        return Ok(());
    }
    let Parsed { ip, carried } = &scratch.inner;
    rewrite_destination(packet, ip, &delivery.endpoint)?;
    packet.write(carried.l4 + 2, delivery.port)?;
    let old = checksum::sum_of(&ip.destination) + word(port);
    let new = checksum::sum_of(&delivery.endpoint) + word(delivery.port);
    let (at, is_udp) = match carried.protocol {
        protocol::TCP => (carried.l4 + 16, false),
        _ => (carried.l4 + 6, true),
    };
    replace_checksum(packet, at, old, new, is_udp)
}

/// An ICMP error: the packet that it quotes becomes one that the endpoint sent.
#[inline(always)]
fn rewrite_error(packet: &Packet, scratch: &mut Scratch) -> Result<(), DropReason> {
    let Scratch { inner: Parsed { ip, carried }, delivery: key, .. } = scratch;
    let quoted = icmp::quoted(packet, ip, carried)?.of(ip.destination)?;
    let port = [quoted.ports[0], quoted.ports[1]];
    let delivery = find(key, ip, port, quoted.protocol)?;
    if delivery.flags & ENDPOINT_OWNS_VIP != 0 {
        return Ok(());
    }
    let (vip, endpoint) = (checksum::sum_of(&ip.destination), checksum::sum_of(&delivery.endpoint));
    let mut old = vip + word(port);
    let mut new = endpoint + word(delivery.port);
    match ip.family() {
        Family::V4 => {
            let sum: u16 = packet.read(quoted.l3 + 10)?;
            let replaced = checksum::replace(sum, vip, endpoint);
            packet.write(quoted.l3 + 12, delivery.endpoint.to_v4())?;
            packet.write(quoted.l3 + 10, replaced)?;
            old += sum as u64;
            new += replaced as u64;
        }
        Family::V6 => {
            packet.write(quoted.l3 + 8, delivery.endpoint.words())?;
            // The message's own pseudo header changes with the destination too.
            old += vip;
            new += endpoint;
        }
    }
    packet.write(quoted.l4, delivery.port)?;
    rewrite_destination(packet, ip, &delivery.endpoint)?;
    replace_checksum(packet, carried.l4 + 2, old, new, false)
}

/// What is delivered for this VIP and port at the endpoint that `key.outer` stands for.
#[inline(always)]
fn find(
    key: &mut DeliveryKey,
    ip: &Ip,
    port: [u8; 2],
    protocol: u8,
) -> Result<&'static Delivery, DropReason> {
    *key = DeliveryKey {
        outer: key.outer,
        vip: ip.destination,
        port,
        protocol,
        family: ip.family() as u8,
        padding: 0,
    };
    // SAFETY: the agent replaces entries as a whole, and a replaced one lives until this program has ended.
    unsafe { DELIVERIES.get(&*key) }.ok_or(DropReason::NotDelivered)
}

/// Replaces the IP destination and mends the IPv4 header's checksum.
#[inline(always)]
fn rewrite_destination(packet: &Packet, ip: &Ip, endpoint: &Address) -> Result<(), DropReason> {
    match ip.family() {
        Family::V4 => {
            let sum: u16 = packet.read(ip.l3 + 10)?;
            let replaced =
                checksum::replace(sum, checksum::sum_of(&ip.destination), checksum::sum_of(endpoint));
            packet.write(ip.l3 + 10, replaced)?;
            packet.write(ip.l3 + 16, endpoint.to_v4())
        }
        Family::V6 => packet.write(ip.l3 + 24, endpoint.words()),
    }
}

/// Mends a transport checksum; UDP's 0 means that there is none (and stands for 0xffff otherwise).
#[inline(always)]
fn replace_checksum(packet: &Packet, at: usize, old: u64, new: u64, is_udp: bool) -> Result<(), DropReason> {
    let sum: u16 = packet.read(at)?;
    if is_udp && sum == 0 {
        return Ok(());
    }
    let mut replaced = checksum::replace(sum, old, new);
    if is_udp && replaced == 0 {
        replaced = 0xffff;
    }
    packet.write(at, replaced)
}

#[inline(always)]
const fn word(bytes: [u8; 2]) -> u64 {
    u16::from_ne_bytes(bytes) as u64
}
