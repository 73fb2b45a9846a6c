//! What is not the rule: which role a packet is for, and the verdict.
//!
//! The work is done by subprograms, called from here only: a stack has 512 bytes, and the frames of a call chain
//! share them.

use aya_ebpf::{bindings::xdp_action, helpers::generated::bpf_xdp_get_buff_len, programs::XdpContext};
use fairlead_abi::{Address, DropReason, Encap, Roles, kind};

use crate::{
    ask,
    bounce::{self, NOT_OURS},
    count, fragment, gateway, icmp,
    maps::{self, Scratch},
    packet::Packet,
    parse::{self, LATER, NOT_IP, STEERABLE},
    quic,
    receiver::{self, FINE, NOT_KNOWN},
    report, setting, socket,
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
    scratch.came_back = 0;
    if receiver::is_tunnel(&Packet::new(ctx), &scratch.packet.ip) {
        let mut action = UNDECIDED;
        if roles & Roles::GATEWAY != 0 && bounce::has_come_back(ctx, &scratch.packet.ip) {
            action = come_back(ctx, scratch, end);
        }
        if action == UNDECIDED && roles & Roles::RECEIVER != 0 {
            action = receive(ctx, scratch, end);
        }
        if action != UNDECIDED {
            return Ok(Verdict::Decided(action));
        }
    }
    if roles & Roles::RECEIVER != 0
        && outcome == STEERABLE
        && ask::is_message(scratch)
        && ask::is_for_us(scratch) != 0
        && receiver::check_sender(scratch) == FINE
    {
        return Ok(Verdict::Decided(ask::answer(ctx, scratch)));
    }
    if roles & Roles::GATEWAY == 0 {
        return Ok(Verdict::Pass);
    }
    if outcome != STEERABLE && outcome != LATER {
        return gateway::unsteerable(&scratch.packet.ip, outcome);
    }
    Ok(Verdict::Decided(forward(ctx, scratch, end)))
}

/// A tunnel packet, for whomever: XDP's verdict, or [`UNDECIDED`] where it is none of ours.
#[inline(always)]
fn receive(ctx: &XdpContext, scratch: &mut Scratch, end: u32) -> u32 {
    match unwrappable(ctx, scratch, end) {
        FINE => receiver::unwrap(ctx, scratch),
        NOT_KNOWN => bounce::send_back(ctx, scratch),
        refused => receiver::refuse(ctx, scratch, refused),
    }
}

/// Delivers what a tunnel packet holds: [`FINE`], [`NOT_KNOWN`], or why it can't be.
#[inline(always)]
fn unwrappable(ctx: &XdpContext, scratch: &mut Scratch, end: u32) -> u32 {
    let refused = receiver::check_sender(scratch);
    if refused != FINE {
        return refused;
    }
    let refused = opened(ctx, scratch, end);
    if refused != FINE {
        return refused;
    }
    scratch.meant_for(scratch.tunnel.destination, scratch.tunnel.source);
    deliver(ctx, scratch)
}

/// As [`receiver::deliver`]; what was not for the slot's current backend is claimed, and fragments follow their first.
#[inline(always)]
fn deliver(ctx: &XdpContext, scratch: &mut Scratch) -> u32 {
    if scratch.inner.part.is_later() {
        return fragment::deliver(ctx, scratch);
    }
    scratch.socket.wanted = 0;
    let mut outcome = receiver::deliver(ctx, scratch);
    if outcome == NOT_KNOWN && socket::is_wanted(scratch) {
        outcome = socket::deliver(ctx, scratch);
    }
    if scratch.inner.part.is_first() {
        fragment::note_outcome(scratch, outcome);
    }
    report::claim_former(ctx, scratch, outcome)
}

/// Finds the packet inside a tunnel packet, `scratch.inner`: [`FINE`], or the number of the [`DropReason`] why there is none.
#[inline(always)]
fn opened(ctx: &XdpContext, scratch: &mut Scratch, end: u32) -> u32 {
    let refused = receiver::check(ctx, scratch, end);
    if refused != FINE {
        return refused;
    }
    let ip = &scratch.tunnel;
    let (inner, end) = (ip.l3 as u32 + scratch.outer, (ip.l3 + ip.length) as u32);
    match parse::parse_at(ctx, inner, end, &mut scratch.inner) {
        STEERABLE | LATER => FINE,
        NOT_IP => DropReason::BadTunnel as u32,
        reason => reason,
    }
}

/// A tunnel packet to this gateway: what a receiver has sent back goes on. XDP's verdict, or [`UNDECIDED`] where it is
/// none of ours.
#[inline(always)]
fn come_back(ctx: &XdpContext, scratch: &mut Scratch, end: u32) -> u32 {
    if opened(ctx, scratch, end) != FINE {
        return UNDECIDED;
    }
    if scratch.inner.part.is_later() {
        let Scratch { inner, datagram, first, .. } = scratch;
        let refused = fragment::look_up(inner, datagram, first);
        if refused != FINE {
            return fragment::refuse(ctx, scratch, refused);
        }
    }
    match bounce::take(ctx, scratch) {
        UNDECIDED => {}
        NOT_OURS => return UNDECIDED,
        action => return action,
    }
    let action = gateway::go_on(ctx, scratch);
    if action != UNDECIDED {
        return end_of(ctx, scratch, action);
    }
    try_all(ctx, scratch, end)
}

/// A packet that may be for a VIP: XDP's verdict.
#[inline(always)]
fn forward(ctx: &XdpContext, scratch: &mut Scratch, end: u32) -> u32 {
    if scratch.packet.part.is_later() {
        let action = fragment::find(ctx, scratch);
        if action != UNDECIDED {
            return action;
        }
    }
    if quic::choose(ctx, scratch) == 0 {
        let action = gateway::choose(ctx, scratch);
        if action == gateway::NOT_ALLOWED {
            return fragment::refuse_client(ctx, scratch);
        }
        if action != UNDECIDED {
            return action;
        }
    }
    if !scratch.steered.is_usable() {
        let action = gateway::go_on(ctx, scratch);
        if action != UNDECIDED {
            return end_of(ctx, scratch, action);
        }
    }
    try_all(ctx, scratch, end)
}

/// The packet goes to the backend in `scratch.steered`, or where that is on this node and doesn't know it, to the next:
/// XDP's verdict. A subprogram, because there are two ways to it.
#[inline(never)]
fn try_all(ctx: &XdpContext, scratch: &mut Scratch, end: u32) -> u32 {
    if scratch.packet.part.is_first() {
        fragment::note_choice(scratch);
    }
    for _ in 0..=kind::LAST {
        if scratch.steered.backend.encap != Encap::Local as u8 {
            return match gateway::send(ctx, scratch) {
                UNDECIDED => icmp::too_big(ctx, scratch, end),
                action @ ..gateway::REFUSED => action,
                refused => verdict::finish(ctx, Ok(Verdict::Dropped(refused - gateway::REFUSED))),
            };
        }
        let action = deliver_here(ctx, scratch);
        if action != NOT_KNOWN {
            return action;
        }
        let action = gateway::go_on(ctx, scratch);
        if action != UNDECIDED {
            return end_of(ctx, scratch, action);
        }
    }
    verdict::finish(ctx, Err(DropReason::Inconsistent))
}

/// There is no further backend: XDP's verdict.
#[inline(always)]
fn end_of(ctx: &XdpContext, scratch: &Scratch, action: u32) -> u32 {
    if action == gateway::NOBODYS {
        report::unclaimed(ctx, scratch);
        return verdict::finish(ctx, Err(DropReason::Unclaimed));
    }
    action
}

/// A packet whose endpoint is on this node: XDP's verdict, or [`NOT_KNOWN`].
#[inline(always)]
fn deliver_here(ctx: &XdpContext, scratch: &mut Scratch) -> u32 {
    if setting!(roles) & Roles::RECEIVER == 0 {
        return verdict::finish(ctx, Err(DropReason::Inconsistent));
    }
    scratch.inner = scratch.packet;
    scratch.meant_for(scratch.steered.backend.outer, Address { bytes: [0; 16] });
    scratch.mark = scratch.steered.mark();
    match deliver(ctx, scratch) {
        FINE => {}
        NOT_KNOWN => return NOT_KNOWN,
        refused => return verdict::finish(ctx, Ok(Verdict::Dropped(refused))),
    }
    count::forwarded(&scratch.packet, scratch.service, scratch.steered.index);
    if scratch.came_back != 0 {
        return receiver::unwrap(ctx, scratch);
    }
    xdp_action::XDP_PASS
}
