//! Server IDs: what a QUIC server puts into its connection IDs, so that every gateway sends their packets to it.
//!
//! An ID is made of the endpoint's address alone. So it is the same on all gateways, whatever else they know and in
//! whatever order they heard of it; and a server works it out by itself: `printf %s "$POD_IP" | sha256sum | cut -c 1-16`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use fairlead_abi::SERVER_ID_LENGTH;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The server ID of an address; in text, hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ServerId(pub [u8; SERVER_ID_LENGTH]);

impl ServerId {
    /// The first octets of SHA-256 (FIPS 180-4) of the address as text (IPv6 as in RFC 5952).
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        let hash = Sha256::digest(address.to_string());
        Self(std::array::from_fn(|at| hash[at]))
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:016x}", u64::from_be_bytes(self.0)))
    }
}

/// What is no server ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a server ID is 16 hexadecimal digits")]
pub struct NoServerId;

impl FromStr for ServerId {
    type Err = NoServerId;

    fn from_str(text: &str) -> Result<Self, NoServerId> {
        let digits = text.len() == 2 * SERVER_ID_LENGTH && text.bytes().all(|b| b.is_ascii_hexdigit());
        let number = u64::from_str_radix(text, 16).ok().filter(|_| digits).ok_or(NoServerId)?;
        Ok(Self(number.to_be_bytes()))
    }
}

impl From<ServerId> for String {
    fn from(id: ServerId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for ServerId {
    type Error = NoServerId;

    fn try_from(text: String) -> Result<Self, NoServerId> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_what_a_shell_makes_of_the_address() {
        // printf %s 192.0.2.7 | sha256sum | cut -c 1-16
        for (address, id) in [("192.0.2.7", "37dad677cf0b3997"), ("2001:db8::7", "f1ad3e621f73e90c")] {
            assert_eq!(ServerId::of(address.parse().unwrap()).to_string(), id);
        }
    }

    #[test]
    fn text_is_read_as_it_is_written() {
        let id = ServerId([0, 1, 2, 3, 4, 5, 6, 0xff]);
        assert_eq!(id.to_string(), "00010203040506ff");
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in ["", "00010203040506f", "+0010203040506ff", "00010203040506ffff", "0001020304050 ff"] {
            assert_eq!(text.parse::<ServerId>(), Err(NoServerId), "{text}");
        }
    }
}
