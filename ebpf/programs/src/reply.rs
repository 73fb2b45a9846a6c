//! Flows, as the receiver knows them: how a reply is turned back into one from the VIP.
//!
//! What only a client has said stands in an LRU of its own, so that no flood evicts a live entry. A flow is
//! established by the ACK of the SYN-ACK that left, or by an answer of the endpoint; then it stands in a table
//! that never evicts. A lost entry is made again by the client's next packet.

use aya_ebpf::{helpers::bpf_jiffies64, programs::XdpContext};
use fairlead_abi::{AskedFlow, DropReason, FlowEntry, FlowKey, FlowState, Numbers, kind, message::answer};

use crate::{
    headers::{protocol, tcp},
    maps::{FLOWS, HALF_OPEN, LOST, Reverse, Scratch},
    packet::Packet,
    parse::{Parsed, Transport},
    recent::Place,
    socket::{self, found},
};

/// A client's packet, `scratch.inner`, is for an endpoint: the reverse of its flow, `scratch.flow`, is noted. Where its
/// mark was not of kind [`kind::UNMARKED`], the flow must be known already; false: it isn't, nothing was changed, and
/// `scratch.socket` says whether its endpoint's socket may know it.
#[inline(always)]
pub fn note(packet: &Packet, scratch: &mut Scratch, mss: u16, kind: u8) -> Result<bool, DropReason> {
    let Scratch { inner: Parsed { ip, carried, .. }, delivery, flow: key, entry, socket, .. } = scratch;
    let unmarked = kind == kind::UNMARKED;
    let numbers = numbers(packet, carried)?;
    *entry = FlowEntry {
        vip: ip.destination.copied(),
        port: [carried.ports[2], carried.ports[3]],
        mss,
        sequence: 0,
        state: FlowState::Unproven as u8,
        client_ended: 0,
        claimed: 0,
        client_sequence: numbers.sequence,
        seen: now(),
    };
    if carried.opens() && unmarked {
        entry.state = FlowState::HalfOpen as u8;
        let _ = HALF_OPEN.insert(&*key, &*entry, 0);
        return Ok(true);
    }
    let goes_on =
        carried.protocol == protocol::TCP && carried.tcp_flags & (tcp::BOUNDS | tcp::ACK) == tcp::ACK;
    if goes_on && Place::of(key).is_some_and(|place| place.fits(entry, &numbers)) {
        return Ok(true);
    }
    socket.wanted = 1;
    let known = FLOWS.get_ptr_mut(&*key).filter(|known| {
        // SAFETY: an entry of the map; fields are plain numbers, and the last writer of `seen` wins.
        let known = unsafe { &**known };
        let is_of_vip = is_of(known, entry);
        if !is_of_vip && known.state != FlowState::Closing as u8 {
            socket.wanted = 0;
        }
        is_of_vip
    });
    if let Some(known) = known
        // SAFETY: as above.
        && (unmarked || fit(&numbers, unsafe { &*known }, carried))
    {
        // SAFETY: as above.
        let known = unsafe { &mut *known };
        // Of TCP only the endpoint's word counts: numbers that fit by chance, sent by somebody else, must not lead away from
        // the client's.
        if carried.protocol != protocol::TCP {
            known.seen = entry.seen;
        }
        if carried.protocol == protocol::TCP && note_end(known, &numbers, carried) {
            if let Some(place) = Place::of(key) {
                place.forget(known);
            }
            return Ok(true);
        }
        // One that ended may be followed by a connection of the same ports, which has to take its place.
        if known.state != FlowState::Closing as u8 || HALF_OPEN.get_ptr_mut(&*key).is_none() {
            return Ok(true);
        }
    }
    // What was sent here for want of anybody else is left to the endpoint to judge; after flows were lost, so is what came to
    // the slot's current backend, where no socket of the endpoint's can be seen.
    let can_be_seen = carried.protocol == protocol::TCP && socket::can_be_seen(&delivery.outer);
    let left = unmarked || (kind == kind::CURRENT && may_be_lost(entry.seen) && !can_be_seen);
    if let Some(half) = HALF_OPEN.get_ptr_mut(&*key)
        // SAFETY: as above.
        && is_of(unsafe { &*half }, entry)
    {
        // SAFETY: as above.
        return go_on(key, unsafe { &mut *half }, entry, &numbers, carried, left);
    }
    // A reset needs no answer: it begins nothing, and it must not make a flow of a handshake that it breaks off.
    if left && carried.tcp_flags & tcp::RST == 0 {
        let _ = HALF_OPEN.insert(&*key, &*entry, 0);
    }
    Ok(left)
}

/// A client's TCP packet may end what it is known to be of; true: at once, by a reset.
#[inline(always)]
pub fn note_end(known: &mut FlowEntry, numbers: &Numbers, carried: &Transport) -> bool {
    // The endpoint doesn't answer it, so nothing else would end the flow. Who isn't the client has to guess the number.
    if carried.tcp_flags & tcp::RST != 0 && numbers.sequence == known.client_sequence {
        (known.state, known.client_ended) = (FlowState::Closing as u8, 1);
        return true;
    }
    // Not where much before it is still on its way.
    if carried.tcp_flags & tcp::FIN != 0 && numbers.may_be_last(known) && fit(numbers, known, carried) {
        known.client_ended = 1;
    }
    false
}

/// Whether flows may be missing now.
#[inline(always)]
#[must_use]
pub fn may_be_lost(now: u64) -> bool {
    let Some(until) = LOST.get(0) else { return false };
    // SAFETY: a word of the map, which the agent writes.
    let until = unsafe { (&raw const *until).read_volatile() } as u32;
    until != 0 && until.wrapping_sub(now as u32) < u32::MAX / 2
}

/// The flow is half-open. A SYN may have been forged: only the ACK of the SYN-ACK that left, or a reset from who sent the
/// SYN, belongs to it. A flow of UDP has nothing that a packet could fit. One that the endpoint has answered stays here only
/// for want of room, and is known as any that is established.
#[inline(always)]
fn go_on(
    key: &FlowKey,
    half: &mut FlowEntry,
    entry: &FlowEntry,
    numbers: &Numbers,
    carried: &Transport,
    left: bool,
) -> Result<bool, DropReason> {
    if is_proven(half) && fit(numbers, half, carried) {
        return Ok(true);
    }
    if carried.tcp_flags & tcp::RST != 0 {
        return Ok(left || numbers.sequence == half.client_sequence.wrapping_add(1));
    }
    half.seen = entry.seen;
    let waits = half.state == FlowState::HalfOpen as u8 && half.sequence != 0;
    if carried.protocol == protocol::TCP && waits && numbers.acknowledged == half.sequence.wrapping_add(1) {
        half.state = FlowState::Established as u8;
        half.client_sequence = numbers.sequence;
        let established = establish(key, half);
        if established.is_err() {
            // Refused, and so will the next one be.
            half.state = FlowState::HalfOpen as u8;
        }
        return established.map(|()| true);
    }
    Ok(left || carried.protocol != protocol::TCP)
}

/// Whether a flow is known, for what an ICMP error says of it.
#[inline(always)]
#[must_use]
pub fn is_known(key: &FlowKey) -> bool {
    FLOWS.get_ptr(key).is_some() || HALF_OPEN.get_ptr(key).is_some()
}

/// Whether the flow `scratch.flow` that a gateway asks about is an established one of the service `scratch.delivery`: an
/// [`answer`]. Of a living one that a packet with other numbers is asked for nothing is said: who made that packet may want it
/// to be nobody's.
#[inline(always)]
#[must_use]
pub fn holds(ctx: &XdpContext, scratch: &mut Scratch, asked: &AskedFlow) -> u8 {
    let Scratch { flow: key, delivery: about, socket, .. } = scratch;
    let numbers = Numbers {
        sequence: u32::from_be_bytes(asked.sequence),
        acknowledged: u32::from_be_bytes(asked.acknowledgement),
    };
    let mut said = answer::NOT_MINE;
    if let Some(known) = proven(key) {
        if known.vip.words() != about.vip.words() || known.port != about.port {
            return said;
        }
        if key.protocol != protocol::TCP || are_near(&numbers, known, asked.flags) {
            return answer::MINE;
        }
        if known.state != FlowState::Closing as u8 {
            said = answer::CANT_SAY;
        }
    }
    if key.protocol != protocol::TCP {
        return said;
    }
    (socket.numbers, socket.flags) = (numbers, asked.flags);
    match socket::ask(ctx, scratch) {
        found::FITS => answer::MINE,
        found::OTHER => answer::CANT_SAY,
        found::UNSEEN if may_be_lost(now()) => answer::CANT_SAY,
        _ => said,
    }
}

/// The entry of a flow that its endpoint has answered.
#[inline(always)]
fn proven(key: &FlowKey) -> Option<&'static FlowEntry> {
    let known = FLOWS.get_ptr(key).or_else(|| HALF_OPEN.get_ptr(key))?;
    // SAFETY: an entry of the map; fields are plain numbers.
    let known = unsafe { &*known };
    is_proven(known).then_some(known)
}

/// Whether there is an entry of the flow that its endpoint has answered, of another VIP or port than `entry`, and not over.
#[inline(always)]
#[must_use]
pub fn is_of_another(key: &FlowKey, entry: &FlowEntry) -> bool {
    proven(key).is_some_and(|known| !is_of(known, entry) && known.state != FlowState::Closing as u8)
}

/// TCP's numbers in a packet of a client; zero for others.
#[inline(always)]
pub fn numbers(packet: &Packet, carried: &Transport) -> Result<Numbers, DropReason> {
    if carried.protocol != protocol::TCP {
        return Ok(Numbers { sequence: 0, acknowledged: 0 });
    }
    let [sequence, acknowledged]: [[u8; 4]; 2] = packet.read(carried.l4 + 4)?;
    Ok(Numbers { sequence: u32::from_be_bytes(sequence), acknowledged: u32::from_be_bytes(acknowledged) })
}

/// Whether a packet's numbers are near those of its flow; other protocols have none.
#[inline(always)]
fn fit(numbers: &Numbers, known: &FlowEntry, carried: &Transport) -> bool {
    carried.protocol != protocol::TCP || are_near(numbers, known, carried.tcp_flags)
}

#[inline(always)]
fn are_near(numbers: &Numbers, known: &FlowEntry, tcp_flags: u8) -> bool {
    numbers.are_near(known, tcp_flags & tcp::ACK != 0, now())
}

/// Moves a flow to the table that never evicts.
#[inline(always)]
pub fn establish(key: &FlowKey, entry: &FlowEntry) -> Result<(), DropReason> {
    if FLOWS.insert(key, entry, 0).is_err() {
        return Err(DropReason::FlowsFull);
    }
    let _ = HALF_OPEN.remove(key);
    Ok(())
}

/// Finds how to rewrite a reply of the flow `scratch.flow`, and puts it into `scratch.reverse`, whose TCP flags
/// are set; `None`: it belongs to no flow of a service. `sequence` is the reply's own sequence number, and `acknowledged` the
/// one that the client's next byte has.
#[inline(always)]
#[must_use]
pub fn find(scratch: &mut Scratch, sequence: u32, acknowledged: u32) -> Option<()> {
    let Scratch { flow: key, reverse, .. } = scratch;
    let key = &*key;
    let tcp_flags = reverse.tcp_flags;
    if tcp_flags & tcp::SYN != 0
        && let Some(half) = HALF_OPEN.get_ptr_mut(key)
    {
        // SAFETY: an entry of the map; fields are plain numbers.
        let half = unsafe { &mut *half };
        half.sequence = sequence;
        return copy(half, reverse);
    }
    if let Some(known) = FLOWS.get_ptr_mut(key) {
        // SAFETY: as above.
        let known = unsafe { &mut *known };
        known.seen = now();
        known.sequence = sequence;
        if tcp_flags & tcp::ACK != 0 {
            known.client_sequence = acknowledged;
        }
        if tcp_flags & (tcp::FIN | tcp::RST) != 0 {
            known.state = FlowState::Closing as u8;
        }
        if key.protocol == protocol::TCP
            && let Some(place) = Place::of(key)
        {
            if known.state == FlowState::Closing as u8 {
                place.forget(known);
            } else {
                place.note(known);
            }
        }
        return copy(known, reverse);
    }
    // SAFETY: as above.
    let half = unsafe { &mut *HALF_OPEN.get_ptr_mut(key)? };
    copy(half, reverse);
    if tcp_flags & tcp::RST == 0 {
        let state = if tcp_flags & tcp::FIN != 0 { FlowState::Closing } else { FlowState::Established };
        half.state = state as u8;
        half.sequence = sequence;
        if tcp_flags & tcp::ACK != 0 {
            half.client_sequence = acknowledged;
        }
        half.seen = now();
        // Where the table is full the entry stays where it is, and the reply is still rewritten.
        let _ = establish(key, half);
    }
    Some(())
}

/// As [`find`], for an ICMP error about a client's packet of the flow: it proves nothing of the flow.
#[inline(always)]
#[must_use]
pub fn find_for_error(scratch: &mut Scratch) -> Option<()> {
    let Scratch { flow: key, reverse, .. } = scratch;
    let key = &*key;
    let entry = FLOWS.get_ptr(key).or_else(|| HALF_OPEN.get_ptr(key))?;
    // SAFETY: an entry of the map; fields are plain numbers.
    copy(unsafe { &*entry }, reverse)
}

#[inline(always)]
fn copy(entry: &FlowEntry, reverse: &mut Reverse) -> Option<()> {
    reverse.vip = entry.vip;
    reverse.port = entry.port;
    reverse.mss = entry.mss;
    Some(())
}

/// Whether the endpoint has answered: in `FLOWS`, or here for want of room there.
#[inline(always)]
fn is_proven(entry: &FlowEntry) -> bool {
    entry.state == FlowState::Established as u8 || entry.state == FlowState::Closing as u8
}

/// Whether an entry is of the same VIP and port.
#[inline(always)]
fn is_of(known: &FlowEntry, entry: &FlowEntry) -> bool {
    known.vip.words() == entry.vip.words() && known.port == entry.port
}

/// `jiffies64`.
#[inline(always)]
#[must_use]
pub fn now() -> u64 {
    // SAFETY: the helper has no arguments.
    unsafe { bpf_jiffies64() }
}
