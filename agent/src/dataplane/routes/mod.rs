//! How outer destinations are reached: next-hop MAC, interface and MTU, kept right while routes, neighbours and
//! links change.
//!
//! In: the outer destinations of the wanted tables. Out: the [`Links`] of the core. Netlink says when something
//! changed; then everything is read anew, so that no lost message leaves a wrong entry behind. Only the main
//! table is looked at, since packets that never enter the stack match no policy rule.

mod netlink;
mod table;

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use fairlead_core::planner::Links;
use futures::{StreamExt as _, channel::mpsc::UnboundedReceiver};
use tokio::sync::watch;

pub use table::{Neighbour, NextHop, RouteTable};

/// Between the first message of a change and reading: most changes come as several messages.
const DEBOUNCE: Duration = Duration::from_millis(5);
/// How often a neighbour that is not known is asked for.
const RETRY: Duration = Duration::from_millis(500);
/// How often all is read although nothing was heard, and neighbours in use are kept fresh.
const REFRESH: Duration = Duration::from_secs(15);

/// Follows the next hops of `wanted` and publishes them to `links`, until the other ends are gone.
pub async fn follow(
    mut wanted: watch::Receiver<Arc<BTreeSet<IpAddr>>>,
    links: watch::Sender<Arc<Links>>,
) -> Result<(), netlink::Error> {
    let (netlink, mut changes) = netlink::Netlink::open()?;
    let mut refresh = tokio::time::interval(REFRESH);
    let mut asked = BTreeSet::new();
    loop {
        let is_refresh = tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return Ok(()) } else { false },
            change = changes.next() => if change.is_none() { return Err(netlink::Error::Closed) } else { false },
            () = tokio::time::sleep(RETRY), if !asked.is_empty() => false,
            _ = refresh.tick() => true,
        };
        tokio::time::sleep(DEBOUNCE).await;
        drain(&mut changes);
        let outers = Arc::clone(&wanted.borrow_and_update());
        let table = netlink.read().await?;
        let (found, unknown) = resolve(&table, &outers);
        let fresh = if is_refresh { table.neighbours_of(&outers) } else { unknown.clone() };
        for hop in &fresh {
            netlink.ask(hop).await;
        }
        asked = unknown;
        links.send_if_modified(|links| {
            let changed = **links != found;
            if changed {
                *links = Arc::new(found);
            }
            changed
        });
    }
}

fn drain<T>(changes: &mut UnboundedReceiver<T>) {
    while changes.try_recv().is_ok() {}
}

/// The routes that are known, and the next hops whose MAC address isn't.
fn resolve(table: &RouteTable, outers: &BTreeSet<IpAddr>) -> (Links, BTreeSet<NextHop>) {
    let mut links = Links::new();
    let mut unknown = BTreeSet::new();
    for outer in outers {
        match table.resolve(*outer) {
            Some(Ok(route)) => {
                links.insert(*outer, route);
            }
            Some(Err(hop)) => {
                unknown.insert(hop);
            }
            None => {}
        }
    }
    (links, unknown)
}
