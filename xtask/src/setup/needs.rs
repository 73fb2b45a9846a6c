//! What fairlead's commands need of a machine, as tables with a reason for each entry, and what is to be done
//! about what is missing.
//!
//! In: [`Facts`]. Out: rows for people, each met or with its remedy. Pure.

use super::facts::Facts;
use crate::go::{self, Go};
use crate::testplane::{self, Assets};
use crate::toolchain::{self, Compiler, OLDEST_RUST};

/// A Debian package, and how its presence is seen.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Package {
    /// The package's name.
    pub(crate) name: &'static str,
    /// A program in PATH, or a file, that only it brings.
    pub(crate) brings: &'static str,
    /// What for.
    pub(crate) why: &'static str,
    /// The service that Debian starts when it installs the package, which nothing here wants.
    pub(crate) service: Option<&'static str>,
}

/// A program that `cargo install` builds, at a version that is known to build with the pinned Rust.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Tool {
    /// The crate, and the program in it.
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    /// More arguments of `cargo install`.
    pub(crate) arguments: &'static [&'static str],
    pub(crate) environment: &'static [(&'static str, &'static str)],
    /// How long that takes, for people who wait.
    pub(crate) takes: &'static str,
}

const fn package(name: &'static str, brings: &'static str, why: &'static str) -> Package {
    Package { name, brings, why, service: None }
}

/// Debian's current rustc, which it keeps up to date for building browsers, with the source of `core`.
const COMPILER: &[Package] = &[
    package("rustc-web", "/usr/bin/rustc", "compiles the BPF programs"),
    package("cargo-web", "/usr/bin/cargo", "compiles the BPF programs"),
    package("rust-web-src", "/usr/lib/rustlib/src/rust/library/Cargo.lock", "`core` for the BPF target"),
];

/// The LLVM that bpf-linker is built with; not older than that of [`COMPILER`].
const LLVM: u32 = 22;
const LLVM_PACKAGES: &[Package] = &[
    package("llvm-22-dev", "/usr/lib/llvm-22/bin/llvm-config", "to build bpf-linker"),
    package("libpolly-22-dev", "/usr/lib/llvm-22/lib/libPolly.a", "to build bpf-linker"),
];

const LINKER: Tool = Tool {
    name: "bpf-linker",
    version: "0.13.0",
    arguments: &["--no-default-features", "--features", "llvm-22"],
    environment: &[("LLVM_PREFIX", "/usr/lib/llvm-22")],
    takes: "1 to 3 minutes",
};

const DENY: Tool =
    Tool { name: "cargo-deny", version: "0.20.2", arguments: &[], environment: &[], takes: "2 to 6 minutes" };
/// The oldest cargo-deny that reads deny.toml as it is written.
const OLDEST_DENY: (u32, u32) = (0, 18);

/// What the world and the demo run.
const WORLD: &[Package] = &[
    Package {
        name: "nginx",
        brings: "nginx",
        why: "the servers in the pods of the world and the demo",
        service: Some("nginx"),
    },
    package("iproute2", "ip", "makes the links, addresses and routes of the world"),
    package("curl", "curl", "asks the VIP in a demo that was kept"),
    package("bpftool", "bpftool", "dumps the pinned maps by name"),
    package("ethtool", "ethtool", "switches checksum offload of veth devices off"),
    package("nftables", "nft", "drops and counts packets in the world's routers"),
];

/// Builds the control planes of the tests, or fetches the Go that does.
const GO: Package = package("golang-go", "go", "builds the tests' control planes");

/// TCX came with this one.
const OLDEST_KERNEL: (u32, u32) = (6, 6);
const KERNEL_OPTIONS: &[&str] =
    &["BPF_SYSCALL", "BPF_JIT", "NET_XGRESS", "NET_NS", "VETH", "IPV6", "NF_TABLES"];
const CAPABILITIES: &[(&str, u32)] =
    &[("CAP_NET_ADMIN", 12), ("CAP_SYS_ADMIN", 21), ("CAP_PERFMON", 38), ("CAP_BPF", 39)];

/// The other route to a BPF toolchain, which needs nobody's root.
const BY_RUSTUP: &str = "without Debian's packages: `rustup toolchain install nightly --profile minimal --component \
     rust-src`, and a bpf-linker whose LLVM is at least that rustc's \
     (`cargo binstall bpf-linker`, or https://github.com/aya-rs/bpf-linker/releases)";

/// What a command is going to do, which decides what it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Build the BPF programs.
    Bpf,
    /// Check format, lints and licences.
    Lints,
    /// Load programs into the kernel, and make network namespaces.
    World,
    /// Run real control planes of Kubernetes.
    Clusters,
}

/// One thing that is needed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// What.
    pub(crate) what: String,
    /// What was found.
    pub(crate) found: String,
    /// What for.
    pub(crate) why: &'static str,
    pub(crate) state: State,
}

/// Whether a need is met.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum State {
    Met,
    /// It can't be seen from here; nothing is done about it.
    Unknown,
    /// Setup can do this about it.
    Missing(Remedy),
    /// Only a person can do something about it.
    Lacking(String),
    /// Nothing to install: the command itself has to be run as root.
    AsRoot,
}

/// What setup does about a missing thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remedy {
    Package(&'static Package),
    Tool(&'static Tool),
    /// `rustup component add` for the pinned toolchain.
    Components,
    /// Mount the BPF file system.
    Mount,
    /// Build the programs of the tests' control planes.
    Testplane,
}

/// The programs and files that [`Facts::gather`] has to look for.
pub(crate) fn looked_for() -> impl Iterator<Item = &'static str> {
    let packages = COMPILER.iter().chain(LLVM_PACKAGES).chain(WORLD);
    packages.chain([&GO]).map(|package| package.brings).chain(["apt-get", "rustup", "sudo"])
}

/// What `purposes` need, and how this machine stands.
pub(crate) fn judge(facts: &Facts, purposes: &[Purpose]) -> Vec<Row> {
    let mut rows = Vec::new();
    if purposes.contains(&Purpose::Bpf) {
        rows.extend(bpf_toolchain(facts));
    }
    if purposes.contains(&Purpose::Lints) {
        rows.extend([components(facts), deny(facts)]);
    }
    if purposes.contains(&Purpose::World) {
        rows.extend(WORLD.iter().map(|package| installed(facts, package)));
        rows.extend([
            bpffs(facts),
            kernel(facts),
            kernel_types(facts),
            kernel_options(facts),
            capabilities(facts),
        ]);
    }
    if purposes.contains(&Purpose::Clusters) {
        rows.extend(control_planes(facts));
    }
    rows
}

/// A compiler, the linker, and what the linker is built from where it has to be built.
fn bpf_toolchain(facts: &Facts) -> Vec<Row> {
    const COMPILES: &str = "compiles the BPF programs";
    const LINKS: &str = "links the BPF programs";
    let linker_found = || match &facts.linker {
        None => "none".to_owned(),
        Some(linker) => {
            let llvm = linker.llvm.map_or("unknown".to_owned(), |llvm| llvm.to_string());
            format!("{}, LLVM {llvm}", linker.release)
        }
    };
    let chosen = toolchain::choose(&facts.compilers, facts.linker.as_ref());
    let buildable = facts.compilers.iter().find(|compiler| compiler.complete() && compiler.llvm <= LLVM);
    let mut rows = Vec::new();
    match chosen.or(buildable) {
        Some(compiler) => rows.push(row("BPF compiler", told(compiler), COMPILES, State::Met)),
        None if facts.present.contains("apt-get") => {
            rows.extend(COMPILER.iter().filter_map(|package| missing(facts, package)));
            if rows.is_empty() {
                // Debian's packages are there but too old.
                let found = facts.compilers.first().map_or("none".to_owned(), told);
                rows.push(row("BPF compiler", found, COMPILES, State::Lacking(BY_RUSTUP.to_owned())));
            }
        }
        None => {
            let found = facts.compilers.first().map_or("none".to_owned(), told);
            rows.push(row("BPF compiler", found, COMPILES, State::Lacking(BY_RUSTUP.to_owned())));
        }
    }
    let enough = facts.linker.as_ref().is_some_and(|linker| linker.llvm >= Some(LLVM));
    let linker = if chosen.is_some() || (buildable.is_none() && enough) {
        State::Met
    } else if facts.present.contains("apt-get")
        || LLVM_PACKAGES.iter().all(|p| facts.present.contains(p.brings))
    {
        rows.extend(LLVM_PACKAGES.iter().filter_map(|package| missing(facts, package)));
        State::Missing(Remedy::Tool(&LINKER))
    } else {
        State::Lacking(BY_RUSTUP.to_owned())
    };
    rows.push(row("bpf-linker", linker_found(), LINKS, linker));
    rows
}

fn told(compiler: &Compiler) -> String {
    let source = if compiler.source.is_some() { "" } else { ", without the source of core" };
    format!("{} {}, LLVM {}{source}", compiler.origin, compiler.release, compiler.llvm)
}

fn row(what: &str, found: impl Into<String>, why: &'static str, state: State) -> Row {
    Row { what: what.to_owned(), found: found.into(), why, state }
}

fn installed(facts: &Facts, package: &'static Package) -> Row {
    missing(facts, package).unwrap_or_else(|| row(package.name, "installed", package.why, State::Met))
}

fn missing(facts: &Facts, package: &'static Package) -> Option<Row> {
    if facts.present.contains(package.brings) {
        return None;
    }
    let state = if facts.present.contains("apt-get") {
        State::Missing(Remedy::Package(package))
    } else {
        State::Lacking(format!("install what brings `{}` with this system's package manager", package.brings))
    };
    Some(row(package.name, "none", package.why, state))
}

fn components(facts: &Facts) -> Row {
    const WHY: &str = "format and lints";
    match &facts.clippy {
        Some(version) => row("rustfmt and clippy", version, WHY, State::Met),
        None if facts.present.contains("rustup") => {
            row("rustfmt and clippy", "none", WHY, State::Missing(Remedy::Components))
        }
        None => {
            let (major, minor) = OLDEST_RUST;
            let advice =
                format!("install rustfmt and clippy of Rust {major}.{minor}, or rustup (https://rustup.rs)");
            row("rustfmt and clippy", "none", WHY, State::Lacking(advice))
        }
    }
}

fn deny(facts: &Facts) -> Row {
    const WHY: &str = "bans, licences, sources, advisories";
    let found = facts.deny.clone().unwrap_or_else(|| "none".to_owned());
    let enough = facts.deny.as_deref().and_then(numbers) >= Some(OLDEST_DENY);
    let state = if enough { State::Met } else { State::Missing(Remedy::Tool(&DENY)) };
    row("cargo-deny", found, WHY, state)
}

/// Their programs, and what they are built with where they have to be built.
fn control_planes(facts: &Facts) -> Vec<Row> {
    const WHAT: &str = "control planes";
    const WHY: &str = "real API servers for the tests";
    match &facts.assets {
        Assets::Given { folder, lacking } => {
            let (given, found) = (testplane::GIVEN, folder.display().to_string());
            let state = if lacking.is_empty() {
                State::Met
            } else {
                let lacking = lacking.join(", ");
                State::Lacking(format!(
                    "{given}: {found} holds no {lacking}: put there what is missing, or unset {given}, and setup builds it"
                ))
            };
            vec![row(WHAT, found, WHY, state)]
        }
        Assets::Own { kubernetes, built: true, .. } => {
            vec![row(WHAT, format!("Kubernetes {kubernetes}"), WHY, State::Met)]
        }
        Assets::Own { built: false, .. } => {
            let go = facts.go.as_ref().map(|go| row("Go", go_told(go), GO.why, State::Met));
            let mut rows: Vec<Row> = go.or_else(|| missing(facts, &GO)).into_iter().collect();
            rows.push(row(WHAT, "none", WHY, State::Missing(Remedy::Testplane)));
            rows
        }
    }
}

fn go_told(go: &Go) -> String {
    if go.fits() { go.release.clone() } else { format!("{}, fetches {}", go.release, go::RELEASE) }
}

fn bpffs(facts: &Facts) -> Row {
    const WHY: &str = "holds pinned programs and maps";
    if facts.bpffs {
        row("/sys/fs/bpf", "mounted", WHY, State::Met)
    } else {
        row("/sys/fs/bpf", "not mounted", WHY, State::Missing(Remedy::Mount))
    }
}

fn kernel(facts: &Facts) -> Row {
    let state = if numbers(&facts.kernel) >= Some(OLDEST_KERNEL) {
        State::Met
    } else {
        let (major, minor) = OLDEST_KERNEL;
        State::Lacking(format!(
            "boot Linux {major}.{minor} or newer (on Debian 12: add `deb http://deb.debian.org/debian bookworm-backports main` \
             to /etc/apt/sources.list, then `apt-get update && apt-get install -t bookworm-backports linux-image-amd64`)"
        ))
    };
    row("Linux 6.6 or newer", facts.kernel.clone(), "TCX, XDP with fragments", state)
}

fn kernel_types(facts: &Facts) -> Row {
    let (found, state) = if facts.kernel_types {
        ("/sys/kernel/btf/vmlinux", State::Met)
    } else {
        ("none", State::Lacking("boot a kernel built with CONFIG_DEBUG_INFO_BTF".to_owned()))
    };
    row("kernel types (BTF)", found, "maps with named fields", state)
}

fn kernel_options(facts: &Facts) -> Row {
    const WHAT: &str = "kernel options";
    const WHY: &str = "BPF, TCX, namespaces, veth, nftables";
    let Some(set) = &facts.kernel_options else {
        return row(WHAT, "not checked: no configuration to read", WHY, State::Unknown);
    };
    let missing: Vec<&str> = KERNEL_OPTIONS.iter().copied().filter(|option| !set.contains(*option)).collect();
    if missing.is_empty() {
        return row(WHAT, format!("all {}", KERNEL_OPTIONS.len()), WHY, State::Met);
    }
    let missing = missing.iter().map(|option| format!("CONFIG_{option}")).collect::<Vec<_>>().join(", ");
    row(
        WHAT,
        format!("without {missing}"),
        WHY,
        State::Lacking(format!("boot a kernel built with {missing}")),
    )
}

fn capabilities(facts: &Facts) -> Row {
    const WHAT: &str = "capabilities";
    const WHY: &str = "loads programs, makes network namespaces";
    let has = |bit: &u32| facts.capabilities & (1 << bit) != 0;
    let missing: Vec<&str> =
        CAPABILITIES.iter().filter(|(_, bit)| !has(bit)).map(|(name, _)| *name).collect();
    if missing.is_empty() {
        let all: Vec<&str> = CAPABILITIES.iter().map(|(name, _)| *name).collect();
        return row(WHAT, all.join(" "), WHY, State::Met);
    }
    let found = format!("without {}", missing.join(" "));
    let state = if facts.root {
        // A container whose root is less than root.
        State::Lacking(format!("give this container or user {}", missing.join(", ")))
    } else {
        State::AsRoot
    };
    row(WHAT, found, WHY, state)
}

/// Major and minor of a version such as `6.18.44-x`.
fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}
