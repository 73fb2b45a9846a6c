//! Everything that happens to the world while connections are open. None may break that has a living endpoint.
//!
//! Where gateways have to know something that they could forget, slots are moved first: a gateway that joins cold
//! matters only to connections whose endpoint is not the one that its ring names.

use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::fleet::Fleet;
use super::flood;
use super::random;
use super::stage::{ABROAD, GATEWAYS, NEAR_NODES, SERVING, SPARE, Stage};
use crate::world::Condition::{Ready, Terminating};

/// One event.
pub(super) struct Event {
    /// As in the report.
    pub(super) name: &'static str,
    /// One line for people.
    pub(super) told: &'static str,
    /// Only idle connections, besides flows and short ones.
    pub(super) idle: bool,
    /// Traffic comes to gateways that don't know where flows of UDP were: cold ones, or another region's.
    pub(super) moves_datagrams: bool,
    /// Before connections are opened.
    pub(super) before: fn(&Stage) -> Result<()>,
    pub(super) action: Action,
}

/// What is done, while all connections are open.
pub(super) enum Action {
    /// To the world.
    World(fn(&Stage) -> Result<()>),
    /// To the connections too.
    Fleet(fn(&Stage, &Fleet) -> Result<()>),
    /// Something else for each seed.
    Seeded(fn(&Stage, u64) -> Result<()>),
    /// So many packets of somebody else.
    Flood(fn(&Stage, u64) -> Result<()>),
}

impl Event {
    fn new(name: &'static str, told: &'static str, action: fn(&Stage) -> Result<()>) -> Self {
        let action = Action::World(action);
        Self { name, told, idle: false, moves_datagrams: false, before: |_| Ok(()), action }
    }
}

/// For how long one gateway's updates are stopped.
const STOPPED: Duration = Duration::from_secs(10);

/// Half a period of 10 Hz.
const FLAP: Duration = Duration::from_millis(50);

/// How often an endpoint flaps: 3 s.
const FLAPS: usize = 30;

/// The event that has a seed.
pub(super) const RANDOM: &str = "random_mix";

/// All of them, in order.
pub(super) fn events() -> Vec<Event> {
    let mut events = vec![Event::new("nothing", "nothing happens", |_| Ok(()))];
    events.extend(endpoints());
    events.extend(clusters());
    events.extend(gateways());
    events.extend(opinions());
    events.extend(agents());
    events.extend(floods());
    let nothing: fn(&Stage) -> Result<()> = |_| Ok(());
    events.push(Event {
        idle: true,
        action: Action::Fleet(reuse_ports),
        ..Event::new(
            "port_reused",
            "slots move; connections are closed, and opened from the same ports",
            nothing,
        )
    });
    events.push(Event {
        moves_datagrams: true,
        action: Action::Seeded(random::play),
        ..Event::new(RANDOM, "all of it, at random", nothing)
    });
    events
}

fn endpoints() -> Vec<Event> {
    vec![
        Event::new("endpoint_added", "one more is ready", |s| s.say(&SPARE[..1], Ready)),
        Event::new("endpoint_drained", "one is being deleted", |s| s.say(&SERVING[..1], Terminating)),
        Event::new("endpoint_deselected", "one leaves its slices and lives on", |s| s.deselect(SERVING[1])),
        Event::new("endpoint_removed", "one leaves its slices and is killed -9", |s| {
            s.deselect(SERVING[2])?;
            s.kill_pod(SERVING[2])
        }),
        // The API server says nothing of it: probes find out.
        Event::new("endpoint_killed", "one is killed -9, and the API server doesn't know", |s| {
            s.kill_pod(SERVING[3])
        }),
        Event::new("endpoint_flapping", "one leaves its slices and comes back, at 10 Hz", flap),
        Event::new("ring_resized", "four more are ready at once", |s| s.say(&SPARE, Ready)),
    ]
}

fn clusters() -> Vec<Event> {
    let drain: fn(&Stage) -> Result<()> = |s| s.say(&SERVING, Terminating);
    vec![
        Event::new("cluster_drained", "all of the nearest cluster are being deleted", drain),
        Event {
            before: drain,
            ..Event::new("cluster_back", "they are ready again", |s| s.say(&SERVING, Ready))
        },
    ]
}

fn gateways() -> Vec<Event> {
    vec![
        Event {
            moves_datagrams: true,
            before: |s| {
                s.route(&GATEWAYS[..2])?;
                s.forget_gateway(GATEWAYS[2])?;
                s.forget_state(GATEWAYS[2])
            },
            ..Event::new("gateway_added", "slots move, then a third gateway joins, cold", |s| {
                move_slots(s)?;
                s.return_gateway(GATEWAYS[2], &GATEWAYS)
            })
        },
        Event::new("gateway_killed", "slots move, then one of three gateways dies", |s| {
            move_slots(s)?;
            s.kill_gateway(GATEWAYS[1], &[GATEWAYS[0], GATEWAYS[2]])
        }),
        Event {
            moves_datagrams: true,
            before: |s| s.kill_gateway(GATEWAYS[1], &[GATEWAYS[0], GATEWAYS[2]]),
            ..Event::new("gateway_returned", "slots move, then a gateway that was dead returns", |s| {
                move_slots(s)?;
                s.return_gateway(GATEWAYS[1], &GATEWAYS)
            })
        },
        Event::new(
            "ecmp_rehashed",
            "slots move, then the router exchanges all three gateways for each other",
            |s| {
                move_slots(s)?;
                s.route(&[GATEWAYS[1], GATEWAYS[2], GATEWAYS[0]])
            },
        ),
        Event {
            moves_datagrams: true,
            ..Event::new("route_flipped", "the other region's gateways get the traffic", |s| {
                s.route(&s.gateways_of(ABROAD))
            })
        },
    ]
}

fn opinions() -> Vec<Event> {
    vec![
        Event::new("probe_disagrees", "one gateway's probes to a node are lost", |s| {
            s.lose_probes(GATEWAYS[0], NEAR_NODES[0], true)
        }),
        Event::new("updates_stopped", "one gateway hears for 10 s nothing of what changes", |s| {
            s.stop_updates(GATEWAYS[1], true)?;
            move_slots(s)?;
            thread::sleep(STOPPED);
            s.stop_updates(GATEWAYS[1], false)
        }),
    ]
}

fn agents() -> Vec<Event> {
    vec![
        Event::new(
            "agent_killed",
            "all gateways' agents are killed -9, and come back to other endpoints",
            |s| {
                s.kill_agents(&GATEWAYS)?;
                s.say(&SPARE[..1], Ready)?;
                s.say(&SERVING[..1], Terminating)?;
                s.start_agents(&GATEWAYS)
            },
        ),
        Event::new("cache_wiped", "slots move, then all gateways' flow caches are wiped", |s| {
            move_slots(s)?;
            s.wipe_caches()
        }),
        Event::new("agent_upgraded", "slots move, then every agent gets other programs", |s| {
            move_slots(s)?;
            s.upgrade(true)?;
            s.upgrade(false)
        }),
        Event::new(
            "receiver_agent_killed",
            "slots move, then the nodes' agents are killed -9 and come back",
            |s| {
                s.kill_agents(&NEAR_NODES)?;
                move_slots(s)?;
                s.start_agents(&NEAR_NODES)
            },
        ),
    ]
}

/// While slots have former backends.
fn floods() -> Vec<Event> {
    let flood = |name, told, action| Event {
        before: move_slots,
        action: Action::Flood(action),
        ..Event::new(name, told, |_| Ok(()))
    };
    vec![
        flood("syn_flood", "SYNs come, some of the ports of living connections", flood::syns),
        flood("ack_flood", "packets of no connection come, some of the ports of living ones", flood::acks),
        flood("forged_flood", "marks and claims come that no gateway or receiver has made", flood::forged),
    ]
}

/// One endpoint is added and another drained, and all gateways have seen it that see anything.
fn move_slots(stage: &Stage) -> Result<()> {
    stage.say(&SPARE[..1], Ready)?;
    stage.say(&SERVING[..1], Terminating)?;
    stage.wait_until_calm()
}

fn flap(stage: &Stage) -> Result<()> {
    for _ in 0..FLAPS {
        stage.deselect(SERVING[4])?;
        thread::sleep(FLAP);
        stage.say(&SERVING[4..5], Ready)?;
        thread::sleep(FLAP);
    }
    Ok(())
}

fn reuse_ports(stage: &Stage, fleet: &Fleet) -> Result<()> {
    move_slots(stage)?;
    fleet.reopen()?;
    stage.say(&SPARE[1..2], Ready)?;
    stage.say(&SERVING[4..5], Terminating)
}
