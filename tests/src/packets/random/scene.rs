//! The scene that random packets play in: a bit of everything that tables can hold.

use std::net::IpAddr;

use fairlead_abi::{
    Address, Backend, Delivery, DeliveryKey, ENDPOINT_OWNS_VIP, Encap, Flow, Hop, NO_BACKEND, Ring,
    SERVER_ID_LENGTH, ServiceEntry, ServiceKey, Settings, Slot, SocketOffsets, TunnelSource,
    protocol::{TCP, UDP},
};

use super::super::tables::{Service, Tables, backend, delivery, endpoint, service_key};

/// VIPs: two of each family, the second ones pass what they don't serve.
pub(super) const VIPS: [&str; 4] = ["203.0.113.10", "203.0.113.20", "2001:db8:100::10", "2001:db8:100::20"];
/// Ports that some of them serve, and one that none does.
pub(super) const PORTS: [u16; 6] = [80, 443, 53, 8080, 8443, 9];
/// Endpoints of this node, and one that isn't.
pub(super) const ENDPOINTS: [&str; 5] =
    ["192.0.2.1", "192.0.2.2", "2001:db8:200::1", "2001:db8:200::2", "192.0.2.77"];
/// Sources of tunnel packets: gateways, this node's own among them, and strangers.
pub(super) const SOURCES: [&str; 6] = [
    "198.51.100.3",
    "198.51.100.40",
    "2001:db8:77::3:1",
    "2001:db8:77:1::9",
    "192.0.2.200",
    "2001:db8:dead::1",
];
/// The federation's.
pub(super) const SEED: u64 = 0x5eed;
/// Clients that flows are learned of.
pub(super) const CLIENTS_V4: [&str; 2] = ["192.0.2.50", "192.0.2.51"];
/// The same.
pub(super) const CLIENTS_V6: [&str; 2] = ["2001:db8:5::1", "2001:db8:5::2"];
/// The first of their ports.
pub(super) const FIRST_CLIENT_PORT: u16 = 40_000;
/// Where this gateway's tunnel packets come from, and bounces go to.
pub(super) const OWN: [&str; 4] = ["198.51.100.0", "198.51.100.9", "2001:db8:77::", "2001:db8:77::1:2"];
/// The endpoints' own port for each of theirs.
const ENDPOINT_PORT: u16 = 8000;

/// Settings of a node with `roles` that takes part in the scene.
#[must_use]
pub fn settings(roles: u32) -> Settings {
    let source = |address: &str, vary| TunnelSource { address: ip(address).into(), vary, padding: 0 };
    Settings {
        seed: SEED,
        roles,
        bucket_mask: 7,
        tunnel_v4: source("198.51.100.0", [0, 0, 0, 0x0f]),
        tunnel_v6: source("2001:db8:77::", [0xff, 0xff, 0xff, 0xff]),
        // So high that it is never reached.
        icmp_per_second: 4_000_000_000,
        cache_mask: 15,
        bounces_per_second: 4_000_000_000,
        bounces_per_prefix: 4_000_000_000,
        bounces_in_all: 4_000_000_000,
        reports_per_second: 4_000_000_000,
        recent_mask: 15,
        padding: 0,
        sockets: SocketOffsets::default(),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The tables.
#[must_use]
pub fn scene() -> Tables {
    let mut tables = Tables {
        hops: vec![hop(1, 1), hop(2, 1), hop(3, 7), Hop::default(), tagged(5, 1, 1), tagged(6, 7, 2)],
        gateways: ["198.51.100.0/24", "2001:db8:77::/48"]
            .map(|prefix| prefix.parse().expect("a prefix"))
            .into(),
        ..Tables::default()
    };
    for (number, vip) in (1..).zip(VIPS) {
        let flags = if number % 2 == 0 { ServiceEntry::PASS_UNSERVED } else { 0 };
        tables.services.push(Service::vip(number, ip(vip), flags));
        add_services(&mut tables, ip(vip), number * 10);
    }
    tables.deliveries.extend(ENDPOINTS[..4].iter().map(|address| endpoint(ip(address))));
    tables.cache = learned(&tables);
    tables.server_ids = server_ids(&tables);
    restrict(&mut tables);
    tables
}

/// Services of one VIP, with counters from `id` on.
fn add_services(tables: &mut Tables, vip: IpAddr, id: u32) {
    let other = |a: &str, b: &str| if vip.is_ipv4() { ip(a) } else { ip(b) };
    let far = vec![
        backend(ip("192.0.2.101"), Encap::Ipip, 1, 1500),
        backend(ip("2001:db8:200::101"), Encap::Ipip, 2, 1500),
        backend(ip("192.0.2.102"), Encap::Gue, 3, 1400),
        backend(ip("2001:db8:200::102"), Encap::Gue, 1, 1280),
    ];
    let odd = vec![
        backend(ip("192.0.2.103"), Encap::Ipip, 0, 1500), // no next hop
        backend(ip("192.0.2.104"), Encap::Gue, 4, 1500),  // a next hop that is gone
        Backend { family: 4, ..Backend::default() },      // a free entry
        backend(ip("192.0.2.105"), Encap::Ipip, 2, 90),   // a path for nothing
        backend(ip("192.0.2.1"), Encap::Local, 0, 0),     // this node's, delivered
        backend(ip("192.0.2.77"), Encap::Local, 0, 0),    // this node's, not delivered
        backend(ip("2001:db8:200::2"), Encap::Local, 0, 0),
        backend(ip("2001:db8:200::106"), Encap::Ipip, 99, 1500), // a next hop outside the table
        backend(ip("192.0.2.107"), Encap::Ipip, 5, 1500),        // next hops in VLANs
        backend(ip("2001:db8:200::107"), Encap::Gue, 6, 1500),
        Backend {
            encap: Encap::Ipip as u8 | Backend::SILENT,
            ..backend(ip("192.0.2.108"), Encap::Ipip, 1, 1500)
        },
    ];
    let add = |tables: &mut Tables, number: u32, port: u16, protocol: u8, backends: Vec<Backend>| {
        let key = service_key(vip, port, protocol);
        tables.services.push(Service::new(id + number, key, 31, backends));
        let own = Delivery { flags: ENDPOINT_OWNS_VIP, ..Delivery::default() };
        tables.deliveries.extend([
            delivery(
                ip("192.0.2.1"),
                &key,
                other("192.0.2.1", "2001:db8:200::1"),
                ENDPOINT_PORT + port,
                1400,
            ),
            delivery(
                ip("2001:db8:200::1"),
                &key,
                other("192.0.2.1", "2001:db8:200::1"),
                ENDPOINT_PORT + port,
                0,
            ),
            delivery(ip("2001:db8:200::2"), &key, other("192.0.2.2", "2001:db8:200::2"), port, 900),
            as_it_is(delivery(ip("192.0.2.2"), &key, vip, port, 1200), own),
        ]);
    };
    add(tables, 0, 80, TCP, far.clone());
    give_formers(tables, 3, 0);
    add(tables, 1, 53, UDP, far);
    // Half of these have changed lately.
    give_formers(
        tables,
        3,
        ServiceEntry::QUIC
            | if id.is_multiple_of(20) { ServiceEntry::RECENT } else { ServiceEntry::BY_CLIENT },
    );
    if id % 20 == 10 {
        add(tables, 2, 443, TCP, odd.clone());
        give_formers(tables, 2, ServiceEntry::BY_CLIENT);
        // None takes new connections.
        add(tables, 3, 443, UDP, odd);
        let drained = tables.services.last_mut().expect("just added");
        drained.slots.clear();
        drained.flags = ServiceEntry::QUIC;
    } else {
        add(tables, 2, 443, TCP, vec![backend(ip("192.0.2.107"), Encap::Ipip, 2, 1400)]);
        let holes = tables.services.last_mut().expect("just added");
        holes.slots[7..20].fill(Slot::new(NO_BACKEND));
        add(tables, 3, 8443, UDP, vec![]);
        let astray = tables.services.last_mut().expect("just added");
        astray.astray = Some(Ring { first_slot: 1_000_000, size: 251 });
    }
}

/// Gives the service that was added last former backends, and flags.
fn give_formers(tables: &mut Tables, formers: usize, flags: u32) {
    let service = tables.services.pop().expect("just added");
    tables.services.push(Service { flags, ..service.with_formers(formers) });
}

/// The services of the first VIP of each IP version, but one, let in one of the clients and half of all others.
fn restrict(tables: &mut Tables) {
    let vips = [VIPS[0], VIPS[2]].map(|vip| Address::from(ip(vip)));
    let of_these =
        |service: &&mut Service| vips.contains(&service.key.vip) && ![0, 443].contains(&service.key.port);
    for service in tables.services.iter_mut().filter(of_these) {
        service.flags |= ServiceEntry::RESTRICTED;
        let ranges = if service.key.vip.is_v4() {
            ["192.0.2.50/32", "0.0.0.0/2", "128.0.0.0/2"]
        } else {
            ["2001:db8:5::1/128", "2000::/4", "::ffff:0:0/96"]
        };
        tables.allowed.extend(ranges.map(|range| (service.key, range.parse().expect("a range"))));
    }
}

/// The server ID of each backend of a service that is QUIC.
fn server_ids(tables: &Tables) -> Vec<(ServiceKey, [u8; SERVER_ID_LENGTH], u16)> {
    let quic = tables.services.iter().filter(|service| service.flags & ServiceEntry::QUIC != 0);
    let ids = quic.flat_map(|service| {
        (0..).zip(&service.backends).map(|(number, _)| (service.key, server_id(number), number))
    });
    ids.collect()
}

/// The server ID of the backend with a number, in each service.
pub(super) fn server_id(number: u16) -> [u8; SERVER_ID_LENGTH] {
    let [a, b] = number.to_be_bytes();
    [0x51, a, b, 0, 0xff, 0, 0, 7]
}

/// More numbers than any of its services has backends.
pub(super) const SERVERS: usize = 13;

/// Flows of the scene's clients that a gateway has learned something of.
fn learned(tables: &Tables) -> Vec<(ServiceKey, Flow, u16)> {
    let with_formers = tables.services.iter().filter(|service| service.backends.len() > 3);
    let flows = with_formers.flat_map(|service| {
        let client = if service.key.vip.is_v4() { CLIENTS_V4[0] } else { CLIENTS_V6[0] };
        let [[a, b], [c, d]] = [FIRST_CLIENT_PORT.to_be_bytes(), service.key.port.to_be_bytes()];
        let flow = |step| Flow { client: ip(client).into(), ports: [a, b + step, c, d] };
        let most = u16::try_from(service.backends.len()).expect("a few");
        // One of a backend, one that is nobody's, one whose backend is gone.
        [(0, 1), (1, NO_BACKEND), (2, most - 1)].map(|(step, number)| (service.key, flow(step), number))
    });
    flows.collect()
}

fn as_it_is((key, delivery): (DeliveryKey, Delivery), own: Delivery) -> (DeliveryKey, Delivery) {
    (key, Delivery { flags: own.flags, ..delivery })
}

fn hop(number: u8, ifindex: u32) -> Hop {
    Hop {
        destination_mac: [2, 0, 0, 0, 1, number],
        source_mac: [2, 0, 0, 0, 0, number],
        ifindex,
        ..Hop::default()
    }
}

/// With one tag or two.
fn tagged(number: u8, ifindex: u32, tags: u8) -> Hop {
    let second = if tags == 2 { [0x81, 0, 0, 200] } else { [0; 4] };
    Hop { tags: [[0x88, 0xa8, 0, 100], second], ..hop(number, ifindex) }
}

/// The address and port that a service's endpoints have, for packets that they send.
pub(super) fn endpoint_of(vip_is_v4: bool, number: usize, port: u16) -> (IpAddr, u16) {
    let address = match (vip_is_v4, number % 2) {
        (true, 0) => "192.0.2.1",
        (true, _) => "192.0.2.2",
        (false, 0) => "2001:db8:200::1",
        (false, _) => "2001:db8:200::2",
    };
    let port = if number.is_multiple_of(2) { ENDPOINT_PORT + port } else { port };
    (ip(address), port)
}

/// An address of the scene.
pub(super) fn address(text: &str) -> IpAddr {
    ip(text)
}

/// Whether it can stand in the same header as `other`.
pub(super) fn fits(text: &str, other: IpAddr) -> bool {
    Address::from(ip(text)).is_v4() == other.is_ipv4()
}
