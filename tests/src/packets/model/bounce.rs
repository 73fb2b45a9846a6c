//! Bounces: what a receiver sends back, and how a gateway goes on with it.

use fairlead_abi::{DropReason, Family, Flow, FlowEvent, ServiceKey, is_bounced, kind, mark, read_mark};

use super::{
    super::checksum,
    Ip, Model, Payload, Verdict, icmp,
    lookup::Try,
    parse,
    receiver::{mend, outer_length},
};

/// The mark of an outer header: IPv4's identification, or the end of IPv6's flow label.
pub(super) fn mark_of(frame: &[u8], ip: &Ip) -> u16 {
    let at = mark_at(ip);
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

fn mark_at(ip: &Ip) -> usize {
    ip.at + if ip.family == Family::V4 { 4 } else { 2 }
}

impl Model {
    /// What becomes of a tunnel packet that came back to this gateway; `None`: it did not, or is somebody else's.
    pub(super) fn come_back(&mut self, frame: &[u8], ip: &Ip) -> Option<Verdict> {
        let outer = outer_length(frame, ip)?;
        if !self.is_own(ip.destination, ip.family) || !is_bounced(mark_of(frame, ip)) {
            return None;
        }
        let (_, inner) = parse::inside(frame, ip, outer).ok()?;
        let payload = parse::payload(frame, &inner, ip.end()).ok()?;
        self.lookup.vip(inner.destination, inner.family)?;
        let gone_on =
            self.with_ports(&inner, payload).and_then(|payload| self.go_on(frame, ip, &inner, &payload));
        Some(gone_on.unwrap_or_else(Verdict::Drop))
    }

    fn go_on(&mut self, frame: &[u8], ip: &Ip, inner: &Ip, payload: &Payload) -> Result<Verdict, DropReason> {
        let (key, flow) = flow_of(frame, inner, payload).ok_or(DropReason::IcmpUnrelated)?;
        if self.lookup.service(key.vip, key.port, key.protocol, inner.family).is_none() {
            return Err(DropReason::PortNotServed);
        }
        if !self.lookup.allows(&key, flow.client) {
            return Err(DropReason::NotAllowed);
        }
        let place = self.lookup.place(&key, &flow, self.settings.seed)?;
        let (kind, _) = read_mark(mark_of(frame, ip), place.hash).ok_or(DropReason::BadMark)?;
        let mut tried = None;
        if kind == kind::GUESS {
            tried = self.lookup.cached(&key, &flow);
            if self.lookup.forget(&key, &flow) {
                self.counts.event(FlowEvent::Forgotten);
            }
        }
        self.counts.event(FlowEvent::SentOn);
        let all = place.after_current(tried);
        let rest: Vec<Try> = all.into_iter().skip_while(|next| !comes_after(next.kind, kind)).collect();
        self.forward(frame, inner, payload, &place, &rest, Some(ip))
    }

    /// The tunnel packet as it goes back to its gateway.
    pub(super) fn bounce(&mut self, frame: &[u8], ip: &Ip, hash: u32) -> Verdict {
        self.counts.event(FlowEvent::Bounced);
        let (kind, _) = read_mark(mark_of(frame, ip), hash).expect("it was read before");
        let mut back = frame.to_vec();
        let at = mark_at(ip);
        back[at..at + 2].copy_from_slice(&mark(hash, kind, true).to_be_bytes());
        let (addresses, length, ttl) =
            if ip.family == Family::V4 { (ip.at + 12, 4, ip.at + 8) } else { (ip.at + 8, 16, ip.at + 7) };
        back[ttl] = 64;
        icmp::exchange(&mut back, addresses, length);
        if ip.family == Family::V4 {
            let (was, is) = ([frame[at], frame[at + 1]], [back[at], back[at + 1]]);
            mend(&mut back, ip.at + 10, &was, &is, checksum::replaced);
            mend(&mut back, ip.at + 10, &[frame[ttl], 0], &[64, 0], checksum::replaced);
        }
        icmp::exchange(&mut back, 0, 6);
        Verdict::Send(self.ingress_ifindex, back)
    }
}

/// Whether one step comes later than another: a guess is the first, what is unmarked the last.
pub(super) fn comes_after(step: u8, than: u8) -> bool {
    let rank = |kind| match kind {
        kind::GUESS => 0,
        kind::UNMARKED => 100,
        other => other,
    };
    rank(step) > rank(than)
}

/// The service and flow that a packet to a VIP is of, or that it speaks of.
pub(super) fn flow_of(frame: &[u8], ip: &Ip, payload: &Payload) -> Option<(ServiceKey, Flow)> {
    if !payload.is_icmp() {
        let key = ServiceKey::new(ip.destination, payload.destination_port(), payload.protocol, ip.family);
        return Some((key, Flow { client: ip.source, ports: payload.ports }));
    }
    let quoted = icmp::quoted(frame, ip, payload)?.of(ip.destination)?;
    Some((ServiceKey::new(ip.destination, quoted.port(), quoted.protocol, ip.family), quoted.flow()))
}
