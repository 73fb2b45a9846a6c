//! Who gets which VIP.

use super::*;

#[test]
fn the_pool_gives_by_name_alone() {
    let alone = merged(&declared(), &states([(0, shard(0, 1))]), None);
    let vip_alone = vip(&alone, "web").unwrap();
    let others = ["b", "c", "x", "y", "z"].map(|service| (1, service, shard(1, 1)));
    let among = merged(&declared(), &services(others.into_iter().chain([(5, "web", shard(5, 1))])), None);
    assert_eq!(vip(&among, "web"), Some(vip_alone), "another cluster, other services, the same VIP");
    assert_eq!(among.services.values().filter_map(|s| s.vips.v4).count(), 6, "{:?}", among.problems);
    assert_eq!(vip_alone, Ipv4Addr::new(192, 0, 2, 56), "a change of this moves all VIPs");
}

#[test]
fn the_pool_gives_no_reserved_and_no_edge_address() {
    let mut narrow = declarations(1);
    narrow.pools = vec!["192.0.2.0/30".parse().unwrap()];
    let names: Vec<String> = (0..40).map(|n| format!("s{n}")).collect();
    let model = merged(&Arc::new(narrow), &services(names.iter().map(|n| (0, &**n, shard(0, 1)))), None);
    let given: Vec<Ipv4Addr> = model.services.values().filter_map(|service| service.vips.v4).collect();
    assert_eq!(given, [Ipv4Addr::new(192, 0, 2, 2)], "of .0 to .3, .1 is reserved, .0 and .3 are the edges");
}

#[test]
fn a_collision_names_both_and_proposes_a_free_address() {
    let mut narrow = declarations(1);
    narrow.pools = vec!["192.0.2.2/31".parse().unwrap()];
    let names: Vec<String> = (0..8).map(|n| format!("s{n}")).collect();
    let all = |names: &[String]| services(names.iter().map(|n| (0, &**n, shard(0, 1))).collect::<Vec<_>>());
    let narrow = Arc::new(narrow);
    // The first two names that are given the same address.
    let model = merged(&narrow, &all(&names), None);
    let first = vip(&model, "s0").unwrap();
    let second =
        names[1..].iter().find(|n| vip(&merged(&narrow, &all(&[(*n).clone()]), None), n) == Some(first));
    let pair = merged(&narrow, &all(&["s0".to_owned(), second.unwrap().clone()]), None);
    assert_eq!(vip(&pair, "s0"), Some(first), "the first by name keeps it");
    assert_eq!(vip(&pair, second.unwrap()), None);
    let [problem] = &pair.problems[..] else { panic!("{:?}", pair.problems) };
    assert_eq!(
        problem.what,
        format!(
            "{first}, which the pool gives Service ns/{0}, is held by Service ns/s0; it gets none",
            second.unwrap()
        )
    );
    let free = if first.octets()[3] == 2 { "192.0.2.3" } else { "192.0.2.2" };
    assert_eq!(problem.hint, Some(format!("ask for {free}, which is free")));
}

#[test]
fn a_request_wins_over_the_pool() {
    let chosen = vip(&merged(&declared(), &states([(0, shard(0, 1))]), None), "web").unwrap();
    let both = services([(0, "web", shard(0, 1)), (0, "zzz", asking(&chosen.to_string(), shard(0, 1)))]);
    let model = merged(&declared(), &both, None);
    assert_eq!((vip(&model, "zzz"), vip(&model, "web")), (Some(chosen), None));
}

#[test]
fn clusters_that_disagree_about_the_vip() {
    let model = merged(
        &declared(),
        &states([(1, asking("192.0.2.10", shard(1, 1))), (0, asking("192.0.2.20", shard(0, 1)))]),
        None,
    );
    assert_eq!(vip(&model, "web"), Some(Ipv4Addr::new(192, 0, 2, 20)));
    assert_eq!(model.problems[0].cluster.as_deref(), Some("c1"));
    assert_eq!(
        whats(&model),
        ["192.0.2.10 contradicts 192.0.2.20, which cluster c0 asks for; 192.0.2.20 stays"]
    );
}

#[test]
fn vips_that_nobody_gets() {
    for (address, why) in [
        ("203.0.113.1", "203.0.113.1 lies in no VIP pool"),
        ("192.0.2.1", "192.0.2.1 can't be a VIP: 192.0.2.1/32 belongs to a gateway"),
        ("224.0.0.1", "224.0.0.1 can't be a VIP: it is not the address of one host"),
        ("127.0.0.1", "127.0.0.1 can't be a VIP: it is not the address of one host"),
        ("0.0.0.0", "0.0.0.0 can't be a VIP: it is not the address of one host"),
        ("255.255.255.255", "255.255.255.255 can't be a VIP: it is not the address of one host"),
        ("::1", "::1 can't be a VIP: it is not the address of one host"),
        ("ff02::1", "ff02::1 can't be a VIP: it is not the address of one host"),
        ("::ffff:192.0.2.9", "::ffff:192.0.2.9 can't be a VIP: it is not the address of one host"),
    ] {
        let model = merged(&declared(), &states([(0, asking(address, shard(0, 1)))]), None);
        assert_eq!(whats(&model), [why]);
        let vips = model.services[&name("web")].vips;
        let family_asked =
            if address.contains(':') { vips.v6.map(IpAddr::V6) } else { vips.v4.map(IpAddr::V4) };
        assert_eq!(family_asked, None, "who asks for one that he can't have gets no other");
    }
    // Another cluster's valid request stands.
    let both = states([(0, asking("203.0.113.1", shard(0, 1))), (1, asking("192.0.2.7", shard(1, 1)))]);
    assert_eq!(vip(&merged(&declared(), &both, None), "web"), Some(Ipv4Addr::new(192, 0, 2, 7)));
}

#[test]
fn dual_stack_and_a_missing_pool() {
    let dual = ShardSpec { wants_v6: true, ..shard(0, 1) };
    let model = merged(&declared(), &states([(0, dual.clone())]), None);
    let web = &model.services[&name("web")];
    assert!(web.vips.v4.is_some() && web.vips.v6.is_some());
    let mut no_v6 = declarations(1);
    no_v6.pools.pop();
    let model = merged(&Arc::new(no_v6), &states([(0, dual)]), None);
    assert!(vip(&model, "web").is_some(), "one family's problem leaves the other alone");
    assert_eq!(whats(&model), ["no pool has an IPv6 address to give; it gets none"]);
}

#[test]
fn two_services_share_a_vip_with_different_ports() {
    let mut tls = asking("192.0.2.9", shard(0, 1));
    tls.ports = vec![port(443, "https"), port(80, "http")];
    let model =
        merged(&declared(), &services([(0, "a", asking("192.0.2.9", shard(0, 1))), (0, "b", tls)]), None);
    let at = |service: &str| -> Vec<u16> {
        model.services[&name(service)].served_at("192.0.2.9".parse().unwrap()).map(|p| p.port).collect()
    };
    assert_eq!((at("a"), at("b")), (vec![80], vec![443]));
    assert_eq!(whats(&model), ["port 80/tcp of it is held by Service ns/a; this service doesn't serve it"]);
    assert_eq!(model.problems[0].object, Some(name("b")));
}

#[test]
fn a_new_service_takes_no_port_from_one_that_is_served() {
    let vip = "192.0.2.9";
    let made = |created: Option<i64>| ShardSpec { created, ..asking(vip, shard(0, 1)) };
    // By name the first would have it; the objects' ages count, in whatever cluster, and none is the youngest.
    for (a, b, holder) in [
        (Some(200), Some(100), "b"),
        (None, Some(100), "b"),
        (Some(100), Some(200), "a"),
        (Some(100), Some(100), "a"),
        (None, None, "a"),
    ] {
        let states = services([(0, "a", made(a)), (0, "b", made(b)), (1, "b", made(None))]);
        let model = merged(&declared(), &states, None);
        let serves =
            |service: &str| model.services[&name(service)].served_at(vip.parse().unwrap()).next().is_some();
        assert_eq!((serves("a"), serves("b")), (holder == "a", holder == "b"), "{a:?} {b:?}");
    }
}

#[test]
fn of_two_services_the_pool_gives_an_address_to_the_older() {
    let declared = declared();
    // As many as it takes until two get the same.
    let all: Vec<String> = (0..200).map(|n| format!("s{n:03}")).collect();
    let made = |n: usize| ShardSpec { created: Some(1000 - n as i64), ..shard(0, 1) };
    let states = services(all.iter().enumerate().map(|(n, service)| (0, service.as_str(), made(n))));
    let model = merged(&declared, &states, None);
    let held: Vec<_> = model.problems.iter().filter(|p| p.what.contains("is held by")).collect();
    assert!(!held.is_empty());
    for problem in held {
        let loser = &problem.object.as_ref().unwrap().name;
        let (_, rest) = problem.what.split_once("is held by Service ns/").unwrap();
        let (holder, _) = rest.split_once(';').unwrap();
        assert!(*holder > **loser, "{holder} is older than {loser}");
    }
}
