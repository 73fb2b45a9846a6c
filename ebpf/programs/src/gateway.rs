//! The gateway: a packet for a VIP goes to a backend; everything else is not ours.

use aya_ebpf::programs::XdpContext;
use fairlead_abi::{
    Address, Backend, DropReason, Family, FlowEvent, GUE_PORT, Hop, ServiceEntry, ServiceKey, kind,
};

use crate::{
    allowed, checksum, count,
    encap::{self, Tags, Way},
    headers::protocol,
    icmp,
    maps::{HOPS, Scratch},
    packet::Packet,
    parse::{Ip, Parsed, Transport},
    setting,
    steer::{self, Steered},
    verdict::{self, UNDECIDED, Verdict},
};

/// [`choose`] and [`go_on`]: none of the slot's backends knows the flow, as far as they could be asked.
pub const NOBODYS: u32 = u32::MAX - 1;
/// [`choose`]: the service doesn't allow the client.
pub const NOT_ALLOWED: u32 = u32::MAX - 4;

/// Chooses the backend of `scratch.packet` to begin with: [`UNDECIDED`] with `scratch.steered` and `scratch.service` set,
/// [`NOT_ALLOWED`], or XDP's verdict of a packet that gets none. A subprogram: see [`slow`](crate::slow).
#[inline(never)]
pub fn choose(ctx: &XdpContext, scratch: &mut Scratch) -> u32 {
    match try_choose(ctx, scratch) {
        Ok(None) => UNDECIDED,
        Ok(Some(verdict)) => verdict::finish(ctx, Ok(verdict)),
        Err(DropReason::NotAllowed) => NOT_ALLOWED,
        Err(reason) => verdict::finish(ctx, Err(reason)),
    }
}

#[inline(always)]
fn try_choose(ctx: &XdpContext, scratch: &mut Scratch) -> Result<Option<Verdict>, DropReason> {
    let Parsed { ip, carried, .. } = &scratch.packet;
    let (service, flow) = if carried.is_icmp() {
        let Some(vip) = steer::find_vip(ip.destination, ip.family()) else { return Ok(Some(Verdict::Pass)) };
        if !is_host(ip) {
            return Err(DropReason::BadSource);
        }
        match icmp::for_vip(&Packet::new(ctx), ip, carried, vip)? {
            icmp::Answer::Echoed => return Ok(Some(Verdict::Transmit)),
            icmp::Answer::Concerns(service, flow) => {
                // The error is the flow's, whoever sent it.
                if !allowed::is_allowed(service, flow.client) {
                    return Err(DropReason::NotAllowed);
                }
                (service, flow)
            }
        }
    } else {
        let key = ServiceKey::new(ip.destination, carried.destination_port(), carried.protocol, ip.family());
        match steer::find(&key) {
            Some(service) if !allowed::is_allowed(service, ip.source) => return Err(DropReason::NotAllowed),
            Some(_) if !is_host(ip) => return Err(DropReason::BadSource),
            Some(service) => (service, carried.flow(ip.source)),
            None => return unserved(ip, carried).map(Some),
        }
    };
    scratch.service = service.id;
    scratch.steered = if scratch.packet.part.is_later() && scratch.first.backend != 0 {
        steer::again(service, &flow, &scratch.first)?
    } else {
        steer::steer(service, carried, &flow)?
    };
    if scratch.steered.backend.is_silent() {
        count::event(FlowEvent::PassedOver);
    }
    Ok(None)
}

/// The next backend for `scratch.packet`, where the one in `scratch.steered` can't be sent to, or doesn't know the flow:
/// as [`choose`]. A subprogram: see [`slow`](crate::slow).
#[inline(never)]
pub fn go_on(ctx: &XdpContext, scratch: &mut Scratch) -> u32 {
    match steer::next(&mut scratch.steered) {
        Ok(true) => UNDECIDED,
        Ok(false) => NOBODYS,
        Err(reason) => verdict::finish(ctx, Err(reason)),
    }
}

/// [`send`]: from here on, the number of the [`DropReason`] why not.
pub const REFUSED: u32 = 1 << 16;

/// Sends `scratch.packet` to the backend that was chosen for it: XDP's verdict, [`UNDECIDED`] where it is too big
/// for the path, or [`REFUSED`] and why. A subprogram: see [`slow`](crate::slow); it calls none, for its stack is large.
#[inline(never)]
pub fn send(ctx: &XdpContext, scratch: &Scratch) -> u32 {
    match try_send(ctx, scratch) {
        Ok(None) => UNDECIDED,
        Ok(Some(verdict)) => verdict::sent(verdict),
        Err(reason) => REFUSED + reason as u32,
    }
}

#[inline(always)]
fn try_send(ctx: &XdpContext, scratch: &Scratch) -> Result<Option<Verdict>, DropReason> {
    let Scratch { packet: Parsed { ip, .. }, steered: Steered { backend, hash, .. }, .. } = scratch;
    let growth = encap::growth(backend).ok_or(DropReason::NoBackend)?;
    let came_back = scratch.came_back != 0;
    if ip.ttl <= 1 && !came_back {
        return Err(DropReason::TtlExpired);
    }
    let hop = hop(backend).ok_or(DropReason::NoNextHop)?;
    if ip.length + growth > backend.mtu as usize {
        return if came_back { Err(DropReason::TooBigSilent) } else { Ok(None) };
    }
    if !came_back {
        lower_ttl(&Packet::new(ctx), ip)?;
    }
    if scratch.steered.kind == kind::GUESS {
        count::event(FlowEvent::Guess);
    }
    let way = Way { backend, hop, tags: Tags::of(hop), hash: *hash, mark: scratch.steered.mark() };
    encap::wrap(ctx, ip, &way)?;
    count::forwarded(&scratch.packet, scratch.service, scratch.steered.index);
    Ok(Some(out_of(ctx, hop)))
}

/// The next hop of a backend, if it is known.
#[inline(always)]
#[must_use]
pub fn hop(backend: &Backend) -> Option<&'static Hop> {
    HOPS.get(backend.hop).filter(|hop| hop.ifindex != 0)
}

/// Out of the interface where the next hop is.
#[inline(always)]
#[must_use]
pub fn out_of(ctx: &XdpContext, hop: &Hop) -> Verdict {
    // SAFETY: a field of the context.
    if hop.ifindex == unsafe { (*ctx.ctx).ingress_ifindex } {
        Verdict::Transmit
    } else {
        Verdict::Redirect(hop.ifindex)
    }
}

/// Takes one from TTL or hop limit, as every router does.
#[inline(always)]
pub fn lower_ttl(packet: &Packet, ip: &Ip) -> Result<(), DropReason> {
    match ip.family() {
        Family::V4 => {
            let sum: u16 = packet.read(ip.l3 + 10)?;
            packet.write(ip.l3 + 8, ip.ttl - 1)?;
            packet.write(ip.l3 + 10, checksum::lowered_ttl(sum))
        }
        Family::V6 => packet.write(ip.l3 + 7, ip.ttl - 1),
    }
}

/// A packet that has no flow: dropped for `reason` (its number) where it is for a VIP.
#[inline(always)]
pub fn unsteerable(ip: &Ip, reason: u32) -> Result<Verdict, DropReason> {
    if steer::find_vip(ip.destination, ip.family()).is_some() {
        return Ok(Verdict::Dropped(reason));
    }
    let tunnel = ip.next == protocol::IPV4 || ip.next == protocol::IPV6;
    if tunnel && is_own_tunnel(ip) {
        return Err(DropReason::Looped);
    }
    Ok(Verdict::Pass)
}

/// A packet for an address and port that no service has.
#[inline(always)]
fn unserved(ip: &Ip, carried: &Transport) -> Result<Verdict, DropReason> {
    if let Some(vip) = steer::find_vip(ip.destination, ip.family()) {
        if vip.flags & ServiceEntry::PASS_UNSERVED != 0 {
            return Ok(Verdict::Pass);
        }
        return Err(DropReason::PortNotServed);
    }
    if carried.protocol == protocol::UDP && carried.destination_port() == GUE_PORT && is_own_tunnel(ip) {
        return Err(DropReason::Looped);
    }
    Ok(Verdict::Pass)
}

/// Whether the source is one that this gateway gives its own tunnel packets.
#[inline(always)]
fn is_own_tunnel(ip: &Ip) -> bool {
    is_own(ip, ip.source)
}

/// Whether an address is one that this gateway's tunnel packets come from.
#[inline(always)]
#[must_use]
pub fn is_own(ip: &Ip, address: Address) -> bool {
    let tunnel = match ip.family() {
        Family::V4 => setting!(tunnel_v4),
        Family::V6 => setting!(tunnel_v6),
    };
    let [hi, lo] = tunnel.address.words();
    let [own_hi, own_lo] = address.words();
    let vary = (u32::from_ne_bytes(tunnel.vary) as u64) << 32;
    (hi | lo) != 0 && hi == own_hi && lo == own_lo & !vary
}

/// Whether the source can be a client: no multicast, broadcast, loopback or unspecified address, not the VIP.
#[inline(always)]
#[must_use]
pub fn is_host(ip: &Ip) -> bool {
    if ip.source.words() == ip.destination.words() {
        return false;
    }
    match ip.family() {
        Family::V4 => !matches!(ip.source.to_v4()[0], 0 | 127 | 224..),
        Family::V6 => {
            let [hi, lo] = ip.source.words();
            ip.source.bytes[0] != 0xff && (hi | lo & !LOOPBACK) != 0
        }
    }
}

/// `::1` as the lower word of an address; without its bit it is `::`.
const LOOPBACK: u64 = u64::from_ne_bytes([0, 0, 0, 0, 0, 0, 0, 1]);
