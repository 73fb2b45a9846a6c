//! What a receiver delivers, from a model to tables.

use std::net::IpAddr;
use std::sync::Arc;

use fairlead_abi::{Address, Delivery, DeliveryKey, ENDPOINT_OWNS_VIP, Encap, Family};

use crate::fixtures::*;
use crate::model::*;
use crate::planner::tests::{declared, pod};

#[test]
fn a_receiver_delivers_its_own_endpoints() {
    let mut spec = shard(0, 2);
    spec.wants_v6 = true;
    let endpoints = Arc::make_mut(&mut spec.endpoints);
    endpoints[0].node = Arc::from("node-0");
    endpoints[0].conditions.ready = false;
    let mut elsewhere = shard(1, 1);
    Arc::make_mut(&mut elsewhere.endpoints)[0].node = Arc::from("node-0");
    let model = merged(&declared(), &states([(0, spec), (1, elsewhere)]), None);
    let tables = planned(&model, &Health::default());
    let outers: [Address; 2] = [IpAddr::from(pod(0, 1)).into(), "fd00::1".parse::<IpAddr>().unwrap().into()];
    let count = tables.deliveries.len();
    assert_eq!(
        count, 6,
        "two VIPs at two addresses, and these alone; another cluster's node-0 is another node"
    );
    for outer in outers {
        assert_eq!(tables.deliveries[&DeliveryKey::endpoint_only(outer)], Delivery::default());
    }
    for vip in model.services[&name("web")].vips.iter() {
        for outer in outers {
            let family = Family::of(&vip);
            let key = DeliveryKey {
                outer,
                vip: vip.into(),
                port: 80u16.to_be_bytes(),
                protocol: 6,
                family: family as u8,
                padding: 0,
            };
            let delivery = tables.deliveries[&key];
            let (endpoint, mss) = match family {
                // 1500 less GUE over IPv6, IP and TCP headers.
                Family::V4 => (outers[0], 1412),
                Family::V6 => (outers[1], 1392),
            };
            assert_eq!((delivery.endpoint, delivery.mss, delivery.flags), (endpoint, mss, 0));
            assert_eq!(u16::from_be_bytes(delivery.port), 8080);
        }
    }
    let prefixes: Vec<String> = tables.gateways.iter().map(ToString::to_string).collect();
    assert_eq!(prefixes, ["198.51.100.1/32", "2001:db8:ffff::/64"]);
}

#[test]
fn an_endpoint_that_owns_the_vip() {
    let mut spec = shard(0, 1);
    spec.options.endpoint_owns_vip = true;
    let endpoint = &mut Arc::make_mut(&mut spec.endpoints)[0];
    (endpoint.node, endpoint.v4) = (Arc::from("node-0"), None);
    let model = merged(&declared(), &states([(0, spec)]), None);
    let tables = planned(&model, &Health::default());
    let vip = model.services[&name("web")].vips.v4.unwrap();
    let (key, delivery) = tables.deliveries.iter().find(|(key, _)| key.protocol != 0).unwrap();
    assert_eq!(key.outer, "fd00::1".parse::<IpAddr>().unwrap().into());
    assert_eq!((delivery.flags, delivery.endpoint), (ENDPOINT_OWNS_VIP, IpAddr::from(vip).into()));
    assert_eq!(web(&tables).backends[0].encap, Encap::Local);
}

#[test]
fn who_owns_the_vip_answers_from_it_whatever_its_own_addresses() {
    let mut spec = shard(0, 1);
    spec.wants_v6 = true;
    spec.options.endpoint_owns_vip = true;
    Arc::make_mut(&mut spec.endpoints)[0].node = Arc::from("node-0");
    let model = merged(&declared(), &states([(0, spec)]), None);
    let tables = planned(&model, &Health::default());
    let delivered: Vec<_> = tables.deliveries.iter().filter(|(key, _)| key.protocol != 0).collect();
    assert_eq!(delivered.len(), 4, "two VIPs at two addresses");
    for (key, delivery) in delivered {
        // The SYN-ACK whose MSS is to be lowered leaves from VIP and port: the flow is filed under these.
        assert_eq!((delivery.endpoint, delivery.port), (key.vip, 80u16.to_be_bytes()));
        assert_eq!(delivery.mss, if key.vip.is_v4() { 1412 } else { 1392 });
    }
}
