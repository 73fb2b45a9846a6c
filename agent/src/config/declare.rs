//! The configuration as the core's declarations.

use std::sync::Arc;

use fairlead_core::model::{Cluster, Declarations, Distances, Gateway, Here, Place, ProbeSpec, Tuning};

use super::types::{Config, GatewayConfig, Name, Role};

/// What the core plans with.
#[must_use]
pub fn declarations(config: &Config) -> Declarations {
    let cluster = |c: &super::types::ClusterConfig| {
        let place = Place::new(Arc::clone(&c.region.0), Arc::clone(&c.zone.0), Arc::clone(&c.name.0));
        (Arc::clone(&c.name.0), Cluster { place, pod_cidrs: c.pod_cidrs.clone() })
    };
    let gateway = |g: &GatewayConfig| Gateway {
        name: Arc::clone(&g.name.0),
        group: group_of(config, g),
        prefixes: g.tunnel.iter().map(|prefix| prefix.0).collect(),
    };
    let mut distances = Distances::default();
    for distance in &config.distances {
        if let [a, b] = distance.between.as_slice() {
            distances.set(Arc::clone(&a.0), Arc::clone(&b.0), distance.distance);
        }
    }
    Declarations {
        here: here(config),
        clusters: config.clusters.iter().map(cluster).collect(),
        gateways: config.gateways.iter().map(gateway).collect(),
        pools: config.vip_pools.clone(),
        reserved: config.gateways.iter().flat_map(|g| &g.tunnel).map(|prefix| prefix.0).collect(),
        distances,
        tuning: tuning(config),
        probe: probe(config),
    }
}

fn here(config: &Config) -> Here {
    let node = &config.node;
    let own = config.own_gateway();
    let either = |here: &Option<Name>, there: fn(&GatewayConfig) -> &Option<Name>| {
        here.clone().or_else(|| own.and_then(|own| there(own).clone()))
    };
    let place = place(
        config,
        either(&node.cluster, |own| &own.cluster).as_ref(),
        either(&node.region, |own| &own.region).as_ref(),
        either(&node.zone, |own| &own.zone).as_ref(),
    );
    let group = own.map_or_else(|| Arc::clone(&place.region), |own| group_of(config, own));
    let of_group = config.gateways.iter().filter(|gateway| group_of(config, gateway) == group);
    let plans_from = of_group.map(|gateway| place_of(config, gateway)).reduce(|a, b| a.common(&b));
    let has = |v4| own.is_some_and(|own| own.tunnel.iter().any(|prefix| prefix.0.addr().is_ipv4() == v4));
    Here {
        node: Arc::clone(&node.name.0),
        plans_from: plans_from.unwrap_or_else(|| place.clone()),
        place,
        group,
        gateway: config.has(Role::Gateway),
        receiver: config.has(Role::Receiver),
        tunnel_v4: has(true),
        tunnel_v6: has(false),
        tunnel: config.tunnel.encapsulation,
        tunnel_mtu: config.tunnel.mtu,
    }
}

fn group_of(config: &Config, gateway: &GatewayConfig) -> Arc<str> {
    match &gateway.group {
        Some(group) => Arc::clone(&group.0),
        None => place_of(config, gateway).region,
    }
}

fn place_of(config: &Config, gateway: &GatewayConfig) -> Place {
    place(config, gateway.cluster.as_ref(), gateway.region.as_ref(), gateway.zone.as_ref())
}

/// A cluster gives region and zone.
fn place(config: &Config, cluster: Option<&Name>, region: Option<&Name>, zone: Option<&Name>) -> Place {
    let text = |name: Option<&Name>| name.map_or_else(|| Arc::from(""), |name| Arc::clone(&name.0));
    match config.clusters.iter().find(|known| Some(&known.name) == cluster) {
        Some(known) => Place::new(text(Some(&known.region)), text(Some(&known.zone)), text(cluster)),
        None => Place::new(text(region), text(zone), ""),
    }
}

fn tuning(config: &Config) -> Tuning {
    let planner = &config.planner;
    Tuning {
        panic_percent: planner.panic_percent,
        return_duration: planner.return_duration,
        return_steps: planner.return_steps,
        demand_smoothing: planner.demand_smoothing,
        demand_band_percent: planner.demand_band_percent,
        linger: planner.linger_duration,
        udp_unsettled: planner.udp_unsettled_duration,
        withdrawal_percent: planner.withdrawal_percent,
    }
}

fn probe(config: &Config) -> ProbeSpec {
    let probes = &config.probes;
    ProbeSpec {
        kind: probes.kind,
        path: Arc::clone(&probes.path),
        port: None,
        interval: probes.interval,
        timeout: probes.timeout,
        rise: probes.rise,
        fall: probes.fall,
    }
}
