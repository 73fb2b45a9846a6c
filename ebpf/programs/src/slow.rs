//! What is not the rule: which role a packet is for, and the verdict.
//!
//! The work is done by subprograms, called from here only: a stack has 512 bytes, and the frames of a call chain
//! share them.

use aya_ebpf::{bindings::xdp_action, helpers::generated::bpf_xdp_get_buff_len, programs::XdpContext};
use fairlead_abi::{DropReason, Encap, Roles};

use crate::{
    count, gateway, icmp,
    maps::{self, Scratch},
    packet::Packet,
    parse::{self, NOT_IP, STEERABLE},
    receiver::{self, FINE},
    setting,
    verdict::{self, UNDECIDED, Verdict},
};

/// The whole program: the packet's verdict as XDP has it.
#[inline(always)]
#[must_use]
pub fn slow(ctx: &XdpContext) -> u32 {
    let verdict = match maps::scratch() {
        Some(scratch) => decide(ctx, scratch),
        None => Err(DropReason::Inconsistent),
    };
    verdict::finish(ctx, verdict)
}

/// The verdict, or why the packet is dropped.
#[inline(always)]
fn decide(ctx: &XdpContext, scratch: &mut Scratch) -> Result<Verdict, DropReason> {
    // SAFETY: the helper takes the context only.
    let end = unsafe { bpf_xdp_get_buff_len(ctx.ctx) } as u32;
    let outcome = parse::parse_at(ctx, 0, end, &mut scratch.packet);
    if outcome == NOT_IP {
        return Ok(Verdict::Pass);
    }
    let roles = setting!(roles);
    if roles & Roles::RECEIVER != 0 && receiver::is_tunnel(&Packet::new(ctx), &scratch.packet.ip) {
        let action = receive(ctx, scratch, end);
        if action != UNDECIDED {
            return Ok(Verdict::Decided(action));
        }
    }
    if roles & Roles::GATEWAY == 0 {
        return Ok(Verdict::Pass);
    }
    if outcome != STEERABLE {
        return gateway::unsteerable(&scratch.packet.ip, outcome);
    }
    Ok(Verdict::Decided(forward(ctx, scratch, end)))
}

/// A tunnel packet, for whomever: XDP's verdict, or [`UNDECIDED`] where it is none of ours.
#[inline(always)]
fn receive(ctx: &XdpContext, scratch: &mut Scratch, end: u32) -> u32 {
    let refused = unwrappable(ctx, scratch, end);
    if refused != FINE {
        return receiver::refuse(ctx, scratch, refused);
    }
    receiver::unwrap(ctx, scratch)
}

/// Delivers what a tunnel packet holds: [`FINE`], or why it can't be.
#[inline(always)]
fn unwrappable(ctx: &XdpContext, scratch: &mut Scratch, end: u32) -> u32 {
    let refused = receiver::check(ctx, scratch, end);
    if refused != FINE {
        return refused;
    }
    let ip = &scratch.packet.ip;
    let (inner, end) = (ip.l3 as u32 + scratch.outer, (ip.l3 + ip.length) as u32);
    match parse::parse_at(ctx, inner, end, &mut scratch.inner) {
        STEERABLE => {}
        NOT_IP => return DropReason::BadTunnel as u32,
        reason => return reason,
    }
    scratch.delivery.outer = scratch.packet.ip.destination;
    receiver::deliver(ctx, scratch)
}

/// A packet that may be for a VIP: XDP's verdict.
#[inline(always)]
fn forward(ctx: &XdpContext, scratch: &mut Scratch, end: u32) -> u32 {
    let action = gateway::choose(ctx, scratch);
    if action != UNDECIDED {
        return action;
    }
    if scratch.steered.backend.encap == Encap::Local as u8 {
        return deliver_here(ctx, scratch);
    }
    let action = gateway::send(ctx, scratch);
    if action != UNDECIDED {
        return action;
    }
    icmp::too_big(ctx, scratch, end)
}

/// A packet whose endpoint is on this node: XDP's verdict.
#[inline(always)]
fn deliver_here(ctx: &XdpContext, scratch: &mut Scratch) -> u32 {
    if setting!(roles) & Roles::RECEIVER == 0 {
        return verdict::finish(ctx, Err(DropReason::Inconsistent));
    }
    scratch.inner = scratch.packet;
    scratch.delivery.outer = scratch.steered.backend.outer;
    let refused = receiver::deliver(ctx, scratch);
    if refused != FINE {
        return verdict::finish(ctx, Ok(Verdict::Dropped(refused)));
    }
    count::forwarded(&scratch.packet, scratch.service, scratch.steered.index);
    xdp_action::XDP_PASS
}
