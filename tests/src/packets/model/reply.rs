//! The other direction: an endpoint's packet leaves the node.

use fairlead_abi::{Address, Family, FlowKey};

use super::{
    super::checksum,
    Ip, Model, Payload, icmp, parse,
    receiver::{mend, octets},
};

impl Model {
    /// The frame as it leaves.
    pub fn egress(&mut self, frame: &[u8]) -> Vec<u8> {
        self.rewritten(frame).unwrap_or_else(|| frame.to_vec())
    }

    fn rewritten(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        let ip = parse::frame(frame)?;
        let payload = parse::payload(frame, &ip, frame.len()).ok()?;
        if payload.is_later() {
            return self.rewritten_later(frame, &ip, &payload);
        }
        if payload.is_icmp() {
            return self.rewritten_error(frame, &ip, &payload);
        }
        let key = FlowKey {
            endpoint: ip.source,
            client: ip.destination,
            endpoint_port: [payload.ports[0], payload.ports[1]],
            client_port: [payload.ports[2], payload.ports[3]],
            protocol: payload.protocol,
            padding: [0; 3],
        };
        let tcp = payload.protocol == 6;
        let number = |at: usize| Some(u32::from_be_bytes(frame.get(at..at + 4)?.try_into().ok()?));
        let numbers = if tcp { [number(payload.at + 4)?, number(payload.at + 8)?] } else { [0; 2] };
        let entry = self.flows.endpoint_sent(&key, payload.tcp_flags, numbers)?;
        if payload.is_first() {
            self.note_reply(&ip, &payload, entry.vip);
        }
        let (source, vip) = (octets(ip.source, ip.family), octets(entry.vip, ip.family));
        let mut reply = from_address(frame, &ip, entry.vip);
        reply[payload.at..payload.at + 2].copy_from_slice(&entry.port);
        let old = [&source[..], &key.endpoint_port].concat();
        let new = [&vip[..], &entry.port].concat();
        if tcp {
            mend(&mut reply, payload.at + 16, &old, &new, checksum::replaced);
        } else {
            mend(&mut reply, payload.at + 6, &old, &new, checksum::replaced_in_udp);
        }
        if payload.tcp_flags & 0x02 != 0 && entry.mss != 0 {
            lower_mss(&mut reply, payload.at, entry.mss);
        }
        Some(reply)
    }
}

/// The packet with another source; what it carries stays as it is.
fn from_address(frame: &[u8], ip: &Ip, address: Address) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let (old, new) = (octets(ip.source, ip.family), octets(address, ip.family));
    let at = ip.at + if ip.family == Family::V4 { 12 } else { 8 };
    frame[at..at + new.len()].copy_from_slice(&new);
    if ip.family == Family::V4 {
        mend(&mut frame, ip.at + 10, &old, &new, checksum::replaced);
    }
    frame
}

impl Model {
    /// A fragment that has no ports: its source is the first one's.
    fn rewritten_later(&self, frame: &[u8], ip: &Ip, payload: &Payload) -> Option<Vec<u8>> {
        Some(from_address(frame, ip, self.first_of_reply(ip, payload).ok()?.address))
    }

    /// An ICMP error to a client: what it quotes was sent to the VIP; where the endpoint sent the error, so did the VIP.
    fn rewritten_error(&self, frame: &[u8], ip: &Ip, payload: &Payload) -> Option<Vec<u8>> {
        let quoted = icmp::quoted(frame, ip, payload)?.of(ip.destination)?;
        let [a, b, c, d] = quoted.ports;
        let key = FlowKey {
            endpoint: quoted.destination,
            client: quoted.source,
            endpoint_port: [c, d],
            client_port: [a, b],
            protocol: quoted.protocol,
            padding: [0; 3],
        };
        let entry = self.flows.known(&key)?;
        let mut error = frame.to_vec();
        let (endpoint, vip) = (octets(key.endpoint, ip.family), octets(entry.vip, ip.family));
        let destination = quoted.ip + if ip.family == Family::V4 { 16 } else { 24 };
        error[destination..destination + vip.len()].copy_from_slice(&vip);
        error[quoted.ports_at + 2..quoted.ports_at + 4].copy_from_slice(&entry.port);
        mend(&mut error, payload.at + 2, &key.endpoint_port, &entry.port, checksum::replaced);
        let own = ip.source == key.endpoint;
        if own {
            let source = ip.at + if ip.family == Family::V4 { 12 } else { 8 };
            error[source..source + vip.len()].copy_from_slice(&vip);
        }
        match ip.family {
            // The quoted header's checksum changes by as much as its address: together nothing for ICMP's.
            Family::V4 => {
                mend(&mut error, quoted.ip + 10, &endpoint, &vip, checksum::replaced);
                if own {
                    mend(&mut error, ip.at + 10, &endpoint, &vip, checksum::replaced);
                }
            }
            Family::V6 => {
                mend(&mut error, payload.at + 2, &endpoint, &vip, checksum::replaced);
                if own {
                    mend(&mut error, payload.at + 2, &endpoint, &vip, checksum::replaced);
                }
            }
        }
        Some(error)
    }
}

/// Lowers the MSS option of the TCP header at `at` to `mss`.
fn lower_mss(frame: &mut [u8], at: usize, mss: u16) {
    let Some(option) = mss_option(frame, at) else { return };
    if u16::from_be_bytes([frame[option], frame[option + 1]]) <= mss {
        return;
    }
    // Whole words, wherever the option begins.
    let odd = (option - at) % 2;
    let words = option - odd..option + 2 + odd;
    let old = frame[words.clone()].to_vec();
    frame[option..option + 2].copy_from_slice(&mss.to_be_bytes());
    let new = frame[words].to_vec();
    mend(frame, at + 16, &old, &new, checksum::replaced);
}

/// Where the MSS stands (RFC 9293 3.1), among the first ten options.
fn mss_option(frame: &[u8], at: usize) -> Option<usize> {
    let end = at + usize::from(frame[at + 12] >> 4) * 4;
    let mut option = at + 20;
    for _ in 0..10 {
        if option + 4 > end {
            return None;
        }
        match (*frame.get(option)?, *frame.get(option + 1)?) {
            (0, _) => return None,
            (1, _) => option += 1,
            (2, 4) => return Some(option + 2),
            (_, length @ 2..) => option += usize::from(length),
            _ => return None,
        }
    }
    None
}
