//! What was rejected, and what to do about it.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ObjectName;

/// Something in the input that was rejected or held, or as a note that has no effect. Only the item that it names is concerned.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Problem {
    /// The service, unless the whole cluster is concerned.
    pub object: Option<ObjectName>,
    /// The cluster that the item came from, unless several are concerned.
    pub cluster: Option<Arc<str>>,
    /// Such as `spec.ports[http]`.
    pub field: String,
    /// What is wrong, and what was done.
    pub what: String,
    /// What would be right.
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(cluster) = &self.cluster {
            write!(f, "cluster {cluster}: ")?;
        }
        if let Some(object) = &self.object {
            write!(f, "Service {object}: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.what)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}
