//! A receiver's answers to gateways' agents: whose is this flow, and how many does the endpoint hold?
//!
//! Answered in place, so that they come also while this node's agent is away. A question with a wrong tag is dropped: who
//! has no key learns nothing.

use aya_ebpf::programs::XdpContext;
use fairlead_abi::{
    AskedFlow, CONTROL_PORT, Count, DeliveryKey, DropReason, Family, FlowKey, Header, SipHash,
    message::{ASK_FLOWS, ASK_WORDS, COUNT_WORDS, MAGIC, TAG_WORD, answer, message_kind},
};

use crate::{
    checksum,
    headers::protocol,
    maps::{DELIVERIES, HELD, KEYS, Scratch},
    packet::Packet,
    parse::Parsed,
    reply, socket,
    verdict::{self, Verdict},
};

/// Hop limit of answers.
const TTL: u8 = 64;

/// Whether `scratch.packet` is a message.
#[inline(always)]
#[must_use]
pub fn is_message(scratch: &Scratch) -> bool {
    let Parsed { carried, part, .. } = &scratch.packet;
    carried.protocol == protocol::UDP && carried.destination_port() == CONTROL_PORT && !part.is_first()
}

/// Whether the message `scratch.packet` is for an endpoint of this node: 1 or 0. A subprogram: see [`slow`](crate::slow).
#[inline(never)]
pub fn is_for_us(scratch: &mut Scratch) -> u32 {
    scratch.delivery = DeliveryKey::endpoint_only(scratch.packet.ip.destination);
    DELIVERIES.get_ptr(&scratch.delivery).is_some() as u32
}

/// Answers the question `scratch.packet`: XDP's verdict. A subprogram: see [`slow`](crate::slow).
#[inline(never)]
pub fn answer(ctx: &XdpContext, scratch: &mut Scratch) -> u32 {
    verdict::finish(ctx, try_answer(ctx, scratch))
}

#[inline(always)]
fn try_answer(ctx: &XdpContext, scratch: &mut Scratch) -> Result<Verdict, DropReason> {
    let bad = DropReason::BadMessage;
    let packet = &Packet::new(ctx);
    let Parsed { ip, carried, .. } = &scratch.packet;
    let at = carried.l4 + 8;
    let whole = match (ip.l3 + ip.length).wrapping_sub(at) {
        length if length == COUNT_WORDS * 8 => false,
        length if length == ASK_WORDS * 8 => true,
        _ => return Err(bad),
    };
    let header: Header = packet.read(at)?;
    if header.magic != MAGIC || header.kind != message_kind::ASK {
        return Err(bad);
    }
    scratch.message = at as u32;
    // SAFETY: a copy of plain data; the agent replaces entries as a whole.
    scratch.key = *unsafe { KEYS.get(&header.key) }.ok_or(bad)?;
    if tag(ctx, scratch, whole) != header.tag {
        return Err(bad);
    }
    scratch.delivery = packet.read(at + ABOUT)?;
    if scratch.delivery.outer.words() != ip.destination.words() {
        return Err(bad);
    }
    if whole {
        judge(ctx, scratch, header.count as u32);
    }
    packet.write(at + KIND, message_kind::ANSWER)?;
    count(packet, scratch, at)?;
    let tag = tag(ctx, scratch, whole);
    packet.write(at + TAG_WORD * 8, tag)?;
    turn_round(packet, scratch)?;
    Ok(Verdict::Transmit)
}

const KIND: usize = core::mem::offset_of!(Header, kind);
const ABOUT: usize = core::mem::offset_of!(Count, about);

#[inline(always)]
fn tag(ctx: &XdpContext, scratch: &Scratch, whole: bool) -> u64 {
    if whole { tag_of_ask(ctx, scratch) } else { tag_of_count(ctx, scratch) }
}

/// A subprogram, for a stack of its own.
#[inline(never)]
fn tag_of_ask(ctx: &XdpContext, scratch: &Scratch) -> u64 {
    tag_of::<ASK_WORDS>(ctx, scratch)
}

/// As [`tag_of_ask`].
#[inline(never)]
fn tag_of_count(ctx: &XdpContext, scratch: &Scratch) -> u64 {
    tag_of::<COUNT_WORDS>(ctx, scratch)
}

/// The tag of the message of so many words at `scratch.message`; 0 where it isn't linear, which no message's tag is but by
/// chance.
#[inline(always)]
fn tag_of<const WORDS: usize>(ctx: &XdpContext, scratch: &Scratch) -> u64 {
    let Some(words) = Packet::new(ctx).at::<[u64; WORDS]>(scratch.message as usize) else { return 0 };
    let mut hash = SipHash::new(scratch.key);
    for n in 0..WORDS {
        if n != TAG_WORD {
            // SAFETY: within the message; the machine takes words at any address.
            hash = hash.word(unsafe { *words.cast::<u64>().add(n) });
        }
    }
    hash.finish(WORDS as u64 - 1)
}

/// Says of each flow whether the endpoint of `scratch.delivery` has it. A subprogram, for a stack of its own.
#[inline(never)]
fn judge(ctx: &XdpContext, scratch: &mut Scratch, count: u32) -> u32 {
    let packet = &Packet::new(ctx);
    // SAFETY: as in `receiver`.
    let delivery = unsafe { DELIVERIES.get(&scratch.delivery) };
    for n in 0..ASK_FLOWS {
        if n >= count as usize {
            break;
        }
        let at = scratch.message as usize + size_of::<Count>() + n * size_of::<AskedFlow>();
        let Ok(flow) = packet.read::<AskedFlow>(at) else { break };
        let mut said = answer::NOT_MINE;
        if let Some(delivery) = delivery {
            scratch.flow = FlowKey {
                endpoint: delivery.endpoint,
                client: flow.client,
                endpoint_port: delivery.port,
                client_port: flow.client_port,
                protocol: scratch.delivery.protocol,
                padding: [0; 3],
            };
            said = reply::holds(ctx, scratch, &flow);
        }
        let _ = packet.write(at + core::mem::offset_of!(AskedFlow, answer), said);
    }
    0
}

/// Says how many flows the endpoint holds, as the agent has counted; [`Count::UNKNOWN`] where it hasn't lately, or may lack
/// all there are.
#[inline(always)]
fn count(packet: &Packet, scratch: &Scratch, at: usize) -> Result<(), DropReason> {
    // SAFETY: as above.
    let held = unsafe { HELD.get(&scratch.delivery) };
    let (connections, mut flows, age) = match held {
        Some(held) => {
            // The agent knows the lower half of the clock.
            let ticks = (reply::now() as u32).wrapping_sub(held.counted as u32);
            let is_valid = ticks < held.valid as u32;
            if is_valid { (held.connections, held.flows, age(ticks, held.rate)) } else { UNKNOWN }
        }
        None => UNKNOWN,
    };
    let is_lost = reply::may_be_lost(reply::now());
    if is_lost && flows == 0 {
        flows = Count::UNKNOWN;
    }
    packet.write(at + core::mem::offset_of!(Count, connections), connections)?;
    packet.write(at + core::mem::offset_of!(Count, flows), flows)?;
    packet.write(at + core::mem::offset_of!(Count, age), age)?;
    let can_say = !is_lost || socket::can_be_seen(&scratch.delivery.outer);
    let state = if can_say { Count::CAN_SAY } else { Count::CANT_SAY };
    packet.write(at + core::mem::offset_of!(Count, state), state)
}

/// What is said where nobody has counted lately.
const UNKNOWN: (u64, u32, u16) = (0, Count::UNKNOWN, 0);

/// Ticks as hundredths of a second.
#[inline(always)]
fn age(ticks: u32, rate: u32) -> u16 {
    if rate == 0 {
        return 0;
    }
    let age = ticks as u64 * 100 / rate as u64;
    if age > u16::MAX as u64 { u16::MAX } else { age as u16 }
}

/// Back to who asked. Over IPv4 UDP needs no checksum; over IPv6 tunnels' agents take messages without, for their tag says
/// more.
#[inline(always)]
fn turn_round(packet: &Packet, scratch: &Scratch) -> Result<(), DropReason> {
    let Parsed { ip, carried, .. } = &scratch.packet;
    let [to, from]: [[u8; 6]; 2] = packet.read(0)?;
    packet.write(0, [from, to])?;
    match ip.family() {
        Family::V4 => {
            let [ttl, next, a, b]: [u8; 4] = packet.read(ip.l3 + 8)?;
            let (old, new) = (u16::from_ne_bytes([ttl, next]), u16::from_ne_bytes([TTL, next]));
            let sum = checksum::replace(u16::from_ne_bytes([a, b]), old as u64, new as u64);
            packet.write(ip.l3 + 8, TTL)?;
            packet.write(ip.l3 + 10, sum)?;
            packet.write(ip.l3 + 12, [ip.destination.to_v4(), ip.source.to_v4()])?;
        }
        Family::V6 => {
            packet.write(ip.l3 + 7, TTL)?;
            packet.write(ip.l3 + 8, [ip.destination.words(), ip.source.words()])?;
        }
    }
    let [a, b, c, d] = carried.ports;
    packet.write(carried.l4, [c, d, a, b])?;
    packet.write(carried.l4 + 6, 0_u16)
}
