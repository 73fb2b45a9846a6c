//! What is wrong with what a cluster's source has.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use fairlead_core::model::{ObjectName, Problem};

use super::convert::ObjectKey;
use crate::yaml::Place;

/// Something in a source that doesn't count, and what to do about it. Sorts by place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceProblem {
    /// Whose source.
    pub cluster: Arc<str>,
    /// The file, for sources that have files; or the directory.
    pub file: Option<PathBuf>,
    /// Where in the file.
    pub place: Option<Place>,
    /// The object, where one is known.
    pub object: Option<ObjectKey>,
    /// The field, such as `spec.ports[0].port`; empty where all of it is meant.
    pub field: String,
    /// What is wrong, what was done, what would be right.
    pub message: String,
}

impl SourceProblem {
    /// As the model lists it, together with its own.
    #[must_use]
    pub fn to_model(&self) -> Problem {
        let is_service = |object: &&ObjectKey| object.kind == super::convert::Kind::Service;
        let service: Option<ObjectName> =
            self.object.as_ref().filter(is_service).map(|object| object.name.clone());
        // The model's problems name only services by themselves.
        let field = match self.object.as_ref().filter(|object| !is_service(object)) {
            Some(object) if self.field.is_empty() => object.to_string(),
            Some(object) => format!("{object}: {}", self.field),
            None => self.field.clone(),
        };
        Problem {
            object: service,
            cluster: Some(Arc::clone(&self.cluster)),
            field,
            what: self.message.clone(),
            hint: self.location().map(|location| format!("in {location}")),
        }
    }

    fn location(&self) -> Option<String> {
        let file = self.file.as_ref()?.display();
        Some(match self.place {
            Some(place) => format!("{file}:{}:{}", place.line, place.column),
            None => file.to_string(),
        })
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind.name())?;
        if self.name.namespace.is_empty() { f.write_str(&self.name.name) } else { self.name.fmt(f) }
    }
}

/// `cluster eu-b: web.yaml:12:5: Service shop/web: spec.ports[0].port: 0 is not a port: use 1 to 65535`
impl fmt::Display for SourceProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cluster {}: ", self.cluster)?;
        if let Some(location) = self.location() {
            write!(f, "{location}: ")?;
        }
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}
