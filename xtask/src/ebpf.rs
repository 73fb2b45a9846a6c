//! `cargo xtask build-ebpf`: the BPF programs' ELF files.
//!
//! In: package `fairlead-ebpf` and a toolchain that fits. Out: `target/bpf/<bin>.bpf.o`, of which the agent
//! embeds one, and `<bin>-log.bpf.o`, which logs, for debugging. They are replaced only when their bytes change, so that nothing is built again needlessly. The same source
//! gives the same bytes wherever the clone is: every absolute path is mapped to a fixed word. Uses a cargo
//! target folder of its own, because another compiler fills it.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::output::Output;
use crate::process;
use crate::toolchain::{Compiler, Linker, isolate};
use crate::workspace::{Workspace, cargo_home};

const TARGET: &str = "bpfel-unknown-none";

/// One ELF file that was built.
#[derive(Debug)]
struct Elf {
    /// Where the agent finds it.
    file: PathBuf,
    /// SHA-256 of its bytes, hexadecimal.
    sha256: String,
    /// Whether its bytes differ from what was there before.
    changed: bool,
}

/// Builds, and says what was built.
pub(crate) fn build_and_tell(
    workspace: &Workspace,
    tools: &(Compiler, Linker),
    output: Output,
) -> Result<()> {
    let (compiler, linker) = tools;
    for elf in build(workspace, compiler, linker)? {
        let note = if elf.changed { "" } else { "  (unchanged)" };
        output.say(&format!("{}  {}{note}", elf.sha256, short(&elf.file)));
    }
    Ok(())
}

/// A way to build the BPF package.
struct Variant {
    /// Behind the binary's name in the file's.
    suffix: &'static str,
    /// Arguments of cargo.
    arguments: &'static [&'static str],
}

const VARIANTS: &[Variant] = &[
    Variant { suffix: "", arguments: &[] },
    Variant { suffix: "-log", arguments: &["--bin", "fairlead", "--features", "log"] },
];

/// Builds every binary of the BPF package, in every variant.
fn build(workspace: &Workspace, compiler: &Compiler, linker: &Linker) -> Result<Vec<Elf>> {
    let mut elves = Vec::new();
    for variant in VARIANTS {
        elves.extend(build_variant(workspace, (compiler, linker), variant)?);
    }
    Ok(elves)
}

fn build_variant(
    workspace: &Workspace,
    (compiler, linker): (&Compiler, &Linker),
    variant: &Variant,
) -> Result<Vec<Elf>> {
    let mut command = cargo(workspace, compiler, linker)?;
    command.args(["build", "--package", "fairlead-ebpf", "--release", "--target", TARGET]);
    command.args(["-Z", "build-std=core", "--message-format", "json-render-diagnostics"]);
    command.args(variant.arguments);
    let mut built = Vec::new();
    let status = process::lines(&mut command, |line| built.extend(executable(line)))?;
    if !status.success() {
        bail!("the BPF programs don't build ({}); see above", process::ending(status));
    }
    if built.is_empty() {
        bail!("package fairlead-ebpf has no binary: nothing was built");
    }
    let folder = workspace.elves();
    fs::create_dir_all(&folder).with_context(|| format!("can't make {}", folder.display()))?;
    built.iter().map(|file| install(file, &folder, variant.suffix)).collect()
}

/// The cargo of `compiler`, set up for BPF and shut off from the outer toolchain.
fn cargo(workspace: &Workspace, compiler: &Compiler, linker: &Linker) -> Result<Command> {
    let mut command = Command::new(compiler.bin.join("cargo"));
    isolate(&mut command);
    command
        .current_dir(&workspace.root)
        .env("CARGO_TARGET_DIR", workspace.bpf_target())
        .env("RUSTC", compiler.bin.join("rustc"))
        // `-Z` needs it unless the compiler is a nightly.
        .env("RUSTC_BOOTSTRAP", "1")
        // Not among the flags: cargo mixes those, with the path that this is, into the names of symbols.
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &linker.path)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(workspace, compiler)?)
        // One unit: how functions are spread over several may differ from build to build.
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_INCREMENTAL", "false");
    Ok(command)
}

/// Compiler flags, separated as `CARGO_ENCODED_RUSTFLAGS` wants them, so that paths may hold spaces.
fn rustflags(workspace: &Workspace, compiler: &Compiler) -> Result<OsString> {
    let mut flags: Vec<OsString> = Vec::new();
    let mut option = |value: OsString| flags.extend([OsString::from("-C"), value]);
    option("link-arg=--btf".into());
    // 32-bit arithmetic and jumps (kernel 5.1).
    option("target-cpu=v3".into());
    // BTF is made from debug information.
    option("debuginfo=2".into());
    let mut remap = |from: &Path, to: &str| {
        // The compiler is given the path as it is written here, and asks the system for the real one.
        let real = from.canonicalize().unwrap_or_else(|_| from.to_owned());
        for from in [from, &real] {
            flags.push("--remap-path-prefix".into());
            flags.push([from.as_os_str(), "=".as_ref(), to.as_ref()].into_iter().collect());
        }
    };
    // The last mapping that fits wins, so folders come before those that may lie in them.
    remap(&workspace.root, "fairlead");
    remap(&workspace.bpf_target(), "target");
    remap(&cargo_home()?, "cargo");
    remap(&cargo_home()?.join("registry"), "cargo/registry");
    if let Some(source) = &compiler.source {
        remap(source, "rust");
    }
    Ok(flags.join("\u{1f}".as_ref()))
}

/// The executable that a line of cargo's JSON names, if it names one.
fn executable(line: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    if message["reason"] != "compiler-artifact" {
        return None;
    }
    Some(PathBuf::from(message["executable"].as_str()?))
}

/// Puts a built file where the agent looks, in one step, and only if its bytes are new.
fn install(built: &Path, folder: &Path, suffix: &str) -> Result<Elf> {
    let name = built.file_name().context("cargo named an executable without a name")?.to_string_lossy();
    let name = format!("{name}{suffix}");
    let file = folder.join(format!("{name}.bpf.o"));
    let bytes = fs::read(built).with_context(|| format!("can't read {}", built.display()))?;
    let changed = fs::read(&file).ok().as_ref() != Some(&bytes);
    if changed {
        let partial = folder.join(format!(".{name}.{}.partial", std::process::id()));
        fs::write(&partial, &bytes).with_context(|| format!("can't write {}", partial.display()))?;
        fs::rename(&partial, &file).with_context(|| format!("can't write {}", file.display()))?;
    }
    Ok(Elf { sha256: sha256(&file)?, file, changed })
}

fn sha256(file: &Path) -> Result<String> {
    let text = process::probe(Command::new("sha256sum").arg("--").arg(file))?;
    let text = text.with_context(|| format!("sha256sum failed on {}", file.display()))?;
    Ok(text.trim_start_matches('\\').split_whitespace().next().unwrap_or_default().to_owned())
}

/// A path as short as it can be shown: relative to the current folder where it is below it.
fn short(path: &Path) -> String {
    let here = env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_names_executables_among_other_things() {
        let line = r#"{"reason":"compiler-artifact","executable":"/t/fairlead"}"#;
        assert_eq!(executable(line), Some(PathBuf::from("/t/fairlead")));
        assert_eq!(executable(r#"{"reason":"compiler-artifact","executable":null}"#), None);
        assert_eq!(executable(r#"{"reason":"build-finished","success":true}"#), None);
        assert_eq!(executable("warning: x"), None);
    }

    #[test]
    fn a_file_with_the_same_bytes_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let built = folder.path().join("fairlead");
        fs::write(&built, b"abc").unwrap();
        let first = install(&built, folder.path(), "").unwrap();
        assert!(first.changed);
        assert_eq!(first.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let written = first.file.metadata().unwrap().modified().unwrap();
        let second = install(&built, folder.path(), "").unwrap();
        assert!(!second.changed);
        assert_eq!(second.file.metadata().unwrap().modified().unwrap(), written);
        fs::write(&built, b"abcd").unwrap();
        assert!(install(&built, folder.path(), "").unwrap().changed);
        assert_eq!(fs::read(&first.file).unwrap(), b"abcd");
    }

    #[test]
    fn no_absolute_path_of_this_machine_is_left_unmapped() {
        let workspace = Workspace { root: "/home/a b".into(), target: "/home/a b/target".into() };
        let compiler = Compiler {
            origin: "Debian",
            bin: "/usr/bin".into(),
            release: "1.96.0".into(),
            llvm: 22,
            source: Some("/no/such/src".into()),
        };
        let flags = rustflags(&workspace, &compiler).unwrap().into_string().unwrap();
        let flags: Vec<&str> = flags.split('\u{1f}').collect();
        assert!(flags.contains(&"link-arg=--btf"));
        assert!(flags.contains(&"/home/a b=fairlead"));
        assert!(flags.contains(&"/home/a b/target/bpf/cargo=target"));
        assert!(flags.contains(&"/no/such/src=rust"));
    }
}
