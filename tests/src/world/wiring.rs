//! Namespaces and veth pairs of a world, with their addresses.
//!
//! The work is handed to `ip` in few large batches, and namespaces are set up by several threads: the cost is the
//! starting of programs and waiting for the kernel's one lock around interfaces.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::thread;

use anyhow::Result;

use super::footprint::{Footprint, making};
use super::namespace::{Namespace, ip_batch};
use super::plan::{Host, Layout, NodeSeat, PODS_NEXT_HOP_V6, PodSeat};

/// Threads that set namespaces up.
const THREADS: usize = 4;

/// Every host: no waiting for duplicate addresses, no address from the network, replies may leave where they like.
const HOST: &[(&str, &str)] = &[
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/default/router_solicitations", "0"),
    ("ipv6/conf/all/keep_addr_on_down", "1"),
    ("ipv6/conf/default/keep_addr_on_down", "1"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
];

/// What forwards between interfaces.
const FORWARDS: &[(&str, &str)] = &[
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv6/conf/default/forwarding", "1"),
    ("ipv4/fib_multipath_hash_policy", "1"),
    ("ipv6/fib_multipath_hash_policy", "1"),
];

/// The namespaces, in the order of the layout.
pub(super) struct Wired {
    pub(super) router: Namespace,
    pub(super) gateways: Vec<Namespace>,
    pub(super) nodes: Vec<Namespace>,
    pub(super) clients: Vec<Namespace>,
    pub(super) control_planes: Vec<Namespace>,
    pub(super) pods: Vec<Namespace>,
}

/// Makes namespaces and links, and gives every host its addresses; the router's are left to the router.
pub(super) fn wire(footprint: &Footprint, layout: &Layout) -> Result<Wired> {
    let forwards = [HOST, FORWARDS].concat();
    let make = |host: &str, sysctls: &[(&str, &str)]| -> Result<Namespace> {
        let _making = making();
        Namespace::create(&format!("{}-{host}", footprint.id()), sysctls)
    };
    let hosts = |hosts: &[Host]| hosts.iter().map(|host| make(&host.name, HOST)).collect::<Result<Vec<_>>>();
    let wired = Wired {
        router: make("router", &forwards)?,
        gateways: hosts(&layout.gateways)?,
        nodes: layout.nodes.iter().map(|node| make(&node.host.name, &forwards)).collect::<Result<_>>()?,
        clients: hosts(&layout.clients)?,
        control_planes: hosts(&layout.control_planes)?,
        pods: layout.pods.iter().map(|pod| make(&pod.name, HOST)).collect::<Result<_>>()?,
    };
    ip_batch(&[], &links(layout, &wired))?;
    set_up_hosts(layout, &wired)?;
    Ok(wired)
}

/// One line per veth pair, each end made where it belongs.
fn links(layout: &Layout, wired: &Wired) -> Vec<String> {
    let mut lines = Vec::new();
    let gateways = layout.gateways.iter().zip(&wired.gateways);
    let nodes = layout.nodes.iter().map(|node| &node.host).zip(&wired.nodes);
    let clients = layout.clients.iter().zip(&wired.clients);
    let control_planes = layout.control_planes.iter().zip(&wired.control_planes);
    for (host, namespace) in gateways.chain(nodes).chain(clients).chain(control_planes) {
        lines.push(pair(&wired.router, &host.uplink.router_interface, namespace));
    }
    for (pod, namespace) in layout.pods.iter().zip(&wired.pods) {
        lines.push(pair(&wired.nodes[pod.node], &pod.interface, namespace));
    }
    lines
}

/// A veth between two namespaces; it is `eth0` in the inner one.
fn pair(outer: &Namespace, interface: &str, inner: &Namespace) -> String {
    let (outer, inner) = (outer.name(), inner.name());
    format!("link add {interface} netns {outer} type veth peer name eth0 netns {inner}")
}

/// Makes the link of a host again after it was deleted; the router's addresses and routes are left to the router.
pub(super) fn wire_again(router: &Namespace, namespace: &Namespace, host: &Host) -> Result<()> {
    ip_batch(&[], &[pair(router, &host.uplink.router_interface, namespace)])?;
    namespace.ip(&host_lines(host))?;
    finish_checksums(namespace)
}

/// The namespace of a pod that comes later.
pub(super) fn pod_namespace(world: &str, name: &str) -> Result<Namespace> {
    Namespace::create(&format!("{world}-{name}"), HOST)
}

/// Joins such a pod to its node.
pub(super) fn wire_pod(
    node: &NodeSeat,
    node_namespace: &Namespace,
    pod: &PodSeat,
    namespace: &Namespace,
) -> Result<()> {
    ip_batch(&[], &[pair(node_namespace, &pod.interface, namespace)])?;
    node_namespace.ip(&node_lines(node, pod))?;
    namespace.ip(&pod_lines(node, pod))?;
    finish_checksums(namespace)
}

/// A veth leaves checksums to the receiver's good faith; once XDP rewrites or redirects the packet, nobody makes them
/// good. Real NICs send finished packets, and so does every eth0 here.
fn finish_checksums(namespace: &Namespace) -> Result<()> {
    namespace.command("ethtool", &["-K", "eth0", "tx", "off"])?;
    Ok(())
}

fn set_up_hosts(layout: &Layout, wired: &Wired) -> Result<()> {
    let mut work = VecDeque::new();
    for (host, namespace) in layout.gateways.iter().zip(&wired.gateways) {
        work.push_back((namespace, host_lines(host)));
    }
    let control_planes = layout.control_planes.iter().zip(&wired.control_planes);
    for (host, namespace) in layout.clients.iter().zip(&wired.clients).chain(control_planes) {
        work.push_back((namespace, host_lines(host)));
    }
    for (number, (node, namespace)) in layout.nodes.iter().zip(&wired.nodes).enumerate() {
        let mut lines = host_lines(&node.host);
        let pods = layout.pods.iter().filter(|pod| pod.node == number);
        lines.extend(pods.flat_map(|pod| node_lines(node, pod)));
        work.push_back((namespace, lines));
    }
    for (pod, namespace) in layout.pods.iter().zip(&wired.pods) {
        work.push_back((namespace, pod_lines(&layout.nodes[pod.node], pod)));
    }
    let work = Mutex::new(work);
    let next = || work.lock().expect("never poisoned: nothing panics under it").pop_front();
    thread::scope(|scope| {
        let set_up = || -> Result<()> {
            while let Some((namespace, lines)) = next() {
                namespace.ip(&lines)?;
                finish_checksums(namespace)?;
            }
            Ok(())
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(set_up)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("setting up doesn't panic"))
    })
}

fn host_lines(host: &Host) -> Vec<String> {
    let (v4, v6) = host.uplink.host;
    let (router_v4, router_v6) = host.uplink.router;
    vec![
        "link set dev lo up".to_owned(),
        format!("addr add {v4}/31 dev eth0"),
        format!("addr add {v6}/64 dev eth0 nodad"),
        "link set dev eth0 up".to_owned(),
        format!("route add 0.0.0.0/0 via {router_v4}"),
        format!("route add ::/0 via {router_v6}"),
    ]
}

/// The node's side of a pod's veth.
fn node_lines(node: &NodeSeat, pod: &PodSeat) -> Vec<String> {
    let interface = &pod.interface;
    vec![
        format!("addr add {}/32 dev {interface}", node.pods_next_hop),
        format!("addr add {PODS_NEXT_HOP_V6}/64 dev {interface} nodad"),
        format!("link set dev {interface} up"),
        format!("route add {}/32 dev {interface} src {}", pod.address.0, node.pods_next_hop),
        format!("route add {}/128 dev {interface}", pod.address.1),
    ]
}

fn pod_lines(node: &NodeSeat, pod: &PodSeat) -> Vec<String> {
    vec![
        "link set dev lo up".to_owned(),
        format!("addr add {}/32 dev eth0", pod.address.0),
        format!("addr add {}/128 dev eth0 nodad", pod.address.1),
        "link set dev eth0 up".to_owned(),
        format!("route add {}/32 dev eth0", node.pods_next_hop),
        format!("route add 0.0.0.0/0 via {}", node.pods_next_hop),
        format!("route add ::/0 via {PODS_NEXT_HOP_V6} dev eth0"),
    ]
}
