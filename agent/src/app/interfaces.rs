//! The interfaces that the programs are attached to, also after they vanished and came back.

use fairlead_core::model::Problem;
use nix::net::if_::if_nametoindex;

use super::{Error, start::Stages};
use crate::{
    config::types::XdpMode,
    dataplane::{self, Attached, Carried, Linked, Mode, can_transmit},
    status::InterfaceStatus,
};

/// One interface.
#[derive(Debug)]
pub(super) struct Interface {
    name: String,
    /// Of the device that the programs are attached to.
    ifindex: Option<u32>,
    problem: Option<String>,
    /// The kernel says that its driver can't send frames of programs.
    lacks_transmit: bool,
}

impl Interface {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ifindex: None, problem: None, lacks_transmit: false }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn status(&self, mode: XdpMode) -> InterfaceStatus {
        InterfaceStatus {
            name: self.name.clone(),
            mode: mode_of(mode).name().to_owned(),
            attached: self.ifindex.is_some(),
            problem: self.problem.clone(),
        }
    }

    /// What a gateway can't do by it.
    pub(super) fn lack(&self) -> Option<Problem> {
        self.lacks_transmit.then(|| Problem {
            object: None,
            cluster: None,
            field: format!("interface {}", self.name),
            what: "its driver sends no frames that programs didn't just receive (no ndo_xdp_xmit): fragments that come before \
                   their datagram's first one are lost"
                .to_owned(),
            hint: Some(
                "clients' fragments have to come in order; `ethtool -i` names the driver, and on a veth its peer's GRO must be on"
                    .to_owned(),
            ),
        })
    }

    /// Looks whether its driver can send frames of programs.
    fn look_at_driver(&mut self) {
        let can = self.ifindex.map(can_transmit);
        self.lacks_transmit = can.is_some_and(|can| can.is_ok_and(|can| can == Some(false)));
    }

    /// Why the programs are not attached, if they aren't.
    pub(super) fn unattached(&self) -> Option<String> {
        let why = self.problem.as_deref().unwrap_or("not yet");
        self.ifindex.is_none().then(|| format!("the programs are not attached to {}: {why}", self.name))
    }
}

const fn mode_of(configured: XdpMode) -> Mode {
    match configured {
        XdpMode::Native => Mode::Native,
        XdpMode::Generic => Mode::Generic,
    }
}

impl Stages {
    /// Takes the tables into use, once they are whole.
    pub(super) fn take_up(&mut self) -> Result<(), Error> {
        let serves = self.failure.as_ref().is_none_or(|failure| failure.serves);
        if self.taken_up || self.waits(serves) {
            return Ok(());
        }
        self.taken_up = true;
        self.take_up_interfaces()?;
        self.begin_to_probe();
        Ok(())
    }

    /// Whether packets have to stay with other programs and tables for now, because something went wrong with these.
    pub(super) fn waits(&self, serves: bool) -> bool {
        !self.taken_up && self.dataplane.linked() == Linked::Elsewhere && !serves
    }

    /// Attaches to all interfaces at the start; one that can't be attached to ends the agent.
    fn take_up_interfaces(&mut self) -> Result<(), Error> {
        self.carry_flows();
        for at in 0..self.interfaces.len() {
            self.attach(at)?;
        }
        self.keep_seed();
        for Carried { map, found, left_out, capacity } in self.carry_flows() {
            tracing::info!(
                map,
                carried = found.saturating_sub(left_out),
                "flows carried over into the new table"
            );
            if left_out > 0 {
                tracing::warn!(
                    map,
                    left_out,
                    capacity,
                    "the new table is too small for all flows of the one before: what an endpoint sends before its client \
                     does resets those connections"
                );
            }
        }
        let interfaces: Vec<_> = self.interfaces.iter().map(Interface::name).collect();
        self.dataplane.settle(&interfaces)?;
        self.publish();
        Ok(())
    }

    /// For commands; they can do without.
    fn keep_seed(&self) {
        if let Err(error) = crate::status::keep_seed(&self.config.state_directory(), self.config.seed.0) {
            tracing::warn!(%error, "the seed in use is not kept; `fairlead explain` takes that of the configuration");
        }
    }

    /// Flows that can't be carried over are no reason not to serve.
    fn carry_flows(&mut self) -> Vec<Carried> {
        self.dataplane.carry_flows().unwrap_or_else(|error| {
            tracing::error!(%error, "flows are not carried over: what an endpoint sends before its client does resets their connection");
            Vec::new()
        })
    }

    /// Looks what drivers can do: with some that changes.
    pub(super) fn look_at_drivers(&mut self) {
        self.interfaces.iter_mut().for_each(Interface::look_at_driver);
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
            let outcome = match now {
                None => Err("the interface is gone".to_owned()),
                Some(_) => self.attach(at).map_err(|error| error.to_string()),
            };
            let interface = &mut self.interfaces[at];
            if let Err(problem) = outcome {
                interface.ifindex = None;
                if interface.problem.as_ref() == Some(&problem) {
                    continue;
                }
                tracing::error!(interface = interface.name, "{problem}");
                interface.problem = Some(problem);
            }
            changed = true;
        }
        if changed {
            self.publish();
        }
    }

    fn attach(&mut self, at: usize) -> Result<(), dataplane::Error> {
        let interface = &mut self.interfaces[at];
        let mode = mode_of(self.config.node.xdp_mode);
        let attached = self.dataplane.attach(&interface.name, mode)?;
        if mode == Mode::Generic {
            tracing::warn!(
                interface = interface.name,
                "generic XDP mode: a fraction of the rate of native mode"
            );
        }
        interface.ifindex = if_nametoindex(interface.name.as_str()).ok();
        interface.problem = None;
        interface.look_at_driver();
        match attached {
            Attached::New => tracing::info!(interface = interface.name, "programs attached"),
            Attached::Updated => tracing::info!(interface = interface.name, "programs replaced in place"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_sends_no_frames_of_programs_is_told() {
        let mut loopback = Interface::new("lo");
        loopback.look_at_driver();
        assert_eq!(loopback.lack(), None, "not attached");
        loopback.ifindex = if_nametoindex("lo").ok();
        loopback.look_at_driver();
        // Kernels before 6.3 don't say.
        let says = can_transmit(loopback.ifindex.unwrap()).unwrap().is_some();
        assert_eq!(loopback.lack().map(|problem| problem.field), says.then(|| "interface lo".to_owned()));
    }
}
