//! The program that packets enter by, run on frames that don't come from a driver: fragments that come in again, and questions
//! of this node to itself.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use aya::programs::Program;
use fairlead_abi::program;
use nix::libc;

use super::{Dataplane, Early, Error, load};

/// The program that packets enter by.
pub struct Ingress(OwnedFd);

/// What became of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// XDP's verdict.
    pub verdict: u32,
    /// The frame afterwards.
    pub frame: Vec<u8>,
}

impl Ran {
    /// The frame leaves by the interface that it came in by (`XDP_TX`).
    pub const TRANSMIT: u32 = 3;
}

/// `BPF_PROG_TEST_RUN`'s part of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    program: u32,
    verdict: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    padding: u32,
}

/// `struct xdp_md`.
#[repr(C)]
#[derive(Default)]
struct Context {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

impl Dataplane {
    /// A handle on the program.
    pub fn ingress(&self) -> Result<Ingress, Error> {
        let name = program::INGRESS;
        let Some(Program::Xdp(ingress)) = self.ebpf.program(name) else { return Err(load::missing(name)) };
        let ingress = ingress.fd().map_err(Error::program(name))?.as_fd().try_clone_to_owned();
        ingress.map(Ingress).map_err(|error| Error::Shape { map: name, what: error.to_string() })
    }
}

impl Ingress {
    /// Another one.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// The frame comes in by its interface again: the kernel runs the program on it and does what that says
    /// (`BPF_F_TEST_XDP_LIVE_FRAMES`, kernel 5.18). May wait for some milliseconds, while the kernel takes its pages back.
    pub fn receive(&self, early: &Early) -> io::Result<()> {
        const LIVE_FRAMES: u32 = 1 << 1;
        let length = u32::try_from(early.frame.len()).map_err(io::Error::other)?;
        let context = Context { data_end: length, ingress_ifindex: early.ifindex, ..Context::default() };
        let mut attributes = Attributes {
            context_size_in: u32::try_from(size_of::<Context>()).map_err(io::Error::other)?,
            context_in: (&raw const context) as u64,
            flags: LIVE_FRAMES,
            batch_size: 1,
            ..self.attributes(&early.frame)?
        };
        // SAFETY: the frame and the context live until it returns.
        unsafe { test_run(&mut attributes) }
    }

    /// Runs the program on a frame, and does nothing of what that says.
    pub fn run(&self, frame: &[u8]) -> io::Result<Ran> {
        let mut out = vec![0_u8; frame.len()];
        let mut attributes = Attributes {
            data_size_out: u32::try_from(out.len()).map_err(io::Error::other)?,
            data_out: out.as_mut_ptr() as u64,
            ..self.attributes(frame)?
        };
        // SAFETY: the frame lives until it returns, and so does the room for it afterwards, of the size that is told.
        unsafe { test_run(&mut attributes) }?;
        out.truncate(attributes.data_size_out as usize);
        Ok(Ran { verdict: attributes.verdict, frame: out })
    }

    fn attributes(&self, frame: &[u8]) -> io::Result<Attributes> {
        Ok(Attributes {
            program: u32::try_from(self.0.as_raw_fd()).map_err(io::Error::other)?,
            data_size_in: u32::try_from(frame.len()).map_err(io::Error::other)?,
            data_in: frame.as_ptr() as u64,
            repeat: 1,
            ..Attributes::default()
        })
    }
}

/// `BPF_PROG_TEST_RUN`.
///
/// # Safety
/// What the attributes point to is there, of the sizes that they say.
unsafe fn test_run(attributes: &mut Attributes) -> io::Result<()> {
    const TEST_RUN: libc::c_long = 10;
    // SAFETY: as the caller says; the kernel writes what it found to the attributes and to `data_out` only.
    let outcome =
        unsafe { libc::syscall(libc::SYS_bpf, TEST_RUN, &raw mut *attributes, size_of::<Attributes>()) };
    nix::errno::Errno::result(outcome).map(drop).map_err(io::Error::from)
}
