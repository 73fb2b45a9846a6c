//! What is in a directory and what isn't, what can't be read, and what was known before.

use super::*;
use crate::federation::manifests::load::MAX_FILE;

#[test]
fn hidden_files_other_files_and_volumes_of_config_maps() {
    let mut world = World::new();
    world.write(".a.yaml.swp", "x: [");
    world.write(".hidden/a.yaml", &service("hidden", 1));
    world.write("notes.txt", "x: [");
    world.write("..2026_1/web.yaml", &service("web", 80));
    let root = world.dir.path().to_owned();
    std::os::unix::fs::symlink("..2026_1", root.join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/web.yaml", root.join("web.yaml")).unwrap();
    world.manifests.refresh(&Changed::Anything, &|_| false);
    assert_eq!((world.port("web"), world.shards().len(), world.problems().len()), (Some(80), 1, 0));
    // As the kubelet does it: a new directory, a new link, renamed over the old one.
    world.write("..2026_2/web.yaml", &service("web", 90));
    std::os::unix::fs::symlink("..2026_2", root.join("..data_tmp")).unwrap();
    fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
    world.manifests.refresh(&Changed::Anything, &|_| false);
    assert_eq!((world.port("web"), world.problems().len()), (Some(90), 0));
}

#[test]
fn a_directory_that_vanishes_leaves_what_was_known() {
    let mut world = World::new();
    world.write("a.yaml", &service("web", 80));
    let (root, aside) = (world.dir.path().to_owned(), world.dir.path().with_extension("aside"));
    fs::rename(&root, &aside).unwrap();
    world.manifests.refresh(&Changed::Files([root.join("a.yaml")].into()), &|_| false);
    assert!(!world.manifests.reachable());
    assert_eq!(world.port("web"), Some(80));
    assert!(
        world.problems()[0].contains("the directory can't be read: No such file"),
        "{:?}",
        world.problems()
    );
    fs::rename(&aside, &root).unwrap();
    world.write("b.yaml", "# nothing");
    world.remove("a.yaml");
    assert!(world.manifests.reachable());
    assert_eq!((world.port("web"), world.problems().len()), (None, 0));
}

#[test]
fn what_can_not_be_read_is_told_and_blocks_nothing() {
    let mut world = World::new();
    world.write("a.yaml", &service("web", 80));
    let root = world.dir.path().to_owned();
    nix::unistd::mkfifo(&root.join("pipe.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::os::unix::fs::symlink("nowhere", root.join("dangling.yaml")).unwrap();
    let huge = fs::File::create(root.join("huge.yaml")).unwrap();
    huge.set_len(MAX_FILE + 1).unwrap();
    world.manifests.refresh(&Changed::Anything, &|_| false);
    assert_eq!(world.port("web"), Some(80));
    assert_eq!(
        world.problems(),
        [
            "cluster c1: dangling.yaml: is a symbolic link to nowhere, which is not there; what was known of it stays",
            "cluster c1: huge.yaml:1:1: has 64 MiB, at most 64 are read: split it; the objects that the file had stay",
            "cluster c1: pipe.yaml: is a pipe, a socket or a device, not a file; what was known of it stays",
        ]
    );
}

#[test]
fn what_was_known_before_a_restart_counts_until_all_is_read() {
    let mut before = World::new();
    before.write(
        "a.yaml",
        &(service("web", 80)
            + "---\n"
            + &slice("web", "s1", "IPv4", "{addresses: [10.0.0.1]}")
            + "---\n"
            + &service("api", 81)),
    );
    let restored = before.shards();
    let dir = tempfile::tempdir().unwrap();
    let manifests =
        Manifests::new("c1".into(), dir.path().to_owned(), Defaults::default(), Store::new(restored));
    let mut world = World { dir, manifests };
    assert_eq!((world.port("web"), world.port("api")), (Some(80), Some(81)));
    // The file with the slices is broken at the start, so what it had is not known otherwise.
    fs::write(world.dir.path().join("slices.yaml"), "a: [").unwrap();
    world.write("web.yaml", &service("web", 90));
    assert_eq!((world.port("web"), world.port("api")), (Some(90), Some(81)));
    assert_eq!(world.endpoints("web"), ["10.0.0.1 10.0.0.1 ready"]);
    world.write("slices.yaml", &slice("web", "s1", "IPv4", "{addresses: [10.0.0.2]}"));
    assert_eq!((world.port("web"), world.port("api")), (Some(90), None), "now everything is read");
    assert_eq!(world.endpoints("web"), ["10.0.0.2 10.0.0.2 ready"]);
}
