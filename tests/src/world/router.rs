//! The router in the middle: a link to every gateway, node, client and control plane, and the routes that the world moves.
//!
//! Where a client's VIP traffic enters is a table of its own, looked up by the link that the client is on; with several
//! gateways it is ECMP by flow. What BGP would tell the router, the test tells it here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Mutex;

use anyhow::{Context, Result};

use super::namespace::Namespace;
use super::plan::{Layout, Uplink};

/// VIPs' IPv4 prefix.
pub const VIPS_V4: &str = "203.0.113.0/24";

/// VIPs' IPv6 prefix.
pub const VIPS_V6: &str = "2001:db8:f::/64";

/// Number of the first client's table; the others follow.
const FIRST_TABLE: usize = 100;

/// The router.
#[derive(Debug)]
pub struct Router {
    /// Where its interfaces are.
    pub namespace: Namespace,
    /// By host name.
    links: BTreeMap<String, Link>,
    state: Mutex<State>,
}

/// A link, and what has to be set anew after it was down.
#[derive(Debug)]
struct Link {
    uplink: Uplink,
    routes: Vec<String>,
}

#[derive(Debug, Default)]
struct State {
    /// Gateways by client.
    entries: BTreeMap<String, Vec<String>>,
    /// Tables by client.
    tables: BTreeMap<String, usize>,
    /// Hosts whose link is cut.
    cut: BTreeSet<String>,
    /// Share of packets lost, in percent, by host.
    loss: BTreeMap<String, u8>,
}

impl Router {
    /// Gives the interfaces, which exist already, their addresses and routes.
    pub(super) fn set_up(namespace: Namespace, layout: &Layout) -> Result<Self> {
        let mut links = BTreeMap::new();
        for host in layout.gateways.iter().chain(&layout.clients).chain(&layout.control_planes) {
            links.insert(host.name.clone(), Link { uplink: host.uplink.clone(), routes: Vec::new() });
        }
        for node in &layout.nodes {
            let (v4, v6) = node.host.uplink.host;
            let interface = &node.host.uplink.router_interface;
            let routes = vec![
                format!("route replace {} via {v4} dev {interface}", node.pods_v4),
                format!("route replace {} via {v6} dev {interface}", node.pods_v6),
            ];
            links.insert(node.host.name.clone(), Link { uplink: node.host.uplink.clone(), routes });
        }
        let mut state = State::default();
        let mut rules = Vec::new();
        for (number, client) in layout.clients.iter().enumerate() {
            let table = FIRST_TABLE + number;
            rules
                .push(format!("rule add iif {} lookup {table} pref {table}", client.uplink.router_interface));
            state.tables.insert(client.name.clone(), table);
        }
        let router = Self { namespace, links, state: Mutex::new(state) };
        router.namespace.ip(&router.links.values().flat_map(Link::up).collect::<Vec<_>>())?;
        if !rules.is_empty() {
            router.namespace.ip(&rules)?;
            router.namespace.ip6(&rules)?;
        }
        Ok(router)
    }

    /// From now on, packets for VIPs from `client` go to `gateways`, by flow; to nobody if there is none.
    pub(super) fn route_vip(&self, client: &str, gateways: &[&str]) -> Result<()> {
        for gateway in gateways {
            self.link(gateway)?;
        }
        let mut state = self.state();
        let gateways = gateways.iter().map(|&name| name.to_owned()).collect();
        state.entries.insert(client.to_owned(), gateways);
        self.apply_entry(&state, client)
    }

    /// The gateways that `client`'s VIP traffic goes to.
    #[must_use]
    pub fn entry(&self, client: &str) -> Vec<String> {
        self.state().entries.get(client).cloned().unwrap_or_default()
    }

    /// Takes the links of these hosts down on the router's side; the hosts see the carrier go.
    pub(super) fn cut(&self, hosts: &[&str]) -> Result<()> {
        let mut state = self.state();
        let mut lines = Vec::new();
        for &host in hosts {
            let interface = &self.link(host)?.uplink.router_interface;
            lines.push(format!("link set dev {interface} down"));
            state.cut.insert(host.to_owned());
        }
        self.namespace.ip(&lines)?;
        // The kernel has dropped what led through them; what is left of an ECMP route is made whole here.
        self.apply_entries_through(&state, hosts)
    }

    /// Brings the links of these hosts up again, with their routes.
    pub(super) fn restore(&self, hosts: &[&str]) -> Result<()> {
        let mut state = self.state();
        let mut lines = Vec::new();
        for &host in hosts {
            lines.extend(self.link(host)?.up());
            state.cut.remove(host);
        }
        self.namespace.ip(&lines)?;
        self.apply_entries_through(&state, hosts)
    }

    /// From now on, this share of the packets from and to `host` vanishes without a word: 0 none, 100 all.
    pub(super) fn lose(&self, host: &str, percent: u8) -> Result<()> {
        self.link(host)?;
        let mut state = self.state();
        state.loss.insert(host.to_owned(), percent);
        // Made if missing, so that there is one to delete: the whole is replaced in one transaction.
        let mut rules = String::from("table inet loss\ndelete table inet loss\ntable inet loss {\n");
        rules.push_str("chain forward {\ntype filter hook forward priority 0;\n");
        for (host, percent) in state.loss.iter().filter(|(_, percent)| **percent > 0) {
            let interface = &self.link(host)?.uplink.router_interface;
            for direction in ["iifname", "oifname"] {
                // nft refuses a comparison that is always true.
                let chance = if *percent >= 100 {
                    String::new()
                } else {
                    format!("numgen random mod 100 < {percent}")
                };
                rules.push_str(&format!("{direction} \"{interface}\" {chance} drop\n"));
            }
        }
        rules.push_str("}\n}\n");
        self.namespace.command("nft", &[&rules])?;
        Ok(())
    }

    /// Whether the probes of a gateway to pods of these prefixes vanish. Both they and what it forwards come from its
    /// address, to pods', inside an outer IP header (IPIP); but only the inner source of a probe is the gateway too.
    pub(super) fn lose_probes(&self, gateway: &str, pods_v4: &str, pods_v6: &str, lost: bool) -> Result<()> {
        let Uplink { router_interface, host: (v4, v6), .. } = &self.link(gateway)?.uplink;
        let (v4, v6) = (v4.to_bits(), v6.to_bits());
        let rules = if lost {
            format!(
                "chain forward {{\ntype filter hook forward priority 0;\n\
                 iifname \"{router_interface}\" ip daddr {pods_v4} ip protocol 4 @th,96,32 {v4:#x} drop\n\
                 iifname \"{router_interface}\" ip6 daddr {pods_v6} ip6 nexthdr 41 @th,64,128 {v6:#x} drop\n}}\n"
            )
        } else {
            String::new()
        };
        let text = format!("table inet probes\ndelete table inet probes\ntable inet probes {{\n{rules}}}\n");
        self.namespace.command("nft", &[&text])?;
        Ok(())
    }

    /// Attaches an XDP program, pinned at `pin`, to the interfaces towards these hosts. It goes with the interface.
    pub(super) fn attach_xdp(&self, hosts: &[&str], pin: &Path) -> Result<()> {
        let mut lines = Vec::new();
        for host in hosts {
            let interface = &self.link(host)?.uplink.router_interface;
            lines.push(format!("link set dev {interface} xdpdrv pinned {}", pin.display()));
        }
        self.namespace.ip(&lines)
    }

    /// The interface towards a host.
    pub(super) fn interface_to(&self, host: &str) -> Result<&str> {
        Ok(&self.link(host)?.uplink.router_interface)
    }

    fn link(&self, host: &str) -> Result<&Link> {
        self.links.get(host).with_context(|| {
            let known: Vec<_> = self.links.keys().map(String::as_str).collect();
            format!("no link to {host}; there are {}", known.join(", "))
        })
    }

    fn apply_entries_through(&self, state: &State, hosts: &[&str]) -> Result<()> {
        let concerns = |gateways: &[String]| gateways.iter().any(|gateway| hosts.contains(&gateway.as_str()));
        for (client, gateways) in &state.entries {
            if concerns(gateways) {
                self.apply_entry(state, client)?;
            }
        }
        Ok(())
    }

    fn apply_entry(&self, state: &State, client: &str) -> Result<()> {
        let table = state.tables.get(client).with_context(|| format!("no client {client}"))?;
        let mut reachable = Vec::new();
        for gateway in &state.entries[client] {
            if !state.cut.contains(gateway) {
                reachable.push(&self.link(gateway)?.uplink);
            }
        }
        let v4 = vip_route(VIPS_V4, *table, &reachable, |uplink| uplink.host.0.into());
        let v6 = vip_route(VIPS_V6, *table, &reachable, |uplink| uplink.host.1.into());
        self.namespace.ip(&[v4, v6])
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("never poisoned: nothing panics under it")
    }
}

impl Link {
    /// What brings it up with all that belongs to it; right for the first time and any other.
    fn up(&self) -> Vec<String> {
        let Uplink { router_interface: interface, router: (v4, v6), .. } = &self.uplink;
        let mut lines = vec![
            format!("addr replace {v4}/31 dev {interface}"),
            format!("addr replace {v6}/64 dev {interface} nodad"),
            format!("link set dev {interface} up"),
        ];
        lines.extend(self.routes.iter().cloned());
        lines
    }
}

/// The route of a VIP prefix to these gateways. Without any the router answers that it is unreachable.
fn vip_route(
    prefix: &str,
    table: usize,
    gateways: &[&Uplink],
    address: impl Fn(&Uplink) -> IpAddr,
) -> String {
    let hop = |uplink: &&Uplink| format!("nexthop via {} dev {}", address(uplink), uplink.router_interface);
    match gateways {
        [] => format!("route replace unreachable {prefix} table {table}"),
        [one] => {
            format!("route replace {prefix} table {table} via {} dev {}", address(one), one.router_interface)
        }
        many => {
            let hops: Vec<_> = many.iter().map(hop).collect();
            format!("route replace {prefix} table {table} {}", hops.join(" "))
        }
    }
}
