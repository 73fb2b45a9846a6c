//! Verdicts, and how they become XDP's.

use aya_ebpf::{
    bindings::xdp_action,
    helpers::{bpf_redirect, generated::bpf_xdp_get_buff_len},
    programs::XdpContext,
};
use fairlead_abi::DropReason;

use crate::count;

/// What a subprogram returns instead of XDP's number where it has not decided.
pub const UNDECIDED: u32 = u32::MAX;

/// What becomes of a packet that is not dropped.
#[derive(Clone, Copy)]
pub enum Verdict {
    /// To the local stack.
    Pass,
    /// Out of the NIC that it came in by.
    Transmit,
    /// Out of another interface, by index.
    Redirect(u32),
    /// Dropped for the [`DropReason`] with this number.
    Dropped(u32),
    /// A subprogram has decided and counted: XDP's own number.
    Decided(u32),
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
        Ok(Verdict::Dropped(reason)) => drop_for(ctx, reason),
        Err(reason) => drop_for(ctx, reason as u32),
    }
}

/// XDP's verdict for a packet that leaves.
#[inline(always)]
#[must_use]
pub fn sent(verdict: Verdict) -> u32 {
    match verdict {
        // SAFETY: the helper takes plain numbers.
        Verdict::Redirect(ifindex) => unsafe { bpf_redirect(ifindex, 0) as u32 },
        _ => xdp_action::XDP_TX,
    }
}

#[inline(always)]
fn drop_for(ctx: &XdpContext, reason: u32) -> u32 {
    let length = length(ctx);
    count::dropped(reason, length);
    #[cfg(feature = "log")]
    tell(ctx, reason, length as u32);
    xdp_action::XDP_DROP
}

/// Logs a drop. A subprogram, because every place that drops would have it otherwise.
#[cfg(feature = "log")]
#[inline(never)]
fn tell(ctx: &XdpContext, reason: u32, length: u32) {
    aya_log_ebpf::debug!(ctx, "dropped {} bytes, reason {}", length, reason);
}

/// Bytes of the whole packet, also of what is not linear.
#[inline(always)]
fn length(ctx: &XdpContext) -> usize {
    // SAFETY: the helper takes the context only.
    unsafe { bpf_xdp_get_buff_len(ctx.ctx) as usize }
}
