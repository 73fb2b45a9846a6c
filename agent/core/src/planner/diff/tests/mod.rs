//! Plans, carried out on plain arrays.

mod allowed;
mod formers;
mod full;
mod kernel;
mod properties;
mod repair;
mod rows;
mod server_ids;

use std::collections::{BTreeMap, HashSet};
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use fairlead_abi::{Hop, NO_BACKEND, ServiceEntry, ServiceKey, Slot};
use ipnet::IpNet;
use kernel::Kernel;

use super::*;
use crate::fixtures::*;
use crate::model::*;
use crate::planner::{Capacities, GRACE, Inputs, Links, NamedServer, Planner, Route, copy};

fn capacities() -> Capacities {
    Capacities {
        buckets: 8,
        slots: 30_000,
        backends: 1_000,
        service_ids: 100,
        hops: 16,
        deliveries: 100,
        gateways: 8,
        source_ranges: 40,
    }
}

/// A kernel, the agent's mirror of it, and a clock.
#[derive(Clone)]
struct Bench {
    kernel: Kernel,
    installed: Installed,
    now: Duration,
}

impl Bench {
    fn new(capacities: Capacities) -> Self {
        Self { kernel: Kernel::new(capacities), installed: Installed::empty(capacities), now: Duration::ZERO }
    }

    fn diff(&self, wanted: &Tables) -> Result<Plan, PlanError> {
        diff(wanted, &self.installed, &self.kernel.slots, self.now)
    }

    fn follow(&self, wanted: &Tables, full: Full, newcomers: Newcomers<'_>) -> Plan {
        follow(wanted, &self.installed, &self.kernel.slots, self.now, full, newcomers)
    }

    fn apply(&mut self, action: &Action) {
        self.kernel.apply(action, self.now);
        self.installed.apply(action, self.now);
    }

    fn carry_out(&mut self, plan: &Plan) {
        plan.actions.iter().for_each(|action| self.apply(action));
        self.installed.settle(plan);
    }

    /// Plans, waiting for room where there is none yet; what has to go for it goes.
    fn plan(&mut self, wanted: &Tables) -> Plan {
        for _ in 0..10 {
            match self.diff(wanted) {
                Err(PlanError::Full(full)) => self.now = full.retry_at.unwrap(),
                Ok(plan) if plan.waits_for.is_some() => {
                    self.carry_out(&plan);
                    self.now += GRACE;
                }
                Ok(plan) => return plan,
            }
        }
        panic!("no room: {:?}", self.diff(wanted));
    }

    /// Plans and carries out until nothing is left to do, waiting where a plan says so.
    fn converge(&mut self, wanted: &Tables) {
        for _ in 0..20 {
            let plan = self.plan(wanted);
            self.carry_out(&plan);
            match plan.due {
                Some(due) => self.now = self.now.max(due),
                None if plan.is_empty() => return,
                None => {}
            }
        }
        panic!("no end: {:?}", self.diff(wanted));
    }

    /// As a new agent would.
    fn restart(&mut self) {
        self.now += GRACE;
        self.installed = Installed::read(&self.kernel.raw(), self.kernel.capacities, None, self.now);
    }

    /// As a new agent would whose tables have another size, or another version's name.
    fn move_tables(&mut self, larger: bool) {
        let small = self.kernel.capacities;
        let into = if larger {
            Capacities {
                buckets: small.buckets * 2,
                slots: small.slots + 1_000,
                hops: small.hops + 1,
                ..small
            }
        } else {
            small
        };
        let mut new = Kernel::new(into);
        let copied = copy((&self.kernel.raw(), small), into, |action| {
            new.apply(action, self.now);
            Ok::<(), Infallible>(())
        });
        copied.unwrap_or_else(|never| match never {});
        self.kernel = new;
        self.restart();
    }

    /// Whom the slots of every service name, by address.
    fn remembered(&self) -> BTreeMap<ServiceKey, Vec<[Option<IpAddr>; 4]>> {
        let of_entry = |entry: &ServiceEntry| {
            let name = |index: u16| {
                let backend = self.kernel.backends.get((entry.backends + u32::from(index)) as usize)?;
                (index != NO_BACKEND).then(|| backend.outer.into())
            };
            let [first, size] = [entry.ring.first_slot, entry.ring.size].map(|n| n as usize);
            let all = |slot: &Slot| [slot.current, slot.formers[0], slot.formers[1], slot.formers[2]];
            self.kernel.slots[first..first + size].iter().map(|slot| all(slot).map(name)).collect()
        };
        self.kernel.entries().map(|(key, _, entry)| (key, of_entry(entry))).collect()
    }

    fn reread(&self) -> Installed {
        Installed::read(&self.kernel.raw(), self.kernel.capacities, Some(&self.installed), self.now)
    }

    /// The kernel serves exactly what is wanted.
    fn assert_serves(&self, wanted: &Tables) {
        for (key, table) in &wanted.services {
            let entry = self.kernel.lookup(key).unwrap_or_else(|| panic!("{key:?} is not found"));
            assert_eq!(entry.flags, table.flags);
            let slots: Vec<_> = (0..).map_while(|slot| table.backend(slot).map(|b| Some(b.outer))).collect();
            assert!(self.kernel.resolve(entry) == slots, "{key:?} resolves to something else");
            for backend in &table.backends {
                let stands = self.installed.backends_of(key).find(|(_, b)| b.outer == backend.outer.into());
                let (index, _) = stands.expect("every backend stands in the region, with slots or not");
                let stands = self.kernel.backends[index as usize];
                let route = wanted.links.get(&backend.outer);
                let hop = self.kernel.hops[stands.hop as usize];
                assert_eq!(hop, route.map(|route| route.hop).unwrap_or_default());
                assert_eq!(stands.mtu, route.map_or(u16::MAX, |route| route.mtu));
                assert_eq!(stands.encap, backend.encap as u8);
            }
            self.assert_names_servers(entry.backends, table);
            assert_eq!(self.kernel.admits(entry), admitted(table), "{key:?} lets others in");
        }
        for (key, ..) in self.kernel.entries() {
            assert!(wanted.services.contains_key(&key), "{key:?} is not wanted");
        }
        assert_eq!(self.kernel.deliveries, wanted.deliveries);
        assert_eq!(self.kernel.gateways, wanted.gateways);
        assert_eq!(self.installed.fingerprint(), wanted.fingerprint());
    }

    /// The server IDs of a service lead to whom they shall, and there are no others; where there is no room, not all.
    fn assert_names_servers(&self, first: u32, table: &ServiceTable) {
        let found =
            self.kernel.server_ids.iter().filter(|(key, _)| table.protocol.is_some() && key.first == first);
        let found: BTreeMap<_, _> = found
            .map(|(key, server)| (key.id, self.kernel.backends[server.backend as usize].outer))
            .collect();
        let outer = |server: &NamedServer| table.backends[usize::from(server.backend)].outer.into();
        let wanted = table.server_ids.iter().map(|server| (server.id.0, outer(server)));
        let is_full = self.kernel.server_ids.len() == self.kernel.capacities.server_ids() as usize;
        let wanted = wanted.filter(|(id, _)| !is_full || found.contains_key(id)).collect();
        assert_eq!(found, wanted, "{:?}", table.key());
    }

    /// Nothing is left of what was before.
    fn assert_clean(&self, wanted: &Tables) {
        let backends: usize = wanted.services.values().map(|table| table.backends.len()).sum();
        assert_eq!(self.kernel.backends.iter().filter(|b| b.encap != 0).count(), backends);
        let outers = wanted.services.values().flat_map(|table| &table.backends).map(|b| b.outer);
        let servers: usize = wanted.services.values().map(|table| table.server_ids.len()).sum();
        assert_eq!(self.kernel.server_ids.len(), servers);
        let ranges: usize = wanted.services.values().flat_map(|table| &table.allowed).map(Vec::len).sum();
        assert_eq!(self.kernel.allowed.values().map(BTreeSet::len).sum::<usize>(), ranges);
        let hops: HashSet<_> =
            outers.filter_map(|outer| wanted.links.get(&outer)).map(|route| route.hop).collect();
        assert_eq!(self.kernel.hops.iter().skip(1).filter(|hop| hop.ifindex != 0).count(), hops.len());
        let mask = self.kernel.capacities.buckets - 1;
        let passed = |bucket: u32| {
            self.kernel.entries().any(|(key, (at, _), _)| {
                let home = fairlead_abi::bucket_of(&key, mask);
                (bucket.wrapping_sub(home) & mask) < (at.wrapping_sub(home) & mask)
            })
        };
        for (number, bucket) in (0u32..).zip(&self.kernel.buckets) {
            assert_eq!(bucket.overflowed != 0, passed(number), "bucket {number}");
        }
    }
}

/// What is wanted, in few words: which pods of c0 each service has, which of them are not ready, and which way packets go.
#[derive(Clone, Debug, Default)]
struct Wish {
    /// `None`: no such service.
    services: [Option<(u32, u32)>; 6],
    /// Another one means other MACs for half of the pods.
    links: u8,
    pass: bool,
    quic: bool,
    /// Ranges of the clients that all services let in, by bits; 0: all clients.
    allowed: u8,
}

impl Wish {
    fn of(pods: u32) -> Self {
        Self { services: [Some((pods, 0)), None, None, None, None, None], ..Self::default() }
    }

    fn tables(&self) -> Tables {
        let declared = Arc::new(declarations(1));
        let all = ["a", "b", "c", "d", "e", "f"].into_iter().zip(self.services);
        let states = services(all.filter_map(|(service, pods)| {
            let (present, unready) = pods?;
            Some((0, service, self.shard(present, unready)))
        }));
        let model = merged(&declared, &states, None);
        let (health, demand, links) = (Health::default(), Demand::default(), Arc::new(self.links()));
        let inputs = Inputs {
            model: &model,
            health: &health,
            demand: &demand,
            links: &links,
            held: &Held::default(),
            silent: &Arc::default(),
            now: Duration::ZERO,
        };
        Planner::new().plan(&inputs).tables
    }

    fn shard(&self, present: u32, unready: u32) -> ShardSpec {
        let mut spec = shard(0, 0);
        spec.options.pass_unserved_ports = self.pass;
        spec.ports[0].quic = self.quic;
        spec.source_ranges = ranges(self.allowed);
        spec.endpoints = Arc::new(
            (0..32)
                .filter(|n| present & (1 << n) != 0)
                .map(|n| {
                    let mut endpoint = endpoint(0, n + 1);
                    endpoint.conditions.ready = unready & (1 << n) == 0;
                    if n % 8 == 0 {
                        endpoint.node = Arc::from("node-0");
                    }
                    endpoint
                })
                .collect(),
        );
        spec
    }

    fn links(&self) -> Links {
        let way = |n: u8| {
            let version = if n.is_multiple_of(2) { self.links } else { 0 };
            let hop = Hop {
                destination_mac: [2, 0, 0, 0, version, n % 4],
                source_mac: [2, 0, 0, 0, 0, 1],
                ifindex: 7,
                ..Hop::default()
            };
            let route = Route { hop, routed_by: 7, mtu: 1500 + u16::from(self.links) };
            (IpAddr::from(Ipv4Addr::new(10, 0, 0, n + 1)), route)
        };
        // One pod in five can't be reached yet.
        (0..32).filter(|n| n % 5 != 4).map(way).collect()
    }
}

/// One range for each bit, none beside another.
fn ranges(bits: u8) -> Vec<IpNet> {
    let range = |n: u8| IpNet::new(IpAddr::from([198, 51, 2 * n, 0]), 24).unwrap();
    (0..8).filter(|n| bits & (1 << n) != 0).map(range).collect()
}

/// The clients that a table lets in.
fn admitted(table: &ServiceTable) -> Option<BTreeSet<IpNet>> {
    table.allowed.as_ref().map(|ranges| ranges.iter().copied().collect())
}

/// What each published service resolves to.
fn resolved(kernel: &Kernel) -> BTreeMap<ServiceKey, Vec<Option<IpAddr>>> {
    let keys: BTreeSet<ServiceKey> = kernel.entries().map(|(key, ..)| key).collect();
    keys.into_iter().filter_map(|key| Some((key, kernel.resolve(kernel.lookup(&key)?)))).collect()
}
