//! The interfaces that the programs are attached to, also after they vanished and came back.

use nix::net::if_::if_nametoindex;

use super::{Error, InterfaceStatus, start::Stages};
use crate::{
    config::types::XdpMode,
    dataplane::{self, Attached, Mode},
};

/// One interface.
#[derive(Debug)]
pub(super) struct Interface {
    name: String,
    /// Of the device that the programs are attached to.
    ifindex: Option<u32>,
    problem: Option<String>,
}

impl Interface {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ifindex: None, problem: None }
    }

    pub(super) fn status(&self, mode: XdpMode) -> InterfaceStatus {
        InterfaceStatus {
            name: self.name.clone(),
            mode: mode_name(mode).to_owned(),
            attached: self.ifindex.is_some(),
            problem: self.problem.clone(),
        }
    }

    pub(super) const fn is_attached(&self) -> bool {
        self.ifindex.is_some()
    }
}

const fn mode_name(mode: XdpMode) -> &'static str {
    match mode {
        XdpMode::Native => "native",
        XdpMode::Generic => "generic",
    }
}

impl Stages {
    /// Attaches to all interfaces at the start; one that can't be attached to ends the agent.
    pub(super) fn take_up_interfaces(&mut self) -> Result<(), Error> {
        for at in 0..self.interfaces.len() {
            self.attach(at)?;
        }
        self.dataplane.settle()?;
        self.publish();
        Ok(())
    }

    /// Attaches to interfaces that came back, and notes those that are gone.
    pub(super) fn look_at_interfaces(&mut self) {
        let mut changed = false;
        for at in 0..self.interfaces.len() {
            let interface = &mut self.interfaces[at];
            let now = if_nametoindex(interface.name.as_str()).ok();
            if now == interface.ifindex {
                continue;
            }
            changed = true;
            if now.is_none() {
                tracing::error!(interface = interface.name, "the interface is gone; waiting for it");
                interface.ifindex = None;
                interface.problem = Some("the interface is gone".to_owned());
            } else if let Err(error) = self.attach(at) {
                let problem = Some(error.to_string());
                let interface = &mut self.interfaces[at];
                if interface.problem != problem {
                    tracing::error!(interface = interface.name, %error, "can't attach; trying again");
                    interface.problem = problem;
                }
                interface.ifindex = None;
            }
        }
        if changed {
            self.publish();
        }
    }

    fn attach(&mut self, at: usize) -> Result<(), dataplane::Error> {
        let interface = &mut self.interfaces[at];
        let mode = match self.config.node.xdp_mode {
            XdpMode::Native => Mode::Native,
            XdpMode::Generic => {
                tracing::warn!(
                    interface = interface.name,
                    "generic XDP mode: a fraction of the rate of native mode"
                );
                Mode::Generic
            }
        };
        let attached = self.dataplane.attach(&interface.name, mode)?;
        interface.ifindex = if_nametoindex(interface.name.as_str()).ok();
        interface.problem = None;
        match attached {
            Attached::New => tracing::info!(interface = interface.name, "programs attached"),
            Attached::Updated => tracing::info!(interface = interface.name, "programs replaced in place"),
        }
        Ok(())
    }
}
