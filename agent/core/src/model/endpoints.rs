//! Which endpoints of a shard are accepted.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// An endpoint that was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// The pod's name.
    pub pod: Arc<str>,
    /// The address that is wrong, or its first one.
    pub address: Option<IpAddr>,
    /// Why.
    pub why: Rejection,
}

/// Why an endpoint was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rejection {
    /// It has no address.
    NoAddress,
    /// An address lies outside the cluster's declared pod CIDRs, or can't be a host's.
    OutsideCidrs,
    /// Another endpoint of the service has the address already.
    DuplicateAddress,
    /// The service has as many endpoints as a ring can name.
    TooMany,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoAddress => "it has no address",
            Self::OutsideCidrs => "its address lies outside the cluster's pod CIDRs",
            Self::DuplicateAddress => "another endpoint of the service has the same address",
            Self::TooMany => "the service has more endpoints than a ring can name",
        })
    }
}
