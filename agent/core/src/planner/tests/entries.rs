//! What stands in a service's tables: backends, families, server IDs, rings.

use super::*;

#[test]
fn endpoints_that_can_not_be_taken_say_why() {
    let mut spec = shard(0, 5);
    let endpoints = Arc::make_mut(&mut spec.endpoints);
    endpoints[0].receiver = false;
    endpoints[1].ports = Arc::default();
    endpoints[2].v4 = None;
    endpoints[3].v4 = Some(Ipv4Addr::new(10, 9, 9, 9));
    let tables = planned(&merged(&declared(), &states([(0, spec)]), None), &Health::default());
    let table = web(&tables);
    let expected = [
        ("p5", Verdict::Taken),
        ("p1", Verdict::NoReceiver),
        ("p2", Verdict::NoPort),
        ("p3", Verdict::NoAddressOfFamily),
        ("p4", Verdict::Rejected(Rejection::OutsideCidrs)),
    ];
    assert_eq!(verdicts(table), expected);
}

#[test]
fn the_tunnels_family() {
    let outers = |v4: bool, v6: bool, spec: &ShardSpec| -> Vec<(IpAddr, Encap)> {
        let mut declared = declarations(9);
        (declared.here.tunnel_v4, declared.here.tunnel_v6) = (v4, v6);
        declared.here.tunnel = Tunnel::Gue;
        let tables =
            planned(&merged(&Arc::new(declared), &states([(0, spec.clone())]), None), &Health::default());
        web(&tables).backends.iter().map(|backend| (backend.outer, backend.encap)).collect()
    };
    let v6: IpAddr = "fd00::1".parse().unwrap();
    assert_eq!(outers(true, true, &shard(0, 1)), [(pod(0, 1).into(), Encap::Gue)]);
    assert_eq!(outers(false, true, &shard(0, 1)), [(v6, Encap::Gue)], "4 in 6, by the pod's other address");
    assert_eq!(outers(false, false, &shard(0, 1)), []);
    let mut v4_only = shard(0, 1);
    Arc::make_mut(&mut v4_only.endpoints)[0].v6 = None;
    assert_eq!(outers(false, true, &v4_only), []);
    Arc::make_mut(&mut v4_only.endpoints)[0].node = Arc::from("node-0");
    assert_eq!(
        outers(false, false, &v4_only),
        [(pod(0, 1).into(), Encap::Local)],
        "here no tunnel is needed"
    );
}

#[test]
fn udp_follows_the_tcp_probes_of_the_pod() {
    let mut spec = shard(0, 2);
    spec.ports = vec![port(53, "dns-tcp"), ServicePort { protocol: Protocol::Udp, ..port(53, "dns") }];
    let ports: TargetPorts = [("dns-tcp", 53), ("dns", 53)].map(|(name, n)| (Arc::from(name), n)).into();
    for endpoint in Arc::make_mut(&mut spec.endpoints) {
        endpoint.ports = Arc::new(ports.clone());
    }
    let model = merged(&declared(), &states([(0, spec)]), None);
    let mut health = Health::default();
    let bad = Probe { state: ProbeState::Bad, ..Probe::default() };
    health.set(&name("web"), pod(0, 1).into(), &Arc::from("dns-tcp"), bad);
    let tables = planned(&model, &health);
    let by_protocol = tables.services.values().filter(|table| table.protocol.is_some());
    for table in by_protocol {
        assert_eq!(
            verdicts(table),
            [("p1", Verdict::ProbesFail), ("p2", Verdict::Taken)],
            "{:?}",
            table.protocol
        );
    }
}

#[test]
fn what_is_not_probed_goes_by_the_api_server_alone() {
    let mut spec = shard(0, 2);
    spec.options.probe.kind = Some(ProbeKind::None);
    let mut health = Health::default();
    judge(&mut health, pod(0, 1), ProbeState::Bad);
    let tables = planned(&merged(&declared(), &states([(0, spec)]), None), &health);
    assert_eq!(verdicts(web(&tables)), [("p1", Verdict::Taken), ("p2", Verdict::Taken)]);
}

#[test]
fn every_vip_has_an_entry_of_its_own() {
    let mut passing = shard(0, 1);
    passing.options.pass_unserved_ports = true;
    passing.wants_v6 = true;
    let model = merged(&declared(), &services([(0, "web", passing), (0, "zzz", shard(0, 1))]), None);
    let tables = planned(&model, &Health::default());
    let flags = |service: &str, family: Family| {
        let vip = model.services[&name(service)].vips.get(family).unwrap();
        tables.services[&ServiceKey::vip_only(vip.into(), family)].flags
    };
    let pass = ServiceEntry::PASS_UNSERVED;
    assert_eq!(
        [flags("web", Family::V4), flags("web", Family::V6), flags("zzz", Family::V4)],
        [pass, pass, 0]
    );
    assert_eq!(tables.services.len(), 6);
}

#[test]
fn a_service_that_keeps_clients_says_so_in_its_ports_entries() {
    let mut keeping = shard(0, 1);
    keeping.by_client = true;
    let model = merged(&declared(), &services([(0, "web", keeping), (1, "web", shard(1, 1))]), None);
    let tables = planned(&model, &Health::default());
    let flags = |table: &Arc<ServiceTable>| (table.protocol.is_some(), table.flags);
    let all: Vec<_> = tables.services.values().map(flags).collect();
    assert_eq!(all, [(false, 0), (true, ServiceEntry::BY_CLIENT)]);
    let problems: Vec<String> = model.problems.iter().map(ToString::to_string).collect();
    let [problem] = &problems[..] else { panic!("{problems:?}") };
    assert!(
        problem.contains("spec.sessionAffinity: is None here and ClientIP in another cluster"),
        "{problem}"
    );
}

#[test]
fn a_service_is_restricted_by_family_at_each_port() {
    let of = |ranges: &[&str]| {
        let mut spec = shard(0, 1);
        spec.wants_v6 = true;
        spec.source_ranges = ranges.iter().map(|range| range.parse().unwrap()).collect();
        let model = merged(&declared(), &states([(0, spec)]), None);
        let tables = planned(&model, &Health::default());
        let told = |table: &Arc<ServiceTable>| {
            assert_eq!(table.allowed.is_some(), table.flags & ServiceEntry::RESTRICTED != 0);
            let allowed = table.allowed.as_ref()?;
            Some(allowed.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        let ports = tables.services.values().filter(|table| table.protocol.is_some());
        let by_family = ports.map(|table| (table.vip.is_ipv6(), told(table)));
        let vips = tables.services.values().filter(|table| table.protocol.is_none());
        assert!(vips.into_iter().all(|table| table.flags == 0 && table.allowed.is_none()));
        (
            by_family.collect::<std::collections::BTreeMap<_, _>>().into_values().collect::<Vec<_>>(),
            model.problems.len(),
        )
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(of(&[]), (vec![None, None], 0));
    assert_eq!(
        of(&["192.0.2.7/25", "2001:db8::/48"]),
        (vec![some("192.0.2.0/25"), some("2001:db8::/48")], 0)
    );
    assert_eq!(of(&["0.0.0.0/0", "2001:db8::/48"]), (vec![None, some("2001:db8::/48")], 0));
    assert_eq!(
        of(&["192.0.2.0/24"]),
        (vec![some("192.0.2.0/24"), some("")], 1),
        "nobody by IPv6, and that is told"
    );
}

#[test]
fn server_ids_are_the_same_whatever_tunnels_a_gateway_has() {
    let mut spec = shard(0, 2);
    spec.wants_v6 = true;
    spec.ports[0].quic = true;
    // Of the other cluster's, one has no IPv6.
    let mut other = shard(3, 2);
    other.ports[0].quic = true;
    Arc::make_mut(&mut other.endpoints)[1].v6 = None;
    let states = states([(0, spec), (3, other)]);
    let of = |v4: bool, v6: bool| {
        let mut declared = declarations(9);
        (declared.here.tunnel_v4, declared.here.tunnel_v6) = (v4, v6);
        let tables = planned(&merged(&Arc::new(declared), &states, None), &Health::default());
        let named = tables.services.values().filter(|table| table.protocol.is_some()).map(|table| {
            assert_eq!((table.flags, table.clashes.len()), (ServiceEntry::QUIC, 0));
            let pod = |named: &NamedServer| Arc::clone(&table.backends[usize::from(named.backend)].pod);
            let named: Vec<_> =
                table.server_ids.iter().map(|named| (named.id, named.address, pod(named))).collect();
            (table.vip, named)
        });
        named.collect::<Vec<_>>()
    };
    let both = of(true, true);
    assert_eq!(
        both.iter().map(|(_, named)| named.len()).collect::<Vec<_>>(),
        [7, 6],
        "p4 can't serve an IPv6 VIP"
    );
    assert_eq!(of(true, false), both);
    for (vip, named) in &both {
        for (id, address, pod) in named {
            assert_eq!(*id, ServerId::of(address.unwrap()), "{vip} {pod}");
        }
    }
}

#[test]
fn services_that_share_a_vip_share_its_entry() {
    let asking = |number: u16, pass: bool| {
        let mut spec = shard(0, 1);
        spec.requested_vips = vec!["192.0.2.9".parse().unwrap()];
        spec.ports[0].port = number;
        spec.options.pass_unserved_ports = pass;
        spec
    };
    let model =
        merged(&declared(), &services([(0, "a", asking(80, false)), (0, "b", asking(81, true))]), None);
    let tables = planned(&model, &Health::default());
    let key = ServiceKey::vip_only(Address::v4([192, 0, 2, 9]), Family::V4);
    assert_eq!(tables.services.len(), 3);
    assert_eq!(
        (&tables.services[&key].name, tables.services[&key].flags),
        (&name("a"), ServiceEntry::PASS_UNSERVED)
    );
}

#[test]
fn no_tunnel_is_taken_for_wider_than_all_are() {
    let mut declared = declarations(1);
    declared.here.tunnel_mtu = 1450;
    let mut model = merged(&Arc::new(declared.clone()), &states([(0, shard(0, 2))]), None);
    let route = |mtu| Route { hop: Hop { ifindex: 7, ..Hop::default() }, routed_by: 7, mtu };
    let links = Arc::new(Links::from([(pod(0, 1).into(), route(9000)), (pod(0, 2).into(), route(1400))]));
    let mut planner = Planner::new();
    let mut plan = |model: &Model, links: &Arc<Links>| {
        let (health, demand) = (Health::default(), Demand::default());
        planner
            .plan(&Inputs {
                model,
                health: &health,
                demand: &demand,
                links,
                held: &Held::default(),
                silent: &Arc::default(),
                now: Duration::ZERO,
            })
            .tables
            .links
    };
    let mtus = |links: &Links| links.values().map(|route| route.mtu).collect::<Vec<_>>();
    let limited = plan(&model, &links);
    assert_eq!(mtus(&limited), [1450, 1400]);
    assert!(Arc::ptr_eq(&limited, &plan(&model, &links)), "so that nothing is compared again");
    declared.here.tunnel_mtu = 9000;
    model.declared = Arc::new(declared);
    assert!(Arc::ptr_eq(&plan(&model, &links), &links));
}

#[test]
fn roles_limit_what_is_planned() {
    let with = |gateway: bool, receiver: bool| {
        let mut declared = declarations(9);
        (declared.here.gateway, declared.here.receiver) = (gateway, receiver);
        let mut spec = shard(0, 1);
        Arc::make_mut(&mut spec.endpoints)[0].node = Arc::from("node-0");
        let tables = planned(&merged(&Arc::new(declared), &states([(0, spec)]), None), &Health::default());
        (tables.services.len(), tables.deliveries.len(), tables.gateways.len())
    };
    assert_eq!(with(true, false), (2, 0, 0));
    assert_eq!(with(false, true), (0, 4, 2));
    assert_eq!(with(true, true), (2, 4, 2));
}

#[test]
fn the_fingerprint_says_what_slots_resolve_to() {
    let plan =
        |pods: u16| planned(&merged(&declared(), &states([(0, shard(0, pods))]), None), &Health::default());
    assert_eq!(plan(3).fingerprint(), plan(3).fingerprint());
    assert_ne!(plan(3).fingerprint(), plan(4).fingerprint());
    assert_ne!(plan(3).fingerprint(), plan(0).fingerprint());
    assert_eq!(
        plan(3).fingerprint(),
        0x8a1f_ca54_b103_44c4,
        "a change of this makes old and new gateways differ"
    );
}

#[test]
fn a_service_of_65_536_endpoints() {
    let mut spec = shard(0, 0);
    let mut wide = declarations(9);
    wide.clusters.get_mut("c0").unwrap().pod_cidrs = vec!["10.0.0.0/8".parse().unwrap()];
    let endpoints = (1..=65_536u32).map(|n| Endpoint {
        v4: Some(Ipv4Addr::from_bits(0x0a00_0000 + n)),
        v6: None,
        pod: Arc::from(format!("p{n:05}")),
        ..endpoint(0, 1)
    });
    spec.endpoints = Arc::new(endpoints.collect());
    let model = merged(&Arc::new(wide), &states([(0, spec)]), None);
    assert_eq!(model.problems.len(), 1);
    let tables = planned(&model, &Health::default());
    let table = web(&tables);
    assert_eq!((table.backends.len(), table.ring.len(), table.not_taken.len()), (65_535, 65_537, 1));
    assert_eq!(table.not_taken[0].verdict, Verdict::Rejected(Rejection::TooMany));
}
