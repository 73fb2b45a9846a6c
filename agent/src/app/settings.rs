//! The configuration as the programs and their maps need it.

use std::net::IpAddr;

use fairlead_abi::{Address, CACHE_ENTRIES, Roles, Settings, SocketOffsets, TunnelSource};
use fairlead_core::{
    asks::{self, Rate},
    planner,
};
use ipnet::IpNet;

use crate::{
    config::{Config, types::Role},
    dataplane::Capacities,
};

/// Entries of a bucket on average, at most, of the three that it has room for: beyond, ever more keys stand in a
/// bucket that is not their own.
const ENTRIES_PER_BUCKET: u32 = 1;

/// What the programs are loaded with, on maps of these sizes, but for what the running kernel says.
#[must_use]
pub fn settings(config: &Config, capacities: &Capacities) -> Settings {
    let role = |role, flag| if config.has(role) { flag } else { 0 };
    let tunnels: Vec<IpNet> = config
        .own_gateway()
        .map(|own| own.tunnel.iter().map(|prefix| prefix.0).collect())
        .unwrap_or_default();
    let source = |v4| tunnels.iter().find(|prefix| prefix.addr().is_ipv4() == v4).copied().map(tunnel_source);
    Settings {
        seed: config.seed.0,
        roles: role(Role::Gateway, Roles::GATEWAY) | role(Role::Receiver, Roles::RECEIVER),
        bucket_mask: capacities.tables.buckets - 1,
        tunnel_v4: source(true).unwrap_or_default(),
        tunnel_v6: source(false).unwrap_or_default(),
        icmp_per_second: config.icmp_per_second,
        cache_mask: capacities.cache - 1,
        bounces_per_second: config.limits.bounces_per_second,
        bounces_per_prefix: config.limits.bounces_per_prefix,
        reports_per_second: config.limits.unclaimed_per_second,
        bounces_in_all: config.limits.bounces_in_all,
        recent_mask: capacities.recent() - 1,
        padding: 0,
        sockets: SocketOffsets::default(),
    }
}

/// How much is asked of receivers.
pub(super) fn limits(config: &Config) -> asks::Limits {
    let wanted = &config.limits;
    let rate = |per_second: u32, burst: u32| Rate { per_second, burst };
    asks::Limits {
        per_prefix: rate(wanted.asks_per_prefix, wanted.asks_per_prefix.saturating_mul(2)),
        in_all: rate(wanted.asks_per_second, wanted.asks_per_second),
        counts: rate(wanted.counts_per_second, wanted.counts_per_second.div_ceil(10)),
    }
}

/// A prefix as a source of tunnels: its first address, and which of the last 32 bits vary.
fn tunnel_source(prefix: IpNet) -> TunnelSource {
    let host_bits = u32::from(prefix.max_prefix_len() - prefix.prefix_len()).min(32);
    let vary = u32::MAX.checked_shr(32 - host_bits).unwrap_or(0);
    // An address alone is meant as it stands; of a prefix, the bits that vary start at zero.
    let address: IpAddr = if host_bits == 0 { prefix.addr() } else { prefix.network() };
    TunnelSource { address: Address::from(address), vary: vary.to_be_bytes(), padding: 0 }
}

/// The sizes that the maps should have.
#[must_use]
pub fn capacities(config: &Config) -> Capacities {
    let wanted = &config.capacities;
    Capacities {
        tables: planner::Capacities {
            buckets: buckets(config),
            slots: wanted.slots,
            backends: wanted.backends,
            service_ids: wanted.services + 1,
            hops: wanted.hops,
            deliveries: wanted.deliveries,
            gateways: wanted.gateways,
            source_ranges: wanted.source_ranges,
        },
        flows: wanted.flows,
        half_open: wanted.half_open,
        probes: wanted.probes,
        cache: (wanted.cached_flows / CACHE_ENTRIES).next_power_of_two(),
        fragments: wanted.fragments,
    }
}

fn buckets(config: &Config) -> u32 {
    config.capacities.services.div_ceil(ENTRIES_PER_BUCKET).next_power_of_two()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_the_cores_own_unless_told_otherwise() {
        let text = "seed: 1\nnode: {name: g, region: eu, roles: [gateway], interfaces: [eth0]}\n\
                    gateways: [{name: g, region: eu, tunnel: [192.0.2.1]}]\n\
                    clusters: [{name: a, region: eu, zone: a, podCidrs: [10.1.0.0/16], manifests: a}]\n";
        let read = |text: &str| crate::config::parse(text, std::path::Path::new("/etc/config.yaml")).unwrap();
        assert_eq!(limits(&read(text)), asks::Limits::default());
        let told = "limits: {asksPerPrefix: 3, asksPerSecond: 50, countsPerSecond: 7}\n";
        let expected = asks::Limits {
            per_prefix: Rate { per_second: 3, burst: 6 },
            in_all: Rate { per_second: 50, burst: 50 },
            counts: Rate { per_second: 7, burst: 1 },
        };
        assert_eq!(limits(&read(&format!("{text}{told}"))), expected);
    }

    #[test]
    fn a_prefix_varies_in_its_host_bits_only() {
        let source = tunnel_source("198.51.100.64/28".parse().unwrap());
        assert_eq!(source.address, Address::v4([198, 51, 100, 64]));
        assert_eq!(source.vary, [0, 0, 0, 15]);
    }

    #[test]
    fn a_single_address_does_not_vary() {
        assert_eq!(tunnel_source("198.51.100.7/32".parse().unwrap()).vary, [0; 4]);
        assert_eq!(tunnel_source("2001:db8::7/128".parse().unwrap()).vary, [0; 4]);
    }

    #[test]
    fn a_wide_ipv6_prefix_varies_in_32_bits() {
        let source = tunnel_source("2001:db8:9::/64".parse().unwrap());
        assert_eq!(source.vary, [255; 4]);
    }
}
