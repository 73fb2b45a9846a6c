//! The annotations of Services: `fairlead.io/…`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use fairlead_core::model::{ProbeKind, ServiceOptions};

use super::{Defaults, Faults, field};
use crate::text::{nearest, parse_duration, show_duration};

pub(super) const PREFIX: &str = "fairlead.io/";

/// All annotations that there are, without [`PREFIX`].
pub(super) const NAMES: [&str; 12] = [
    "vip",
    "capacity-per-endpoint",
    "min-healthy",
    "probe",
    "probe-path",
    "probe-port",
    "probe-interval",
    "probe-timeout",
    "probe-rise",
    "probe-fall",
    "endpoint-owns-vip",
    "unserved-ports",
];

/// What the annotations of a Service say.
pub(super) struct Annotations {
    pub(super) options: ServiceOptions,
    /// The VIPs, where the annotation is there.
    pub(super) vips: Option<Vec<IpAddr>>,
}

pub(super) fn read(
    annotations: Option<&BTreeMap<String, String>>,
    defaults: Defaults,
    faults: &mut Faults,
) -> Annotations {
    let mut read = Annotations {
        options: ServiceOptions {
            pass_unserved_ports: defaults.pass_unserved_ports,
            ..ServiceOptions::default()
        },
        vips: None,
    };
    for (key, text) in annotations.into_iter().flatten() {
        let Some(name) = key.strip_prefix(PREFIX) else { continue };
        let path = field(&["metadata", "annotations", key]);
        if !NAMES.contains(&name) {
            let hint = match nearest(name, NAMES) {
                Some(name) => format!("did you mean {PREFIX}{name}?"),
                None => "docs/manifests.md lists them".to_owned(),
            };
            faults.leave_out(path, format!("there is no such annotation: {hint}"));
        } else if let Err(message) = set(&mut read, name, text.trim()) {
            faults.reject(path, message);
        }
    }
    let probe = &read.options.probe;
    if let (Some(timeout), Some(interval)) = (probe.timeout, probe.interval)
        && timeout > interval
    {
        let path = field(&["metadata", "annotations", "fairlead.io/probe-timeout"]);
        faults.reject(path, "must not be longer than fairlead.io/probe-interval");
    }
    read
}

fn set(read: &mut Annotations, name: &str, text: &str) -> Result<(), String> {
    let options = &mut read.options;
    let probe = &mut options.probe;
    match name {
        "vip" => read.vips = Some(vips(text)?),
        "capacity-per-endpoint" => options.capacity_per_endpoint = Some(number(text, 1..=u32::MAX)?),
        "min-healthy" => options.min_healthy = number(text, 0..=65_535)?,
        "probe" => {
            probe.kind = Some(match text {
                "tcp" => ProbeKind::Tcp,
                "http" => ProbeKind::Http,
                "https" => ProbeKind::Https,
                "none" => ProbeKind::None,
                _ => return Err(format!("{text:?} is none of tcp, http, https, none")),
            });
        }
        "probe-path" => {
            if !text.starts_with('/') || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
                return Err(format!("{text:?} is not a path of HTTP: it begins with / and has no spaces"));
            }
            probe.path = Some(Arc::from(text));
        }
        "probe-port" => {
            probe.port = Some(number(text, 1..=65_535)?).and_then(|port| u16::try_from(port).ok());
        }
        "probe-interval" => {
            probe.interval = Some(duration(text, Duration::from_millis(50), Duration::from_secs(3600))?);
        }
        "probe-timeout" => {
            probe.timeout = Some(duration(text, Duration::from_millis(10), Duration::from_secs(60))?);
        }
        "probe-rise" => probe.rise = Some(number(text, 1..=100)?),
        "probe-fall" => probe.fall = Some(number(text, 1..=100)?),
        "endpoint-owns-vip" => options.endpoint_owns_vip = one_of(text, "true", "false")?,
        "unserved-ports" => options.pass_unserved_ports = one_of(text, "pass", "drop")?,
        _ => unreachable!("every name in NAMES is here"),
    }
    Ok(())
}

/// At most one address of each IP version, with commas between them.
fn vips(text: &str) -> Result<Vec<IpAddr>, String> {
    let mut vips: Vec<IpAddr> = Vec::new();
    for part in text.split(',').map(str::trim) {
        let vip: IpAddr = part.parse().map_err(|_| {
            format!("{part:?} is not an IP address: write such as 203.0.113.7 or 203.0.113.7,2001:db8::7")
        })?;
        if vips.iter().any(|other| other.is_ipv4() == vip.is_ipv4()) {
            return Err(format!(
                "{vip} is a second address of the same IP version: there can be one of each"
            ));
        }
        vips.push(vip);
    }
    vips.shrink_to_fit();
    Ok(vips)
}

fn number(text: &str, range: RangeInclusive<u32>) -> Result<u32, String> {
    match text.parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(format!("{text:?} is not a whole number from {} to {}", range.start(), range.end())),
    }
}

fn duration(text: &str, low: Duration, high: Duration) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    if (low..=high).contains(&duration) {
        return Ok(duration);
    }
    Err(format!("{text} is not between {} and {}", show_duration(low), show_duration(high)))
}

/// Whether it is `yes`.
fn one_of(text: &str, yes: &str, no: &str) -> Result<bool, String> {
    if text == yes {
        Ok(true)
    } else if text == no {
        Ok(false)
    } else {
        Err(format!("{text:?} is neither {yes} nor {no}"))
    }
}
