//! Routes, neighbours and links as they were read, and the way to an address among them. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use fairlead_core::planner::Route;
use ipnet::IpNet;

/// A next hop: an address on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NextHop {
    /// The interface's index.
    pub ifindex: u32,
    /// The neighbour's address.
    pub address: IpAddr,
}

/// Where a route leads: an interface, and the router there if the destination itself is not on the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Via {
    /// The interface's index.
    pub ifindex: u32,
    /// The router.
    pub router: Option<IpAddr>,
}

/// A route to a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteEntry {
    /// Lower is preferred.
    pub metric: u32,
    /// One, or several for multipath; none: packets are thrown away or refused.
    pub vias: Vec<Via>,
    /// Of the path, where the route says it; bytes.
    pub mtu: Option<u32>,
}

/// What the kernel says of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Neighbour {
    /// Its MAC address, be it old.
    Known([u8; 6]),
    /// It was asked and didn't answer.
    Failed,
    /// It is being asked.
    Asked,
}

impl Neighbour {
    const fn mac(self) -> Option<[u8; 6]> {
        match self {
            Self::Known(mac) => Some(mac),
            Self::Failed | Self::Asked => None,
        }
    }
}

/// The MAC addresses that neighbours had last.
///
/// The kernel forgets neighbours now and then: their number is limited, and an operator may flush them. What is behind
/// a router must not be dropped until it has answered anew.
#[derive(Debug, Default)]
pub(super) struct Macs(HashMap<NextHop, [u8; 6]>);

impl Macs {
    /// Gives back to `table` what the kernel has forgotten of the neighbours in use: all but those that don't answer,
    /// and those on links that are down, which may lead elsewhere when they are up again. Returns which they are.
    pub(super) fn recall(&mut self, table: &mut RouteTable, used: &BTreeSet<NextHop>) -> BTreeSet<NextHop> {
        let before = std::mem::take(&mut self.0);
        let mut recalled = BTreeSet::new();
        let up: Vec<&NextHop> = used.iter().filter(|hop| table.is_up(hop.ifindex)).collect();
        for hop in up {
            let mac = match table.neighbours.get(hop) {
                Some(Neighbour::Known(mac)) => Some(*mac),
                Some(Neighbour::Failed) => None,
                Some(Neighbour::Asked) | None => before.get(hop).copied(),
            };
            if mac.is_some() && table.mac(hop).is_none() {
                recalled.insert(*hop);
            }
            if let Some(mac) = mac {
                table.add_neighbour(*hop, Neighbour::Known(mac));
                self.0.insert(*hop, mac);
            }
        }
        recalled
    }
}

/// An interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Its MTU, bytes.
    pub mtu: u32,
    /// Up, with a carrier.
    pub up: bool,
}

/// Everything that was read.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    /// By prefix length, longest last, then by network address.
    routes: BTreeMap<u8, HashMap<IpNet, RouteEntry>>,
    neighbours: HashMap<NextHop, Neighbour>,
    links: HashMap<u32, Link>,
}

impl RouteTable {
    /// Adds a route; of several to one prefix the one with the lowest metric stays.
    pub fn add_route(&mut self, prefix: IpNet, entry: RouteEntry) {
        let routes = self.routes.entry(prefix.prefix_len()).or_default();
        match routes.get(&prefix) {
            Some(known) if known.metric <= entry.metric => {}
            _ => {
                routes.insert(prefix, entry);
            }
        }
    }

    /// Adds a neighbour.
    pub fn add_neighbour(&mut self, hop: NextHop, neighbour: Neighbour) {
        self.neighbours.insert(hop, neighbour);
    }

    /// Adds an interface.
    pub fn add_link(&mut self, ifindex: u32, link: Link) {
        self.links.insert(ifindex, link);
    }

    /// The way to `outer`; the next hop alone where its MAC address is not known; `None` without a route.
    #[must_use]
    pub fn resolve(&self, outer: IpAddr) -> Option<Result<Route, NextHop>> {
        let entry = self.longest_match(outer)?;
        let up: Vec<_> = entry.vias.iter().filter(|via| self.is_up(via.ifindex)).collect();
        let hops = up.iter().map(|via| hop(via, outer));
        let known: Vec<_> = hops.clone().filter(|hop| self.mac(hop).is_some()).collect();
        let Some(chosen) = spread(outer, &known) else {
            return hops.collect::<Vec<_>>().first().map(|hop| Err(*hop));
        };
        let link = self.links.get(&chosen.ifindex)?;
        let mtu = entry.mtu.unwrap_or(link.mtu).min(link.mtu);
        Some(Ok(Route {
            destination_mac: self.mac(&chosen)?,
            source_mac: link.mac,
            ifindex: chosen.ifindex,
            mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
        }))
    }

    /// The next hops of `outers`, known or not: those to keep fresh.
    #[must_use]
    pub fn neighbours_of(&self, outers: &BTreeSet<IpAddr>) -> BTreeSet<NextHop> {
        let entries = outers.iter().filter_map(|outer| Some((outer, self.longest_match(*outer)?)));
        entries.flat_map(|(outer, entry)| entry.vias.iter().map(|via| hop(via, *outer))).collect()
    }

    fn mac(&self, hop: &NextHop) -> Option<[u8; 6]> {
        self.neighbours.get(hop).copied().and_then(Neighbour::mac)
    }

    fn is_up(&self, ifindex: u32) -> bool {
        self.links.get(&ifindex).is_some_and(|link| link.up)
    }

    fn longest_match(&self, outer: IpAddr) -> Option<&RouteEntry> {
        let width = if outer.is_ipv4() { 32 } else { 128 };
        self.routes.iter().rev().filter(|(length, _)| **length <= width).find_map(|(length, routes)| {
            routes.get(&IpNet::new(outer, *length).expect("no longer than the address").trunc())
        })
    }
}

fn hop(via: &Via, outer: IpAddr) -> NextHop {
    NextHop { ifindex: via.ifindex, address: via.router.unwrap_or(outer) }
}

/// One of several equal next hops, the same for an address each time.
fn spread(outer: IpAddr, hops: &[NextHop]) -> Option<NextHop> {
    let bytes = fairlead_abi::Address::from(outer).bytes;
    let sum: usize = bytes.iter().map(|byte| usize::from(*byte)).sum();
    hops.get(sum.checked_rem(hops.len())?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const OWN: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn table() -> RouteTable {
        let mut table = RouteTable::default();
        table.add_link(2, Link { mac: OWN, mtu: 1500, up: true });
        table.add_link(3, Link { mac: OWN, mtu: 9000, up: true });
        table
    }

    fn via(ifindex: u32, router: Option<&str>) -> Via {
        Via { ifindex, router: router.map(|router| router.parse().unwrap()) }
    }

    fn entry(vias: Vec<Via>) -> RouteEntry {
        RouteEntry { metric: 0, vias, mtu: None }
    }

    #[test]
    fn the_longest_prefix_wins_and_its_router_is_the_next_hop() {
        let mut table = table();
        table.add_route("0.0.0.0/0".parse().unwrap(), entry(vec![via(2, Some("198.51.100.1"))]));
        table.add_route("198.18.1.0/24".parse().unwrap(), entry(vec![via(3, Some("198.51.100.2"))]));
        let hop = NextHop { ifindex: 3, address: "198.51.100.2".parse().unwrap() };
        assert_eq!(table.resolve("198.18.1.7".parse().unwrap()), Some(Err(hop)));
        table.add_neighbour(hop, Neighbour::Known(MAC));
        let route = Route { destination_mac: MAC, source_mac: OWN, ifindex: 3, mtu: 9000 };
        assert_eq!(table.resolve("198.18.1.7".parse().unwrap()), Some(Ok(route)));
    }

    #[test]
    fn on_the_link_the_destination_is_its_own_next_hop() {
        let mut table = table();
        table.add_route("2001:db8:1::/64".parse().unwrap(), entry(vec![via(2, None)]));
        let hop = NextHop { ifindex: 2, address: "2001:db8:1::7".parse().unwrap() };
        assert_eq!(table.resolve(hop.address), Some(Err(hop)));
    }

    #[test]
    fn no_route_or_only_links_that_are_down_is_no_way() {
        let mut table = table();
        assert_eq!(table.resolve("192.0.2.1".parse().unwrap()), None);
        table.add_link(4, Link { mac: OWN, mtu: 1500, up: false });
        table.add_route("192.0.2.0/24".parse().unwrap(), entry(vec![via(4, None)]));
        assert_eq!(table.resolve("192.0.2.1".parse().unwrap()), None);
    }

    #[test]
    fn a_route_s_own_mtu_counts_and_a_lower_metric_is_preferred() {
        let mut table = table();
        let prefix = "192.0.2.0/24".parse().unwrap();
        table.add_route(prefix, RouteEntry { metric: 20, vias: vec![via(3, None)], mtu: None });
        table.add_route(prefix, RouteEntry { metric: 10, vias: vec![via(2, None)], mtu: Some(1400) });
        table.add_neighbour(
            NextHop { ifindex: 2, address: "192.0.2.1".parse().unwrap() },
            Neighbour::Known(MAC),
        );
        let route = table.resolve("192.0.2.1".parse().unwrap()).unwrap().unwrap();
        assert_eq!((route.ifindex, route.mtu), (2, 1400));
    }

    #[test]
    fn multipath_uses_known_neighbours_only() {
        let mut table = table();
        let vias = vec![via(2, Some("198.51.100.1")), via(3, Some("198.51.100.2"))];
        table.add_route("0.0.0.0/0".parse().unwrap(), entry(vias));
        table.add_neighbour(
            NextHop { ifindex: 3, address: "198.51.100.2".parse().unwrap() },
            Neighbour::Known(MAC),
        );
        for host in 1..9 {
            let outer = IpAddr::from([198, 18, 0, host]);
            assert_eq!(table.resolve(outer).unwrap().unwrap().ifindex, 3);
        }
    }

    #[test]
    fn a_neighbour_that_the_kernel_forgot_is_used_until_it_fails() {
        let outer: IpAddr = "198.18.0.7".parse().unwrap();
        let hop = NextHop { ifindex: 2, address: "198.51.100.1".parse().unwrap() };
        let used = BTreeSet::from([hop]);
        let read = |neighbour: Option<Neighbour>| {
            let mut table = table();
            table.add_route("0.0.0.0/0".parse().unwrap(), entry(vec![via(2, Some("198.51.100.1"))]));
            neighbour.into_iter().for_each(|neighbour| table.add_neighbour(hop, neighbour));
            table
        };
        let mut macs = Macs::default();
        let mut seen = |mut table: RouteTable| {
            let asked = !macs.recall(&mut table, &used).is_empty();
            (table.resolve(outer).and_then(Result::ok).map(|route| route.destination_mac), asked)
        };
        let other = [2, 0, 0, 0, 0, 9];
        assert_eq!(seen(read(None)), (None, false), "never known: asked since it can't be resolved");
        assert_eq!(seen(read(Some(Neighbour::Known(MAC)))), (Some(MAC), false));
        assert_eq!(seen(read(None)), (Some(MAC), true), "flushed");
        assert_eq!(seen(read(Some(Neighbour::Asked))), (Some(MAC), true));
        assert_eq!(seen(read(Some(Neighbour::Known(other)))), (Some(other), false));
        assert_eq!(seen(read(Some(Neighbour::Failed))), (None, false));
        assert_eq!(seen(read(None)), (None, false), "it didn't answer");
        assert_eq!(seen(read(Some(Neighbour::Known(MAC)))), (Some(MAC), false));
        let mut down = read(None);
        down.add_link(2, Link { mac: OWN, mtu: 1500, up: false });
        assert_eq!(seen(down), (None, false));
        assert_eq!(seen(read(None)), (None, false), "the link may lead elsewhere");
    }
}
