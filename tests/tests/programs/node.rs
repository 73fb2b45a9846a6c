//! The node that rows play at: its tables, and how a row is judged.

use std::net::IpAddr;

use fairlead_abi::{
    Address, Backend, Delivery, DeliveryKey, DropReason, ENDPOINT_OWNS_VIP, Encap, Flow, FlowEvent, Hop,
    NO_BACKEND, Ring, Roles, ServiceEntry, ServiceKey, Settings, Slot, SocketOffsets, TunnelSource,
    flow_hash, kind, mark,
};
use fairlead_tests::packets::{
    Carried, Counts, Frame, IpPacket, Lab, Service, Tables,
    build::{self, Tcp, flags, ipip, tcp},
    report::{DROP, PASS, REDIRECT, Row, TRANSMIT, outcome},
    tables::{backend, delivery, endpoint, service_key},
};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

/// The node's NIC, which is the loopback interface in BPF_PROG_TEST_RUN.
pub const NIC: u32 = 1;
pub const NIC_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// The next hop of backends.
pub const HOP: Hop = Hop {
    destination_mac: [2, 0, 0, 0, 1, 1],
    source_mac: [2, 0, 0, 0, 1, 2],
    ifindex: NIC,
    tags: [[0; 4]; 2],
};
/// A next hop behind another interface.
pub const OTHER: Hop = Hop {
    destination_mac: [2, 0, 0, 0, 2, 1],
    source_mac: [2, 0, 0, 0, 2, 2],
    ifindex: 7,
    tags: [[0; 4]; 2],
};
/// A next hop in a VLAN, and one in a VLAN within a provider's.
pub const TAGGED: [Hop; 2] = [
    Hop { tags: [[0x81, 0, 0, 100], [0; 4]], ..HOP },
    Hop { tags: [[0x88, 0xa8, 0, 7], [0x81, 0, 0, 100]], ..HOP },
];

pub const VIPS: [&str; 2] = ["203.0.113.10", "2001:db8:100::10"];
/// VIPs whose unserved ports pass.
pub const PASSING_VIPS: [&str; 2] = ["203.0.113.20", "2001:db8:100::20"];
pub const CLIENTS: [&str; 2] = ["192.0.2.50", "2001:db8:5::50"];
/// Of this gateway.
pub const TUNNELS: [&str; 2] = ["198.51.100.1", "2001:db8:77::1"];
/// Of another gateway.
pub const GATEWAYS: [&str; 2] = ["198.51.100.9", "2001:db8:77::9"];
/// Remote endpoints.
pub const FAR: [&str; 2] = ["192.0.2.101", "2001:db8:200::101"];
/// Others, by GUE.
pub const FAR_BY_GUE: [&str; 2] = ["192.0.2.102", "2001:db8:200::102"];
/// This node's endpoint.
pub const POD: [&str; 2] = ["192.0.2.1", "2001:db8:200::1"];
/// This node's endpoint that owns the VIP.
pub const OWNER: [&str; 2] = ["192.0.2.2", "2001:db8:200::2"];
/// The pod's port for the service port 80.
pub const POD_PORT: u16 = 8080;
/// The MSS that the pod's tunnel carries.
pub const MSS: u16 = 1400;

/// Ports of the VIPs' services, each with one kind of backend, for TCP and UDP alike.
pub mod port {
    pub const IPIP_V4: u16 = 80;
    pub const IPIP_V6: u16 = 81;
    pub const GUE_V4: u16 = 82;
    pub const GUE_V6: u16 = 83;
    pub const NO_RING: u16 = 84;
    pub const NO_HOP: u16 = 85;
    pub const OTHER_INTERFACE: u16 = 86;
    pub const LOCAL: u16 = 87;
    pub const NARROW: u16 = 88;
    pub const ASTRAY: u16 = 89;
    pub const EMPTY_SLOTS: u16 = 90;
    pub const FREE_BACKEND: u16 = 91;
    pub const GONE_HOP: u16 = 92;
    pub const TAGGED: u16 = 93;
    pub const TWICE_TAGGED: u16 = 94;
    /// Its slots have the other three of its four backends as formers.
    pub const FORMERS: u16 = 95;
    /// As `FORMERS`, and its second and third backend's nodes don't answer.
    pub const SILENT: u16 = 96;
    /// As `FORMERS`, over UDP marked, because slots have changed lately.
    pub const RECENT: u16 = 97;
    /// Two backends that are this node's, and a third that isn't.
    pub const TWO_LOCAL: u16 = 98;
    /// Not served.
    pub const NONE: u16 = 9;
}

/// The MTU of the path to [`port::NARROW`]'s backend.
pub const NARROW_MTU: u16 = 400;

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The address of the family that `like` has.
pub fn of_family(pair: [&str; 2], like: IpAddr) -> IpAddr {
    ip(pair[usize::from(like.is_ipv6())])
}

pub fn settings(roles: u32) -> Settings {
    let source = |address: &str| TunnelSource { address: ip(address).into(), ..TunnelSource::default() };
    Settings {
        seed: 42,
        roles,
        bucket_mask: 63,
        tunnel_v4: source(TUNNELS[0]),
        tunnel_v6: source(TUNNELS[1]),
        icmp_per_second: 1_000_000_000,
        cache_mask: 15,
        bounces_per_second: 1_000_000_000,
        bounces_per_prefix: 1_000_000_000,
        bounces_in_all: 1_000_000_000,
        reports_per_second: 1_000_000_000,
        recent_mask: 15,
        padding: 0,
        sockets: SocketOffsets::default(),
    }
}

/// The id of a VIP's own entry.
pub fn vip_id(vip: IpAddr) -> u32 {
    1 + u32::from(vip.is_ipv6())
}

pub fn tables() -> Tables {
    let mut tables = Tables {
        hops: vec![HOP, OTHER, Hop::default(), TAGGED[0], TAGGED[1]],
        gateways: ["198.51.100.0/24", "2001:db8:77::/64"].map(|prefix| prefix.parse().unwrap()).into(),
        ..Tables::default()
    };
    for vip in VIPS.map(ip) {
        tables.services.push(Service::vip(vip_id(vip), vip, 0));
        for protocol in [TCP, UDP] {
            add_services(&mut tables, vip, protocol);
        }
    }
    for (id, vip) in (3..).zip(PASSING_VIPS.map(ip)) {
        tables.services.push(Service::vip(id, vip, ServiceEntry::PASS_UNSERVED));
    }
    tables.deliveries.extend(POD.into_iter().chain(OWNER).map(|address| endpoint(ip(address))));
    tables
}

fn add_services(tables: &mut Tables, vip: IpAddr, protocol: u8) {
    let far = |family: usize, encap, hop| backend(ip(FAR[family]), encap, hop, 1500);
    let backends = [
        (port::IPIP_V4, vec![far(0, Encap::Ipip, 1)]),
        (port::IPIP_V6, vec![far(1, Encap::Ipip, 1)]),
        (port::GUE_V4, vec![far(0, Encap::Gue, 1)]),
        (port::GUE_V6, vec![far(1, Encap::Gue, 1)]),
        (port::NO_RING, vec![]),
        (port::NO_HOP, vec![far(0, Encap::Ipip, 0)]),
        (port::OTHER_INTERFACE, vec![far(0, Encap::Ipip, 2)]),
        (port::LOCAL, vec![backend(of_family(POD, vip), Encap::Local, 0, 0)]),
        (port::NARROW, vec![backend(ip(FAR[0]), Encap::Ipip, 1, NARROW_MTU)]),
        (port::ASTRAY, vec![far(0, Encap::Ipip, 1)]),
        (port::EMPTY_SLOTS, vec![far(0, Encap::Ipip, 1)]),
        (port::FREE_BACKEND, vec![Backend::default()]),
        (port::GONE_HOP, vec![far(0, Encap::Ipip, 3)]),
        (port::TAGGED, vec![far(0, Encap::Ipip, 4)]),
        (port::TWICE_TAGGED, vec![far(0, Encap::Ipip, 5)]),
        (port::FORMERS, four_backends()),
        (port::SILENT, silent(four_backends())),
        (port::RECENT, four_backends()),
        (
            port::TWO_LOCAL,
            vec![
                backend(ip(POD[0]), Encap::Local, 0, 0),
                backend(ip(POD[1]), Encap::Local, 0, 0),
                far(0, Encap::Ipip, 1),
            ],
        ),
    ];
    for (number, backends) in backends {
        let key = service_key(vip, number, protocol);
        let mut service = Service::new(id_of(&key), key, 7, backends);
        match number {
            port::ASTRAY => service.astray = Some(Ring { first_slot: 1_000_000, size: 251 }),
            port::FORMERS | port::SILENT => service = service.with_formers(3),
            port::RECENT => {
                service = service.with_formers(3);
                service.flags = ServiceEntry::RECENT;
            }
            port::TWO_LOCAL => service = service.with_formers(2),
            port::EMPTY_SLOTS => service.slots.fill(Slot::new(NO_BACKEND)),
            _ => {}
        }
        tables.services.push(service);
    }
    let pod = of_family(POD, vip);
    for number in [port::IPIP_V4, port::LOCAL, port::FORMERS, port::TWO_LOCAL] {
        let key = service_key(vip, number, protocol);
        // Either family's tunnel may bring it.
        tables.deliveries.extend(POD.map(|outer| delivery(ip(outer), &key, pod, POD_PORT, MSS)));
        tables.deliveries.extend(OWNER.map(|outer| owned(delivery(ip(outer), &key, vip, number, MSS))));
    }
}

/// One by each encapsulation and family.
pub fn four_backends() -> Vec<Backend> {
    vec![
        backend(ip(FAR[0]), Encap::Ipip, 1, 1500),
        backend(ip(FAR[1]), Encap::Ipip, 1, 1500),
        backend(ip(FAR_BY_GUE[0]), Encap::Gue, 1, 1500),
        backend(ip(FAR_BY_GUE[1]), Encap::Gue, 1, 1500),
    ]
}

fn silent(mut backends: Vec<Backend>) -> Vec<Backend> {
    backends[1..3].iter_mut().for_each(|backend| backend.encap |= Backend::SILENT);
    backends
}

fn owned((key, delivery): (DeliveryKey, Delivery)) -> (DeliveryKey, Delivery) {
    (key, Delivery { flags: ENDPOINT_OWNS_VIP, ..delivery })
}

/// The id of the counters of a service of this node.
pub fn id_of(key: &ServiceKey) -> u32 {
    let port = u32::from(key.port) - 80;
    4 + port * 4 + 2 * u32::from(key.protocol == UDP) + u32::from(!key.vip.is_v4())
}

/// A service's id and the index of its only backend, as counters have them.
pub fn counted(vip: IpAddr, port: u16, protocol: u8) -> (u32, u32) {
    let (tables, key) = (tables(), service_key(vip, port, protocol));
    let place = tables.services.iter().position(|service| service.key == key).unwrap();
    (tables.services[place].id, tables.first_backends()[place])
}

/// The hash of a client's flow.
pub fn hash(client: IpAddr, from: u16, to: u16) -> u32 {
    let [[a, b], [c, d]] = [from.to_be_bytes(), to.to_be_bytes()];
    flow_hash(settings(0).seed, &Flow { client: Address::from(client), ports: [a, b, c, d] })
}

/// The mark that a client's packet to its slot's current backend has.
pub fn mark_of_current(packet: &IpPacket, from: u16, to: u16) -> u16 {
    match &packet.carried {
        Carried::Tcp(segment) if segment.flags & flags::SYN_ACK != flags::SYN => {
            mark(hash(packet.source, from, to), kind::CURRENT, false)
        }
        _ => 0,
    }
}

/// A frame from the router to the node.
pub fn incoming(packet: IpPacket) -> Frame {
    Frame::new(NIC_MAC, ROUTER_MAC, packet)
}

/// A frame to a next hop.
pub fn outgoing(hop: &Hop, packet: IpPacket) -> Frame {
    let tags = hop.tags.into_iter().filter(|tag| *tag != [0; 4]).collect();
    Frame { tags, ..Frame::new(hop.destination_mac, hop.source_mac, packet) }
}

/// What is expected of a program.
#[derive(Clone, Debug)]
pub enum Then {
    Pass(Vec<u8>),
    Transmit(Vec<u8>),
    Redirect(Vec<u8>),
    Drop(DropReason),
    /// Dropped, and given to the agent.
    Hold,
}

/// The programs on these tables, and the rows that failed.
pub struct Node {
    pub lab: Lab,
    failed: Vec<String>,
    rows: usize,
}

impl Node {
    pub fn new(roles: u32) -> Self {
        Self::with(&settings(roles), &tables())
    }

    pub fn gateway() -> Self {
        Self::new(Roles::GATEWAY)
    }

    pub fn receiver() -> Self {
        Self::new(Roles::RECEIVER)
    }

    pub fn both() -> Self {
        Self::new(Roles::GATEWAY | Roles::RECEIVER)
    }

    pub fn with(settings: &Settings, tables: &Tables) -> Self {
        Self { lab: Lab::new(settings, tables).unwrap(), failed: vec![], rows: 0 }
    }

    /// A row: what it is, a packet in, what becomes of it, and all that is counted (a drop's count goes without
    /// saying).
    pub fn row(&mut self, what: &str, frame: &[u8], then: Then, counts: Counts) {
        let (action, bytes, counts) = match then {
            Then::Pass(bytes) => (PASS, bytes, counts),
            Then::Transmit(bytes) => (TRANSMIT, bytes, counts),
            Then::Redirect(bytes) => (REDIRECT, bytes, counts),
            Then::Drop(reason) => {
                let mut counts = counts;
                counts.drop_one(reason, frame.len());
                (DROP, vec![], counts)
            }
            Then::Hold => (DROP, vec![], Counts::default().and(FlowEvent::FragmentHeld)),
        };
        let before = self.lab.counts().unwrap();
        let run = self.lab.ingress(frame).unwrap();
        let got = self.lab.counts().unwrap().since(&before);
        self.rows += 1;
        if run.action != action || (action != DROP && run.frame != bytes) || got != counts {
            let row = Row {
                what: what.to_owned(),
                frame: frame.to_vec(),
                expected: format!("{}\n            {counts:?}", outcome(action, &bytes)),
                got: format!("{}\n            {got:?}", outcome(run.action, &run.frame)),
            };
            self.failed.push(row.to_string());
        }
    }

    /// A client's handshake with this node's pod, whose tunnel packets come from another gateway. The numbers of packets
    /// that say nothing else fit it.
    pub fn connect(&mut self, vip: IpAddr, port: u16, from: u16) {
        let (client, pod) = (of_family(CLIENTS, vip), of_family(POD, vip));
        let arrives = |lab: &mut Lab, tcp_flags| {
            let sent = build::ip(client, vip, tcp(from, port, tcp_flags));
            let outer = ipip(ip(GATEWAYS[0]), ip(POD[0]), &sent);
            assert_eq!(lab.ingress(&incoming(outer).bytes()).unwrap().action, PASS);
        };
        arrives(&mut self.lab, flags::SYN);
        let answer = Tcp { sequence: u32::MAX, ..tcp(POD_PORT, from, flags::SYN_ACK) };
        self.lab.egress(&outgoing(&HOP, build::ip(pod, client, answer)).bytes(), 0).unwrap();
        arrives(&mut self.lab, flags::ACK);
    }

    /// It is dropped, and only that is counted.
    pub fn drops(&mut self, what: &str, frame: &[u8], reason: DropReason) {
        self.row(what, frame, Then::Drop(reason), Counts::default());
    }

    /// It goes to the local stack as it came, and nothing is counted.
    pub fn passes(&mut self, what: &str, frame: &[u8]) {
        self.row(what, frame, Then::Pass(frame.to_vec()), Counts::default());
    }

    /// All rows are judged; panics where one failed, or fewer than `least` were seen.
    pub fn judge(self, least: usize) {
        let failed = self.failed.len();
        assert!(failed == 0, "{failed} of {} rows failed:\n{}", self.rows, self.failed.join("\n"));
        assert!(self.rows >= least, "only {} rows", self.rows);
    }
}
