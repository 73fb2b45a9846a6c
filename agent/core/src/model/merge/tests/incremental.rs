//! What comes of one merge after the other is what comes of the last alone.

use proptest::prelude::*;

use super::*;

/// What happens to one cluster's shard between two merges.
#[derive(Clone, Copy, Debug)]
enum Event {
    Pods(u16),
    Gone,
    ReadAnew,
    Unreachable,
    Back,
}

fn event() -> impl Strategy<Value = (u8, usize, Event)> {
    let event = prop_oneof![
        3 => (1u16..5).prop_map(Event::Pods),
        1 => Just(Event::Gone),
        1 => Just(Event::ReadAnew),
        1 => Just(Event::Unreachable),
        1 => Just(Event::Back),
    ];
    (0u8..4, 0usize..5, event)
}

const SERVICES: [&str; 5] = ["a", "b", "c", "d", "e"];

fn apply(states: &mut States, cluster: u8, service: usize, event: Event) {
    let state = states.entry(Arc::from(format!("c{cluster}"))).or_default();
    // What is held depends on what was before, and that is the guard's own rows'.
    state.accepted = true;
    let name = name(SERVICES[service]);
    match event {
        Event::Pods(pods) => {
            let mut spec = shard(cluster, pods);
            if service < 2 {
                // These two want the same.
                spec.requested_vips = vec!["192.0.2.77".parse().unwrap()];
            }
            state.shards.insert(name, Arc::new(spec));
        }
        Event::Gone => drop(state.shards.remove(&name)),
        Event::ReadAnew => {
            let anew = state.shards.iter().map(|(n, s)| {
                let name = ObjectName::new(&*n.namespace, &*n.name);
                (name, Arc::new(ShardSpec::clone(s)))
            });
            state.shards = anew.collect();
        }
        Event::Unreachable => state.reachable = false,
        Event::Back => state.reachable = true,
    }
}

/// What an agent that never forgot anything would know: unreachable clusters keep what they lose.
fn remembered(states: &States, previous: Option<&Model>) -> States {
    let mut states = states.clone();
    for (cluster, state) in states.iter_mut().filter(|(_, state)| !state.reachable) {
        for (name, service) in previous.iter().flat_map(|model| &model.services) {
            if let Some(shard) = service.shards.iter().find(|shard| shard.cluster == *cluster) {
                state.shards.entry(name.clone()).or_insert_with(|| Arc::clone(&shard.spec));
            }
        }
    }
    states
}

proptest! {
    #[test]
    fn taking_over_gives_what_starting_anew_would(
        rounds in prop::collection::vec(prop::collection::vec(event(), 1..6), 1..12),
    ) {
        let declared = Arc::new(declarations(4));
        let mut states = States::new();
        let mut model: Option<Model> = None;
        for events in rounds {
            for (cluster, service, event) in events {
                apply(&mut states, cluster, service, event);
            }
            let anew = merged(&declared, &remembered(&states, model.as_ref()), None);
            let next = merged(&declared, &states, model.as_ref());
            prop_assert_eq!(&next, &anew);
            let again = merged(&declared, &states, Some(&next));
            for (name, service) in &again.services {
                prop_assert!(Arc::ptr_eq(service, &next.services[name]), "{} is taken over", name);
            }
            model = Some(next);
        }
    }
}
