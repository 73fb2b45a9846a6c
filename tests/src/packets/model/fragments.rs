//! Fragments: what became of a datagram's first one is what becomes of the others.

use std::collections::BTreeMap;

use fairlead_abi::{
    Address, DropReason, Family, FlowEvent, FragmentEntry, FragmentKey, MOST_HELD, flow_hash, kind, read_mark,
};

use super::{
    Ip, Model, Payload, Verdict,
    bounce::flow_of,
    lookup::{Place, Try},
    receiver::set_destination,
};

/// `FRAGMENTS`, with room for everything and without time.
pub type Fragments = BTreeMap<FragmentKey, FragmentEntry>;

/// Where a first fragment goes: the backend's index, and by what it was chosen.
pub(super) type Choice = (u32, u8);

impl Model {
    /// What became of the first fragment of the client's that this is.
    pub(super) fn first_of(&self, ip: &Ip, payload: &Payload) -> Result<FragmentEntry, DropReason> {
        self.first(ip, payload, |outcome| outcome != FragmentEntry::REPLY)
    }

    /// The same of an endpoint's reply.
    pub(super) fn first_of_reply(&self, ip: &Ip, payload: &Payload) -> Result<FragmentEntry, DropReason> {
        self.first(ip, payload, |outcome| outcome == FragmentEntry::REPLY)
    }

    fn first(&self, ip: &Ip, payload: &Payload, may: fn(u32) -> bool) -> Result<FragmentEntry, DropReason> {
        let first = self.fragments.get(&datagram(ip, payload)).filter(|first| may(first.outcome));
        let first = first.ok_or(DropReason::FragmentBeforeFirst)?;
        let begins = payload.part.map_or(0, |part| part.offset);
        if begins < usize::from(first.length) { Err(DropReason::FragmentOverlaps) } else { Ok(*first) }
    }

    /// The payload with ports, also where they stand in another fragment.
    pub(super) fn with_ports(&self, ip: &Ip, payload: Payload) -> Result<Payload, DropReason> {
        if !payload.is_later() {
            return Ok(payload);
        }
        let first = self.first_of(ip, &payload)?;
        Ok(Payload { ports: first.ports, protocol: first.protocol, ..payload })
    }

    /// The agent gets a frame that came too early, if it isn't too long.
    pub(super) fn hold(&mut self, frame: &[u8]) -> Verdict {
        if frame.len() > MOST_HELD {
            return Verdict::Drop(DropReason::FragmentBeforeFirst);
        }
        self.counts.event(FlowEvent::FragmentHeld);
        Verdict::Hold
    }

    /// The backends to try for a fragment: from the one on that the first went to, if that is known.
    pub(super) fn tries_after_first(
        &self,
        ip: &Ip,
        payload: &Payload,
        place: &Place,
    ) -> Result<Option<Vec<Try>>, DropReason> {
        let first = self.first_of(ip, payload)?;
        Ok((first.backend != 0).then(|| place.from(first.kind, first.backend)))
    }

    pub(super) fn note_choice(&mut self, ip: &Ip, payload: &Payload, (backend, kind): Choice) {
        let outcome = FragmentEntry::ELSEWHERE;
        self.note(ip, payload, FragmentEntry { backend, kind, outcome, ..FragmentEntry::default() });
    }

    /// Notes what became of a first fragment at this receiver; `choice`: it is the gateway too.
    pub(super) fn note_outcome(
        &mut self,
        (ip, payload): (&Ip, &Payload),
        outer: Address,
        choice: Option<Choice>,
        delivered: &Result<Option<Vec<u8>>, DropReason>,
    ) {
        let (mut address, mut outcome) = (Address::default(), FragmentEntry::SENT_BACK);
        match delivered {
            Ok(None) => {}
            Ok(Some(_)) => {
                outcome = FragmentEntry::TAKEN;
                address = self.lands_at(ip, payload, outer);
            }
            Err(reason) => outcome = *reason as u32,
        }
        let (backend, kind) = choice.unwrap_or((0, kind::UNMARKED));
        self.note(ip, payload, FragmentEntry { address, backend, kind, outcome, ..FragmentEntry::default() });
    }

    pub(super) fn note_reply(&mut self, ip: &Ip, payload: &Payload, vip: Address) {
        let entry = FragmentEntry { address: vip, outcome: FragmentEntry::REPLY, ..FragmentEntry::default() };
        self.note(ip, payload, entry);
    }

    fn note(&mut self, ip: &Ip, payload: &Payload, entry: FragmentEntry) {
        let length = payload.part.map_or(0, |part| part.length);
        let length = u16::try_from(length).expect("less than 64 KiB");
        let (ports, protocol) = (payload.ports, payload.protocol);
        self.fragments.insert(datagram(ip, payload), FragmentEntry { ports, protocol, length, ..entry });
    }

    /// As `deliver`, of a fragment that isn't the first and has its ports by now.
    pub(super) fn deliver_later(
        &self,
        frame: &[u8],
        (ip, payload): (&Ip, &Payload),
        outer: Address,
        mark: u16,
    ) -> Result<Option<Vec<u8>>, DropReason> {
        if !self.is_here(outer) {
            return Err(DropReason::NotDelivered);
        }
        let first = self.first_of(ip, payload)?;
        let (_, flow) = flow_of(frame, ip, payload).expect("ports");
        let kind = match read_mark(mark, flow_hash(self.settings.seed, &flow)) {
            Some((kind, false)) => kind,
            _ => return Err(DropReason::BadMark),
        };
        match first.outcome {
            FragmentEntry::ELSEWHERE => Err(DropReason::FragmentBeforeFirst),
            FragmentEntry::SENT_BACK if kind == kind::UNMARKED => Err(DropReason::FragmentBeforeFirst),
            FragmentEntry::SENT_BACK => Ok(None),
            FragmentEntry::TAKEN => {
                let mut rewritten = frame.to_vec();
                if first.address != ip.destination {
                    set_destination(&mut rewritten, ip, first.address);
                }
                Ok(Some(rewritten))
            }
            other => Err(*DropReason::ALL.iter().find(|reason| **reason as u32 == other).expect("a reason")),
        }
    }
}

fn datagram(ip: &Ip, payload: &Payload) -> FragmentKey {
    FragmentKey {
        source: ip.source,
        destination: ip.destination,
        id: payload.part.map_or([0; 4], |part| part.id),
        protocol: if ip.family == Family::V4 { ip.next } else { 0 },
        family: ip.family as u8,
        padding: [0; 2],
    }
}
