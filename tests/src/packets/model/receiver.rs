//! The receiver: tunnel packets for this node's endpoints.

use fairlead_abi::{
    Address, CONTROL_PORT, Delivery, DeliveryKey, DropReason, ENDPOINT_OWNS_VIP, Family, FlowKey, GUE_PORT,
    ServiceKey, flow_hash, kind, read_mark,
};

use super::{
    super::checksum,
    Ip, Model, Payload, Verdict,
    bounce::{flow_of, mark_of},
    flows::Sent,
    fragments::Choice,
    icmp, parse,
};

impl Model {
    /// What becomes of a tunnel packet; `None`: it is none, or for somebody else.
    pub(super) fn receive(&mut self, frame: &[u8], ip: &Ip) -> Option<Verdict> {
        let outer = outer_length(frame, ip)?;
        match self.unwrap(frame, ip, outer) {
            Ok(verdict) => Some(verdict),
            Err(_) if !self.is_here(ip.destination) => None,
            Err(DropReason::FragmentBeforeFirst) => Some(self.hold(frame)),
            Err(reason) => Some(Verdict::Drop(reason)),
        }
    }

    fn unwrap(&mut self, frame: &[u8], ip: &Ip, outer: usize) -> Result<Verdict, DropReason> {
        if !self.lookup.is_gateway(ip.source) {
            return Err(DropReason::StrangerTunnel);
        }
        let (_, inner) = parse::inside(frame, ip, outer)?;
        let payload = parse::payload(frame, &inner, ip.end())?;
        let payload = self.with_ports(&inner, payload)?;
        let mark = mark_of(frame, ip);
        let hash = flow_of(frame, &inner, &payload).map(|(_, flow)| flow_hash(self.settings.seed, &flow));
        match self.deliver_part(frame, (&inner, &payload), ip.destination, mark, None)? {
            Some(rewritten) => self.without_outer(rewritten, ip, outer, &inner).map(Verdict::Pass),
            None => Ok(self.bounce(frame, ip, hash.expect("it is of a flow"))),
        }
    }

    /// The frame without its outer header.
    pub(super) fn without_outer(
        &self,
        mut frame: Vec<u8>,
        ip: &Ip,
        outer: usize,
        inner: &Ip,
    ) -> Result<Vec<u8>, DropReason> {
        let (kind, _) = parse::inside(&frame, ip, outer)?;
        carry_congestion(&mut frame, ip, inner)?;
        Ok([&frame[..ip.at - 2], &kind, &frame[inner.at..]].concat())
    }

    /// Whether it is a message of a gateway's agent to an endpoint of this node.
    pub(super) fn is_message(&self, frame: &[u8], ip: &Ip) -> bool {
        let to_port = |payload: Payload| payload.protocol == 17 && payload.destination_port() == CONTROL_PORT;
        parse::payload(frame, ip, frame.len()).is_ok_and(|payload| !payload.is_first() && to_port(payload))
            && self.is_here(ip.destination)
            && self.lookup.is_gateway(ip.source)
    }

    pub(super) fn is_here(&self, endpoint: Address) -> bool {
        self.lookup.delivery(&DeliveryKey::endpoint_only(endpoint)).is_some()
    }

    /// As [`deliver`](Self::deliver), of a fragment too; `choice`: this node is the gateway that chose the endpoint.
    pub(super) fn deliver_part(
        &mut self,
        frame: &[u8],
        (ip, payload): (&Ip, &Payload),
        outer: Address,
        mark: u16,
        choice: Option<Choice>,
    ) -> Result<Option<Vec<u8>>, DropReason> {
        if payload.is_later() {
            return self.deliver_later(frame, (ip, payload), outer, mark);
        }
        let delivered = self.deliver(frame, ip, payload, outer, mark);
        if payload.is_first() {
            self.note_outcome((ip, payload), outer, choice, &delivered);
        }
        delivered
    }

    /// The frame with the packet `ip` rewritten for the endpoint that `outer` stands for; `None`: by its mark the flow would
    /// have to be known, and isn't.
    pub(super) fn deliver(
        &mut self,
        frame: &[u8],
        ip: &Ip,
        payload: &Payload,
        outer: Address,
        mark: u16,
    ) -> Result<Option<Vec<u8>>, DropReason> {
        let (key, flow) = flow_of(frame, ip, payload).ok_or(DropReason::IcmpUnrelated)?;
        let kind = match read_mark(mark, flow_hash(self.settings.seed, &flow)) {
            Some((kind, false)) => kind,
            _ => return Err(DropReason::BadMark),
        };
        let unmarked = kind == kind::UNMARKED;
        let Some(delivery) = self.delivery(outer, &key) else {
            return if !unmarked && self.is_here(outer) { Ok(None) } else { Err(DropReason::NotDelivered) };
        };
        let [from, to] = [[flow.ports[0], flow.ports[1]], [flow.ports[2], flow.ports[3]]];
        let known = FlowKey {
            endpoint: delivery.endpoint,
            client: flow.client,
            endpoint_port: delivery.port,
            client_port: from,
            protocol: key.protocol,
            padding: [0; 3],
        };
        if payload.is_icmp() {
            if !unmarked && self.flows.known(&known).is_none() {
                return Ok(None);
            }
            return self.deliver_error(frame, ip, payload, &delivery).map(Some);
        }
        let sent = Sent {
            unmarked,
            flags: payload.tcp_flags,
            sequence: if payload.protocol == 6 { word(frame, payload.at + 4) } else { 0 },
            acknowledged: if payload.protocol == 6 { word(frame, payload.at + 8) } else { 0 },
        };
        if !self.flows.client_sent(&known, ip.destination, to, delivery.mss, sent) {
            return Ok(None);
        }
        let mut rewritten = frame.to_vec();
        if delivery.flags & ENDPOINT_OWNS_VIP != 0 {
            return Ok(Some(rewritten));
        }
        set_destination(&mut rewritten, ip, delivery.endpoint);
        rewritten[payload.at + 2..payload.at + 4].copy_from_slice(&delivery.port);
        let old = [&octets(ip.destination, ip.family)[..], &to].concat();
        let new = [&octets(delivery.endpoint, ip.family)[..], &delivery.port].concat();
        if payload.protocol == 6 {
            mend(&mut rewritten, payload.at + 16, &old, &new, checksum::replaced);
        } else {
            mend(&mut rewritten, payload.at + 6, &old, &new, checksum::replaced_in_udp);
        }
        Ok(Some(rewritten))
    }

    /// An ICMP error: what it quotes becomes a packet of the endpoint.
    fn deliver_error(
        &self,
        frame: &[u8],
        ip: &Ip,
        payload: &Payload,
        delivery: &Delivery,
    ) -> Result<Vec<u8>, DropReason> {
        let quoted = icmp::quoted(frame, ip, payload).and_then(|quoted| quoted.of(ip.destination));
        let quoted = quoted.ok_or(DropReason::IcmpUnrelated)?;
        let port = quoted.port().to_be_bytes();
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

    /// The address that a packet has when it was delivered.
    pub(super) fn lands_at(&self, ip: &Ip, payload: &Payload, outer: Address) -> Address {
        let key = ServiceKey::new(ip.destination, payload.destination_port(), payload.protocol, ip.family);
        match self.delivery(outer, &key) {
            Some(delivery) if delivery.flags & ENDPOINT_OWNS_VIP == 0 => delivery.endpoint,
            _ => ip.destination,
        }
    }

    fn delivery(&self, outer: Address, service: &ServiceKey) -> Option<Delivery> {
        let key = DeliveryKey {
            outer,
            vip: service.vip,
            port: service.port.to_be_bytes(),
            protocol: service.protocol,
            family: service.family,
            padding: 0,
        };
        self.lookup.delivery(&key).copied()
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
pub(super) fn outer_length(frame: &[u8], ip: &Ip) -> Option<usize> {
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

pub(super) fn set_destination(frame: &mut [u8], ip: &Ip, endpoint: Address) {
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
