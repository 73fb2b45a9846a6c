//! fairlead's agent: what feeds the model, and what carries its plans out.

pub mod yaml;
