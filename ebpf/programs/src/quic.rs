//! QUIC: packets whose connection ID names the server that made it go there, whatever flow they come in.
//!
//! Such are those with a short header and Handshake packets: their connection ID is the server's choice. All others go by their
//! flow, and so does what names nobody: Initial and 0-RTT packets, packets of unknown versions, short ones.

use aya_ebpf::programs::XdpContext;
use fairlead_abi::{
    CONNECTION_ID_MAX, CONNECTION_ID_MIN, FlowEvent, QUIC_CONFIG, QUIC_HANDSHAKES, ServiceEntry, ServiceKey,
};

use crate::{
    allowed, count, gateway,
    headers::protocol,
    maps::Scratch,
    packet::Packet,
    parse::{Ip, Parsed, Transport},
    steer::{self, Steered},
};

/// The bit of a packet's first byte that says that its header is a long one (RFC 8999).
const LONG: u8 = 0x80;
/// Bytes of a long header before the connection ID: first byte, version, length.
const BEFORE_ID: usize = 6;
/// Bytes of a UDP header.
const UDP: usize = 8;

/// The backend that the connection ID of a TCP or UDP packet names; none where the packet goes by its flow.
#[inline(always)]
#[must_use]
pub fn steer(packet: &Packet, ip: &Ip, service: &ServiceEntry, carried: &Transport) -> Option<Steered> {
    if service.flags & ServiceEntry::QUIC == 0 {
        return None;
    }
    let id = server_id(packet, carried.l4 + UDP, ip.l3 + ip.length)?;
    steer::to_server(service, id, &carried.flow(ip.source))
}

/// Chooses the backend of `scratch.packet` by its connection ID: 1, with `scratch.steered` and `scratch.service` set, or 0
/// where it goes by its flow, if anywhere. A subprogram: see [`slow`](crate::slow).
#[inline(never)]
pub fn choose(ctx: &XdpContext, scratch: &mut Scratch) -> u32 {
    let Parsed { ip, carried, part } = &scratch.packet;
    if carried.protocol != protocol::UDP || part.is_later() || !gateway::is_host(ip) {
        return 0;
    }
    let key = ServiceKey::new(ip.destination, carried.destination_port(), carried.protocol, ip.family());
    let Some(service) = steer::find(&key) else { return 0 };
    if !allowed::is_allowed(service, ip.source) {
        return 0;
    }
    let Some(steered) = steer(&Packet::new(ctx), ip, service, carried) else { return 0 };
    scratch.service = service.id;
    scratch.steered = steered;
    count::event(FlowEvent::NamedServer);
    1
}

/// The server ID that the connection ID of a packet has, which stands from `start` to `end`; as it stands in memory. `None`
/// where the server has not chosen it, or not by the configuration that is known here.
#[inline(always)]
fn server_id(packet: &Packet, start: usize, end: usize) -> Option<u64> {
    if start + 1 + CONNECTION_ID_MIN > end {
        return None;
    }
    let [form, mut first]: [u8; 2] = packet.read(start).ok()?;
    let mut at = start + 2;
    if form & LONG != 0 {
        if !is_handshake(packet, start, form) {
            return None;
        }
        let [length, begins]: [u8; 2] = packet.read(start + BEFORE_ID - 1).ok()?;
        let length = length as usize;
        let is_ours = (CONNECTION_ID_MIN..=CONNECTION_ID_MAX).contains(&length);
        if !is_ours || start + BEFORE_ID + length > end {
            return None;
        }
        first = begins;
        at = start + BEFORE_ID + 1;
    }
    if first >> 5 != QUIC_CONFIG {
        return None;
    }
    packet.read(at).ok()
}

/// Whether a packet with a long header is a Handshake packet of a version that is known.
#[inline(always)]
fn is_handshake(packet: &Packet, start: usize, form: u8) -> bool {
    let Ok(version) = packet.read::<[u8; 4]>(start + 1) else { return false };
    let kind = form >> 4 & 3;
    let [(first, of_first), (second, of_second)] = QUIC_HANDSHAKES;
    (version == first && kind == of_first) || (version == second && kind == of_second)
}
