//! The receiver: tunnel packets for this node's endpoints.

use fairlead_abi::{
    Address, Delivery, DeliveryKey, DropReason, ENDPOINT_OWNS_VIP, Family, FlowKey, GUE_PORT,
};

use super::{super::checksum, Ip, Model, Payload, Verdict, icmp, parse};

impl Model {
    /// What becomes of a tunnel packet; `None`: it is none, or for somebody else.
    pub(super) fn receive(&mut self, frame: &[u8], ip: &Ip) -> Option<Verdict> {
        let outer = outer_length(frame, ip)?;
        match self.unwrap(frame, ip, outer) {
            Ok(unwrapped) => Some(Verdict::Pass(unwrapped)),
            Err(reason) => {
                let ours = self.lookup.delivery(&DeliveryKey::endpoint_only(ip.destination)).is_some();
                ours.then_some(Verdict::Drop(reason))
            }
        }
    }

    fn unwrap(&mut self, frame: &[u8], ip: &Ip, outer: usize) -> Result<Vec<u8>, DropReason> {
        if !self.lookup.is_gateway(ip.source) {
            return Err(DropReason::StrangerTunnel);
        }
        if ip.fragment {
            return Err(DropReason::Fragment);
        }
        if ip.end() > frame.len() || ip.length < outer {
            return Err(DropReason::BadTunnel);
        }
        let version = frame.get(ip.at + outer).ok_or(DropReason::BadTunnel)? >> 4;
        let kind = match (ip.next, version) {
            (4 | 17, 4) => [0x08, 0x00],
            (41 | 17, 6) => [0x86, 0xdd],
            _ => return Err(DropReason::BadTunnel),
        };
        let inner = parse::packet(frame, ip.at + outer).ok_or(DropReason::BadTunnel)?;
        let payload = parse::payload(frame, &inner, ip.end())?;
        let mut rewritten = self.deliver(frame, &inner, &payload, ip.destination)?;
        carry_congestion(&mut rewritten, ip, &inner)?;
        Ok([&frame[..ip.at - 2], &kind, &rewritten[inner.at..]].concat())
    }

    /// The frame with the packet `ip` rewritten for the endpoint that `outer` stands for.
    pub(super) fn deliver(
        &mut self,
        frame: &[u8],
        ip: &Ip,
        payload: &Payload,
        outer: Address,
    ) -> Result<Vec<u8>, DropReason> {
        if payload.is_icmp() {
            return self.deliver_error(frame, ip, payload, outer);
        }
        let port = [payload.ports[2], payload.ports[3]];
        let delivery = self.delivery(outer, ip, port, payload.protocol)?;
        let key = FlowKey {
            endpoint: delivery.endpoint,
            client: ip.source,
            endpoint_port: delivery.port,
            client_port: [payload.ports[0], payload.ports[1]],
            protocol: payload.protocol,
            padding: [0; 3],
        };
        let acknowledged = if payload.protocol == 6 { word(frame, payload.at + 8) } else { 0 };
        self.flows.client_sent(&key, ip.destination, port, delivery.mss, payload.tcp_flags, acknowledged)?;
        let mut rewritten = frame.to_vec();
        if delivery.flags & ENDPOINT_OWNS_VIP != 0 {
            return Ok(rewritten);
        }
        set_destination(&mut rewritten, ip, delivery.endpoint);
        rewritten[payload.at + 2..payload.at + 4].copy_from_slice(&delivery.port);
        let old = [&octets(ip.destination, ip.family)[..], &port].concat();
        let new = [&octets(delivery.endpoint, ip.family)[..], &delivery.port].concat();
        if payload.protocol == 6 {
            mend(&mut rewritten, payload.at + 16, &old, &new, checksum::replaced);
        } else {
            mend(&mut rewritten, payload.at + 6, &old, &new, checksum::replaced_in_udp);
        }
        Ok(rewritten)
    }

    /// An ICMP error: what it quotes becomes a packet of the endpoint.
    fn deliver_error(
        &self,
        frame: &[u8],
        ip: &Ip,
        payload: &Payload,
        outer: Address,
    ) -> Result<Vec<u8>, DropReason> {
        let quoted = icmp::quoted(frame, ip, payload).and_then(|quoted| quoted.of(ip.destination));
        let quoted = quoted.ok_or(DropReason::IcmpUnrelated)?;
        let port = quoted.port().to_be_bytes();
        let delivery = self.delivery(outer, ip, port, quoted.protocol)?;
        let mut rewritten = frame.to_vec();
        if delivery.flags & ENDPOINT_OWNS_VIP != 0 {
            return Ok(rewritten);
        }
        let (vip, endpoint) = (octets(ip.destination, ip.family), octets(delivery.endpoint, ip.family));
        let quoted_source = quoted.ip + if ip.family == Family::V4 { 12 } else { 8 };
        rewritten[quoted_source..quoted_source + vip.len()].copy_from_slice(&endpoint);
        rewritten[quoted.ports_at..quoted.ports_at + 2].copy_from_slice(&delivery.port);
        let (mut old, mut new) = ([&vip[..], &port].concat(), [&endpoint[..], &delivery.port].concat());
        match ip.family {
            Family::V4 => {
                let at = quoted.ip + 10;
                old.extend(&rewritten[at..at + 2]);
                mend(&mut rewritten, at, &vip, &endpoint, checksum::replaced);
                new.extend(&rewritten[at..at + 2]);
            }
            // ICMPv6's checksum covers the addresses of its own packet too.
            Family::V6 => {
                old.extend(&vip);
                new.extend(&endpoint);
            }
        }
        mend(&mut rewritten, payload.at + 2, &old, &new, checksum::replaced);
        set_destination(&mut rewritten, ip, delivery.endpoint);
        Ok(rewritten)
    }

    fn delivery(&self, outer: Address, ip: &Ip, port: [u8; 2], protocol: u8) -> Result<Delivery, DropReason> {
        let key =
            DeliveryKey { outer, vip: ip.destination, port, protocol, family: ip.family as u8, padding: 0 };
        self.lookup.delivery(&key).copied().ok_or(DropReason::NotDelivered)
    }
}

/// "Congestion experienced" (both lower bits of TOS) on the outer header is the inner packet's (RFC 6040), which must be
/// of a kind that understands it (either bit).
fn carry_congestion(frame: &mut [u8], outer: &Ip, inner: &Ip) -> Result<(), DropReason> {
    match (outer.tos & 3, inner.tos & 3) {
        (3, 0) => return Err(DropReason::BadTunnel),
        (3, _) => {}
        _ => return Ok(()),
    }
    let (at, was) = (inner.at, [frame[inner.at], frame[inner.at + 1]]);
    match inner.family {
        Family::V4 => {
            frame[at + 1] |= 3;
            let now = [frame[at], frame[at + 1]];
            mend(frame, at + 10, &was, &now, checksum::replaced);
        }
        Family::V6 => frame[at + 1] |= 0x30,
    }
    Ok(())
}

/// Bytes of the outer headers, if they are a tunnel's: IP in IP, or GUE by its port, which a fragment hasn't.
fn outer_length(frame: &[u8], ip: &Ip) -> Option<usize> {
    if ip.header_length < 20 {
        return None;
    }
    match ip.next {
        4 | 41 => Some(ip.header_length),
        17 if !ip.fragment => {
            let port = frame.get(ip.at + ip.header_length + 2..)?.get(..2)?;
            (port == GUE_PORT.to_be_bytes()).then_some(ip.header_length + 8)
        }
        _ => None,
    }
}

/// An address as it stands in a header of `family`.
pub(super) fn octets(address: Address, family: Family) -> Vec<u8> {
    match family {
        Family::V4 => address.to_v4().to_vec(),
        Family::V6 => address.bytes.to_vec(),
    }
}

fn set_destination(frame: &mut [u8], ip: &Ip, endpoint: Address) {
    let new = octets(endpoint, ip.family);
    match ip.family {
        Family::V4 => {
            mend(frame, ip.at + 10, &octets(ip.destination, ip.family), &new, checksum::replaced);
            frame[ip.at + 16..ip.at + 20].copy_from_slice(&new);
        }
        Family::V6 => frame[ip.at + 24..ip.at + 40].copy_from_slice(&new),
    }
}

/// A checksum after some bytes were replaced by others.
type Replace = fn([u8; 2], &[u8], &[u8]) -> [u8; 2];

/// Replaces the checksum at an offset.
pub(super) fn mend(frame: &mut [u8], at: usize, old: &[u8], new: &[u8], replace: Replace) {
    let sum = replace([frame[at], frame[at + 1]], old, new);
    frame[at..at + 2].copy_from_slice(&sum);
}

fn word(frame: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]])
}
