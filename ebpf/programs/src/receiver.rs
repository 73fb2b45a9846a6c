//! The receiver: a gateway's tunnel packet for an endpoint of this node is unwrapped, rewritten to the
//! endpoint's address and port, and left to the local stack to deliver.

use aya_ebpf::{bindings::xdp_action, btf_maps::lpm_trie::Key, helpers::bpf_xdp_adjust_head, programs::XdpContext};
use fairlead_abi::{
    Address, Delivery, DeliveryKey, DropReason, ENDPOINT_OWNS_VIP, Family, FlowKey, GUE_PORT,
};

use crate::{
    checksum,
    encap::Tags,
    headers::{ethertype, protocol},
    icmp,
    ingress::{self, Verdict},
    maps::{DELIVERIES, GATEWAYS, SCRATCH, Scratch},
    packet::Packet,
    parse::{self, Ip, Transport},
    reply,
};

/// Whether it is a tunnel packet at all, ours or not.
#[inline(always)]
#[must_use]
pub fn is_tunnel(packet: &Packet, ip: &Ip) -> bool {
    outer_length(packet, ip).is_some()
}

/// Takes a tunnel packet: XDP's verdict; `None`: it is none of ours.
#[inline(always)]
#[must_use]
pub fn receive(ctx: &XdpContext) -> Option<u32> {
    let action = take(ctx);
    (action != NOT_OURS).then_some(action)
}

/// No verdict of XDP.
const NOT_OURS: u32 = u32::MAX;

/// A subprogram: a verdict of XDP, or [`NOT_OURS`].
#[inline(never)]
fn take(ctx: &XdpContext) -> u32 {
    ingress::finish(ctx, unwrap_and_deliver(ctx))
}

#[inline(always)]
fn unwrap_and_deliver(ctx: &XdpContext) -> Result<Verdict, DropReason> {
    let packet = &Packet::new(ctx);
    let ip = &ingress::outermost(packet).ok_or(DropReason::Truncated)?;
    let outer = outer_length(packet, ip).ok_or(DropReason::Truncated)?;
    if !from_gateway(ip) {
        let ours = DELIVERIES.get_ptr(DeliveryKey::endpoint_only(ip.destination)).is_some();
        return if ours { Err(DropReason::StrangerTunnel) } else { Ok(Verdict::Decided(NOT_OURS)) };
    }
    if ip.fragment {
        return Err(DropReason::Fragment);
    }
    if ip.length > ingress::available(ctx, packet, ip) || ip.length < outer {
        return Err(DropReason::BadTunnel);
    }
    let inner = ip.l3 + outer;
    let version: u8 = packet.read(inner).map_err(|_| DropReason::BadTunnel)?;
    let kind = match (ip.next, version >> 4) {
        (protocol::IPV4 | protocol::UDP, 4) => ethertype::IPV4,
        (protocol::IPV6 | protocol::UDP, 6) => ethertype::IPV6,
        _ => return Err(DropReason::BadTunnel),
    };
    let action = deliver(ctx, &ip.destination, inner as u32, (ip.length - outer) as u32);
    if action == xdp_action::XDP_PASS {
        unwrap(ctx, packet, ip.l3, outer, kind)?;
    }
    Ok(Verdict::Decided(action))
}

/// Rewrites a packet for a VIP to the endpoint that `outer` stands for, and notes its flow. `l3` is the offset
/// of its IP header, `available` its length from there on; XDP's verdict. A subprogram: see [`ingress`].
#[inline(never)]
pub fn deliver(ctx: &XdpContext, outer: &Address, l3: u32, available: u32) -> u32 {
    ingress::finish(ctx, rewrite(&Packet::new(ctx), outer, l3 as usize, available as usize))
}

#[inline(always)]
fn rewrite(packet: &Packet, outer: &Address, l3: usize, available: usize) -> Result<Verdict, DropReason> {
    let version: u8 = packet.read(l3)?;
    let kind = if version >> 4 == 4 { ethertype::IPV4 } else { ethertype::IPV6 };
    let ip = &parse::ip(packet, l3, kind).ok_or(DropReason::BadTunnel)?;
    let carried = &parse::transport(packet, ip, available)?;
    if carried.protocol == protocol::ICMP || carried.protocol == protocol::ICMPV6 {
        rewrite_error(packet, ip, carried, outer)?;
    } else {
        rewrite_packet(packet, ip, carried, outer)?;
    }
    Ok(Verdict::Pass)
}

/// Bytes of the outer headers of a tunnel packet; `None`: it isn't one.
#[inline(always)]
fn outer_length(packet: &Packet, ip: &Ip) -> Option<usize> {
    match ip.next {
        protocol::IPV4 | protocol::IPV6 if ip.header_length >= 20 => Some(ip.header_length),
        protocol::UDP if ip.header_length >= 20 => {
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

/// Takes the outer headers off: Ethernet header and tags move up to the inner packet.
#[inline(always)]
fn unwrap(
    ctx: &XdpContext,
    packet: &Packet,
    l3: usize,
    outer: usize,
    kind: [u8; 2],
) -> Result<(), DropReason> {
    let macs: [u8; 12] = packet.read(0)?;
    let tags = Tags::read(packet, l3)?;
    // SAFETY: the helper checks its argument; pointers into the packet are taken anew below.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, outer as i32) } != 0 {
        return Err(DropReason::BadTunnel);
    }
    let packet = Packet::new(ctx);
    packet.write(0, macs)?;
    tags.write(&packet)?;
    packet.write(l3 - 2, kind)
}

#[inline(always)]
fn rewrite_packet(packet: &Packet, ip: &Ip, carried: &Transport, outer: &Address) -> Result<(), DropReason> {
    let port = [carried.ports[2], carried.ports[3]];
    // SAFETY: this CPU's own, and no other program of ours runs on it meanwhile.
    let scratch = unsafe { &mut *SCRATCH.get_ptr_mut(0).ok_or(DropReason::Inconsistent)? };
    let delivery = find(scratch, outer, ip, port, carried.protocol)?;
    scratch.flow = FlowKey {
        endpoint: delivery.endpoint,
        client: ip.source,
        endpoint_port: delivery.port,
        client_port: [carried.ports[0], carried.ports[1]],
        protocol: carried.protocol,
        padding: [0; 3],
    };
    reply::note(packet, ip, carried, scratch, delivery.mss)?;
    if delivery.flags & ENDPOINT_OWNS_VIP != 0 {
        return Ok(());
    }
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
fn rewrite_error(packet: &Packet, ip: &Ip, carried: &Transport, outer: &Address) -> Result<(), DropReason> {
    let quoted = icmp::quoted(packet, ip, carried)?;
    let port = [quoted.ports[0], quoted.ports[1]];
    // SAFETY: as above.
    let scratch = unsafe { &mut *SCRATCH.get_ptr_mut(0).ok_or(DropReason::Inconsistent)? };
    let delivery = find(scratch, outer, ip, port, quoted.protocol)?;
    if delivery.flags & ENDPOINT_OWNS_VIP != 0 {
        return Ok(());
    }
    let (vip, endpoint) = (checksum::sum_of(&ip.destination), checksum::sum_of(&delivery.endpoint));
    let mut old = vip + word(port);
    let mut new = endpoint + word(delivery.port);
    match ip.family {
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

/// What is delivered for this VIP and port at the endpoint that `outer` stands for.
#[inline(always)]
fn find(
    scratch: &mut Scratch,
    outer: &Address,
    ip: &Ip,
    port: [u8; 2],
    protocol: u8,
) -> Result<&'static Delivery, DropReason> {
    scratch.delivery =
        DeliveryKey { outer: *outer, vip: ip.destination, port, protocol, family: ip.family as u8, padding: 0 };
    // SAFETY: the agent replaces entries as a whole, and a replaced one lives until this program has ended.
    unsafe { DELIVERIES.get(&scratch.delivery) }.ok_or(DropReason::NotDelivered)
}

/// Replaces the IP destination and mends the IPv4 header's checksum.
#[inline(always)]
fn rewrite_destination(packet: &Packet, ip: &Ip, endpoint: &Address) -> Result<(), DropReason> {
    match ip.family {
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
