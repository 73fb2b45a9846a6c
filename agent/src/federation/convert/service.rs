//! Service objects.

use std::net::IpAddr;
use std::sync::Arc;

use fairlead_core::model::{Protocol, ServicePort, ShardSpec, Unhonoured};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServiceSpec};

use super::annotations::PREFIX;
use super::{CLASS, Defaults, Fault, Faults, annotations, field, port_number};
use crate::yaml::Path;

/// The `appProtocol` of ports whose servers name themselves in their connection IDs, behind [`PREFIX`].
const QUIC: &str = "quic";

/// The annotation that stands for `spec.loadBalancerSourceRanges`.
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

/// What a Service object asks for, without endpoints; `None` where it is not ours or rejected.
#[must_use]
pub fn service(service: &Service, defaults: Defaults) -> (Option<ShardSpec>, Vec<Fault>) {
    let Some(spec) = service.spec.as_ref().filter(|spec| is_ours(spec)) else { return (None, Vec::new()) };
    let mut faults = Faults::default();
    let read = annotations::read(service.metadata.annotations.as_ref(), defaults, &mut faults);
    let requested_vips = match read.vips {
        Some(vips) => vips,
        None => load_balancer_ip(spec, &mut faults),
    };
    let (wants_v4, wants_v6) = families(spec, &requested_vips, &mut faults);
    let shard = ShardSpec {
        requested_vips,
        wants_v4,
        wants_v6,
        ports: ports(spec, &mut faults),
        options: read.options,
        by_client: by_client(spec, &mut faults),
        source_ranges: source_ranges(service, spec, &mut faults),
        unhonoured: unhonoured(spec),
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
        created: service.metadata.creation_timestamp.as_ref().map(|time| time.0.as_second()),
        drained: false,
        endpoints: Arc::default(),
    };
    (if faults.rejects() { None } else { Some(shard) }, faults.0)
}

fn is_ours(spec: &ServiceSpec) -> bool {
    spec.type_.as_deref() == Some("LoadBalancer") && spec.load_balancer_class.as_deref() == Some(CLASS)
}

fn load_balancer_ip(spec: &ServiceSpec, faults: &mut Faults) -> Vec<IpAddr> {
    let Some(text) = spec.load_balancer_ip.as_deref().filter(|text| !text.is_empty()) else {
        return Vec::new();
    };
    match text.parse() {
        Ok(vip) => vec![vip],
        Err(_) => {
            let message = format!("{text:?} is not an IP address: write such as 203.0.113.7");
            faults.reject(field(&["spec", "loadBalancerIP"]), message);
            Vec::new()
        }
    }
}

/// Which IP versions it wants. API servers always fill in `ipFamilies`; manifests may leave it out.
fn families(spec: &ServiceSpec, vips: &[IpAddr], faults: &mut Faults) -> (bool, bool) {
    let names = spec.ip_families.as_deref().unwrap_or_default();
    for (index, name) in names.iter().enumerate() {
        if name != "IPv4" && name != "IPv6" {
            let message = format!("{name:?} is neither IPv4 nor IPv6");
            faults.reject(field(&["spec", "ipFamilies"]).index(index), message);
        }
    }
    if !names.is_empty() {
        let has = |family: &str| names.iter().any(|name| name == family);
        return (has("IPv4"), has("IPv6"));
    }
    if matches!(spec.ip_family_policy.as_deref(), Some("RequireDualStack" | "PreferDualStack")) {
        return (true, true);
    }
    let v6_only = !vips.is_empty() && vips.iter().all(IpAddr::is_ipv6);
    (!v6_only, vips.iter().any(IpAddr::is_ipv6))
}

fn by_client(spec: &ServiceSpec, faults: &mut Faults) -> bool {
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => false,
        Some("ClientIP") => true,
        Some(other) => {
            let message = format!("{other:?} is neither None nor ClientIP");
            faults.reject(field(&["spec", "sessionAffinity"]), message);
            false
        }
    }
}

/// The clients that it lets in: the field, else the annotation. None given: all.
fn source_ranges(service: &Service, spec: &ServiceSpec, faults: &mut Faults) -> Vec<IpNet> {
    let named = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    if !named.is_empty() {
        let path = field(&["spec", "loadBalancerSourceRanges"]);
        let named = named.iter().enumerate();
        return named.filter_map(|(index, text)| range(text, || path.index(index), faults)).collect();
    }
    let annotations = service.metadata.annotations.as_ref();
    let text =
        annotations.and_then(|annotations| annotations.get(SOURCE_RANGES)).map_or("", |text| text.trim());
    if text.is_empty() {
        return Vec::new();
    }
    let path = || field(&["metadata", "annotations", SOURCE_RANGES]);
    text.split(',').filter_map(|text| range(text, path, faults)).collect()
}

/// As Kubernetes has it: the bits beside the prefix don't matter.
fn range(text: &str, path: impl Fn() -> Path, faults: &mut Faults) -> Option<IpNet> {
    let text = text.trim();
    match text.parse::<IpNet>() {
        Ok(range) => Some(unmapped(range.trunc())),
        Err(_) => {
            let message =
                format!("{text:?} is not a range of addresses: write such as 192.0.2.0/24 or 2001:db8::/32");
            faults.reject(path(), message);
            None
        }
    }
}

/// A range of IPv4 addresses in the shape of IPv6 is one of IPv4, as Kubernetes has it.
fn unmapped(range: IpNet) -> IpNet {
    let IpAddr::V6(address) = range.addr() else { return range };
    match (address.to_ipv4_mapped(), range.prefix_len().checked_sub(96)) {
        (Some(v4), Some(length)) => IpNet::new(v4.into(), length).unwrap_or(range),
        _ => range,
    }
}

/// What it asks for that gateways don't do.
fn unhonoured(spec: &ServiceSpec) -> Vec<Unhonoured> {
    let local = spec.external_traffic_policy.as_deref() == Some("Local");
    let health = spec.health_check_node_port.is_some_and(|port| port != 0);
    let distribution = match spec.traffic_distribution.as_deref() {
        // Their hints stand in the slices.
        None | Some("" | "PreferClose" | "PreferSameZone") => None,
        Some("PreferSameNode") => Some(Unhonoured::SameNode),
        Some(_) => Some(Unhonoured::TrafficDistribution),
    };
    let all = [
        local.then_some(Unhonoured::ExternalTrafficPolicy),
        health.then_some(Unhonoured::HealthCheckNodePort),
        distribution,
    ];
    all.into_iter().flatten().collect()
}

fn ports(spec: &ServiceSpec, faults: &mut Faults) -> Vec<ServicePort> {
    let mut ports = Vec::new();
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        let path = field(&["spec", "ports"]).index(index);
        let protocol = match port.protocol.as_deref() {
            None | Some("TCP") => Protocol::Tcp,
            Some("UDP") => Protocol::Udp,
            Some(other) => {
                let message = format!("{other:?} is not served, only TCP and UDP are; this port is left out");
                faults.leave_out(path.key("protocol"), message);
                continue;
            }
        };
        match port_number(port.port) {
            Ok(number) => {
                let name = Arc::from(port.name.as_deref().unwrap_or_default());
                let quic = is_quic(port.app_protocol.as_deref(), protocol, &path, faults);
                let app_protocol =
                    port.app_protocol.as_deref().filter(|text| !text.is_empty()).map(Arc::from);
                ports.push(ServicePort { port: number, protocol, name, quic, app_protocol });
            }
            Err(message) => faults.reject(path.key("port"), message),
        }
    }
    if ports.is_empty() && !faults.rejects() {
        faults.reject(field(&["spec", "ports"]), "there is no TCP or UDP port: add one");
    }
    // Thousands of services have one or two.
    ports.shrink_to_fit();
    ports
}

/// Whether a port's `appProtocol` says that it is QUIC. Names that are not ours are for others to read.
fn is_quic(app_protocol: Option<&str>, protocol: Protocol, port: &Path, faults: &mut Faults) -> bool {
    let Some(name) = app_protocol.and_then(|text| text.strip_prefix(PREFIX)) else { return false };
    let path = port.key("appProtocol");
    match (name, protocol) {
        (QUIC, Protocol::Udp) => return true,
        (QUIC, Protocol::Tcp) => {
            faults.reject(
                path,
                format!("{PREFIX}{QUIC} is for UDP ports: write protocol: UDP, or leave it out"),
            );
        }
        _ => faults.leave_out(path, format!("there is no {PREFIX}{name}: did you mean {PREFIX}{QUIC}?")),
    }
    false
}
