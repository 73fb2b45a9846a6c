//! Reports to the agent: flows that nobody claims, and claims.
//!
//! A ring buffer that is full loses them: what is not asked now is asked with the next packet, and what is not claimed now
//! bounces once more.

use aya_ebpf::{helpers::bpf_ktime_get_ns, programs::XdpContext};
use fairlead_abi::{Address, FlowEntry, FlowEvent, FlowReport, FlowState, Limit, ReportKind, kind};

use crate::{
    count,
    headers::protocol,
    limit,
    maps::{FLOWS, REPORTS, Scratch},
    packet::Packet,
    parse::Parsed,
    receiver::FINE,
};

/// A flow may be claimed again after so many units of [`FlowEntry::claimed`]: 100 ms.
const CLAIM_AGAIN: u16 = 12;

/// At a gateway: nobody knows the flow of `scratch.packet`. A subprogram: see [`slow`](crate::slow).
#[inline(never)]
pub fn unclaimed(ctx: &XdpContext, scratch: &Scratch) -> u32 {
    count::event(FlowEvent::Unclaimed);
    // Of what an ICMP error speaks of, the flow's own packets ask.
    let Parsed { carried, part, .. } = &scratch.packet;
    if carried.protocol == protocol::TCP && !part.is_later() && limit::may(Limit::Unclaimed) {
        let mut report = about(ctx, &scratch.packet);
        report.what = ReportKind::Unclaimed as u8;
        report.hash = scratch.steered.hash;
        let _ = REPORTS.output(report, 0);
    }
    0
}

/// At a receiver, where `scratch.inner` was delivered with this outcome, which is returned: what came to a former backend and
/// was taken is claimed.
#[inline(always)]
pub fn claim_former(ctx: &XdpContext, scratch: &Scratch, outcome: u32) -> u32 {
    if outcome == FINE && scratch.kind >= kind::FORMER {
        claim(ctx, scratch);
    }
    outcome
}

/// At a receiver: `scratch.inner`, which came to a former backend, is of the flow `scratch.flow`, which is known here. A
/// subprogram: see [`slow`](crate::slow).
#[inline(never)]
fn claim(ctx: &XdpContext, scratch: &Scratch) -> u32 {
    if !is_due(scratch) {
        return 0;
    }
    count::event(FlowEvent::Claimed);
    let mut report = about(ctx, &scratch.inner);
    report.what = ReportKind::Claim as u8;
    report.gateway = scratch.gateway;
    report.outer = scratch.delivery.outer;
    report.kind = scratch.kind;
    let _ = REPORTS.output(report, 0);
    0
}

/// Whether the flow was not claimed just now; from now on it was. One that ends isn't: before the gateway hears of it,
/// its ports may be those of a new connection, which is somebody else's.
#[inline(always)]
fn is_due(scratch: &Scratch) -> bool {
    if scratch.inner.carried.ends() {
        return false;
    }
    let Some(known) = FLOWS.get_ptr_mut(&scratch.flow) else { return false };
    // SAFETY: the helper has no arguments.
    let now = (unsafe { bpf_ktime_get_ns() } >> FlowEntry::CLAIM_SHIFT) as u16;
    // SAFETY: an entry of the map; fields are plain numbers.
    let known = unsafe { &mut *known };
    if known.state == FlowState::Closing as u8 || now.wrapping_sub(known.claimed) < CLAIM_AGAIN {
        return false;
    }
    known.claimed = now;
    true
}

#[inline(always)]
fn about(ctx: &XdpContext, parsed: &Parsed) -> FlowReport {
    let Parsed { ip, carried, .. } = parsed;
    let numbers: [[u8; 4]; 2] = match carried.protocol {
        protocol::TCP => Packet::new(ctx).read(carried.l4 + 4).unwrap_or_default(),
        _ => [[0; 4]; 2],
    };
    FlowReport {
        vip: ip.destination,
        client: ip.source,
        gateway: Address { bytes: [0; 16] },
        outer: Address { bytes: [0; 16] },
        ports: carried.ports,
        sequence: u32::from_be_bytes(numbers[0]),
        acknowledged: u32::from_be_bytes(numbers[1]),
        hash: 0,
        what: 0,
        protocol: carried.protocol,
        family: ip.family() as u8,
        tcp_flags: carried.tcp_flags,
        kind: 0,
        padding: [0; 3],
    }
}
