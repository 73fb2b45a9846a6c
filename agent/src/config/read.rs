//! Values out of the tree, as far as they can be read, and the reader that collects every problem.
//!
//! A field that can't be read doesn't stop the others: what was read is a draft, which [`validate`](super::validate)
//! looks at too, and which becomes the whole only where nothing is missing.

use std::ops::RangeInclusive;
use std::path::Path as FilePath;

use serde_json::{Value, json};

use super::ConfigProblem;
use crate::text::nearest;
use crate::yaml::{Node, Path, Place, Step, Value as Yaml};

/// A kind of value in the file.
pub(super) trait Read: Sized {
    /// What could be read of it; its default is nothing at all.
    type Draft: Default;
    /// What can be read of it; the reader is told what is wrong with the rest.
    fn read(node: &Node<'_>, reader: &mut Reader) -> Self::Draft;
    /// The value, where nothing of it is missing.
    fn whole(draft: Self::Draft) -> Option<Self>;
    /// As if it had been read.
    fn draft(self) -> Self::Draft;
    /// Its JSON Schema.
    fn schema() -> Value;
    /// As it would stand in the file; null for one that is left out.
    fn show(&self) -> Value;
}

/// The part of [`Read`] that is the same for all kinds that can only be read whole.
macro_rules! leaf {
    () => {
        type Draft = Option<Self>;

        fn whole(draft: Self::Draft) -> Option<Self> {
            draft
        }

        fn draft(self) -> Self::Draft {
            Some(self)
        }
    };
}
pub(super) use leaf;

/// A kind of value that has an order.
pub(super) trait Limit: Read<Draft = Option<Self>> {
    /// As [`Read::read`], of a value that must be in `range`.
    fn read_within(node: &Node<'_>, reader: &mut Reader, range: &RangeInclusive<Self>) -> Option<Self>;
    /// Notes what values can be.
    fn limit(schema: &mut Value, range: &RangeInclusive<Self>);
}

/// Collects problems while the tree is walked.
#[derive(Default)]
pub(super) struct Reader {
    path: Path,
    /// Fields that stand in the file under a name that is nearly right.
    misspelt: Vec<Path>,
    problems: Vec<(Path, Place, String)>,
}

impl Reader {
    pub(super) fn into_problems(self, file: &FilePath) -> Vec<ConfigProblem> {
        let problem = |(path, place, message): (Path, Place, String)| {
            ConfigProblem::new(file, place, &path.to_string(), message)
        };
        self.problems.into_iter().map(problem).collect()
    }

    /// Notes a problem with the value that is being read.
    pub(super) fn problem<T>(&mut self, place: Place, message: impl Into<String>) -> Option<T> {
        self.problems.push((self.path.clone(), place, message.into()));
        None
    }

    pub(super) fn unexpected<T>(&mut self, node: &Node<'_>, expected: &str) -> Option<T> {
        self.problem(node.place, format!("expected {expected}, found {}", node.describe()))
    }

    pub(super) fn not_one_of<T>(&mut self, node: &Node<'_>, names: &[&str]) -> Option<T> {
        self.problem(node.place, format!("{} is none of {}", node.describe(), names.join(", ")))
    }

    fn inside<T>(&mut self, step: Step, read: impl FnOnce(&mut Self) -> T) -> T {
        self.path.0.push(step);
        let value = read(self);
        self.path.0.pop();
        value
    }

    /// Begins a mapping: notes each field that it can't have.
    pub(super) fn open(&mut self, node: &Node<'_>, fields: &[&str]) -> Option<()> {
        let Yaml::Map(entries) = &node.value else { return self.unexpected(node, "a mapping") };
        let names: Vec<String> = fields.iter().map(|field| camel(field)).collect();
        for entry in entries.iter().filter(|entry| !names.iter().any(|name| *name == entry.key)) {
            let message = match nearest(&entry.key, names.iter().map(String::as_str)) {
                Some(name) => {
                    self.misspelt.push(self.path.key(name));
                    format!("unknown field; did you mean {name}?")
                }
                None => format!("unknown field; there are {}", names.join(", ")),
            };
            self.inside(Step::Key(entry.key.to_string()), |reader| {
                reader.problem::<()>(entry.place, message)
            });
        }
        Some(())
    }

    /// A field that must be given.
    pub(super) fn required<T: Read>(&mut self, node: &Node<'_>, field: &str) -> T::Draft {
        let name = camel(field);
        match node.get(&name) {
            Some(value) => self.inside(Step::Key(name), |reader| T::read(value, reader)),
            None => {
                if !self.is_misspelt(&name) {
                    self.problem::<()>(node.place, format!("{name} is missing; it must be given"));
                }
                T::Draft::default()
            }
        }
    }

    /// A field that has a default.
    pub(super) fn optional<T: Read>(
        &mut self,
        node: &Node<'_>,
        field: &str,
        default: impl FnOnce() -> T,
    ) -> T::Draft {
        self.given(node, field, T::read).unwrap_or_else(|| default().draft())
    }

    /// A field that has a default and limits.
    pub(super) fn ranged<T: Limit>(
        &mut self,
        node: &Node<'_>,
        field: &str,
        default: impl FnOnce() -> T,
        range: &RangeInclusive<T>,
    ) -> Option<T> {
        let read = |value: &Node<'_>, reader: &mut Self| T::read_within(value, reader, range);
        self.given(node, field, read).unwrap_or_else(|| Some(default()))
    }

    /// What was read of a field that may be left out; `None` where it is.
    fn given<D: Default>(
        &mut self,
        node: &Node<'_>,
        field: &str,
        read: impl FnOnce(&Node<'_>, &mut Self) -> D,
    ) -> Option<D> {
        let name = camel(field);
        match node.get(&name) {
            Some(value) if !value.is_null() => {
                Some(self.inside(Step::Key(name), |reader| read(value, reader)))
            }
            // It was meant to be there: its default is not what the author wants.
            None if self.is_misspelt(&name) => Some(D::default()),
            _ => None,
        }
    }

    fn is_misspelt(&self, name: &str) -> bool {
        self.misspelt.contains(&self.path.key(name))
    }
}

/// `pod_cidrs` as the file has it: `podCidrs`.
pub(super) fn camel(field: &str) -> String {
    let mut parts = field.split('_');
    let mut name = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        name.push_str(&part[..1].to_ascii_uppercase());
        name.push_str(&part[1..]);
    }
    name
}

/// What a section is where the file says nothing about it; all its fields must have defaults.
pub(super) fn defaults<T: Read>() -> T {
    let nothing = Node { place: Place::default(), value: Yaml::Map(Vec::new()) };
    T::whole(T::read(&nothing, &mut Reader::default())).expect("every field of the section has a default")
}

impl<T: Read<Draft = Option<T>>> Read for Option<T> {
    leaf!();

    fn read(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        T::read(node, reader).map(Some)
    }

    fn schema() -> Value {
        T::schema()
    }

    fn show(&self) -> Value {
        self.as_ref().map_or(Value::Null, Read::show)
    }
}

impl<T: Read> Read for Vec<T> {
    type Draft = Option<Vec<T::Draft>>;

    fn read(node: &Node<'_>, reader: &mut Reader) -> Self::Draft {
        let Yaml::List(items) = &node.value else { return reader.unexpected(node, "a list") };
        let read = |(index, item)| reader.inside(Step::Index(index), |reader| T::read(item, reader));
        Some(items.iter().enumerate().map(read).collect())
    }

    fn whole(draft: Self::Draft) -> Option<Self> {
        draft?.into_iter().map(T::whole).collect()
    }

    fn draft(self) -> Self::Draft {
        Some(self.into_iter().map(T::draft).collect())
    }

    fn schema() -> Value {
        json!({ "type": "array", "items": T::schema() })
    }

    fn show(&self) -> Value {
        self.iter().map(Read::show).collect()
    }
}
