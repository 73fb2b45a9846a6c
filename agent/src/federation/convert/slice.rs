//! EndpointSlice objects.

use std::net::IpAddr;
use std::sync::Arc;

use fairlead_core::model::{Conditions, Endpoint, ObjectName, TargetPorts};
use k8s_openapi::api::discovery::v1::{Endpoint as SourceEndpoint, EndpointPort, EndpointSlice};

use super::{Fault, Faults, Kind, field, key, port_number, shared};

/// The label that says whose endpoints a slice holds.
pub const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// Some endpoints of one service, all of one IP version.
#[derive(Clone, Debug, PartialEq)]
pub struct Slice {
    /// Whose.
    pub service: ObjectName,
    /// In the order of the object.
    pub endpoints: Vec<SliceEndpoint>,
}

/// An endpoint in one slice.
#[derive(Clone, Debug, PartialEq)]
pub struct SliceEndpoint {
    /// Which pod it is; the slices of a dual-stack service name each pod twice.
    pub identity: Identity,
    /// With one address; `receiver` is not known yet.
    pub endpoint: Endpoint,
}

/// What two slices have in common about one endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// `targetRef.uid`.
    Uid(Arc<str>),
    /// `targetRef.name`.
    Pod(Arc<str>),
    /// Node and hostname.
    Host(Arc<str>, Arc<str>),
    /// Nothing but the address.
    Address(IpAddr),
}

/// The endpoints of an EndpointSlice; `None` where it belongs to no service, holds names instead of addresses,
/// or is rejected. An endpoint with a bad address is left out alone.
#[must_use]
pub fn slice(object: &EndpointSlice) -> (Option<Slice>, Vec<Fault>) {
    let labels = object.metadata.labels.as_ref();
    let Some(service) = labels.and_then(|labels| labels.get(SERVICE_LABEL)).filter(|name| !name.is_empty())
    else {
        return (None, Vec::new());
    };
    let mut faults = Faults::default();
    let is_v4 = match object.address_type.as_str() {
        "IPv4" => true,
        "IPv6" => false,
        "FQDN" => {
            faults.leave_out(
                field(&["addressType"]),
                "names can't be steered to, only IPv4 and IPv6 addresses",
            );
            return (None, faults.0);
        }
        other => {
            faults.reject(field(&["addressType"]), format!("{other:?} is neither IPv4 nor IPv6"));
            return (None, faults.0);
        }
    };
    let ports = Arc::new(target_ports(object.ports.as_deref().unwrap_or_default(), &mut faults));
    let mut names = Vec::new();
    let mut endpoints = Vec::with_capacity(object.endpoints.as_ref().map_or(0, Vec::len));
    for (index, source) in object.endpoints.iter().flatten().enumerate() {
        match address(source, is_v4) {
            Ok(address) => endpoints.push(endpoint(source, address, &ports, &mut names)),
            Err(message) => {
                let path = field(&["endpoints"]).index(index).key("addresses");
                let path = if source.addresses.is_empty() { path } else { path.index(0) };
                faults.leave_out(path, message);
            }
        }
    }
    let service = key(Kind::Service, object.metadata.namespace.as_deref(), service).name;
    let slice = Slice { service, endpoints };
    (if faults.rejects() { None } else { Some(slice) }, faults.0)
}

/// Port names to numbers; the names are those of the Service's ports, the numbers the pods' own.
fn target_ports(ports: &[EndpointPort], faults: &mut Faults) -> TargetPorts {
    let mut numbers = TargetPorts::new();
    for (index, port) in ports.iter().enumerate() {
        // Without a number: "all ports", which no Service of ours has.
        let Some(number) = port.port else { continue };
        let path = field(&["ports"]).index(index);
        match port_number(number) {
            Ok(number) => {
                let name = port.name.as_deref().unwrap_or_default();
                if numbers.insert(Arc::from(name), number).is_some() {
                    faults.reject(path.key("name"), format!("{name:?} is the name of two ports"));
                }
            }
            Err(message) => faults.reject(path.key("port"), message),
        }
    }
    numbers
}

/// All addresses of an endpoint mean the same; the first is used, as kube-proxy does.
fn address(source: &SourceEndpoint, is_v4: bool) -> Result<IpAddr, String> {
    let Some(text) = source.addresses.first() else {
        return Err("the endpoint has no address; it is left out".to_owned());
    };
    match text.parse::<IpAddr>() {
        Ok(address) if address.is_ipv4() == is_v4 => Ok(address),
        Ok(_) => Err(format!("{text} is not of the slice's addressType; the endpoint is left out")),
        Err(_) => Err(format!("{text:?} is not an IP address; the endpoint is left out")),
    }
}

fn endpoint(
    source: &SourceEndpoint,
    address: IpAddr,
    ports: &Arc<TargetPorts>,
    names: &mut Vec<Arc<str>>,
) -> SliceEndpoint {
    let conditions = source.conditions.as_ref();
    let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
    let node = shared(names, source.node_name.as_deref().unwrap_or_default());
    let target = source.target_ref.as_ref();
    let text =
        |text: Option<&String>| text.filter(|text| !text.is_empty()).map(|text| Arc::from(text.as_str()));
    let pod: Option<Arc<str>> = text(target.and_then(|target| target.name.as_ref()));
    let hostname: Option<Arc<str>> = text(source.hostname.as_ref());
    let identity = if let Some(uid) = text(target.and_then(|target| target.uid.as_ref())) {
        Identity::Uid(uid)
    } else if let Some(pod) = &pod {
        Identity::Pod(Arc::clone(pod))
    } else if let Some(hostname) = hostname.as_ref().filter(|_| !node.is_empty()) {
        Identity::Host(Arc::clone(&node), Arc::clone(hostname))
    } else {
        Identity::Address(address)
    };
    let (v4, v6) = match address {
        IpAddr::V4(v4) => (Some(v4), None),
        IpAddr::V6(v6) => (None, Some(v6)),
    };
    let endpoint = Endpoint {
        pod: pod.or(hostname).unwrap_or_else(|| Arc::from(address.to_string())),
        node,
        v4,
        v6,
        ports: Arc::clone(ports),
        conditions: Conditions {
            ready,
            // Old clusters and manifests don't say: then it is as ready.
            serving: conditions.and_then(|c| c.serving).unwrap_or(ready),
            terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
        },
        zones: zones(source, names),
        receiver: false,
        drained: false,
    };
    SliceEndpoint { identity, endpoint }
}

/// The zones that the endpoint is hinted for; hints for nodes are no gateway's.
fn zones(source: &SourceEndpoint, names: &mut Vec<Arc<str>>) -> Arc<[Arc<str>]> {
    let hinted = source.hints.as_ref().and_then(|hints| hints.for_zones.as_deref()).unwrap_or_default();
    hinted.iter().map(|zone| shared(names, &zone.name)).collect()
}
