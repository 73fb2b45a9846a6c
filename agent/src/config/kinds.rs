//! The kinds of single value that the file knows: numbers, names, addresses, durations.
//!
//! Each says how it is read from the tree, what is wrong where it can't be, and how the schema describes it.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::read::{Limit, Read, Reader, leaf};
use super::types::{Hash, InterfaceName, Name, Prefix};
use crate::text::{parse_duration, show_duration};
use crate::yaml::{Node, Scalar};

macro_rules! number {
    ($($type:ty),*) => {$(
        impl Read for $type {
            leaf!();

            fn read(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
                Self::read_within(node, reader, &(0..=Self::MAX))
            }

            fn schema() -> Value {
                json!({ "type": "integer", "minimum": 0, "maximum": <$type>::MAX })
            }

            fn show(&self) -> Value {
                (*self).into()
            }
        }

        impl Limit for $type {
            fn read_within(
                node: &Node<'_>,
                reader: &mut Reader,
                range: &RangeInclusive<Self>,
            ) -> Option<Self> {
                let Some(Scalar::Integer(number)) = node.scalar() else {
                    return reader.unexpected(node, "a whole number");
                };
                let inside = Self::try_from(number).ok().filter(|number| range.contains(number));
                inside.or_else(|| outside(node, reader, number, range.start(), range.end()))
            }

            fn limit(schema: &mut Value, range: &RangeInclusive<Self>) {
                schema["minimum"] = (*range.start()).into();
                schema["maximum"] = (*range.end()).into();
            }
        }
    )*};
}
number!(u8, u16, u32);

impl Read for bool {
    leaf!();

    fn read(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        match node.scalar() {
            Some(Scalar::Bool(value)) => Some(value),
            _ => reader.unexpected(node, "true or false"),
        }
    }

    fn schema() -> Value {
        json!({ "type": "boolean" })
    }

    fn show(&self) -> Value {
        (*self).into()
    }
}

/// Notes that a value is not in its range.
fn outside<T>(
    node: &Node<'_>,
    reader: &mut Reader,
    found: impl Display,
    low: impl Display,
    high: impl Display,
) -> Option<T> {
    reader.problem(node.place, format!("{found} is not between {low} and {high}"))
}

/// Kinds that are written as text: `parse` makes the value or says what is wrong, `pattern` is for the schema.
macro_rules! text {
    ($type:ty, $expected:literal, $parse:expr, $show:expr, $schema:expr) => {
        impl Read for $type {
            leaf!();

            fn read(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
                let Some(Scalar::Text(text)) = node.scalar() else {
                    return reader.unexpected(node, $expected);
                };
                let parse: fn(&str) -> Result<Self, String> = $parse;
                parse(text).or_else(|message| reader.problem(node.place, message).ok_or(())).ok()
            }

            fn schema() -> Value {
                $schema
            }

            fn show(&self) -> Value {
                let show: fn(&Self) -> String = $show;
                show(self).into()
            }
        }
    };
}

text!(
    Name,
    "a name",
    |text| {
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
        let ends = |c: char| c.is_ascii_alphanumeric();
        if text.len() <= 253 && text.chars().all(good) && text.starts_with(ends) && text.ends_with(ends) {
            return Ok(Self(Arc::from(text)));
        }
        Err(format!(
            "{text:?} is not a name: write 1 to 253 lower-case letters, digits, - and ., such as europe-west1-b"
        ))
    },
    |name| name.0.to_string(),
    json!({ "type": "string", "maxLength": 253, "pattern": "^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$" })
);

text!(
    InterfaceName,
    "the name of an interface",
    |text| {
        if (1..=15).contains(&text.len()) && !text.contains(|c: char| c == '/' || c.is_whitespace()) {
            return Ok(Self(Arc::from(text)));
        }
        Err(format!("{text:?} is not the name of an interface: `ip -br link` lists them"))
    },
    |name| name.0.to_string(),
    json!({ "type": "string", "minLength": 1, "maxLength": 15, "pattern": "^[^/\\s]+$" })
);

text!(
    IpNet,
    "a CIDR",
    |text| {
        let net: Self = text.parse().map_err(|_| {
            format!("{text:?} is not a CIDR: write an address and a prefix length, such as 10.4.0.0/16 or 2001:db8:4::/48")
        })?;
        if net.trunc() == net {
            return Ok(net);
        }
        Err(format!("{text:?} has bits behind its prefix: write {}", net.trunc()))
    },
    ToString::to_string,
    json!({ "type": "string", "pattern": "^[0-9a-fA-F:.]+/[0-9]+$" })
);

text!(
    Prefix,
    "an address or a CIDR",
    |text| {
        if let Ok(address) = text.parse() {
            return Ok(Self(IpNet::new_assert(address, if address.is_ipv4() { 32 } else { 128 })));
        }
        let net: IpNet = text.parse().map_err(|_| {
            format!("{text:?} is neither an address nor a CIDR: write such as 192.0.2.7 or 192.0.2.16/28")
        })?;
        if net.trunc() == net {
            return Ok(Self(net));
        }
        Err(format!("{text:?} has bits behind its prefix: write {} or {}", net.addr(), net.trunc()))
    },
    ToString::to_string,
    json!({ "type": "string", "pattern": "^[0-9a-fA-F:.]+(/[0-9]+)?$" })
);

text!(
    SocketAddr,
    "an address and port",
    |text| text.parse().map_err(|_| {
        format!("{text:?} is not an address and port: write such as 127.0.0.1:9440 or [::1]:9440")
    }),
    ToString::to_string,
    json!({ "type": "string", "pattern": "^.+:[0-9]+$" })
);

text!(
    PathBuf,
    "a path",
    |text| if text.is_empty() { Err("an empty path".to_owned()) } else { Ok(Self::from(text)) },
    |path| path.display().to_string(),
    json!({ "type": "string", "minLength": 1 })
);

text!(
    Duration,
    "a duration such as 200ms",
    parse_duration,
    |duration| show_duration(*duration),
    json!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h)$" })
);

text!(Arc<str>, "text", |text| Ok(Self::from(text)), ToString::to_string, json!({ "type": "string" }));

impl Limit for Duration {
    fn read_within(node: &Node<'_>, reader: &mut Reader, range: &RangeInclusive<Self>) -> Option<Self> {
        let duration = Self::read(node, reader)?;
        if range.contains(&duration) {
            return Some(duration);
        }
        let [found, low, high] = [duration, *range.start(), *range.end()].map(show_duration);
        outside(node, reader, found, low, high)
    }

    /// JSON Schema has no words for it; the parser refuses what is outside.
    fn limit(_: &mut Value, _: &RangeInclusive<Self>) {}
}

impl Read for Hash {
    leaf!();

    fn read(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        let number = match node.scalar() {
            Some(Scalar::Integer(number)) => u64::try_from(number).ok(),
            Some(Scalar::Text(text)) => {
                text.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok())
            }
            _ => None,
        };
        if let Some(number) = number {
            return Some(Self(number));
        }
        // Not what stands there: nearly always it is the secret, written a little wrong.
        let message = "what stands here is not a number of 64 bits: write 0x and up to 16 hexadecimal digits, \
                       as `echo 0x$(openssl rand -hex 8)` prints";
        reader.problem(node.place, message.to_owned())
    }

    fn schema() -> Value {
        json!({ "anyOf": [
            { "type": "integer", "minimum": 0, "maximum": u64::MAX },
            { "type": "string", "pattern": "^0x[0-9a-fA-F]{1,16}$" },
        ] })
    }

    fn show(&self) -> Value {
        format!("{:#018x}", self.0).into()
    }
}

/// What is wrong with `net` wherever it stands.
pub(super) fn unusable(net: &IpNet) -> Option<String> {
    let address = net.addr();
    let v4 = address.is_ipv4();
    if net.prefix_len() == 0 {
        let version = if v4 { "IPv4" } else { "IPv6" };
        return Some(format!("{net} holds all addresses of {version}: write those that are meant"));
    }
    // 0.0.0.0/8 and ::/128 are no host's.
    if address.is_unspecified() && net.prefix_len() < if v4 { 8 } else { 128 } {
        return Some(format!("{net} holds addresses that no host has, such as {address}"));
    }
    (address.is_multicast() || address.is_loopback() || address.is_unspecified())
        .then(|| format!("{net} has no addresses of hosts"))
}
