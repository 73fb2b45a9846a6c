//! Clients and VIPs as people write them on the command line.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use fairlead_core::model::Protocol;

/// `192.0.2.7`, `192.0.2.7:43210`, `2001:db8::7` or `[2001:db8::7]:43210`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Client {
    pub(super) ip: IpAddr,
    /// `None`: any.
    pub(super) port: Option<u16>,
}

/// As a [`Client`], and `/tcp` or `/udp` may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Vip {
    pub(super) ip: IpAddr,
    /// `None`: the only one that is served there.
    pub(super) port: Option<u16>,
    /// `None`: TCP, unless there is only another one.
    pub(super) protocol: Option<Protocol>,
}

/// A service: its name, `namespace/name`, or what may be written as a [`Vip`], of which all ports are meant that fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Named {
    Name(String),
    Vip(Vip),
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let what = "write a name, namespace/name, VIP or VIP:PORT, with /tcp or /udp if need be";
        if is_like_an_address(text) {
            return text.parse().map(Self::Vip).map_err(|error| format!("{error}; or {what}"));
        }
        let is_name = |name: &str| !name.is_empty() && !name.contains(char::is_whitespace);
        if text.matches('/').count() > 1 || !text.split('/').all(is_name) {
            return Err(format!("{text:?} is no name of a service: {what}"));
        }
        Ok(Self::Name(text.to_owned()))
    }
}

/// Names of services have neither dots nor colons.
fn is_like_an_address(text: &str) -> bool {
    let address = text.split('/').next().unwrap_or_default();
    text.contains([':', '[', ']'])
        || (address.contains('.') && address.chars().all(|c| c.is_ascii_digit() || c == '.'))
}

impl FromStr for Client {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (ip, port) = endpoint(text)?;
        Ok(Self { ip, port })
    }
}

impl FromStr for Vip {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, protocol) = match text.split_once('/') {
            None => (text, None),
            Some((address, "tcp")) => (address, Some(Protocol::Tcp)),
            Some((address, "udp")) => (address, Some(Protocol::Udp)),
            Some((_, other)) => {
                return Err(format!("{other:?} is no protocol of a service: write tcp or udp"));
            }
        };
        let (ip, port) = endpoint(address)?;
        Ok(Self { ip, port, protocol })
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.ip, port).fmt(f),
            None => self.ip.fmt(f),
        }
    }
}

/// An address and, where it is given, a port. A mapped IPv6 address counts as the IPv4 address that it holds.
fn endpoint(text: &str) -> Result<(IpAddr, Option<u16>), String> {
    let wrong = || {
        format!("{text:?} is not an address: write 192.0.2.7, 192.0.2.7:80, 2001:db8::7 or [2001:db8::7]:80")
    };
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok((ip.to_canonical(), None));
    }
    if let Some(Ok(ip)) = bare.map(str::parse::<std::net::Ipv6Addr>) {
        return Ok((IpAddr::V6(ip).to_canonical(), None));
    }
    let Ok(socket) = text.parse::<SocketAddr>() else {
        return Err(wrong_port(text).unwrap_or_else(wrong));
    };
    if socket.port() == 0 {
        return Err(format!("{text:?} has port 0, which no connection has"));
    }
    Ok((socket.ip().to_canonical(), Some(socket.port())))
}

/// What is wrong where the address is right, and only its port isn't.
fn wrong_port(text: &str) -> Option<String> {
    let (address, port) = text.rsplit_once(':')?;
    // Any port would do here.
    format!("{address}:1").parse::<SocketAddr>().ok()?;
    Some(format!("{port:?} is not a port: write 1 to 65535"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_read() {
        for (text, ip, port) in [
            ("192.0.2.7", "192.0.2.7", None),
            ("192.0.2.7:43210", "192.0.2.7", Some(43210)),
            ("2001:db8::7", "2001:db8::7", None),
            ("[2001:db8::7]", "2001:db8::7", None),
            ("[2001:db8::7]:443", "2001:db8::7", Some(443)),
            ("::ffff:192.0.2.7", "192.0.2.7", None),
            ("[::ffff:192.0.2.7]:1", "192.0.2.7", Some(1)),
        ] {
            assert_eq!(text.parse(), Ok(Client { ip: ip.parse().unwrap(), port }), "{text}");
        }
    }

    #[test]
    fn a_vip_can_have_a_protocol() {
        let read = |text: &str| text.parse::<Vip>().map(|vip| (vip.port, vip.protocol));
        assert_eq!(read("203.0.113.10"), Ok((None, None)));
        assert_eq!(read("203.0.113.10:80"), Ok((Some(80), None)));
        assert_eq!(read("203.0.113.10:53/udp"), Ok((Some(53), Some(Protocol::Udp))));
        assert_eq!(read("203.0.113.10/tcp"), Ok((None, Some(Protocol::Tcp))));
        assert_eq!(read("[2001:db8:a::1]:53/udp"), Ok((Some(53), Some(Protocol::Udp))));
        assert_eq!(read("2001:db8:a::1/udp"), Ok((None, Some(Protocol::Udp))));
    }

    #[test]
    fn what_is_no_address_is_refused_with_what_would_be() {
        for text in ["", "web", "web:80", "192.0.2", "192.0.2:99999", "2001:db8::7:x", "[192.0.2.7]"] {
            let error = text.parse::<Client>().unwrap_err();
            assert!(error.contains("is not an address: write 192.0.2.7"), "{text}: {error}");
        }
        for (text, port) in [("192.0.2.7:99999", "99999"), ("192.0.2.7:", ""), ("[2001:db8::7]:http", "http")]
        {
            let error = format!("{port:?} is not a port: write 1 to 65535");
            assert_eq!(text.parse::<Client>(), Err(error), "{text}");
        }
        assert_eq!(
            "192.0.2.7:0".parse::<Client>(),
            Err("\"192.0.2.7:0\" has port 0, which no connection has".to_owned())
        );
        assert_eq!(
            "203.0.113.10:80/sctp".parse::<Vip>(),
            Err("\"sctp\" is no protocol of a service: write tcp or udp".to_owned())
        );
    }

    #[test]
    fn a_service_is_a_name_or_a_vip() {
        for name in ["web", "shop/web", "web/udp", "65536"] {
            assert_eq!(name.parse(), Ok(Named::Name(name.to_owned())));
        }
        for vip in ["203.0.113.10", "203.0.113.10:80/udp", "2001:db8::7", "[2001:db8::7]:80/tcp"] {
            assert_eq!(vip.parse(), Ok(Named::Vip(vip.parse().unwrap())));
        }
        for (text, why) in [
            ("", "\"\" is no name of a service: write a name, "),
            ("a/b/c", "\"a/b/c\" is no name of a service"),
            ("shop/", "\"shop/\" is no name of a service"),
            ("web:80", "\"web:80\" is not an address"),
            ("203.0.113.10:65536", "\"65536\" is not a port: write 1 to 65535"),
            ("203.0.113.10:0", "\"203.0.113.10:0\" has port 0"),
            (":0", "\":0\" is not an address"),
            ("203.0.113.10:80/sctp", "\"sctp\" is no protocol of a service"),
            ("203.0.113.10/sctp", "\"sctp\" is no protocol of a service"),
        ] {
            let error = text.parse::<Named>().unwrap_err();
            assert!(error.starts_with(why), "{text}: {error}");
            assert!(error.ends_with("VIP:PORT, with /tcp or /udp if need be"), "{error}");
        }
    }

    #[test]
    fn clients_print_as_they_are_written() {
        for text in ["192.0.2.7", "192.0.2.7:43210", "2001:db8::7", "[2001:db8::7]:443"] {
            assert_eq!(text.parse::<Client>().unwrap().to_string(), text);
        }
    }
}
