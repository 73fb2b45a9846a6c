//! Which endpoints of a shard are accepted.
//!
//! A cluster may only name addresses that it was given, and a service may only name an address once: everything else
//! would let one cluster redirect another's traffic. A rejected endpoint leaves the others as they are.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Endpoint, ObjectName, Problem};

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

impl Rejection {
    const ALL: [Self; 4] = [Self::NoAddress, Self::OutsideCidrs, Self::DuplicateAddress, Self::TooMany];

    const fn hint(self) -> &'static str {
        match self {
            Self::NoAddress => "give the endpoint an address",
            Self::OutsideCidrs => "declare the CIDR for this cluster in the configuration",
            Self::DuplicateAddress => "give each endpoint an address of its own",
            Self::TooMany => "split the service; it can have 65,535 endpoints",
        }
    }
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

/// A slot is 16 bits wide, and [`fairlead_abi::NO_BACKEND`] is taken.
pub(super) const MAX_ENDPOINTS: usize = fairlead_abi::NO_BACKEND as usize;

/// Goes through the shards of one service.
#[derive(Debug, Default)]
pub(super) struct Admission {
    addresses: BTreeSet<IpAddr>,
    accepted: usize,
}

impl Admission {
    /// The accepted and the rejected endpoints of the next shard, whatever the order of `endpoints`: of several with
    /// one address a ready one wins, then the first by name.
    pub(super) fn admit(
        &mut self,
        endpoints: &Arc<Vec<Endpoint>>,
        cidrs: &[IpNet],
    ) -> (Arc<Vec<Endpoint>>, Vec<Rejected>) {
        let mut order: Vec<usize> = (0..endpoints.len()).collect();
        order.sort_unstable_by_key(|&at| {
            let e = &endpoints[at];
            (!e.conditions.takes_new(), &e.pod, e.v4, e.v6, &e.node)
        });
        let mut rejected = Vec::new();
        let mut out = BTreeSet::new();
        for at in order {
            let Err(rejection) = self.check(&endpoints[at], cidrs) else { continue };
            out.insert(at);
            // What is left of a pod whose address another one has already is no problem.
            let stale = !endpoints[at].conditions.takes_new();
            if !(stale && rejection.why == Rejection::DuplicateAddress) {
                rejected.push(rejection);
            }
        }
        if out.is_empty() {
            return (Arc::clone(endpoints), rejected);
        }
        let kept = endpoints.iter().enumerate().filter(|(at, _)| !out.contains(at));
        (Arc::new(kept.map(|(_, endpoint)| endpoint.clone()).collect()), rejected)
    }

    fn check(&mut self, endpoint: &Endpoint, cidrs: &[IpNet]) -> Result<(), Rejected> {
        let reject = |address, why| Err(Rejected { pod: Arc::clone(&endpoint.pod), address, why });
        let first = endpoint.addresses().next();
        if first.is_none() {
            return reject(None, Rejection::NoAddress);
        }
        for address in endpoint.addresses() {
            if !is_host(address) || !cidrs.iter().any(|cidr| cidr.contains(&address)) {
                return reject(Some(address), Rejection::OutsideCidrs);
            }
            if self.addresses.contains(&address) {
                return reject(Some(address), Rejection::DuplicateAddress);
            }
        }
        if self.accepted == MAX_ENDPOINTS {
            return reject(first, Rejection::TooMany);
        }
        self.accepted += 1;
        self.addresses.extend(endpoint.addresses());
        Ok(())
    }
}

/// Whether an address can be one host's. An IPv4-mapped one would be taken for IPv4 by the programs.
pub(super) fn is_host(address: IpAddr) -> bool {
    let special = address.is_unspecified() || address.is_loopback() || address.is_multicast();
    let mapped = match address {
        IpAddr::V4(ip) => ip.is_broadcast(),
        IpAddr::V6(ip) => ip.to_ipv4_mapped().is_some(),
    };
    !special && !mapped
}

/// One problem for each reason, however many endpoints it concerns: a hostile cluster must not flood the list.
pub(super) fn problems_of(name: &ObjectName, cluster: &Arc<str>, rejected: &[Rejected]) -> Vec<Problem> {
    let of_reason = |why: Rejection| {
        let mut all = rejected.iter().filter(|rejected| rejected.why == why);
        let first = all.next()?;
        let more = match all.count() {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        let address = first.address.map_or_else(String::new, |ip| format!(" {ip}"));
        Some(Problem {
            object: Some(name.clone()),
            cluster: Some(Arc::clone(cluster)),
            field: format!("endpoints[{}]", first.pod),
            what: format!("endpoint{address} is left out, {why}{more}"),
            hint: Some(why.hint().to_owned()),
        })
    };
    Rejection::ALL.into_iter().filter_map(of_reason).collect()
}
