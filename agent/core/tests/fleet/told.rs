//! How the world is told to gateways: what is declared, and what the API server says.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use fairlead_abi::{Address, Flow, flow_hash};
use fairlead_core::model::{
    Cluster, ClusterState, Conditions, Declarations, Endpoint, Here, ObjectName, Place, Protocol,
    ServicePort, ShardSpec, TargetPorts,
};

/// The cluster's and the service's name.
pub(crate) const CLUSTER: &str = "one";

/// A flow's place in rings.
pub(crate) fn hash(flow: u64) -> u32 {
    let [.., a, b, c, d] = flow.to_be_bytes();
    let flow = Flow { client: Address::v4([198, 18, a, b]), ports: [c, d, 0, 80] };
    flow_hash(7, &flow)
}

pub(crate) fn spec() -> ShardSpec {
    ShardSpec {
        wants_v4: true,
        ports: vec![
            ServicePort {
                port: 80,
                protocol: Protocol::Tcp,
                name: Arc::from("http"),
                quic: false,
                app_protocol: None,
            },
            ServicePort {
                port: 443,
                protocol: Protocol::Udp,
                name: Arc::from("quic"),
                quic: true,
                app_protocol: None,
            },
        ],
        ..ShardSpec::default()
    }
}

pub(crate) fn endpoint(outer: IpAddr, ready: bool) -> Endpoint {
    let IpAddr::V4(v4) = outer else { unreachable!("pods have IPv4 addresses") };
    Endpoint {
        pod: Arc::from(outer.to_string()),
        node: Arc::from(outer.to_string()),
        v4: Some(v4),
        v6: None,
        ports: Arc::new(TargetPorts::from([(Arc::from("http"), 8080), (Arc::from("quic"), 8443)])),
        conditions: Conditions { ready, ..Conditions::READY },
        zones: Arc::default(),
        receiver: true,
        drained: false,
    }
}

/// What a source reports.
pub(crate) fn shards(spec: &Arc<ShardSpec>) -> BTreeMap<Arc<str>, ClusterState> {
    let shards = BTreeMap::from([(ObjectName::new("shop", CLUSTER), Arc::clone(spec))]);
    BTreeMap::from([(Arc::from(CLUSTER), ClusterState { reachable: true, shards, accepted: false })])
}

pub(crate) fn declarations() -> Declarations {
    let place = Place::new("r", "z", CLUSTER);
    let cluster = Cluster { place: place.clone(), pod_cidrs: vec!["10.0.0.0/8".parse().expect("a prefix")] };
    Declarations {
        here: Here {
            place: place.clone(),
            plans_from: place,
            gateway: true,
            tunnel_v4: true,
            ..Here::default()
        },
        clusters: BTreeMap::from([(Arc::from(CLUSTER), cluster)]),
        pools: vec!["203.0.113.0/24".parse().expect("a prefix")],
        ..Declarations::default()
    }
}
