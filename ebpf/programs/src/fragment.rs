//! Fragments: a datagram's first one is steered, delivered or rewritten as a whole packet is, and what became of it is
//! noted; the others, which have no ports, follow it.
//!
//! One that comes before its first can't be kept here: the agent gets the frame, and sends it again once the first has
//! come. Nothing is put together, and only what overlaps the first one is looked for: endpoints' kernels refuse the rest.

use aya_ebpf::{
    bindings::xdp_action,
    helpers::{
        bpf_ktime_get_coarse_ns,
        generated::{bpf_xdp_get_buff_len, bpf_xdp_load_bytes},
    },
    programs::XdpContext,
};
use fairlead_abi::{
    Address, DeliveryKey, DropReason, ENDPOINT_OWNS_VIP, FlowEvent, FragmentEntry, FragmentKey, MOST_HELD,
    kind,
};

use crate::{
    count,
    maps::{self, DELIVERIES, EARLY, FRAGMENTS, Scratch},
    packet::Packet,
    parse::Parsed,
    receiver::{self, FINE, NOT_KNOWN},
    steer,
    verdict::{self, UNDECIDED, Verdict},
};

const _: () = assert!(FragmentEntry::TAKEN == FINE && FragmentEntry::SENT_BACK == NOT_KNOWN);

/// What names the datagram of a fragment.
#[inline(always)]
fn datagram_of(parsed: &Parsed) -> FragmentKey {
    let Parsed { ip, part, .. } = parsed;
    FragmentKey {
        source: ip.source,
        destination: ip.destination,
        id: part.id,
        protocol: if ip.v6 { 0 } else { ip.next },
        family: ip.family() as u8,
        padding: [0; 2],
    }
}

/// What became of the first fragment of the one that `parsed` is, an endpoint's reply or a client's.
#[inline(always)]
pub fn first_of(
    parsed: &Parsed,
    datagram: &mut FragmentKey,
    is_reply: bool,
) -> Result<&'static FragmentEntry, DropReason> {
    *datagram = datagram_of(parsed);
    // SAFETY: entries are replaced as a whole, and a replaced one lives until this program has ended.
    let first = unsafe { FRAGMENTS.get(&*datagram) }.ok_or(DropReason::FragmentBeforeFirst)?;
    if !first.leads(now_ns(), is_reply) {
        return Err(DropReason::FragmentBeforeFirst);
    }
    if parsed.part.offset < first.length {
        return Err(DropReason::FragmentOverlaps);
    }
    Ok(first)
}

/// At a gateway: finds the ports of `scratch.packet`, a fragment that isn't the first, and what became of the first:
/// [`UNDECIDED`], or XDP's verdict. A subprogram: see [`slow`](crate::slow).
#[inline(never)]
pub fn find(ctx: &XdpContext, scratch: &mut Scratch) -> u32 {
    let Scratch { packet, datagram, first, .. } = scratch;
    if steer::find_vip(packet.ip.destination, packet.ip.family()).is_none() {
        return xdp_action::XDP_PASS;
    }
    match look_up(packet, datagram, first) {
        FINE => UNDECIDED,
        BEFORE_FIRST => hold(ctx, scratch),
        reason => verdict::finish(ctx, Ok(Verdict::Dropped(reason))),
    }
}

/// [`DropReason::FragmentBeforeFirst`].
pub const BEFORE_FIRST: u32 = DropReason::FragmentBeforeFirst as u32;

/// Gives `parsed`, a fragment that isn't the first, the ports of the first, and copies what became of that: [`FINE`], or the
/// number of the [`DropReason`] why it can't. A subprogram: see [`slow`](crate::slow).
#[inline(never)]
pub fn look_up(parsed: &mut Parsed, datagram: &mut FragmentKey, first: &mut FragmentEntry) -> u32 {
    match first_of(parsed, datagram, false) {
        Ok(found) => {
            *first = *found;
            parsed.carried.ports = found.ports;
            parsed.carried.protocol = found.protocol;
            FINE
        }
        Err(reason) => reason as u32,
    }
}

/// At a gateway: the fragment `scratch.inner` came back in a tunnel packet, but can't be sent on for the [`DropReason`] with
/// this number: XDP's verdict, or [`UNDECIDED`] where it is for no VIP and so somebody else's. A subprogram: see
/// [`slow`](crate::slow).
#[inline(never)]
pub fn refuse(ctx: &XdpContext, scratch: &Scratch, reason: u32) -> u32 {
    let ip = &scratch.inner.ip;
    if steer::find_vip(ip.destination, ip.family()).is_none() {
        return UNDECIDED;
    }
    verdict::finish(ctx, Ok(Verdict::Dropped(reason)))
}

/// At a gateway: notes where `scratch.packet`, a first fragment, goes. A subprogram: see [`slow`](crate::slow).
#[inline(never)]
pub fn note_choice(scratch: &mut Scratch) -> u32 {
    let Scratch { packet, steered, datagram, first, .. } = scratch;
    *datagram = datagram_of(packet);
    *first = FragmentEntry {
        backend: steered.index,
        kind: steered.kind,
        outcome: FragmentEntry::ELSEWHERE,
        ..entry_of(packet)
    };
    let _ = FRAGMENTS.insert(&*datagram, &*first, 0);
    0
}

/// At a gateway: the service of `scratch.packet` doesn't allow its client: XDP's verdict. Where it is a first fragment, its
/// ports are noted, by which the others are refused like it. A subprogram: see [`slow`](crate::slow).
#[inline(never)]
pub fn refuse_client(ctx: &XdpContext, scratch: &mut Scratch) -> u32 {
    let Scratch { packet, datagram, first, .. } = scratch;
    if packet.part.is_first() {
        *datagram = datagram_of(packet);
        *first = FragmentEntry { outcome: FragmentEntry::ELSEWHERE, ..entry_of(packet) };
        let _ = FRAGMENTS.insert(&*datagram, &*first, 0);
    }
    verdict::finish(ctx, Err(DropReason::NotAllowed))
}

/// At a receiver: notes what became of `scratch.inner`, a first fragment. A subprogram: see [`slow`](crate::slow).
#[inline(never)]
pub fn note_outcome(scratch: &mut Scratch, outcome: u32) -> u32 {
    let Scratch { inner, steered, datagram, first, delivery, gateway, .. } = scratch;
    *datagram = datagram_of(inner);
    *first = FragmentEntry { outcome, ..entry_of(inner) };
    if gateway.words() == [0, 0] {
        (first.backend, first.kind) = (steered.index, steered.kind);
    }
    if outcome == FINE
        // SAFETY: as in `first_of`.
        && let Some(delivery) = unsafe { DELIVERIES.get(&*delivery) }
    {
        let owns = delivery.flags & ENDPOINT_OWNS_VIP != 0;
        first.address = if owns { inner.ip.destination } else { delivery.endpoint };
    }
    let _ = FRAGMENTS.insert(&*datagram, &*first, 0);
    0
}

/// At a receiver: notes by what the source of `scratch.inner`, the first fragment of a reply, is replaced. A subprogram,
/// for a stack of its own.
#[inline(never)]
pub fn note_reply(scratch: &mut Scratch) -> u32 {
    let Scratch { inner, datagram, first, reverse, .. } = scratch;
    *datagram = datagram_of(inner);
    *first = FragmentEntry { address: reverse.vip, outcome: FragmentEntry::REPLY, ..entry_of(inner) };
    let _ = FRAGMENTS.insert(&*datagram, &*first, 0);
    0
}

#[inline(always)]
fn entry_of(parsed: &Parsed) -> FragmentEntry {
    FragmentEntry {
        address: Address { bytes: [0; 16] },
        ports: parsed.carried.ports,
        backend: 0,
        outcome: 0,
        length: parsed.part.length,
        protocol: parsed.carried.protocol,
        kind: kind::UNMARKED,
        padding: 0,
        seen_ns: now_ns(),
    }
}

/// At a receiver: as [`receiver::deliver`], of a fragment that isn't the first. Nothing is claimed for it.
#[inline(always)]
pub fn deliver(ctx: &XdpContext, scratch: &mut Scratch) -> u32 {
    let Scratch { inner, datagram, first, .. } = scratch;
    let refused = look_up(inner, datagram, first);
    if refused != FINE {
        return refused;
    }
    let outcome = outcome_of(scratch);
    if outcome != FINE {
        return outcome;
    }
    rewrite(ctx, scratch)
}

/// What becomes of `scratch.inner`, whose first fragment was looked up: as [`receiver::deliver`]. A subprogram: see
/// [`slow`](crate::slow).
#[inline(never)]
fn outcome_of(scratch: &mut Scratch) -> u32 {
    scratch.kind = kind::UNMARKED;
    // The first one may have come for another endpoint.
    scratch.delivery = DeliveryKey::endpoint_only(scratch.delivery.outer);
    if DELIVERIES.get_ptr(&scratch.delivery).is_none() {
        return DropReason::NotDelivered as u32;
    }
    let Scratch { inner, first, steered, mark, .. } = scratch;
    let kind = match receiver::chosen_by(*mark, steered, &inner.carried.flow(inner.ip.source)) {
        Ok(kind) => kind,
        Err(reason) => return reason as u32,
    };
    // What the endpoint must take although it doesn't know the flow overtook its first fragment, which was sent back before.
    let overtook = kind == kind::UNMARKED && first.outcome == FragmentEntry::SENT_BACK;
    if first.outcome == FragmentEntry::ELSEWHERE || overtook {
        return BEFORE_FIRST;
    }
    first.outcome
}

/// Gives `scratch.inner` the destination that its first fragment was given: [`FINE`], or the number of the
/// [`DropReason`] why not. A subprogram: see [`slow`](crate::slow).
#[inline(never)]
fn rewrite(ctx: &XdpContext, scratch: &Scratch) -> u32 {
    let Scratch { inner, first, .. } = scratch;
    if first.address.words() == inner.ip.destination.words() {
        return FINE;
    }
    match receiver::rewrite_destination(&Packet::new(ctx), &inner.ip, &first.address) {
        Ok(()) => FINE,
        Err(reason) => reason as u32,
    }
}

/// Gives the frame to the agent until the first fragment of `scratch.datagram` has come: XDP's verdict. A subprogram: see
/// [`slow`](crate::slow).
#[inline(never)]
pub fn hold(ctx: &XdpContext, scratch: &Scratch) -> u32 {
    if try_hold(ctx, scratch).is_some() {
        count::event(FlowEvent::FragmentHeld);
        return xdp_action::XDP_DROP;
    }
    verdict::finish(ctx, Ok(Verdict::Dropped(DropReason::FragmentBeforeFirst as u32)))
}

#[inline(always)]
fn try_hold(ctx: &XdpContext, scratch: &Scratch) -> Option<()> {
    let room = maps::early_room()?;
    // SAFETY: the helper takes the context only.
    let length = unsafe { bpf_xdp_get_buff_len(ctx.ctx) } as usize;
    if length == 0 || length > MOST_HELD {
        return None;
    }
    room.key = scratch.datagram;
    // SAFETY: a field of the context.
    room.ifindex = unsafe { (*ctx.ctx).ingress_ifindex };
    room.length = length as u32;
    // SAFETY: `frame` has room for `length` bytes.
    if unsafe { bpf_xdp_load_bytes(ctx.ctx, 0, room.frame.as_mut_ptr().cast(), length as u32) } != 0 {
        return None;
    }
    let head = size_of_val(room) - MOST_HELD;
    // SAFETY: the bytes before `frame`, and those of it that were just written.
    let held = unsafe { core::slice::from_raw_parts((&raw const *room).cast::<u8>(), head + length) };
    EARLY.output_untyped::<[u8]>(held, 0).ok()
}

#[inline(always)]
fn now_ns() -> u64 {
    // SAFETY: the helper has no arguments.
    unsafe { bpf_ktime_get_coarse_ns() }
}
