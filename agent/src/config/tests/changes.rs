//! A file that changes while the agent runs.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use super::super::*;
use super::GOOD;

#[tokio::test(start_paused = true)]
async fn the_file_is_read_only_where_it_may_have_changed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.yaml");
    fs::write(&path, GOOD).unwrap();
    // By its other name it is changed where nobody is told.
    let elsewhere = tempfile::tempdir().unwrap();
    let other_name = elsewhere.path().join("config.yaml");
    fs::hard_link(&path, &other_name).unwrap();
    let began = tokio::time::Instant::now();
    let mut watch = ConfigWatch::new(&path, Arc::new(check(&path).unwrap()));
    // Who waits does something else now and then, as the agent does.
    let tick = Duration::from_millis(250);
    assert!(tokio::time::timeout(tick, watch.next()).await.is_err());
    fs::write(&other_name, GOOD.replace("distance: 10", "distance: 20")).unwrap();
    let reload = loop {
        if let Ok(reload) = tokio::time::timeout(tick, watch.next()).await {
            break reload;
        }
    };
    assert!(matches!(reload, Reload::Applied(_)));
    assert_eq!(began.elapsed().as_secs(), 30, "it is looked at all the same");
}

#[test]
fn what_bounds_the_prober_is_fixed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.yaml");
    fs::write(&path, GOOD).unwrap();
    let mut watch = ConfigWatch::new(&path, Arc::new(check(&path).unwrap()));
    fs::write(&path, format!("{GOOD}probes: {{concurrency: 7, perSecond: 9}}\n")).unwrap();
    let Some(Reload::Refused(problems)) = watch.look() else { panic!("applied") };
    let said: Vec<_> = problems.iter().map(|p| p.field.as_str()).collect();
    assert_eq!(said, ["probes.concurrency", "probes.perSecond"]);
    assert!(problems[0].message.contains("restart"));
}

async fn next(watch: &mut ConfigWatch) -> Reload {
    tokio::time::timeout(Duration::from_secs(10), watch.next()).await.expect("a change is noticed")
}

#[tokio::test]
async fn a_changed_file_is_applied_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.yaml");
    fs::write(&path, GOOD).unwrap();
    let mut watch = ConfigWatch::new(&path, Arc::new(check(&path).unwrap()));

    fs::write(&path, GOOD.replace("distance: 10", "distance: 20")).unwrap();
    let Reload::Applied(config) = next(&mut watch).await else { panic!("refused") };
    assert_eq!(config.distances[0].distance, 20);

    fs::write(&path, GOOD.replace("distance: 10", "distance: 30").replace("0x1", "x")).unwrap();
    let Reload::Refused(problems) = next(&mut watch).await else { panic!("applied") };
    assert_eq!((problems.len(), problems[0].field.as_str(), problems[0].place.line), (1, "seed", 1));

    // As an editor does: written beside it, then renamed.
    let beside = dir.path().join("config.yaml.new");
    fs::write(&beside, GOOD.replace("0x1", "0x2").replace("eth0", "eth1")).unwrap();
    fs::rename(&beside, &path).unwrap();
    let Reload::Refused(problems) = next(&mut watch).await else { panic!("applied") };
    let said: Vec<_> = problems.iter().map(|p| (p.place.line, p.field.as_str())).collect();
    assert_eq!(said, [(1, "seed"), (6, "node.interfaces")]);
    assert!(problems[0].message.contains("restart"));

    fs::remove_file(&path).unwrap();
    let Reload::Refused(problems) = next(&mut watch).await else { panic!("applied") };
    assert!(problems[0].message.starts_with("can't be read"), "{}", problems[0]);

    fs::write(&path, GOOD).unwrap();
    let Reload::Applied(config) = next(&mut watch).await else { panic!("refused") };
    assert_eq!(config.distances[0].distance, 10);
}
