//! A tree into any serde type, for objects whose types others define.
//!
//! Text must be text: `true` or `5` where a string belongs is refused, as an API server does. Fields that the
//! type doesn't know are passed over.

use std::borrow::Cow;
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeSeed, Deserializer, Expected, IntoDeserializer, MapAccess, SeqAccess, Unexpected,
    Visitor,
};
use serde::forward_to_deserialize_any;

use super::path::{Path, Step};
use super::tree::{Entry, Node, Place, Scalar, Value};

/// Why a tree is not such a value.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct DeserializeError {
    /// The field.
    pub path: Path,
    /// Where it stands.
    pub place: Place,
    /// What is wrong with it.
    pub message: String,
}

/// The value of type `T` that `node` describes.
///
/// # Errors
/// Where it isn't one; names the innermost field at fault.
pub fn from_node<T: de::DeserializeOwned>(node: &Node<'_>) -> Result<T, DeserializeError> {
    T::deserialize(Reader(node)).map_err(|mut e| {
        e.steps.reverse();
        let place = e.place.unwrap_or(node.place);
        DeserializeError { path: Path(e.steps), place, message: e.message }
    })
}

/// As it travels outwards: steps from the inside out.
#[derive(Debug)]
struct Fault {
    steps: Vec<Step>,
    place: Option<Place>,
    message: String,
}

impl Fault {
    fn inside(mut self, step: Step, place: Place) -> Self {
        self.steps.push(step);
        self.place.get_or_insert(place);
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { steps: Vec::new(), place: None, message: message.to_string() }
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let found = match found {
            Unexpected::Str(text) => format!("{text:?}"),
            Unexpected::Bool(value) => value.to_string(),
            Unexpected::Signed(number) => number.to_string(),
            Unexpected::Unsigned(number) => number.to_string(),
            Unexpected::Float(number) => number.to_string(),
            Unexpected::Unit => "nothing".to_owned(),
            Unexpected::Seq => "a list".to_owned(),
            Unexpected::Map => "a mapping".to_owned(),
            other => other.to_string(),
        };
        Self::custom(format!("expected {}, found {found}", in_words(&expected.to_string())))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }
}

/// What serde calls by Rust's names.
fn in_words(expected: &str) -> Cow<'_, str> {
    let whole = |low: i128, high: i128| format!("a whole number from {low} to {high}").into();
    match expected {
        "u8" => whole(0, u8::MAX.into()),
        "u16" => whole(0, u16::MAX.into()),
        "u32" => whole(0, u32::MAX.into()),
        // Nobody has use for their limits.
        "i32" | "i64" | "u64" | "usize" => "a whole number".into(),
        "f32" | "f64" => "a number".into(),
        "a boolean" => "true or false".into(),
        other => other.into(),
    }
}

/// A node as serde reads it.
struct Reader<'de, 'a>(&'de Node<'a>);

impl<'de> Deserializer<'de> for Reader<'de, '_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match (&self.0.value, self.0.scalar()) {
            (Value::List(items), _) => visitor.visit_seq(Items { items, next: 0 }),
            (Value::Map(entries), _) => visitor.visit_map(Fields { entries, next: 0 }),
            (_, Some(Scalar::Text(text))) => visitor.visit_str(text),
            (_, Some(Scalar::Bool(value))) => visitor.visit_bool(value),
            (_, Some(Scalar::Integer(value))) => match (i64::try_from(value), u64::try_from(value)) {
                (Ok(value), _) => visitor.visit_i64(value),
                (_, Ok(value)) => visitor.visit_u64(value),
                _ => visitor.visit_i128(value),
            },
            (_, Some(Scalar::Float(value))) => visitor.visit_f64(value),
            (_, Some(Scalar::Null) | None) => visitor.visit_unit(),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0.scalar() {
            Some(Scalar::Text(text)) => visitor.visit_str(text),
            Some(Scalar::Bool(_) | Scalar::Integer(_) | Scalar::Float(_)) => {
                let found = self.0.describe();
                Err(de::Error::custom(format!("{found} is not a string: write it in quotes, \"{found}\"")))
            }
            _ => Err(de::Error::custom(format!("expected a string, found {}", self.0.describe()))),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_string(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.0.value {
            Value::List(items) => visitor.visit_seq(Items { items, next: 0 }),
            _ => Err(de::Error::custom(format!("expected a list, found {}", self.0.describe()))),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.0.value {
            Value::Map(entries) => visitor.visit_map(Fields { entries, next: 0 }),
            _ => Err(de::Error::custom(format!("expected a mapping, found {}", self.0.describe()))),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_map(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.0.scalar() {
            Some(Scalar::Text(text)) => visitor.visit_enum(text.into_deserializer()),
            _ => Err(de::Error::custom(format!("expected a name, found {}", self.0.describe()))),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct tuple
        tuple_struct identifier
    }
}

struct Items<'de, 'a> {
    items: &'de [Node<'a>],
    next: usize,
}

impl<'de> SeqAccess<'de> for Items<'de, '_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some(item) = self.items.get(self.next) else { return Ok(None) };
        let index = self.next;
        self.next += 1;
        seed.deserialize(Reader(item)).map(Some).map_err(|e| e.inside(Step::Index(index), item.place))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len() - self.next)
    }
}

struct Fields<'de, 'a> {
    entries: &'de [Entry<'a>],
    next: usize,
}

impl<'de> MapAccess<'de> for Fields<'de, '_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let Some(entry) = self.entries.get(self.next) else { return Ok(None) };
        let key: StrDeserializer<'_, Fault> = entry.key.as_ref().into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let entry = &self.entries[self.next];
        self.next += 1;
        let outer = |e: Fault| e.inside(Step::Key(entry.key.to_string()), entry.value.place);
        seed.deserialize(Reader(&entry.value)).map_err(outer)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;
    use crate::yaml::Objects;

    #[derive(Debug, Deserialize, PartialEq)]
    struct Metadata {
        name: String,
        #[serde(default)]
        labels: Option<BTreeMap<String, String>>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Object {
        metadata: Metadata,
        ports: Vec<u16>,
        weight: Option<f64>,
        any: Option<serde_json::Value>,
    }

    fn read(text: &str) -> Result<Object, (String, Place, String)> {
        let node = Objects::single(text).unwrap();
        from_node(&node).map_err(|e| (e.path.to_string(), e.place, e.message))
    }

    #[test]
    fn objects_come_with_lists_options_and_unknown_fields() {
        let text = "metadata: {name: a, labels: {x: \"true\"}}\nports: [1, 65535]\nweight: null\nextra: [1, {a: b}]\nany: {deep: [1, x, true, 1.5, null]}\n";
        let object = read(text).unwrap();
        assert_eq!(object.metadata.name, "a");
        assert_eq!(object.metadata.labels.unwrap()["x"], "true");
        assert_eq!(object.ports, [1, 65535]);
        assert_eq!(object.weight, None);
        assert_eq!(object.any, Some(serde_json::json!({"deep": [1, "x", true, 1.5, null]})));
    }

    #[test]
    fn faults_name_the_innermost_field() {
        let rows = [
            (
                "metadata:\n  name: a\n  labels:\n    x: true\nports: []\n",
                ("metadata.labels.x", (4, 8), "true is not a string: write it in quotes, \"true\""),
            ),
            (
                "metadata: {name: a}\nports:\n- 1\n- 65536\n",
                ("ports[1]", (4, 3), "expected a whole number from 0 to 65535, found 65536"),
            ),
            (
                "metadata: {name: a}\nports: [eighty]\n",
                ("ports[0]", (2, 9), "expected a whole number from 0 to 65535, found \"eighty\""),
            ),
            (
                "metadata: {name: a}\nports: []\nweight: {a: b}\n",
                ("weight", (3, 9), "expected a number, found a mapping"),
            ),
            ("metadata: {}\nports: []\n", ("metadata", (1, 11), "missing field `name`")),
            (
                "metadata: {name: [a]}\nports: []\n",
                ("metadata.name", (1, 18), "expected a string, found a list"),
            ),
            ("metadata: 5\n", ("metadata", (1, 11), "expected a mapping, found 5")),
            ("- 1\n", ("", (1, 1), "expected a mapping, found a list")),
        ];
        for (text, (path, (line, column), message)) in rows {
            let expected = (path.to_owned(), Place { line, column }, message.to_owned());
            assert_eq!(read(text), Err(expected), "{text}");
        }
    }
}
