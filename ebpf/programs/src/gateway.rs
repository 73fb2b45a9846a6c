//! The gateway: a packet for a VIP goes to a backend; everything else is not ours.

use aya_ebpf::{bindings::xdp_action, programs::XdpContext};
use fairlead_abi::{DropReason, Encap, Family, GUE_PORT, Roles, ServiceEntry, ServiceKey};

use crate::{
    checksum, count, encap,
    headers::{protocol, tcp},
    icmp,
    ingress::{self, Verdict},
    maps::HOPS,
    packet::Packet,
    parse::{self, Ip, Transport},
    receiver, setting,
    steer::{self, Steered},
};

/// Steers and forwards a packet.
#[inline(always)]
pub fn forward(ctx: &XdpContext, packet: &Packet, ip: &Ip) -> Result<Verdict, DropReason> {
    let carried = match parse::transport(packet, ip, ingress::available(ctx, packet, ip)) {
        Ok(carried) => carried,
        Err(reason) => return unsteerable(ip, reason),
    };
    if carried.protocol == protocol::ICMP || carried.protocol == protocol::ICMPV6 {
        return Ok(match steer::find_vip(ip.destination, ip.family) {
            Some(vip) => Verdict::Decided(icmp::for_vip(ctx, vip.id)),
            None => Verdict::Pass,
        });
    }
    let key = ServiceKey::new(ip.destination, carried.destination_port(), carried.protocol, ip.family);
    let Some(service) = steer::find(&key) else {
        return unserved(ip, &carried);
    };
    if !is_host(ip) {
        return Err(DropReason::BadSource);
    }
    let steered = steer::steer(service, &carried.flow(ip.source))?;
    let opens = carried.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN;
    send(ctx, packet, ip, service.id, &steered, opens)
}

/// Sends a packet of a service to the backend that was chosen for it.
#[inline(always)]
pub fn send(
    ctx: &XdpContext,
    packet: &Packet,
    ip: &Ip,
    service: u32,
    steered: &Steered,
    opens: bool,
) -> Result<Verdict, DropReason> {
    let backend = &steered.backend;
    let bytes = ip.l3 + ip.length;
    if backend.encap == Encap::Local as u8 {
        if setting!(roles) & Roles::RECEIVER == 0 {
            return Err(DropReason::Inconsistent);
        }
        let action = receiver::deliver(ctx, &backend.outer, ip.l3 as u32, ip.length as u32);
        if action == xdp_action::XDP_PASS {
            count::forwarded(service, steered.index, bytes, opens);
        }
        return Ok(Verdict::Decided(action));
    }
    let Some(growth) = encap::growth(backend) else {
        return Err(DropReason::NoBackend);
    };
    if ip.ttl <= 1 {
        return Err(DropReason::TtlExpired);
    }
    let hop = match HOPS.get(backend.hop) {
        Some(hop) if hop.ifindex != 0 => hop,
        _ => return Err(DropReason::NoNextHop),
    };
    if ip.length + growth > backend.mtu as usize {
        return Ok(Verdict::Decided(icmp::too_big(ctx, (backend.mtu as u32).saturating_sub(growth as u32))));
    }
    lower_ttl(packet, ip)?;
    encap::wrap(ctx, packet, ip, backend, hop, steered.hash)?;
    count::forwarded(service, steered.index, bytes, opens);
    // SAFETY: a field of the context.
    if hop.ifindex == unsafe { (*ctx.ctx).ingress_ifindex } {
        Ok(Verdict::Transmit)
    } else {
        Ok(Verdict::Redirect(hop.ifindex))
    }
}

#[inline(always)]
fn lower_ttl(packet: &Packet, ip: &Ip) -> Result<(), DropReason> {
    match ip.family {
        Family::V4 => {
            let sum: u16 = packet.read(ip.l3 + 10)?;
            packet.write(ip.l3 + 8, ip.ttl - 1)?;
            packet.write(ip.l3 + 10, checksum::lowered_ttl(sum))
        }
        Family::V6 => packet.write(ip.l3 + 7, ip.ttl - 1),
    }
}

/// A packet that has no flow: dropped where it is for a VIP.
#[inline(always)]
fn unsteerable(ip: &Ip, reason: DropReason) -> Result<Verdict, DropReason> {
    if steer::find_vip(ip.destination, ip.family).is_some() {
        return Err(reason);
    }
    let tunnel = ip.next == protocol::IPV4 || ip.next == protocol::IPV6;
    if tunnel && is_own_tunnel(ip) {
        return Err(DropReason::Looped);
    }
    Ok(Verdict::Pass)
}

/// A packet for an address and port that no service has.
#[inline(always)]
fn unserved(ip: &Ip, carried: &Transport) -> Result<Verdict, DropReason> {
    if let Some(vip) = steer::find_vip(ip.destination, ip.family) {
        if vip.flags & ServiceEntry::PASS_UNSERVED != 0 {
            return Ok(Verdict::Pass);
        }
        return Err(DropReason::PortNotServed);
    }
    if carried.protocol == protocol::UDP && carried.destination_port() == GUE_PORT && is_own_tunnel(ip) {
        return Err(DropReason::Looped);
    }
    Ok(Verdict::Pass)
}

/// Whether the source is one that this gateway gives its own tunnel packets.
#[inline(always)]
fn is_own_tunnel(ip: &Ip) -> bool {
    let tunnel = match ip.family {
        Family::V4 => setting!(tunnel_v4),
        Family::V6 => setting!(tunnel_v6),
    };
    let [hi, lo] = tunnel.address.words();
    let [source_hi, source_lo] = ip.source.words();
    let vary = (u32::from_ne_bytes(tunnel.vary) as u64) << 32;
    (hi | lo) != 0 && hi == source_hi && lo == source_lo & !vary
}

/// Whether the source can be a client: no multicast, broadcast, loopback or unspecified address, not the VIP.
#[inline(always)]
fn is_host(ip: &Ip) -> bool {
    if ip.source.words() == ip.destination.words() {
        return false;
    }
    match ip.family {
        Family::V4 => !matches!(ip.source.to_v4()[0], 0 | 127 | 224..),
        Family::V6 => {
            let [hi, lo] = ip.source.words();
            ip.source.bytes[0] != 0xff && (hi != 0 || lo > LOOPBACK)
        }
    }
}

/// `::1` as the lower word of an address; `::` is below it, and what else has only these bytes is no unicast host.
const LOOPBACK: u64 = u64::from_ne_bytes([0, 0, 0, 0, 0, 0, 0, 1]);
