//! XDP programs that the world itself needs on its links.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use aya::EbpfLoader;
use aya::programs::Xdp;
use fairlead::dataplane::make_folder;

use super::footprint::{PINS, remove_directory};

/// The BPF programs: from the file that `FAIRLEAD_BPF_ELF` names, or where `cargo xtask build-ebpf` puts them.
pub fn bpf_elf() -> Result<Vec<u8>> {
    let file = built_elf();
    fs::read(&file)
        .with_context(|| format!("no BPF programs in {}: run `cargo xtask build-ebpf`", file.display()))
}

/// The file of other BPF programs of the same ABI, those that log, which stands beside [`bpf_elf`]'s.
pub fn other_elf() -> Result<PathBuf> {
    let file = built_elf().with_file_name("fairlead-log.bpf.o");
    if !file.is_file() {
        bail!("no BPF programs that log in {}: run `cargo xtask build-ebpf`", file.display());
    }
    Ok(file)
}

fn built_elf() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/fairlead.bpf.o");
    std::env::var_os("FAIRLEAD_BPF_ELF").map_or(built, PathBuf::from)
}

/// A program that is pinned until this is dropped, for the moment between loading and attaching: what it was attached to
/// keeps it. It stands where the world's removal finds it.
pub(super) struct Pinned {
    folder: PathBuf,
}

impl Pinned {
    /// Loads one program of an ELF; `name` begins with the world's id. Its maps are made as small as they can be: this program uses none.
    pub(super) fn load(elf: &[u8], program: &str, name: &str) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        for map in fairlead_abi::map::ALL {
            loader.map_max_entries(map, 1);
        }
        let mut loaded = loader.load(elf).context("load the BPF ELF")?;
        let program: &mut Xdp = loaded
            .program_mut(program)
            .with_context(|| format!("no program {program} in the ELF"))?
            .try_into()?;
        program.load()?;
        let pinned = Self { folder: Path::new(PINS).join(name) };
        let why = || format!("pin {}; is bpffs mounted?", pinned.path().display());
        make_folder(&pinned.folder).with_context(why)?;
        program.pin(pinned.path()).with_context(why)?;
        Ok(pinned)
    }

    pub(super) fn path(&self) -> PathBuf {
        self.folder.join("program")
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // Somebody else's removal is as good.
        let _ = remove_directory(&self.folder);
    }
}
