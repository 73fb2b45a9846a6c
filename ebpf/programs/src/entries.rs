//! The entry points, for the ELF that agents load and for the one that is measured.

#![expect(
    clippy::needless_pass_by_value,
    clippy::cast_possible_truncation,
    unreachable_pub,
    reason = "the macros make entry points of these functions, of the shape that the kernel calls"
)]

use aya_ebpf::{
    bindings::xdp_action,
    helpers::bpf_jiffies64,
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use fairlead_abi::{DropReason, program};
use fairlead_ebpf::{
    fast::{Step, fast},
    maps::PROGRAMS,
    verdict::{self, UNDECIDED},
};

/// XDP on a NIC: gateway, receiver or both, by the settings it is loaded with.
#[xdp(frags)]
pub fn ingress(ctx: XdpContext) -> u32 {
    match fast(&ctx) {
        Ok(Step::Done(done)) => verdict::finish(&ctx, Ok(done)),
        Err(reason) => verdict::finish(&ctx, Err(reason)),
        Ok(Step::Slow) => go_on(&ctx, program::SLOW_INDEX),
    }
}

/// Where [`ingress`] goes on with tunnel packets.
#[xdp(frags)]
pub fn tunnel(ctx: XdpContext) -> u32 {
    match fairlead_ebpf::tunnel::tunnel(&ctx) {
        UNDECIDED => go_on(&ctx, program::SLOW_INDEX),
        action => action,
    }
}

/// The verdict of another program.
#[inline(always)]
pub fn go_on(ctx: &XdpContext, program: u32) -> u32 {
    // SAFETY: nothing of this program's is left to be dropped.
    unsafe { PROGRAMS.tail_call(ctx, program) };
    // Only where the loader did not fill the table in.
    verdict::finish(ctx, Err(DropReason::Inconsistent))
}

/// Where [`ingress`] goes on with what is not the rule.
#[xdp(frags)]
pub fn slow(ctx: XdpContext) -> u32 {
    fairlead_ebpf::slow::slow(&ctx)
}

/// TCX egress of the same NIC.
#[classifier]
pub fn egress(ctx: TcContext) -> i32 {
    fairlead_ebpf::egress::egress(&ctx)
}

/// Passes everything: a veth's peer needs some program for XDP_TX to reach it.
#[xdp(frags)]
pub fn pass(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// The lower half of `jiffies64`, by which flows are stamped: the agent runs it to learn their age.
#[classifier]
pub fn clock(_ctx: TcContext) -> i32 {
    // SAFETY: the helper has no arguments.
    (unsafe { bpf_jiffies64() }) as i32
}

/// The kernel lets programs that call some helpers load only under this licence.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: no panic is left in the programs; were there one, the verifier would refuse the jump to nowhere.
    unsafe { core::hint::unreachable_unchecked() }
}
