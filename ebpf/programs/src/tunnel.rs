//! A receiver's rule: a whole TCP or UDP packet in a tunnel packet, without tags, options or extension headers outside or
//! inside.
//!
//! Here is only what finds that out; what becomes of the packet is decided where the slow path has it decided, without
//! calls on the way. Whatever is otherwise is left untouched to the slow path, which starts anew.

use aya_ebpf::programs::XdpContext;
use fairlead_abi::{Roles, is_bounced};

use crate::{
    bounce,
    fast::{L3, transport},
    headers::ethertype,
    maps::{self, Scratch},
    packet::Packet,
    parse::{self, Ip},
    receiver::{self, FINE, NOT_KNOWN},
    report, setting, socket,
    verdict::{self, UNDECIDED, Verdict},
};

/// The whole program: XDP's verdict, or [`UNDECIDED`] where the packet is left to the slow path.
#[inline(always)]
#[must_use]
pub fn tunnel(ctx: &XdpContext) -> u32 {
    let Some(scratch) = maps::scratch() else { return UNDECIDED };
    if open(ctx, scratch) == 0 {
        return UNDECIDED;
    }
    let outcome = deliver(ctx, scratch);
    if outcome == FINE {
        return receiver::unwrapped(ctx, scratch);
    }
    scratch.packet.ip = scratch.tunnel;
    let action = match outcome {
        NOT_KNOWN => bounce::send_back(ctx, scratch),
        refused => receiver::refuse(ctx, scratch, refused),
    };
    // Somebody else's tunnel is a gateway's business, if there is one: a node may have a network of tunnels.
    if action == UNDECIDED && setting!(roles) & Roles::GATEWAY == 0 {
        return verdict::finish(ctx, Ok(Verdict::Pass));
    }
    action
}

/// Delivers `scratch.inner`: as in [`slow`](crate::slow), but without calls where the flow is known.
#[inline(always)]
fn deliver(ctx: &XdpContext, scratch: &mut Scratch) -> u32 {
    let refused = receiver::sender(&scratch.tunnel.source);
    if refused != FINE {
        return refused;
    }
    scratch.meant_for(scratch.tunnel.destination, scratch.tunnel.source);
    scratch.socket.wanted = 0;
    let mut outcome = receiver::deliver_packet(&Packet::new(ctx), scratch);
    if outcome == NOT_KNOWN && socket::is_wanted(scratch) {
        outcome = socket::deliver(ctx, scratch);
    }
    report::claim_former(ctx, scratch, outcome)
}

/// Finds the packet inside the tunnel packet, and puts all into `scratch` as the slow path does; 0: it is not the rule. A
/// subprogram, for a stack of its own.
#[inline(never)]
fn open(ctx: &XdpContext, scratch: &mut Scratch) -> u32 {
    try_open(&Packet::new(ctx), scratch).is_some() as u32
}

#[inline(always)]
fn try_open(packet: &Packet, scratch: &mut Scratch) -> Option<()> {
    let Scratch { tunnel: ip, inner, .. } = scratch;
    match packet.read::<[u8; 2]>(12).ok()? {
        ethertype::IPV4 => *ip = parse::ipv4(packet, L3)?,
        ethertype::IPV6 => *ip = parse::ipv6(packet, L3)?,
        _ => return None,
    }
    let (outer, mark) = receiver::try_check(packet, ip, packet.len()).ok()?;
    // It may have come back to a gateway that is here, too.
    if !is_plain(ip) || is_bounced(mark) {
        return None;
    }
    let l3 = L3 + outer;
    if packet.read::<u8>(l3).ok()? >> 4 == 4 {
        inner.ip = parse::ipv4(packet, l3)?;
    } else {
        inner.ip = parse::ipv6(packet, l3)?;
    }
    if !is_plain(&inner.ip) || outer + inner.ip.length > ip.length {
        return None;
    }
    inner.carried = transport(packet, &inner.ip, l3 + inner.ip.header_length)?;
    (inner.part.offset, inner.part.more) = (0, false);
    scratch.outer = outer as u32;
    scratch.mark = mark;
    scratch.came_back = 0;
    Some(())
}

/// Whether it is the header of a whole packet, without options.
#[inline(always)]
fn is_plain(ip: &Ip) -> bool {
    ip.header_length == if ip.v6 { 40 } else { 20 } && !ip.fragment
}
