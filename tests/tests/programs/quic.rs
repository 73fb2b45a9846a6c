//! QUIC: packets whose connection ID names a server go there; all others by their flow.

use std::net::IpAddr;

use fairlead_abi::{Backend, FlowEvent, NO_BACKEND, ServiceEntry, Slot};
use fairlead_tests::packets::{
    Carried, Counts, IpPacket, Tables,
    build::{self, gue, ipip, udp},
    tables::service_key,
};

use super::node::*;

/// A service whose slots all have backend 0, with server IDs for all four.
const PORT: u16 = port::FORMERS;
const CLIENT_PORT: u16 = 40_000;
const VERSIONS: [([u8; 4], u8); 2] = [([0, 0, 0, 1], 0x20), ([0x6b, 0x33, 0x43, 0xcf], 0x30)];

fn quic_tables(with_slots: bool) -> Tables {
    let mut tables = tables();
    for vip in VIPS.map(ip) {
        let key = service_key(vip, PORT, UDP);
        let service = tables.services.iter_mut().find(|service| service.key == key).unwrap();
        service.flags = ServiceEntry::QUIC;
        service.slots.fill(Slot { current: if with_slots { 0 } else { NO_BACKEND }, ..Slot::new(0) });
        tables.server_ids.extend((0..4).map(|number| (key, id(number), number)));
    }
    tables
}

fn id(number: u16) -> [u8; 8] {
    [number as u8, 1, 2, 3, 4, 5, 6, 7]
}

/// A connection ID with a nonce of `nonce` bytes.
fn connection_id(first: u8, id: [u8; 8], nonce: usize) -> Vec<u8> {
    [&[first], &id[..], &vec![0xee; nonce]].concat()
}

fn short(connection_id: &[u8]) -> Vec<u8> {
    [&[0x40], connection_id, &[0xab; 20]].concat()
}

fn long(version: [u8; 4], kind: u8, connection_id: &[u8]) -> Vec<u8> {
    let length = connection_id.len() as u8;
    [&[0xc0 | kind], &version[..], &[length], connection_id, &[8], &[0xcd; 40]].concat()
}

/// The rows of a service, from a client of the VIP's family.
struct Rows {
    node: Node,
    tables: Tables,
    vip: IpAddr,
}

impl Rows {
    fn new(vip: IpAddr, with_slots: bool) -> Self {
        let tables = quic_tables(with_slots);
        Self { node: Node::with(&settings(fairlead_abi::Roles::GATEWAY), &tables), tables, vip }
    }

    fn packet(&self, datagram: &[u8]) -> IpPacket {
        build::ip(of_family(CLIENTS, self.vip), self.vip, udp(CLIENT_PORT, PORT, datagram))
    }

    /// `to`: the backend's number; `named`: by its connection ID.
    fn goes(&mut self, what: &str, packet: &IpPacket, to: u16, named: bool) {
        let service = self.tables.service(&service_key(self.vip, PORT, UDP)).clone();
        let place = self.tables.services.iter().position(|other| other.key == service.key).unwrap();
        let inner = IpPacket { ttl: packet.ttl - 1, ..packet.clone() };
        let port = 0xc000 | (hash(packet.source, CLIENT_PORT, PORT) & 0x3fff) as u16;
        let outer = match to {
            0 => ipip(ip(TUNNELS[0]), ip(FAR[0]), &inner),
            1 => ipip(ip(TUNNELS[1]), ip(FAR[1]), &inner),
            2 => gue(ip(TUNNELS[0]), ip(FAR_BY_GUE[0]), port, &inner),
            _ => gue(ip(TUNNELS[1]), ip(FAR_BY_GUE[1]), port, &inner),
        };
        let frame = incoming(packet.clone()).bytes();
        let index = self.tables.first_backends()[place] + u32::from(to);
        let counts = Counts::of_forward(service.id, index, frame.len(), false);
        let counts = if named { counts.and(FlowEvent::NamedServer) } else { counts };
        let what = format!("{what} to {}", self.vip);
        self.node.row(&what, &frame, Then::Transmit(outgoing(&HOP, outer).bytes()), counts);
    }
}

#[test]
fn a_connection_id_leads_to_its_server_whatever_the_flow() {
    for vip in VIPS.map(ip) {
        let mut rows = Rows::new(vip, true);
        for number in 0..4 {
            for (first, nonce) in [(0, 4), (0x1f, 11), (0x0c, 7)] {
                let id = connection_id(first, id(number), nonce);
                let packet = rows.packet(&short(&id));
                rows.goes(&format!("short, to {number}, nonce of {nonce}"), &packet, number, true);
                for (version, kind) in VERSIONS {
                    let packet = rows.packet(&long(version, kind, &id));
                    rows.goes(&format!("Handshake of {version:?}, to {number}"), &packet, number, true);
                }
            }
            // Not the rule: options, extension headers, a first fragment.
            let plain = rows.packet(&short(&connection_id(0, id(number), 4)));
            let options = if vip.is_ipv4() { vec![1; 8] } else { vec![] };
            let extensions = if vip.is_ipv4() { vec![] } else { vec![(60, vec![0; 6])] };
            rows.goes("with options", &IpPacket { options, extensions, ..plain }, number, true);
        }
        rows.node.judge(40);
    }
}

#[test]
fn everything_else_goes_by_flow() {
    for vip in VIPS.map(ip) {
        let mut rows = Rows::new(vip, true);
        let mine = connection_id(0, id(3), 4);
        let mut by_flow = |what: &str, datagram: &[u8]| {
            let packet = rows.packet(datagram);
            rows.goes(what, &packet, 0, false);
        };
        for config in 1..8 {
            by_flow("another configuration", &short(&connection_id(config << 5, id(3), 4)));
        }
        by_flow("an ID that nobody has", &short(&connection_id(0, [9; 8], 4)));
        by_flow("a nonce that is too short", &[&[0x40], &mine[..12]].concat());
        by_flow("nothing", &[]);
        for (version, kind) in VERSIONS {
            for other in [0, 0x10, 0x20, 0x30].into_iter().filter(|other| *other != kind) {
                by_flow("Initial, 0-RTT or Retry", &long(version, other, &mine));
            }
            by_flow("too short an ID", &long(version, kind, &mine[..12]));
            by_flow("too long an ID", &long(version, kind, &connection_id(0, id(3), 12)));
            let whole = long(version, kind, &mine);
            by_flow("cut within its ID", &whole[..6 + mine.len() - 1]);
        }
        by_flow("Version Negotiation", &long([0; 4], 0x20, &mine));
        by_flow("a version that is not known", &long([0xff, 0, 0, 29], 0x20, &mine));
        rows.node.judge(20);
    }
}

#[test]
fn a_server_that_takes_nothing_new_keeps_its_packets() {
    for vip in VIPS.map(ip) {
        let mut rows = Rows::new(vip, false);
        let packet = rows.packet(&short(&connection_id(0, id(2), 4)));
        rows.goes("without slots", &packet, 2, true);
        let lost = rows.packet(&short(&connection_id(0, [9; 8], 4)));
        rows.node.drops("by flow", &incoming(lost).bytes(), fairlead_abi::DropReason::NoBackend);
        rows.node.judge(2);
        // One whose node doesn't answer is not passed over: nobody else has the connection.
        let mut rows = Rows::new(vip, true);
        let key = service_key(vip, PORT, UDP);
        let silent = |backend: &mut Backend| backend.encap |= Backend::SILENT;
        let service = rows.tables.services.iter_mut().find(|service| service.key == key).unwrap();
        silent(&mut service.backends[1]);
        rows.node = Node::with(&settings(fairlead_abi::Roles::GATEWAY), &rows.tables);
        let packet = rows.packet(&short(&connection_id(0, id(1), 4)));
        rows.goes("silent", &packet, 1, true);
        rows.node.judge(1);
    }
}

#[test]
fn only_quic_is_read_so() {
    let mut node = Node::with(&settings(fairlead_abi::Roles::GATEWAY), &{
        let mut tables = quic_tables(true);
        tables.services.iter_mut().for_each(|service| service.flags = 0);
        tables
    });
    for vip in VIPS.map(ip) {
        let datagram = udp(CLIENT_PORT, PORT, &short(&connection_id(0, id(3), 4)));
        let packet = build::ip(of_family(CLIENTS, vip), vip, Carried::Udp(datagram));
        let frame = incoming(packet).bytes();
        let before = node.lab.counts().unwrap();
        node.lab.ingress(&frame).unwrap();
        let counts = node.lab.counts().unwrap().since(&before);
        assert!(counts.events.is_empty() && counts.services.len() == 1, "{counts:?}");
    }
}
