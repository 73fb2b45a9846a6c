//! YAML with places: what configuration and manifests are read through.
//!
//! Text comes in; a tree comes out whose every value knows its line and column, so that each problem can say
//! where it is. JSON is read by the same parser. Nothing here knows what the fields mean.

mod deserialize;
mod objects;
mod path;
mod text;
mod tree;

pub use deserialize::{DeserializeError, from_node};
pub use objects::{Objects, YamlError};
pub use path::{Path, Step};
pub use text::to_text;
pub use tree::{Node, Place, Scalar, Value};
