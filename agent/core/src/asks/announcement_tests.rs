//! What receivers tell unasked: whom it is of, what it is good for, and when it isn't enough.

use fairlead_abi::Announced;

use super::asker::about;
use super::tests::{mine, nobodys, setup};
use super::world::*;
use super::*;

#[test]
fn a_flow_is_not_nobodys_while_a_receiver_has_not_been_heard_of_or_lost_flows() {
    let (mut asker, receivers) = setup(7);
    let (lost, keys) = (node("c2", "n9"), secrets(OLD).keys("c2"));
    let tell = |asker: &mut Asker, at: u64, whole| {
        let counted = Counted { turn: 1 + at, age: ms(20), whole, ..Counted::default() };
        for message in announcements(&lost, &counted, &keys, &mut 7) {
            asker.received(&message, outer(9), ms(at));
        }
    };
    // It is no backend's node, but it is there; and then it says nothing for a while, or has lost flows.
    tell(&mut asker, 5, true);
    asker.event(service(), asked(1), ms(10));
    assert_eq!(run(&mut asker, &receivers, 10, 20_000), []);
    assert_eq!(asker.counters().unanswered, 1);
    asker.event(service(), asked(1), ms(20_000));
    tell(&mut asker, 20_019, true);
    tell(&mut asker, 24_000, false);
    assert_eq!(run(&mut asker, &receivers, 20_000, 34_000), []);
    asker.event(service(), asked(1), ms(34_000));
    tell(&mut asker, 34_500, true);
    assert_eq!(run(&mut asker, &receivers, 34_000, 46_000), [(44_004, nobodys(1))]);
    // One that says nothing any more holds nothing either.
    run(&mut asker, &receivers, 46_000, 150_000);
    asker.event(service(), asked(1), ms(150_000));
    assert_eq!(run(&mut asker, &receivers, 150_000, 170_000), [(160_004, nobodys(1))]);
}

#[test]
fn an_endpoint_that_is_announced_is_asked_before_a_flow_is_nobodys() {
    let (mut asker, mut receivers) = setup(3);
    receivers.owners.insert(flow(1), outer(7));
    asker.event(service(), asked(1), ms(10));
    assert_eq!(run(&mut asker, &receivers, 10, 4000), []);
    let held = vec![Announced { about: about(service(), outer(7)), flows: 1, second: 0 }; 30];
    let counted = Counted { turn: 3, age: ms(100), whole: true, held, list: false };
    let messages = announcements(&node("c1", "n0"), &counted, &secrets(OLD).keys("c1"), &mut 7);
    assert_eq!(messages.len(), 2);
    asker.received(&messages[1], outer(1), ms(4000));
    assert_eq!(asker.announcements().count(), 0, "the first part is missing");
    asker.received(&messages[0], outer(1), ms(4000));
    let all: Vec<_> = asker.announcements().collect();
    let first =
        Announcing { service: service(), outer: outer(7), flows: Some(1), at: ms(3900), second: false };
    assert_eq!((all.len(), all[0]), (30, first));
    // The planner makes it a backend.
    asker.serve(service(), [0, 1, 2, 7].map(backend).into(), true, ms(4000));
    assert_eq!(run(&mut asker, &receivers, 4000, 11_000), [(10_014, mine(1, 7))]);
}

#[test]
fn announcements_are_their_clusters_and_come_once() {
    let (mut asker, _) = setup(3);
    let counted = |turn| {
        let held = vec![Announced { about: about(service(), outer(1)), flows: 5, second: 0 }];
        Counted { turn, whole: true, held, ..Counted::default() }
    };
    let message = |turn, cluster: &str| {
        announcements(&node("c1", "n0"), &counted(turn), &secrets(OLD).keys(cluster), &mut 7).remove(0)
    };
    let flows =
        |asker: &Asker| asker.announcements().map(|told| (told.flows.unwrap(), told.at)).collect::<Vec<_>>();
    asker.received(&message(7, "elsewhere"), outer(1), ms(1));
    let mut damaged = message(7, "c1");
    damaged[50] ^= 1;
    asker.received(&damaged, outer(1), ms(1));
    asker.received(&message(7, "c1")[..48], outer(1), ms(1));
    let counters = asker.counters();
    assert_eq!((counters.strangers, counters.forged, counters.malformed), (1, 1, 1));
    assert_eq!(flows(&asker), []);
    asker.received(&message(7, "c1"), outer(1), ms(2));
    assert_eq!(flows(&asker), [(5, ms(2))]);
    for turn in [6, 7] {
        asker.received(&message(turn, "c1"), outer(1), ms(3));
    }
    assert_eq!(flows(&asker), [(5, ms(2))], "old ones");
    asker.received(&message(8, "c1"), outer(1), ms(4));
    assert_eq!(flows(&asker), [(5, ms(4))]);
}

#[test]
fn receivers_count_connections_for_all_gateways() {
    let (mut asker, mut receivers) = setup(3);
    run(&mut asker, &receivers, 0, 3_000);
    assert_eq!(asker.opened(service(), ms(3_000)), None, "since when?");
    run(&mut asker, &receivers, 3_000, 12_000);
    assert_eq!(asker.opened(service(), ms(12_000)), Some(0.0));
    receivers.owners.extend((0..40).map(|n| (flow(n), outer(1))));
    let rates: Vec<f64> = (12_000..20_000)
        .step_by(500)
        .map(|at| {
            run(&mut asker, &receivers, at, at + 500);
            asker.opened(service(), ms(at + 500)).unwrap()
        })
        .collect();
    // Forty within the four seconds that a rate is taken over.
    assert!(rates.iter().any(|rate| (9.0..=10.0).contains(rate)), "{rates:?}");
    assert_eq!(rates.last(), Some(&0.0));
    receivers.dead.insert(outer(2));
    run(&mut asker, &receivers, 20_000, 52_000);
    assert_eq!(asker.opened(service(), ms(52_000)), None, "one says nothing");
}

/// Counts of a node with millions of flows take longer than flows are asked for.
#[test]
fn a_node_that_counts_for_long_lists_who_may_hold_flows() {
    let tell = |asker: &mut Asker, turn: u64, age, list, holders: &[u8]| {
        let held = |&n: &u8| Announced { about: about(service(), outer(n)), flows: 1, second: 0 };
        let held = holders.iter().map(held).collect();
        let counted = Counted { turn, age: ms(age), whole: true, held, list };
        for message in announcements(&node("c1", "n9"), &counted, &secrets(OLD).keys("c1"), &mut 7) {
            asker.received(&message, outer(1), ms(turn));
        }
    };
    let told = |asker: &Asker| asker.announcements().map(|told| (told.outer, told.flows)).collect::<Vec<_>>();
    let begun = || {
        let (mut asker, receivers) = setup(3);
        tell(&mut asker, 1, 0, false, &[4]);
        asker.event(service(), asked(1), ms(10));
        assert_eq!(run(&mut asker, &receivers, 10, 8_000), []);
        (asker, receivers)
    };
    // A count that was begun before says nothing of the flow, whenever it comes.
    let (mut asker, receivers) = begun();
    tell(&mut asker, 8_000, 7_995, false, &[4]);
    assert_eq!(run(&mut asker, &receivers, 8_000, 20_000), []);
    assert_eq!(asker.counters().unanswered, 1);
    // A list does, and the count that comes then takes nothing of that back.
    let (mut asker, mut receivers) = begun();
    receivers.owners.insert(flow(1), outer(7));
    tell(&mut asker, 8_000, 0, true, &[4, 7]);
    tell(&mut asker, 9_000, 8_995, false, &[4]);
    let both = [(outer(4), Some(1)), (outer(4), None), (outer(7), None)];
    assert_eq!(told(&asker), both);
    asker.serve(service(), [0, 1, 2, 7].map(backend).into(), true, ms(9_000));
    assert_eq!(run(&mut asker, &receivers, 9_000, 11_000), [(10_014, mine(1, 7))]);
    tell(&mut asker, 12_000, 1_000, false, &[4]);
    assert_eq!(told(&asker), both[..1]);
    let (mut asker, receivers) = begun();
    tell(&mut asker, 8_000, 0, true, &[4]);
    assert_eq!(run(&mut asker, &receivers, 8_000, 11_000), [(10_014, nobodys(1))]);
}

#[test]
fn a_cluster_speaks_for_its_own_addresses_only() {
    let (mut asker, _) = setup(3);
    let counted = |turn, ends: &[u8]| {
        let held = |&n: &u8| Announced { about: about(service(), outer(n)), flows: 5, second: 0 };
        Counted { turn, whole: true, held: ends.iter().map(held).collect(), ..Counted::default() }
    };
    let tell = |asker: &mut Asker, turn, ends: &[u8], at| {
        for message in
            announcements(&node("c1", "n0"), &counted(turn, ends), &secrets(OLD).keys("c1"), &mut 7)
        {
            asker.received(&message, outer(1), ms(at));
        }
        let strange =
            asker.poll(ms(at)).into_iter().filter(|output| matches!(output, Output::Strange { .. }));
        strange.collect::<Vec<_>>()
    };
    let strange = |n| Output::Strange { cluster: "c1".into(), outer: outer(n) };
    assert_eq!(tell(&mut asker, 1, &[1, 2, 4, 6], 1), [strange(2)]);
    let known = |asker: &Asker| asker.announcements().map(|told| told.outer).collect::<Vec<_>>();
    assert_eq!(known(&asker), [outer(1), outer(4)]);
    assert_eq!(asker.counters().announced_strangers, 2);
    assert_eq!(tell(&mut asker, 2, &[2], 5_000), [], "told once");
    assert_eq!((known(&asker), asker.counters().announced_strangers), (vec![], 3));
    assert_eq!(tell(&mut asker, 3, &[2], 700_000), [strange(2)], "and again after a while");
}

/// An endpoint with addresses of both IP versions is one backend.
#[test]
fn of_two_addresses_a_gateway_takes_the_one_that_its_tunnels_reach() {
    let told = |second| {
        let at = ms(0);
        Announcing { service: service(), outer: outer(7), flows: None, at, second }
    };
    let prefixes = ["198.51.100.1/32", "2001:db8::1/128"].map(|prefix| prefix.parse().unwrap());
    for (second, tunnels, reached) in
        [(false, &prefixes[..], true), (true, &prefixes[..], false), (true, &prefixes[1..], true)]
    {
        assert_eq!(told(second).is_reached_by(tunnels), reached, "{second} {tunnels:?}");
    }
}
