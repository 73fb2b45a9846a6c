//! A file that changes while the agent runs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
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
    assert_eq!(began.elapsed().as_secs(), 1, "it is looked at all the same");
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

/// Another way from the directory where the tests stand.
fn relative(path: &Path) -> PathBuf {
    let here = std::env::current_dir().unwrap();
    let up: PathBuf = here.components().skip(1).map(|_| "..").collect();
    up.join(path.strip_prefix("/").unwrap())
}

#[tokio::test]
async fn a_change_is_noticed_at_once_however_it_is_made_and_by_whatever_name_the_file_is_known() {
    type Change = fn(&Path, &str);
    let in_place: Change = |path, text| fs::write(path, text).unwrap();
    let renamed: Change = |path, text| {
        let beside = path.with_extension("new");
        fs::write(&beside, text).unwrap();
        fs::rename(&beside, path).unwrap();
    };
    let kept_aside: Change = |path, text| {
        fs::rename(path, path.with_extension("yaml~")).unwrap();
        fs::write(path, text).unwrap();
    };
    for change in [in_place, renamed, kept_aside] {
        let dir = tempfile::tempdir().unwrap();
        let (directory, other) = (dir.path().join("one"), dir.path().join("other"));
        fs::create_dir(&directory).unwrap();
        symlink("one", &other).unwrap();
        let path = directory.join("config.yaml");
        fs::write(&path, GOOD).unwrap();
        symlink(&path, dir.path().join("link.yaml")).unwrap();
        let names = [path.clone(), relative(&path), other.join("config.yaml"), dir.path().join("link.yaml")];
        for (distance, name) in (20..).zip(names) {
            let mut watch = ConfigWatch::new(&name, Arc::new(check(&name).unwrap()));
            assert!(tokio::time::timeout(Duration::from_millis(50), watch.next()).await.is_err());
            let began = std::time::Instant::now();
            change(&path, &GOOD.replace("distance: 10", &format!("distance: {distance}")));
            loop {
                match next(&mut watch).await {
                    Reload::Applied(config) if config.distances[0].distance == distance => break,
                    // The file was not there for a moment.
                    Reload::Refused(problems) if problems[0].message.starts_with("can't be read") => {}
                    other => panic!("{name:?}: {other:?}"),
                }
            }
            assert!(began.elapsed() < Duration::from_secs(2), "{name:?}: {:?}", began.elapsed());
        }
    }
}

#[tokio::test]
async fn a_volume_of_a_config_map_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let publish = |version: &str, text: &str| {
        fs::create_dir(dir.path().join(version)).unwrap();
        fs::write(dir.path().join(version).join("config.yaml"), text).unwrap();
        symlink(version, dir.path().join("..data_tmp")).unwrap();
        fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
    };
    publish("..2026_1", GOOD);
    let path = dir.path().join("config.yaml");
    symlink("..data/config.yaml", &path).unwrap();
    let mut watch = ConfigWatch::new(&path, Arc::new(check(&path).unwrap()));
    publish("..2026_2", &GOOD.replace("distance: 10", "distance: 20"));
    let began = std::time::Instant::now();
    assert!(matches!(next(&mut watch).await, Reload::Applied(config) if config.distances[0].distance == 20));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_file_that_still_changes_is_not_read_yet() {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let (path, target) = (dir.path().join("config.yaml"), elsewhere.path().join("config.yaml"));
    fs::write(&target, GOOD).unwrap();
    symlink(&target, &path).unwrap();
    let mut watch = ConfigWatch::new(&path, Arc::new(check(&path).unwrap()));
    let tick = Duration::from_millis(500);
    assert!(tokio::time::timeout(tick / 2, watch.next()).await.is_err());
    // Nobody is told of what stands elsewhere, nor whether it is whole.
    for lines in 1..10 {
        fs::write(&target, "# half\n".repeat(lines)).unwrap();
        assert!(tokio::time::timeout(tick, watch.next()).await.is_err(), "{lines}");
    }
    fs::write(&target, GOOD.replace("distance: 10", "distance: 20")).unwrap();
    assert!(matches!(next(&mut watch).await, Reload::Applied(_)));
}
