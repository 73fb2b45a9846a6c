//! Which VIPs a service may have, and which one the pool gives it.
//!
//! The choice from the pool depends on the service's name alone: every gateway makes the same, and no service's VIP
//! moves because another one comes or goes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fairlead_abi::Family;
use ipnet::IpNet;

use super::endpoints::is_host;
use super::{Declarations, ObjectName};
use crate::stable::Stable;

/// Why an address can't be a VIP, and what would be right; `None` where it can.
pub(super) fn refusal(vip: IpAddr, declared: &Declarations) -> Option<(String, String)> {
    if !is_host(vip) {
        let what = format!("{vip} can't be a VIP: it is not the address of one host");
        return Some((what, "choose a unicast address from a VIP pool".to_owned()));
    }
    if let Some(reserved) = declared.reserved.iter().find(|net| net.contains(&vip)) {
        let what = format!("{vip} can't be a VIP: {reserved} belongs to a gateway");
        return Some((what, "choose another address from a VIP pool".to_owned()));
    }
    if !declared.pools.iter().any(|pool| pool.contains(&vip)) {
        let pools: Vec<String> = declared.pools.iter().map(ToString::to_string).collect();
        let what = format!("{vip} lies in no VIP pool");
        return Some((what, format!("the pools are: {}", pools.join(", "))));
    }
    None
}

/// The addresses of one family that a service may be given, best first, without end; `None` where no pool has any.
///
/// The first is the service's own; the next ones are what to propose when that one is taken.
pub(super) fn choices<'a>(
    name: &ObjectName,
    family: Family,
    declared: &'a Declarations,
) -> Option<impl Iterator<Item = IpAddr> + use<'a>> {
    let mut pools: Vec<IpNet> = declared.pools.iter().map(IpNet::trunc).collect();
    pools.retain(|pool| Family::of(&pool.addr()) == family);
    pools.sort_unstable();
    pools.dedup();
    let total = pools.iter().fold(0u128, |sum, pool| sum.saturating_add(size(pool)));
    if total == 0 {
        return None;
    }
    let name = Stable::new(0).bytes(name.namespace.as_bytes()).bytes(b"/").bytes(name.name.as_bytes());
    let nth = move |attempt: u64| {
        let half = |which: u64| u128::from(name.bytes(&(attempt * 2 + which).to_be_bytes()).finish());
        let mut index = (half(0) << 64 | half(1)) % total;
        for pool in &pools {
            if index < size(pool) {
                return Some((address(pool, index), *pool));
            }
            index -= size(pool);
        }
        None
    };
    let suitable = move |&(ip, pool): &(IpAddr, IpNet)| !is_edge(ip, pool) && refusal(ip, declared).is_none();
    Some((0..ATTEMPTS).filter_map(nth).filter(suitable).map(|(ip, _)| ip))
}

/// How often to draw before a pool counts as reserved altogether.
const ATTEMPTS: u64 = 4096;

/// Network and broadcast addresses are legal VIPs, and asked for they are given; but some network gear treats them
/// as special, so they are not drawn.
fn is_edge(ip: IpAddr, pool: IpNet) -> bool {
    let bits = pool.max_prefix_len() - pool.prefix_len();
    bits > 1 && (ip == pool.network() || (ip.is_ipv4() && ip == pool.broadcast()))
}

fn size(pool: &IpNet) -> u128 {
    let bits = u32::from(pool.max_prefix_len() - pool.prefix_len());
    1u128.checked_shl(bits).unwrap_or(u128::MAX)
}

fn address(pool: &IpNet, index: u128) -> IpAddr {
    match pool {
        IpNet::V4(net) => {
            let index = u32::try_from(index).expect("less than the pool's size");
            IpAddr::V4(Ipv4Addr::from_bits(net.network().to_bits() | index))
        }
        IpNet::V6(net) => IpAddr::V6(Ipv6Addr::from_bits(net.network().to_bits() | index)),
    }
}
