//! How outer destinations are reached: next-hop MAC, interface and MTU, kept right while routes, neighbours and
//! links change.
//!
//! In: the outer destinations of the wanted tables. Out: the [`Links`] of the core. Netlink says when something
//! changed; then everything is read anew, so that no lost message leaves a wrong entry behind. Only the main
//! table is looked at, since packets that never enter the stack match no policy rule.

mod reader;
mod table;

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use fairlead_core::planner::Links;
use futures::StreamExt as _;
use tokio::sync::watch;

use super::netlink::{Attempt, Checks, Error, Netlink, Trouble, drain, persist};
use reader::Reader;
use table::Macs;
pub use table::{Neighbour, NextHop, RouteTable};

/// Between the first message of a change and reading: most changes come as several messages.
const DEBOUNCE: Duration = Duration::from_millis(5);
/// How often a neighbour that is not known is asked for.
const RETRY: Duration = Duration::from_millis(500);
/// How often all is read although nothing was heard, and neighbours in use are kept fresh.
const REFRESH: Duration = Duration::from_secs(15);

/// Follows the next hops of `wanted` and publishes them to `links`, until the other ends are gone. Where netlink
/// refuses something, that is said once, and tried again: what is known stays in use meanwhile.
pub async fn follow(wanted: watch::Receiver<Arc<BTreeSet<IpAddr>>>, links: watch::Sender<Arc<Links>>) {
    persist(Follower { wanted, links, known: Macs::default() }).await;
}

/// Follows, and remembers what it knew by connections before.
struct Follower {
    wanted: watch::Receiver<Arc<BTreeSet<IpAddr>>>,
    links: watch::Sender<Arc<Links>>,
    known: Macs,
}

impl Attempt for Follower {
    const WHAT: &'static str = "routes";

    /// Follows by one connection, as long as it lasts.
    async fn attempt(&mut self, trouble: &mut Trouble) -> Result<(), Error> {
        let (netlink, mut changes) = Netlink::open(&reader::GROUPS, Checks::Loose)?;
        let netlink = Reader(netlink);
        let mut refresh = tokio::time::interval(REFRESH);
        let mut asked = BTreeSet::new();
        loop {
            let is_refresh = tokio::select! {
                changed = self.wanted.changed() => if changed.is_err() { return Ok(()) } else { false },
                change = changes.next() => if change.is_none() { return Err(Error::Closed) } else { false },
                () = tokio::time::sleep(RETRY), if !asked.is_empty() => false,
                _ = refresh.tick() => true,
            };
            tokio::time::sleep(DEBOUNCE).await;
            drain(&mut changes);
            let outers = Arc::clone(&self.wanted.borrow_and_update());
            let mut table = netlink.read().await?;
            trouble.end();
            let used = table.neighbours_of(&outers);
            let mut unknown = self.known.recall(&mut table, &used);
            let found = resolve(&table, &outers, &mut unknown);
            for hop in if is_refresh { &used } else { &unknown } {
                netlink.ask(hop).await;
            }
            asked = unknown;
            self.links.send_if_modified(|links| {
                let changed = **links != found;
                if changed {
                    *links = Arc::new(found);
                }
                changed
            });
        }
    }
}

/// The routes that are known; next hops whose MAC address isn't are added to `unknown`.
fn resolve(table: &RouteTable, outers: &BTreeSet<IpAddr>, unknown: &mut BTreeSet<NextHop>) -> Links {
    let mut links = Links::new();
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
    links
}
