//! Server IDs of QUIC: when they come and go, and where they find no room.

use super::rows::kinds;
use super::*;

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
fn a_service_whose_server_ids_find_no_room_is_refused_and_the_others_follow() {
    let mut bench = Bench::new(capacities());
    let quic = |pods| Wish { quic: true, ..Wish::of(pods) }.tables();
    bench.converge(&quic(0b11));
    let mut wide = Wish {
        quic: true,
        services: [Some((0b111, 0)), Some((0b1, 0)), None, None, None, None],
        ..Wish::default()
    }
    .tables();
    let (_, table) = wide.services.iter_mut().rfind(|(_, table)| !table.server_ids.is_empty()).unwrap();
    let table = Arc::make_mut(table);
    let name = table.name.clone();
    let most = bench.kernel.capacities.server_ids();
    let more = (0..most).map(|n| NamedServer {
        id: ServerId(u64::from(n).to_be_bytes()),
        address: None,
        backend: 0,
    });
    table.server_ids = more.collect();
    let PlanError::Full(full) = bench.diff(&wide).unwrap_err();
    assert_eq!((full.map, full.retry_at), (Map::ServerIds, None));
    assert!(full.to_string().ends_with("raise capacities.backends in the configuration"), "{full}");
    let plan = bench.follow(&wide, full, Newcomers::LetIn { last: &BTreeSet::new() });
    bench.carry_out(&plan);
    assert!(bench.kernel.entries().all(|(key, ..)| wide.services[&key].name != name || key.port == 0));
    let other =
        wide.services.iter().find(|(_, table)| table.name != name && table.protocol.is_some()).unwrap();
    bench.assert_names_servers(bench.kernel.lookup(other.0).unwrap().backends, other.1);
}
