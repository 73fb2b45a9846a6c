//! The toolchain that builds the BPF programs: a rustc that may use unstable options, the source of `core`,
//! and a bpf-linker whose LLVM reads what that rustc writes.
//!
//! In: what is installed (Debian's pair under /usr/bin, nightlies of rustup, bpf-linker). Out: the parts found,
//! and the set that fits together. Must not install anything: that is `setup`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::process;
use crate::workspace::{cargo_home, forget_outer_cargo, rustup_home};

/// The workspace's edition and the BPF crates need at least this.
pub(crate) const OLDEST_RUST: (u32, u32) = (1, 95);

/// A rustc with its own cargo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Compiler {
    /// Whose it is, for people: `Debian` or `rustup nightly`.
    pub(crate) origin: &'static str,
    /// The folder that holds `rustc` and `cargo`.
    pub(crate) bin: PathBuf,
    /// Such as `1.96.0`.
    pub(crate) release: String,
    /// Major version of its LLVM.
    pub(crate) llvm: u32,
    /// Where the source of `core` is, if it is there.
    pub(crate) source: Option<PathBuf>,
}

impl Compiler {
    /// Whether it can build the workspace's BPF programs, given a linker.
    pub(crate) fn complete(&self) -> bool {
        self.source.is_some() && version(&self.release) >= Some(OLDEST_RUST)
    }
}

/// An installed bpf-linker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Linker {
    /// The program.
    pub(crate) path: PathBuf,
    /// Such as `0.13.0`.
    pub(crate) release: String,
    /// Major version of its LLVM; `None` if the file doesn't say.
    pub(crate) llvm: Option<u32>,
}

impl Linker {
    /// LLVM reads bitcode of its own version and of older ones.
    pub(crate) fn reads(&self, compiler: &Compiler) -> bool {
        self.llvm.is_some_and(|llvm| llvm >= compiler.llvm)
    }
}

/// The compilers that are installed, complete or not, the preferred one first: Debian's is one version for
/// everybody, a nightly is another every day.
pub(crate) fn compilers() -> Result<Vec<Compiler>> {
    let mut found = Vec::new();
    found.extend(compiler("Debian", Path::new("/usr/bin"))?);
    let toolchains = rustup_home()?.join("toolchains");
    let mut nightlies: Vec<PathBuf> = match fs::read_dir(&toolchains) {
        Ok(entries) => entries.filter_map(Result::ok).map(|entry| entry.path()).collect(),
        Err(_) => Vec::new(), // no rustup, or nothing installed by it
    };
    nightlies
        .retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("nightly-")));
    // `nightly-x86_64-…` sorts behind the dated `nightly-2026-…`, and is the one that users keep up to date.
    nightlies.sort();
    for folder in nightlies.iter().rev() {
        found.extend(compiler("rustup nightly", &folder.join("bin"))?);
    }
    Ok(found)
}

/// The set to build with: the first complete compiler that the linker can read.
pub(crate) fn choose<'a>(compilers: &'a [Compiler], linker: Option<&Linker>) -> Option<&'a Compiler> {
    let linker = linker?;
    compilers.iter().find(|compiler| compiler.complete() && linker.reads(compiler))
}

/// The bpf-linker that PATH or cargo's folder holds.
pub(crate) fn linker() -> Result<Option<Linker>> {
    let Some(path) = installed_program("bpf-linker")? else { return Ok(None) };
    let Some(text) = process::probe(Command::new(&path).arg("--version"))? else { return Ok(None) };
    let release = text.split_whitespace().nth(1).unwrap_or("?").to_owned();
    let llvm = fs::read(&path).ok().and_then(|bytes| llvm_of(&bytes));
    Ok(Some(Linker { path, release, llvm }))
}

/// A program that `cargo install` puts where PATH may not look.
pub(crate) fn installed_program(name: &str) -> Result<Option<PathBuf>> {
    let in_cargo = cargo_home()?.join("bin").join(name);
    Ok(process::which(name).or_else(|| in_cargo.is_file().then_some(in_cargo)))
}

/// Takes from a child's environment everything of the outer toolchain and of the user's habits that would
/// change what is built.
pub(crate) fn isolate(command: &mut Command) {
    forget_outer_cargo(command);
    let prefixes = ["RUSTUP_", "CARGO_BUILD_", "CARGO_PROFILE_", "CARGO_TARGET_", "CARGO_UNSTABLE_"];
    let names = ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_INCREMENTAL", "LD_LIBRARY_PATH"];
    let wrappers = ["RUSTC", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUST_RECURSION_COUNT"];
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if names.contains(&&*text)
            || wrappers.contains(&&*text)
            || prefixes.iter().any(|prefix| text.starts_with(prefix))
        {
            command.env_remove(&name);
        }
    }
}

fn compiler(origin: &'static str, bin: &Path) -> Result<Option<Compiler>> {
    let rustc = bin.join("rustc");
    if !rustc.is_file() || !bin.join("cargo").is_file() {
        return Ok(None);
    }
    let mut command = Command::new(&rustc);
    isolate(&mut command);
    let Some(text) = process::probe(command.args(["-vV"]))? else { return Ok(None) };
    let Some((release, llvm)) = parse_verbose(&text) else { return Ok(None) };
    // Both kinds of installation put the sysroot one above `bin`.
    let source = bin.parent().map(|sysroot| sysroot.join("lib/rustlib/src/rust"));
    let source = source.filter(|source| source.join("library/Cargo.lock").is_file());
    Ok(Some(Compiler { origin, bin: bin.to_owned(), release, llvm, source }))
}

/// Release and LLVM's major version from `rustc -vV`.
fn parse_verbose(text: &str) -> Option<(String, u32)> {
    let field = |name| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let llvm = field("LLVM version:")?.split('.').next()?.parse().ok()?;
    Some((field("release:")?.to_owned(), llvm))
}

/// Major and minor of a version such as `1.97.0-nightly`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// The major version of the LLVM in a bpf-linker, which doesn't tell: from the name of the library that it is
/// linked to, or from the signature that a statically linked LLVM writes into bitcode (`LLVM22.1.4…`).
fn llvm_of(program: &[u8]) -> Option<u32> {
    [&b"libLLVM.so."[..], b"libLLVM-", b"\0LLVM"].iter().find_map(|mark| {
        let at = program.windows(mark.len()).enumerate().filter(|(_, bytes)| bytes == mark);
        at.map(|(at, _)| &program[at + mark.len()..]).find_map(number)
    })
}

/// The number that `bytes` begin with, if it is one of LLVM's versions and ends properly.
fn number(bytes: &[u8]) -> Option<u32> {
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let text = std::str::from_utf8(&bytes[..digits]).ok()?;
    let ends = matches!(bytes.get(digits), Some(b'.' | 0));
    text.parse().ok().filter(|number| ends && (10..100).contains(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiler(origin: &'static str, llvm: u32, complete: bool) -> Compiler {
        let source = complete.then(|| PathBuf::from("/src"));
        Compiler { origin, bin: PathBuf::from("/bin"), release: "1.96.0".into(), llvm, source }
    }

    fn linker(llvm: Option<u32>) -> Linker {
        Linker { path: PathBuf::from("/bpf-linker"), release: "0.13.0".into(), llvm }
    }

    #[test]
    fn rustc_tells_its_versions() {
        let text = "rustc 1.97.0-nightly (e50aa6fba)\nrelease: 1.97.0-nightly\nLLVM version: 22.1.4\n";
        assert_eq!(parse_verbose(text), Some(("1.97.0-nightly".into(), 22)));
        assert_eq!(parse_verbose("rustc 1.97.0"), None);
    }

    #[test]
    fn the_linkers_llvm_is_in_its_bytes() {
        assert_eq!(llvm_of(b"..libLLVM.so.22.1\0.."), Some(22));
        assert_eq!(llvm_of(b"..libLLVM-19.so\0"), Some(19));
        assert_eq!(llvm_of(b"..libLLVM-x\0..libLLVM-20.1.so\0"), Some(20));
        assert_eq!(llvm_of(b"\0LLVMContextCreate\0LLVM23.1.0-rust-1.98.0\0"), Some(23));
        assert_eq!(llvm_of(b"nothing"), None);
    }

    #[test]
    fn the_first_complete_compiler_that_the_linker_reads_is_chosen() {
        let all = [compiler("a", 22, false), compiler("b", 23, true), compiler("c", 22, true)];
        assert_eq!(choose(&all, Some(&linker(Some(22)))), Some(&all[2]));
        assert_eq!(choose(&all, Some(&linker(Some(23)))), Some(&all[1]));
        assert_eq!(choose(&all, Some(&linker(Some(21)))), None);
        assert_eq!(choose(&all, Some(&linker(None))), None);
        assert_eq!(choose(&all, None), None);
    }

    #[test]
    fn an_old_compiler_is_not_complete() {
        let mut old = compiler("a", 22, true);
        assert!(old.complete());
        old.release = "1.94.1".into();
        assert!(!old.complete());
    }
}
