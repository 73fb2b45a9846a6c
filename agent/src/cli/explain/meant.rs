//! Which service is meant by a VIP, with or without a port and a protocol; where it is none, what becomes of the packets.

use std::net::IpAddr;

use anyhow::{Result, bail};
use fairlead_abi::{DropReason, ServiceEntry};
use fairlead_core::model::Protocol;

use crate::cli::address::Vip;
use crate::cli::picture::{Picture, Service};

/// What a VIP and port are.
pub(super) enum Found<'s, 'a> {
    Service(&'s Service<'a>),
    /// No service: what becomes of the packet, and why.
    Nothing {
        drop: Option<DropReason>,
        why: String,
    },
}

/// All ports that a VIP, with or without a port and a protocol, names; or that there is none.
pub(in crate::cli) fn fitting<'s, 'a>(
    picture: &Picture<'_>,
    all: &'s [Service<'a>],
    vip: Vip,
) -> Result<Vec<&'s Service<'a>>, String> {
    let here: Vec<&Service<'_>> = all.iter().filter(|service| service.vip() == vip.ip).collect();
    if here.is_empty() {
        return Err(no_vip(picture, vip.ip));
    }
    let fitting: Vec<_> = here.iter().filter(|service| fits(vip, service)).copied().collect();
    if fitting.is_empty() { Err(not_served(picture, vip, vip.protocol, &here).1) } else { Ok(fitting) }
}

fn fits(vip: Vip, service: &Service<'_>) -> bool {
    vip.port.is_none_or(|port| port == service.key.port)
        && vip.protocol.is_none_or(|protocol| Some(protocol) == service.protocol())
}

/// The service that is meant.
pub(super) fn find<'s, 'a>(picture: &Picture<'_>, all: &'s [Service<'a>], vip: Vip) -> Result<Found<'s, 'a>> {
    let here: Vec<&Service<'_>> = all.iter().filter(|service| service.vip() == vip.ip).collect();
    let mut meant: Vec<&Service<'_>> = here.iter().filter(|service| fits(vip, service)).copied().collect();
    // Without a protocol TCP is meant, where there is a choice.
    if vip.protocol.is_none() && (vip.port.is_some() || meant.len() > 1) {
        meant.retain(|service| service.protocol() == Some(Protocol::Tcp));
    }
    match meant.as_slice() {
        [service] => Ok(Found::Service(service)),
        [] if here.is_empty() => Ok(Found::Nothing { drop: None, why: no_vip(picture, vip.ip) }),
        [] => {
            let protocol = vip.protocol.unwrap_or(Protocol::Tcp);
            let (drop, why) = not_served(picture, vip, Some(protocol), &here);
            Ok(Found::Nothing { drop, why })
        }
        _ => bail!("{} has several ports: name one of {}", vip.ip, ports(&here)),
    }
}

fn ports(services: &[&Service<'_>]) -> String {
    let port = |service: &&Service<'_>| format!("{}/{}", service.key.port, service.protocol_name());
    services.iter().map(port).collect::<Vec<_>>().join(", ")
}

fn no_vip(picture: &Picture<'_>, vip: IpAddr) -> String {
    let vips: Vec<String> = picture.vips().map(|vip| vip.to_string()).collect();
    let fate = "its packets go up to this node's own stack, as if fairlead weren't there";
    let known = match vips.as_slice() {
        [] => "there is no VIP here".to_owned(),
        [only] => format!("the VIP is {only}"),
        _ if vips.len() > 10 => "`fairlead services` lists the VIPs".to_owned(),
        _ => format!("VIPs are {}", vips.join(", ")),
    };
    let hint = without_brackets(picture.vips(), vip).map(|meant| format!("; did you mean {meant}?"));
    format!("{vip} is no VIP: {fate}; {known}{}", hint.unwrap_or_default())
}

/// An IPv6 VIP with a port, whose brackets were forgotten.
fn without_brackets(mut vips: impl Iterator<Item = IpAddr>, address: IpAddr) -> Option<String> {
    let text = address.to_string();
    let (vip, port) = text.rsplit_once(':')?;
    let (vip, port) = (vip.parse::<IpAddr>().ok()?, port.parse::<u16>().ok()?);
    vips.any(|known| known == vip).then(|| format!("[{vip}]:{port}"))
}

/// What becomes of packets to a port that there isn't, and why.
fn not_served(
    picture: &Picture<'_>,
    vip: Vip,
    protocol: Option<Protocol>,
    here: &[&Service<'_>],
) -> (Option<DropReason>, String) {
    let over = protocol.map_or_else(String::new, |protocol| format!(" over {protocol}"));
    let port = vip.port.map_or_else(String::new, |port| format!(" port {port}"));
    let flags = picture.vip_entry(vip.ip).map_or(0, |entry| entry.flags);
    let drop = (flags & ServiceEntry::PASS_UNSERVED == 0).then_some(DropReason::PortNotServed);
    let fate = match drop {
        None => "packets go up to the gateway's own stack".to_owned(),
        Some(reason) => format!("packets are dropped ({})", reason.name()),
    };
    let are = if here.len() == 1 { "is" } else { "are" };
    let why = format!("{}{port} is not served{over}: {fate}; there {are} {}", vip.ip, ports(here));
    (drop, why)
}

#[cfg(test)]
mod tests {
    use super::super::way::explained;
    use super::without_brackets;
    use crate::cli::sample::Sample;

    #[test]
    fn a_port_behind_an_address_without_brackets_is_seen() {
        let vips = || ["2001:db8:a::10", "203.0.113.10"].into_iter().map(|vip| vip.parse().unwrap());
        let meant = |text: &str| without_brackets(vips(), text.parse().unwrap());
        assert_eq!(meant("2001:db8:a::10:53").as_deref(), Some("[2001:db8:a::10]:53"));
        for other in ["2001:db8:a::11:53", "2001:db8:a::10:beef", "2001:db8:a::10", "203.0.113.11"] {
            assert_eq!(meant(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_not_steered_says_what_is() {
        let told = |sample: &Sample, vip| {
            let found = explained(sample, "192.0.2.7:1", vip).unwrap();
            (found.not_steered.clone().unwrap(), serde_json::to_value(&found).unwrap())
        };
        let sample = Sample::new();
        let (why, json) = told(&sample, "203.0.113.12:80");
        assert_eq!(
            why,
            "203.0.113.12 is no VIP: its packets go up to this node's own stack, as if fairlead weren't there; \
             VIPs are 203.0.113.10, 203.0.113.11"
        );
        assert_eq!((&json["drop"], &json["service"]), (&serde_json::Value::Null, &serde_json::Value::Null));
        let (why, json) = told(&sample, "203.0.113.10:443");
        assert_eq!(
            why,
            "203.0.113.10 port 443 is not served over tcp: packets are dropped (port_not_served); there is 80/tcp"
        );
        assert_eq!((&json["drop"]["reason"], &json["port"]), (&"port_not_served".into(), &443.into()));
        assert_eq!(json["not_steered"], why);
        let (_, json) = told(&sample, "203.0.113.10/udp");
        assert_eq!((&json["port"], &json["protocol"]), (&serde_json::Value::Null, &"udp".into()));
        let two_versions = explained(&sample, "2001:db8::7", "203.0.113.10").unwrap_err().to_string();
        assert_eq!(two_versions, "2001:db8::7 and 203.0.113.10 are of different IP versions");
    }
}
