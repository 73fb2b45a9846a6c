//! Encapsulation: IPIP and GUE in either family, between the Ethernet header and the packet.

use aya_ebpf::{helpers::bpf_xdp_adjust_head, programs::XdpContext};
use fairlead_abi::{Backend, DropReason, Encap, Family, GUE_PORT, Hop, TunnelSource, overhead};

use crate::{
    checksum,
    headers::{Ipv4, Ipv6, Udp, ethertype, protocol},
    packet::Packet,
    parse::Ip,
    setting,
};

/// Hop limit of outer headers.
const OUTER_TTL: u8 = 64;
/// First of GUE's source ports; the rest of the bits vary by flow (RFC 6335: dynamic ports).
const GUE_SOURCE: u16 = 0xc000;

/// Bytes that a packet to `backend` grows by; `None`: the entry is free or unknown.
#[inline(always)]
#[must_use]
pub fn growth(backend: &Backend) -> Option<usize> {
    let family = outer_family(backend.family);
    if backend.encap == Encap::Ipip as u8 {
        Some(overhead(Encap::Ipip, family) as usize)
    } else if backend.encap == Encap::Gue as u8 {
        Some(overhead(Encap::Gue, family) as usize)
    } else {
        None
    }
}

#[inline(always)]
const fn outer_family(number: u8) -> Family {
    if number == Family::V6 as u8 { Family::V6 } else { Family::V4 }
}

/// Where a packet goes, and what its outer headers tell of that.
#[derive(Clone, Copy)]
pub struct Way<'a> {
    /// The backend.
    pub backend: &'a Backend,
    /// The next hop towards it.
    pub hop: &'a Hop,
    /// Tags in place of those that the packet came with.
    pub tags: Tags,
    /// The flow's hash.
    pub hash: u32,
    /// See [`fairlead_abi::mark`].
    pub mark: u16,
}

/// Wraps the packet for its way.
#[inline(always)]
pub fn wrap(ctx: &XdpContext, ip: &Ip, way: &Way<'_>) -> Result<(), DropReason> {
    match outer_family(way.backend.family) {
        Family::V4 if way.backend.encap == Encap::Gue as u8 => wrap_in::<28>(ctx, ip, way),
        Family::V4 => wrap_in::<20>(ctx, ip, way),
        Family::V6 if way.backend.encap == Encap::Gue as u8 => wrap_in::<48>(ctx, ip, way),
        Family::V6 => wrap_in::<40>(ctx, ip, way),
    }
}

/// One of the four kinds, which the number of bytes that it adds tells apart.
#[inline(always)]
pub fn wrap_in<const GROWTH: usize>(ctx: &XdpContext, ip: &Ip, way: &Way<'_>) -> Result<(), DropReason> {
    let l3 = 14 + way.tags.length;
    // SAFETY: the helper checks its argument; all pointers into the packet are taken anew below.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, ip.l3 as i32 - (GROWTH + l3) as i32) } != 0 {
        return Err(DropReason::NoHeadroom);
    }
    let packet = Packet::new(ctx);
    packet.write(0, way.hop.destination_mac)?;
    packet.write(6, way.hop.source_mac)?;
    way.tags.write(&packet)?;
    let inner = match ip.family() {
        Family::V4 => protocol::IPV4,
        Family::V6 => protocol::IPV6,
    };
    match GROWTH {
        20 => outer_v4(&packet, l3, ip, way, inner, GROWTH),
        28 => {
            outer_v4(&packet, l3, ip, way, protocol::UDP, GROWTH)?;
            gue(&packet, ip, l3 + 20, way.hash)
        }
        40 => outer_v6(&packet, l3, ip, way, inner, 0),
        _ => {
            outer_v6(&packet, l3, ip, way, protocol::UDP, 8)?;
            gue(&packet, ip, l3 + 40, way.hash)
        }
    }
}

#[inline(always)]
fn outer_v4(
    packet: &Packet,
    l3: usize,
    ip: &Ip,
    way: &Way<'_>,
    next: u8,
    growth: usize,
) -> Result<(), DropReason> {
    let source = vary_v4(&setting!(tunnel_v4), way.hash);
    let destination = way.backend.outer.to_v4();
    let id = way.mark.to_be_bytes();
    let total_length = ((ip.length + growth) as u16).to_be_bytes();
    let sum = u16::from_ne_bytes([0x45, ip.tos]) as u64
        + u16::from_ne_bytes(total_length) as u64
        + u16::from_ne_bytes(id) as u64
        + u16::from_ne_bytes([0x40, 0]) as u64
        + u16::from_ne_bytes([OUTER_TTL, next]) as u64
        + u32::from_ne_bytes(source) as u64
        + u32::from_ne_bytes(destination) as u64;
    packet.write(l3 - 2, ethertype::IPV4)?;
    packet.write(
        l3,
        Ipv4 {
            version_ihl: 0x45,
            tos: ip.tos,
            total_length,
            id,
            fragment: [0x40, 0],
            ttl: OUTER_TTL,
            protocol: next,
            checksum: !checksum::fold(sum),
            source,
            destination,
        },
    )
}

#[inline(always)]
fn outer_v6(
    packet: &Packet,
    l3: usize,
    ip: &Ip,
    way: &Way<'_>,
    next: u8,
    between: usize,
) -> Result<(), DropReason> {
    let tunnel = setting!(tunnel_v6);
    let [hi, lo] = tunnel.address.words();
    let vary = u32::from_ne_bytes(tunnel.vary) & way.hash;
    let [high, low] = way.mark.to_be_bytes();
    packet.write(l3 - 2, ethertype::IPV6)?;
    packet.write(
        l3,
        Ipv6 {
            version_class_label: [0x60 | ip.tos >> 4, ip.tos << 4, high, low],
            payload_length: ((ip.length + between) as u16).to_be_bytes(),
            next_header: next,
            hop_limit: OUTER_TTL,
            source: [0; 16],
            destination: [0; 16],
        },
    )?;
    packet.write(l3 + 8, [hi, lo | (vary as u64) << 32])?;
    packet.write(l3 + 24, way.backend.outer.words())
}

/// UDP without a checksum: RFC 768 over IPv4, RFC 6935 for tunnels over IPv6.
#[inline(always)]
fn gue(packet: &Packet, ip: &Ip, at: usize, hash: u32) -> Result<(), DropReason> {
    packet.write(
        at,
        Udp {
            source: (GUE_SOURCE | (hash as u16 & !GUE_SOURCE)).to_be_bytes(),
            destination: GUE_PORT.to_be_bytes(),
            length: ((ip.length + 8) as u16).to_be_bytes(),
            checksum: 0,
        },
    )
}

/// An address of the gateway's tunnel prefix.
#[inline(always)]
fn vary_v4(tunnel: &TunnelSource, hash: u32) -> [u8; 4] {
    let base = u32::from_ne_bytes(tunnel.address.to_v4());
    (base | (u32::from_ne_bytes(tunnel.vary) & hash)).to_ne_bytes()
}

/// The VLAN tags of a packet: they stand between the MAC addresses and the EtherType.
#[derive(Clone, Copy)]
pub struct Tags {
    length: usize,
    first: [u8; 4],
    second: [u8; 4],
}

impl Tags {
    /// No tags.
    pub const NONE: Self = Self { length: 0, first: [0; 4], second: [0; 4] };

    /// Those of a next hop.
    #[inline(always)]
    #[must_use]
    pub fn of(hop: &Hop) -> Self {
        let [first, second] = hop.tags;
        let length = match (first, second) {
            ([0, 0, ..], _) => 0,
            (_, [0, 0, ..]) => 4,
            _ => 8,
        };
        Self { length, first, second }
    }

    /// The tags of a packet whose IP header is at `l3`.
    #[inline(always)]
    pub fn read(packet: &Packet, l3: usize) -> Result<Self, DropReason> {
        let mut tags = Self { length: l3 - 14, first: [0; 4], second: [0; 4] };
        if tags.length != 0 {
            tags.first = packet.read(12)?;
        }
        if tags.length > 4 {
            tags.second = packet.read(16)?;
        }
        Ok(tags)
    }

    /// Writes them behind the MAC addresses; the EtherType behind them is the caller's.
    #[inline(always)]
    pub fn write(&self, packet: &Packet) -> Result<(), DropReason> {
        if self.length != 0 {
            packet.write(12, self.first)?;
        }
        if self.length > 4 {
            packet.write(16, self.second)?;
        }
        Ok(())
    }
}
