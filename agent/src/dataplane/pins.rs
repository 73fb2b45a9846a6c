//! Where maps and links are pinned: `<bpffs>/fairlead/<instance>/`, with the maps of each ABI in a folder of their own.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use fairlead_abi::ABI;
use nix::fcntl::{Flock, FlockArg};

use super::Error;

/// Where the BPF file system is mounted.
const BPFFS: &str = "/sys/fs/bpf";

/// The pins of one agent.
#[derive(Clone, Debug)]
pub struct Instance {
    name: String,
    root: PathBuf,
}

/// Held by the agent that runs an instance: its pins and its state directory are this one's only.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "a lock lives as long as its file is open")] [Flock<File>; 2]);

impl Instance {
    /// The pins of the instance `name`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), root: Path::new(BPFFS).join("fairlead").join(name) }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder of all its pins.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of the maps of this agent's ABI.
    #[must_use]
    pub fn maps(&self) -> PathBuf {
        self.root.join(format!("v{ABI}"))
    }

    /// The folder where a new set of maps is built beside one in use.
    pub(super) fn staging(&self) -> PathBuf {
        self.root.join(format!("v{ABI}-next"))
    }

    /// Where the link of `program` on `interface` is pinned. bpffs allows no dots in names.
    pub(super) fn link(&self, interface: &str, program: &str) -> PathBuf {
        self.root.join(format!("link-{}-{program}", interface.replace('.', "_")))
    }

    /// Takes the instance and the agent's state directory, or says that another agent has one of them.
    pub fn lock(&self, state: &Path) -> Result<Lock, Error> {
        fs::create_dir_all(&self.root).map_err(Error::pin(&self.root))?;
        fs::create_dir_all(state).map_err(Error::pin(state))?;
        let file = state.join("lock");
        let opened = File::create(&file).map_err(Error::pin(&file))?;
        let pins = File::open(&self.root).map_err(Error::pin(&self.root))?;
        Ok(Lock([self.take(pins, &self.root)?, self.take(opened, &file)?]))
    }

    fn take(&self, file: File, path: &Path) -> Result<Flock<File>, Error> {
        Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            nix::Error::EWOULDBLOCK => {
                Error::Locked { instance: self.name.clone(), lock: path.display().to_string() }
            }
            errno => Error::Pin { path: path.to_owned(), source: errno.into() },
        })
    }

    /// Removes the maps of every other ABI, and what was left half built.
    pub(super) fn remove_others(&self) -> Result<(), Error> {
        let keep = self.maps();
        for entry in fs::read_dir(&self.root).map_err(Error::pin(&self.root))? {
            let path = entry.map_err(Error::pin(&self.root))?.path();
            if path.is_dir() && path != keep {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Removes every pin: programs are detached, maps are gone.
    pub fn remove(&self) -> Result<(), Error> {
        remove(&self.root)
    }
}

/// Removes a folder of pins, if it is there.
pub(super) fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::pin(path)(error)),
        _ => Ok(()),
    }
}
