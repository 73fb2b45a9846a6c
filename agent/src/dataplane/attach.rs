//! Attaches the programs to interfaces by links that are pinned, so that they outlive the agent.
//!
//! A link that is there is updated, which no packet notices; a program of somebody else is never replaced.

use std::{fs, io, path::Path, thread, time::Duration};

use aya::{
    programs::{
        Program, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode,
        links::{FdLink, LinkError, PinnedLink},
        tc::{SchedClassifierLink, TcAttachOptions},
        xdp::XdpLink,
    },
    sys::SyscallError,
};
use fairlead_abi::program;
use nix::{errno::Errno, net::if_::if_nametoindex};

use super::{
    Dataplane, Error, Instance,
    pins::{self, LinkPin},
};

/// Where in the kernel's receive path XDP runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the driver.
    Native,
    /// Behind it, in the network stack: works everywhere, and slowly.
    Generic,
}

impl Mode {
    /// As it is configured and shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// A program has left a link's packets after this time at the latest.
const LAST_PACKET: Duration = Duration::from_millis(20);

/// Which tables packets are steered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Linked {
    /// None yet.
    Nowhere,
    /// Those of other programs: of another version or other sizes.
    Elsewhere,
    /// Those that the agent writes.
    Here,
}

impl Linked {
    /// Before anything is attached; `fresh`: the agent made its tables itself.
    pub(super) fn of(instance: &Instance, fresh: bool) -> Result<Self, Error> {
        Ok(match (instance.links()?.is_empty(), fresh) {
            (true, _) => Self::Nowhere,
            (false, true) => Self::Elsewhere,
            (false, false) => Self::Here,
        })
    }
}

/// What attaching did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    /// There was no link: packets pass the programs from now on.
    New,
    /// There was one, and its program was replaced in place.
    Updated,
}

impl Dataplane {
    /// Attaches both programs to `interface`, or updates the links that are there.
    pub fn attach(&mut self, interface: &str, mode: Mode) -> Result<Attached, Error> {
        let ifindex = if_nametoindex(interface).map_err(|_| Error::Interface {
            interface: interface.to_owned(),
            what: "there is no such interface; name one of `ip link`".into(),
        })?;
        // A device that had this name before keeps no program of ours, and no device has two modes at a time.
        let wanted =
            [program::EGRESS, program::INGRESS].map(|name| LinkPin::new(interface, name, ifindex, mode));
        self.unpin(|link| link.is_on(interface) && !wanted.contains(link))?;
        let [egress, ingress] = wanted.map(|link| self.instance.link(&link));
        self.links_switch()?;
        if ingress.exists() {
            // A driver may refuse it; then replies must stay with the program that packets come in by. The other is
            // refused only where the device is gone.
            let attached = update_or_attach(self.xdp()?, &ingress, interface, mode)?;
            update_or_attach(self.classifier()?, &egress, interface, mode)?;
            return Ok(attached);
        }
        // Replies first: an endpoint's answer must find its way back from the first packet on.
        update_or_attach(self.classifier()?, &egress, interface, mode)?;
        let attached = update_or_attach(self.xdp()?, &ingress, interface, mode);
        if attached.is_err() {
            // Nothing is left on an interface that is refused: its link ends with its pin.
            fs::remove_file(&egress).map_err(Error::pin(&egress))?;
        }
        attached
    }

    /// Which tables packets are steered by.
    #[must_use]
    pub fn linked(&self) -> Linked {
        self.linked
    }

    /// The links of all `interfaces` are on the new programs: maps that were built beside others take their place, and
    /// what only former programs needed is removed, links on other interfaces among it.
    pub fn settle(&mut self, interfaces: &[&str]) -> Result<(), Error> {
        self.unpin(|link| !interfaces.iter().any(|interface| link.is_on(interface)))?;
        self.carry = None;
        if self.staged {
            let (switched, current) = (self.instance.switched(), self.instance.maps());
            pins::remove(&current)?;
            fs::rename(&switched, &current).map_err(Error::pin(&switched))?;
            self.staged = false;
        }
        self.linked = Linked::Here;
        // The kernel empties a table of programs with its pin; a packet may still be on its way to it.
        thread::sleep(LAST_PACKET);
        self.instance.remove_others(&self.programs)
    }

    /// Packets come to the new maps from now on. Should this agent end before all is settled, the next one must not take
    /// those that were built beside others for half built, for flows stand in them.
    fn links_switch(&mut self) -> Result<(), Error> {
        if let Some(carry) = &mut self.carry {
            carry.links_switch();
        }
        let (staging, switched) = (self.instance.staging(), self.instance.switched());
        if self.staged && staging.exists() {
            pins::remove(&switched)?;
            fs::rename(&staging, &switched).map_err(Error::pin(&staging))?;
        }
        Ok(())
    }

    /// Removes the pins of links, which ends them.
    fn unpin(&self, unwanted: impl Fn(&LinkPin) -> bool) -> Result<(), Error> {
        for link in self.instance.links()?.iter().filter(|link| unwanted(link)) {
            let path = self.instance.link(link);
            fs::remove_file(&path).map_err(Error::pin(&path))?;
        }
        Ok(())
    }

    fn xdp(&mut self) -> Result<&mut Xdp, Error> {
        match self.ebpf.program_mut(program::INGRESS) {
            Some(Program::Xdp(xdp)) => Ok(xdp),
            _ => Err(absent(program::INGRESS)),
        }
    }

    fn classifier(&mut self) -> Result<&mut SchedClassifier, Error> {
        match self.ebpf.program_mut(program::EGRESS) {
            Some(Program::SchedClassifier(classifier)) => Ok(classifier),
            _ => Err(absent(program::EGRESS)),
        }
    }
}

fn absent(name: &'static str) -> Error {
    Error::Program { program: name, source: Box::new(ProgramError::NotLoaded) }
}

/// What the kernel says when it refuses.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Link(#[from] LinkError),
}

impl Refusal {
    fn errno(&self) -> Option<Errno> {
        let (Self::Program(ProgramError::SyscallError(error)) | Self::Link(LinkError::SyscallError(error))) =
            self
        else {
            return None;
        };
        error.io_error.raw_os_error().map(Errno::from_raw)
    }
}

/// A program that can be attached to an interface by a link.
trait Attach {
    /// Attaches it anew; the link is the caller's.
    fn attach_new(&mut self, interface: &str, mode: Mode) -> Result<FdLink, Refusal>;

    /// Replaces the program of a link by this one.
    fn replace_in(&mut self, link: FdLink) -> Result<FdLink, Refusal>;
}

impl Attach for Xdp {
    fn attach_new(&mut self, interface: &str, mode: Mode) -> Result<FdLink, Refusal> {
        let mode = match mode {
            Mode::Native => XdpMode::Driver,
            Mode::Generic => XdpMode::Skb,
        };
        let id = self.attach(interface, mode)?;
        Ok(self.take_link(id)?.try_into()?)
    }

    fn replace_in(&mut self, link: FdLink) -> Result<FdLink, Refusal> {
        let id = self.attach_to_link(XdpLink::try_from(link)?)?;
        Ok(self.take_link(id)?.try_into()?)
    }
}

impl Attach for SchedClassifier {
    fn attach_new(&mut self, interface: &str, _mode: Mode) -> Result<FdLink, Refusal> {
        let options = TcAttachOptions::TcxOrder(aya::programs::LinkOrder::default());
        let id = self.attach_with_options(interface, TcAttachType::Egress, options)?;
        Ok(self.take_link(id)?.try_into()?)
    }

    fn replace_in(&mut self, link: FdLink) -> Result<FdLink, Refusal> {
        let id = self.attach_to_link(SchedClassifierLink::try_from(link)?)?;
        Ok(self.take_link(id)?.try_into()?)
    }
}

/// Updates the link that is pinned at `path`, or makes and pins a new one.
fn update_or_attach<P: Attach>(
    program: &mut P,
    path: &Path,
    interface: &str,
    mode: Mode,
) -> Result<Attached, Error> {
    match PinnedLink::from_pin(path) {
        Ok(pinned) => match program.replace_in(pinned.into()) {
            Ok(_) => return Ok(Attached::Updated),
            // The interface that it was attached to is gone; one with its name has come since.
            Err(error) if error.errno() == Some(Errno::ENOLINK) => {
                fs::remove_file(path).map_err(Error::pin(path))?;
            }
            Err(error) => return Err(refused(interface, error)),
        },
        Err(LinkError::SyscallError(SyscallError { io_error, .. }))
            if io_error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(refused(interface, error)),
    }
    let link = program.attach_new(interface, mode).map_err(|error| refused(interface, error))?;
    link.pin(path).map_err(|error| Error::Interface {
        interface: interface.to_owned(),
        what: format!("pinning its link at {}: {error}", path.display()),
    })?;
    Ok(Attached::New)
}

/// Why an interface did not take a program, and what to do.
fn refused(interface: &str, error: impl Into<Refusal>) -> Error {
    let error = error.into();
    let what = match error.errno() {
        Some(Errno::EBUSY | Errno::EEXIST) => format!(
            "another XDP program is attached, and fairlead replaces none but its own; see `bpftool net show \
             dev {interface}`, detach it or name another interface"
        ),
        Some(Errno::EOPNOTSUPP) => {
            "its driver has no native XDP; `xdpMode: generic` works with any, at a fraction of the rate"
                .into()
        }
        Some(Errno::ERANGE | Errno::EINVAL) => {
            format!("the driver refuses the program ({error}); its MTU may be too large for XDP: see `dmesg`")
        }
        Some(Errno::EPERM) => "not permitted; the agent needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON".into(),
        _ => error.to_string(),
    };
    Error::Interface { interface: interface.to_owned(), what }
}
