//! Loads the programs and finds or makes the maps.
//!
//! Maps that are pinned with the shape that is wanted are used as they are. Where their sizes differ, or only
//! another ABI's are there, a new set is built beside them, filled, and taken into use when the links are
//! switched (see `attach`). Flows go along, in the table that they stand in or copied (see `carry`), and so does what slots
//! remember (see `copy`).

use std::{
    fs,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, MapData, ProgramArray},
    programs::{Program, ProgramError, ProgramInfo},
};
use fairlead_abi::{
    Backend, Bucket, CacheBucket, Cached, Hop, Roles, Settings, Slot, SocketOffsets, map, program,
};

use super::{
    Capacities, Error, Instance,
    attach::Linked,
    carry::{Carry, Taken},
    mapped::Mapped,
    pins,
    window::Windowed,
};

/// The ELF that `cargo xtask build-ebpf` made.
static ELF: &[u8] = aya::include_bytes_aligned!(env!("FAIRLEAD_BPF"));

/// Which programs to load.
#[derive(Clone, Debug, Default)]
pub enum Programs {
    /// Those that this agent was built with.
    #[default]
    Embedded,
    /// Those of an ELF file: others of the same ABI, such as those that log what they drop.
    File(PathBuf),
}

/// Programs and maps of one instance, loaded.
pub struct Dataplane {
    pub(super) instance: Instance,
    pub(super) ebpf: Ebpf,
    /// Where the table of programs that others go on in is pinned.
    pub(super) programs: PathBuf,
    pub(super) services: Mapped<Bucket>,
    pub(super) slots: Windowed<Slot>,
    pub(super) backends: Mapped<Backend>,
    pub(super) hops: Mapped<Hop>,
    /// The flow cache, until it is taken.
    pub(super) cache_buckets: Option<Mapped<CacheBucket>>,
    /// Beside the slots, until it is taken.
    pub(super) cache_marks: Option<Mapped<Cached>>,
    /// Of the backends: they need not be zeroed.
    pub(super) unused_counters: Unused,
    /// The maps stand beside others that are still in use.
    pub(super) staged: bool,
    /// Where packets go until these programs are attached.
    pub(super) linked: Linked,
    /// Programs in use, if there are others, find their probes where these do.
    shares_probes: bool,
    /// Flows of tables that are to be replaced.
    pub(super) carry: Option<Carry>,
    /// Why the programs look no sockets up, though that was wanted.
    blind: Option<String>,
}

impl Dataplane {
    /// Loads the programs with `settings`, on the instance's pinned maps or new ones of these capacities.
    pub fn load(
        instance: &Instance,
        programs: &Programs,
        settings: &Settings,
        capacities: &Capacities,
    ) -> Result<Self, Error> {
        let root = instance.root();
        pins::make_folder(root).map_err(Error::pin(root))?;
        // What was left half built holds nothing that programs in use need by its pin.
        pins::remove(&instance.staging())?;
        instance.remove_unused_programs()?;
        let current = instance.maps();
        let fresh = !current.exists() || !fits(&current, capacities);
        // Beside others until it serves, those of another ABI too: should this agent end before, the next one must not
        // take a set that no packet was steered by for the one in use.
        let is_attached = !instance.links()?.is_empty();
        let staged = fresh && (current.exists() || is_attached);
        let folder = if staged { instance.staging() } else { current };
        fs::create_dir_all(&folder).map_err(Error::pin(&folder))?;
        pins::record_layouts(&folder)?;
        if staged {
            take_along(&instance.maps(), &folder, &capacities.unplanned())?;
        }
        let (former, strange) = instance.former_flows(&folder)?;
        for former in &former {
            take_along(former, &folder, &capacities.of_flows())?;
        }
        let taken = Taken::in_folder(&folder);
        let shares_probes = folder.join(map::PROBES).exists();
        let next = instance.next_programs();
        let (ebpf, blind) = load_or_blind((&folder, &next), programs, settings, capacities)?;
        let table = instance.programs_of(ingress(&ebpf)?.id());
        fs::rename(&next, &table).map_err(Error::pin(&next))?;
        let mut dataplane = Self {
            services: mapped(&ebpf, map::SERVICES)?,
            slots: Windowed::new(map::SLOTS, array(&ebpf, map::SLOTS)?)?,
            backends: mapped(&ebpf, map::BACKENDS)?,
            hops: mapped(&ebpf, map::HOPS)?,
            cache_buckets: Some(mapped(&ebpf, map::CACHE)?),
            cache_marks: Some(mapped(&ebpf, map::CACHED)?),
            instance: instance.clone(),
            programs: table,
            ebpf,
            unused_counters: Unused::new(if fresh { capacities.tables.backends } else { 0 }),
            staged,
            linked: Linked::of(instance, fresh)?,
            shares_probes,
            carry: None,
            blind,
        };
        if settings.roles & Roles::RECEIVER != 0 {
            let lacks_flows = is_attached && strange.is_empty() && taken.lacks_flows(&former);
            dataplane.tell_left_behind(&strange, lacks_flows);
            dataplane.begin_to_carry(&former, &folder, taken);
        }
        Ok(dataplane)
    }

    /// The instance that it was loaded for.
    #[must_use]
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// The kernel's tag of the program that packets enter by: a hash of its instructions.
    pub fn tag(&self) -> Result<String, Error> {
        Ok(format!("{:016x}", ingress(&self.ebpf)?.tag()))
    }

    /// Why the programs look no sockets up, though the settings say where their fields are: the kernel's answer.
    #[must_use]
    pub fn blind(&self) -> Option<&str> {
        self.blind.as_deref()
    }

    /// Whether probes through tunnels find their way: the programs in use look for it where it is noted.
    #[must_use]
    pub fn probes_pass(&self) -> bool {
        self.linked != Linked::Elsewhere || self.shares_probes
    }

    /// A program, for what only tests and benches do with it.
    pub fn program_mut(&mut self, name: &str) -> Option<&mut Program> {
        self.ebpf.program_mut(name)
    }

    /// A map by name.
    pub(super) fn map(&self, name: &'static str) -> Result<&Map, Error> {
        self.ebpf.map(name).ok_or_else(|| missing(name))
    }

    /// A map by name; outside this module only for what tests and benches add to the ELF.
    pub fn map_mut(&mut self, name: &'static str) -> Result<&mut Map, Error> {
        self.ebpf.map_mut(name).ok_or_else(|| missing(name))
    }
}

/// Indexes of a table that was made empty and never had an owner. To zero a counter costs a system call, and a first
/// plan has hundreds of thousands.
pub(super) struct Unused {
    /// Of each index, whether it has or had an owner; nothing where that is not known.
    owned: Vec<bool>,
}

impl Unused {
    fn new(indexes: u32) -> Self {
        Self { owned: vec![false; indexes as usize] }
    }

    /// Gives an index its first owner; false where it had one, or may have had.
    pub(super) fn take(&mut self, index: u32) -> bool {
        self.owned.get_mut(index as usize).is_some_and(|owned| !std::mem::replace(owned, true))
    }
}

pub(super) fn missing(map: &'static str) -> Error {
    Error::Shape { map, what: "the programs don't have it".into() }
}

/// Whether all maps are pinned in `folder` with these sizes.
fn fits(folder: &Path, capacities: &Capacities) -> bool {
    capacities.entries().iter().all(|(name, entries)| {
        MapData::from_pin(folder.join(name))
            .and_then(|map| map.info())
            .is_ok_and(|info| info.max_entries() == *entries)
    })
}

/// Pins maps of another folder in the new one too, where they are of the size that is wanted and it has none: what uses
/// them knows nothing of the swap.
fn take_along(from: &Path, folder: &Path, wanted: &[(&'static str, Option<u32>)]) -> Result<(), Error> {
    for &(name, wanted) in wanted {
        let path = folder.join(name);
        if path.exists() {
            continue;
        }
        // A folder that was left half built may lack some.
        let Ok(data) = MapData::from_pin(from.join(name)) else { continue };
        let entries = data.info().map_err(Error::map(name))?.max_entries();
        if wanted.is_none_or(|wanted| wanted == entries) {
            data.pin(&path).map_err(|error| Error::Pin { path, source: std::io::Error::other(error) })?;
        }
    }
    Ok(())
}

/// As [`load`]; where the kernel refuses programs that look sockets up, those that don't, and what it said.
fn load_or_blind(
    at: (&Path, &Path),
    programs: &Programs,
    settings: &Settings,
    capacities: &Capacities,
) -> Result<(Ebpf, Option<String>), Error> {
    match load(at, programs, settings, capacities) {
        Err(Error::Program { program: program::SLOW | program::TUNNEL, source })
            if settings.sockets != SocketOffsets::default() =>
        {
            tracing::debug!(%source, "programs that look sockets up are refused");
            let settings = Settings { sockets: SocketOffsets::default(), ..*settings };
            let refused = match *source {
                ProgramError::LoadError { io_error, .. } => io_error.to_string(),
                other => other.to_string(),
            };
            Ok((load(at, programs, &settings, capacities)?, Some(refused)))
        }
        loaded => Ok((loaded?, None)),
    }
}

/// `table`: where the table of programs is pinned; the maps stand in `folder`.
fn load(
    (folder, table): (&Path, &Path),
    programs: &Programs,
    settings: &Settings,
    capacities: &Capacities,
) -> Result<Ebpf, Error> {
    let mut loader = EbpfLoader::new();
    loader.override_global("SETTINGS", settings, true);
    for (name, entries) in capacities.entries() {
        loader.map_max_entries(name, entries);
    }
    for name in map::ALL {
        loader.map_pin_path(name, folder.join(name));
    }
    loader.map_pin_path(map::PROGRAMS, table);
    let mut ebpf = match programs {
        Programs::Embedded => loader.load(ELF),
        Programs::File(path) => loader.load_file(path),
    }
    .map_err(|error| Error::Load(Box::new(error)))?;
    for (name, program) in ebpf.programs_mut() {
        match program {
            Program::Xdp(xdp) => xdp.load(),
            Program::SchedClassifier(classifier) => classifier.load(),
            _ => continue,
        }
        .map_err(|source| Error::Program { program: known(name), source: Box::new(source) })?;
    }
    link_programs(&mut ebpf)?;
    Ok(ebpf)
}

/// Tells the programs in which others they go on.
fn link_programs(ebpf: &mut Ebpf) -> Result<(), Error> {
    for (name, index) in [(program::SLOW, program::SLOW_INDEX), (program::TUNNEL, program::TUNNEL_INDEX)] {
        let Some(Program::Xdp(next)) = ebpf.program(name) else { return Err(missing(map::PROGRAMS)) };
        let next = next.fd().and_then(|fd| Ok(fd.try_clone()?)).map_err(Error::program(name))?;
        let table = ebpf.map_mut(map::PROGRAMS).ok_or_else(|| missing(map::PROGRAMS))?;
        let mut table = ProgramArray::try_from(table).map_err(Error::map(map::PROGRAMS))?;
        table.set(index, &next, 0).map_err(Error::map(map::PROGRAMS))?;
    }
    Ok(())
}

/// What the kernel knows of the program that packets enter by.
fn ingress(ebpf: &Ebpf) -> Result<ProgramInfo, Error> {
    let Some(Program::Xdp(ingress)) = ebpf.program(program::INGRESS) else {
        return Err(missing(map::PROGRAMS));
    };
    ingress.info().map_err(Error::program(program::INGRESS))
}

/// The static name of a program.
fn known(name: &str) -> &'static str {
    use program::{CLOCK, EGRESS, INGRESS, PASS, SLOW, TUNNEL};
    [INGRESS, SLOW, TUNNEL, EGRESS, CLOCK, PASS]
        .into_iter()
        .find(|known| *known == name)
        .unwrap_or("(unknown)")
}

pub(super) fn mapped<T: aya::Pod>(ebpf: &Ebpf, name: &'static str) -> Result<Mapped<T>, Error> {
    Mapped::new(name, array(ebpf, name)?, true)
}

fn array<'e>(ebpf: &'e Ebpf, name: &'static str) -> Result<&'e MapData, Error> {
    match ebpf.map(name) {
        Some(Map::Array(data)) => Ok(data),
        _ => Err(missing(name)),
    }
}
