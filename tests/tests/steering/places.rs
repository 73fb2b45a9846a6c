//! Endpoints in places that are not the rule: on the gateway's own node, and such as own the VIP themselves.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use fairlead_tests::world::{Federation, HTTP_PORT, Plan, ServiceSpec};

use crate::served::{NEW_ONLY, Served, assert_nothing_failed, wait, wait_for_requests};

#[test]
fn nodes_that_are_gateways_serve_their_own_pods_and_each_others() {
    let served = Served::by_its_own_nodes();
    let names: Vec<&str> = served.world.layout.nodes.iter().map(|node| &*node.host.name).collect();
    for node in &names {
        served.world.route_vip("us-central1", &[node]).unwrap();
        served.wait_until_served();
        assert_eq!(served.answering(), served.pods(), "by {node}");
        for &vip in &served.service.vips {
            let echoes: BTreeSet<_> = (0..40)
                .map(|_| {
                    let to = SocketAddr::new(vip, served.service.udp_port);
                    let echo = served.client().datagram(to, b"").unwrap();
                    String::from_utf8(echo).unwrap().trim().rsplit('=').next().unwrap().to_owned()
                })
                .collect();
            assert_eq!(echoes, served.pods(), "datagrams by {node}");
        }
    }
    // A router that exchanges one for the other while clients ask: both steer alike.
    let load = served.load(NEW_ONLY);
    for node in [names[0], names[1], names[0]] {
        served.world.route_vip("us-central1", &[node]).unwrap();
        wait_for_requests(&load, 30);
    }
    assert_nothing_failed(load);
    let pattern: Vec<u8> = (0..=u8::MAX).cycle().take(1_048_576).collect();
    for &vip in &served.service.vips {
        assert_eq!(served.client().get(&served.url(vip, "/bytes/1048576")).unwrap().body, pattern);
    }
    // Its own dead pod is found out without a tunnel.
    let dead = &served.world.pods()[0];
    dead.kill().unwrap();
    wait("the other pod alone", || {
        served
            .service
            .vips
            .iter()
            .all(|&vip| (0..40).all(|_| served.ask(vip).is_ok_and(|answer| !answer.contains(dead.name()))))
    });
}

#[test]
fn an_endpoint_that_owns_the_vip_gets_packets_as_they_are() {
    let own = |service: ServiceSpec| service.annotation("fairlead.io/endpoint-owns-vip", "true");
    let service = ServiceSpec { http_port: HTTP_PORT, ..own(ServiceSpec::new("web", 1)) };
    let plan = Plan::default().region("us-central1", &["a"], 1);
    let served = Served::with(&plan, &Federation::default(), service.clone(), |world| {
        world.add_service(&service).unwrap();
        let (pod, node) = (&world.pods()[0], &world.layout.nodes[0].host.name);
        for vip in &service.vips {
            let length = if vip.is_ipv4() { 32 } else { 128 };
            pod.namespace.ip(&[format!("addr add {vip}/{length} dev lo")]).unwrap();
            let via = if vip.is_ipv4() { pod.addresses()[0] } else { pod.addresses()[1] };
            let route = format!("route add {vip}/{length} via {via} dev {} onlink", pod.seat.interface);
            world.namespace(node).unwrap().ip(&[route]).unwrap();
        }
    });
    served.wait_until_served();
    assert_eq!(served.answering(), served.pods());
    // Probes reach it as clients do.
    served.world.pods()[0].kill().unwrap();
    served.wait_for_status("the panic of the only one", |status| {
        status["problems"].to_string().contains("probes are not believed")
    });
    served.world.pods()[0].start_again().unwrap();
    served.wait_for_status("no panic", |status| status["problems"] == serde_json::json!([]));
}
