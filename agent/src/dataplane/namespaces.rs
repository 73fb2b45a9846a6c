//! Which namespace each of this node's endpoints is in, so that the programs find its sockets.
//!
//! In: outer addresses of endpoints, and what the kernel says of namespaces that it has numbers for in the agent's own: those that a
//! device leads to, whoever made it. Out: the map `NAMESPACES`. An address that several of them have is left out. Where a number
//! is another namespace's by now, programs look for whole connections there and find none, until the next reading.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use aya::maps::{HashMap, MapData, MapError};
use fairlead_abi::{Address, OWN_NAMESPACE, map};
use futures::StreamExt as _;
use rtnetlink::{
    MulticastGroup,
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressMessage},
        nsid::{NsidAttribute, NsidMessage},
    },
};
use tokio::sync::watch;

use super::{
    Dataplane, Error,
    netlink::{self, Attempt, Checks, Netlink, Trouble, drain, persist},
};

/// Between a change and reading: a pod gets its addresses after its namespace.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// How often all is read although nothing was heard: of addresses in other namespaces nothing is.
const REFRESH: Duration = Duration::from_secs(5);
/// How often to read all anew when it changed meanwhile.
const READINGS: usize = 5;

/// The map.
pub struct Namespaces(HashMap<MapData, Address, u32>);

impl Dataplane {
    /// Takes the map out; `None` when it was taken before.
    pub fn take_namespaces(&mut self) -> Result<Option<Namespaces>, Error> {
        let Some(table) = self.ebpf.take_map(map::NAMESPACES) else { return Ok(None) };
        Ok(Some(Namespaces(HashMap::try_from(table).map_err(Error::map(map::NAMESPACES))?)))
    }
}

impl Namespaces {
    /// Makes the map hold just these.
    fn set(&mut self, wanted: &BTreeMap<Address, u32>) -> Result<(), Error> {
        let error = Error::map(map::NAMESPACES);
        let known: BTreeMap<Address, u32> = self.0.iter().collect::<Result<_, MapError>>().map_err(&error)?;
        for address in known.keys().filter(|address| !wanted.contains_key(address)) {
            self.0.remove(address).map_err(&error)?;
        }
        for (address, namespace) in wanted.iter().filter(|(address, at)| known.get(address) != Some(at)) {
            self.0.insert(address, namespace, 0).map_err(&error)?;
        }
        Ok(())
    }
}

/// Keeps the map right for the endpoints of these outer addresses, until nobody wants that any more; before it is told of
/// any, the map stays as it is. Tells for which ones it is right.
pub async fn follow(wanted: Endpoints, placed: watch::Sender<Arc<BTreeSet<IpAddr>>>, namespaces: Namespaces) {
    persist(Follower { wanted, told: false, placed, namespaces }).await;
}

/// Outer addresses of this node's endpoints.
type Endpoints = watch::Receiver<Arc<BTreeSet<IpAddr>>>;

struct Follower {
    wanted: Endpoints,
    /// Of any endpoints.
    told: bool,
    placed: watch::Sender<Arc<BTreeSet<IpAddr>>>,
    namespaces: Namespaces,
}

impl Attempt for Follower {
    const WHAT: &'static str = "namespaces";

    async fn attempt(&mut self, trouble: &mut Trouble) -> Result<(), netlink::Error> {
        let (netlink, mut changes) = Netlink::open(&[MulticastGroup::Nsid], Checks::Strict)?;
        let mut refresh = tokio::time::interval(REFRESH);
        loop {
            tokio::select! {
                changed = self.wanted.changed() => if changed.is_err() { return Ok(()) } else { self.told = true },
                change = changes.next() => if change.is_none() { return Err(netlink::Error::Closed) },
                _ = refresh.tick() => {}
            }
            if !self.told {
                continue;
            }
            tokio::time::sleep(DEBOUNCE).await;
            drain(&mut changes);
            let wanted = Arc::clone(&self.wanted.borrow_and_update());
            let found = if wanted.is_empty() { Vec::new() } else { read(&netlink).await? };
            self.namespaces.set(&places(&wanted, found))?;
            self.placed.send_replace(wanted);
            trouble.end();
        }
    }
}

/// The addresses of each namespace.
type Found = Vec<(u32, BTreeSet<IpAddr>)>;

/// Where each of these addresses is, unless several namespaces have it.
fn places(wanted: &BTreeSet<IpAddr>, found: Found) -> BTreeMap<Address, u32> {
    let mut places = BTreeMap::new();
    let mut ambiguous = BTreeSet::new();
    for (namespace, addresses) in found {
        for &address in addresses.intersection(wanted) {
            if places.insert(Address::from(address), namespace).is_some() {
                ambiguous.insert(Address::from(address));
            }
        }
    }
    places.retain(|address, _| !ambiguous.contains(address));
    places
}

/// All namespaces that have a number in this one, and this one.
async fn read(netlink: &Netlink) -> Result<Found, netlink::Error> {
    let mut found = vec![(OWN_NAMESPACE, addresses_of(netlink, None).await?)];
    for number in numbers(netlink).await? {
        match addresses_of(netlink, Some(number)).await {
            Ok(addresses) => found.push((number.cast_unsigned(), addresses)),
            // Gone meanwhile, or somebody else's.
            Err(error @ (netlink::Error::Request(_) | netlink::Error::System(_))) => {
                tracing::debug!(number, %error, "a namespace can't be looked into");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

async fn numbers(netlink: &Netlink) -> Result<BTreeSet<i32>, netlink::Error> {
    let mut numbers = BTreeSet::new();
    let request = || RouteNetlinkMessage::GetNsId(NsidMessage::default());
    for _ in 0..READINGS {
        numbers.clear();
        let add = |message: &RouteNetlinkMessage| {
            if let RouteNetlinkMessage::NewNsId(message) = message {
                numbers.extend(message.attributes.iter().find_map(number));
            }
        };
        if netlink.list(request(), add).await? {
            break;
        }
    }
    Ok(numbers)
}

fn number(attribute: &NsidAttribute) -> Option<i32> {
    match attribute {
        NsidAttribute::Id(number) if *number >= 0 => Some(*number),
        _ => None,
    }
}

/// All addresses of a namespace, or of this one.
async fn addresses_of(netlink: &Netlink, number: Option<i32>) -> Result<BTreeSet<IpAddr>, netlink::Error> {
    let mut addresses = BTreeSet::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = AddressMessage::default();
        request.header.family = family;
        request.attributes.extend(number.map(AddressAttribute::TargetNetNsId));
        for _ in 0..READINGS {
            let add = |message: &RouteNetlinkMessage| {
                if let RouteNetlinkMessage::NewAddress(message) = message {
                    addresses.extend(own_address(message));
                }
            };
            if netlink.list(RouteNetlinkMessage::GetAddress(request.clone()), add).await? {
                break;
            }
        }
    }
    Ok(addresses)
}

/// The address itself, where the other end's stands beside it.
fn own_address(message: &AddressMessage) -> Option<IpAddr> {
    let find = |which: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(which);
    let local = find(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    local.or_else(|| {
        find(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(addresses: &[&str]) -> BTreeSet<IpAddr> {
        addresses.iter().map(|address| address.parse().unwrap()).collect()
    }

    #[test]
    fn an_address_that_several_namespaces_have_is_in_none() {
        let wanted = set(&["10.0.0.1", "10.0.0.2", "10.0.0.3", "2001:db8::1"]);
        let found = vec![
            (OWN_NAMESPACE, set(&["10.0.0.1", "127.0.0.1"])),
            (0, set(&["10.0.0.2", "127.0.0.1", "2001:db8::1"])),
            (1, set(&["10.0.0.2", "10.0.0.9"])),
            (2, set(&["10.0.0.2"])),
        ];
        let [own, pod] = ["10.0.0.1", "2001:db8::1"].map(|a| Address::from(a.parse::<IpAddr>().unwrap()));
        assert_eq!(places(&wanted, found), [(own, OWN_NAMESPACE), (pod, 0)].into());
    }

    #[test]
    fn of_a_point_to_point_link_this_end_counts() {
        let mut message = AddressMessage::default();
        let [here, there] = ["10.0.0.1", "10.0.0.2"].map(|address| address.parse().unwrap());
        message.attributes = vec![AddressAttribute::Address(there), AddressAttribute::Local(here)];
        assert_eq!(own_address(&message), Some(here));
        message.attributes.pop();
        assert_eq!(own_address(&message), Some(there));
    }

    #[tokio::test]
    async fn the_kernel_tells_this_namespace_s_addresses_and_no_other_s_for_them() {
        let (netlink, _changes) = Netlink::open(&[MulticastGroup::Nsid], Checks::Strict).unwrap();
        let found = read(&netlink).await.unwrap();
        assert_eq!(found[0].0, OWN_NAMESPACE);
        assert!(found[0].1.contains(&IpAddr::from([127, 0, 0, 1])), "{found:?}");
        let strange = addresses_of(&netlink, Some(i32::MAX)).await;
        assert!(strange.is_err(), "{strange:?}");
    }
}
