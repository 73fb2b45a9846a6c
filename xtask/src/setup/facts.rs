//! What this machine has.
//!
//! In: files under /proc, /sys and /usr, and the versions that programs tell. Out: [`Facts`], plain data. Must not
//! judge or change anything, and takes well under a second.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::go::{self, Go};
use crate::process;
use crate::testplane::Assets;
use crate::toolchain::{self, Compiler, Linker};
use crate::workspace::Workspace;

/// Everything that `needs` judges by.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// Whether xtask runs as root.
    pub(crate) root: bool,
    /// Effective capabilities, one bit each, as the kernel numbers them.
    pub(crate) capabilities: u64,
    /// The kernel's release, such as `6.18.44`.
    pub(crate) kernel: String,
    /// The kernel options that are built in or modules, without `CONFIG_`; `None` if no configuration can be read.
    pub(crate) kernel_options: Option<BTreeSet<String>>,
    /// Whether the kernel describes its own types (BTF).
    pub(crate) kernel_types: bool,
    /// Whether a BPF file system is mounted at /sys/fs/bpf.
    pub(crate) bpffs: bool,
    /// Compilers that might build the BPF programs.
    pub(crate) compilers: Vec<Compiler>,
    /// The installed bpf-linker.
    pub(crate) linker: Option<Linker>,
    /// The installed cargo-deny's version.
    pub(crate) deny: Option<String>,
    /// The version of clippy, if it and rustfmt are there for the pinned toolchain.
    pub(crate) clippy: Option<String>,
    /// The Go in PATH.
    pub(crate) go: Option<Go>,
    /// The programs of the tests' control planes.
    pub(crate) assets: Assets,
    /// Those of the programs and files asked about that are there.
    pub(crate) present: BTreeSet<&'static str>,
}

impl Facts {
    /// Looks; `wanted` are the programs (by name) and files (by absolute path) of interest.
    pub(crate) fn gather(workspace: &Workspace, wanted: impl Iterator<Item = &'static str>) -> Result<Self> {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
        let go = go::installed()?;
        Ok(Self {
            root: nix::unistd::geteuid().is_root(),
            capabilities: capabilities(&status),
            kernel_options: kernel_configuration(&kernel)?.map(|text| kernel_options(&text)),
            kernel,
            kernel_types: Path::new("/sys/kernel/btf/vmlinux").exists(),
            bpffs: bpffs(&mounts),
            compilers: toolchain::compilers()?,
            linker: toolchain::linker()?,
            deny: deny()?,
            clippy: clippy(workspace)?,
            assets: Assets::locate(workspace, go.as_ref())?,
            go,
            present: wanted.filter(|name| present(name)).collect(),
        })
    }
}

/// Whether a program (by name) or a file (by absolute path) is there.
fn present(name: &str) -> bool {
    if name.starts_with('/') { Path::new(name).exists() } else { process::which(name).is_some() }
}

fn deny() -> Result<Option<String>> {
    let Some(program) = toolchain::installed_program("cargo-deny")? else { return Ok(None) };
    let text = process::probe(Command::new(program).arg("--version"))?;
    Ok(text.and_then(|text| text.split_whitespace().nth(1).map(str::to_owned)))
}

fn clippy(workspace: &Workspace) -> Result<Option<String>> {
    if process::probe(workspace.cargo().args(["fmt", "--version"]))?.is_none() {
        return Ok(None);
    }
    let text = process::probe(workspace.cargo().args(["clippy", "--version"]))?;
    Ok(text.and_then(|text| text.split_whitespace().nth(1).map(str::to_owned)))
}

/// The text of the running kernel's configuration, from where kernels and distributions put it.
fn kernel_configuration(release: &str) -> Result<Option<String>> {
    if let Some(text) = process::probe(Command::new("zcat").arg("/proc/config.gz"))? {
        return Ok(Some(text));
    }
    let files = [format!("/boot/config-{release}"), format!("/lib/modules/{release}/config")];
    Ok(files.iter().find_map(|file| fs::read_to_string(file).ok()))
}

fn kernel_options(configuration: &str) -> BTreeSet<String> {
    let set = configuration.lines().filter_map(|line| line.strip_prefix("CONFIG_")?.split_once('='));
    set.filter(|(_, value)| matches!(*value, "y" | "m")).map(|(name, _)| name.to_owned()).collect()
}

/// `CapEff` of a /proc/…/status.
fn capabilities(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

fn bpffs(mounts: &str) -> bool {
    let mut lines = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    lines.any(|fields| fields.get(1) == Some(&"/sys/fs/bpf") && fields.get(2) == Some(&"bpf"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_are_built_in_or_modules_count() {
        let options =
            kernel_options("CONFIG_VETH=m\nCONFIG_BPF=y\n# CONFIG_NET_SCH_BPF is not set\nCONFIG_HZ=250\n");
        assert_eq!(options.into_iter().collect::<Vec<_>>(), ["BPF", "VETH"]);
    }

    #[test]
    fn capabilities_are_read_from_the_status() {
        assert_eq!(capabilities("Uid:\t0\nCapEff:\t000001fffeffffff\nCapBnd:\t0\n"), 0x1ff_feff_ffff);
        assert_eq!(capabilities(""), 0);
    }

    #[test]
    fn only_a_bpf_mount_at_the_usual_place_counts() {
        assert!(bpffs("proc /proc proc rw 0 0\nbpf /sys/fs/bpf bpf rw,nosuid 0 0\n"));
        assert!(!bpffs("none /sys/fs/bpf tmpfs rw 0 0\nbpf /mnt bpf rw 0 0\n"));
    }
}
