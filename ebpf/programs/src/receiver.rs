//! The receiver: a gateway's tunnel packet for an endpoint of this node is unwrapped, rewritten to the
//! endpoint's address and port, and left to the local stack to deliver.

use core::mem::offset_of;

use aya_ebpf::{btf_maps::lpm_trie::Key, helpers::bpf_xdp_adjust_head, programs::XdpContext};
use fairlead_abi::{
    Address, Delivery, DeliveryKey, DropReason, ENDPOINT_OWNS_VIP, Family, Flow, FlowKey, GUE_PORT,
    flow_hash, kind, read_mark,
};

use crate::{
    bounce, checksum,
    encap::Tags,
    fragment,
    headers::{ecn, ethertype, protocol},
    icmp::{self, Quoted},
    maps::{DELIVERIES, GATEWAYS, Scratch},
    packet::Packet,
    parse::{Ip, Parsed},
    reply, setting,
    steer::Steered,
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
/// [`deliver`]: the packet's flow is not known here.
pub const NOT_KNOWN: u32 = u32::MAX - 2;

/// Whether the tunnel packet `scratch.packet` comes from a gateway: [`FINE`], or the number of the [`DropReason`]. A
/// subprogram: see [`slow`](crate::slow).
#[inline(never)]
pub fn check_sender(scratch: &Scratch) -> u32 {
    sender(&scratch.packet.ip.source)
}

/// As [`check_sender`], by the packet's outer source and without a call.
#[inline(always)]
#[must_use]
pub fn sender(source: &Address) -> u32 {
    let key = Aligned { before: 0, key: Key::new(128, source.copied().bytes) };
    if GATEWAYS.get(&key.key).is_some() { FINE } else { DropReason::StrangerTunnel as u32 }
}

/// A key whose address stands where words do: the kernel reads it by words, and has to wait where it was written by less.
#[repr(C, align(8))]
struct Aligned {
    before: u32,
    key: Key<[u8; 16]>,
}

/// Whether the tunnel packet `scratch.packet`, which ends at the offset `end`, can be unwrapped: [`FINE`], and
/// `scratch.tunnel`, `scratch.outer` and `scratch.mark` are set, or the number of the [`DropReason`] why not. A subprogram:
/// see [`slow`](crate::slow).
#[inline(never)]
pub fn check(ctx: &XdpContext, scratch: &mut Scratch, end: u32) -> u32 {
    scratch.tunnel = scratch.packet.ip;
    match try_check(&Packet::new(ctx), &scratch.tunnel, end as usize) {
        Ok((outer, mark)) => {
            scratch.outer = outer as u32;
            scratch.mark = mark;
            FINE
        }
        Err(reason) => reason as u32,
    }
}

/// As [`check`]: bytes of the outer headers, and the mark.
#[inline(always)]
pub fn try_check(packet: &Packet, ip: &Ip, end: usize) -> Result<(usize, u16), DropReason> {
    let outer = outer_length(packet, ip).ok_or(DropReason::Truncated)?;
    if ip.fragment {
        return Err(DropReason::Fragment);
    }
    if ip.l3 + ip.length > end || ip.length < outer {
        return Err(DropReason::BadTunnel);
    }
    inner_kind(packet, ip, outer).ok_or(DropReason::BadTunnel)?;
    Ok((outer, bounce::mark_of(packet, ip)?))
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
    if reason == DropReason::FragmentBeforeFirst as u32 {
        return fragment::hold(ctx, scratch);
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
/// its flow: [`FINE`], [`NOT_KNOWN`] and nothing was changed, or the number of the [`DropReason`] why not. By
/// `scratch.mark` the endpoint may have to know the flow already. A subprogram: see [`slow`](crate::slow).
#[inline(never)]
pub fn deliver(ctx: &XdpContext, scratch: &mut Scratch) -> u32 {
    let packet = &Packet::new(ctx);
    if scratch.inner.carried.is_icmp() {
        outcome(rewrite_error(packet, scratch))
    } else {
        deliver_packet(packet, scratch)
    }
}

/// As [`deliver`], of a packet that is no ICMP error, and without a call.
#[inline(always)]
pub fn deliver_packet(packet: &Packet, scratch: &mut Scratch) -> u32 {
    outcome(rewrite_packet(packet, scratch))
}

#[inline(always)]
fn outcome(rewritten: Result<bool, DropReason>) -> u32 {
    match rewritten {
        Ok(true) => FINE,
        Ok(false) => NOT_KNOWN,
        Err(reason) => reason as u32,
    }
}

/// By what the packet's backend was chosen; the flow's hash goes to `steered`, for the case that it has to go back.
#[inline(always)]
pub fn chosen_by(mark: u16, steered: &mut Steered, flow: &Flow) -> Result<u8, DropReason> {
    if mark == 0 {
        return Ok(kind::UNMARKED);
    }
    steered.hash = flow_hash(setting!(seed), flow);
    match read_mark(mark, steered.hash) {
        Some((kind, false)) => Ok(kind),
        _ => Err(DropReason::BadMark),
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

/// Takes the outer headers of the tunnel packet off: Ethernet header and tags move up to `scratch.inner`. XDP's
/// verdict. A subprogram: see [`slow`](crate::slow).
#[inline(never)]
pub fn unwrap(ctx: &XdpContext, scratch: &Scratch) -> u32 {
    unwrapped(ctx, scratch)
}

/// As [`unwrap`], without a call.
#[inline(always)]
pub fn unwrapped(ctx: &XdpContext, scratch: &Scratch) -> u32 {
    verdict::finish(ctx, try_unwrap(ctx, scratch).map(|()| Verdict::Pass))
}

#[inline(always)]
fn try_unwrap(ctx: &XdpContext, scratch: &Scratch) -> Result<(), DropReason> {
    let (ip, outer) = (&scratch.tunnel, scratch.outer as usize);
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
fn rewrite_packet(packet: &Packet, scratch: &mut Scratch) -> Result<bool, DropReason> {
    let Scratch { inner: Parsed { ip, carried, .. }, delivery: key, flow, steered, .. } = scratch;
    let [from, port] = [[carried.ports[0], carried.ports[1]], [carried.ports[2], carried.ports[3]]];
    let kind = chosen_by(scratch.mark, steered, &carried.flow(ip.source.copied()))?;
    scratch.kind = kind;
    let Some(delivery) = find(key, ip, port, carried.protocol) else { return absent(scratch, kind) };
    set_flow(flow, delivery, &ip.source, from, carried.protocol);
    if !reply::note(packet, scratch, delivery.mss, kind)? {
        return Ok(false);
    }
    readdress(packet, &scratch.inner, delivery).map(|()| true)
}

/// A client's packet for a VIP becomes one for the endpoint, unless that owns the VIP.
#[inline(always)]
pub fn readdress(packet: &Packet, inner: &Parsed, delivery: &Delivery) -> Result<(), DropReason> {
    if delivery.flags & ENDPOINT_OWNS_VIP != 0 {
        return Ok(());
    }
    let Parsed { ip, carried, .. } = inner;
    rewrite_destination(packet, ip, &delivery.endpoint)?;
    packet.write(carried.l4 + 2, delivery.port)?;
    let old = checksum::sum_of(&ip.destination) + word([carried.ports[2], carried.ports[3]]);
    let new = checksum::sum_of(&delivery.endpoint) + word(delivery.port);
    let (at, is_udp) = match carried.protocol {
        protocol::TCP => (carried.l4 + 16, false),
        _ => (carried.l4 + 6, true),
    };
    replace_checksum(packet, at, old, new, is_udp)
}

/// The endpoint is not one of this VIP and port, or not any more: another one may know the flow.
#[inline(always)]
fn absent(scratch: &Scratch, kind: u8) -> Result<bool, DropReason> {
    let here = || DELIVERIES.get_ptr(&DeliveryKey::endpoint_only(scratch.delivery.outer)).is_some();
    if kind != kind::UNMARKED && here() { Ok(false) } else { Err(DropReason::NotDelivered) }
}

/// An ICMP error: the packet that it quotes becomes one that the endpoint sent.
#[inline(always)]
fn rewrite_error(packet: &Packet, scratch: &mut Scratch) -> Result<bool, DropReason> {
    let Scratch { inner: Parsed { ip, carried, .. }, delivery: key, .. } = scratch;
    let (ip, carried) = (&*ip, &*carried);
    let quoted = icmp::quoted(packet, ip, carried)?.of(ip.destination)?;
    let port = [quoted.ports[0], quoted.ports[1]];
    let kind = chosen_by(scratch.mark, &mut scratch.steered, &quoted.flow())?;
    // Of what it speaks of, the flow's own packets are claimed.
    scratch.kind = kind::UNMARKED;
    let Some(delivery) = find(key, ip, port, quoted.protocol) else { return absent(scratch, kind) };
    if kind != kind::UNMARKED && !knows(&mut scratch.flow, &quoted, delivery) {
        return Ok(false);
    }
    if delivery.flags & ENDPOINT_OWNS_VIP != 0 {
        return Ok(true);
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
    replace_checksum(packet, carried.l4 + 2, old, new, false).map(|()| true)
}

/// Whether the flow is known whose packet to the client an ICMP error quotes.
#[inline(always)]
fn knows(key: &mut FlowKey, quoted: &Quoted, delivery: &Delivery) -> bool {
    let [.., a, b] = quoted.ports;
    set_flow(key, delivery, &quoted.destination, [a, b], quoted.protocol);
    reply::is_known(key)
}

/// `key` becomes that of a client's flow to what is delivered. Its padding is left as it is, zero: three bytes would be a
/// call of memset.
#[inline(always)]
fn set_flow(key: &mut FlowKey, delivery: &Delivery, client: &Address, client_port: [u8; 2], protocol: u8) {
    key.endpoint = delivery.endpoint.copied();
    key.client = client.copied();
    key.endpoint_port = delivery.port;
    key.client_port = client_port;
    key.protocol = protocol;
}

/// What is delivered for this VIP and port at the endpoint that `key.outer` stands for.
#[inline(always)]
fn find(key: &mut DeliveryKey, ip: &Ip, port: [u8; 2], protocol: u8) -> Option<&'static Delivery> {
    key.vip = ip.destination.copied();
    let [family, port] = [ip.family() as u64, u16::from_le_bytes(port) as u64];
    let last = port | (protocol as u64) << 16 | family << 24;
    // SAFETY: the key's last word, in which these fields stand. As a whole, for so it is read.
    unsafe { (&raw mut *key).cast::<u64>().add(offset_of!(DeliveryKey, port) / 8).write(last.to_le()) };
    // SAFETY: the agent replaces entries as a whole, and a replaced one lives until this program has ended.
    unsafe { DELIVERIES.get(&*key) }
}

/// Replaces the IP destination and mends the IPv4 header's checksum.
#[inline(always)]
pub fn rewrite_destination(packet: &Packet, ip: &Ip, endpoint: &Address) -> Result<(), DropReason> {
    match ip.family() {
        Family::V4 => {
            let sum: u16 = packet.read(ip.l3 + 10)?;
            let [old, new] = [ip.destination.to_v4(), endpoint.to_v4()];
            let [was, is] = [old, new].map(|address| u32::from_ne_bytes(address) as u64);
            packet.write(ip.l3 + 10, checksum::replace(sum, was, is))?;
            packet.write(ip.l3 + 16, new)
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
