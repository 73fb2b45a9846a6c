//! Server IDs of QUIC: when they come and go, and where they find no room.

use super::rows::kinds;
use super::*;
use crate::planner::{Verdict, WantedBackend};

#[test]
fn server_ids_come_before_their_ring_and_go_before_their_backend() {
    let quic = |pods| Wish { quic: true, ..Wish::of(pods) }.tables();
    let mut bench = Bench::new(capacities());
    bench.converge(&Wish::of(0b110).tables());
    assert_eq!(kinds(&bench.diff(&quic(0b110)).unwrap()), ["server", "flags"]);
    bench.converge(&quic(0b110));
    bench.assert_serves(&quic(0b110));
    let wanted = quic(0b1100);
    let plan = bench.diff(&wanted).unwrap();
    assert_eq!(kinds(&plan), ["hop", "zero", "backend", "forget server", "server", "slots", "switch"]);
    bench.carry_out(&plan);
    bench.now += GRACE;
    assert_eq!(kinds(&bench.diff(&wanted).unwrap()), ["clear backend"]);
    bench.converge(&Wish::of(0b1100).tables());
    bench.assert_clean(&Wish::of(0b1100).tables());
}

#[test]
fn where_server_ids_find_no_room_some_are_left_out_and_all_services_follow() {
    let mut bench = Bench::new(capacities());
    let most = bench.kernel.capacities.server_ids() as usize;
    let mut wanted = two_services(0b111);
    let full = Full { map: Map::ServerIds, needed: most as u64 + 3, capacity: most as u64, retry_at: None };
    name_all(&mut wanted, most + 3);
    bench.converge(&wanted);
    bench.assert_serves(&wanted);
    let plan = bench.diff(&wanted).unwrap();
    assert_eq!((plan.actions, plan.due, plan.unnamed), (vec![], None, Some(full)));
    assert!(full.to_string().ends_with("raise capacities.backends in the configuration"), "{full}");
    assert_eq!(bench.kernel.server_ids.len(), most);
    // Its endpoints come and go although the IDs of others stand in the way; what becomes free is taken.
    let mut wanted = two_services(0b1110);
    name_all(&mut wanted, most + 1);
    bench.converge(&wanted);
    bench.assert_serves(&wanted);
    assert_eq!(bench.kernel.server_ids.len(), most);
    let wanted = two_services(0b1110);
    bench.converge(&wanted);
    bench.assert_clean(&wanted);
}

#[test]
fn server_ids_that_find_no_room_while_their_service_moves_come_back() {
    let mut bench = Bench::new(capacities());
    let most = bench.kernel.capacities.server_ids() as usize;
    let mut wanted = two_services(0b1);
    name_all(&mut wanted, most);
    bench.converge(&wanted);
    assert_eq!(bench.diff(&wanted).unwrap().unnamed, None);
    let mut wanted = two_services(0b1111_1111);
    name_all(&mut wanted, most);
    let plan = bench.diff(&wanted).unwrap();
    assert!(plan.unnamed.is_some() && kinds(&plan).contains(&"publish"), "{:?}", kinds(&plan));
    bench.converge(&wanted);
    bench.assert_clean(&wanted);
}

#[test]
fn what_lingers_gives_way_first() {
    let mut bench = Bench::new(capacities());
    let most = bench.kernel.capacities.server_ids() as usize;
    let mut wanted = two_services(0b1);
    let (_, table) = wanted.services.iter_mut().rfind(|(_, table)| !table.server_ids.is_empty()).unwrap();
    let table = Arc::make_mut(table);
    let lingering = WantedBackend {
        outer: [192, 0, 2, 200].into(),
        verdict: Verdict::Lingering,
        ..table.backends[0].clone()
    };
    table.backends.push(lingering);
    // The IDs of what lingers are the first in order.
    table.server_ids = (0..most).map(|n| named(n, u16::from(n < 5))).collect();
    bench.converge(&wanted);
    let key = wanted.services.iter().rfind(|(_, table)| !table.server_ids.is_empty()).unwrap().0;
    let named: Vec<_> = bench.installed.servers_of(key).map(|(id, _)| id).collect();
    assert!((5..most - 5).all(|n| named.contains(&id(n))), "{}", named.len());
    assert!(named.len() < most && !named.contains(&id(4)), "{}", named.len());
}

/// One service of QUIC with these pods, and another with one.
fn two_services(pods: u32) -> Tables {
    Wish {
        quic: true,
        services: [Some((pods, 0)), Some((0b1, 0)), None, None, None, None],
        ..Wish::default()
    }
    .tables()
}

/// Gives the last service so many server IDs that there are so many in all.
fn name_all(wanted: &mut Tables, count: usize) {
    let others: usize = wanted.services.values().map(|table| table.server_ids.len()).sum();
    let (_, table) = wanted.services.iter_mut().rfind(|(_, table)| !table.server_ids.is_empty()).unwrap();
    let table = Arc::make_mut(table);
    let count = count - (others - table.server_ids.len());
    table.server_ids = (0..count).map(|n| named(n, 0)).collect();
}

fn named(n: usize, backend: u16) -> NamedServer {
    NamedServer { id: id(n), address: None, backend }
}

fn id(n: usize) -> ServerId {
    ServerId((n as u64).to_be_bytes())
}
