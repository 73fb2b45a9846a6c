//! Whose is this flow? The asking side of "the endpoint decides".

mod keys;

pub use keys::{Key, Keys, SecretError, Secrets};
