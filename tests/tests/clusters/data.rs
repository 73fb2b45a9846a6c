//! What becomes of a cluster's objects when its control plane goes away and comes back.

use std::time::Instant;

use fairlead_tests::control_plane::ControlPlane;

use super::{note, notes, one};

#[test]
fn data_outlive_a_stop_and_a_kill() {
    let (_footprint, plane) = one();
    note(&plane, "kept");
    let ask = ["--request-timeout=5s", "get", "configmaps"];
    for (how, take_down) in [("stopped", ControlPlane::stop as fn(&_) -> _), ("killed", ControlPlane::kill)] {
        let began = Instant::now();
        take_down(&plane).unwrap();
        println!("{how}: {:?}", began.elapsed());
        let error = format!("{:#}", plane.kubectl(&ask).unwrap_err());
        assert!(error.contains("refused"), "{error}");
        let began = Instant::now();
        plane.start_again().unwrap();
        println!("ready again: {:?}", began.elapsed());
        assert_eq!(notes(&plane), ["kept"]);
    }
}

#[test]
fn a_backup_that_is_restored_goes_back_in_time() {
    let version = |plane: &ControlPlane| -> u64 {
        let list = plane.kubectl(&["get", "--raw=/api/v1/namespaces/default/configmaps?limit=1"]).unwrap();
        let list: serde_json::Value = serde_json::from_str(&list).unwrap();
        list["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
    };
    let (_footprint, plane) = one();
    note(&plane, "before");
    let error = plane.back_up().unwrap_err().to_string();
    assert!(error.ends_with("stop it first"), "{error}");
    plane.stop().unwrap();
    let backup = plane.back_up().unwrap();
    plane.start_again().unwrap();
    // Starting writes too: many more, so that the later version is later in any case.
    for number in 0..20 {
        note(&plane, &format!("after-{number}"));
    }
    assert_eq!(notes(&plane).len(), 21);
    let later = version(&plane);

    plane.stop().unwrap();
    plane.restore_backup(&backup).unwrap();
    plane.start_again().unwrap();
    assert_eq!(notes(&plane), ["before"]);
    let now = version(&plane);
    assert!(now < later, "{now} is not before {later}");
    note(&plane, "anew");
    assert_eq!(notes(&plane), ["anew", "before"]);
}
