//! The wall clock is set while the agent runs, or was wrong before: it is for people to read, nothing is decided by it.
//!
//! The machine's own clock is left alone: what it leaves behind, the times of files and in files, is set instead. That
//! nothing else asks for it is held by a lint (`disallowed-methods`), and the monotonic clock never jumps.

use std::fs::{self, File};
use std::time::{Duration, SystemTime};

use fairlead_tests::world::{Condition, Federation, Plan};
use serde_json::{Value, json};

use crate::served::{PATIENCE, Served, wait};

const TEN_YEARS: Duration = Duration::from_secs(10 * 365 * 86_400);

fn ahead() -> SystemTime {
    SystemTime::UNIX_EPOCH + TEN_YEARS * 8
}

fn behind() -> SystemTime {
    SystemTime::UNIX_EPOCH + TEN_YEARS
}

#[test]
fn manifests_are_followed_whatever_time_they_carry() {
    let served = Served::build(&Plan::small(), &Federation::default());
    served.wait_until_served();
    let manifests = served.world.manifests("us-central1-a");
    let pod = served.world.pods()[0].name();
    for (time, condition, taking) in [
        (ahead(), Condition::Terminating, 1),
        (behind(), Condition::Ready, 2),
        (behind(), Condition::NotReady, 1),
        (ahead(), Condition::Ready, 2),
    ] {
        manifests.set(pod, condition).unwrap();
        for file in fs::read_dir(manifests.directory()).unwrap() {
            File::options().write(true).open(file.unwrap().path()).unwrap().set_modified(time).unwrap();
        }
        wait("the change", || {
            let answer = served.gateway().ask(&["services"]).unwrap();
            answer["services"].as_array().unwrap().iter().all(|service| service["taking"] == taking)
        });
    }
    assert_eq!(served.answering(), served.pods());
}

#[test]
fn what_was_kept_counts_although_it_is_from_the_future_or_long_ago() {
    let served = Served::build(&Plan::small(), &Federation::default());
    served.wait_until_served();
    let agent = served.gateway();
    let state = agent.configuration().with_file_name("state");
    let kept = state.join("last-good/us-central1-a.json");
    wait("a kept state", || kept.exists());
    let manifests = served.world.manifests("us-central1-a").directory().to_owned();
    let gone = manifests.with_extension("gone");
    fs::rename(&manifests, &gone).unwrap();
    for (time, secs, at_least) in [(ahead(), 4_000_000_000_u64, 0), (behind(), 1_000, 86_400)] {
        agent.process().kill().unwrap();
        File::options().write(true).open(&kept).unwrap().set_modified(time).unwrap();
        let status = state.join("status.json");
        let mut told: Value = serde_json::from_str(&fs::read_to_string(&status).unwrap()).unwrap();
        told["written"]["secs_since_epoch"] = json!(secs);
        fs::write(&status, told.to_string()).unwrap();
        // Without an agent, the commands say how old that is: of the future, not at all.
        let age = agent.ask(&["status"]).unwrap()["agent"]["state_age_seconds"].as_u64().unwrap();
        assert!((age == 0) == (at_least == 0), "{age} s");
        agent.process().start_again().unwrap();
        agent.wait_until_ready(PATIENCE).unwrap();
        assert_eq!(served.answering(), served.pods());
        served.wait_for_status("word of the source", |status| {
            let cluster = &status["clusters"][0];
            let age = cluster["restored_age_seconds"].as_u64();
            cluster["reachable"] == false
                && age.is_some_and(|age| age >= at_least && (age == 0) == (at_least == 0))
        });
    }
    fs::rename(&gone, &manifests).unwrap();
    served.wait_for_status("the source", |status| status["clusters"][0]["reachable"] == true);
    assert_eq!(served.answering(), served.pods());
}
