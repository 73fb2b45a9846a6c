//! Whatever is wanted next, and whatever happened before.

use proptest::prelude::*;

use super::*;
use crate::planner::learn;

fn wish() -> impl Strategy<Value = Wish> {
    // Mostly few changes, so that indexes and blocks are used again.
    let pods = prop_oneof![any::<u32>(), (0u32..8).prop_map(|n| (1 << n) - 1), Just(0), Just(u32::MAX)];
    let service =
        prop_oneof![1 => Just(None), 4 => (pods, any::<u32>().prop_map(|n| n & (n >> 3))).prop_map(Some)];
    let numbers = (0u8..3, any::<bool>(), any::<bool>(), prop_oneof![Just(0), 0u8..8]);
    (prop::array::uniform6(service), numbers).prop_map(|(services, (links, pass, quic, allowed))| Wish {
        services,
        links,
        pass,
        quic,
        allowed,
    })
}

/// A wish, how long the one before lasted, and how the agent goes on.
#[derive(Clone, Copy, Debug)]
enum Mood {
    Settles,
    ForgetsToSettle,
    /// Of a hash's slot in each service, which pod holds a connection.
    Learns(u32, u8),
    ReadsBack,
    Restarts,
    /// With tables made anew, larger ones or not.
    Moves(bool),
}

fn steps(most: usize) -> impl Strategy<Value = Vec<(Wish, u64, Mood)>> {
    let mood = prop_oneof![
        4 => Just(Mood::Settles),
        1 => Just(Mood::ForgetsToSettle),
        2 => (any::<u32>(), 1u8..33).prop_map(|(hash, pod)| Mood::Learns(hash, pod)),
        1 => Just(Mood::ReadsBack),
        1 => Just(Mood::Restarts),
        1 => any::<bool>().prop_map(Mood::Moves)
    ];
    prop::collection::vec((wish(), prop_oneof![Just(0u64), 0u64..2500], mood), 1..most)
}

/// Carries a plan out; at every prefix no published slot names a free backend, as current or former, no server ID leads to
/// one, and every service that is wanted before and after resolves to the one or the other, and lets nobody in whom neither
/// allows, and all whom both do.
fn carry_out_watched(bench: &mut Bench, plan: &Plan, after: &Tables) {
    let old = resolved(&bench.kernel);
    let new: BTreeMap<ServiceKey, Vec<Option<IpAddr>>> = after
        .services
        .iter()
        .map(|(key, table)| (*key, (0..).map_while(|s| table.backend(s).map(|b| Some(b.outer))).collect()))
        .collect();
    let guarded: BTreeMap<ServiceKey, _> =
        bench.kernel.entries().map(|(key, _, entry)| (key, bench.kernel.admits(entry))).collect();
    for action in &plan.actions {
        bench.apply(action);
        assert_admits(&bench.kernel, &guarded, after, action);
        for named in bench.kernel.named_backends() {
            assert_ne!(bench.kernel.backends[named as usize].encap, 0, "{named} is free after {action:?}");
        }
        for server in bench.kernel.found_servers() {
            assert_ne!(
                bench.kernel.backends[server.backend as usize].encap, 0,
                "{server:?} is free after {action:?}"
            );
        }
        for (key, before) in &old {
            let Some(wanted) = new.get(key) else { continue };
            let entry =
                bench.kernel.lookup(key).unwrap_or_else(|| panic!("{key:?} is gone after {action:?}"));
            let now = bench.kernel.resolve(entry);
            assert!(now == *before || now == *wanted, "{key:?} is neither old nor new after {action:?}");
        }
    }
}

fn assert_admits(
    kernel: &Kernel,
    before: &BTreeMap<ServiceKey, Option<BTreeSet<IpNet>>>,
    after: &Tables,
    action: &Action,
) {
    for (key, table) in &after.services {
        let Some(entry) = kernel.lookup(key) else { continue };
        let (admits, wanted) = (kernel.admits(entry), admitted(table));
        let old = before.get(key).unwrap_or(&wanted);
        for range in ranges(u8::MAX) {
            let by =
                |ranges: &Option<BTreeSet<IpNet>>| ranges.as_ref().is_none_or(|all| all.contains(&range));
            assert!(!by(&admits) || by(old) || by(&wanted), "{key:?} lets {range} in after {action:?}");
            assert!(by(&admits) || !by(old) || !by(&wanted), "{key:?} refuses {range} after {action:?}");
        }
    }
}

fn learn_everywhere(bench: &mut Bench, wanted: &Tables, hash: u32, pod: u8) {
    let outer = IpAddr::from([10, 0, 0, pod]);
    let has_it = |table: &ServiceTable| table.backends.iter().any(|backend| backend.outer == outer);
    for (key, _) in wanted.services.iter().filter(|(_, table)| has_it(table)) {
        let action = learn(&bench.installed, &bench.kernel.slots, key, hash, outer);
        action.into_iter().for_each(|action| bench.apply(&action));
    }
}

/// Fewer than usual, because each is slow, unless the variable that is proptest's own says otherwise.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").map_or(96, |cases| cases.parse().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn applying_the_difference_gives_what_is_wanted(steps in steps(7)) {
        let mut bench = Bench::new(capacities());
        let mut last = Tables::default();
        for (wish, pause, mood) in steps {
            bench.now += Duration::from_millis(pause);
            last = wish.tables();
            let plan = bench.plan(&last);
            carry_out_watched(&mut bench, &plan, &last);
            bench.assert_serves(&last);
            match mood {
                Mood::Settles => bench.installed.settle(&plan),
                Mood::ForgetsToSettle => {}
                Mood::Learns(hash, pod) => {
                    bench.installed.settle(&plan);
                    learn_everywhere(&mut bench, &last, hash, pod);
                }
                Mood::ReadsBack => bench.installed = bench.reread(),
                Mood::Restarts => bench.restart(),
                Mood::Moves(larger) => {
                    let before = bench.remembered();
                    bench.move_tables(larger);
                    prop_assert_eq!(bench.remembered(), before);
                }
            }
            if !matches!(mood, Mood::Restarts | Mood::Moves(_)) {
                prop_assert_eq!(&bench.diff(&last).unwrap().actions, &[]);
                prop_assert_eq!(&diff(&last, &bench.reread(), &bench.kernel.slots, bench.now).unwrap().actions, &[]);
            }
        }
        bench.converge(&last);
        bench.assert_serves(&last);
        bench.assert_clean(&last);
    }

    #[test]
    fn killed_anywhere_the_next_agent_finishes(steps in steps(4), kills in prop::collection::vec(0usize..200, 4)) {
        let mut bench = Bench::new(capacities());
        let mut last = Tables::default();
        for ((wish, pause, _), kill) in steps.into_iter().zip(kills) {
            bench.now += Duration::from_millis(pause);
            last = wish.tables();
            let mut plan = bench.plan(&last);
            plan.actions.truncate(kill);
            carry_out_watched(&mut bench, &plan, &last);
            bench.restart();
            let rest = bench.plan(&last);
            carry_out_watched(&mut bench, &rest, &last);
            bench.installed.settle(&rest);
            bench.assert_serves(&last);
        }
        bench.converge(&last);
        bench.assert_serves(&last);
        bench.assert_clean(&last);
    }

    #[test]
    fn a_failed_write_leaves_the_mirror_true(first in wish(), second in wish(), third in wish(), fail in 0usize..60) {
        let mut bench = Bench::new(capacities());
        bench.converge(&first.tables());
        let mut plan = bench.plan(&second.tables());
        plan.actions.truncate(fail);
        carry_out_watched(&mut bench, &plan, &second.tables());
        // No read-back: what was reported is enough to go on, even back.
        for next in [third.tables(), first.tables()] {
            let plan = bench.plan(&next);
            carry_out_watched(&mut bench, &plan, &next);
            bench.installed.settle(&plan);
            bench.assert_serves(&next);
            bench.now += GRACE;
        }
    }

    #[test]
    fn histories_may_differ_what_slots_resolve_to_does_not(steps in steps(5), last in wish()) {
        let wanted = last.tables();
        let mut travelled = Bench::new(capacities());
        for (wish, pause, _) in steps {
            travelled.now += Duration::from_millis(pause);
            let plan = travelled.plan(&wish.tables());
            travelled.carry_out(&plan);
        }
        let plan = travelled.plan(&wanted);
        travelled.carry_out(&plan);
        let mut fresh = Bench::new(capacities());
        fresh.converge(&wanted);
        prop_assert_eq!(travelled.installed.fingerprint(), fresh.installed.fingerprint());
        prop_assert_eq!(travelled.reread().fingerprint(), wanted.fingerprint());
        prop_assert_eq!(resolved(&travelled.kernel), resolved(&fresh.kernel));
    }
}
