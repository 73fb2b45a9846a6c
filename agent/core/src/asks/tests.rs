//! What asking does, step by step.

use std::time::Duration;

use fairlead_abi::message::{ASK_FLOWS, CLAIMS};
use fairlead_abi::{Address, Announced, AskedFlow, Claim, kind};

use super::asker::about;
use super::world::*;
use super::*;

/// An asker of a service with `count` backends, and their receivers.
fn setup(count: u8) -> (Asker, Receivers) {
    let mut asker = asker(OLD, Limits::default());
    asker.serve(service(), backends(count), true, ms(0));
    (asker, Receivers::new())
}

fn mine(n: u32, at: u8) -> Output {
    Output::Mine { service: service(), flow: flow(n), outer: outer(at) }
}

fn nobodys(n: u32) -> Output {
    Output::Nobodys { service: service(), flow: flow(n) }
}

fn forget(n: u32) -> Output {
    Output::Forget { service: service(), flow: flow(n) }
}

fn questions(outputs: &[Output]) -> Vec<(Address, u8)> {
    let question = |output: &Output| match output {
        Output::Send { to, message } => Some((*to, header(message).count)).filter(|&(_, count)| count > 0),
        _ => None,
    };
    outputs.iter().filter_map(question).collect()
}

#[test]
fn the_one_that_holds_the_flow_is_found() {
    let (mut asker, mut receivers) = setup(7);
    receivers.owners.insert(flow(1), outer(5));
    asker.event(service(), asked(1), ms(10));
    assert_eq!(run(&mut asker, &receivers, 10, 20), [(12, mine(1, 5))]);
    assert_eq!(asker.pending(), 0);
    asker.event(service(), asked(1), ms(20));
    assert_eq!(run(&mut asker, &receivers, 20, 100), [], "packets on their way ask nothing");
    let counters = asker.counters();
    assert_eq!((counters.asked, counters.questions, counters.mine), (1, 7, 1));
}

#[test]
fn nobodys_once_all_have_said_so_again_after_all_were_heard_of_and_for_a_while() {
    let (mut asker, receivers) = setup(7);
    asker.event(service(), asked(1), ms(10));
    assert_eq!(run(&mut asker, &receivers, 10, 15_000), [(10_014, nobodys(1))]);
    let counters = asker.counters();
    assert_eq!((counters.asked, counters.asked_again, counters.questions), (2, 1, 14));
    asker.event(service(), asked(1), ms(20_000));
    assert_eq!(run(&mut asker, &receivers, 20_000, 25_000), [(22_014, forget(1))]);
    asker.event(service(), asked(1), ms(25_000));
    assert_eq!(run(&mut asker, &receivers, 25_000, 36_000), [(35_004, nobodys(1))]);
}

#[test]
fn a_strangers_packet_of_the_same_ports_holds_up_nobody() {
    let (mut asker, mut receivers) = setup(3);
    let strange = AskedFlow { sequence: [0x80, 0, 0, 0], ..asked(1) };
    asker.event(service(), strange, ms(10));
    assert_eq!(run(&mut asker, &receivers, 10, 50), []);
    // They all have said no to that one.
    receivers.owners.insert(flow(1), outer(2));
    asker.event(service(), asked(1), ms(50));
    assert_eq!(run(&mut asker, &receivers, 50, 60), [(52, mine(1, 2))]);
}

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

/// An endpoint with addresses of both IP versions is one backend.
#[test]
fn of_two_addresses_a_gateway_takes_the_one_that_its_tunnels_reach() {
    let told = |second| {
        let at = Duration::ZERO;
        Announcing { service: service(), outer: outer(7), flows: None, at, second }
    };
    let prefixes = ["198.51.100.1/32", "2001:db8::1/128"].map(|prefix| prefix.parse().unwrap());
    for (second, tunnels, reached) in
        [(false, &prefixes[..], true), (true, &prefixes[..], false), (true, &prefixes[1..], true)]
    {
        assert_eq!(told(second).is_reached_by(tunnels), reached, "{second} {tunnels:?}");
    }
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

#[test]
fn silence_is_not_a_no_and_the_next_packet_asks_again_who_was_missing() {
    let (mut asker, mut receivers) = setup(7);
    receivers.dead.insert(outer(3));
    asker.event(service(), asked(1), ms(10));
    asker.event(service(), asked(1), ms(20));
    assert_eq!(run(&mut asker, &receivers, 10, 210), []);
    asker.event(service(), asked(1), ms(111));
    assert_eq!(asker.counters().already_asked, 2, "answers are waited for");
    run(&mut asker, &receivers, 210, 240);
    asker.event(service(), asked(1), ms(240));
    let outputs = asker.poll(ms(242));
    assert_eq!(questions(&outputs), [(outer(3), 1)]);
    receivers.dead.clear();
    receivers.owners.insert(flow(1), outer(3));
    for output in outputs {
        if let Output::Send { to, message } = output {
            asker.received(&receivers.answer(to, &message).unwrap(), to, ms(245));
        }
    }
    assert_eq!(exchange(&mut asker, &receivers, ms(245)), [mine(1, 3)]);
    assert_eq!((asker.counters().asked, asker.counters().asked_again), (2, 1));
}

#[test]
fn who_cant_say_hasnt_said_no() {
    let (mut asker, mut receivers) = setup(3);
    receivers.new.insert(outer(1));
    asker.event(service(), asked(1), ms(10));
    assert_eq!(run(&mut asker, &receivers, 10, 200), []);
    receivers.owners.insert(flow(1), outer(1));
    asker.event(service(), asked(1), ms(200));
    assert_eq!(run(&mut asker, &receivers, 200, 210), [(202, mine(1, 1))], "but a yes is one");
    receivers.owners.clear();
    asker.event(service(), asked(2), ms(300));
    assert_eq!(run(&mut asker, &receivers, 300, 14_000), []);
    assert_eq!(asker.counters().unanswered, 1, "given up");
    assert_eq!(asker.pending(), 0);
}

#[test]
fn backends_that_come_are_asked_too_and_those_that_go_are_not_waited_for() {
    let (mut asker, mut receivers) = setup(3);
    receivers.dead.insert(outer(0));
    asker.event(service(), asked(1), ms(10));
    assert_eq!(run(&mut asker, &receivers, 10, 200), []);
    asker.serve(service(), (1..5).map(backend).collect(), true, ms(200));
    asker.event(service(), asked(1), ms(200));
    let outputs = asker.poll(ms(202));
    assert_eq!(questions(&outputs).len(), 2, "the new ones");
    asker.serve(service(), (1..3).map(backend).collect(), true, ms(310));
    asker.event(service(), asked(1), ms(310));
    assert_eq!(questions(&exchange(&mut asker, &receivers, ms(310))), [], "all of them have said no");
    asker.serve(service(), Vec::new(), true, ms(320));
    asker.event(service(), asked(2), ms(320));
    assert_eq!(asker.counters().no_backends, 1);
    assert_eq!(run(&mut asker, &receivers, 320, 340), []);
}

#[test]
fn a_no_of_long_ago_is_asked_for_anew() {
    let (mut asker, mut receivers) = setup(3);
    receivers.dead.insert(outer(0));
    for at in (10..5100).step_by(200) {
        asker.event(service(), asked(1), ms(at));
        let outputs = run(&mut asker, &receivers, at, at + 200);
        assert!(outputs.iter().all(|(_, output)| matches!(output, Output::Silent { .. })), "{outputs:?}");
    }
    receivers.owners.insert(flow(1), outer(1));
    receivers.dead.clear();
    asker.event(service(), asked(1), ms(5210));
    let outputs = run(&mut asker, &receivers, 5210, 5220);
    assert!(outputs.contains(&(5212, mine(1, 1))), "who said no before: {outputs:?}");
}

#[test]
fn nothing_is_nobodys_while_a_backend_cant_be_asked() {
    let (mut asker, receivers) = setup(3);
    asker.serve(service(), backends(3), false, ms(0));
    asker.event(service(), asked(1), ms(10));
    assert_eq!(run(&mut asker, &receivers, 10, 200), []);
    asker.event(service(), asked(1), ms(200));
    assert_eq!(questions(&asker.poll(ms(202))), [], "none of them is missing");
    assert_eq!(run(&mut asker, &receivers, 203, 20_000), []);
    assert_eq!(asker.counters().questions, 3);
}

#[test]
fn flows_share_messages() {
    let (mut asker, mut receivers) = setup(3);
    for n in 0..40 {
        receivers.owners.insert(flow(n), outer(u8::try_from(n % 3).unwrap()));
        asker.event(service(), asked(n), ms(10) + Duration::from_micros(n.into()));
    }
    let full = questions(&asker.poll(ms(10)));
    assert_eq!(full.len(), 6, "two full ones for each leave at once");
    assert!(full.iter().all(|&(_, count)| usize::from(count) == ASK_FLOWS));
    assert_eq!(asker.due(), Some(ms(12)));
    assert_eq!(questions(&asker.poll(ms(13))).iter().map(|&(_, count)| count).collect::<Vec<_>>(), [8; 3]);
    assert_eq!(asker.counters().questions, 9);
}

#[test]
fn keys_change_without_a_gap() {
    let steps = [OLD.to_owned(), format!("{OLD}\n{NEW}"), format!("{NEW}\n{OLD}"), NEW.to_owned()];
    for (n, step) in (0..).zip(&steps) {
        for other in steps.iter().skip(n.max(1) - 1).take(3) {
            let (mut asker, mut receivers) = setup(3);
            asker.replace_secrets(secrets(step));
            receivers.secrets = secrets(other);
            receivers.owners.insert(flow(1), outer(1));
            asker.event(service(), asked(1), ms(10));
            assert_eq!(run(&mut asker, &receivers, 10, 20), [(12, mine(1, 1))]);
        }
    }
}

#[test]
fn claims_count_for_backends_of_their_cluster_only() {
    let (mut asker, _) = setup(6);
    let claim = |n: u8| Claim {
        about: about(service(), outer(n)),
        client: asked(1).client,
        client_port: asked(1).client_port,
        kind: kind::FORMER,
        ..Claim::default()
    };
    let keys = secrets(OLD).keys("c1");
    asker.received(&claims(&[claim(1), claim(2), claim(4), claim(9)], &keys, 7), outer(200), ms(1));
    let claimed =
        |n| Output::Claimed { service: service(), flow: flow(1), outer: outer(n), kind: kind::FORMER };
    let outputs: Vec<Output> =
        asker.poll(ms(1)).into_iter().filter(|output| matches!(output, Output::Claimed { .. })).collect();
    assert_eq!(outputs, [claimed(1), claimed(4)]);
    assert_eq!((asker.counters().claims, asker.counters().claims_of_strangers), (2, 2));
    asker.received(&claims(&[claim(2)], &keys, 8), outer(2), ms(1));
    asker.received(&claims(&[claim(100)], &keys, 8), outer(2), ms(1));
    asker.received(&claims(&[], &keys, 8), outer(2), ms(1));
    let counters = asker.counters();
    assert_eq!((counters.forged, counters.strangers, counters.malformed), (1, 1, 1));
    asker.received(&claims(&[claim(1); 40], &keys, 9), outer(1), ms(1));
    assert_eq!(asker.counters().claims, 2 + CLAIMS as u64);
}

#[test]
fn a_node_is_silent_within_a_second_and_until_it_answers() {
    let (mut asker, mut receivers) = setup(6);
    assert_eq!(run(&mut asker, &receivers, 0, 3000), []);
    // Node n0 of c1 has the backend 1 only; n1 of it has 4.
    receivers.dead.insert(outer(1));
    let outputs = run(&mut asker, &receivers, 3000, 4000);
    let [(at, Output::Silent { node: fallen, silent: true })] = &outputs[..] else { panic!("{outputs:?}") };
    assert!((3600..=3850).contains(at), "{at}");
    assert_eq!(*fallen, node("c1", "n0"));
    assert_eq!(asker.silent(), [outer(1)].into());
    receivers.dead.clear();
    let outputs = run(&mut asker, &receivers, 4000, 4260);
    assert!(matches!(&outputs[..], [(_, Output::Silent { silent: false, .. })]), "{outputs:?}");
    assert!(asker.silent().is_empty());
}

#[test]
fn the_end_of_pods_is_not_taken_for_that_of_their_node() {
    let (mut asker, mut receivers) = setup(24);
    run(&mut asker, &receivers, 0, 3000);
    // Node n0 of c0 has the backends 0, 6, 12 and 18.
    receivers.dead.extend([outer(0), outer(6)]);
    assert_eq!(run(&mut asker, &receivers, 3000, 20_000), []);
    receivers.dead.extend([outer(12), outer(18)]);
    assert_eq!(run(&mut asker, &receivers, 20_000, 21_000).len(), 1);
    assert_eq!(asker.silent().len(), 4);
    asker.serve(service(), (1..6).map(backend).collect(), true, ms(21_000));
    let outputs = run(&mut asker, &receivers, 21_000, 21_001);
    assert_eq!(
        outputs,
        [(21_000, Output::Silent { node: node("c0", "n0"), silent: false })],
        "it has no backends"
    );
}

#[test]
fn an_asker_that_was_held_up_takes_nobody_for_silent() {
    let (mut asker, receivers) = setup(6);
    run(&mut asker, &receivers, 0, 1000);
    assert_eq!(run(&mut asker, &receivers, 9000, 9500), []);
}

#[test]
fn counts_are_polled() {
    let mut asker = asker(OLD, Limits::default());
    let mut receivers = Receivers::new();
    let mut of_one_node: Vec<Backend> =
        (0..60).map(|n| Backend { node: "n".into(), ..backend(3 * n) }).collect();
    of_one_node[7].leaving = true;
    asker.serve(service(), of_one_node.clone(), true, ms(0));
    receivers.owners.extend((0..5).map(|n| (flow(n), outer(21))));
    run(&mut asker, &receivers, 0, 30_000);
    let age = |n: u8| ms(30_000).saturating_sub(asker.holding(service(), outer(n)).unwrap().at);
    assert!((0..60).all(|n| age(3 * n) <= COUNT_EVERY));
    assert!(age(21) <= COUNT_LEAVING_EVERY);
    let Holding { flows, connections, .. } = asker.holding(service(), outer(21)).unwrap();
    assert_eq!((flows, connections), (5, 1005));
    let polls = asker.counters().polls;
    assert!(polls <= 30 * 4 + 30 * 60 / 10 + 10, "{polls}");
    receivers.new.insert(outer(21));
    run(&mut asker, &receivers, 30_000, 45_000);
    assert!(
        asker.holding(service(), outer(21)).unwrap().at < ms(30_000),
        "new tables hold nothing that counts"
    );
}

#[test]
fn counts_are_limited() {
    let counts = Rate { per_second: 5, burst: 2 };
    let mut asker = asker(OLD, Limits { counts, ..Limits::default() });
    asker.serve(
        service(),
        (0..60).map(|n| Backend { node: "n".into(), ..backend(3 * n) }).collect(),
        true,
        ms(0),
    );
    run(&mut asker, &Receivers::new(), 0, 40_000);
    assert!(asker.counters().polls <= 40 * (4 + 5) + 2);
    assert!((0..60).all(|n| asker.holding(service(), outer(3 * n)).is_some()), "all have their turn");
}
