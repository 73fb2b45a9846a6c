//! Bounces: what a receiver sends back because it doesn't know the flow, and where a gateway sends that on.

use aya_ebpf::programs::XdpContext;
use fairlead_abi::{DropReason, Family, FlowEvent, Limit, ServiceKey, is_bounced, kind, mark, read_mark};

use crate::{
    allowed, cache, checksum, count, gateway, icmp, limit,
    maps::Scratch,
    packet::Packet,
    parse::{Ip, Parsed},
    steer,
    verdict::{self, UNDECIDED, Verdict},
};

/// The mark in the outer header of a tunnel packet.
#[inline(always)]
pub fn mark_of(packet: &Packet, ip: &Ip) -> Result<u16, DropReason> {
    let at = match ip.family() {
        Family::V4 => ip.l3 + 4,
        Family::V6 => ip.l3 + 2,
    };
    Ok(u16::from_be_bytes(packet.read(at)?))
}

/// At a receiver: the tunnel packet `scratch.packet` goes back to the gateway that sent it, with the hash of its flow in
/// `scratch.steered`. XDP's verdict. A subprogram: see [`slow`](crate::slow).
#[inline(never)]
pub fn send_back(ctx: &XdpContext, scratch: &Scratch) -> u32 {
    verdict::finish(ctx, try_send_back(&Packet::new(ctx), scratch))
}

#[inline(always)]
fn try_send_back(packet: &Packet, scratch: &Scratch) -> Result<Verdict, DropReason> {
    if !limit::may(Limit::Bounces) {
        return Err(DropReason::BounceLimited);
    }
    let ip = &scratch.packet.ip;
    let hash = scratch.steered.hash;
    let kind = read_mark(scratch.mark, hash).map_or(kind::UNMARKED, |(kind, _)| kind);
    let back = mark(hash, kind, true).to_be_bytes();
    match ip.family() {
        Family::V4 => {
            let before: [u8; 2] = packet.read(ip.l3 + 4)?;
            let [ttl, next, a, b]: [u8; 4] = packet.read(ip.l3 + 8)?;
            let sum = checksum::replace(u16::from_ne_bytes([a, b]), word(before), word(back));
            let sum = checksum::replace(sum, word([ttl, next]), word([TTL, next]));
            packet.write(ip.l3 + 4, back)?;
            packet.write(ip.l3 + 8, TTL)?;
            packet.write(ip.l3 + 10, sum)?;
            packet.write(ip.l3 + 12, [ip.destination.to_v4(), ip.source.to_v4()])?;
        }
        Family::V6 => {
            packet.write(ip.l3 + 2, back)?;
            packet.write(ip.l3 + 7, TTL)?;
            packet.write(ip.l3 + 8, [ip.destination.words(), ip.source.words()])?;
        }
    }
    let [to, from]: [[u8; 6]; 2] = packet.read(0)?;
    packet.write(0, [from, to])?;
    count::event(FlowEvent::Bounced);
    Ok(Verdict::Transmit)
}

/// Hop limit of what is sent back.
const TTL: u8 = 64;

/// At a gateway: whether a tunnel packet may be one that a receiver has sent back. Others to this address may be for an
/// endpoint that has it too.
#[inline(always)]
#[must_use]
pub fn has_come_back(ctx: &XdpContext, ip: &Ip) -> bool {
    gateway::is_own(ip, ip.destination) && mark_of(&Packet::new(ctx), ip).is_ok_and(is_bounced)
}

/// [`take`]: somebody else's tunnel.
pub const NOT_OURS: u32 = u32::MAX - 3;

/// At a gateway: the tunnel packet `scratch.packet`, which holds `scratch.inner`, may have come back. If so, the inner one
/// stands in `scratch.packet`, and in `scratch.steered` the backend that it was sent to: [`UNDECIDED`]; else XDP's verdict.
/// A subprogram: see [`slow`](crate::slow).
#[inline(never)]
pub fn take(ctx: &XdpContext, scratch: &mut Scratch) -> u32 {
    match try_take(&Packet::new(ctx), scratch) {
        Ok(code) => code,
        Err(reason) => verdict::finish(ctx, Err(reason)),
    }
}

#[inline(always)]
fn try_take(packet: &Packet, scratch: &mut Scratch) -> Result<u32, DropReason> {
    let Parsed { ip, carried, .. } = &scratch.inner;
    if steer::find_vip(ip.destination, ip.family()).is_none() {
        return Ok(NOT_OURS);
    }
    let (key, flow) = if carried.is_icmp() {
        let quoted = icmp::quoted(packet, ip, carried)?.of(ip.destination)?;
        (ServiceKey::new(ip.destination, quoted.vip_port(), quoted.protocol, ip.family()), quoted.flow())
    } else {
        let key = ServiceKey::new(ip.destination, carried.destination_port(), carried.protocol, ip.family());
        (key, carried.flow(ip.source))
    };
    let Some(service) = steer::find(&key) else { return Err(DropReason::PortNotServed) };
    if !allowed::is_allowed(service, flow.client) {
        return Err(DropReason::NotAllowed);
    }
    let (mut steered, _) = steer::begin(service, &flow)?;
    let (kind, _) = read_mark(scratch.mark, steered.hash).ok_or(DropReason::BadMark)?;
    if !limit::may_send_on(&flow.client) {
        return Err(DropReason::BounceLimited);
    }
    steered.kind = kind;
    if kind == kind::GUESS {
        if let Some(local) = cache::find(service.id, &flow) {
            steered.index = steered.first + local as u32;
        }
        cache::forget(service.id, &flow);
    }
    count::event(FlowEvent::SentOn);
    scratch.service = service.id;
    scratch.packet = scratch.inner;
    scratch.came_back = 1;
    scratch.steered = steered;
    Ok(UNDECIDED)
}

#[inline(always)]
const fn word(bytes: [u8; 2]) -> u64 {
    u16::from_ne_bytes(bytes) as u64
}
