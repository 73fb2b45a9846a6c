//! What a world shall consist of, and the names and addresses that follow from it.
//!
//! A [`Plan`] says how many of what; [`Plan::layout`] numbers everything. Pure: nothing is made here. All addresses are
//! from the prefixes for documentation and benchmarks (RFC 5737, RFC 3849, RFC 2544).

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Result, ensure};

/// How many of what.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// In order; a region's clients enter at its own gateways.
    pub regions: Vec<RegionPlan>,
    /// What runs in every pod.
    pub servers: Servers,
    /// Whether each cluster has a host of its own for its [control plane](crate::control_plane).
    pub control_planes: bool,
}

/// What runs in a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Servers {
    /// nginx and a UDP echo.
    #[default]
    Web,
    /// The one whose connections last: see [`survive::server`](crate::survive::server).
    Lasting,
}

/// One region.
#[derive(Clone, Debug)]
pub struct RegionPlan {
    /// E.g. `europe-west1`.
    pub name: String,
    /// Gateways, all on nodes of their own.
    pub gateways: usize,
    /// Clients.
    pub clients: usize,
    /// One per zone, usually.
    pub clusters: Vec<ClusterPlan>,
}

/// One cluster.
#[derive(Clone, Debug)]
pub struct ClusterPlan {
    /// Its name, and its zone's.
    pub name: String,
    /// Nodes, at most 8.
    pub nodes: usize,
    /// Pods on each node, at most 29.
    pub pods_per_node: usize,
}

impl Plan {
    /// One region and zone, a gateway, a client, and a node with two pods.
    #[must_use]
    pub fn small() -> Self {
        Self::default().region("us-central1", &["a"], 2)
    }

    /// Three regions of three zones, each zone a cluster of one node with three pods; one gateway and one client
    /// per region.
    #[must_use]
    pub fn three_regions() -> Self {
        Self::default()
            .region("us-central1", &["a", "b", "c"], 3)
            .region("europe-west1", &["b", "c", "d"], 3)
            .region("asia-east1", &["a", "b", "c"], 3)
    }

    /// Adds a region with one gateway, one client, and in each zone a cluster of one node.
    #[must_use]
    pub fn region(mut self, name: &str, zones: &[&str], pods: usize) -> Self {
        let cluster =
            |zone: &&str| ClusterPlan { name: format!("{name}-{zone}"), nodes: 1, pods_per_node: pods };
        let clusters = zones.iter().map(cluster).collect();
        self.regions.push(RegionPlan { name: name.to_owned(), gateways: 1, clients: 1, clusters });
        self
    }

    /// Gives the region added last this many gateways.
    #[must_use]
    pub fn gateways(mut self, count: usize) -> Self {
        self.last().gateways = count;
        self
    }

    /// Gives the region added last this many clients.
    #[must_use]
    pub fn clients(mut self, count: usize) -> Self {
        self.last().clients = count;
        self
    }

    /// Gives each cluster of the region added last this many nodes.
    #[must_use]
    pub fn nodes(mut self, count: usize) -> Self {
        self.last().clusters.iter_mut().for_each(|cluster| cluster.nodes = count);
        self
    }

    /// Gives each cluster a host for its control plane: `api-` and the cluster's name. Nothing runs there yet.
    #[must_use]
    pub fn control_planes(self) -> Self {
        Self { control_planes: true, ..self }
    }

    fn last(&mut self) -> &mut RegionPlan {
        self.regions.last_mut().expect("a region was added before")
    }

    /// Names and addresses of everything.
    pub fn layout(&self) -> Result<Layout> {
        let mut layout = Layout::default();
        for region in &self.regions {
            for number in 1..=region.gateways {
                let uplink = Uplink::of_site(layout.sites(), layout.gateways.len(), 'g')?;
                let name = format!("gateway-{}-{number}", region.name);
                layout.gateways.push(Host { name, region: region.name.clone(), uplink });
            }
            for number in 1..=region.clients {
                let uplink = Uplink::of_client(layout.clients.len())?;
                let name = format!("client-{}-{number}", region.name);
                layout.clients.push(Host { name, region: region.name.clone(), uplink });
            }
            for cluster in &region.clusters {
                layout.add_cluster(region, cluster)?;
                if self.control_planes {
                    let uplink = Uplink::of_site(layout.sites(), layout.control_planes.len(), 'a')?;
                    let name = format!("api-{}", cluster.name);
                    layout.control_planes.push(Host { name, region: region.name.clone(), uplink });
                }
            }
        }
        Ok(layout)
    }
}

/// A world's hosts and their addresses.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// Gateways of all regions.
    pub gateways: Vec<Host>,
    /// Clients of all regions.
    pub clients: Vec<Host>,
    /// Clusters of all regions.
    pub clusters: Vec<ClusterSeat>,
    /// Nodes of all clusters.
    pub nodes: Vec<NodeSeat>,
    /// Pods of all nodes.
    pub pods: Vec<PodSeat>,
    /// Hosts of the clusters' control planes, in the order of the clusters; none unless the plan wants them.
    pub control_planes: Vec<Host>,
}

/// A host with one uplink to the router.
#[derive(Clone, Debug)]
pub struct Host {
    /// Unique in the world.
    pub name: String,
    /// The region it is in.
    pub region: String,
    /// Its link.
    pub uplink: Uplink,
}

/// A link between the router and a host: `eth0` there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// The interface's name on the router.
    pub router_interface: String,
    /// The router's addresses, /31 and /64.
    pub router: (Ipv4Addr, Ipv6Addr),
    /// The host's.
    pub host: (Ipv4Addr, Ipv6Addr),
}

/// Where a cluster is.
#[derive(Clone, Debug)]
pub struct ClusterSeat {
    /// Unique in the world.
    pub name: String,
    /// Its region.
    pub region: String,
    /// Its zone.
    pub zone: String,
    /// Its pods' IPv4 prefix.
    pub pods_v4: String,
    /// Its pods' IPv6 prefix.
    pub pods_v6: String,
}

/// A node of a cluster.
#[derive(Clone, Debug)]
pub struct NodeSeat {
    /// The host.
    pub host: Host,
    /// Its cluster.
    pub cluster: String,
    /// Its pods' IPv4 prefix.
    pub pods_v4: String,
    /// Its pods' IPv6 prefix.
    pub pods_v6: String,
    /// What its pods have as IPv4 next hop; on every pod's veth.
    pub pods_next_hop: Ipv4Addr,
}

/// A pod of a node.
#[derive(Clone, Debug)]
pub struct PodSeat {
    /// Unique in the world.
    pub name: String,
    /// Index in [`Layout::nodes`].
    pub node: usize,
    /// The veth's name on the node.
    pub interface: String,
    /// Its addresses.
    pub address: (Ipv4Addr, Ipv6Addr),
}

/// A pod's next hop for IPv6: on every pod's veth.
pub(super) const PODS_NEXT_HOP_V6: &str = "fe80::1";

impl Layout {
    /// All that have a link to the router.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        let nodes = self.nodes.iter().map(|node| &node.host);
        self.gateways.iter().chain(nodes).chain(&self.control_planes).chain(&self.clients)
    }

    /// Links of all but clients so far.
    fn sites(&self) -> usize {
        self.gateways.len() + self.nodes.len() + self.control_planes.len()
    }

    fn add_cluster(&mut self, region: &RegionPlan, plan: &ClusterPlan) -> Result<()> {
        ensure!(plan.nodes <= 8 && plan.pods_per_node <= 29, "{}: at most 8 nodes of 29 pods", plan.name);
        ensure!(self.clusters.len() < 255, "at most 255 clusters");
        let number = self.clusters.len() + 1;
        self.clusters.push(ClusterSeat {
            name: plan.name.clone(),
            region: region.name.clone(),
            zone: plan.name.clone(),
            pods_v4: format!("198.18.{number}.0/24"),
            pods_v6: format!("2001:db8:{number:x}::/64"),
        });
        for node in 0..plan.nodes {
            let (pods_v4, base) = (format!("198.18.{number}.{}/27", node * 32), node * 32);
            let uplink = Uplink::of_site(self.sites(), self.nodes.len(), 'n')?;
            let name = format!("node-{}-{}", plan.name, node + 1);
            self.nodes.push(NodeSeat {
                host: Host { name, region: region.name.clone(), uplink },
                cluster: plan.name.clone(),
                pods_v4,
                pods_v6: format!("2001:db8:{number:x}:0:{node:x}::/80"),
                pods_next_hop: format!("198.18.{number}.{}", base + 1).parse()?,
            });
            for pod in 0..plan.pods_per_node {
                self.pods.push(PodSeat {
                    name: format!("pod-{}-{}", plan.name, node * plan.pods_per_node + pod + 1),
                    node: self.nodes.len() - 1,
                    interface: format!("pod{}", pod + 1),
                    address: (
                        format!("198.18.{number}.{}", base + pod + 2).parse()?,
                        format!("2001:db8:{number:x}:0:{node:x}::{:x}", pod + 2).parse()?,
                    ),
                });
            }
        }
        Ok(())
    }
}

impl Uplink {
    /// Of a gateway, node or control plane: its addresses by the number of the link, its name by its own.
    fn of_site(link: usize, number: usize, letter: char) -> Result<Self> {
        Self::numbered(link, format!("{letter}{number}"), "198.51.100", "2001:db8:1000")
    }

    fn of_client(number: usize) -> Result<Self> {
        Self::numbered(number, format!("c{number}"), "192.0.2", "2001:db8:2000")
    }

    fn numbered(link: usize, router_interface: String, v4: &str, v6: &str) -> Result<Self> {
        ensure!(link < 128, "more than 128 links in {v4}.0/24");
        let addresses = |last_v4: usize, last_v6: usize| -> Result<(Ipv4Addr, Ipv6Addr)> {
            Ok((format!("{v4}.{last_v4}").parse()?, format!("{v6}:{link:x}::{last_v6}").parse()?))
        };
        Ok(Self { router_interface, router: addresses(link * 2, 1)?, host: addresses(link * 2 + 1, 2)? })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn three_regions_have_nine_clusters_and_addresses_of_their_own() {
        let layout = Plan::three_regions().layout().unwrap();
        assert_eq!(layout.gateways.len(), 3);
        assert_eq!(layout.clients.len(), 3);
        assert_eq!(layout.clusters.len(), 9);
        assert_eq!(layout.nodes.len(), 9);
        assert_eq!(layout.pods.len(), 27);

        let sites = layout.gateways.iter().chain(layout.nodes.iter().map(|node| &node.host));
        let uplinks: Vec<_> = sites.chain(&layout.clients).map(|host| &host.uplink).collect();
        let mut addresses: BTreeSet<_> = layout.pods.iter().map(|pod| pod.address).collect();
        addresses.extend(uplinks.iter().flat_map(|uplink| [uplink.router, uplink.host]));
        assert_eq!(addresses.len(), 27 + 2 * 15);
        let interfaces: BTreeSet<_> = uplinks.iter().map(|uplink| &uplink.router_interface).collect();
        assert_eq!(interfaces.len(), 15);
    }

    #[test]
    fn control_planes_have_hosts_of_their_own_and_move_nobody_elses_pods() {
        let layout = Plan::three_regions().control_planes().layout().unwrap();
        let names: Vec<_> = layout.control_planes.iter().map(|host| host.name.as_str()).collect();
        assert_eq!(names.len(), 9);
        assert_eq!(names[0], "api-us-central1-a");
        let uplinks: BTreeSet<_> = layout.hosts().map(|host| host.uplink.host).collect();
        assert_eq!(uplinks.len(), 3 + 9 + 9 + 3);
        let plain = Plan::three_regions().layout().unwrap();
        let pods = |layout: &Layout| layout.pods.iter().map(|pod| pod.address).collect::<Vec<_>>();
        assert_eq!(pods(&layout), pods(&plain));
    }

    #[test]
    fn pods_lie_in_their_nodes_prefixes() {
        let layout = Plan::default().region("r", &["z"], 29).nodes(8).layout().unwrap();
        let last = layout.pods.last().unwrap();
        assert_eq!(last.address.0, Ipv4Addr::new(198, 18, 1, 254));
        assert_eq!(layout.nodes[last.node].pods_v4, "198.18.1.224/27");
        assert_eq!(layout.nodes[last.node].pods_v6, "2001:db8:1:0:7::/80");
        assert_eq!(last.address.1, "2001:db8:1:0:7::1e".parse::<Ipv6Addr>().unwrap());
        assert_eq!(last.name, "pod-z-232".replace("z", "r-z"));
    }

    #[test]
    fn too_much_is_refused() {
        assert!(Plan::default().region("r", &["z"], 30).layout().is_err());
        assert!(Plan::default().region("r", &["z"], 1).nodes(9).layout().is_err());
        assert!(Plan::default().region("r", &[], 0).clients(129).layout().is_err());
    }
}
