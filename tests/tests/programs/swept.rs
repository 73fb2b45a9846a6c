//! What ended or fell silent is taken out of the receiver's table of flows.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fairlead_abi::{FlowEntry, FlowState, map};

use super::carried::{Flows, LARGE, Pins, SMALL, flow, key};
use super::node::settings;

#[test]
fn tables_that_are_still_in_use_are_swept_until_others_are() {
    let pins = Pins::new();
    drop(pins.load(SMALL, SMALL));
    let mut new = pins.load(LARGE, SMALL);
    let mut sweep = new.take_sweep(settings(0).seed).unwrap().unwrap();
    // Longer than a minute ago at any tick rate, and by far not two hours.
    let ended = flow(FlowState::Closing, new.ticks().unwrap().wrapping_sub(100_000));
    let lives = FlowEntry { state: FlowState::Established as u8, ..ended };
    let entries = [(key(1), ended), (key(2), lives)].into();
    for folder in ["v4", "v4-next"] {
        pins.put(folder, map::FLOWS, &entries);
    }
    // The clock is watched for a second before it is believed.
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut run = |ticks, settled| {
        let swept = sweep.run(ticks, settled, &BTreeMap::new()).unwrap();
        swept.map_or((0, 0), |swept| (swept.stay, swept.ended))
    };
    while run(new.ticks().unwrap(), false) != (1, 1) {
        assert!(Instant::now() < deadline, "nothing is swept");
    }
    for folder in ["v4", "v4-next"] {
        assert_eq!(pins.flows(folder, map::FLOWS), [(key(2), lives)].into(), "{folder}");
        pins.put(folder, map::FLOWS, &entries);
    }
    assert_eq!(run(new.ticks().unwrap(), true), (1, 1));
    assert_eq!(pins.flows("v4", map::FLOWS), entries, "it is left alone once others took its place");
}

#[test]
fn where_the_table_fills_up_what_ended_first_goes_before_its_time() {
    let pins = Pins::new();
    let mut new = pins.load(64, SMALL);
    let mut sweep = new.take_sweep(settings(0).seed).unwrap().unwrap();
    let now = new.ticks().unwrap();
    // So many ticks are more than a second and less than a minute at any rate; the first ended first.
    let ended = (0..24).map(|number| (key(number), flow(FlowState::Closing, now - 5_000 + number)));
    let ending = (24..28).map(|number| (key(number), flow(FlowState::Closing, now + 3_000)));
    let living = (28..56).map(|number| (key(number), flow(FlowState::Established, now - 5_000)));
    let entries: Flows = ended.chain(ending).chain(living).collect();
    pins.put("v4", map::FLOWS, &entries);
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut run = || sweep.run(new.ticks().unwrap(), true, &BTreeMap::new()).unwrap();
    let swept = loop {
        if let Some(swept) = run() {
            break swept;
        }
        assert!(Instant::now() < deadline, "nothing is swept");
    };
    assert_eq!((swept.stay, swept.ended, swept.capacity), (48, 8, 64));
    let stay: Flows = entries.iter().filter(|(at, _)| **at >= key(8)).map(|(k, f)| (*k, *f)).collect();
    assert_eq!(pins.flows("v4", map::FLOWS), stay, "three quarters of the room");
    let swept = run().unwrap();
    assert_eq!((swept.stay, swept.ended), (48, 0));
}
