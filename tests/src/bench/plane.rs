//! The BPF programs on tables that the planner filled: what an agent does, without its other stages.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use fairlead::dataplane::{Capacities, Dataplane, Instance, Programs, socket_offsets};
use fairlead_abi::{Roles, Settings, TunnelSource};
use fairlead_core::model::{Demand, Health, Held, Model, merge};
use fairlead_core::planner::{self, Inputs, Installed, Planner, diff};

use super::fleet::{CLUSTERS, ENDPOINTS, Fleet, Kind};

/// Slots of a ring for 27 backends, and the spare room of a service's region among the backends.
pub(super) const RING: u32 = 1021;
const ROOM: u32 = CLUSTERS as u32 * ENDPOINTS as u32 * 2;
/// Seed of the flows' hash.
pub(super) const SEED: u64 = 0x3c6e_f372_fe94_f82b;
/// Where this gateway's tunnel packets come from.
pub(super) const OWN: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(192, 0, 2, 1), Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 1));
/// Rings that are written while those before them cool.
const COOLING: u32 = 4096;

/// Programs, tables, and all that planning remembers.
pub(super) struct Plane {
    pub(super) dataplane: Dataplane,
    planner: Planner,
    pub(super) installed: Installed,
    model: Option<Model>,
    started: Instant,
}

/// Sizes of tables that depend on connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) flows: u32,
    /// Datagrams whose first fragment is remembered.
    pub(super) fragments: u32,
    /// Buckets of the flow cache, a power of two.
    pub(super) cache: u32,
}

impl Sizes {
    /// For traffic that leaves no trace.
    pub(super) const SMALL: Self = Self { flows: 1024, fragments: 1024, cache: 16 };
}

impl Plane {
    /// Loads the programs of `elf` on empty tables with room for `services`.
    pub(super) fn load(
        instance: &Instance,
        elf: &Path,
        (services, kind): (u32, Kind),
        sizes: Sizes,
    ) -> Result<Self> {
        let capacities = capacities(services, kind, sizes);
        let programs = Programs::File(elf.to_owned());
        let settings = settings(&capacities);
        let dataplane = Dataplane::load(instance, &programs, &settings, &capacities).map_err(with_log)?;
        Ok(Self {
            dataplane,
            planner: Planner::new(),
            installed: Installed::empty(capacities.tables),
            model: None,
            started: Instant::now(),
        })
    }

    /// Plans for `fleet` as it is now: how long that took, and how long to carry it out.
    pub(super) fn turn(&mut self, fleet: &Fleet) -> Result<(Duration, Duration)> {
        let (health, demand) = (Health::default(), Demand::default());
        let began = Instant::now();
        let model = merge(&fleet.declared, &fleet.states, &health, self.model.as_ref());
        let now = self.started.elapsed();
        let inputs = Inputs {
            model: &model,
            health: &health,
            demand: &demand,
            links: &fleet.links,
            held: &Held::default(),
            silent: &Arc::default(),
            now,
        };
        let planned = self.planner.plan(&inputs);
        let plan = diff(&planned.tables, &self.installed, self.dataplane.slots(), now).context("plan")?;
        let planning = began.elapsed();
        for action in &plan.actions {
            self.dataplane.apply(action).context("carry the plan out")?;
            self.installed.apply(action, self.started.elapsed());
        }
        self.installed.settle(&plan);
        self.model = Some(model);
        Ok((planning, began.elapsed() - planning))
    }

    /// Whether all that the model should hold is published.
    pub(super) fn check(&self, services: u32, kind: Kind) -> Result<()> {
        let model = self.model.as_ref().context("nothing is planned yet")?;
        if let Some(problem) = model.problems.first() {
            return Err(anyhow!("the services are not as they should be: {problem:?}"));
        }
        let (published, wanted) = (self.installed.services().count(), services * kind.entries());
        if published != wanted as usize {
            return Err(anyhow!("{published} entries are published, {wanted} wanted"));
        }
        Ok(())
    }
}

fn capacities(services: u32, kind: Kind, sizes: Sizes) -> Capacities {
    let entries = services * kind.entries();
    let rings = services * kind.rings();
    Capacities {
        tables: planner::Capacities {
            // As full as the agent makes them.
            buckets: entries.next_power_of_two().max(16),
            slots: (rings + rings.clamp(16, COOLING)) * RING,
            backends: (rings + rings.clamp(16, COOLING)) * ROOM,
            service_ids: entries + 16,
            hops: 64,
            deliveries: 64,
            gateways: 64,
            source_ranges: 64,
        },
        flows: sizes.flows,
        half_open: 1024,
        fragments: sizes.fragments,
        cache: sizes.cache,
        probes: 64,
    }
}

fn settings(capacities: &Capacities) -> Settings {
    let tunnel = |address: IpAddr| TunnelSource { address: address.into(), ..TunnelSource::default() };
    Settings {
        seed: SEED,
        roles: Roles::GATEWAY | Roles::RECEIVER,
        bucket_mask: capacities.tables.buckets - 1,
        tunnel_v4: tunnel(IpAddr::V4(OWN.0)),
        tunnel_v6: tunnel(IpAddr::V6(OWN.1)),
        // What is measured is answering, not refusing to.
        icmp_per_second: 1_000_000_000,
        cache_mask: capacities.cache - 1,
        bounces_per_second: 1_000_000_000,
        bounces_per_prefix: 1_000_000_000,
        bounces_in_all: 1_000_000_000,
        reports_per_second: 1_000_000_000,
        recent_mask: capacities.recent() - 1,
        padding: 0,
        // What looking sockets up costs is part of it, where the kernel allows it.
        sockets: socket_offsets().unwrap_or_default(),
    }
}

/// The verifier's log is long, and what it is about stands at its end.
fn with_log(error: fairlead::dataplane::Error) -> anyhow::Error {
    let text = format!("{:#}", anyhow::Error::from(error));
    let skip = text.chars().count().saturating_sub(4000);
    anyhow!("{}", text.chars().skip(skip).collect::<String>())
}
