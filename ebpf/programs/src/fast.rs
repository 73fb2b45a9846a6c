//! The rule: a whole TCP or UDP packet without tags, options or extension headers, and a backend elsewhere.
//!
//! Here is only what such a packet needs. Whatever is otherwise, [`Step::Slow`] leaves it untouched to the slow
//! path, which starts anew; so nothing is decided in two places.

use aya_ebpf::programs::XdpContext;
use fairlead_abi::{
    CONTROL_PORT, DropReason, FlowEvent, GUE_PORT, Roles, ServiceCounters, ServiceKey, kind, program,
};

use crate::{
    allowed,
    count::{self, Ahead},
    encap::{self, Tags, Way},
    gateway,
    headers::{ethertype, protocol},
    maps::PROGRAMS,
    packet::Packet,
    parse::{self, Ip, Parsed, Transport},
    part::Part,
    quic, setting,
    steer::{self, Steered},
    verdict::Verdict,
};

/// Where the IP header stands without VLAN tags.
pub const L3: usize = 14;

/// What the fast path makes of a packet.
#[derive(Clone, Copy)]
pub enum Step {
    /// It is done.
    Done(Verdict),
    /// It is not the rule.
    Slow,
}

/// Steers and forwards the packet, or passes it, or leaves it to the slow path.
#[inline(always)]
pub fn fast(ctx: &XdpContext) -> Result<Step, DropReason> {
    let packet = &Packet::new(ctx);
    let Ok(kind) = packet.read::<[u8; 2]>(12) else { return Ok(Step::Slow) };
    match kind {
        ethertype::IPV4 => match parse::ipv4(packet, L3) {
            Some(ip) if ip.header_length == 20 && !ip.fragment => forward(ctx, packet, &ip, L3 + 20),
            _ => Ok(Step::Slow),
        },
        ethertype::IPV6 => match parse::ipv6(packet, L3) {
            Some(ip) => forward(ctx, packet, &ip, L3 + 40),
            None => Ok(Step::Slow),
        },
        ethertype::VLAN | ethertype::PROVIDER_VLAN => Ok(Step::Slow),
        _ => Ok(Step::Done(Verdict::Pass)),
    }
}

#[inline(always)]
fn forward(ctx: &XdpContext, packet: &Packet, ip: &Ip, l4: usize) -> Result<Step, DropReason> {
    let Some(carried) = transport(packet, ip, l4) else {
        return Ok(match ip.next {
            protocol::IPV4 | protocol::IPV6 => tunnel(ctx),
            _ => Step::Slow,
        });
    };
    if setting!(roles) & Roles::GATEWAY == 0 {
        return Ok(not_served(ctx, &carried));
    }
    let key = ServiceKey::new(ip.destination, carried.destination_port(), carried.protocol, ip.family());
    let Some(service) = steer::find(&key) else {
        return Ok(match steer::find_vip(ip.destination, ip.family()) {
            Some(_) => Step::Slow,
            None => not_served(ctx, &carried),
        });
    };
    if !allowed::is_allowed(service, ip.source) {
        return Err(DropReason::NotAllowed);
    }
    let of_service = count::service(service.id);
    // Apart from here on: what both had in common would be kept on the stack, and cost every packet.
    if let Some(steered) = quic::steer(packet, ip, service, &carried) {
        return send::<true>(ctx, packet, ip, carried, of_service, &steered);
    }
    let Ok(steered) = steer::steer(service, &carried, &carried.flow(ip.source)) else {
        return Ok(Step::Slow);
    };
    send::<false>(ctx, packet, ip, carried, of_service, &steered)
}

/// To the backend that was chosen; `NAMED`: by the packet's connection ID.
#[inline(always)]
fn send<const NAMED: bool>(
    ctx: &XdpContext,
    packet: &Packet,
    ip: &Ip,
    carried: Transport,
    of_service: Ahead<ServiceCounters>,
    steered: &Steered,
) -> Result<Step, DropReason> {
    let of_backend = count::backend(steered.index);
    let Some(growth) = encap::growth(&steered.backend) else { return Ok(Step::Slow) };
    let Some(hop) = gateway::hop(&steered.backend) else { return Ok(Step::Slow) };
    let tagged = hop.tags[0] != [0; 4];
    if tagged || ip.ttl <= 1 || ip.length + growth > steered.backend.mtu as usize || !gateway::is_host(ip) {
        return Ok(Step::Slow);
    }
    gateway::lower_ttl(packet, ip)?;
    if NAMED {
        count::event(FlowEvent::NamedServer);
    } else if steered.kind == kind::GUESS {
        count::event(FlowEvent::Guess);
    }
    let Steered { backend, hash, .. } = steered;
    let way = Way { backend, hop, tags: Tags::NONE, hash: *hash, mark: steered.mark() };
    encap::wrap(ctx, ip, &way)?;
    count::forwarded_ahead(&Parsed { ip: *ip, carried, part: Part::WHOLE }, of_service, of_backend);
    Ok(Step::Done(gateway::out_of(ctx, hop)))
}

/// Ports and flags of a whole TCP or UDP packet.
#[inline(always)]
#[must_use]
pub fn transport(packet: &Packet, ip: &Ip, l4: usize) -> Option<Transport> {
    if ip.l3 + ip.length > packet.len() {
        return None;
    }
    let protocol = ip.next;
    let least = match protocol {
        protocol::TCP => 20,
        protocol::UDP => 8,
        _ => return None,
    };
    if ip.l3 + ip.length < l4 + least {
        return None;
    }
    let ports = packet.read(l4).ok()?;
    let tcp_flags = if protocol == protocol::TCP {
        let [_, flags]: [u8; 2] = packet.read(l4 + 12).ok()?;
        flags
    } else {
        0
    };
    Some(Transport { l4, ports, protocol, tcp_flags })
}

/// What may be a receiver's goes on in a program of its own, [`tunnel`](crate::tunnel), which begins as anew: here it would
/// cost the gateway's packets registers and room on the stack.
#[inline(always)]
fn tunnel(ctx: &XdpContext) -> Step {
    if setting!(roles) & Roles::RECEIVER != 0 {
        // SAFETY: nothing of this program's is left to be dropped.
        unsafe { PROGRAMS.tail_call(ctx, program::TUNNEL_INDEX) };
    }
    Step::Slow
}

/// A packet for no VIP: only a tunnel's may be for us, or have come back to us, or a gateway's question.
#[inline(always)]
fn not_served(ctx: &XdpContext, carried: &Transport) -> Step {
    match carried.destination_port() {
        GUE_PORT if carried.protocol == protocol::UDP => tunnel(ctx),
        CONTROL_PORT if carried.protocol == protocol::UDP => Step::Slow,
        _ => Step::Done(Verdict::Pass),
    }
}
