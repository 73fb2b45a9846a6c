//! XDP on the NIC: which role a packet is for, and the verdict.
//!
//! What is not on the way of most packets stands in subprograms that parse the packet anew: each has a stack
//! of its own, and the packets for services pay nothing for them.

use aya_ebpf::{
    bindings::xdp_action, helpers::bpf_redirect, helpers::generated::bpf_xdp_get_buff_len,
    programs::XdpContext,
};
use fairlead_abi::{DropReason, Roles};

use crate::{
    count, gateway,
    packet::Packet,
    parse::{self, Ip},
    receiver, setting,
};

/// What becomes of a packet that is not dropped.
#[derive(Clone, Copy)]
pub enum Verdict {
    /// To the local stack.
    Pass,
    /// Out of the NIC that it came in by.
    Transmit,
    /// Out of another interface, by index.
    Redirect(u32),
    /// A subprogram has decided and counted: XDP's own number.
    Decided(u32),
}

/// The whole program: the packet's verdict as XDP has it.
#[inline(always)]
#[must_use]
pub fn ingress(ctx: &XdpContext) -> u32 {
    finish(ctx, decide(ctx))
}

/// XDP's number for a verdict; counts a drop.
#[inline(always)]
#[must_use]
pub fn finish(ctx: &XdpContext, verdict: Result<Verdict, DropReason>) -> u32 {
    match verdict {
        Ok(Verdict::Pass) => xdp_action::XDP_PASS,
        Ok(Verdict::Transmit) => xdp_action::XDP_TX,
        // SAFETY: the helper takes plain numbers.
        Ok(Verdict::Redirect(ifindex)) => unsafe { bpf_redirect(ifindex, 0) as u32 },
        Ok(Verdict::Decided(action)) => action,
        Err(reason) => {
            count::dropped(reason, Packet::new(ctx).len());
            xdp_action::XDP_DROP
        }
    }
}

/// The verdict, or why the packet is dropped.
#[inline(always)]
fn decide(ctx: &XdpContext) -> Result<Verdict, DropReason> {
    let packet = Packet::new(ctx);
    let Some(ip) = outermost(&packet) else {
        return Ok(Verdict::Pass);
    };
    let roles = setting!(roles);
    if roles & Roles::RECEIVER != 0
        && receiver::is_tunnel(&packet, &ip)
        && let Some(action) = receiver::receive(ctx)
    {
        return Ok(Verdict::Decided(action));
    }
    if roles & Roles::GATEWAY != 0 {
        return gateway::forward(ctx, &packet, &ip);
    }
    Ok(Verdict::Pass)
}

/// The packet's first IP header; `None`: it has none.
#[inline(always)]
#[must_use]
pub fn outermost(packet: &Packet) -> Option<Ip> {
    let (l3, kind) = parse::ethernet(packet)?;
    parse::ip(packet, l3, kind)
}

/// Bytes from the IP header on, those outside the linear part included (asked for only when they matter).
#[inline(always)]
#[must_use]
pub fn available(ctx: &XdpContext, packet: &Packet, ip: &Ip) -> usize {
    let linear = packet.len() - ip.l3;
    if ip.length <= linear {
        return linear;
    }
    // SAFETY: the helper takes the context only.
    unsafe { bpf_xdp_get_buff_len(ctx.ctx) as usize - ip.l3 }
}
