//! Clusters beside each other: what becomes of one is nothing to the others.

use std::time::{Duration, Instant};

use fairlead_tests::control_plane::ControlPlane;

use super::followed::{Followed, has_web, ours, slice};
use super::planes;

const NAMES: [&str; 3] = ["us-central1-a", "us-central1-b", "us-central1-c"];

/// Follows them, each with the service `web`, until all are read.
fn follow(planes: &[ControlPlane]) -> Followed {
    for plane in planes {
        plane.apply(&(ours("web") + &slice("web-1", "web", &["10.1.0.1"]))).unwrap();
    }
    let mut followed = Followed::all(planes);
    until_all_are_read(&mut followed);
    followed
}

fn until_all_are_read(followed: &mut Followed) {
    followed
        .until("all are read", |followed| NAMES.iter().all(|name| followed.said_of(name).state.reachable));
}

#[test]
fn each_is_restarted_in_turn_and_the_others_do_not_notice() {
    let (_footprint, planes) = planes(NAMES);
    let mut followed = follow(&planes);
    for (down, plane) in planes.iter().enumerate() {
        let since = NAMES.map(|name| followed.said_of(name).since);
        plane.kill().unwrap();
        followed.until("it is away", |followed| !followed.said_of(plane.name()).state.reachable);
        for (at, other) in planes.iter().enumerate().filter(|(at, _)| *at != down) {
            let address = format!("10.1.{}.{}", down + 1, at + 1);
            other.apply(&slice("web-1", "web", &[&address])).unwrap();
            let name = other.name();
            followed.until("others are followed", |followed| has_web(followed.said_of(name), &[&address]));
            assert_eq!(followed.said_of(name).since, since[at], "{name} was never away");
        }
        plane.start_again().unwrap();
        followed.until("it is back", |followed| followed.said_of(plane.name()).state.reachable);
    }
}

#[test]
fn a_flood_of_changes_and_a_hanging_neighbour_delay_nobody() {
    let (_footprint, planes) = planes(NAMES);
    let mut followed = follow(&planes);
    let [flooded, hanging, quiet] = &planes;
    hanging.pause().unwrap();
    let many: String =
        (0..200).map(|number| slice(&format!("many-{number}"), "web", &["10.1.9.9"])).collect();
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| flooded.apply(&many).unwrap());
        let mut slowest = Duration::ZERO;
        for last in 2..12 {
            let address = format!("10.1.0.{last}");
            quiet.apply(&slice("web-1", "web", &[&address])).unwrap();
            let written = Instant::now();
            followed.until("it is followed", |followed| has_web(followed.said_of(quiet.name()), &[&address]));
            slowest = slowest.max(written.elapsed());
        }
        println!("beside a flood and a hanging server: at most {slowest:?} after kubectl had ended");
        flood.join().unwrap();
    });
    hanging.resume().unwrap();
    until_all_are_read(&mut followed);
}
