//! Agents killed -9 in the middle of what they write.

use std::thread;
use std::time::{Duration, Instant};

use fairlead::dataplane::{Instance, View};
use fairlead_tests::load::Mix;
use fairlead_tests::packets::random::Rng;
use fairlead_tests::world::{Agent, Condition, Federation, Manifests, Plan, ServiceSpec};
use serde_json::{Value, json};

use crate::served::{PATIENCE, Served, assert_nothing_failed, load, wait};

/// Kills, over all agents, unless `FAIRLEAD_KILLS` says otherwise.
const KILLS: usize = 50;
/// Services that come and go together.
const CROWD: u8 = 24;

#[test]
fn agents_killed_at_random_moments_of_an_apply_lose_nothing() {
    let seed = std::env::var("FAIRLEAD_SEED").map_or_else(|_| clock_seed(), |seed| seed.parse().unwrap());
    let kills = std::env::var("FAIRLEAD_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    println!("FAIRLEAD_SEED={seed} FAIRLEAD_KILLS={kills}");
    // What is asked: a service whose slots stay, for a connection lives longer than a datagram, and one whose slots don't.
    let (still, moving) = (ServiceSpec::new("still", 1), ServiceSpec::new("moving", 2));
    let plan = Plan::default().region("us-central1", &["a", "b"], 2).gateways(2);
    let federation = Federation::default().capacity("services", 2048);
    let served = Served::with(&plan, &federation, still.clone(), |world| {
        world.manifests("us-central1-a").add_service(&still).unwrap();
        world.manifests("us-central1-b").add_service(&moving).unwrap();
    });
    served.wait_until_served();
    let clients = served.world.clients();
    let connections = load(clients, &still, Mix { new_connections: 20.0, datagrams: 10.0, ..NOTHING });
    let datagrams = load(clients, &moving, Mix { datagrams: 40.0, ..NOTHING });
    // Cluster a doesn't change, so its node has nothing to write.
    let agents: Vec<&Agent> =
        served.agents.iter().filter(|agent| !agent.host().starts_with("node-us-central1-a")).collect();
    let mut rng = Rng::new(seed);
    let mut undone = 0;
    for round in 0..kills.div_ceil(agents.len()) {
        let seeds: Vec<u64> = agents.iter().map(|_| rng.next()).collect();
        undone += thread::scope(|scope| {
            let killers: Vec<_> = agents
                .iter()
                .zip(seeds)
                .map(|(agent, seed)| scope.spawn(move || kill_while_it_writes(agent, Rng::new(seed))))
                .collect();
            change(served.world.manifests("us-central1-b"), round);
            killers.into_iter().map(|killer| usize::from(killer.join().unwrap())).sum::<usize>()
        });
        for agent in &agents {
            agent.process().start_again().unwrap();
        }
        for agent in &agents {
            agent.wait_until_ready(PATIENCE).unwrap();
            wait("all that is wanted", || additions(agent) == 0);
        }
    }
    assert!(undone > kills / 10, "{undone} of {kills} kills hit an apply");
    println!("{undone} of the kills left something to be added");
    for agent in &agents {
        assert_as_planned(agent);
    }
    assert_nothing_failed(connections);
    assert_nothing_failed(datagrams);
}

const NOTHING: Mix = Mix { new_connections: 0.0, kept_connections: 0, kept_requests: 0.0, datagrams: 0.0 };

fn clock_seed() -> u64 {
    std::time::UNIX_EPOCH.elapsed().map_or(1, |now| now.subsec_nanos().into())
}

/// Changes much at once: a crowd of services goes, another comes, and one pod of those that are asked is drained.
fn change(manifests: &Manifests, round: usize) {
    let crowd = |half: usize| {
        (0..CROWD).map(move |n| {
            ServiceSpec::new(&format!("crowd-{half}-{n}"), if half == 0 { 10 } else { 100 } + n)
        })
    };
    let pod =
        |number: usize| format!("{}-{}", manifests.cluster().name.replace("us", "pod-us"), 1 + number % 2);
    manifests.set(&pod(round), Condition::Ready).unwrap();
    manifests.set(&pod(round + 1), Condition::Terminating).unwrap();
    for service in crowd(round % 2) {
        manifests.add_service(&service).unwrap();
    }
    if round > 0 {
        for service in crowd((round + 1) % 2) {
            manifests.remove_service(&service.name).unwrap();
        }
    }
}

/// Waits until an agent begins to write to its tables, and kills it a little later; whether more was to be written.
fn kill_while_it_writes(agent: &Agent, mut rng: Rng) -> bool {
    let view = View::open(&Instance::new(agent.instance())).unwrap();
    let written = || {
        let raw = view.observe().unwrap();
        (raw.buckets.to_vec(), raw.backends.to_vec(), raw.deliveries)
    };
    let before = written();
    let deadline = Instant::now() + PATIENCE;
    while written() == before {
        assert!(Instant::now() < deadline, "the agent of {} writes nothing", agent.host());
    }
    let later = Instant::now() + Duration::from_micros(rng.next() % 3000);
    while Instant::now() < later {
        std::hint::spin_loop();
    }
    agent.process().kill().unwrap();
    additions(agent) > 0
}

/// How much of what is wanted `fairlead plan` finds missing. Without an agent it tells what the dead one left.
fn additions(agent: &Agent) -> usize {
    let plan = agent.ask(&["plan"]).unwrap();
    let is_addition = |action: &&Value| {
        let name = action["action"].as_str().unwrap();
        !["clear", "remove"].iter().any(|deletion| name.starts_with(deletion))
    };
    plan["actions"].as_array().unwrap().iter().filter(is_addition).count()
}

/// `fairlead plan` has nothing to change, once what packets might still read is cleaned up.
fn assert_as_planned(agent: &Agent) {
    let plan = || agent.ask(&["plan"]).unwrap();
    wait("tables as planned", || plan()["actions"] == json!([]));
    let plan = plan();
    assert_eq!(plan["fingerprint"], plan["installed_fingerprint"]);
    assert_eq!(plan["refused"], json!(null));
}
