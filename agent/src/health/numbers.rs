//! The numbers of outer destinations: what a probe's socket mark says.
//!
//! A number stands for an outer destination, so that all ports and services of a pod share one table entry. It is
//! written to the kernel before the first probe uses it, and reused only when no packet of an earlier probe can be
//! on its way any more.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use fairlead_abi::{Family, PROBE_MARK_MASK, ProbeTarget};
use fairlead_core::planner::Links;
use tokio::sync::watch;
use tokio::time::Instant;

use super::targets::Outer;
use crate::dataplane::{Error, Probes};

/// How long a number rests, after the longest timeout of a probe that may have used it.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// Where numbers and outer destinations are written: the data plane's [`Probes`], or a test's stand-in.
pub trait ProbeTable: Send {
    /// Sets the target of the probes with `number`.
    fn set(&mut self, number: u32, target: &ProbeTarget) -> Result<(), Error>;
    /// Forgets a target.
    fn remove(&mut self, number: u32) -> Result<(), Error>;
}

impl ProbeTable for Probes {
    fn set(&mut self, number: u32, target: &ProbeTarget) -> Result<(), Error> {
        Self::set(self, number, target)
    }

    fn remove(&mut self, number: u32) -> Result<(), Error> {
        Self::remove(self, number)
    }
}

/// Who has which number.
pub(super) struct Numbers {
    table: Option<Box<dyn ProbeTable>>,
    /// By which interface outer destinations are reached.
    links: watch::Receiver<Arc<Links>>,
    /// What of that the table says.
    followed: Arc<Links>,
    given: HashMap<Outer, Given>,
    /// Given back and rested; the lowest is given first, so that an agent overwrites what one before it left.
    free: BTreeSet<u32>,
    /// How many were ever given.
    next: u32,
}

struct Given {
    number: u32,
    /// How many targets use it.
    users: usize,
    /// As it stands in the table.
    written: Option<ProbeTarget>,
    /// Without users: when it may be another's.
    rests_until: Option<Instant>,
}

impl Numbers {
    /// With no table nothing can be probed through a tunnel.
    pub(super) fn new(table: Option<Box<dyn ProbeTable>>, links: watch::Receiver<Arc<Links>>) -> Self {
        Self { table, links, followed: Arc::default(), given: HashMap::new(), free: BTreeSet::new(), next: 0 }
    }

    /// Waits until some outer destination may be reached by another interface; [`Numbers::tend`] follows that.
    pub(super) async fn links_changed(&mut self) {
        if self.links.changed().await.is_err() {
            // Nobody follows routes any more; who does that says so.
            std::future::pending::<()>().await;
        }
    }

    /// One more target is probed through it.
    pub(super) fn acquire(&mut self, outer: Outer) {
        if let Some(given) = self.given.get_mut(&outer) {
            given.users += 1;
            given.rests_until = None;
            return;
        }
        let Some(number) = self.free.pop_first().or_else(|| self.fresh()) else { return };
        let target = target(outer, &self.links.borrow());
        let written = write(&mut self.table, number, target).ok();
        self.given.insert(outer, Given { number, users: 1, written, rests_until: None });
    }

    fn fresh(&mut self) -> Option<u32> {
        let number = nth(self.next)?;
        self.next += 1;
        Some(number)
    }

    /// One target less goes through it. `timeout`: how long its last probe may take.
    pub(super) fn release(&mut self, outer: Outer, timeout: Duration, now: Instant) {
        let Some(given) = self.given.get_mut(&outer) else { return };
        given.users = given.users.saturating_sub(1);
        if given.users == 0 {
            given.rests_until = Some(now + timeout + GRACE);
        }
    }

    /// Its number; `None` where the kernel doesn't know it.
    pub(super) fn get(&self, outer: &Outer) -> Option<u32> {
        self.given.get(outer).filter(|given| given.written.is_some()).map(|given| given.number)
    }

    /// Takes back numbers that have rested, and writes what could not be written before or has another way now; returns
    /// how many still can't be written, and why the last couldn't.
    pub(super) fn tend(&mut self, now: Instant) -> (usize, Option<Error>) {
        let rested = |given: &Given| given.rests_until.is_some_and(|until| until <= now);
        for (_, given) in self.given.extract_if(|_, given| rested(given)) {
            if given.written.is_some()
                && let Some(table) = &mut self.table
                && let Err(error) = table.remove(given.number)
            {
                // Harmless: the entry is overwritten when its number is given again.
                tracing::debug!(number = given.number, %error, "a probe target stays in its table");
            }
            self.free.insert(given.number);
        }
        let (mut unwritten, mut why) = (0, None);
        let links = Arc::clone(&self.links.borrow());
        let moved = !Arc::ptr_eq(&links, &self.followed);
        for (outer, given) in self.given.iter_mut().filter(|(_, given)| moved || given.written.is_none()) {
            let target = target(*outer, &links);
            if given.written == Some(target) {
                continue;
            }
            match write(&mut self.table, given.number, target) {
                Ok(target) => given.written = Some(target),
                Err(error) => {
                    given.written = None;
                    unwritten += 1;
                    why = error.or(why);
                }
            }
        }
        self.followed = links;
        (unwritten, why)
    }
}

fn target(outer: Outer, links: &Links) -> ProbeTarget {
    ProbeTarget {
        outer: outer.address.into(),
        encap: outer.encap as u8,
        family: Family::of(&outer.address) as u8,
        padding: [0; 2],
        ifindex: links.get(&outer.address).map_or(0, |route| route.routed_by),
    }
}

/// Writes an entry and returns it; an error of `None`: there is no table.
fn write(
    table: &mut Option<Box<dyn ProbeTable>>,
    number: u32,
    target: ProbeTarget,
) -> Result<ProbeTarget, Option<Error>> {
    table.as_mut().ok_or(None)?.set(number, &target).map(|()| target).map_err(Some)
}

/// The `index`-th number. Bits 14 and 15 stay clear: in a mark they tell kube-proxy's rules to masquerade or drop.
fn nth(index: u32) -> Option<u32> {
    let number = (index & 0x3fff) | (index >> 14) << 16;
    (number & PROBE_MARK_MASK == 0 && index < 1 << 22).then_some(number)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Mutex;

    use fairlead_abi::{Encap, Hop};
    use fairlead_core::planner::Route;

    use super::*;

    #[derive(Default)]
    struct Recorded {
        entries: BTreeMap<u32, IpAddr>,
        interfaces: BTreeMap<u32, u32>,
        full: bool,
    }

    struct Recorder(Arc<Mutex<Recorded>>);

    impl ProbeTable for Recorder {
        fn set(&mut self, number: u32, target: &ProbeTarget) -> Result<(), Error> {
            let mut recorded = self.0.lock().unwrap();
            if recorded.full {
                return Err(Error::Shape { map: "PROBES", what: "full".to_owned() });
            }
            recorded.entries.insert(number, target.outer.into());
            recorded.interfaces.insert(number, target.ifindex);
            Ok(())
        }

        fn remove(&mut self, number: u32) -> Result<(), Error> {
            self.0.lock().unwrap().entries.remove(&number);
            Ok(())
        }
    }

    fn recorded() -> (Numbers, Arc<Mutex<Recorded>>) {
        let recorded = Arc::new(Mutex::new(Recorded::default()));
        let numbers = with_links(Some(Box::new(Recorder(Arc::clone(&recorded))))).0;
        (numbers, recorded)
    }

    fn with_links(table: Option<Box<dyn ProbeTable>>) -> (Numbers, watch::Sender<Arc<Links>>) {
        let (found, links) = watch::channel(Arc::default());
        (Numbers::new(table, links), found)
    }

    fn to(host: u8) -> Outer {
        Outer { address: Ipv4Addr::new(192, 0, 2, host).into(), encap: Encap::Ipip }
    }

    const TIMEOUT: Duration = Duration::from_secs(1);

    #[test]
    fn targets_of_one_endpoint_share_a_number() {
        let (mut numbers, recorded) = recorded();
        numbers.acquire(to(1));
        numbers.acquire(to(2));
        numbers.acquire(to(1));
        assert_eq!((numbers.get(&to(1)), numbers.get(&to(2))), (Some(0), Some(1)));
        let entries = recorded.lock().unwrap().entries.clone();
        assert_eq!(entries, BTreeMap::from([(0, to(1).address), (1, to(2).address)]));
        let now = Instant::now();
        numbers.release(to(1), TIMEOUT, now);
        numbers.tend(now + 100 * TIMEOUT);
        assert_eq!(numbers.get(&to(1)), Some(0), "one user is left");
    }

    #[test]
    fn numbers_rest_before_they_are_given_again() {
        let (mut numbers, recorded) = recorded();
        let now = Instant::now();
        numbers.acquire(to(1));
        numbers.release(to(1), TIMEOUT, now);
        numbers.tend(now + TIMEOUT + GRACE - Duration::from_millis(1));
        numbers.acquire(to(2));
        assert_eq!(numbers.get(&to(2)), Some(1), "0 still rests");
        assert_eq!(recorded.lock().unwrap().entries.len(), 2, "a late packet still finds its way");
        numbers.tend(now + TIMEOUT + GRACE);
        assert_eq!(recorded.lock().unwrap().entries, BTreeMap::from([(1, to(2).address)]));
        numbers.acquire(to(3));
        assert_eq!(numbers.get(&to(3)), Some(0));
    }

    #[test]
    fn who_returns_while_his_number_rests_keeps_it() {
        let (mut numbers, _) = recorded();
        let now = Instant::now();
        numbers.acquire(to(1));
        numbers.release(to(1), TIMEOUT, now);
        numbers.acquire(to(1));
        numbers.tend(now + 100 * GRACE);
        assert_eq!(numbers.get(&to(1)), Some(0));
    }

    #[test]
    fn what_could_not_be_written_is_tried_again() {
        let (mut numbers, recorded) = recorded();
        recorded.lock().unwrap().full = true;
        numbers.acquire(to(1));
        assert_eq!(numbers.get(&to(1)), None);
        let (unwritten, why) = numbers.tend(Instant::now());
        assert_eq!((unwritten, why.is_some()), (1, true));
        recorded.lock().unwrap().full = false;
        assert_eq!(numbers.tend(Instant::now()).0, 0);
        assert_eq!(numbers.get(&to(1)), Some(0));
    }

    #[test]
    fn without_a_table_no_tunnel_can_be_used() {
        let mut numbers = with_links(None).0;
        numbers.acquire(to(1));
        assert_eq!(numbers.get(&to(1)), None);
        assert_eq!(numbers.tend(Instant::now()).0, 1);
    }

    #[test]
    fn probes_leave_by_the_interface_of_their_route() {
        let recorded = Arc::new(Mutex::new(Recorded::default()));
        let (mut numbers, found) = with_links(Some(Box::new(Recorder(Arc::clone(&recorded)))));
        let by = |ifindex| Route { hop: Hop { ifindex: 1, ..Hop::default() }, routed_by: ifindex, mtu: 1500 };
        numbers.acquire(to(1));
        numbers.acquire(to(2));
        assert_eq!(recorded.lock().unwrap().interfaces, BTreeMap::from([(0, 0), (1, 0)]));
        found.send_replace(Arc::new(Links::from([(to(2).address, by(7))])));
        numbers.tend(Instant::now());
        assert_eq!(recorded.lock().unwrap().interfaces, BTreeMap::from([(0, 0), (1, 7)]));
        numbers.acquire(to(3));
        found.send_replace(Arc::new(Links::from([(to(2).address, by(8)), (to(3).address, by(9))])));
        numbers.tend(Instant::now());
        assert_eq!(recorded.lock().unwrap().interfaces, BTreeMap::from([(0, 0), (1, 8), (2, 9)]));
    }

    #[test]
    fn marks_leave_kube_proxys_bits_alone() {
        assert_eq!([nth(0), nth(0x3fff), nth(0x4000)], [Some(0), Some(0x3fff), Some(0x1_0000)]);
        assert_eq!(nth((1 << 22) - 1), Some(0xff_3fff));
        assert_eq!(nth(1 << 22), None);
    }
}
