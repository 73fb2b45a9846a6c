//! The programs once more, with what measures them.
//!
//! BPF_PROG_TEST_RUN doesn't restore the packet between its repetitions. So each run of a wrapper writes the
//! packet's headers anew, for the next flow and service, runs what is measured as a subprogram, takes off what it
//! put on, and counts the verdict. [`bench_floor`] is the same around nothing but parsing and encapsulating.
//! [`live_generate`], [`live_floor`] and [`live_sink`] do it with frames that really travel over a link.
#![no_std]
#![no_main]
#![expect(
    clippy::needless_pass_by_value,
    clippy::cast_possible_truncation,
    missing_docs,
    unreachable_pub,
    reason = "as in `entries`; and the macros' own functions have no docs"
)]

mod entries;

use aya_ebpf::{
    bindings::xdp_action,
    btf_maps::PerCpuArray,
    helpers::{bpf_ktime_get_ns, bpf_xdp_adjust_head},
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use entries::go_on;
use fairlead_abi::{Address, Backend, DropReason, Flow, Hop, flow_hash, kind, mark as mark_of, program};
use fairlead_ebpf::{
    encap::{self, Tags, Way},
    fast::{L3, Step, fast, transport},
    headers::ethertype,
    packet::Packet,
    parse, setting,
    verdict::{self, Verdict},
};

/// Words of headers that are written for each packet.
const WORDS: usize = 10;
/// The same of a packet in a tunnel.
const TUNNEL_WORDS: usize = 16;
/// Where the last four bytes of the source stand.
const V4_ENDS: usize = 26;
/// As [`V4_ENDS`].
const V6_ENDS: usize = 34;

/// What the programs here are told, and what they counted. The bench (`tests/src/bench/records.rs`) has it as words.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Bench {
    /// Ethernet, IP and transport header, and before the inner ones those of a tunnel; some payload.
    pub headers: [u64; TUNNEL_WORDS],
    /// Number of flows less one; a power of two less one.
    pub flow_mask: u32,
    /// Number of services that packets go to.
    pub busy: u32,
    /// The last four bytes of the first source, host byte order.
    pub source: u32,
    /// The last four bytes of the first destination, host byte order.
    pub destination: u32,
    /// Not 0: the packets are IPv6.
    pub v6: u64,
    /// Of the floor: where it sends everything.
    pub backend: Backend,
    /// Of the floor.
    pub hop: Hop,
    /// Packets so far.
    pub runs: u64,
    /// By XDP's number.
    pub verdicts: [u64; 5],
    /// Length of a packet that arrives at the sink as it should.
    pub length: u64,
    /// Such packets so far.
    pub arrived: u64,
    /// Others.
    pub strange: u64,
    /// When the last whole [`BLOCK`] of packets had arrived, nanoseconds.
    pub marked: u64,
    /// The least time that a block took; 0: there was none yet.
    pub fastest: u64,
    /// In a tunnel: the ports of the packet within.
    pub ports: [u8; 4],
    /// What the mark says: a [`kind`].
    pub kind: u8,
    /// Not 0: the packet comes back to its gateway.
    pub bounced: u8,
    /// Zero.
    pub padding: u16,
}

/// Packets that arrive at the sink are timed by so many, a power of two: long enough that how they are bundled doesn't
/// count, short enough that on a machine with other work some block is not interrupted.
const BLOCK: u64 = 4096;

#[btf_map]
static BENCH: PerCpuArray<Bench, 1> = PerCpuArray::new();

#[inline(always)]
fn bench() -> Option<&'static mut Bench> {
    // SAFETY: this CPU's own, and each program takes it once.
    Some(unsafe { &mut *BENCH.get_ptr_mut(0)? })
}

/// What an agent's `ingress` costs.
#[xdp(frags)]
pub fn bench_ingress(ctx: XdpContext) -> u32 {
    let Some(bench) = bench() else { return xdp_action::XDP_ABORTED };
    let before = prepare(&ctx, bench);
    let action = measured(&ctx);
    settle(&ctx, bench, before, action)
}

/// As [`bench_ingress`], for packets in a tunnel: of a receiver, and back at a gateway.
#[xdp(frags)]
pub fn bench_tunnel(ctx: XdpContext) -> u32 {
    let Some(bench) = bench() else { return xdp_action::XDP_ABORTED };
    let before = prepare_tunnel(&ctx, bench);
    let action = measured(&ctx);
    settle(&ctx, bench, before, action)
}

/// What parsing and encapsulating alone cost.
#[xdp(frags)]
pub fn bench_floor(ctx: XdpContext) -> u32 {
    let Some(bench) = bench() else { return xdp_action::XDP_ABORTED };
    let before = prepare(&ctx, bench);
    let action = floor(&ctx, bench);
    settle(&ctx, bench, before, action)
}

/// Sends a frame that is run as a live one out of the interface that it is run for.
#[xdp]
pub fn live_generate(ctx: XdpContext) -> u32 {
    let Some(bench) = bench() else { return xdp_action::XDP_ABORTED };
    prepare(&ctx, bench);
    xdp_action::XDP_TX
}

/// What `ingress` is compared with on a link: encapsulates everything and sends it back.
#[xdp(frags)]
pub fn live_floor(ctx: XdpContext) -> u32 {
    let Some(bench) = bench() else { return xdp_action::XDP_ABORTED };
    verdict::finish(&ctx, parse_and_wrap(&ctx, bench).map(|()| Verdict::Transmit))
}

/// Counts what comes back, and drops it.
#[xdp(frags)]
pub fn live_sink(ctx: XdpContext) -> u32 {
    if let Some(bench) = bench() {
        if Packet::new(&ctx).len() as u64 == bench.length {
            bench.arrived += 1;
            if bench.arrived.is_multiple_of(BLOCK) {
                mark(bench);
            }
        } else {
            bench.strange += 1;
        }
    }
    xdp_action::XDP_DROP
}

/// A block is complete.
#[inline(always)]
fn mark(bench: &mut Bench) {
    // SAFETY: the helper has no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let took = now - bench.marked;
    if bench.marked != 0 && (bench.fastest == 0 || took < bench.fastest) {
        bench.fastest = took;
    }
    bench.marked = now;
}

#[inline(never)]
fn measured(ctx: &XdpContext) -> u32 {
    match fast(ctx) {
        Ok(Step::Done(done)) => verdict::finish(ctx, Ok(done)),
        Err(reason) => verdict::finish(ctx, Err(reason)),
        Ok(Step::Slow) => go_on(ctx, program::SLOW_INDEX),
    }
}

#[inline(never)]
fn floor(ctx: &XdpContext, bench: &Bench) -> u32 {
    verdict::finish(ctx, parse_and_wrap(ctx, bench).map(|()| Verdict::Transmit))
}

/// Parsing as the fast path does it, and IPIP in the packet's own family; nothing else.
#[inline(always)]
fn parse_and_wrap(ctx: &XdpContext, bench: &Bench) -> Result<(), DropReason> {
    let packet = &Packet::new(ctx);
    match packet.read::<[u8; 2]>(12)? {
        ethertype::IPV4 => {
            let ip = parse::ipv4(packet, L3).ok_or(DropReason::Malformed)?;
            if ip.header_length != 20 || ip.fragment {
                return Err(DropReason::Malformed);
            }
            let carried = transport(packet, &ip, L3 + 20).ok_or(DropReason::Malformed)?;
            encap::wrap_in::<20>(ctx, &ip, &way(bench, carried.ports))
        }
        ethertype::IPV6 => {
            let ip = parse::ipv6(packet, L3).ok_or(DropReason::Malformed)?;
            let carried = transport(packet, &ip, L3 + 40).ok_or(DropReason::Malformed)?;
            encap::wrap_in::<40>(ctx, &ip, &way(bench, carried.ports))
        }
        _ => Err(DropReason::Malformed),
    }
}

#[inline(always)]
const fn way(bench: &Bench, ports: [u8; 4]) -> Way<'_> {
    Way {
        backend: &bench.backend,
        hop: &bench.hop,
        tags: Tags::NONE,
        hash: u32::from_ne_bytes(ports),
        mark: 0,
    }
}

/// Writes the headers of the next packet; the packet's length. As little as can be: it is part of every figure.
#[inline(always)]
fn prepare(ctx: &XdpContext, bench: &mut Bench) -> usize {
    let packet = Packet::new(ctx);
    bench.runs += 1;
    let spread = bench.runs.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let flow = spread as u32 & bench.flow_mask;
    let service = ((spread * bench.busy as u64) >> 32) as u32;
    if let Some(start) = packet.at::<[u64; WORDS]>(0) {
        // SAFETY: WORDS words of the packet; the machine takes words at any address.
        unsafe {
            for word in 0..WORDS {
                *start.cast::<u64>().add(word) = bench.headers[word];
            }
            let ends = start.cast::<u8>().add(if bench.v6 == 0 { V4_ENDS } else { V6_ENDS });
            *ends.cast::<u32>() = (bench.source + flow).to_be();
            let destination = ends.add(if bench.v6 == 0 { 4 } else { 16 });
            *destination.cast::<u32>() = (bench.destination + service).to_be();
        }
    }
    packet.len()
}

/// As [`prepare`], of a packet in a tunnel: its mark, if it has one, is that of the flow.
#[inline(always)]
fn prepare_tunnel(ctx: &XdpContext, bench: &mut Bench) -> usize {
    let packet = Packet::new(ctx);
    bench.runs += 1;
    let spread = bench.runs.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let client = (bench.source + (spread as u32 & bench.flow_mask)).to_be_bytes();
    let Some(start) = packet.at::<[u64; TUNNEL_WORDS]>(0) else { return packet.len() };
    // SAFETY: within the words of the packet that were asked for; the machine takes words at any address.
    unsafe {
        for word in 0..TUNNEL_WORDS {
            *start.cast::<u64>().add(word) = bench.headers[word];
        }
        let start = start.cast::<u8>();
        let (address, mark_at) = if bench.v6 == 0 {
            *start.add(20 + V4_ENDS).cast() = client;
            (Address::v4(client), L3 + 4)
        } else {
            *start.add(40 + V6_ENDS).cast() = client;
            (Address { bytes: *start.add(40 + V6_ENDS - 12).cast() }, L3 + 2)
        };
        if bench.kind != kind::UNMARKED {
            let hash = flow_hash(setting!(seed), &Flow { client: address, ports: bench.ports });
            let mark = mark_of(hash, bench.kind, bench.bounced != 0);
            *start.add(mark_at).cast() = mark.to_be_bytes();
        }
    }
    packet.len()
}

/// Takes off what was put on, puts on what was taken off, and counts.
#[inline(always)]
fn settle(ctx: &XdpContext, bench: &mut Bench, before: usize, action: u32) -> u32 {
    let grown = Packet::new(ctx).len().wrapping_sub(before);
    if grown != 0 {
        // SAFETY: the helper checks its argument.
        let _ = unsafe { bpf_xdp_adjust_head(ctx.ctx, grown as i32) };
    }
    if let Some(count) = bench.verdicts.get_mut(action as usize) {
        *count += 1;
    }
    action
}
