//! In paused time, with a network that does as it is told.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fairlead_abi::{Encap, ProbeTarget};
use fairlead_core::model::{Health, ObjectName, Probe, ProbeKind, ProbeState};
use tokio::sync::watch;
use tokio::time::{Instant, advance, sleep, timeout};

use super::super::ask::{Ask, Failure, Outcome, Question};
use super::super::numbers::Numbers;
use super::super::probing::Probing;
use super::super::{Counters, Outer, ProbeTable, Settings, Snapshot, Target, Targets, Way};
use super::{MS, becomes, direct, of_web, probe_of, spec};
use crate::dataplane::Error;

#[derive(Clone, Copy)]
enum Endpoint {
    Answers(Duration),
    Refuses,
    Silent,
    Unroutable,
    Panics,
}

/// Endpoints by address; those that aren't named answer at once. Keeps what was asked, and when.
#[derive(Clone, Default)]
struct Network(Arc<Mutex<Told>>);

#[derive(Default)]
struct Told {
    endpoints: HashMap<IpAddr, Endpoint>,
    asked: Vec<(Instant, Question)>,
}

impl Network {
    fn set(&self, address: IpAddr, endpoint: Endpoint) {
        self.0.lock().unwrap().endpoints.insert(address, endpoint);
    }

    /// When each probe to an address was begun.
    fn asked(&self, address: IpAddr) -> Vec<Instant> {
        let told = self.0.lock().unwrap();
        told.asked.iter().filter(|(_, question)| question.to.ip() == address).map(|(at, _)| *at).collect()
    }

    fn questions(&self) -> Vec<Question> {
        self.0.lock().unwrap().asked.iter().map(|(_, question)| question.clone()).collect()
    }
}

impl Ask for Network {
    async fn ask(&self, question: Question) -> Outcome {
        let endpoint = {
            let mut told = self.0.lock().unwrap();
            told.asked.push((Instant::now(), question.clone()));
            told.endpoints.get(&question.to.ip()).copied().unwrap_or(Endpoint::Answers(Duration::ZERO))
        };
        match endpoint {
            Endpoint::Answers(after) if after <= question.timeout => {
                sleep(after).await;
                Outcome::Passed
            }
            Endpoint::Answers(_) | Endpoint::Silent => {
                sleep(question.timeout).await;
                Outcome::Failed(Failure::Timeout)
            }
            Endpoint::Refuses => Outcome::Failed(Failure::Refused),
            Endpoint::Unroutable => Outcome::Unsent(std::io::ErrorKind::NetworkUnreachable.into()),
            Endpoint::Panics => panic!("a fault, as the test wants it"),
        }
    }
}

/// A running prober.
struct World {
    network: Network,
    targets: watch::Sender<Arc<Targets>>,
    health: watch::Receiver<Arc<Health>>,
    counters: Arc<Counters>,
    started: Instant,
    task: tokio::task::JoinHandle<()>,
}

fn settings() -> Settings {
    Settings { concurrency: 1000, per_second: 100_000, interface: None, seed: 1 }
}

fn world_with(settings: &Settings, table: Option<Box<dyn ProbeTable>>, targets: Arc<Targets>) -> World {
    world_that_knows(Health::default(), settings, table, targets)
}

fn world_that_knows(
    known: Health,
    settings: &Settings,
    table: Option<Box<dyn ProbeTable>>,
    targets: Arc<Targets>,
) -> World {
    let (network, counters, started) = (Network::default(), Arc::<Counters>::default(), Instant::now());
    let (targets, wanted) = watch::channel(targets);
    let (results, health) = watch::channel(Arc::new(known));
    let numbers = Numbers::new(table, watch::channel(Arc::default()).1);
    let probing = Probing::new(network.clone(), settings, numbers, started, Arc::clone(&counters));
    let task = tokio::spawn(probing.run(wanted, results));
    World { network, targets, health, counters, started, task }
}

fn world(targets: Vec<Target>) -> World {
    world_with(&settings(), None, of_web(targets))
}

impl World {
    fn state(&self, address: IpAddr) -> ProbeState {
        probe_of(&self.health.borrow(), address).state
    }

    fn counted(&self) -> Snapshot {
        self.counters.snapshot()
    }
}

fn ip(host: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, host])
}

fn endpoint(host: u8) -> Target {
    direct((ip(host), 8080).into(), &spec(ProbeKind::Tcp))
}

#[tokio::test(start_paused = true)]
async fn the_first_good_answer_is_published() {
    let mut world = world(vec![endpoint(1)]);
    let since = becomes(&mut world.health, ip(1), ProbeState::Good).await;
    assert!(since < 200 * MS, "{since:?}");
    assert_eq!(world.counted().flips_to_good, 1);
}

#[tokio::test(start_paused = true)]
async fn a_silent_node_is_bad_within_800_ms_whenever_it_falls_silent() {
    for moment in 0..20 {
        let mut world = world((1..=3).map(endpoint).collect());
        for host in 1..=3 {
            becomes(&mut world.health, ip(host), ProbeState::Good).await;
        }
        advance(moment * 10 * MS).await;
        let event = Instant::now();
        (1..=3).for_each(|host| world.network.set(ip(host), Endpoint::Silent));
        for host in 1..=3 {
            becomes(&mut world.health, ip(host), ProbeState::Bad).await;
        }
        let took = event.elapsed();
        assert!((600 * MS..=830 * MS).contains(&took), "after {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusing_endpoint_is_bad_without_waiting_for_timeouts() {
    let mut world = world(vec![endpoint(1)]);
    becomes(&mut world.health, ip(1), ProbeState::Good).await;
    let event = Instant::now();
    world.network.set(ip(1), Endpoint::Refuses);
    becomes(&mut world.health, ip(1), ProbeState::Bad).await;
    assert!(event.elapsed() <= 630 * MS, "after {:?}", event.elapsed());
    world.network.set(ip(1), Endpoint::Answers(5 * MS));
    let event = Instant::now();
    becomes(&mut world.health, ip(1), ProbeState::Good).await;
    assert!(event.elapsed() <= 440 * MS, "after {:?}", event.elapsed());
    assert_eq!((world.counted().flips_to_good, world.counted().flips_to_bad), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn answers_too_late_are_none() {
    let mut world = world(vec![endpoint(1)]);
    world.network.set(ip(1), Endpoint::Answers(201 * MS));
    becomes(&mut world.health, ip(1), ProbeState::Bad).await;
    world.network.set(ip(1), Endpoint::Answers(199 * MS));
    becomes(&mut world.health, ip(1), ProbeState::Good).await;
}

#[tokio::test(start_paused = true)]
async fn probes_keep_their_beat_and_spread() {
    let mut world = world((1..=100).map(endpoint).collect());
    world.network.set(ip(1), Endpoint::Silent);
    becomes(&mut world.health, ip(1), ProbeState::Bad).await;
    sleep(2000 * MS).await;
    for host in [1, 2] {
        let asked = world.network.asked(ip(host));
        assert!(asked.windows(2).all(|pair| {
            let gap = pair[1] - pair[0];
            (198 * MS..=202 * MS).contains(&gap)
        }));
    }
    let first: Vec<Duration> =
        (1..=100).map(|host| world.network.asked(ip(host))[0] - world.started).collect();
    assert!(first.iter().all(|first| *first <= 201 * MS));
    let early = first.iter().filter(|first| **first < 100 * MS).count();
    assert!((30..=70).contains(&early), "{early} of 100 in the first half");
}

#[tokio::test(start_paused = true)]
async fn what_this_node_cannot_send_says_nothing() {
    let mut world = world(vec![endpoint(1)]);
    becomes(&mut world.health, ip(1), ProbeState::Good).await;
    world.network.set(ip(1), Endpoint::Unroutable);
    sleep(5000 * MS).await;
    assert_eq!(world.state(ip(1)), ProbeState::Good);
    assert!(world.counted().unsent >= 24);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_breaks_off_says_nothing_and_the_next_ones_go_on() {
    let mut world = world(vec![endpoint(1)]);
    becomes(&mut world.health, ip(1), ProbeState::Good).await;
    world.network.set(ip(1), Endpoint::Panics);
    sleep(5000 * MS).await;
    assert_eq!(world.state(ip(1)), ProbeState::Good);
    assert!(world.network.asked(ip(1)).len() >= 24, "it is asked again and again");
    world.network.set(ip(1), Endpoint::Refuses);
    becomes(&mut world.health, ip(1), ProbeState::Bad).await;
}

#[tokio::test(start_paused = true)]
async fn nodes_that_fall_together_are_published_together() {
    let targets: Vec<Target> = (1..=200).map(endpoint).collect();
    let mut world = world(targets);
    for host in 1..=200 {
        becomes(&mut world.health, ip(host), ProbeState::Good).await;
    }
    // 200 endpoints in 200 ms: one publication for each 20 ms at most.
    assert!(world.counted().published <= 12, "{}", world.counted().published);
}

#[tokio::test(start_paused = true)]
async fn what_stays_keeps_verdict_and_beat() {
    let mut world = world(vec![endpoint(1), endpoint(2)]);
    world.network.set(ip(1), Endpoint::Refuses);
    becomes(&mut world.health, ip(1), ProbeState::Bad).await;
    becomes(&mut world.health, ip(2), ProbeState::Good).await;
    world.targets.send_replace(of_web(vec![endpoint(1), endpoint(3)]));
    becomes(&mut world.health, ip(3), ProbeState::Good).await;
    assert_eq!(world.state(ip(1)), ProbeState::Bad);
    assert_eq!(world.state(ip(2)), ProbeState::Unknown, "forgotten");
    let asked_2 = world.network.asked(ip(2)).len();
    sleep(1000 * MS).await;
    assert_eq!(world.network.asked(ip(2)).len(), asked_2, "no longer asked");
    let asked = world.network.asked(ip(1));
    assert!(asked.windows(2).all(|pair| (198 * MS..=202 * MS).contains(&(pair[1] - pair[0]))));
    assert_eq!(world.counted().targets, 2);
}

#[tokio::test(start_paused = true)]
async fn other_questions_to_the_same_pod_keep_the_verdict_another_pod_does_not() {
    let mut world = world(vec![endpoint(1), endpoint(2)]);
    for host in [1, 2] {
        world.network.set(ip(host), Endpoint::Refuses);
        becomes(&mut world.health, ip(host), ProbeState::Bad).await;
        world.network.set(ip(host), Endpoint::Silent);
    }
    let mut asked_otherwise = endpoint(1);
    asked_otherwise.spec = Arc::new(spec(ProbeKind::Http));
    let mut another_pod = endpoint(2);
    another_pod.pod = Arc::from("another");
    world.targets.send_replace(of_web(vec![asked_otherwise, another_pod]));
    becomes(&mut world.health, ip(2), ProbeState::Unknown).await;
    assert_eq!(world.state(ip(1)), ProbeState::Bad);
    sleep(300 * MS).await;
    assert!(world.network.questions().iter().any(|question| question.kind == ProbeKind::Http));
}

#[tokio::test(start_paused = true)]
async fn what_was_known_before_counts_until_probes_say_something_else() {
    let mut known = Health::default();
    let bad = Probe { state: ProbeState::Bad, since: Duration::ZERO };
    for host in [1, 2, 9] {
        known.set(&ObjectName::new("shop", "web"), ip(host), &endpoint(host).port, bad);
    }
    let mut world = world_that_knows(known, &settings(), None, of_web((1..=3).map(endpoint).collect()));
    world.network.set(ip(1), Endpoint::Silent);
    becomes(&mut world.health, ip(3), ProbeState::Good).await;
    assert_eq!(world.state(ip(9)), ProbeState::Unknown, "it is no target");
    let since = becomes(&mut world.health, ip(2), ProbeState::Good).await;
    assert!(since > 200 * MS, "one good answer is not enough: {since:?}");
    assert_eq!(world.state(ip(1)), ProbeState::Bad);
}

#[tokio::test(start_paused = true)]
async fn services_that_go_leave_no_results() {
    let mut world = world(vec![endpoint(1)]);
    becomes(&mut world.health, ip(1), ProbeState::Good).await;
    world.targets.send_replace(Arc::default());
    world.health.wait_for(|health| health.services.is_empty()).await.unwrap();
    sleep(1100 * MS).await;
    assert_eq!((world.counted().targets, world.counted().in_flight), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_rate_is_limited_and_shared_fairly() {
    let settings = Settings { per_second: 100, ..settings() };
    // 40 endpoints want 200 a second.
    let world = world_with(&settings, None, of_web((1..=40).map(endpoint).collect()));
    sleep(10_000 * MS).await;
    let counted = world.counted();
    assert!((950..=1010).contains(&counted.begun), "{} in 10 s", counted.begun);
    assert!((900..=1050).contains(&counted.skipped), "{} skipped", counted.skipped);
    for host in 1..=40 {
        let asked = world.network.asked(ip(host)).len();
        assert!((20..=30).contains(&asked), "endpoint {host}: {asked} times");
    }
}

#[tokio::test(start_paused = true)]
async fn concurrency_is_bounded() {
    let settings = Settings { concurrency: 5, ..settings() };
    let world = world_with(&settings, None, of_web((1..=40).map(endpoint).collect()));
    (1..=40).for_each(|host| world.network.set(ip(host), Endpoint::Silent));
    for _ in 0..100 {
        sleep(20 * MS).await;
        assert!(world.counted().in_flight <= 5);
    }
    let counted = world.counted();
    // Five at a time, each for 200 ms, for two seconds.
    assert!((40..=50).contains(&counted.begun), "{}", counted.begun);
    assert!(counted.timed_out >= 40);
}

/// Shared with the test: what the table of probe targets would hold.
#[derive(Clone, Default)]
struct Table(Arc<Mutex<HashMap<u32, IpAddr>>>);

impl ProbeTable for Table {
    fn set(&mut self, number: u32, target: &ProbeTarget) -> Result<(), Error> {
        self.0.lock().unwrap().insert(number, target.outer.into());
        Ok(())
    }

    fn remove(&mut self, number: u32) -> Result<(), Error> {
        self.0.lock().unwrap().remove(&number);
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_tunnelled_probe_asks_the_vip_with_the_endpoints_mark() {
    let table = Table::default();
    let through = |host: u8| Target {
        way: Way::Through(Outer { address: ip(host), encap: Encap::Ipip }),
        ..endpoint(host)
    };
    let mut world =
        world_with(&settings(), Some(Box::new(table.clone())), of_web(vec![through(1), through(2)]));
    for host in [1, 2] {
        becomes(&mut world.health, ip(host), ProbeState::Good).await;
    }
    let questions = world.network.questions();
    assert!(questions.iter().all(|question| question.to == "192.0.2.1:80".parse().unwrap()));
    let mut marks: Vec<u32> = questions.iter().filter_map(|question| question.mark).collect();
    marks.sort_unstable();
    marks.dedup();
    assert_eq!(marks, [0xfa00_0000, 0xfa00_0001]);
    let entries = table.0.lock().unwrap().clone();
    assert_eq!(entries, HashMap::from([(0, ip(1)), (1, ip(2))]));
    world.targets.send_replace(of_web(vec![through(2)]));
    sleep(10_000 * MS).await;
    assert_eq!(*table.0.lock().unwrap(), HashMap::from([(1, ip(2))]));
}

#[tokio::test(start_paused = true)]
async fn ends_with_its_input() {
    let world = world(vec![endpoint(1)]);
    drop(world.targets);
    timeout(100 * MS, world.task).await.expect("the prober ends").unwrap();
}
