//! Routes, neighbours and links as they were read, and the way to an address among them. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use fairlead_abi::Hop;
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
    /// What it is the VLAN of.
    pub vlan: Option<Vlan>,
}

/// A VLAN of another interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vlan {
    /// The other interface's index; 0: it is not to be seen from here.
    pub device: u32,
    /// As in [`Hop::tags`].
    pub tag: [u8; 4],
}

/// What frames leave by.
struct Device {
    ifindex: u32,
    tags: [[u8; 4]; 2],
    mtu: u32,
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
        let device = self.device(chosen.ifindex)?;
        let mtu = entry.mtu.unwrap_or(device.mtu).min(device.mtu);
        let hop = Hop {
            destination_mac: self.mac(&chosen)?,
            source_mac: self.links.get(&chosen.ifindex)?.mac,
            ifindex: device.ifindex,
            tags: device.tags,
        };
        Some(Ok(Route { hop, routed_by: chosen.ifindex, mtu: u16::try_from(mtu).unwrap_or(u16::MAX) }))
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

    /// What frames for an interface leave by: XDP can't send by a VLAN's. `None` where that is not to be seen, or has
    /// more tags than a frame may have here.
    fn device(&self, ifindex: u32) -> Option<Device> {
        let mut device = Device { ifindex, tags: [[0; 4]; 2], mtu: u32::MAX };
        let mut room = 0;
        loop {
            let link = self.links.get(&device.ifindex)?;
            // As long as what the tags add: XDP lets a frame have one beyond the MTU of what it leaves by.
            device.mtu = device.mtu.min(link.mtu.saturating_sub(room));
            let Some(vlan) = link.vlan else { return Some(device) };
            let [inner, [0, ..]] = device.tags else { return None };
            room = if inner == [0; 4] { 0 } else { 4 };
            device = Device { ifindex: vlan.device, tags: [vlan.tag, inner], ..device };
        }
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
        table.add_link(2, link(1500, true));
        table.add_link(3, link(9000, true));
        table
    }

    const fn link(mtu: u32, up: bool) -> Link {
        Link { mac: OWN, mtu, up, vlan: None }
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
        let route = Route {
            hop: Hop { destination_mac: MAC, source_mac: OWN, ifindex: 3, ..Hop::default() },
            routed_by: 3,
            mtu: 9000,
        };
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
    fn frames_for_a_vlan_leave_by_what_it_is_the_vlan_of() {
        const VLAN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 3];
        let vlan = |device, tag| Link { mac: VLAN_MAC, vlan: Some(Vlan { device, tag }), ..link(1500, true) };
        let (provider, customer) = ([0x88, 0xa8, 0, 7], [0x81, 0, 0, 100]);
        let mut table = table();
        table.add_link(4, vlan(2, provider));
        table.add_link(5, vlan(4, customer));
        table.add_link(6, vlan(5, customer));
        table.add_link(7, vlan(0, customer));
        let mut resolved = |ifindex| {
            let hop = NextHop { ifindex, address: format!("192.0.2.{ifindex}").parse().unwrap() };
            table.add_route(format!("{}/32", hop.address).parse().unwrap(), entry(vec![via(ifindex, None)]));
            table.add_neighbour(hop, Neighbour::Known(MAC));
            table.resolve(hop.address).map(Result::unwrap)
        };
        let hop = |tags| Hop { destination_mac: MAC, source_mac: VLAN_MAC, ifindex: 2, tags };
        let once = Route { hop: hop([provider, [0; 4]]), routed_by: 4, mtu: 1500 };
        assert_eq!(resolved(4), Some(once));
        // The second tag is beyond what a frame may be longer.
        let twice = Route { hop: hop([provider, customer]), routed_by: 5, mtu: 1496 };
        assert_eq!(resolved(5), Some(twice));
        assert_eq!(resolved(6), None, "three tags");
        assert_eq!(resolved(7), None, "a VLAN of what is in another namespace");
    }

    #[test]
    fn no_route_or_only_links_that_are_down_is_no_way() {
        let mut table = table();
        assert_eq!(table.resolve("192.0.2.1".parse().unwrap()), None);
        table.add_link(4, link(1500, false));
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
        assert_eq!((route.hop.ifindex, route.mtu), (2, 1400));
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
            assert_eq!(table.resolve(outer).unwrap().unwrap().hop.ifindex, 3);
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
            (table.resolve(outer).and_then(Result::ok).map(|route| route.hop.destination_mac), asked)
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
        down.add_link(2, link(1500, false));
        assert_eq!(seen(down), (None, false));
        assert_eq!(seen(read(None)), (None, false), "the link may lead elsewhere");
    }
}
