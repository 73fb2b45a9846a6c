//! Values out of the tree: the kinds of value that the file knows, and the reader that collects every problem.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::ConfigProblem;
use super::types::{Hash, InterfaceName, Name, Prefix};
use crate::text::{nearest, parse_duration, show_duration};
use crate::yaml::{Node, Path, Place, Scalar, Step, Value as Yaml};

/// A kind of value in the file.
pub(super) trait Read: Sized {
    /// The value; `None` once the reader has been told what is wrong.
    fn read(node: &Node<'_>, reader: &mut Reader) -> Option<Self>;
    /// Its JSON Schema.
    fn schema() -> Value;
    /// As it would stand in the file; null for one that is left out.
    fn show(&self) -> Value;
}

/// A kind of value that has an order.
pub(super) trait Limit: PartialOrd + Sized {
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
    fn problem<T>(&mut self, place: Place, message: impl Into<String>) -> Option<T> {
        self.problems.push((self.path.clone(), place, message.into()));
        None
    }

    fn unexpected<T>(&mut self, node: &Node<'_>, expected: &str) -> Option<T> {
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
    pub(super) fn required<T: Read>(&mut self, node: &Node<'_>, field: &str) -> Option<T> {
        let name = camel(field);
        match node.get(&name) {
            Some(value) => self.inside(Step::Key(name), |reader| T::read(value, reader)),
            None if self.misspelt.contains(&self.path.key(&name)) => None,
            None => self.problem(node.place, format!("{name} is missing; it must be given")),
        }
    }

    /// A field that has a default.
    pub(super) fn optional<T: Read>(
        &mut self,
        node: &Node<'_>,
        field: &str,
        default: impl FnOnce() -> T,
    ) -> Option<T> {
        let name = camel(field);
        match node.get(&name) {
            Some(value) if !value.is_null() => self.inside(Step::Key(name), |reader| T::read(value, reader)),
            _ => Some(default()),
        }
    }

    /// A field that has a default and limits.
    pub(super) fn ranged<T: Read + Limit>(
        &mut self,
        node: &Node<'_>,
        field: &str,
        default: impl FnOnce() -> T,
        range: RangeInclusive<T>,
    ) -> Option<T> {
        let value = self.optional(node, field, default)?;
        if range.contains(&value) {
            return Some(value);
        }
        let name = camel(field);
        let place = node.get(&name).map_or(node.place, |value| value.place);
        let bare = |value: &T| value.show().to_string().replace('"', "");
        let (found, low, high) = (bare(&value), bare(range.start()), bare(range.end()));
        let message = format!("{found} is not between {low} and {high}");
        self.inside(Step::Key(name), |reader| reader.problem(place, message))
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
    T::read(&nothing, &mut Reader::default()).expect("every field of the section has a default")
}

/// The schema of a mapping while its fields are listed.
pub(super) struct ObjectSchema {
    about: String,
    properties: Map<String, Value>,
    required: Vec<String>,
}

/// Lines of a doc comment as one text.
fn joined(doc: &str) -> String {
    doc.lines().map(str::trim).collect::<Vec<_>>().join(" ").trim().to_owned()
}

impl ObjectSchema {
    pub(super) fn new(about: &str) -> Self {
        Self { about: joined(about), properties: Map::new(), required: Vec::new() }
    }

    pub(super) fn required(&mut self, field: &str, doc: &str, schema: Value) {
        self.required.push(camel(field));
        self.optional(field, doc, schema, Value::Null);
    }

    pub(super) fn optional(&mut self, field: &str, doc: &str, mut schema: Value, default: Value) {
        schema["description"] = joined(doc).into();
        if !default.is_null() {
            schema["default"] = default;
        }
        self.properties.insert(camel(field), schema);
    }

    pub(super) fn finish(self) -> Value {
        json!({
            "type": "object",
            "description": self.about,
            "properties": self.properties,
            "required": self.required,
            "additionalProperties": false,
        })
    }
}

impl<T: Read> Read for Option<T> {
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
    fn read(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        let Yaml::List(items) = &node.value else { return reader.unexpected(node, "a list") };
        let mut values = Self::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            values.extend(reader.inside(Step::Index(index), |reader| T::read(item, reader)));
        }
        // One that is wrong is a problem already; without it, the others would stand at wrong indexes.
        (values.len() == items.len()).then_some(values)
    }

    fn schema() -> Value {
        json!({ "type": "array", "items": T::schema() })
    }

    fn show(&self) -> Value {
        self.iter().map(Read::show).collect()
    }
}

macro_rules! number {
    ($($type:ty),*) => {$(
        impl Read for $type {
            fn read(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
                match node.scalar() {
                    Some(Scalar::Integer(number)) => match <$type>::try_from(number) {
                        Ok(number) => Some(number),
                        Err(_) => {
                            let message = format!("{number} is not between 0 and {}", <$type>::MAX);
                            reader.problem(node.place, message)
                        }
                    },
                    _ => reader.unexpected(node, "a whole number"),
                }
            }

            fn schema() -> Value {
                json!({ "type": "integer", "minimum": 0, "maximum": <$type>::MAX })
            }

            fn show(&self) -> Value {
                (*self).into()
            }
        }

        impl Limit for $type {
            fn limit(schema: &mut Value, range: &RangeInclusive<Self>) {
                schema["minimum"] = (*range.start()).into();
                schema["maximum"] = (*range.end()).into();
            }
        }
    )*};
}
number!(u8, u16, u32);

/// Kinds that are written as text: `parse` makes the value or says what is wrong, `pattern` is for the schema.
macro_rules! text {
    ($type:ty, $expected:literal, $parse:expr, $show:expr, $schema:expr) => {
        impl Read for $type {
            fn read(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
                let Some(Scalar::Text(text)) = node.scalar() else {
                    return reader.unexpected(node, $expected);
                };
                let parse: fn(&str) -> Result<Self, String> = $parse;
                parse(text).or_else(|message| reader.problem(node.place, message).ok_or(())).ok()
            }

            fn schema() -> Value {
                $schema
            }

            fn show(&self) -> Value {
                let show: fn(&Self) -> String = $show;
                show(self).into()
            }
        }
    };
}

text!(
    Name,
    "a name",
    |text| {
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
        let ends = |c: char| c.is_ascii_alphanumeric();
        if text.len() <= 253 && text.chars().all(good) && text.starts_with(ends) && text.ends_with(ends) {
            return Ok(Self(Arc::from(text)));
        }
        Err(format!(
            "{text:?} is not a name: write 1 to 253 lower-case letters, digits, - and ., such as europe-west1-b"
        ))
    },
    |name| name.0.to_string(),
    json!({ "type": "string", "maxLength": 253, "pattern": "^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$" })
);

text!(
    InterfaceName,
    "the name of an interface",
    |text| {
        if (1..=15).contains(&text.len()) && !text.contains(|c: char| c == '/' || c.is_whitespace()) {
            return Ok(Self(Arc::from(text)));
        }
        Err(format!("{text:?} is not the name of an interface: `ip -br link` lists them"))
    },
    |name| name.0.to_string(),
    json!({ "type": "string", "minLength": 1, "maxLength": 15, "pattern": "^[^/\\s]+$" })
);

text!(
    IpNet,
    "a CIDR",
    |text| {
        let net: Self = text.parse().map_err(|_| {
            format!("{text:?} is not a CIDR: write an address and a prefix length, such as 10.4.0.0/16 or 2001:db8:4::/48")
        })?;
        if net.trunc() == net {
            return Ok(net);
        }
        Err(format!("{text:?} has bits behind its prefix: write {}", net.trunc()))
    },
    ToString::to_string,
    json!({ "type": "string", "pattern": "^[0-9a-fA-F:.]+/[0-9]+$" })
);

text!(
    Prefix,
    "an address or a CIDR",
    |text| {
        if let Ok(address) = text.parse() {
            return Ok(Self(IpNet::new_assert(address, if address.is_ipv4() { 32 } else { 128 })));
        }
        let net: IpNet = text.parse().map_err(|_| {
            format!("{text:?} is neither an address nor a CIDR: write such as 192.0.2.7 or 192.0.2.16/28")
        })?;
        if net.trunc() == net {
            return Ok(Self(net));
        }
        Err(format!("{text:?} has bits behind its prefix: write {} or {}", net.addr(), net.trunc()))
    },
    ToString::to_string,
    json!({ "type": "string", "pattern": "^[0-9a-fA-F:.]+(/[0-9]+)?$" })
);

text!(
    SocketAddr,
    "an address and port",
    |text| text.parse().map_err(|_| {
        format!("{text:?} is not an address and port: write such as 127.0.0.1:9440 or [::1]:9440")
    }),
    ToString::to_string,
    json!({ "type": "string", "pattern": "^.+:[0-9]+$" })
);

text!(
    PathBuf,
    "a path",
    |text| if text.is_empty() { Err("an empty path".to_owned()) } else { Ok(Self::from(text)) },
    |path| path.display().to_string(),
    json!({ "type": "string", "minLength": 1 })
);

text!(
    Duration,
    "a duration such as 200ms",
    parse_duration,
    |duration| show_duration(*duration),
    json!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h)$" })
);

text!(Arc<str>, "text", |text| Ok(Self::from(text)), ToString::to_string, json!({ "type": "string" }));

impl Limit for Duration {
    /// JSON Schema has no words for it; the parser refuses what is outside.
    fn limit(_: &mut Value, _: &RangeInclusive<Self>) {}
}

impl Read for Hash {
    fn read(node: &Node<'_>, reader: &mut Reader) -> Option<Self> {
        let number = match node.scalar() {
            Some(Scalar::Integer(number)) => u64::try_from(number).ok(),
            Some(Scalar::Text(text)) => {
                text.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok())
            }
            _ => None,
        };
        if let Some(number) = number {
            return Some(Self(number));
        }
        // Not what stands there: nearly always it is the secret, written a little wrong.
        let message = "what stands here is not a number of 64 bits: write 0x and up to 16 hexadecimal digits, \
                       such as `openssl rand -hex 8` prints";
        reader.problem(node.place, message.to_owned())
    }

    fn schema() -> Value {
        json!({ "anyOf": [
            { "type": "integer", "minimum": 0, "maximum": u64::MAX },
            { "type": "string", "pattern": "^0x[0-9a-fA-F]{1,16}$" },
        ] })
    }

    fn show(&self) -> Value {
        format!("{:#018x}", self.0).into()
    }
}
