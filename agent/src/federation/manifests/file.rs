//! One file of manifests to objects.
//!
//! YAML with any number of documents, or JSON; `kind: List` is opened. Kinds that fairlead doesn't read are passed
//! over. A file that is not YAML to its end gives nothing: its last good objects stay.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Node as KubernetesNode, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::de::DeserializeOwned;

use crate::federation::convert::{self, Defaults, Fault, Kind, Object, ObjectKey};
use crate::yaml::{Node, Objects, Path, Place, Scalar, Value, from_node};

/// What a file holds.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Parsed {
    /// `None`: the object is there, but rejected.
    pub(super) objects: BTreeMap<ObjectKey, Option<Object>>,
    pub(super) notes: Vec<Note>,
    /// A document could not be told which object it is.
    pub(super) unidentified: bool,
    /// Objects of kinds that are not read, or not for us.
    pub(super) ignored: usize,
}

/// Something that is wrong in the file.
#[derive(Debug, PartialEq)]
pub(super) struct Note {
    pub(super) place: Place,
    pub(super) object: Option<ObjectKey>,
    pub(super) field: String,
    pub(super) message: String,
}

/// Reads the text of a file.
///
/// # Errors
/// Why the file as a whole can't be read.
pub(super) fn parse(bytes: &[u8], defaults: Defaults) -> Result<Parsed, Note> {
    let broken = |place, message: String| Note { place, object: None, field: String::new(), message };
    let start = Place { line: 1, column: 1 };
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let line = bytes[..e.valid_up_to()].iter().filter(|&&byte| byte == b'\n').count() + 1;
        let place = Place { line: u32::try_from(line).unwrap_or(u32::MAX), column: 1 };
        broken(place, "is not text in UTF-8".to_owned())
    })?;
    if text.trim().is_empty() {
        return Err(broken(start, "is empty: to remove its objects, remove the file".to_owned()));
    }
    let mut parsed = Parsed::default();
    for node in Objects::new(text) {
        parsed.take(&mut node.map_err(|e| broken(e.place, e.message))?, defaults);
    }
    Ok(parsed)
}

impl Parsed {
    fn take(&mut self, node: &mut Node<'_>, defaults: Defaults) {
        let timeout = take_bad_timeout(node);
        let node = &*node;
        let (Some(kind), Some(version)) = (node.text("kind"), node.text("apiVersion")) else {
            return self.unknown(node, "is no Kubernetes object: kind or apiVersion is missing");
        };
        match (version, kind) {
            ("v1", "Node") => self.read(node, Kind::Node, |object: &KubernetesNode| {
                (Some(convert::node(&object.metadata)), Vec::new())
            }),
            ("v1", "ConfigMap") if is_drains(node) => {
                self.read(node, Kind::Drains, |object: &ConfigMap| {
                    let (drains, faults) = convert::drains(object);
                    (drains.map(|drains| Object::Drains(Arc::new(drains))), faults)
                });
            }
            ("v1", "Service") => self.read(node, Kind::Service, |object: &Service| {
                let (spec, mut faults) = convert::service(object, defaults);
                faults.extend(timeout.filter(|_| spec.is_some()));
                (spec.map(|spec| Object::Service(Arc::new(spec))), faults)
            }),
            ("discovery.k8s.io/v1", "EndpointSlice") => {
                self.read(node, Kind::EndpointSlice, |object: &EndpointSlice| {
                    let (slice, faults) = convert::slice(object);
                    (slice.map(|slice| Object::Slice(Arc::new(slice))), faults)
                });
            }
            (_, "EndpointSlice") => {
                self.unknown(node, "has an apiVersion that is not read: write discovery.k8s.io/v1");
            }
            _ => self.ignored += 1,
        }
    }

    /// A document of which nobody can say which object it is.
    fn unknown(&mut self, node: &Node<'_>, message: &str) {
        self.unidentified = true;
        self.note(node.place, None, String::new(), message.to_owned());
    }

    fn note(&mut self, place: Place, object: Option<&ObjectKey>, field: String, message: String) {
        self.notes.push(Note { place, object: object.cloned(), field, message });
    }

    fn read<T>(
        &mut self,
        node: &Node<'_>,
        kind: Kind,
        convert: impl FnOnce(&T) -> (Option<Object>, Vec<Fault>),
    ) where
        T: DeserializeOwned,
    {
        let metadata = node.get("metadata");
        let text = |field| metadata.and_then(|metadata| metadata.text(field));
        let Some(name) = text("name").filter(|name| !name.is_empty()) else {
            return self.unknown(node, "has no name: metadata.name is missing or not text");
        };
        let key = convert::key(kind, text("namespace"), name);
        if self.objects.contains_key(&key) {
            let message = "stands in this file before: the first one counts; remove one".to_owned();
            return self.note(node.place, Some(&key), String::new(), message);
        }
        let object: T = match from_node(node) {
            Ok(object) => object,
            Err(e) => {
                self.note(e.place, Some(&key), e.path.to_string(), format!("{}; {REJECTED}", e.message));
                self.objects.insert(key, None);
                return;
            }
        };
        let (object, faults) = convert(&object);
        let rejected = faults.iter().any(|fault| fault.rejects);
        for fault in faults {
            let end = if fault.rejects { format!("; {REJECTED}") } else { String::new() };
            let place = node.locate(&fault.path);
            self.note(place, Some(&key), fault.path.to_string(), fault.message + &end);
        }
        if object.is_some() || rejected {
            self.objects.insert(key, object);
        } else {
            self.ignored += 1;
        }
    }
}

/// Takes a Service's time of affinity away where Kubernetes wouldn't have it, even where it fits into no number there: without
/// a table there is no such time here, and the service is served all the same.
fn take_bad_timeout(node: &mut Node<'_>) -> Option<Fault> {
    let names = ["spec", "sessionAffinityConfig", "clientIP", "timeoutSeconds"];
    let timeout = names.iter().try_fold(node, |node, name| node.get_mut(name))?;
    let Some(Scalar::Integer(seconds)) = timeout.scalar() else { return None };
    if SECONDS.contains(&seconds) {
        return None;
    }
    timeout.value = Value::Plain("null".into());
    let path = names.iter().fold(Path::default(), |path, name| path.key(name));
    let (low, high) = (SECONDS.start(), SECONDS.end());
    let message =
        format!("{seconds} is not between {low} and {high}; affinity holds all the same, without a time");
    Some(Fault { path, message, rejects: false })
}

/// How long Kubernetes lets affinity last.
const SECONDS: RangeInclusive<i128> = 1..=86_400;

/// Whether a ConfigMap is the one that says what is drained.
fn is_drains(node: &Node<'_>) -> bool {
    let metadata = node.get("metadata");
    let text = |field| metadata.and_then(|metadata| metadata.text(field));
    text("namespace") == Some(convert::DRAINS_NAMESPACE) && text("name") == Some(convert::DRAINS_NAME)
}

/// What a fault that rejects comes to.
const REJECTED: &str = "the object's last good version stays, if there is one";
