//! Where the workspace and its build output are, and cargo as the user has it.
//!
//! In: the environment that `cargo xtask` gives. Out: absolute paths, and commands that run as if the user had
//! typed them: what the outer cargo added to the environment for xtask itself is taken away again.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// Set by `cargo run` for the program it runs; left in place, they would make an inner cargo build again
/// what a plain `cargo build` had built.
const CARGO_RUN_ADDS: &[&str] = &["CARGO", "CARGO_BIN_NAME", "CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE"];
const CARGO_RUN_ADDS_PREFIX: &[&str] = &["CARGO_MANIFEST_", "CARGO_PKG_"];

/// The folders that xtask works in.
#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    /// The workspace's root folder.
    pub(crate) root: PathBuf,
    /// Cargo's target folder: `CARGO_TARGET_DIR` where that is set.
    pub(crate) target: PathBuf,
}

impl Workspace {
    /// Finds the workspace that this xtask was built from.
    pub(crate) fn locate() -> Result<Self> {
        // At run time, so that a cached binary follows a workspace that was moved.
        let manifest = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let manifest = manifest.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
        let root = manifest.parent().context("xtask's manifest has no parent folder")?;
        let root =
            root.canonicalize().with_context(|| format!("can't find the workspace at {}", root.display()))?;
        let target = match env::var_os("CARGO_TARGET_DIR").filter(|folder| !folder.is_empty()) {
            Some(folder) => env::current_dir().context("can't read the current folder")?.join(folder),
            None => root.join("target"),
        };
        Ok(Self { root, target })
    }

    /// Where the BPF programs' ELF files are put: always inside the workspace, because the agent's build script
    /// can't know of another target folder.
    pub(crate) fn elves(&self) -> PathBuf {
        self.root.join("target/bpf")
    }

    /// The target folder of the BPF build, which another compiler fills.
    pub(crate) fn bpf_target(&self) -> PathBuf {
        self.target.join("bpf/cargo")
    }

    /// The user's cargo, in the workspace's root, so that the pinned toolchain applies.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new("cargo");
        command.current_dir(&self.root).env("CARGO_TARGET_DIR", &self.target);
        forget_outer_cargo(&mut command);
        command
    }
}

/// Takes from a child's environment what the outer cargo put there.
pub(crate) fn forget_outer_cargo(command: &mut Command) {
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if CARGO_RUN_ADDS.contains(&&*text)
            || CARGO_RUN_ADDS_PREFIX.iter().any(|prefix| text.starts_with(prefix))
        {
            command.env_remove(&name);
        }
    }
}

/// Cargo's folder of the user: registry, and programs that `cargo install` puts in `bin`.
pub(crate) fn cargo_home() -> Result<PathBuf> {
    match env::var_os("CARGO_HOME").filter(|folder| !folder.is_empty()) {
        Some(folder) => Ok(PathBuf::from(folder)),
        None => Ok(home()?.join(".cargo")),
    }
}

/// rustup's folder of the user, which need not exist.
pub(crate) fn rustup_home() -> Result<PathBuf> {
    match env::var_os("RUSTUP_HOME").filter(|folder| !folder.is_empty()) {
        Some(folder) => Ok(PathBuf::from(folder)),
        None => Ok(home()?.join(".rustup")),
    }
}

/// Where the user's programs keep what can be made again (XDG Base Directory Specification).
pub(crate) fn cache_home() -> Result<PathBuf> {
    // A relative one is to be ignored.
    match env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|folder| folder.is_absolute()) {
        Some(folder) => Ok(folder),
        None => Ok(home()?.join(".cache")),
    }
}

fn home() -> Result<PathBuf> {
    env::home_dir().filter(|home| home != Path::new("")).context("HOME is not set")
}
