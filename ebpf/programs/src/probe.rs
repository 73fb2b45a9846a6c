//! A probe takes the way of the traffic: a socket's mark names the endpoint, and the packet for the VIP is
//! encapsulated to it as a gateway would.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L4_UDP, TC_ACT_SHOT,
        bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    helpers::{bpf_redirect_neigh, bpf_skb_adjust_room, bpf_skb_store_bytes, bpf_skb_vlan_pop},
    programs::TcContext,
};
use fairlead_abi::{Encap, Family, GUE_PORT, ProbeTarget};

use crate::{
    checksum,
    fast::L3,
    headers::{Ipv4, Ipv6, Udp, ethertype, protocol},
    maps::PROBES,
    packet::Packet,
    parse, setting,
};

/// Hop limit of outer headers.
const OUTER_TTL: u8 = 64;

/// Encapsulates a probe to the target `number` and sends it by the route of its outer destination.
#[inline(always)]
#[must_use]
pub fn send(ctx: &TcContext, number: u32) -> i32 {
    // Unencapsulated, it would be sent to the VIP as if by a client: rather not at all.
    encapsulate(ctx, number).unwrap_or(TC_ACT_SHOT)
}

/// A subprogram, for a stack of its own.
#[inline(never)]
fn encapsulate(ctx: &TcContext, number: u32) -> Option<i32> {
    // SAFETY: a copy of plain data.
    let target = *unsafe { PROBES.get(number)? };
    untag(ctx)?;
    let packet = Packet::between(ctx.data(), ctx.data_end());
    let (l3, kind) = parse::ethernet(&packet)?;
    let ip = parse::ip(&packet, l3, kind)?;
    let outer_v6 = target.family == Family::V6 as u8;
    let is_gue = target.encap == Encap::Gue as u8;
    let inner = match ip.family() {
        Family::V4 => protocol::IPV4,
        Family::V6 => protocol::IPV6,
    };
    let next = if is_gue { protocol::UDP } else { inner };
    let mut flags = if outer_v6 { BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 } else { BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 } as u64;
    let udp = if is_gue { 8 } else { 0 };
    if is_gue {
        flags |= BPF_F_ADJ_ROOM_ENCAP_L4_UDP as u64;
    }
    let room = if outer_v6 { 40 } else { 20 } + udp;
    // SAFETY: the helper checks its arguments; no pointer into the packet is used after it.
    if unsafe { bpf_skb_adjust_room(ctx.skb.skb, room, BPF_ADJ_ROOM_MAC, flags) } != 0 {
        return None;
    }
    let length = ip.length as u16;
    if outer_v6 {
        store(ctx, l3 - 2, &ethertype::IPV6)?;
        store(ctx, l3, &header_v6(&target, next, length + udp as u16))?;
    } else {
        store(ctx, l3 - 2, &ethertype::IPV4)?;
        store(ctx, l3, &header_v4(&target, next, length + room as u16))?;
    }
    if is_gue {
        let header = Udp {
            source: (0xc000 | (number as u16 & 0x3fff)).to_be_bytes(),
            destination: GUE_PORT.to_be_bytes(),
            length: (length + 8).to_be_bytes(),
            checksum: 0,
        };
        store(ctx, l3 + if outer_v6 { 40 } else { 20 }, &header)?;
    }
    // SAFETY: fields of the context; without the mark the packet passes this program the second time.
    let here = unsafe {
        (*ctx.skb.skb).mark = 0;
        (*ctx.skb.skb).ifindex
    };
    let ifindex = if target.ifindex == 0 { here } else { target.ifindex };
    // SAFETY: no parameters: the helper looks the route of the outer destination up itself.
    Some(unsafe { bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) } as i32)
}

/// Takes the VLAN tags off, those beside the frame too: the interface that the probe goes on by puts its own on.
#[inline(always)]
fn untag(ctx: &TcContext) -> Option<()> {
    for _ in 0..2 {
        let (l3, _) = parse::ethernet(&Packet::between(ctx.data(), ctx.data_end()))?;
        // SAFETY: a field of the context.
        let beside = unsafe { (*ctx.skb.skb).vlan_present } != 0;
        // SAFETY: the helper takes the context only; no pointer into the packet is used after it.
        if (beside || l3 != L3) && unsafe { bpf_skb_vlan_pop(ctx.skb.skb) } != 0 {
            return None;
        }
    }
    Some(())
}

#[inline(always)]
fn header_v4(target: &ProbeTarget, next: u8, total_length: u16) -> Ipv4 {
    let source = setting!(tunnel_v4).address.to_v4();
    let destination = target.outer.to_v4();
    let total_length = total_length.to_be_bytes();
    let sum = u16::from_ne_bytes([0x45, 0]) as u64
        + u16::from_ne_bytes(total_length) as u64
        + u16::from_ne_bytes([0x40, 0]) as u64
        + u16::from_ne_bytes([OUTER_TTL, next]) as u64
        + u32::from_ne_bytes(source) as u64
        + u32::from_ne_bytes(destination) as u64;
    Ipv4 {
        version_ihl: 0x45,
        tos: 0,
        total_length,
        id: [0; 2],
        fragment: [0x40, 0],
        ttl: OUTER_TTL,
        protocol: next,
        checksum: !checksum::fold(sum),
        source,
        destination,
    }
}

#[inline(always)]
fn header_v6(target: &ProbeTarget, next: u8, payload_length: u16) -> Ipv6 {
    Ipv6 {
        version_class_label: [0x60, 0, 0, 0],
        payload_length: payload_length.to_be_bytes(),
        next_header: next,
        hop_limit: OUTER_TTL,
        source: setting!(tunnel_v6).address.bytes,
        destination: target.outer.bytes,
    }
}

#[inline(always)]
fn store<T>(ctx: &TcContext, at: usize, value: &T) -> Option<()> {
    let from = (&raw const *value).cast();
    // SAFETY: `value` has as many bytes as are stored.
    (unsafe { bpf_skb_store_bytes(ctx.as_ptr().cast(), at as u32, from, size_of::<T>() as u32, 0) } == 0)
        .then_some(())
}
