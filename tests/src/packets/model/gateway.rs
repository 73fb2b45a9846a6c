//! The gateway: what is for a VIP is steered and forwarded.

use fairlead_abi::{
    Address, Backend, DropReason, Encap, Family, Flow, GUE_PORT, Hop, Roles, ServiceEntry, ServiceKey,
    overhead,
};

use super::{
    super::checksum,
    Ip, Model, Payload, Verdict, icmp,
    lookup::Steered,
    parse::{self},
};

impl Model {
    /// What becomes of a packet that is no tunnel packet for this node.
    pub(super) fn steer(&mut self, frame: &[u8], ip: &Ip) -> Result<Verdict, DropReason> {
        let payload = parse::payload(frame, ip, frame.len());
        let Some(vip) = self.lookup.vip(ip.destination, ip.family) else {
            let looped = self.is_own(ip.source, ip.family) && is_tunnel(ip, payload.ok());
            return if looped { Err(DropReason::Looped) } else { Ok(Verdict::Pass(frame.to_vec())) };
        };
        let (vip, vip_flags) = (vip.id, vip.flags);
        let payload = payload?;
        let (key, flow) = if payload.is_icmp() {
            if !can_be_client(ip) {
                return Err(DropReason::BadSource);
            }
            match icmp::kind_of(frame, ip, &payload) {
                icmp::Kind::Echo => {
                    self.counts.answer(vip, ip.end());
                    return Ok(Verdict::Send(self.ingress_ifindex, icmp::echo_reply(frame, ip, &payload)));
                }
                icmp::Kind::Error => {}
                icmp::Kind::Other => return Err(DropReason::UnsupportedProtocol),
            }
            let quoted = icmp::quoted(frame, ip, &payload)
                .and_then(|quoted| quoted.of(ip.destination))
                .ok_or(DropReason::IcmpUnrelated)?;
            let key = ServiceKey::new(ip.destination, quoted.port(), quoted.protocol, ip.family);
            (key, quoted.flow())
        } else {
            let key =
                ServiceKey::new(ip.destination, payload.destination_port(), payload.protocol, ip.family);
            (key, Flow { client: ip.source, ports: payload.ports })
        };
        if self.lookup.service(key.vip, key.port, key.protocol, ip.family).is_none() {
            return match vip_flags & ServiceEntry::PASS_UNSERVED {
                _ if payload.is_icmp() => Err(DropReason::IcmpUnrelated),
                0 => Err(DropReason::PortNotServed),
                _ => Ok(Verdict::Pass(frame.to_vec())),
            };
        }
        if !can_be_client(ip) {
            return Err(DropReason::BadSource);
        }
        let steered = self.lookup.steer(&key, &flow, self.settings.seed)?;
        self.forward(frame, ip, &payload, &steered)
    }

    fn forward(
        &mut self,
        frame: &[u8],
        ip: &Ip,
        payload: &Payload,
        steered: &Steered,
    ) -> Result<Verdict, DropReason> {
        let Steered { service, index, backend, hash } = steered;
        let verdict = match encap(backend).ok_or(DropReason::NoBackend)? {
            Encap::Local if !self.is(Roles::RECEIVER) => return Err(DropReason::Inconsistent),
            // The local stack forwards it: TTL is its affair.
            Encap::Local => Verdict::Pass(self.deliver(frame, ip, payload, backend.outer)?),
            encap => {
                if ip.ttl <= 1 {
                    return Err(DropReason::TtlExpired);
                }
                let hop = *self.lookup.hop(backend.hop).ok_or(DropReason::NoNextHop)?;
                let growth = usize::from(overhead(encap, family(backend)));
                if ip.length + growth > usize::from(backend.mtu) {
                    let mtu = usize::from(backend.mtu).saturating_sub(growth);
                    return self.refuse(frame, ip, payload, mtu);
                }
                Verdict::Send(hop.ifindex, self.wrap(frame, ip, backend, &hop, *hash))
            }
        };
        self.counts.forward(*service, *index, ip.end(), payload.opens());
        Ok(verdict)
    }

    /// The packet is too big: its sender is told how big it may be, if that is allowed (RFC 1122 3.2.2: never of an
    /// ICMP error) and of any use.
    fn refuse(
        &mut self,
        frame: &[u8],
        ip: &Ip,
        payload: &Payload,
        mtu: usize,
    ) -> Result<Verdict, DropReason> {
        if !ip.dont_fragment || payload.is_icmp() {
            return Err(DropReason::TooBigSilent);
        }
        let message = icmp::too_big(frame, ip, mtu).ok_or(DropReason::TooBigSilent)?;
        self.counts.drop_one(DropReason::TooBig, frame.len());
        Ok(Verdict::Send(self.ingress_ifindex, message))
    }

    /// Outer headers, with everything that varies by flow.
    fn wrap(&self, frame: &[u8], ip: &Ip, backend: &Backend, hop: &Hop, hash: u32) -> Vec<u8> {
        let gue = backend.encap == Encap::Gue as u8;
        let next = match ip.family {
            _ if gue => 17,
            Family::V4 => 4,
            Family::V6 => 41,
        };
        let mut between = Vec::new();
        if gue {
            let port = length(0xc000 | hash as usize & 0x3fff);
            between.extend([port, GUE_PORT.to_be_bytes()].concat());
            between.extend([length(ip.length + 8), [0; 2]].concat());
        }
        let (kind, outer) = match family(backend) {
            Family::V4 => {
                let [.., a, b, c, d] = self.source(&self.settings.tunnel_v4, hash).bytes;
                let mut outer = vec![0x45, ip.tos];
                outer.extend(length(20 + between.len() + ip.length));
                outer.extend([0, 0, 0x40, 0, 64, next, 0, 0, a, b, c, d]);
                outer.extend(backend.outer.to_v4());
                let sum = checksum::internet(&[&outer]);
                outer[10..12].copy_from_slice(&sum);
                ([0x08, 0x00], outer)
            }
            Family::V6 => {
                let mut outer = vec![0x60 | ip.tos >> 4, ip.tos << 4, 0, 0];
                outer.extend(length(between.len() + ip.length));
                outer.extend([next, 64]);
                outer.extend(self.source(&self.settings.tunnel_v6, hash).bytes);
                outer.extend(backend.outer.bytes);
                ([0x86, 0xdd], outer)
            }
        };
        let tags: Vec<u8> = hop.tags.into_iter().filter(|tag| *tag != [0; 4]).flatten().collect();
        let mut inner = frame[ip.at..].to_vec();
        lower_ttl(&mut inner, ip.family);
        [&hop.destination_mac[..], &hop.source_mac, &tags, &kind, &outer, &between, &inner].concat()
    }

    /// An address of the prefix: the hash fills the bits that vary.
    fn source(&self, tunnel: &fairlead_abi::TunnelSource, hash: u32) -> Address {
        let mut address = tunnel.address;
        for (byte, (vary, hash)) in
            address.bytes[12..].iter_mut().zip(tunnel.vary.iter().zip(hash.to_ne_bytes()))
        {
            *byte |= vary & hash;
        }
        address
    }

    /// Whether the address is one of this gateway's tunnel prefix.
    fn is_own(&self, address: Address, family: Family) -> bool {
        let tunnel = match family {
            Family::V4 => &self.settings.tunnel_v4,
            Family::V6 => &self.settings.tunnel_v6,
        };
        let mut fixed = address;
        for (byte, vary) in fixed.bytes[12..].iter_mut().zip(tunnel.vary) {
            *byte &= !vary;
        }
        tunnel.address != Address::default() && fixed == tunnel.address
    }
}

/// Whether it is IP in IP or GUE.
fn is_tunnel(ip: &Ip, payload: Option<Payload>) -> bool {
    match payload {
        Some(payload) => payload.protocol == 17 && payload.destination_port() == GUE_PORT,
        None => matches!(ip.next, 4 | 41),
    }
}

/// Whether the source is a host's unicast address, and not the VIP itself.
fn can_be_client(ip: &Ip) -> bool {
    let special = match ip.family {
        Family::V4 => matches!(ip.source.to_v4(), [0 | 127 | 224..=255, ..]),
        Family::V6 => {
            let source = std::net::Ipv6Addr::from(ip.source.bytes);
            source.is_unspecified() || source.is_loopback() || source.is_multicast()
        }
    };
    !special && ip.source != ip.destination
}

fn encap(backend: &Backend) -> Option<Encap> {
    [Encap::Ipip, Encap::Gue, Encap::Local].into_iter().find(|encap| *encap as u8 == backend.encap)
}

fn family(backend: &Backend) -> Family {
    if backend.family == Family::V6 as u8 { Family::V6 } else { Family::V4 }
}

/// One hop less, as a router does it (RFC 1141; 0xffff is written as 0).
fn lower_ttl(packet: &mut [u8], family: Family) {
    match family {
        Family::V6 => packet[7] -= 1,
        Family::V4 => {
            packet[8] -= 1;
            let sum = u32::from(u16::from_be_bytes([packet[10], packet[11]])) + 0x0100;
            let sum = if sum >= 0xffff { sum - 0xffff } else { sum };
            packet[10..12].copy_from_slice(&length(sum as usize));
        }
    }
}

fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).expect("no more than an MTU").to_be_bytes()
}
