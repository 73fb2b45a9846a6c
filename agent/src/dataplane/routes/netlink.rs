//! Netlink: reads routes, neighbours and links, hears of changes, and asks the kernel to resolve a neighbour.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::{TryStreamExt as _, channel::mpsc::UnboundedReceiver};
use ipnet::IpNet;
use rtnetlink::{
    Handle, MulticastGroup, RouteMessageBuilder, new_multicast_connection,
    packet_core::NetlinkMessage,
    packet_route::{
        RouteNetlinkMessage,
        link::{LinkAttribute, LinkFlags, LinkMessage},
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
        route::{
            RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteNextHop, RouteType,
        },
    },
    sys::SocketAddr,
};

use super::table::{Link, NextHop, RouteEntry, RouteTable, Via};

/// What netlink refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No socket.
    #[error("netlink: {0}")]
    Open(#[from] std::io::Error),
    /// A request failed.
    #[error("netlink: {0}")]
    Request(#[from] rtnetlink::Error),
    /// The kernel closed it.
    #[error("netlink: the connection was closed")]
    Closed,
}

/// A connection.
pub(super) struct Netlink(Handle);

/// Messages of changes.
pub(super) type Changes = UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>;

impl Netlink {
    /// Connects, and hears of every change of routes, neighbours and links from now on.
    pub(super) fn open() -> Result<(Self, Changes), Error> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ];
        let (connection, handle, changes) = new_multicast_connection(&groups)?;
        tokio::spawn(connection);
        Ok((Self(handle), changes))
    }

    /// Everything as it is now.
    pub(super) async fn read(&self) -> Result<RouteTable, Error> {
        let mut table = RouteTable::default();
        let mut links = self.0.link().get().execute();
        while let Some(message) = links.try_next().await? {
            table.add_link(message.header.index, link(&message));
        }
        let mut neighbours = self.0.neighbours().get().execute();
        while let Some(message) = neighbours.try_next().await? {
            if let Some((hop, mac)) = neighbour(&message) {
                table.add_neighbour(hop, mac);
            }
        }
        let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
        for request in [v4, v6] {
            let mut routes = self.0.route().get(request).execute();
            while let Some(message) = routes.try_next().await? {
                if let Some((prefix, entry)) = route(&message) {
                    table.add_route(prefix, entry);
                }
            }
        }
        Ok(table)
    }

    /// Has the kernel find out a neighbour's MAC address, or see whether it is still right.
    pub(super) async fn ask(&self, hop: &NextHop) {
        let request = self
            .0
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

fn link(message: &LinkMessage) -> Link {
    let mut link = Link { mac: [0; 6], mtu: 0, up: message.header.flags.contains(LinkFlags::LowerUp) };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => link.mac = mac(bytes).unwrap_or_default(),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            _ => {}
        }
    }
    link
}

/// A neighbour whose MAC address is known, be it old.
fn neighbour(message: &NeighbourMessage) -> Option<(NextHop, [u8; 6])> {
    use NeighbourState::{Delay, Permanent, Probe, Reachable, Stale};
    if !matches!(message.header.state, Reachable | Stale | Delay | Probe | Permanent) {
        return None;
    }
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => Some(IpAddr::V4(*a)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => Some(IpAddr::V6(*a)),
        _ => None,
    })?;
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => mac(bytes),
        _ => None,
    })?;
    Some((NextHop { ifindex: message.header.ifindex, address }, mac))
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
