//! The BPF side: load, pin, attach, apply, observe.
//!
//! In: plans of the core, and what netlink says of routes and neighbours. Out: the kernel's tables as they are,
//! counters, and next hops. Nothing here decides what the tables should hold. The only place of the agent with
//! unsafe code: arrays are mapped into memory, so that the agent publishes with single 64-bit stores.

mod allowed;
mod apply;
mod attach;
mod batch;
mod bounces;
mod btf;
mod cache;
mod capacities;
mod carry;
mod copy;
mod counters;
mod features;
mod flows;
mod fragments;
mod held;
mod ingress;
mod load;
mod log;
mod mapped;
mod namespaces;
mod netlink;
mod observe;
mod option;
mod owners;
mod pins;
mod probes;
mod recent;
mod reports;
pub mod routes;
mod sockets;
mod usage;
mod window;

pub use attach::{Attached, Linked, Mode};
pub use bounces::Bounces;
pub use cache::{CacheView, CachedFlow, FlowCache, Place, is_own, nobodys};
pub use capacities::Capacities;
pub use carry::Carried;
pub use counters::Counters;
pub use features::can_transmit;
pub use flows::{Sweep, Swept};
pub use fragments::{Early, EarlyFragments};
pub use held::HeldHere;
pub use ingress::{Ingress, Ran};
pub use load::{Dataplane, Programs};
pub use namespaces::{Namespaces, follow as follow_namespaces};
pub use observe::View;
pub use option::take_without_checksum;
pub use owners::Owners;
pub use pins::{Instance, Lock, make_folder};
pub use probes::Probes;
pub use reports::{MessageKeys, Reports};
pub use sockets::socket_offsets;
pub use usage::{filled, memory};

/// What went wrong between the agent and the kernel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The programs were not taken.
    #[error("loading the BPF programs: {0}")]
    Load(#[source] Box<aya::EbpfError>),
    /// The verifier or the kernel refused one.
    #[error("program {program}: {source}")]
    Program {
        /// Its name.
        program: &'static str,
        /// The kernel's answer.
        #[source]
        source: Box<aya::programs::ProgramError>,
    },
    /// A map could not be read or written.
    #[error("map {map}: {source}")]
    Map {
        /// Its name.
        map: &'static str,
        /// The kernel's answer.
        #[source]
        source: Box<aya::maps::MapError>,
    },
    /// A map is missing or of another shape than this agent's.
    #[error("map {map}: {what}")]
    Shape {
        /// Its name.
        map: &'static str,
        /// What was found.
        what: String,
    },
    /// A file or folder of the pins could not be read or written.
    #[error("{path}: {source}")]
    Pin {
        /// Which.
        path: std::path::PathBuf,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// An interface can't be attached to.
    #[error("interface {interface}: {what}")]
    Interface {
        /// Its name.
        interface: String,
        /// Why, and what to do.
        what: String,
    },
    /// Another agent runs on this instance, or with this state directory.
    #[error(
        "instance {instance} is already run by another agent ({lock} is locked); stop it first, or give this one another `instance` and `stateDirectory`"
    )]
    Locked {
        /// The instance.
        instance: String,
        /// What is locked: the folder of the pins, or a file in the state directory.
        lock: String,
    },
    /// An action names what the map doesn't have.
    #[error("map {map} has no index {index}")]
    Bounds {
        /// The map.
        map: &'static str,
        /// The index.
        index: u64,
    },
}

impl Error {
    fn map(map: &'static str) -> impl Fn(aya::maps::MapError) -> Self {
        move |source| Self::Map { map, source: Box::new(source) }
    }

    fn program(program: &'static str) -> impl Fn(aya::programs::ProgramError) -> Self {
        move |source| Self::Program { program, source: Box::new(source) }
    }

    fn pin(path: &std::path::Path) -> impl Fn(std::io::Error) -> Self + '_ {
        move |source| Self::Pin { path: path.to_owned(), source }
    }
}
