//! Where maps and links are pinned: `<bpffs>/fairlead/<instance>/`, with the maps of each ABI in a folder of their own.

use std::{
    collections::BTreeSet,
    fmt,
    fs::{self, File},
    io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use aya::programs::links::{FdLink, PinnedLink};
use fairlead_abi::{ABI, FLOWS_LAYOUT, STEERING_LAYOUT, map};
use nix::fcntl::{Flock, FlockArg};

use super::{Error, Mode};

/// Where the BPF file system is mounted.
const BPFFS: &str = "/sys/fs/bpf";

/// Say in a folder of maps which layouts some of them have. Links that lead nowhere: bpffs has no files, and BTF of maps
/// is read by id, which an agent need not be allowed to.
const LAYOUTS: [(&str, &str); 2] = [OF_FLOWS, OF_STEERING];
const OF_FLOWS: (&str, &str) = ("FLOWS_LAYOUT", FLOWS_LAYOUT);
const OF_STEERING: (&str, &str) = ("STEERING_LAYOUT", STEERING_LAYOUT);

/// What the pinned tables of programs are called, of whatever version.
const PROGRAMS: &str = "programs-";
/// The same before the id of the program that goes on in one: the kernel tells by it whether a link needs the table.
const PROGRAMS_OF: &str = "programs-of-";
/// One whose program is not loaded yet.
const PROGRAMS_NEXT: &str = "programs-next";

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

    /// What that folder is called from the moment when links are switched to its maps, until they take the place of the
    /// others.
    pub(super) fn switched(&self) -> PathBuf {
        self.root.join(format!("v{ABI}-switched"))
    }

    /// Folders beside `folder` whose flows programs may be using, of whatever ABI: those with flows of this one's layout,
    /// and the others.
    pub(super) fn former_flows(&self, folder: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>), Error> {
        let mut names = self.entries()?;
        names.sort();
        let folders = names.iter().map(|name| self.root.join(name));
        let former = folders.filter(|path| path != folder && path.join(map::FLOWS).exists());
        Ok(former.partition(|path| has_layout(path, OF_FLOWS)))
    }

    /// The folder of the maps that packets are steered by beside the staged ones, if their layout is this agent's.
    pub(super) fn steering(&self) -> Result<Option<PathBuf>, Error> {
        let mut in_use = self.in_use()?;
        if in_use.contains(&self.switched()) {
            in_use.retain(|path| *path == self.switched());
        }
        in_use.retain(|path| has_layout(path, OF_STEERING));
        Ok(in_use.pop().filter(|_| in_use.is_empty()))
    }

    /// Folders of maps that packets may be steered by, of whatever ABI: none where nothing is attached.
    pub(super) fn in_use(&self) -> Result<Vec<PathBuf>, Error> {
        if self.links()?.is_empty() {
            return Ok(Vec::new());
        }
        let folders = self.entries()?.into_iter().map(|name| self.root.join(name));
        Ok(folders.filter(|path| path.is_dir() && *path != self.staging()).collect())
    }

    /// Where a link is pinned.
    pub(super) fn link(&self, link: &LinkPin) -> PathBuf {
        self.root.join(link.to_string())
    }

    /// The links that are pinned.
    pub(super) fn links(&self) -> Result<Vec<LinkPin>, Error> {
        Ok(self.entries()?.iter().filter_map(|name| LinkPin::parse(name)).collect())
    }

    /// The interfaces that programs are attached to.
    pub fn interfaces(&self) -> Result<BTreeSet<String>, Error> {
        Ok(self.links()?.into_iter().map(|link| link.interface.replace('%', ".")).collect())
    }

    /// Where the table of programs is pinned while they are loaded.
    pub(super) fn next_programs(&self) -> PathBuf {
        self.root.join(PROGRAMS_NEXT)
    }

    /// Where the table is pinned that the program of this id goes on in. Programs in use keep theirs until the links are
    /// on new ones.
    pub(super) fn programs_of(&self, id: u32) -> PathBuf {
        self.root.join(format!("{PROGRAMS_OF}{id}"))
    }

    /// Removes the tables of programs that are on no link: starts that failed leave them, each with a whole set of maps
    /// that its programs use.
    pub(super) fn remove_unused_programs(&self) -> Result<(), Error> {
        let mut used = BTreeSet::new();
        for link in self.links()? {
            let path = self.link(&link);
            let info = PinnedLink::from_pin(&path).and_then(|link| FdLink::from(link).info());
            let info = info.map_err(|error| Error::pin(&path)(io::Error::other(error)))?;
            used.insert(self.programs_of(info.program_id()));
        }
        for name in self.entries()? {
            let path = self.root.join(&name);
            if name == PROGRAMS_NEXT || (name.starts_with(PROGRAMS_OF) && !used.contains(&path)) {
                fs::remove_file(&path).map_err(Error::pin(&path))?;
            }
        }
        Ok(())
    }

    /// Names in the folder of all pins.
    fn entries(&self) -> Result<Vec<String>, Error> {
        let entries = match fs::read_dir(&self.root).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            entries => entries.map_err(Error::pin(&self.root))?,
        };
        Ok(entries.into_iter().filter_map(|entry| entry.file_name().into_string().ok()).collect())
    }

    /// Takes the instance and the agent's state directory, or says that another agent has one of them.
    pub fn lock(&self, state: &Path) -> Result<Lock, Error> {
        make_folder(&self.root).map_err(|error| Error::pin(&self.root)(with_hint(error)))?;
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

    /// Removes what no program in use needs: the maps of every other ABI, what was left half built, and tables of
    /// programs other than the one at `programs`.
    pub(super) fn remove_others(&self, programs: &Path) -> Result<(), Error> {
        let maps = self.maps();
        for name in self.entries()? {
            let path = self.root.join(&name);
            if path.is_dir() && path != maps {
                remove(&path)?;
            } else if name.starts_with(PROGRAMS) && path != programs {
                fs::remove_file(&path).map_err(Error::pin(&path))?;
            }
        }
        Ok(())
    }

    /// Removes every pin: programs are detached, maps are gone. With the last instance goes the folder of all.
    pub fn remove(&self) -> Result<(), Error> {
        remove(&self.root)?;
        let _others_are_there = self.root.parent().map(fs::remove_dir);
        Ok(())
    }
}

/// A pinned link's name: it says what the link can't be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LinkPin {
    interface: String,
    program: String,
    ifindex: u32,
    mode: Mode,
}

impl LinkPin {
    /// Of a program on an interface, as the device that it is now.
    pub(super) fn new(interface: &str, program: &str, ifindex: u32, mode: Mode) -> Self {
        // bpffs allows no dots in names.
        Self { interface: interface.replace('.', "%"), program: program.to_owned(), ifindex, mode }
    }

    /// Whether it is on this interface, or on a device that had its name.
    pub(super) fn is_on(&self, interface: &str) -> bool {
        self.interface == interface.replace('.', "%")
    }

    fn parse(name: &str) -> Option<Self> {
        let mut fields = name.strip_prefix("link-")?.rsplitn(4, '-');
        let mode = fields.next()?;
        let mode = [Mode::Native, Mode::Generic].into_iter().find(|known| known.name() == mode)?;
        let ifindex = fields.next()?.parse().ok()?;
        let [program, interface] = [fields.next()?.to_owned(), fields.next()?.to_owned()];
        Some(Self { interface, program, ifindex, mode })
    }
}

impl fmt::Display for LinkPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "link-{}-{}-{}-{}", self.interface, self.program, self.ifindex, self.mode.name())
    }
}

/// Notes in a folder of this ABI's maps which layouts they have.
pub(super) fn record_layouts(folder: &Path) -> Result<(), Error> {
    for (name, layout) in LAYOUTS {
        let path = folder.join(name);
        match symlink(layout, &path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::pin(&path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn has_layout(folder: &Path, (name, layout): (&str, &str)) -> bool {
    fs::read_link(folder.join(name)).is_ok_and(|found| found.as_os_str() == layout)
}

/// Makes a folder, also while others come and go in the one around it, which goes with the last.
pub fn make_folder(path: &Path) -> io::Result<()> {
    for _ in 0..100 {
        match fs::create_dir_all(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            made => return made,
        }
    }
    fs::create_dir_all(path)
}

/// A folder that can't be made in /sys/fs/bpf, though /sys/fs/bpf is there: nothing but bpffs is made to hold folders.
fn with_hint(error: io::Error) -> io::Error {
    if error.kind() != io::ErrorKind::NotFound {
        return error;
    }
    let hint = "is bpffs mounted there? `ip netns exec` hides it, `nsenter --net=/run/netns/NAME` doesn't";
    io::Error::new(error.kind(), format!("{error}; {hint}"))
}

/// Removes a folder of pins, if it is there.
pub(super) fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::pin(path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_can_not_be_made_without_bpffs_says_so() {
        let hinted = with_hint(io::Error::from_raw_os_error(nix::libc::ENOENT)).to_string();
        assert!(hinted.starts_with("No such file or directory (os error 2); is bpffs mounted"), "{hinted}");
        let other = with_hint(io::Error::from_raw_os_error(nix::libc::EPERM));
        assert_eq!(other.to_string(), "Operation not permitted (os error 1)");
    }

    #[test]
    fn names_of_links_are_read_as_they_are_written() {
        for interface in ["eth0", "eth0.100", "veth-a-ingress-1-native"] {
            for mode in [Mode::Native, Mode::Generic] {
                let link = LinkPin::new(interface, "ingress", 12, mode);
                assert_eq!(LinkPin::parse(&link.to_string()).as_ref(), Some(&link));
                assert!(link.is_on(interface) && !link.is_on("veth"));
                assert!(!link.to_string().contains('.'), "{link}");
            }
        }
        assert_eq!(LinkPin::new("eth0", "egress", 3, Mode::Native).to_string(), "link-eth0-egress-3-native");
        for name in [
            "v1",
            "programs-1",
            "link-eth0-ingress",
            "link-eth0-ingress-x-native",
            "link-eth0-ingress-1-hardware",
        ] {
            assert_eq!(LinkPin::parse(name), None, "{name}");
        }
    }
}
