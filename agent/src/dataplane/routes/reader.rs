//! Reads routes, neighbours and links by netlink, and asks the kernel to resolve a neighbour.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use rtnetlink::{
    MulticastGroup, RouteMessageBuilder,
    packet_route::{
        RouteNetlinkMessage,
        link::{InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, VlanProtocol},
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
        route::{
            RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteNextHop, RouteType,
        },
    },
};

use super::super::netlink::{Error, Netlink};
use super::table::{Link, Neighbour, NextHop, RouteEntry, RouteTable, Via, Vlan};

/// How often to read all anew when it changed meanwhile. Whatever changes is heard of, and then read once more.
const READINGS: usize = 5;

/// What is told of when it changes.
pub(super) const GROUPS: [MulticastGroup; 4] =
    [MulticastGroup::Link, MulticastGroup::Neigh, MulticastGroup::Ipv4Route, MulticastGroup::Ipv6Route];

/// A connection by which routes are read.
pub(super) struct Reader(pub(super) Netlink);

impl Reader {
    /// Everything as it is now.
    pub(super) async fn read(&self) -> Result<RouteTable, Error> {
        let mut readings = 1;
        loop {
            let mut table = RouteTable::default();
            if self.read_into(&mut table).await? || readings == READINGS {
                return Ok(table);
            }
            readings += 1;
        }
    }

    /// Whether it is whole: a list that changes while it is sent may lack entries that were there all the time.
    async fn read_into(&self, table: &mut RouteTable) -> Result<bool, Error> {
        use RouteNetlinkMessage::{GetLink, GetNeighbour, GetRoute};
        let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
        let requests = [
            GetLink(LinkMessage::default()),
            GetNeighbour(NeighbourMessage::default()),
            GetRoute(v4),
            GetRoute(v6),
        ];
        for request in requests {
            if !self.0.list(request, |message| add(table, message)).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Has the kernel find out a neighbour's MAC address, or see whether it is still right.
    pub(super) async fn ask(&self, hop: &NextHop) {
        let request = self
            .0
            .handle
            .neighbours()
            .add(hop.ifindex, hop.address)
            .state(NeighbourState::None)
            .flags(NeighbourFlags::Use)
            .replace();
        if let Err(error) = request.execute().await {
            tracing::debug!(neighbour = %hop.address, ifindex = hop.ifindex, %error, "asking for a neighbour");
        }
    }
}

fn add(table: &mut RouteTable, message: &RouteNetlinkMessage) {
    match message {
        RouteNetlinkMessage::NewLink(message) => table.add_link(message.header.index, link(message)),
        RouteNetlinkMessage::NewNeighbour(message) => {
            if let Some((hop, neighbour)) = neighbour(message) {
                table.add_neighbour(hop, neighbour);
            }
        }
        RouteNetlinkMessage::NewRoute(message) => {
            if let Some((prefix, entry)) = route(message) {
                table.add_route(prefix, entry);
            }
        }
        _ => {}
    }
}

fn link(message: &LinkMessage) -> Link {
    let up = message.header.flags.contains(LinkFlags::LowerUp);
    let mut link = Link { mac: [0; 6], mtu: 0, up, vlan: vlan(message) };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => link.mac = mac(bytes).unwrap_or_default(),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            _ => {}
        }
    }
    link
}

/// What the interface is the VLAN of.
fn vlan(message: &LinkMessage) -> Option<Vlan> {
    let data = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.iter().find_map(|info| match info {
            LinkInfo::Data(InfoData::Vlan(data)) => Some(data),
            _ => None,
        }),
        _ => None,
    })?;
    let elsewhere = message.attributes.iter().any(|a| matches!(a, LinkAttribute::LinkNetNsId(_)));
    let device = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Link(ifindex) if !elsewhere => Some(*ifindex),
        _ => None,
    });
    let id = data.iter().find_map(|part| if let InfoVlan::Id(id) = part { Some(*id) } else { None })?;
    let provider = data.iter().any(|part| matches!(part, InfoVlan::Protocol(VlanProtocol::Ieee8021Ad)));
    let [a, b] = (if provider { 0x88a8_u16 } else { 0x8100 }).to_be_bytes();
    let [c, d] = id.to_be_bytes();
    Some(Vlan { device: device.unwrap_or(0), tag: [a, b, c, d] })
}

/// A neighbour that the kernel resolves; others, such as multicast groups, are none.
fn neighbour(message: &NeighbourMessage) -> Option<(NextHop, Neighbour)> {
    use NeighbourState::{Delay, Failed, Incomplete, Permanent, Probe, Reachable, Stale};
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => Some(IpAddr::V4(*a)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => Some(IpAddr::V6(*a)),
        _ => None,
    })?;
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => mac(bytes),
        _ => None,
    });
    let neighbour = match message.header.state {
        Reachable | Stale | Delay | Probe | Permanent => Neighbour::Known(mac?),
        Failed => Neighbour::Failed,
        Incomplete => Neighbour::Asked,
        _ => return None,
    };
    Some((NextHop { ifindex: message.header.ifindex, address }, neighbour))
}

fn mac(bytes: &[u8]) -> Option<[u8; 6]> {
    bytes.try_into().ok()
}

/// A route of the main table.
fn route(message: &RouteMessage) -> Option<(IpNet, RouteEntry)> {
    let mut table = u32::from(message.header.table);
    let mut destination = None;
    let mut single = (None, None);
    let mut entry = RouteEntry { metric: 0, vias: Vec::new(), mtu: None };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(address) => destination = ip(address),
            RouteAttribute::Priority(metric) => entry.metric = *metric,
            RouteAttribute::Oif(ifindex) => single.0 = Some(*ifindex),
            RouteAttribute::Gateway(address) => single.1 = ip(address),
            RouteAttribute::Via(via) => single.1 = via_address(via),
            RouteAttribute::MultiPath(hops) => entry.vias = hops.iter().map(via).collect(),
            RouteAttribute::Metrics(metrics) => {
                entry.mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    if table != u32::from(RouteHeader::RT_TABLE_MAIN) {
        return None;
    }
    if let (Some(ifindex), router) = single {
        entry.vias.push(Via { ifindex, router });
    }
    if message.header.kind != RouteType::Unicast {
        entry.vias.clear();
    }
    let any = match message.header.address_family {
        rtnetlink::packet_route::AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        rtnetlink::packet_route::AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let prefix = IpNet::new(destination.unwrap_or(any), message.header.destination_prefix_length).ok()?;
    Some((prefix.trunc(), entry))
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(a) => Some(IpAddr::V4(*a)),
        RouteAddress::Inet6(a) => Some(IpAddr::V6(*a)),
        _ => None,
    }
}

fn via_address(via: &rtnetlink::packet_route::route::RouteVia) -> Option<IpAddr> {
    use rtnetlink::packet_route::route::RouteVia;
    match via {
        RouteVia::Inet(a) => Some(IpAddr::V4(*a)),
        RouteVia::Inet6(a) => Some(IpAddr::V6(*a)),
        _ => None,
    }
}

/// One of the next hops of a multipath route.
fn via(hop: &RouteNextHop) -> Via {
    let router = hop.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        RouteAttribute::Via(via) => via_address(via),
        _ => None,
    });
    Via { ifindex: hop.interface_index, router }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::netlink::Checks;

    #[test]
    fn a_vlan_says_its_tag_and_its_device() {
        let message = |parts: Vec<InfoVlan>, others: &[LinkAttribute]| {
            let mut message = LinkMessage::default();
            let data = LinkInfo::Data(InfoData::Vlan(parts));
            message.attributes = [&[LinkAttribute::LinkInfo(vec![data])], others].concat();
            message
        };
        let customer = vec![InfoVlan::Id(100)];
        let provider = vec![InfoVlan::Id(4094), InfoVlan::Protocol(VlanProtocol::Ieee8021Ad)];
        let on_2 = LinkAttribute::Link(2);
        for (parts, others, expected) in [
            (customer.clone(), vec![on_2.clone()], Vlan { device: 2, tag: [0x81, 0, 0, 100] }),
            (provider, vec![on_2.clone()], Vlan { device: 2, tag: [0x88, 0xa8, 0x0f, 0xfe] }),
            // The device is in another namespace, where its index is another's.
            (customer, vec![on_2, LinkAttribute::LinkNetNsId(0)], Vlan { device: 0, tag: [0x81, 0, 0, 100] }),
        ] {
            assert_eq!(vlan(&message(parts, &others)), Some(expected));
        }
        assert_eq!(vlan(&LinkMessage::default()), None);
    }

    #[tokio::test]
    async fn the_kernel_s_lists_have_an_end() {
        let (netlink, _changes) = Netlink::open(&GROUPS, Checks::Loose).unwrap();
        assert!(Reader(netlink).read_into(&mut RouteTable::default()).await.is_ok());
    }
}
