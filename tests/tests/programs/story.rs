//! One client's flow at a receiver, packet by packet.

use std::net::IpAddr;

use fairlead_abi::{Address, FlowEntry, FlowKey, FlowState, Roles, kind, mark};
use fairlead_tests::packets::{
    Carried, IpPacket, Lab,
    build::{self, Tcp, flags, ipip, tcp},
    report::PASS,
};

use super::node::*;

/// The client's.
pub const CLIENT_PORT: u16 = 40_000;
/// Sequence number of the pod's SYN-ACK.
pub const SEQUENCE: u32 = 0xffff_ffff;

/// One client's flow at a receiver.
pub struct Story {
    pub lab: Lab,
    pub vip: IpAddr,
}

impl Story {
    pub fn new(vip: &str) -> Self {
        Self { lab: Lab::new(&settings(Roles::RECEIVER), &tables()).unwrap(), vip: ip(vip) }
    }

    pub fn client(&self) -> IpAddr {
        of_family(CLIENTS, self.vip)
    }

    pub fn pod(&self) -> IpAddr {
        of_family(POD, self.vip)
    }

    /// A gateway sends the client's packet; XDP's number.
    pub fn arrives(&mut self, carried: impl Into<Carried>) -> u32 {
        self.arrives_from(self.client(), carried)
    }

    pub fn arrives_from(&mut self, client: IpAddr, carried: impl Into<Carried>) -> u32 {
        let outer = ipip(ip(GATEWAYS[0]), ip(POD[0]), &build::ip(client, self.vip, carried));
        self.lab.ingress(&incoming(outer).bytes()).unwrap().action
    }

    pub fn segment(&self, tcp_flags: u8, acknowledged: u32) -> Tcp {
        Tcp { acknowledged, ..tcp(CLIENT_PORT, port::IPIP_V4, tcp_flags) }
    }

    /// The pod answers; whether the answer leaves in the VIP's name.
    pub fn answers(&mut self, carried: impl Fn(u16) -> Carried) -> bool {
        let packet = |from: IpAddr, port| build::ip(from, self.client(), carried(port));
        let (before, after) = (packet(self.pod(), POD_PORT), packet(self.vip, port::IPIP_V4));
        let run = self.lab.egress(&outgoing(&HOP, before.clone()).bytes(), 0).unwrap();
        let frame = |packet: IpPacket| outgoing(&HOP, packet).bytes();
        assert!(run.frame == frame(before) || run.frame == frame(after.clone()), "half rewritten");
        run.frame == frame(after)
    }

    pub fn answers_tcp(&mut self, tcp_flags: u8, sequence: u32) -> bool {
        let acknowledged = tcp(0, 0, 0).sequence;
        self.answers(|from| Tcp { sequence, acknowledged, ..tcp(from, CLIENT_PORT, tcp_flags) }.into())
    }

    pub fn key(&self, protocol: u8) -> FlowKey {
        FlowKey {
            endpoint: self.pod().into(),
            client: self.client().into(),
            endpoint_port: POD_PORT.to_be_bytes(),
            client_port: CLIENT_PORT.to_be_bytes(),
            protocol,
            padding: [0; 3],
        }
    }

    pub fn entry(&self, state: FlowState, sequence: u32) -> FlowEntry {
        FlowEntry {
            vip: Address::from(self.vip),
            port: port::IPIP_V4.to_be_bytes(),
            mss: MSS,
            sequence,
            state: state as u8,
            ..FlowEntry::default()
        }
    }

    /// As the tables have it: with the number that all of the client's TCP segments have.
    pub fn expected(&self, entry: FlowEntry, protocol: u8) -> FlowEntry {
        let client_sequence = if protocol == TCP { tcp(0, 0, 0).sequence } else { 0 };
        FlowEntry { client_sequence, ..entry }
    }

    /// The tables hold these and nothing else: half-open, then established.
    pub fn holds(&self, half: Option<FlowEntry>, established: Option<FlowEntry>, protocol: u8) {
        let expected = |entry: Option<FlowEntry>| {
            entry.map(|entry| (self.key(protocol), self.expected(entry, protocol))).into_iter().collect()
        };
        let without_time = |(key, entry): (FlowKey, FlowEntry)| {
            assert!(entry.seen > 0, "never seen");
            (key, FlowEntry { seen: 0, ..entry })
        };
        let half_open: Vec<_> = self.lab.half_open().unwrap().into_iter().map(without_time).collect();
        let flows: Vec<_> = self.lab.flows().unwrap().into_iter().map(without_time).collect();
        assert_eq!((half_open, flows), (expected(half), expected(established)));
    }

    /// SYN, SYN-ACK, ACK.
    pub fn connects(&mut self) {
        assert_eq!(self.arrives(self.segment(flags::SYN, 0)), PASS);
        assert!(self.answers_tcp(flags::SYN_ACK, SEQUENCE));
        assert_eq!(self.arrives(self.segment(flags::ACK, SEQUENCE.wrapping_add(1))), PASS);
    }

    /// As [`Self::arrives`], with the mark of a packet that the slot's current backend gets: it must be known.
    pub fn arrives_marked(&mut self, segment: Tcp) -> u32 {
        let marked = mark(hash(self.client(), segment.source, segment.destination), kind::CURRENT, false);
        let packet = build::ip(self.client(), self.vip, segment);
        let outer = IpPacket { id: marked, ..ipip(ip(GATEWAYS[0]), ip(POD[0]), &packet) };
        self.lab.ingress(&incoming(outer).bytes()).unwrap().action
    }
}
