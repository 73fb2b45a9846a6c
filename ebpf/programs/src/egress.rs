//! TCX egress of the NIC: an endpoint's reply becomes one from the VIP, an ICMP error about what a client sent speaks of
//! the VIP, and probes are encapsulated.
//!
//! Here and not on the pods' interfaces: conntrack has seen both directions by now, so neither a CNI's
//! masquerading nor `rp_filter` gets in between, and helpers mend checksums with any offload, GSO included.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, TC_ACT_UNSPEC},
    helpers::{
        bpf_csum_diff, bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_skb_pull_data, bpf_skb_store_bytes,
    },
    programs::TcContext,
};
use fairlead_abi::{Address, FlowKey, PROBE_MARK, PROBE_MARK_MASK, Roles};

use crate::{
    fragment,
    headers::{protocol, tcp},
    icmp,
    maps::{self, Reverse, Scratch},
    packet::Packet,
    parse::{self, Parsed},
    probe, reply, setting,
};

/// Headers that are read here, at most: Ethernet with two tags, IPv6, and TCP with options, which is more than an ICMP
/// error and what it quotes.
const HEADERS: u32 = 22 + 40 + 60;

/// The whole program; TC_ACT_UNSPEC lets the next one go on.
#[inline(always)]
#[must_use]
pub fn egress(ctx: &TcContext) -> i32 {
    // SAFETY: a field of the context.
    let mark = unsafe { (*ctx.skb.skb).mark };
    let roles = setting!(roles);
    if roles & Roles::GATEWAY != 0 && mark & PROBE_MARK_MASK == PROBE_MARK {
        return probe::send(ctx, mark & !PROBE_MARK_MASK);
    }
    if roles & Roles::RECEIVER != 0 {
        // A packet that is no reply, or can't be rewritten, is not ours to drop.
        if let Some(scratch) = maps::scratch() {
            match find(ctx, scratch) {
                REPLY => {
                    if scratch.inner.part.is_first() {
                        fragment::note_reply(scratch);
                    }
                    rewrite(ctx, scratch);
                }
                LATER => rewrite_later(ctx, scratch),
                ICMP if find_quoted(ctx, scratch) != 0 => rewrite_error(ctx, scratch),
                _ => {}
            }
        }
    }
    TC_ACT_UNSPEC
}

/// [`find`]: a reply of a flow.
const REPLY: u32 = 1;
/// [`find`]: a message of ICMP or ICMPv6.
const ICMP: u32 = 2;

/// [`find`]: a further fragment of a reply.
const LATER: u32 = 3;

/// What the packet is: [`REPLY`] or [`LATER`], and how to rewrite it stands in `scratch`; [`ICMP`], and it stands in
/// `scratch.inner`; or nothing of ours. A subprogram, for a stack of its own.
#[inline(never)]
fn find(ctx: &TcContext, scratch: &mut Scratch) -> u32 {
    find_flow(ctx, scratch).unwrap_or(0)
}

#[inline(always)]
fn find_flow(ctx: &TcContext, scratch: &mut Scratch) -> Option<u32> {
    let packet = linear(ctx)?;
    let (l3, kind) = parse::ethernet(&packet)?;
    let Scratch { inner, flow, reverse, .. } = scratch;
    inner.ip = parse::ip(&packet, l3, kind)?;
    let ip = &mut inner.ip;
    if ip.length <= ip.header_length {
        // Bigger than the field can say (BIG TCP).
        ip.length = ctx.len() as usize - l3;
    }
    parse::transport(&packet, inner, usize::MAX).ok()?;
    let Parsed { ip, carried, part } = &*inner;
    reverse.l3 = l3 as u16;
    if part.is_later() {
        return find_first(scratch);
    }
    reverse.l4 = carried.l4 as u16;
    reverse.tcp_flags = carried.tcp_flags;
    if carried.is_icmp() {
        return Some(ICMP);
    }
    *flow = FlowKey {
        endpoint: ip.source,
        client: ip.destination,
        endpoint_port: [carried.ports[0], carried.ports[1]],
        client_port: [carried.ports[2], carried.ports[3]],
        protocol: carried.protocol,
        padding: [0; 3],
    };
    let numbers =
        if carried.protocol == protocol::TCP { packet.read(carried.l4 + 4).ok()? } else { [[0; 4]; 2] };
    let [sequence, acknowledged] = numbers.map(u32::from_be_bytes);
    reply::find(scratch, sequence, acknowledged).map(|()| REPLY)
}

/// The packet is a fragment that isn't the first: [`LATER`], if the first one was a reply.
#[inline(always)]
fn find_first(scratch: &mut Scratch) -> Option<u32> {
    let Scratch { inner, datagram, flow, reverse, .. } = scratch;
    reverse.vip = fragment::first_of(inner, datagram, true).ok()?.address;
    flow.endpoint = inner.ip.source;
    Some(LATER)
}

/// Whether `scratch.inner` is an ICMP error to a client about a packet of a flow; if so, how to rewrite it stands in
/// `scratch`. A subprogram, for a stack of its own.
#[inline(never)]
fn find_quoted(ctx: &TcContext, scratch: &mut Scratch) -> u32 {
    linear(ctx).and_then(|packet| find_quoted_flow(&packet, scratch)).is_some() as u32
}

#[inline(always)]
fn find_quoted_flow(packet: &Packet, scratch: &mut Scratch) -> Option<()> {
    let Parsed { ip, carried, .. } = &scratch.inner;
    let quoted = icmp::quoted(packet, ip, carried).and_then(|quoted| quoted.of(ip.destination)).ok()?;
    let [a, b, c, d] = quoted.ports;
    scratch.flow = FlowKey {
        endpoint: quoted.destination,
        client: quoted.source,
        endpoint_port: [c, d],
        client_port: [a, b],
        protocol: quoted.protocol,
        padding: [0; 3],
    };
    // A node on the way speaks in its own name.
    scratch.reverse.own = (ip.source.words() == quoted.destination.words()) as u8;
    scratch.reverse.quoted = quoted.l4 as u16;
    reply::find_for_error(scratch)
}

/// Rewrites the reply that `scratch` speaks of. A subprogram, for a stack of its own.
#[inline(never)]
fn rewrite(ctx: &TcContext, scratch: &Scratch) {
    let Scratch { flow, reverse, .. } = scratch;
    if rewrite_source(ctx, flow, reverse).is_some() && reverse.tcp_flags & tcp::SYN != 0 && reverse.mss != 0 {
        lower_mss(ctx, reverse.l4 as u32, reverse.mss);
    }
}

/// Rewrites a further fragment of a reply. A subprogram, for a stack of its own.
#[inline(never)]
fn rewrite_later(ctx: &TcContext, scratch: &Scratch) {
    let Scratch { flow, reverse, .. } = scratch;
    let _ = if reverse.vip.is_v4() {
        replace_address(ctx, reverse.l3 as usize, 12, flow, reverse)
    } else {
        store(ctx, reverse.l3 as usize + 8, &reverse.vip.bytes)
    };
}

/// Rewrites an ICMP error: the packet that it quotes becomes one that the client sent to the VIP. A subprogram, for a
/// stack of its own.
#[inline(never)]
fn rewrite_error(ctx: &TcContext, scratch: &Scratch) {
    let _ = rewrite_quoted(ctx, &scratch.flow, &scratch.reverse);
}

#[inline(always)]
fn rewrite_quoted(ctx: &TcContext, flow: &FlowKey, reverse: &Reverse) -> Option<()> {
    let (l3, l4) = (reverse.l3 as usize, reverse.l4 as usize);
    let (quote, ports) = (l4 + 8, reverse.quoted as usize);
    let checksum = l4 + 2;
    let old_port = u16::from_ne_bytes(flow.endpoint_port) as u64;
    let new_port = u16::from_ne_bytes(reverse.port) as u64;
    replace_l4(ctx, checksum, old_port, new_port, 2)?;
    store(ctx, ports + 2, &reverse.port)?;
    if reverse.vip.is_v4() {
        // The quoted header's own checksum outweighs its other changes.
        replace_address(ctx, quote, 16, flow, reverse)?;
        if reverse.own != 0 {
            replace_address(ctx, l3, 12, flow, reverse)?;
        }
        return Some(());
    }
    let difference = difference(&flow.endpoint, &reverse.vip);
    replace_l4(ctx, checksum, 0, difference, 0)?;
    store(ctx, quote + 24, &reverse.vip.bytes)?;
    if reverse.own != 0 {
        replace_l4(ctx, checksum, 0, difference, BPF_F_PSEUDO_HDR as u64)?;
        store(ctx, l3 + 8, &reverse.vip.bytes)?;
    }
    Some(())
}

/// Replaces the endpoint's address by the VIP in the IPv4 header at `l3`, where it stands `at` bytes behind.
#[inline(always)]
fn replace_address(ctx: &TcContext, l3: usize, at: usize, flow: &FlowKey, reverse: &Reverse) -> Option<()> {
    let old = u32::from_ne_bytes(flow.endpoint.to_v4()) as u64;
    let new = u32::from_ne_bytes(reverse.vip.to_v4()) as u64;
    // SAFETY: the helper checks its arguments.
    if unsafe { bpf_l3_csum_replace(ctx.skb.skb, l3 as u32 + 10, old, new, 4) } != 0 {
        return None;
    }
    store(ctx, l3 + at, &reverse.vip.to_v4())
}

/// The packet with its headers in the linear part.
#[inline(always)]
fn linear(ctx: &TcContext) -> Option<Packet> {
    let packet = Packet::between(ctx.data(), ctx.data_end());
    if packet.len() >= HEADERS as usize || packet.len() >= ctx.len() as usize {
        return Some(packet);
    }
    let wanted = if ctx.len() < HEADERS { ctx.len() } else { HEADERS };
    // SAFETY: the helper checks its argument; pointers are taken anew.
    if unsafe { bpf_skb_pull_data(ctx.skb.skb, wanted) } != 0 {
        return None;
    }
    Some(Packet::between(ctx.data(), ctx.data_end()))
}

/// Source address and port become the VIP's.
#[inline(always)]
fn rewrite_source(ctx: &TcContext, flow: &FlowKey, reverse: &Reverse) -> Option<()> {
    let (l3, l4) = (reverse.l3 as usize, reverse.l4 as usize);
    let (at, flags) = match flow.protocol {
        protocol::TCP => (l4 + 16, 0),
        _ => (l4 + 6, BPF_F_MARK_MANGLED_0 as u64),
    };
    let old_port = u16::from_ne_bytes(flow.endpoint_port) as u64;
    let new_port = u16::from_ne_bytes(reverse.port) as u64;
    replace_l4(ctx, at, old_port, new_port, flags | 2)?;
    store(ctx, l4, &reverse.port)?;
    let pseudo = flags | BPF_F_PSEUDO_HDR as u64;
    if reverse.vip.is_v4() {
        let old = u32::from_ne_bytes(flow.endpoint.to_v4()) as u64;
        let new = u32::from_ne_bytes(reverse.vip.to_v4()) as u64;
        replace_l4(ctx, at, old, new, pseudo | 4)?;
        replace_address(ctx, l3, 12, flow, reverse)
    } else {
        let difference = difference(&flow.endpoint, &reverse.vip);
        replace_l4(ctx, at, 0, difference, pseudo)?;
        store(ctx, l3 + 8, &reverse.vip.bytes)
    }
}

/// The checksum's difference between two IPv6 addresses.
#[inline(always)]
fn difference(old: &Address, new: &Address) -> u64 {
    let (old, new) = ((&raw const *old).cast_mut(), (&raw const *new).cast_mut());
    // SAFETY: both point to sixteen bytes, which the helper only reads.
    unsafe { bpf_csum_diff(old.cast(), 16, new.cast(), 16, 0) as u64 }
}

/// Lowers the MSS that a SYN-ACK offers to `mss`. A subprogram, for a stack of its own.
#[inline(never)]
fn lower_mss(ctx: &TcContext, l4: u32, mss: u16) {
    let _ = replace_mss(ctx, l4 as usize, mss);
}

#[inline(always)]
fn replace_mss(ctx: &TcContext, l4: usize, mss: u16) -> Option<()> {
    let (at, old) = mss_option(&linear(ctx)?, l4)?;
    if u16::from_be_bytes(old) <= mss {
        return None;
    }
    let new = mss.to_be_bytes();
    // An option at an odd offset straddles checksum words: each of its bytes counts for the other half there.
    let (from, to) = if (at - l4).is_multiple_of(2) {
        (u16::from_ne_bytes(old), u16::from_ne_bytes(new))
    } else {
        (u16::from_ne_bytes([old[1], old[0]]), u16::from_ne_bytes([new[1], new[0]]))
    };
    replace_l4(ctx, l4 + 16, from as u64, to as u64, 2)?;
    store(ctx, at, &new)
}

/// Offset and value of the MSS option of the TCP header at `l4`.
#[inline(always)]
fn mss_option(packet: &Packet, l4: usize) -> Option<(usize, [u8; 2])> {
    let offset: u8 = packet.read(l4 + 12).ok()?;
    let end = l4 + ((offset >> 4) as usize * 4);
    let mut at = l4 + 20;
    for _ in 0..10 {
        if at + 4 > end {
            return None;
        }
        let [kind, length, a, b]: [u8; 4] = packet.read(at).ok()?;
        match kind {
            0 => return None,
            1 => at += 1,
            2 if length == 4 => return Some((at + 2, [a, b])),
            _ if length < 2 => return None,
            _ => at += length as usize,
        }
    }
    None
}

#[inline(always)]
fn replace_l4(ctx: &TcContext, at: usize, old: u64, new: u64, flags: u64) -> Option<()> {
    // SAFETY: the helper checks its arguments.
    (unsafe { bpf_l4_csum_replace(ctx.skb.skb, at as u32, old, new, flags) } == 0).then_some(())
}

#[inline(always)]
fn store<T>(ctx: &TcContext, at: usize, value: &T) -> Option<()> {
    let from = (&raw const *value).cast();
    // SAFETY: `value` has as many bytes as are stored.
    (unsafe { bpf_skb_store_bytes(ctx.as_ptr().cast(), at as u32, from, size_of::<T>() as u32, 0) } == 0)
        .then_some(())
}
