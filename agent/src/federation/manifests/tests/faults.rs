//! What can't be read now, or vanishes at once.

use std::collections::HashSet;
use std::fs;

use super::*;
use crate::federation::manifests::load::MAX_TOTAL;

#[test]
fn all_files_gone_at_once_are_a_directory_that_is_not_there() {
    let mut world = World::new();
    assert!(world.manifests.reachable(), "nothing was ever there");
    world.write("a.yaml", &service("web", 80));
    world.write("b.yaml", &service("api", 81));
    let files = ["a.yaml", "b.yaml"].map(|name| world.dir.path().join(name));
    let restored = world.shards();
    files.iter().for_each(|file| fs::remove_file(file).unwrap());
    let told = [Changed::Files(HashSet::from(files)), Changed::Anything];
    for changed in &told {
        world.manifests.refresh(changed, &|_| false);
        assert!(!world.manifests.reachable());
        assert_eq!((world.port("web"), world.port("api")), (Some(80), Some(81)));
        let problems = world.problems();
        assert!(problems.len() == 1 && problems[0].contains("no manifests any more"), "{problems:?}");
    }
    // After a restart too.
    let root = world.dir.path().to_owned();
    world.manifests = Manifests::new("c1".into(), root, Defaults::default(), Store::new(restored));
    world.manifests.refresh(&Changed::Anything, &|_| false);
    assert_eq!((world.manifests.reachable(), world.port("web")), (false, Some(80)));
    world.write("none.yaml", "# all withdrawn");
    assert!(world.manifests.reachable());
    assert_eq!((world.shards().len(), world.problems().len()), (0, 0));
}

/// Another user's rights to files, in this thread.
struct Stranger;

impl Stranger {
    fn new() -> Self {
        nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65534));
        Self
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        nix::unistd::setfsuid(nix::unistd::geteuid());
    }
}

fn permit(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_file_that_could_not_be_read_once_is_read_again() {
    let mut world = World::new();
    world.write("a.yaml", &service("web", 80));
    let (root, file) = (world.dir.path().to_owned(), world.dir.path().join("a.yaml"));
    permit(&root, 0o755);
    fs::write(&file, service("web", 90)).unwrap();
    permit(&file, 0o600);
    let stranger = Stranger::new();
    world.manifests.refresh(&Changed::Anything, &|_| false);
    assert_eq!(world.port("web"), Some(80));
    assert!(world.problems()[0].contains("can't be read: Permission denied"), "{:?}", world.problems());
    drop(stranger);
    world.manifests.refresh(&Changed::Anything, &|_| false);
    assert_eq!((world.port("web"), world.problems().len()), (Some(90), 0), "without a touch");
}

#[test]
fn a_file_that_there_was_no_room_for_is_read_when_there_is() {
    let mut world = World::new();
    world.write("a.yaml", &service("web", 80));
    let size = world.manifests.total;
    world.manifests.total = MAX_TOTAL - size;
    world.write("b.yaml", &(service("api", 81) + &"#".repeat(1000)));
    assert_eq!(world.port("api"), None);
    assert!(world.problems()[0].contains("more than 512 MiB"), "{:?}", world.problems());
    assert_eq!(world.manifests.total, MAX_TOTAL - size, "what is refused takes no room");
    world.write("a.yaml", &service("web", 90));
    assert_eq!(world.port("web"), Some(90), "nor from others");
    world.manifests.total = size;
    world.manifests.refresh(&Changed::Anything, &|_| false);
    assert_eq!((world.port("api"), world.problems().len()), (Some(81), 0));
}

#[test]
fn a_directory_that_can_not_be_read_keeps_its_files_and_hides_no_others() {
    let mut world = World::new();
    world.write("deep/a.yaml", &service("web", 80));
    world.write("b.yaml", &service("api", 81));
    let (root, deep) = (world.dir.path().to_owned(), world.dir.path().join("deep"));
    permit(&root, 0o755);
    fs::write(root.join("b.yaml"), service("api", 91)).unwrap();
    permit(&deep, 0o700);
    let stranger = Stranger::new();
    world.manifests.refresh(&Changed::Anything, &|_| false);
    assert!(world.manifests.reachable());
    assert_eq!((world.port("web"), world.port("api")), (Some(80), Some(91)));
    assert_eq!(
        world.problems(),
        ["cluster c1: deep: can't be read: Permission denied (os error 13); what was known of it stays"]
    );
    drop(stranger);
    fs::remove_dir_all(&deep).unwrap();
    world.manifests.refresh(&Changed::Anything, &|_| false);
    assert_eq!((world.port("web"), world.problems().len()), (None, 0), "gone is gone");
}

#[test]
fn a_full_look_leaves_out_what_is_being_written() {
    let mut world = World::new();
    world.write("a.yaml", &service("web", 80));
    world.write("b.yaml", &service("api", 81));
    let open = world.dir.path().join("a.yaml");
    fs::write(&open, service("web", 90)).unwrap();
    fs::write(world.dir.path().join("b.yaml"), service("api", 91)).unwrap();
    world.manifests.refresh(&Changed::Anything, &|file| file == open);
    assert_eq!((world.port("web"), world.port("api")), (Some(80), Some(91)));
    world.manifests.refresh(&Changed::Files([open].into()), &|_| false);
    assert_eq!(world.port("web"), Some(90));
}

#[test]
fn what_a_broken_file_had_before_a_restart_stays_beside_what_is_read() {
    let endpoint = |address: &str, pod: &str| {
        format!("{{addresses: ['{address}'], nodeName: n1, targetRef: {{name: {pod}, uid: u-{pod}}}}}")
    };
    let node = "apiVersion: v1\nkind: Node\nmetadata: {name: n1, labels: {fairlead.io/receiver: 'true'}}\n";
    let mut before = World::new();
    before.write("web.yaml", &service("web", 80));
    before.write("nodes.yaml", node);
    let two = format!("{}, {}", endpoint("10.0.0.1", "a"), endpoint("10.0.0.2", "b"));
    before.write("1.yaml", &slice("web", "s1", "IPv4", &two));
    before.write("2.yaml", &slice("web", "s2", "IPv4", &endpoint("10.0.0.3", "c")));
    before.write("6.yaml", &slice("web", "s6", "IPv6", &endpoint("2001:db8::1", "a")));
    let whole = before.endpoints("web");
    assert_eq!(
        whole,
        ["a 10.0.0.1 2001:db8::1 ready receiver", "b 10.0.0.2 ready receiver", "c 10.0.0.3 ready receiver"]
    );
    let restored = before.shards();
    for broken in ["nodes.yaml", "1.yaml", "2.yaml", "6.yaml", "web.yaml"] {
        let root = before.dir.path().to_owned();
        let good = fs::read_to_string(root.join(broken)).unwrap();
        fs::write(root.join(broken), "a: [").unwrap();
        let store = Store::new(restored.clone());
        before.manifests = Manifests::new("c1".into(), root, Defaults::default(), store);
        before.manifests.refresh(&Changed::Anything, &|_| false);
        assert_eq!(before.endpoints("web"), whole, "{broken} is broken");
        // What is taken out of a file that was read doesn't come back from before the restart.
        if broken == "2.yaml" {
            before.write("1.yaml", &slice("web", "s1", "IPv4", &endpoint("10.0.0.1", "a")));
            assert_eq!(before.endpoints("web"), [&*whole[0], &*whole[2]]);
            before.write("nodes.yaml", &node.replace("true", "false"));
            assert_eq!(before.endpoints("web"), [&*whole[0], &*whole[2]].map(|e| e.replace(" receiver", "")));
            before.write("nodes.yaml", node);
            before.write("1.yaml", &slice("web", "s1", "IPv4", &two));
        }
        before.write(broken, &good);
        assert_eq!(before.endpoints("web"), whole, "{broken} is repaired");
    }
    // A Service that is deleted is gone, whatever can't be read beside it.
    fs::write(before.dir.path().join("2.yaml"), "a: [").unwrap();
    let root = before.dir.path().to_owned();
    before.manifests = Manifests::new("c1".into(), root, Defaults::default(), Store::new(restored));
    before.manifests.refresh(&Changed::Anything, &|_| false);
    before.remove("web.yaml");
    assert_eq!(before.shards().len(), 0);
}

#[test]
fn the_files_of_a_service_are_known_wherever_its_parts_move() {
    let mut world = World::new();
    let files = |world: &mut World| {
        let located = world.manifests.located();
        let of = located.get(&ObjectName::new("shop", "web")).cloned().unwrap_or_default();
        let name = |path: &Arc<Path>| path.file_name().unwrap().to_str().unwrap().to_owned();
        (of.service.as_ref().map(name), of.slices.iter().map(name).collect::<Vec<_>>())
    };
    assert_eq!(files(&mut world), (None, vec![]));
    world.write("web.yaml", &(service("web", 80) + "---\n" + &slice("web", "web-1", "IPv4", "")));
    world.write(
        "more.yaml",
        &(slice("web", "web-2", "IPv4", "") + "---\n" + &slice("web", "web-3", "IPv6", "")),
    );
    let web = || Some("web.yaml".to_owned());
    assert_eq!(files(&mut world), (web(), vec!["web.yaml".to_owned(), "more.yaml".to_owned()]));
    world.write("more.yaml", &slice("other", "web-2", "IPv4", ""));
    assert_eq!(
        files(&mut world),
        (web(), vec!["web.yaml".to_owned()]),
        "a slice that belongs to another one"
    );
    world.write("new.yaml", &service("web", 80));
    world.remove("web.yaml");
    assert_eq!(files(&mut world), (Some("new.yaml".to_owned()), vec![]));
}

#[test]
fn what_takes_the_place_of_a_file_takes_none_of_its_objects() {
    use std::os::unix::fs::symlink;
    type Put = fn(&Path);
    let rows: [(Put, &str); 5] = [
        (|path| symlink("nowhere", path).unwrap(), "is a symbolic link to nowhere, which is not there"),
        (|path| symlink("web.yaml", path).unwrap(), "is a symbolic link to web.yaml, which is not there"),
        (|path| symlink("/dev/null", path).unwrap(), "is a pipe, a socket or a device, not a file"),
        (
            |path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
            "is a pipe, a socket or a device, not a file",
        ),
        (|path| fs::create_dir(path).unwrap(), "is a directory, but has the name of a file: rename it"),
    ];
    for (put, why) in rows {
        for beside in [false, true] {
            let mut world = World::new();
            let file = world.dir.path().join("web.yaml");
            let told = [Changed::Files([file.clone()].into()), Changed::Anything];
            for changed in &told {
                world.write("web.yaml", &service("web", 80));
                if beside {
                    world.write("api.yaml", &service("api", 81));
                }
                fs::remove_file(&file).unwrap();
                put(&file);
                world.manifests.refresh(changed, &|_| false);
                assert!(world.manifests.reachable(), "the directory can be read");
                assert_eq!(world.port("web"), Some(80), "{why}");
                let expected = format!("cluster c1: web.yaml: {why}; what was known of it stays");
                assert_eq!(world.problems(), [expected]);
                fs::remove_file(&file).or_else(|_| fs::remove_dir(&file)).unwrap();
                fs::write(&file, service("web", 90)).unwrap();
                world.manifests.refresh(changed, &|_| false);
                assert_eq!((world.port("web"), world.problems()), (Some(90), vec![]), "a file again");
            }
        }
    }
}

#[test]
fn a_time_of_affinity_out_of_range_is_told_and_the_service_served() {
    let mut world = World::new();
    let text = |seconds: &str| {
        let config = format!("sessionAffinityConfig: {{clientIP: {{timeoutSeconds: {seconds}}}}}");
        service("web", 80).replace("spec: {", &format!("spec: {{sessionAffinity: ClientIP, {config}, "))
    };
    for seconds in ["0", "-1", "86401", "2147483648"] {
        world.write("web.yaml", &text(seconds));
        assert!(world.shard("web").unwrap().by_client, "{seconds}");
        assert_eq!(
            world.problems(),
            [format!(
                "cluster c1: web.yaml:4:86: Service shop/web: spec.sessionAffinityConfig.clientIP.timeoutSeconds: {seconds} is not \
                 between 1 and 86400; affinity holds all the same, without a time"
            )]
        );
    }
    for seconds in ["1", "86400", "~"] {
        world.write("web.yaml", &text(seconds));
        assert_eq!((world.shard("web").unwrap().by_client, world.problems()), (true, vec![]), "{seconds}");
    }
    // Of a Service that isn't ours nobody wants to hear.
    world.write("web.yaml", &text("0").replace("fairlead.io/vip", "other"));
    assert_eq!((world.shard("web"), world.problems()), (None, vec![]));
}

#[test]
fn a_directory_with_the_name_of_a_file_is_read_all_the_same() {
    let mut world = World::new();
    world.write("web.yaml", &service("web", 80));
    fs::remove_file(world.dir.path().join("web.yaml")).unwrap();
    world.write("web.yaml/api.yaml", &service("api", 81));
    assert_eq!((world.port("web"), world.port("api")), (Some(80), Some(81)));
    world.remove("web.yaml/api.yaml");
    assert_eq!((world.port("web"), world.port("api")), (Some(80), None), "what is gone in it is gone");
}

#[test]
fn a_link_to_a_directory_that_is_gone_keeps_its_files() {
    let mut world = World::new();
    let elsewhere = tempfile::tempdir().unwrap();
    let (there, root) = (elsewhere.path().join("shop"), world.dir.path().to_owned());
    fs::create_dir(&there).unwrap();
    fs::write(there.join("web.yaml"), service("web", 80)).unwrap();
    std::os::unix::fs::symlink(&there, root.join("shop")).unwrap();
    std::os::unix::fs::symlink("nowhere", root.join("notes")).unwrap();
    world.write("api.yaml", &service("api", 81));
    assert_eq!((world.port("web"), world.problems()), (Some(80), vec![]));
    fs::remove_dir_all(&there).unwrap();
    world.manifests.refresh(&Changed::Anything, &|_| false);
    assert_eq!(world.port("web"), Some(80));
    let problems = world.problems();
    assert!(problems.len() == 1 && problems[0].contains("shop: is a symbolic link to "), "{problems:?}");
    fs::remove_file(root.join("shop")).unwrap();
    world.manifests.refresh(&Changed::Anything, &|_| false);
    assert_eq!((world.port("web"), world.problems()), (None, vec![]), "gone is gone");
}
