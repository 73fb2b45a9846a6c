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

use table::Macs;
pub use table::{Neighbour, NextHop, RouteTable};

/// Between the first message of a change and reading: most changes come as several messages.
const DEBOUNCE: Duration = Duration::from_millis(5);
/// How often a neighbour that is not known is asked for.
const RETRY: Duration = Duration::from_millis(500);
/// How often all is read although nothing was heard, and neighbours in use are kept fresh.
const REFRESH: Duration = Duration::from_secs(15);
/// After netlink refused something, when to connect anew.
const REOPEN: Duration = Duration::from_secs(1);

/// Follows the next hops of `wanted` and publishes them to `links`, until the other ends are gone. Where netlink
/// refuses something, that is said once, and tried again: what is known stays in use meanwhile.
pub async fn follow(wanted: watch::Receiver<Arc<BTreeSet<IpAddr>>>, links: watch::Sender<Arc<Links>>) {
    persist(Follower { wanted, links, known: Macs::default() }).await;
}

/// Something that ends well or has to be tried again.
trait Attempt {
    /// Tells `trouble` whenever it works.
    fn attempt(&mut self, trouble: &mut Trouble) -> impl Future<Output = Result<(), netlink::Error>> + Send;
}

async fn persist(mut attempt: impl Attempt) {
    let mut trouble = Trouble::default();
    while let Err(error) = attempt.attempt(&mut trouble).await {
        trouble.begin(&error);
        tokio::time::sleep(REOPEN).await;
    }
}

/// Whether it was said that routes are not followed.
#[derive(Default)]
struct Trouble {
    said: bool,
}

impl Trouble {
    fn begin(&mut self, error: &netlink::Error) {
        if !self.said {
            tracing::error!(%error, "routes are not followed; trying again every second");
        }
        self.said = true;
    }

    fn end(&mut self) {
        if self.said {
            tracing::info!("routes are followed again");
        }
        self.said = false;
    }
}

/// Follows, and remembers what it knew by connections before.
struct Follower {
    wanted: watch::Receiver<Arc<BTreeSet<IpAddr>>>,
    links: watch::Sender<Arc<Links>>,
    known: Macs,
}

impl Attempt for Follower {
    /// Follows by one connection, as long as it lasts.
    async fn attempt(&mut self, trouble: &mut Trouble) -> Result<(), netlink::Error> {
        let (netlink, mut changes) = netlink::Netlink::open()?;
        let mut refresh = tokio::time::interval(REFRESH);
        let mut asked = BTreeSet::new();
        loop {
            let is_refresh = tokio::select! {
                changed = self.wanted.changed() => if changed.is_err() { return Ok(()) } else { false },
                change = changes.next() => if change.is_none() { return Err(netlink::Error::Closed) } else { false },
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

fn drain<T>(changes: &mut UnboundedReceiver<T>) {
    while changes.try_recv().is_ok() {}
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails twice, works for a while, fails, ends.
    struct Rows<'a>(&'a mut Vec<tokio::time::Instant>);

    impl Attempt for Rows<'_> {
        async fn attempt(&mut self, trouble: &mut Trouble) -> Result<(), netlink::Error> {
            self.0.push(tokio::time::Instant::now());
            assert_eq!(trouble.said, self.0.len() > 1);
            match self.0.len() {
                3 => {
                    trouble.end();
                    assert!(!trouble.said);
                    tokio::time::sleep(REOPEN * 10).await;
                    Err(netlink::Error::Closed)
                }
                4 => Ok(()),
                _ => Err(netlink::Error::Closed),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn routes_are_followed_again_after_netlink_refused() {
        let mut attempts = Vec::new();
        persist(Rows(&mut attempts)).await;
        let seconds: Vec<u64> = attempts.iter().map(|at| (*at - attempts[0]).as_secs()).collect();
        assert_eq!(seconds, [0, 1, 2, 13]);
    }
}
