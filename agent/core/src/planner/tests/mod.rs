//! From model to tables.

mod entries;
mod shards;
mod two_signals;
mod zones;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use fairlead_abi::{Address, Encap, Family, Hop, ServiceEntry, ServiceKey};

use super::*;
use crate::fixtures::*;
use crate::model::*;

pub(super) fn declared() -> Arc<Declarations> {
    Arc::new(declarations(9))
}

pub(super) fn pod(cluster: u8, n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, cluster, 0, n)
}

fn verdicts(table: &ServiceTable) -> Vec<(&str, Verdict)> {
    let backends = table.backends.iter().map(|b| (&*b.pod, b.verdict));
    backends.chain(table.not_taken.iter().map(|n| (&*n.pod, n.verdict))).collect()
}
