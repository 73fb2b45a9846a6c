//! The Go that builds the control planes of the tests.
//!
//! In: a `go` in PATH, of whatever version. Out: one of the series that Kubernetes is built with: that one where it fits,
//! else a release that it fetches as a Go module, checked by Go's checksum database, into the user's module cache. Must
//! not install packages: that is `setup`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process;

/// The series that Kubernetes' modules in tests/testplane/go.mod name; patches of it fit all the same.
const SERIES: &str = "go1.26";

/// What is fetched where no fitting Go is installed.
pub(crate) const RELEASE: &str = "go1.26.8";

/// An installed Go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Go {
    /// The program.
    pub(crate) program: PathBuf,
    /// As it tells it, such as `go1.26.8`.
    pub(crate) release: String,
}

impl Go {
    /// Whether it builds the control planes itself; else it fetches [`RELEASE`].
    pub(crate) fn fits(&self) -> bool {
        // Not `go1.26rc1`, which go.mod refuses.
        self.release.strip_prefix(SERIES).is_some_and(|patch| patch.starts_with('.'))
    }

    /// A Go that fits: this one, or one that is fetched.
    pub(crate) fn fitting(self) -> Result<Self> {
        if self.fits() { Ok(self) } else { fetch(&self) }
    }
}

/// The Go in PATH.
pub(crate) fn installed() -> Result<Option<Go>> {
    let Some(program) = process::which("go") else { return Ok(None) };
    let release = process::probe(command(&program).args(["env", "GOVERSION"]))?;
    let release = release.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    Ok(release.map(|release| Go { program, release }))
}

/// A call of this Go, and of none that it would rather be by itself.
pub(crate) fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env("GOTOOLCHAIN", "local").env_remove("GOROOT");
    command
}

fn fetch(go: &Go) -> Result<Go> {
    let module = format!("golang.org/toolchain@v0.0.1-{RELEASE}.linux-{}", architecture()?);
    let mut download = command(&go.program);
    // Away from go.mod, which an older Go can't read.
    download.args(["mod", "download", "-json", &module]).current_dir("/").env("GO111MODULE", "on");
    let mut text = String::new();
    let status = process::lines(&mut download, |line| text.push_str(line))?;
    let told: Value = serde_json::from_str(&text).unwrap_or_default();
    let Some(folder) = told["Dir"].as_str().filter(|_| status.success()) else {
        let why = told["Error"].as_str().unwrap_or("see above");
        bail!("{} can't fetch the Go module {module}: {why}", go.release);
    };
    let folder = PathBuf::from(folder);
    for programs in ["bin", "pkg/tool"] {
        make_executable(&folder.join(programs))?;
    }
    Ok(Go { program: folder.join("bin/go"), release: RELEASE.to_owned() })
}

/// Go's name of this machine's architecture.
fn architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("no Go toolchain is known for {other}: put a {SERIES} in PATH"),
    }
}

/// Modules are unpacked without the right to execute anything; a newer Go gives it back itself, an older one doesn't.
fn make_executable(folder: &Path) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("can't read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        let metadata = path.metadata()?;
        if metadata.is_dir() {
            make_executable(&path)?;
        } else if metadata.permissions().mode() & 0o111 == 0 {
            let readable = metadata.permissions().mode() & 0o444;
            let permissions = fs::Permissions::from_mode(metadata.permissions().mode() | (readable >> 2));
            fs::set_permissions(&path, permissions)
                .with_context(|| format!("can't make {} executable", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_of_the_series_fit_and_nothing_else() {
        let fits = |release: &str| Go { program: "go".into(), release: release.into() }.fits();
        assert!(fits("go1.26.0") && fits("go1.26.12") && fits(RELEASE));
        assert!(!fits("go1.19.8") && !fits("go1.26rc1") && !fits("go1.27.0") && !fits("go1.260.1"));
    }

    #[test]
    fn what_may_be_read_may_be_executed() {
        let folder = tempfile::tempdir().unwrap();
        let (inner, file) = (folder.path().join("linux_amd64"), folder.path().join("linux_amd64/compile"));
        fs::create_dir(&inner).unwrap();
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o444)).unwrap();
        make_executable(folder.path()).unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o555);
    }
}
