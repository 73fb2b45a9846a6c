//! New tables begin as a copy of those that packets are steered by: a slot that has forgotten its former backends would
//! send the packets of theirs to one that has to ask for them.

use fairlead_core::planner::{Capacities, copy};

use super::{Dataplane, Error, observe::View};

impl Dataplane {
    /// Copies what packets are steered by into tables of the size `capacities` that were built beside it; nothing where
    /// these are used themselves, or where the others have another layout.
    ///
    /// # Errors
    /// The kernel refuses. What was copied by then is whole, service by service.
    pub fn copy_tables(&mut self, capacities: Capacities) -> Result<(), Error> {
        let Some(folder) = self.instance.steering()?.filter(|_| self.staged) else { return Ok(()) };
        let view = View::of_folder(&folder)?;
        copy((&view.observe()?, view.capacities()), capacities, |action| self.apply(action))
    }
}
