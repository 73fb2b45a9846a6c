//! Nodes as a CNI of the usual veth kind leaves them: reverse-path filter, connection tracking, masquerade, and pods
//! whose checksums nobody has finished yet.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use fairlead_tests::world::{Federation, Namespace, Plan, ServiceSpec, World};

use crate::served::Served;

/// What kube-proxy and CNIs put on a node: nothing that connection tracking finds odd is forwarded, and pods have the
/// node's address outside the pods' own range.
const RULES: &str = "table inet cni {
    counter invalid {
    }
    counter replies {
    }
    chain forward {
        type filter hook forward priority 0;
        ct state invalid counter name invalid drop
        ct direction reply counter name replies
    }
    chain postrouting {
        type nat hook postrouting priority srcnat;
        ip saddr 198.18.0.0/16 ip daddr != 198.18.0.0/16 masquerade
        ip6 saddr 2001:db8:1::/48 ip6 daddr != 2001:db8:1::/48 masquerade
    }
}";

/// Packets that a counter of [`RULES`] has seen.
fn counted(node: &Namespace, name: &str) -> u64 {
    let text = node.command("nft", &["-j", "list", "counter", "inet", "cni", name]).unwrap();
    let listed: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut entries = listed["nftables"].as_array().unwrap().iter();
    entries.find_map(|entry| entry["counter"]["packets"].as_u64()).unwrap()
}

fn with_nodes(prepare: impl Fn(&World)) -> Served {
    let service = ServiceSpec::new("web", 1);
    Served::with(&Plan::small(), &Federation::default(), service.clone(), |world| {
        world.add_service(&service).unwrap();
        prepare(world);
    })
}

/// Everything that a client does with a VIP, both ways, in many small packets and in large ones.
fn assert_serves(served: &Served) {
    assert_eq!(served.answering(), served.pods());
    let client = served.client();
    let pattern: Vec<u8> = (0..=u8::MAX).cycle().take(1_048_576).collect();
    for &vip in &served.service.vips {
        assert_eq!(client.get(&served.url(vip, "/bytes/1048576")).unwrap().body, pattern);
        let answer = client.post(&served.url(vip, "/upload"), &pattern).unwrap();
        assert!(answer.text().ends_with("received=1048576\n"), "{}", answer.text());
        for size in [1, 2, 501, 1000] {
            let server = SocketAddr::new(vip, served.service.udp_port);
            let echo = client.datagram(server, &pattern[..size]).unwrap();
            assert!(echo.ends_with(&pattern[..size]));
        }
    }
}

#[test]
fn nodes_that_filter_track_and_masquerade_serve_both_ways() {
    let served = with_nodes(|world| {
        let node = world.namespace(&world.layout.nodes[0].host.name).unwrap();
        for interface in ["all", "default", "eth0", "pod1", "pod2"] {
            node.sysctl(&format!("ipv4/conf/{interface}/rp_filter"), "1").unwrap();
        }
        node.command("nft", &[RULES]).unwrap();
    });
    served.wait_until_served();
    assert_serves(&served);
    let node = served.world.namespace(served.node(0).host()).unwrap();
    assert!(counted(node, "replies") > 500, "connections are not tracked");
    assert_eq!(counted(node, "invalid"), 0);
    // The rules do what they say to what pods begin themselves.
    let (client, uplink) = (&served.client().host.uplink, &served.world.layout.nodes[0].host.uplink);
    let rows: [(IpAddr, IpAddr); 2] =
        [(client.host.0.into(), uplink.host.0.into()), (client.host.1.into(), uplink.host.1.into())];
    for (to, masqueraded) in rows {
        let bind = |address: IpAddr| Ok(UdpSocket::bind(SocketAddr::new(address, 0))?);
        let server = served.client().namespace.run(|| bind(to)).unwrap();
        server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let any = if to.is_ipv4() { "0.0.0.0" } else { "::" };
        let pod = served.world.pods()[0].namespace.run(|| bind(any.parse().unwrap())).unwrap();
        pod.send_to(b"ahoy", server.local_addr().unwrap()).unwrap();
        assert_eq!(server.recv_from(&mut [0; 9]).unwrap().1.ip(), masqueraded);
    }
}

#[test]
fn replies_whose_checksums_pods_leave_to_the_device_are_good() {
    let served = with_nodes(|world| {
        for pod in world.pods() {
            pod.namespace.command("ethtool", &["-K", "eth0", "tx", "on", "tso", "on"]).unwrap();
            let features = pod.namespace.command("ethtool", &["-k", "eth0"]).unwrap();
            for feature in ["tx-checksumming: on", "tcp-segmentation-offload: on"] {
                assert!(features.contains(feature), "{features}");
            }
        }
    });
    served.wait_until_served();
    assert_serves(&served);
}
