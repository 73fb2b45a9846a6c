//! The programs of real Kubernetes control planes, which the tests of several clusters run.
//!
//! In: the sources in tests/testplane, or a folder that `KUBEBUILDER_ASSETS` names. Out: a folder that holds `etcd`,
//! `kube-apiserver`, `kube-controller-manager` and `kubectl`. What is built lies in the user's cache folder, under a name
//! that follows from the sources and from the version of Go, so that a clone builds it once and another one not again.

use std::env;
use std::fs::{self, File, TryLockError};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::go::{self, Go};
use crate::workspace::{Workspace, cache_home};
use crate::{interrupt, process};

/// Names a folder with the programs, as other projects' tests know it.
pub(crate) const GIVEN: &str = "KUBEBUILDER_ASSETS";

/// Where the tests look for the folder.
pub(crate) const VARIABLE: &str = "FAIRLEAD_TESTPLANE";

/// What a control plane is started from.
const PROGRAMS: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kubectl"];

/// Below tests/testplane: all that decides what is built.
const SOURCES: [&str; 3] = ["go.mod", "go.sum", "cmd/testplane/main.go"];

/// Arguments of `go build`: no paths of this machine in the programs, and no symbols for a debugger.
const BUILD: [&str; 2] = ["build", "-trimpath"];
const STRIP: &str = "-s -w";

/// Where the programs are, or will be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Assets {
    /// In the folder that the user names.
    Given {
        folder: PathBuf,
        /// Those that aren't there.
        lacking: Vec<&'static str>,
    },
    /// Built from tests/testplane.
    Own {
        folder: PathBuf,
        /// Such as `1.36.4`.
        kubernetes: String,
        built: bool,
    },
}

impl Assets {
    /// Looks where they are; changes nothing.
    pub(crate) fn locate(workspace: &Workspace, go: Option<&Go>) -> Result<Self> {
        if let Some(folder) = env::var_os(GIVEN).filter(|folder| !folder.is_empty()) {
            return Ok(Self::given(&PathBuf::from(folder)));
        }
        let sources = Sources::read(workspace)?;
        let release = go.filter(|go| go.fits()).map_or(go::RELEASE, |go| &go.release);
        let folder = cache()?.join(sources.name(release));
        let built = folder.join("testplane").is_file();
        Ok(Self::Own { folder, kubernetes: sources.kubernetes()?.to_owned(), built })
    }

    fn given(folder: &Path) -> Self {
        let lacking = PROGRAMS.into_iter().filter(|name| !folder.join(name).is_file()).collect();
        Self::Given { folder: folder.to_owned(), lacking }
    }

    /// The folder that holds the programs.
    pub(crate) fn folder(&self) -> &Path {
        match self {
            Self::Given { folder, .. } | Self::Own { folder, .. } => folder,
        }
    }
}

/// Builds them with a Go that fits, unless somebody else has meanwhile.
pub(crate) fn build(workspace: &Workspace, go: Go) -> Result<()> {
    let sources = Sources::read(workspace)?;
    let cache = cache()?;
    fs::create_dir_all(&cache).with_context(|| format!("can't make {}", cache.display()))?;
    let _turn = turn(&cache)?;
    let go = go.fitting()?;
    let folder = cache.join(sources.name(&go.release));
    if folder.exists() {
        return Ok(());
    }
    let partial = Partial(folder.with_extension("partial"));
    let built = partial.0.join("testplane");
    // What a build left that was killed: nobody else is at it.
    partial.remove();
    fs::create_dir(&partial.0).with_context(|| format!("can't make {}", partial.0.display()))?;
    let mut command = go::command(&go.program);
    command.args(BUILD).arg("-ldflags").arg(sources.linker_flags()?).arg("-o").arg(&built);
    command.arg("./cmd/testplane").current_dir(&sources.folder).env("CGO_ENABLED", "0");
    process::run(&mut command).context("the control planes of the tests don't build")?;
    for name in PROGRAMS {
        symlink("testplane", partial.0.join(name)).with_context(|| format!("can't link {name}"))?;
    }
    fs::rename(&partial.0, &folder).with_context(|| format!("can't put {} in its place", folder.display()))
}

/// The sources, as they are now.
struct Sources {
    folder: PathBuf,
    /// In the order of [`SOURCES`].
    texts: Vec<String>,
}

impl Sources {
    fn read(workspace: &Workspace) -> Result<Self> {
        let folder = workspace.root.join("tests/testplane");
        let read = |name| {
            let file = folder.join(name);
            fs::read_to_string(&file).with_context(|| format!("can't read {}", file.display()))
        };
        let texts = SOURCES.into_iter().map(read).collect::<Result<_>>()?;
        Ok(Self { folder, texts })
    }

    /// The name of the folder with what a Go of this release builds from them.
    fn name(&self, release: &str) -> String {
        let texts = self.texts.iter().map(String::as_str);
        format!("{:016x}", digest(texts.chain([release, STRIP]).chain(BUILD)))
    }

    /// Kubernetes' version, which go.mod names.
    fn kubernetes(&self) -> Result<&str> {
        let mut lines = self.texts[0].lines();
        let version = lines.find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes v"));
        version.context("tests/testplane/go.mod requires no k8s.io/kubernetes")
    }

    /// The programs tell the version that they were linked with, and clients decide by it.
    fn linker_flags(&self) -> Result<String> {
        let version = self.kubernetes()?;
        let mut numbers = version.split('.');
        let [major, minor] = [(); 2].map(|()| numbers.next().unwrap_or_default());
        let set = |name: &str, value: &str| format!("-X k8s.io/component-base/version.git{name}={value}");
        let told = [set("Version", &format!("v{version}")), set("Major", major), set("Minor", minor)];
        Ok(format!("{STRIP} {}", told.join(" ")))
    }
}

/// A folder that goes away unless it was renamed.
struct Partial(PathBuf);

impl Partial {
    fn remove(&self) {
        let _was_renamed_or_never_there = fs::remove_dir_all(&self.0);
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        self.remove();
    }
}

fn cache() -> Result<PathBuf> {
    Ok(cache_home()?.join("fairlead/testplane"))
}

/// Two builds at once would each take twice as long, and then have built the same.
fn turn(cache: &Path) -> Result<File> {
    let path = cache.join("lock");
    let file = File::create(&path).with_context(|| format!("can't write {}", path.display()))?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(100)),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("can't lock {}", path.display()));
            }
        }
        interrupt::check()?;
    }
}

/// FNV-1a over the texts and their ends: it names, and protects from nothing.
fn digest<'a>(texts: impl Iterator<Item = &'a str>) -> u64 {
    let bytes = texts.flat_map(|text| text.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(folder: &str) -> Sources {
        let texts = vec!["require (\n\tk8s.io/kubernetes v1.36.4\n)\n".into(), "sums".into(), "main".into()];
        Sources { folder: folder.into(), texts }
    }

    #[test]
    fn the_folder_follows_from_sources_and_go_and_not_from_the_clone() {
        let name = sources("/a").name("go1.26.8");
        assert_eq!(name, sources("/b").name("go1.26.8"));
        assert_ne!(name, sources("/a").name("go1.26.9"));
        let mut other = sources("/a");
        other.texts[2].push('x');
        assert_ne!(name, other.name("go1.26.8"));
        // What moves from one file into the next is not the same.
        let mut moved = sources("/a");
        (moved.texts[1], moved.texts[2]) = ("sumsm".into(), "ain".into());
        assert_ne!(name, moved.name("go1.26.8"));
    }

    #[test]
    fn the_programs_tell_the_version_in_go_mod() {
        assert_eq!(
            sources("/a").linker_flags().unwrap(),
            "-s -w -X k8s.io/component-base/version.gitVersion=v1.36.4 \
             -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36"
        );
    }

    #[test]
    fn the_sources_are_there_and_name_a_version() {
        let sources = Sources::read(&Workspace::locate().unwrap()).unwrap();
        assert!(sources.kubernetes().unwrap().starts_with("1."));
    }

    #[test]
    fn a_given_folder_is_told_what_it_lacks() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["etcd", "kubectl", "kube-apiserver"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let Assets::Given { lacking, .. } = Assets::given(folder.path()) else { panic!("not given") };
        assert_eq!(lacking, ["kube-controller-manager"]);
    }

    #[test]
    fn a_partial_folder_goes_away_and_a_renamed_one_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (partial, done) = (folder.path().join("x.partial"), folder.path().join("x"));
        for end in [true, false] {
            let guard = Partial(partial.clone());
            fs::create_dir(&guard.0).unwrap();
            if end {
                fs::rename(&guard.0, &done).unwrap();
            }
        }
        assert!(done.is_dir() && !partial.exists());
    }
}
