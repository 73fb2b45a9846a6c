//! Doing what `needs` found to be missing.
//!
//! In: remedies. Out: a changed machine, every step said on standard error; or, without root, the command that a
//! person has to run as root. What cargo builds lies in cargo's folder of the user, never in the workspace.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::needs::{Package, Remedy, Tool};
use crate::workspace::{Workspace, cargo_home};
use crate::{go, process, testplane};

const BPFFS: &str = "mount -t bpf bpf /sys/fs/bpf";
const INSTALL: &str = "apt-get install -y --no-install-recommends";

/// The one command line that does, as root, everything of `remedies` that only root may do; `None` if that is
/// nothing.
pub(crate) fn as_root(remedies: &[Remedy], sudo: bool) -> Option<String> {
    let packages = packages(remedies);
    let mut steps = Vec::new();
    if !packages.is_empty() {
        let names: Vec<&str> = packages.iter().map(|package| package.name).collect();
        steps.push("apt-get update".to_owned());
        steps.push(format!("{INSTALL} {}", names.join(" ")));
        for service in packages.iter().filter_map(|package| package.service) {
            // Where no init system runs, nothing was started either.
            steps.push(format!("(service {service} stop; update-rc.d {service} disable; true)"));
        }
    }
    if remedies.contains(&Remedy::Mount) {
        steps.push(BPFFS.to_owned());
    }
    if steps.is_empty() {
        return None;
    }
    let steps = steps.join(" && ");
    Some(if sudo { format!("sudo sh -c '{steps}'") } else { steps })
}

/// Does everything of `remedies` that this user may do. Tools come last: building one may need packages, so without
/// root they are left alone while packages are missing.
pub(crate) fn apply(workspace: &Workspace, remedies: &[Remedy], root: bool) -> Result<()> {
    let packages = packages(remedies);
    if root {
        if !packages.is_empty() {
            install_packages(&packages)?;
        }
        if remedies.contains(&Remedy::Mount) {
            step("mounting the BPF file system at /sys/fs/bpf");
            process::run(Command::new("mount").args(["-t", "bpf", "bpf", "/sys/fs/bpf"]))?;
        }
    }
    if remedies.contains(&Remedy::Components) {
        step("adding rustfmt and clippy to the pinned toolchain");
        let mut rustup = Command::new("rustup");
        process::run(rustup.current_dir(&workspace.root).args(["component", "add", "rustfmt", "clippy"]))?;
    }
    for remedy in remedies {
        match remedy {
            Remedy::Tool(tool) if root || tool.arguments.is_empty() || packages.is_empty() => {
                install_tool(workspace, tool)?;
            }
            Remedy::Testplane => build_control_planes(workspace)?,
            Remedy::Tool(_) | Remedy::Package(_) | Remedy::Components | Remedy::Mount => {}
        }
    }
    Ok(())
}

fn packages(remedies: &[Remedy]) -> Vec<&'static Package> {
    let packages = remedies.iter().filter_map(|remedy| match remedy {
        Remedy::Package(package) => Some(*package),
        Remedy::Tool(_) | Remedy::Components | Remedy::Mount | Remedy::Testplane => None,
    });
    packages.collect()
}

fn install_packages(packages: &[&Package]) -> Result<()> {
    let names: Vec<&str> = packages.iter().map(|package| package.name).collect();
    step(&format!("installing Debian packages: {}", names.join(" ")));
    if !apt_has_lists() {
        process::run(apt().arg("update"))?;
    }
    let outcome = install(&names);
    // Also after a failure or Ctrl-C: a service may have been started by then.
    let stopped = stop_services(packages);
    outcome.and(stopped)
}

fn install(names: &[&str]) -> Result<()> {
    let install = || process::status(apt().args(["install", "-y", "--no-install-recommends"]).args(names));
    if install()?.success() {
        return Ok(());
    }
    step("once more, with fresh package lists");
    process::run(apt().arg("update"))?;
    if !install()?.success() {
        bail!("apt-get could not install {}; its words are above", names.join(" "));
    }
    Ok(())
}

fn stop_services(packages: &[&Package]) -> Result<()> {
    for service in packages.iter().filter_map(|package| package.service) {
        step(&format!("stopping the service {service}, which Debian starts with its package"));
        // Where no init system runs, nothing was started either: these may fail.
        process::status(Command::new("service").args([service, "stop"]))?;
        process::status(Command::new("update-rc.d").args([service, "disable"]))?;
    }
    Ok(())
}

/// apt-get that asks nothing, waits for another one to finish, and doesn't take over the terminal.
fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command.args(["-o", "DPkg::Lock::Timeout=120", "-o", "Dpkg::Use-Pty=0", "-q"]);
    command
}

fn apt_has_lists() -> bool {
    let Ok(entries) = fs::read_dir("/var/lib/apt/lists") else { return false };
    entries.filter_map(Result::ok).any(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
}

/// Builds a tool in cargo's folder of the user. What an interrupted build leaves there shortens the next one.
fn install_tool(workspace: &Workspace, tool: &Tool) -> Result<()> {
    step(&format!("building {} {} ({}; once per user)", tool.name, tool.version, tool.takes));
    let folder = cargo_home()?.join("fairlead-setup").join(tool.name);
    let mut command = workspace.cargo();
    command.args(["install", tool.name, "--version", tool.version, "--locked", "--force"]);
    command.args(tool.arguments).envs(tool.environment.iter().copied());
    process::run(command.env("CARGO_TARGET_DIR", &folder))?;
    fs::remove_dir_all(&folder).with_context(|| format!("can't remove {}", folder.display()))?;
    // The parent only if it is empty by now.
    let _other_tool_there = folder.parent().map(fs::remove_dir);
    Ok(())
}

/// Builds what the tests' control planes are started from. Left alone where Go's package could not be installed.
fn build_control_planes(workspace: &Workspace) -> Result<()> {
    let Some(go) = go::installed()? else { return Ok(()) };
    step("building Kubernetes' control planes for the tests (5 to 6 minutes from nothing; once per user)");
    testplane::build(workspace, go)
}

fn step(what: &str) {
    eprintln!("setup: {what}");
}

#[cfg(test)]
mod tests {
    use super::*;

    const NGINX: Package = Package { name: "nginx", brings: "nginx", why: "x", service: Some("nginx") };
    const ETHTOOL: Package = Package { name: "ethtool", brings: "ethtool", why: "x", service: None };

    #[test]
    fn what_root_must_do_is_one_line() {
        let remedies =
            [Remedy::Package(&NGINX), Remedy::Package(&ETHTOOL), Remedy::Mount, Remedy::Components];
        assert_eq!(
            as_root(&remedies, false).unwrap(),
            "apt-get update && apt-get install -y --no-install-recommends nginx ethtool && \
             (service nginx stop; update-rc.d nginx disable; true) && mount -t bpf bpf /sys/fs/bpf"
        );
        assert_eq!(as_root(&[Remedy::Mount], true).unwrap(), "sudo sh -c 'mount -t bpf bpf /sys/fs/bpf'");
        assert_eq!(as_root(&[Remedy::Components], true), None);
    }
}
