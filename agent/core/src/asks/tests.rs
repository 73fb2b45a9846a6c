//! What asking does, step by step.

use std::collections::BTreeSet;
use std::time::Duration;

use fairlead_abi::message::{ASK_FLOWS, CLAIMS};
use fairlead_abi::{Address, AskedFlow, Claim, kind};

use super::asker::about;
use super::world::*;
use super::*;

/// An asker of a service with `count` backends, and their receivers.
pub(super) fn setup(count: u8) -> (Asker, Receivers) {
    let mut asker = asker(OLD, Limits::default());
    asker.serve(service(), backends(count), true, ms(0));
    (asker, Receivers::new())
}

pub(super) fn mine(n: u32, at: u8) -> Output {
    Output::Mine { service: service(), flow: flow(n), outer: outer(at) }
}

pub(super) fn nobodys(n: u32) -> Output {
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

/// Whose silence begins or ends.
fn silences(outputs: &[(u64, Output)], begins: bool) -> usize {
    let is = |output: &Output| matches!(output, Output::Silent { silent, .. } if *silent == begins);
    outputs.iter().filter(|(_, output)| is(output)).count()
}

#[test]
fn where_nobody_answered_it_was_the_gateway_that_was_cut_off() {
    let (mut asker, mut receivers) = setup(6);
    // One node is dead, for long.
    receivers.dead.insert(outer(5));
    run(&mut asker, &receivers, 0, 8000);
    assert_eq!(asker.silent(), [outer(5)].into());
    receivers.dead.extend((0..6).map(outer));
    assert_eq!(silences(&run(&mut asker, &receivers, 8000, 10_000), true), 5);
    assert_eq!(asker.silent(), BTreeSet::new(), "nobody is passed over");
    assert!(asker.hears_nobody());
    // The first that answers speaks for all that fell silent with it, until they have had time to answer too.
    receivers.dead.remove(&outer(2));
    let mut heard = Vec::new();
    for at in (10_000..10_300).step_by(10) {
        heard.extend(run(&mut asker, &receivers, at, at + 10));
        let silent = asker.silent();
        assert!(silent.is_empty() || silent == [outer(5)].into(), "{at}: {silent:?}");
    }
    assert_eq!((silences(&heard, false), silences(&heard, true)), (5, 0));
    assert!(!asker.hears_nobody());
    assert_eq!(asker.silent(), [outer(5)].into(), "it was dead before");
    run(&mut asker, &receivers, 10_300, 11_200);
    assert_eq!(asker.silent().len(), 5);
}

#[test]
fn the_own_node_answers_where_the_gateway_is_cut_off() {
    let (mut asker, mut receivers) = setup(6);
    let backends = (0..6).map(|n| Backend { own: n == 0, ..backend(n) });
    asker.serve(service(), backends.collect(), true, ms(0));
    run(&mut asker, &receivers, 0, 3000);
    receivers.dead.extend((1..6).map(outer));
    assert_eq!(silences(&run(&mut asker, &receivers, 3000, 5000), true), 5);
    assert_eq!((asker.silent(), asker.hears_nobody()), (BTreeSet::new(), true), "but itself");
    receivers.dead.clear();
    for at in 5000..6000 {
        run(&mut asker, &receivers, at, at + 1);
        assert_eq!(asker.silent(), BTreeSet::new(), "{at}");
    }
}

#[test]
fn nobody_is_taken_for_silent_whose_answer_may_wait_to_be_taken_or_was_lost_there() {
    let (mut asker, mut receivers) = setup(6);
    run(&mut asker, &receivers, 0, 3000);
    for at in 3000..6000 {
        let outputs = asker.poll_behind(ms(at));
        assert!(outputs.iter().all(|output| matches!(output, Output::Send { .. })), "{at}: {outputs:?}");
    }
    receivers.dead.insert(outer(1));
    let outputs = run(&mut asker, &receivers, 6000, 7000);
    let [(at, Output::Silent { silent: true, .. })] = &outputs[..] else { panic!("{outputs:?}") };
    assert!((6500..=6850).contains(at), "{at}");
    // Whoever keeps an agent busy for ever must not keep dead nodes in use.
    let told: Vec<_> = (7000..18_000).flat_map(|at| asker.poll_behind(ms(at))).collect();
    assert_eq!(told.iter().filter(|output| matches!(output, Output::Silent { silent: true, .. })).count(), 5);
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
