//! The gateway: what is for a VIP is steered and forwarded.

use fairlead_abi::{
    Address, Backend, DropReason, Encap, Family, Flow, FlowEvent, GUE_PORT, Hop, NO_BACKEND, Roles,
    ServiceEntry, ServiceKey, kind, mark, overhead,
};

use super::{
    super::checksum,
    Ip, Model, Payload, Verdict,
    bounce::flow_of,
    icmp,
    lookup::{Place, Try},
    parse,
};

/// What became of a packet that was to be encapsulated.
enum Sent {
    /// It goes to its backend.
    Away(Verdict),
    /// It is too big, and its sender is told.
    Refused(Verdict),
}

impl Model {
    /// What becomes of a packet that is no tunnel packet for this node.
    pub(super) fn steer(&mut self, frame: &[u8], ip: &Ip) -> Result<Verdict, DropReason> {
        let payload = parse::payload(frame, ip, frame.len());
        let Some(vip) = self.lookup.vip(ip.destination, ip.family) else {
            let looped = self.is_own(ip.source, ip.family) && is_tunnel(ip, payload.ok());
            return if looped { Err(DropReason::Looped) } else { Ok(Verdict::Pass(frame.to_vec())) };
        };
        let (vip, vip_flags) = (vip.id, vip.flags);
        let payload = match payload.and_then(|payload| self.with_ports(ip, payload)) {
            Err(DropReason::FragmentBeforeFirst) => return Ok(self.hold(frame)),
            payload => payload?,
        };
        if payload.is_icmp() {
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
        }
        let (key, flow) = flow_of(frame, ip, &payload).ok_or(DropReason::IcmpUnrelated)?;
        let Some(service) = self.lookup.service(key.vip, key.port, key.protocol, ip.family) else {
            return match vip_flags & ServiceEntry::PASS_UNSERVED {
                _ if payload.is_icmp() => Err(DropReason::IcmpUnrelated),
                0 => Err(DropReason::PortNotServed),
                _ => Ok(Verdict::Pass(frame.to_vec())),
            };
        };
        let (flags, recent) = (service.flags, service.flags & ServiceEntry::RECENT != 0);
        if !self.lookup.allows(&key, flow.client) {
            if payload.is_first() {
                self.note_choice(ip, &payload, (0, kind::UNMARKED));
            }
            return Err(DropReason::NotAllowed);
        }
        if !can_be_client(ip) {
            return Err(DropReason::BadSource);
        }
        if let Some((place, named)) = self.named(frame, (ip, &payload), (&key, &flow), flags) {
            self.counts.event(FlowEvent::NamedServer);
            return self.forward(frame, ip, &payload, &place, &[named], None);
        }
        let place = self.lookup.place(&key, &flow, self.settings.seed)?;
        let after_first =
            if payload.is_later() { self.tries_after_first(ip, &payload, &place)? } else { None };
        let tries = match after_first {
            Some(tries) => tries,
            None => self.tries(&place, (&key, &flow), &payload, recent),
        };
        if tries.is_empty() && payload.opens() {
            return Err(DropReason::NoBackend);
        }
        self.forward(frame, ip, &payload, &place, &tries, None)
    }

    /// The backends to try for a packet, in order.
    fn tries(
        &mut self,
        place: &Place,
        (key, flow): (&ServiceKey, &Flow),
        payload: &Payload,
        recent: bool,
    ) -> Vec<Try> {
        if payload.opens() {
            if self.lookup.forget(key, flow) {
                self.counts.event(FlowEvent::Forgotten);
            }
            return place.current().into_iter().collect();
        }
        match self.lookup.cached(key, flow) {
            Some(NO_BACKEND) => place.current().into_iter().collect(),
            Some(number) => {
                let guess = place.attempt(kind::GUESS, number);
                guess.into_iter().chain(place.after_current(Some(number))).collect()
            }
            None if place.is_udp && !recent && place.current().is_some() => {
                place.current().into_iter().collect()
            }
            None => place.after_current(None),
        }
    }

    /// Sends the packet to the first backend that can be tried, or on this node to the first that takes it. `tunnel` is the
    /// outer header of a packet that came back.
    pub(super) fn forward(
        &mut self,
        frame: &[u8],
        ip: &Ip,
        payload: &Payload,
        place: &Place,
        tries: &[Try],
        tunnel: Option<&Ip>,
    ) -> Result<Verdict, DropReason> {
        let mut noted = false;
        for next in tries {
            let backend = Backend { encap: next.backend.encap & !Backend::SILENT, ..next.backend };
            let marked = next.kind != kind::UNMARKED;
            if marked && next.backend.encap & Backend::SILENT != 0 {
                self.counts.event(FlowEvent::PassedOver);
                continue;
            }
            if marked && encap(&backend).is_none() {
                continue;
            }
            let choice = (next.index, next.kind);
            if payload.is_first() && !std::mem::replace(&mut noted, true) {
                self.note_choice(ip, payload, choice);
            }
            let verdict = match encap(&backend).ok_or(DropReason::NoBackend)? {
                Encap::Local if !self.is(Roles::RECEIVER) => return Err(DropReason::Inconsistent),
                // The local stack forwards it: TTL is its affair.
                Encap::Local => {
                    let mark = mark(place.hash, next.kind, false);
                    match self.deliver_part(frame, (ip, payload), backend.outer, mark, Some(choice))? {
                        None => continue,
                        Some(delivered) => match tunnel {
                            None => Verdict::Pass(delivered),
                            Some(outer) => {
                                let inner = self.without_outer(delivered, outer, ip.at - outer.at, ip);
                                self.counts.forward(place.service, next.index, ip.end(), payload.opens());
                                return inner.map(Verdict::Pass);
                            }
                        },
                    }
                }
                encap => match self.send(frame, ip, payload, place, (next, &backend, encap), tunnel)? {
                    Sent::Away(verdict) => verdict,
                    Sent::Refused(verdict) => return Ok(verdict),
                },
            };
            self.counts.forward(place.service, next.index, ip.end(), payload.opens());
            return Ok(verdict);
        }
        if place.is_udp {
            return Err(DropReason::NoBackend);
        }
        self.counts.event(FlowEvent::Unclaimed);
        Err(DropReason::Unclaimed)
    }

    fn send(
        &mut self,
        frame: &[u8],
        ip: &Ip,
        payload: &Payload,
        place: &Place,
        (next, backend, encap): (&Try, &Backend, Encap),
        tunnel: Option<&Ip>,
    ) -> Result<Sent, DropReason> {
        if ip.ttl <= 1 && tunnel.is_none() {
            return Err(DropReason::TtlExpired);
        }
        let hop = *self.lookup.hop(backend.hop).ok_or(DropReason::NoNextHop)?;
        let growth = usize::from(overhead(encap, family(backend)));
        if ip.length + growth > usize::from(backend.mtu) {
            if tunnel.is_some() {
                return Err(DropReason::TooBigSilent);
            }
            let mtu = usize::from(backend.mtu).saturating_sub(growth);
            return self.refuse(frame, ip, payload, mtu).map(Sent::Refused);
        }
        if next.kind == kind::GUESS {
            self.counts.event(FlowEvent::Guess);
        }
        let mark = mark(place.hash, next.kind, false);
        let mut inner = frame[ip.at..].to_vec();
        if tunnel.is_none() {
            lower_ttl(&mut inner, ip.family);
        }
        Ok(Sent::Away(Verdict::Send(hop.ifindex, self.wrap(&inner, ip, backend, &hop, (place.hash, mark)))))
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
    fn wrap(&self, inner: &[u8], ip: &Ip, backend: &Backend, hop: &Hop, (hash, mark): (u32, u16)) -> Vec<u8> {
        let [high, low] = mark.to_be_bytes();
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
                outer.extend([high, low, 0x40, 0, 64, next, 0, 0, a, b, c, d]);
                outer.extend(backend.outer.to_v4());
                let sum = checksum::internet(&[&outer]);
                outer[10..12].copy_from_slice(&sum);
                ([0x08, 0x00], outer)
            }
            Family::V6 => {
                let mut outer = vec![0x60 | ip.tos >> 4, ip.tos << 4, high, low];
                outer.extend(length(between.len() + ip.length));
                outer.extend([next, 64]);
                outer.extend(self.source(&self.settings.tunnel_v6, hash).bytes);
                outer.extend(backend.outer.bytes);
                ([0x86, 0xdd], outer)
            }
        };
        let tags: Vec<u8> = hop.tags.into_iter().filter(|tag| *tag != [0; 4]).flatten().collect();
        [&hop.destination_mac[..], &hop.source_mac, &tags, &kind, &outer, &between, inner].concat()
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
    pub(super) fn is_own(&self, address: Address, family: Family) -> bool {
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
