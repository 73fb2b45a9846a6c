//! API servers that don't answer, and what counts when they do again.

use std::fs;
use std::time::Duration;

use fairlead::federation::LastGood;
use fairlead_tests::control_plane::{Certificate, ControlPlane, User};

use super::followed::{Followed, config, endpoints, has_web, kubeconfig, ours, problems, slice};
use super::one;

/// Within this a server that doesn't answer is told.
const NOTICED: Duration = Duration::from_secs(10);

/// One with the service `web`, followed.
fn followed(plane: &ControlPlane) -> Followed {
    plane.apply(&(ours("web") + &slice("web-1", "web", &["10.1.0.1"]))).unwrap();
    let mut followed = Followed::of(plane);
    followed.until_read();
    followed
}

fn until_away(followed: &mut Followed, why: &str) -> Duration {
    let took = followed.until("it is away", |followed| !followed.said().state.reachable);
    followed.until(why, |followed| problems(followed.said()).iter().any(|told| told.contains(why)));
    let told = problems(followed.said());
    assert!(told.iter().all(|told| told.ends_with("what is known of the cluster stays")), "{told:?}");
    assert!(has_web(followed.said(), &["10.1.0.1"]), "what is known stays");
    took
}

#[test]
fn a_server_that_is_stopped_or_killed_is_away_until_it_is_back() {
    let (_footprint, plane) = one();
    let mut followed = followed(&plane);
    for take_down in [ControlPlane::stop, ControlPlane::kill] {
        take_down(&plane).unwrap();
        let took = until_away(&mut followed, "refused");
        assert!(took < NOTICED, "{took:?}");
        plane.start_again().unwrap();
        followed.until_read();
        assert!(followed.said().failure.is_some(), "the last failure is remembered");
        assert_eq!(problems(followed.said()), Vec::<String>::new());
        plane.apply(&slice("web-1", "web", &["10.1.0.2"])).unwrap();
        followed.until("changes are followed again", |followed| has_web(followed.said(), &["10.1.0.2"]));
        plane.apply(&slice("web-1", "web", &["10.1.0.1"])).unwrap();
        followed.until("the same as before", |followed| has_web(followed.said(), &["10.1.0.1"]));
    }
}

#[test]
fn a_server_that_hangs_is_away_within_ten_seconds() {
    let (_footprint, plane) = one();
    let mut followed = followed(&plane);
    plane.pause().unwrap();
    let took = until_away(&mut followed, "it has not answered for 3 s");
    assert!(took < NOTICED, "{took:?}");
    plane.resume().unwrap();
    followed.until_read();
    plane.apply(&slice("web-1", "web", &["10.1.0.2"])).unwrap();
    followed.until("changes are followed again", |followed| has_web(followed.said(), &["10.1.0.2"]));
}

#[test]
fn what_has_changed_while_a_server_was_away_counts_when_it_is_back() {
    let (_footprint, plane) = one();
    let mut followed = followed(&plane);
    plane.apply(&(ours("gone") + &slice("gone-1", "gone", &["10.1.0.7"]))).unwrap();
    followed.until("another one", |followed| endpoints(followed.said(), "gone").is_some());
    plane.stop().unwrap();
    until_away(&mut followed, "refused");
    assert!(endpoints(followed.said(), "gone").is_some());
    // At once, before the watches are back.
    plane.start_again().unwrap();
    plane.kubectl(&["delete", "service,endpointslice", "gone", "gone-1", "--ignore-not-found"]).unwrap();
    plane.apply(&(ours("new") + &slice("new-1", "new", &["10.1.0.8"]))).unwrap();
    plane.apply(&slice("web-1", "web", &["10.1.0.3"])).unwrap();
    followed.until("all of it counts", |followed| {
        let said = followed.said();
        said.state.reachable
            && has_web(said, &["10.1.0.3"])
            && endpoints(said, "gone").is_none()
            && endpoints(said, "new").is_some_and(|new| new == ["10.1.0.8"])
    });
}

#[test]
fn a_server_that_is_set_back_to_a_backup_is_believed() {
    let (_footprint, plane) = one();
    plane.apply(&(ours("web") + &slice("web-1", "web", &["10.1.0.1"]))).unwrap();
    plane.stop().unwrap();
    let backup = plane.back_up().unwrap();
    plane.start_again().unwrap();
    for last in 2..30 {
        plane.apply(&slice("web-1", "web", &[&format!("10.1.0.{last}")])).unwrap();
    }
    plane.apply(&ours("later")).unwrap();
    let mut followed = Followed::of(&plane);
    followed.until_read();
    assert!(has_web(followed.said(), &["10.1.0.29"]) && endpoints(followed.said(), "later").is_some());
    plane.stop().unwrap();
    plane.restore_backup(&backup).unwrap();
    plane.start_again().unwrap();
    followed.until("it is as it was then", |followed| {
        has_web(followed.said(), &["10.1.0.1"]) && endpoints(followed.said(), "later").is_none()
    });
    plane.apply(&slice("web-1", "web", &["10.1.0.77"])).unwrap();
    followed.until("changes are followed", |followed| has_web(followed.said(), &["10.1.0.77"]));
}

#[test]
fn a_server_that_shows_a_bad_certificate_is_not_believed() {
    let (_footprint, plane) = one();
    let mut followed = followed(&plane);
    for (certificate, why) in
        [(Certificate::Expired, "certificate expired"), (Certificate::Foreign, "UnknownIssuer")]
    {
        plane.stop().unwrap();
        until_away(&mut followed, "refused");
        plane.start_with(certificate).unwrap();
        until_away(&mut followed, why);
    }
    plane.stop().unwrap();
    plane.start_again().unwrap();
    followed.until_read();
}

#[test]
fn credentials_are_rotated_without_a_restart() {
    let (_footprint, plane) = one();
    plane.apply(&(ours("web") + &slice("web-1", "web", &["10.1.0.1"]))).unwrap();
    let nobody = plane.kubeconfig(&User::new("nobody")).unwrap();
    let file = plane.write_kubeconfig("rotated.kubeconfig", &nobody).unwrap();
    let mut followed = Followed::by(&plane, &file);
    followed.until("it is refused", |followed| {
        problems(followed.said()).iter().any(|told| told.contains("\"nobody\" cannot list resource"))
    });
    fs::write(&file, plane.kubeconfig(&User::admin()).unwrap()).unwrap();
    followed.until_read();
    assert!(has_web(followed.said(), &["10.1.0.1"]));
    fs::write(&file, "nonsense: [").unwrap();
    until_away(&mut followed, "rotated.kubeconfig");
    fs::write(&file, plane.kubeconfig(&User::admin()).unwrap()).unwrap();
    followed.until_read();
}

#[test]
fn a_start_without_the_server_goes_on_with_what_was_known() {
    let (footprint, plane) = one();
    plane.apply(&(ours("web") + &slice("web-1", "web", &["10.1.0.1"]))).unwrap();
    let file = kubeconfig(&plane);
    let config = config(&[(plane.name(), &file)]);
    let state = footprint.directory().join("state");
    let known = {
        let mut followed = Followed::start(&config, None);
        followed.until_read();
        followed.said().state.shards.clone()
    };
    let last_good = LastGood::open(&state).unwrap();
    last_good.write(&plane.name().into(), &known).unwrap();
    plane.stop().unwrap();
    let mut followed = Followed::start(&config, Some(last_good));
    followed.until("it was tried", |followed| followed.said().read);
    until_away(&mut followed, "refused");
    plane.start_again().unwrap();
    plane.apply(&slice("web-1", "web", &["10.1.0.2"])).unwrap();
    followed.until("what it says now counts", |followed| {
        followed.said().state.reachable && has_web(followed.said(), &["10.1.0.2"])
    });
}
