//! This node's own receiver, asked as all others are: the program that would answer a gateway's packet is run on the question,
//! with no network between. So it knows what it knows, and says what it says.

use std::net::IpAddr;

use fairlead_abi::CONTROL_PORT;
use ipnet::IpNet;

use super::claimer::control_address;
use crate::dataplane::{Ingress, Ran};

const ETHERNET: usize = 14;
const UDP: usize = 8;

/// See the module.
pub(super) struct OwnReceiver {
    ingress: Ingress,
    /// This gateway's addresses: the program answers gateways only.
    sources: Vec<IpAddr>,
}

impl OwnReceiver {
    /// Of a gateway with these tunnel prefixes.
    pub(super) fn new(ingress: Ingress, own: &[IpNet]) -> Self {
        Self { ingress, sources: own.iter().map(control_address).collect() }
    }

    /// Whether it can be asked about an endpoint of this node.
    pub(super) fn can_be_asked(&self, outer: IpAddr) -> bool {
        self.source(outer).is_some()
    }

    /// The answer to a question about one; nothing where it has none, as no other receiver would.
    ///
    /// Before kernel 6.2 a packet may come in between, whose program uses the same room: what is said twice is right.
    pub(super) fn ask(&self, outer: IpAddr, question: &[u8]) -> Option<Vec<u8>> {
        let (question, headers) = frame(self.source(outer)?, outer, question)?;
        let mut ran = self.ingress.run(&question).ok()?;
        // An answer says how old the count is, and a step of that may fall between two runs; not between three.
        for _ in 0..2 {
            let again = self.ingress.run(&question).ok()?;
            if again == ran {
                return again
                    .frame
                    .get(headers..)
                    .filter(|_| ran.verdict == Ran::TRANSMIT)
                    .map(<[u8]>::to_vec);
            }
            ran = again;
        }
        None
    }

    fn source(&self, outer: IpAddr) -> Option<IpAddr> {
        self.sources.iter().copied().find(|source| source.is_ipv4() == outer.is_ipv4())
    }
}

/// A frame with the message, and the bytes of its headers. There are no checksums: nobody but the program sees it.
fn frame(from: IpAddr, to: IpAddr, message: &[u8]) -> Option<(Vec<u8>, usize)> {
    const TTL: u8 = 64;
    let length = u16::try_from(UDP + message.len()).ok()?;
    let mut frame = vec![0; ETHERNET - 2];
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            frame.extend([0x08, 0x00, 0x45, 0]);
            frame.extend(length.checked_add(20)?.to_be_bytes());
            frame.extend([0, 0, 0x40, 0, TTL, 17, 0, 0]);
            frame.extend(from.octets());
            frame.extend(to.octets());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(length.to_be_bytes());
            frame.extend([17, TTL]);
            frame.extend(from.octets());
            frame.extend(to.octets());
        }
        _ => return None,
    }
    frame.extend(CONTROL_PORT.to_be_bytes().repeat(2));
    frame.extend(length.to_be_bytes());
    frame.extend([0, 0]);
    let headers = frame.len();
    frame.extend(message);
    Some((frame, headers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_a_packet_of_either_version() {
        let [v4, v6]: [IpAddr; 2] = ["192.0.2.1", "2001:db8::1"].map(|address| address.parse().unwrap());
        let (frame4, headers) = frame(v4, v4, &[7; 80]).unwrap();
        assert_eq!((headers, frame4.len(), &frame4[16..18]), (42, 122, &[0, 108][..]));
        let (frame6, headers) = frame(v6, v6, &[7; 80]).unwrap();
        assert_eq!((headers, frame6.len(), &frame6[18..20]), (62, 142, &[0, 88][..]));
        assert!(frame(v4, v6, &[]).is_none());
    }
}
