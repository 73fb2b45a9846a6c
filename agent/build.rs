//! Finds the BPF programs that `cargo xtask build-ebpf` built, for the agent to embed.

use std::path::Path;

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let elf = root.join("target/bpf/fairlead.bpf.o");
    println!("cargo::rerun-if-changed={}", elf.display());
    if elf.exists() {
        println!("cargo::rustc-env=FAIRLEAD_BPF={}", elf.display());
    } else {
        println!("cargo::error=the BPF programs are not built yet: run `cargo xtask build-ebpf`");
    }
}
