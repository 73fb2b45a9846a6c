//! Names that many objects of a cluster have in common, kept once.
//!
//! In comes an object as it was read; afterwards it shares its namespace, service, node, zone and ports with the
//! objects before it. With a hundred thousand objects that is most of their text.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use fairlead_core::model::{ObjectName, TargetPorts};

use super::convert::{Object, ObjectKey};

/// What is shared by the objects of one cluster.
#[derive(Debug, Default)]
pub(super) struct Names {
    texts: HashSet<Arc<str>>,
    ports: HashSet<Arc<TargetPorts>>,
}

impl Names {
    /// Lets objects that were just read share with those before them.
    pub(super) fn share(
        &mut self,
        objects: BTreeMap<ObjectKey, Option<Object>>,
    ) -> BTreeMap<ObjectKey, Option<Object>> {
        objects.into_iter().map(|(key, object)| self.share_one(key, object)).collect()
    }

    /// As [`share`](Self::share), of a single object.
    pub(super) fn share_one(
        &mut self,
        mut key: ObjectKey,
        mut object: Option<Object>,
    ) -> (ObjectKey, Option<Object>) {
        self.name(&mut key.name);
        if let Some(object) = &mut object {
            self.object(object);
        }
        (key, object)
    }

    /// Forgets what no object has any more.
    pub(super) fn forget_unused(&mut self) {
        self.texts.retain(|text| Arc::strong_count(text) > 1);
        self.ports.retain(|ports| Arc::strong_count(ports) > 1);
    }

    fn object(&mut self, object: &mut Object) {
        match object {
            Object::Service(spec) => {
                // It was just made, nobody else has it.
                for port in Arc::get_mut(spec).into_iter().flat_map(|spec| &mut spec.ports) {
                    self.text(&mut port.name);
                }
            }
            Object::Slice(slice) => {
                let Some(slice) = Arc::get_mut(slice) else { return };
                self.name(&mut slice.service);
                for source in &mut slice.endpoints {
                    let endpoint = &mut source.endpoint;
                    self.text(&mut endpoint.node);
                    same(&mut self.ports, &mut endpoint.ports);
                }
            }
            Object::Node { .. } | Object::Drains(_) => {}
        }
    }

    fn name(&mut self, name: &mut ObjectName) {
        self.text(&mut name.namespace);
        self.text(&mut name.name);
    }

    fn text(&mut self, text: &mut Arc<str>) {
        same(&mut self.texts, text);
    }
}

/// Replaces `one` by the first that was equal to it.
fn same<T: ?Sized + Eq + std::hash::Hash>(known: &mut HashSet<Arc<T>>, one: &mut Arc<T>) {
    match known.get(&**one) {
        Some(first) => *one = Arc::clone(first),
        None => drop(known.insert(Arc::clone(one))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::federation::convert::{Identity, Kind, Slice, SliceEndpoint};
    use fairlead_core::model::Endpoint;

    fn slice(name: &str) -> BTreeMap<ObjectKey, Option<Object>> {
        let endpoint = Endpoint {
            pod: Arc::from(name),
            node: Arc::from("node"),
            v4: Some([10, 0, 0, 1].into()),
            v6: None,
            ports: Arc::new(TargetPorts::from([(Arc::from("http"), 8080)])),
            conditions: fairlead_core::model::Conditions::READY,
            zones: Arc::default(),
            receiver: false,
            drained: false,
        };
        let identity = Identity::Pod(Arc::from(name));
        let endpoints = vec![SliceEndpoint { identity, endpoint }];
        let slice = Slice { service: ObjectName::new("default", "web"), endpoints };
        let key = ObjectKey { kind: Kind::EndpointSlice, name: ObjectName::new("default", name) };
        BTreeMap::from([(key, Some(Object::Slice(Arc::new(slice))))])
    }

    fn only(objects: BTreeMap<ObjectKey, Option<Object>>) -> (ObjectKey, Arc<Slice>) {
        match objects.into_iter().next() {
            Some((key, Some(Object::Slice(slice)))) => (key, slice),
            other => panic!("not a slice: {other:?}"),
        }
    }

    #[test]
    fn equal_names_and_ports_are_one() {
        let mut names = Names::default();
        let (one_key, one) = only(names.share(slice("one")));
        let (other_key, other) = only(names.share(slice("other")));
        assert_eq!(one, only(slice("one")).1);
        let (a, b) = (&one.endpoints[0].endpoint, &other.endpoints[0].endpoint);
        assert!(Arc::ptr_eq(&one_key.name.namespace, &other_key.name.namespace));
        assert!(Arc::ptr_eq(&one.service.name, &other.service.name));
        assert!(Arc::ptr_eq(&a.node, &b.node));
        assert!(Arc::ptr_eq(&a.ports, &b.ports));
        assert_ne!(one_key.name.name, other_key.name.name);
    }

    #[test]
    fn what_nobody_has_is_forgotten() {
        let mut names = Names::default();
        let kept = names.share(slice("kept"));
        drop(names.share(slice("gone")));
        names.forget_unused();
        let texts: Vec<&str> = names.texts.iter().map(|text| &**text).collect();
        assert!(texts.contains(&"kept") && texts.contains(&"node"), "{texts:?}");
        assert!(!texts.contains(&"gone"), "{texts:?}");
        drop(kept);
        names.forget_unused();
        assert!(names.texts.is_empty() && names.ports.is_empty());
    }
}
