//! QUIC as the model reads it: which server a packet's connection ID names.

use fairlead_abi::{
    CONNECTION_ID_MAX, CONNECTION_ID_MIN, Flow, QUIC_CONFIG, QUIC_HANDSHAKES, SERVER_ID_LENGTH, ServiceEntry,
    ServiceKey, kind,
};

use super::{
    Ip, Model, Payload,
    lookup::{Place, Try},
};

impl Model {
    /// The backend that a packet of a service names, and the packet's place.
    pub(super) fn named(
        &self,
        frame: &[u8],
        (ip, payload): (&Ip, &Payload),
        (key, flow): (&ServiceKey, &Flow),
        flags: u32,
    ) -> Option<(Place, Try)> {
        if flags & ServiceEntry::QUIC == 0 || payload.is_icmp() || payload.is_later() {
            return None;
        }
        let id = server_id(frame.get(payload.at + 8..ip.end())?)?;
        let (place, number) = self.lookup.server(key, flow, self.settings.seed, id)?;
        let named = place.attempt(kind::UNMARKED, number).filter(|named| named.backend.encap != 0)?;
        Some((place, named))
    }
}

/// The server ID of a datagram that has one.
fn server_id(datagram: &[u8]) -> Option<[u8; SERVER_ID_LENGTH]> {
    let (form, rest) = datagram.split_first()?;
    let connection_id = if form & 0x80 == 0 {
        rest
    } else {
        let (version, rest) = rest.split_first_chunk::<4>()?;
        let (length, rest) = rest.split_first()?;
        if !QUIC_HANDSHAKES.contains(&(*version, form >> 4 & 3)) || usize::from(*length) > CONNECTION_ID_MAX {
            return None;
        }
        rest.get(..usize::from(*length))?
    };
    let is_ours = connection_id.len() >= CONNECTION_ID_MIN && connection_id[0] >> 5 == QUIC_CONFIG;
    is_ours.then(|| std::array::from_fn(|at| connection_id[1 + at]))
}
