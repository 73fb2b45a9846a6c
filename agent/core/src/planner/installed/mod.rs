//! What the kernel holds, as far as the agent knows: what was read back, and what was done since.

mod raw;

pub use raw::{Capacities, Raw};
