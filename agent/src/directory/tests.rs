//! Real directories, and what the kernel says of them.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;

use super::*;

fn yaml(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "yaml")
}

/// What a test lacks where the kernel grants no instance.
const LACKING: &str = "an inotify instance: fs.inotify.max_user_instances says how many a user can have";

fn watching(directory: &Path) -> DirectoryWatch {
    DirectoryWatch::new(directory, true, yaml).expect(LACKING)
}

/// From a source of its own: in the shared one, that the directory was made may still be on its way.
fn alone(directory: &Path) -> DirectoryWatch {
    DirectoryWatch::with(&SOURCES, true, directory, true, yaml).expect(LACKING)
}

async fn next(watch: &mut DirectoryWatch) -> Changed {
    tokio::time::timeout(Duration::from_secs(10), watch.changed()).await.expect("a change is reported")
}

fn files(paths: &[&Path]) -> Changed {
    Changed::Files(paths.iter().map(|path| path.to_path_buf()).collect())
}

#[tokio::test]
async fn a_file_is_reported_when_it_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.yaml");
    let mut watch = alone(dir.path());
    let mut file = fs::File::create(&path).unwrap();
    file.write_all(b"half").unwrap();
    file.flush().unwrap();
    let early = tokio::time::timeout(Duration::from_millis(300), watch.changed()).await;
    assert!(early.is_err(), "reported while it was open: {early:?}");
    file.write_all(b" and half").unwrap();
    drop(file);
    assert_eq!(next(&mut watch).await, files(&[&path]));
}

#[tokio::test]
async fn a_file_that_is_never_closed_is_reported_after_a_while() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.yaml");
    fs::write(&path, "").unwrap();
    let mut watch = alone(dir.path());
    let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"x").unwrap();
    file.flush().unwrap();
    let before = Instant::now();
    assert_eq!(next(&mut watch).await, files(&[&path]));
    assert!(before.elapsed() > Duration::from_millis(500), "{:?}", before.elapsed());
    drop(file);
}

#[tokio::test]
async fn renames_removals_and_other_files() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b, temporary) = (dir.path().join("a.yaml"), dir.path().join("b.yaml"), dir.path().join("a.tmp"));
    let hidden = dir.path().join(".a.yaml");
    fs::write(&b, "x").unwrap();
    let mut watch = alone(dir.path());
    fs::write(&temporary, "x").unwrap();
    let nothing = tokio::time::timeout(Duration::from_millis(200), watch.changed()).await;
    assert!(nothing.is_err(), "a file of no interest: {nothing:?}");
    fs::rename(&temporary, &a).unwrap();
    // The old name is of no interest, so it could have been a directory.
    assert_eq!(next(&mut watch).await, Changed::Anything);
    fs::remove_file(&b).unwrap();
    assert_eq!(next(&mut watch).await, files(&[&b]));
    fs::write(&hidden, "y").unwrap();
    fs::rename(&hidden, &a).unwrap();
    assert_eq!(next(&mut watch).await, files(&[&a]));
}

/// What the kernel limits: inotify instances, here those of this process that watch `directory`.
fn instances(directory: &Path) -> usize {
    let inode = format!(" ino:{:x} ", fs::metadata(directory).unwrap().ino());
    let descriptors = fs::read_dir("/proc/self/fdinfo").unwrap();
    let about = descriptors.filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok());
    let watches = |line: &str| line.starts_with("inotify ") && line.contains(&inode);
    about.filter(|about| about.lines().any(watches)).count()
}

#[tokio::test]
async fn however_many_directories_the_instances_suffice_and_each_hears_of_its_own_files() {
    // Far fewer than the agent's: other processes need some, too.
    const MOST_OWN: usize = 3;
    static FEW: Sources = Sources::new(MOST_OWN);
    let dir = tempfile::tempdir().unwrap();
    let roots: Vec<PathBuf> =
        (0..MOST_OWN + 20).map(|number| dir.path().join(format!("cluster-{number}"))).collect();
    roots.iter().for_each(|root| fs::create_dir(root).unwrap());
    let mut watches: Vec<_> =
        roots.iter().map(|root| DirectoryWatch::with(&FEW, true, root, true, yaml).expect(LACKING)).collect();
    assert_eq!(instances(dir.path()), MOST_OWN + 1, "all watch the directory that theirs stand in");
    // Others come and go.
    drop(watches.pop());
    for (at, neighbour) in [(1, 2), (MOST_OWN + 5, MOST_OWN + 6)] {
        let path = roots[at].join("a.yaml");
        fs::write(&path, "x").unwrap();
        assert_eq!(next(&mut watches[at]).await, files(&[&path]));
        let nothing = tokio::time::timeout(Duration::from_millis(100), watches[neighbour].changed()).await;
        assert!(nothing.is_err(), "a neighbour's file: {nothing:?}");
    }
}

#[tokio::test]
async fn plain_directories_share_an_instance() {
    let dir = tempfile::tempdir().unwrap();
    let roots: Vec<PathBuf> = (0..5).map(|number| dir.path().join(format!("cluster-{number}"))).collect();
    roots.iter().for_each(|root| fs::create_dir(root).unwrap());
    let mut watches: Vec<_> = roots.iter().map(|root| watching(root)).collect();
    assert_eq!(instances(dir.path()), 1);
    for (root, watch) in roots.iter().zip(&mut watches) {
        let path = root.join("a.yaml");
        fs::write(&path, "x").unwrap();
        assert_eq!(next(watch).await, files(&[&path]));
    }
    assert!(watches.iter().all(DirectoryWatch::fits));
    fs::remove_dir_all(&roots[0]).unwrap();
    std::os::unix::fs::symlink("cluster-1", &roots[0]).unwrap();
    assert!(!watches[0].fits(), "what a link leads to may be watched under its own name");
}

#[tokio::test]
async fn a_directory_with_two_names_is_heard_of_by_both() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (dir.path().join("one"), dir.path().join("other"));
    fs::create_dir(&one).unwrap();
    std::os::unix::fs::symlink("one", &other).unwrap();
    let mut first = watching(&one);
    let mut second = watching(&other);
    fs::write(one.join("a.yaml"), "x").unwrap();
    assert_eq!(next(&mut first).await, files(&[&one.join("a.yaml")]));
    assert_eq!(next(&mut second).await, files(&[&other.join("a.yaml")]));
}

#[tokio::test]
async fn what_is_being_written_is_told_apart_whatever_else_changes() {
    let dir = tempfile::tempdir().unwrap();
    let (open, other) = (dir.path().join("open.yaml"), dir.path().join("other.yaml"));
    let mut watch = alone(dir.path());
    let mut file = fs::File::create(&open).unwrap();
    file.write_all(b"half").unwrap();
    fs::create_dir(dir.path().join("folder")).unwrap();
    assert_eq!(next(&mut watch).await, Changed::Anything);
    let writing = watch.writing();
    assert!(writing.holds(&open) && !writing.holds(&other));
    watch.renew().unwrap();
    assert!(writing.holds(&open), "it is not forgotten");
    drop(file);
    assert_eq!(next(&mut watch).await, files(&[&open]));
    assert!(!writing.holds(&open));
}

#[tokio::test]
async fn directories_that_come_and_go_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("cluster");
    let mut watch = watching(&root);
    fs::create_dir(&root).unwrap();
    assert_eq!(next(&mut watch).await, Changed::Anything);
    let mut watch = watching(&root);
    fs::create_dir(root.join("deep")).unwrap();
    assert_eq!(next(&mut watch).await, Changed::Anything);
    fs::remove_dir_all(&root).unwrap();
    assert_eq!(next(&mut watch).await, Changed::Anything);
}

#[tokio::test]
async fn files_are_told_by_the_name_that_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let up = std::env::current_dir().unwrap().components().skip(1).map(|_| "..").collect::<PathBuf>();
    let name = &up.join(dir.path().strip_prefix("/").unwrap());
    let mut watch = alone(name);
    fs::write(dir.path().join("a.yaml"), "x").unwrap();
    assert_eq!(next(&mut watch).await, files(&[&name.join("a.yaml")]));
}
