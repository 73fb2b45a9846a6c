//! A tree of values with places, and what they mean by YAML's core schema.

use std::borrow::Cow;

use super::path::{Path, Step};

/// A line and column, both counted from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
}

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Node<'a> {
    /// Its first character's place.
    pub place: Place,
    /// What it is.
    pub value: Value<'a>,
}

/// What a node holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// Text without quotes: what it means, [`Node::scalar`] says.
    Plain(Cow<'a, str>),
    /// Text in quotes, or a block of text.
    Text(Cow<'a, str>),
    /// A list.
    List(Vec<Node<'a>>),
    /// A mapping, in the order of the text; no key stands twice.
    Map(Vec<Entry<'a>>),
}

/// A field of a mapping.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry<'a> {
    /// Its name.
    pub key: Cow<'a, str>,
    /// The name's place.
    pub place: Place,
    /// What it holds.
    pub value: Node<'a>,
}

/// A single value by YAML's core schema (YAML 1.2.2, section 10.3.2).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar<'n> {
    /// `null`, `~` or nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number; larger ones are `Float`.
    Integer(i128),
    /// Any other number.
    Float(f64),
    /// Text.
    Text(&'n str),
}

impl<'a> Node<'a> {
    /// The value where it is neither a list nor a mapping.
    #[must_use]
    pub fn scalar(&self) -> Option<Scalar<'_>> {
        match &self.value {
            Value::Plain(text) => Some(plain(text)),
            Value::Text(text) => Some(Scalar::Text(text)),
            Value::List(_) | Value::Map(_) => None,
        }
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.scalar() == Some(Scalar::Null)
    }

    /// Field `key` of a mapping.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value),
            _ => None,
        }
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Self> {
        match &mut self.value {
            Value::Map(entries) => {
                entries.iter_mut().find(|entry| entry.key == key).map(|entry| &mut entry.value)
            }
            _ => None,
        }
    }

    /// Text of field `key` of a mapping.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.get(key)?.scalar()? {
            Scalar::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The place of `path`, or of the deepest field on the way that exists.
    #[must_use]
    pub fn locate(&self, path: &Path) -> Place {
        let mut node = self;
        for step in &path.0 {
            let next = match (step, &node.value) {
                (Step::Key(key), Value::Map(_)) => node.get(key),
                (Step::Index(index), Value::List(items)) => items.get(*index),
                _ => None,
            };
            match next {
                Some(found) => node = found,
                None => break,
            }
        }
        node.place
    }

    /// How many values it holds, itself included.
    pub(super) fn count(&self) -> usize {
        1 + match &self.value {
            Value::List(items) => items.iter().map(Self::count).sum(),
            Value::Map(entries) => entries.iter().map(|entry| entry.value.count()).sum(),
            Value::Plain(_) | Value::Text(_) => 0,
        }
    }

    /// What it is, for messages: `"x"`, `5`, `a list`.
    #[must_use]
    pub fn describe(&self) -> String {
        match (&self.value, self.scalar()) {
            (Value::List(_), _) => "a list".to_owned(),
            (Value::Map(_), _) => "a mapping".to_owned(),
            (_, Some(Scalar::Text(text))) => format!("{text:?}"),
            (_, Some(Scalar::Null)) => "nothing".to_owned(),
            (Value::Plain(text) | Value::Text(text), _) => text.to_string(),
        }
    }
}

fn plain(text: &str) -> Scalar<'_> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Scalar::Null,
        "true" | "True" | "TRUE" => return Scalar::Bool(true),
        "false" | "False" | "FALSE" => return Scalar::Bool(false),
        _ => {}
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return Scalar::Text(text);
    }
    let radix =
        |prefix, radix| text.strip_prefix(prefix).and_then(|digits| i128::from_str_radix(digits, radix).ok());
    if let Some(number) = text.parse().ok().or_else(|| radix("0x", 16)).or_else(|| radix("0o", 8)) {
        return Scalar::Integer(number);
    }
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Scalar::Float(number),
        _ => Scalar::Text(text),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Objects;
    use super::*;

    #[test]
    fn values_mean_what_the_core_schema_says() {
        let rows = [
            ("~", Scalar::Null),
            ("null", Scalar::Null),
            ("true", Scalar::Bool(true)),
            ("yes", Scalar::Text("yes")),
            ("-7", Scalar::Integer(-7)),
            ("0x1f", Scalar::Integer(31)),
            ("18446744073709551615", Scalar::Integer(i128::from(u64::MAX))),
            ("1.5", Scalar::Float(1.5)),
            ("10.0.0.1", Scalar::Text("10.0.0.1")),
            ("'5'", Scalar::Text("5")),
            ("\"true\"", Scalar::Text("true")),
        ];
        for (text, expected) in rows {
            let text = format!("a: {text}");
            let node = Objects::single(&text).unwrap();
            assert_eq!(node.get("a").unwrap().scalar(), Some(expected), "{text}");
        }
    }

    #[test]
    fn places_of_paths_fall_back_to_what_exists() {
        let node = Objects::single("a:\n  b:\n  - c: 1\n  - d\n").unwrap();
        let path = Path::default().key("a").key("b");
        assert_eq!(node.locate(&path.index(1)), Place { line: 4, column: 5 });
        assert_eq!(node.locate(&path.index(0).key("missing")), Place { line: 3, column: 5 });
    }
}
