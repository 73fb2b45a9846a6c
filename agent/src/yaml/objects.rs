//! Text to trees, by the parser's events.
//!
//! Keys that stand twice in a mapping, tags and endless nesting are refused. What anchors name is copied, and again
//! by aliases, up to a limit, so that a few lines can't grow into gigabytes.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use granit_parser::{Event, Marker, Options, Parser, ScalarStyle, Span, StrInput};

use super::tree::{Entry, Node, Place, Value};

/// How deep lists and mappings can nest.
const MAX_DEPTH: usize = 64;
/// Nodes that anchors and aliases of one document can add.
const MAX_COPIED: usize = 100_000;

/// Why text is not YAML that we take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct YamlError {
    /// Where.
    pub place: Place,
    /// What is wrong, without the place.
    pub message: String,
}

/// A list or mapping whose end has not come yet.
struct Open<'a> {
    node: Node<'a>,
    /// The key whose value comes next, in a mapping.
    key: Option<(Cow<'a, str>, Place)>,
    /// The keys of a large mapping.
    seen: HashSet<Cow<'a, str>>,
    anchor: usize,
}

/// Mappings with more keys than this look for a second one of the same name in a set.
const SMALL_MAP: usize = 16;

impl<'a> Open<'a> {
    fn new(value: Value<'a>, place: Place, anchor: usize) -> Self {
        Self { node: Node { place, value }, key: None, seen: HashSet::new(), anchor }
    }

    /// Takes the next node: a key or a value of a mapping, or an element of a list.
    fn push(&mut self, child: Node<'a>) -> Result<(), YamlError> {
        let place = child.place;
        match &mut self.node.value {
            Value::List(items) => items.push(child),
            Value::Map(entries) => match (self.key.take(), child.value) {
                (Some((key, place)), value) => {
                    entries.push(Entry { key, place, value: Node { place: child.place, value } });
                }
                (None, Value::Plain(key) | Value::Text(key)) => {
                    if entries.len() == SMALL_MAP {
                        self.seen = entries.iter().map(|entry| entry.key.clone()).collect();
                    }
                    let twice = if entries.len() < SMALL_MAP {
                        entries.iter().any(|entry| entry.key == key)
                    } else {
                        !self.seen.insert(key.clone())
                    };
                    if twice {
                        return Err(error(place, format!("{key:?} stands twice in this mapping")));
                    }
                    self.key = Some((key, place));
                }
                (None, _) => return Err(error(place, "a list or a mapping can't be the name of a field")),
            },
            Value::Plain(_) | Value::Text(_) => unreachable!("only lists and mappings are opened"),
        }
        Ok(())
    }
}

/// The objects of a text with any number of documents; documents without a value are passed over.
///
/// The elements of a document's own field `items` come one by one, before their document with an empty list
/// there: a `kind: List` of any length needs the memory of one element. After an error nothing more comes.
pub struct Objects<'a> {
    parser: Parser<'a, StrInput<'a>>,
    open: Vec<Open<'a>>,
    anchors: HashMap<usize, Node<'a>>,
    copied: usize,
    split_items: bool,
    failed: bool,
}

impl<'a> Iterator for Objects<'a> {
    type Item = Result<Node<'a>, YamlError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.advance().transpose();
        self.failed = matches!(next, Some(Err(_)));
        next
    }
}

impl<'a> Objects<'a> {
    /// Of `text`, in its order.
    #[must_use]
    pub fn new(text: &'a str) -> Self {
        let mut options = Options::default();
        options.flow_nesting_limit = MAX_DEPTH;
        options.block_nesting_limit = MAX_DEPTH;
        Self {
            parser: Parser::new_from_str_with_options(text, options),
            open: Vec::new(),
            anchors: HashMap::new(),
            copied: 0,
            split_items: true,
            failed: false,
        }
    }

    /// The one document of `text`, with its `items` in place.
    ///
    /// # Errors
    /// Where the text is not YAML, holds no value, or a second document.
    pub fn single(text: &'a str) -> Result<Node<'a>, YamlError> {
        let mut objects = Self { split_items: false, ..Self::new(text) };
        let document = objects
            .advance()?
            .ok_or_else(|| error(Place { line: 1, column: 1 }, "there is nothing in the file"))?;
        match objects.advance()? {
            None => Ok(document),
            Some(second) => Err(error(second.place, "a second document: there can be only one")),
        }
    }

    /// Reads on to the end of the next document, or of the next element of its `items`.
    fn advance(&mut self) -> Result<Option<Node<'a>>, YamlError> {
        while let Some(next) = self.parser.next_event() {
            let (event, span) =
                next.map_err(|e| error(place_of(e.marker()), format!("not YAML: {}", e.info())))?;
            if let Some(object) = self.take(event, &span)? {
                return Ok(Some(object));
            }
        }
        Ok(None)
    }

    fn take(&mut self, event: Event<'a>, span: &Span) -> Result<Option<Node<'a>>, YamlError> {
        let place = place_of(&span.start);
        match event {
            Event::Scalar(.., Some(tag))
            | Event::SequenceStart(.., Some(tag))
            | Event::MappingStart(.., Some(tag)) => {
                let place = span.tag_start.as_ref().map_or(place, place_of);
                Err(error(place, format!("the tag {} is not taken: write the value alone", tag.original())))
            }
            Event::Scalar(text, style, anchor, None) => {
                let value = if style == ScalarStyle::Plain { Value::Plain(text) } else { Value::Text(text) };
                self.finish(Node { place, value }, anchor)
            }
            Event::SequenceStart(_, anchor, None) => {
                self.open.push(Open::new(Value::List(Vec::new()), place, anchor));
                Ok(None)
            }
            Event::MappingStart(_, anchor, None) => {
                self.open.push(Open::new(Value::Map(Vec::new()), place, anchor));
                Ok(None)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let done = self.open.pop().expect("the parser ends only what it began");
                self.finish(done.node, done.anchor)
            }
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned();
                let node = node.ok_or_else(|| error(place, "an alias inside the value that it names"))?;
                self.copies(&node, place)?;
                self.finish(node, 0)
            }
            Event::DocumentEnd => {
                self.anchors.clear();
                self.copied = 0;
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    /// One more copy of a node.
    fn copies(&mut self, node: &Node<'a>, place: Place) -> Result<(), YamlError> {
        self.copied += node.count();
        if self.copied > MAX_COPIED {
            let message = format!("anchors and aliases stand for more than {MAX_COPIED} values");
            return Err(error(place, message));
        }
        Ok(())
    }

    /// Puts a finished node where it belongs; gives it back where it is an object of its own.
    fn finish(&mut self, node: Node<'a>, anchor: usize) -> Result<Option<Node<'a>>, YamlError> {
        if anchor != 0 {
            self.copies(&node, node.place)?;
            self.anchors.insert(anchor, node.clone());
        }
        if self.split_items
            && let [Open { key: Some((key, _)), .. }, Open { node: Node { value: Value::List(_), .. }, .. }] =
                self.open.as_slice()
            && key == "items"
        {
            return Ok(Some(node));
        }
        match self.open.last_mut() {
            Some(parent) => parent.push(node).map(|()| None),
            None if node.is_null() => Ok(None),
            None => Ok(Some(node)),
        }
    }
}

fn place_of(mark: &Marker) -> Place {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Place { line: number(mark.line()), column: number(mark.col() + 1) }
}

fn error(place: Place, message: impl Into<String>) -> YamlError {
    YamlError { place, message: message.into() }
}

#[cfg(test)]
mod tests {
    use super::super::Scalar;
    use super::*;

    fn all(text: &str) -> Result<Vec<Node<'_>>, String> {
        Objects::new(text)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| format!("{}:{}: {e}", e.place.line, e.place.column))
    }

    #[test]
    fn items_come_one_by_one_wherever_kind_stands() {
        let text = "apiVersion: v1\nitems:\n- kind: A\n  items: [1]\n- kind: B\nkind: List\n---\nkind: C\n---\n# nothing\n---\n{\"kind\": \"D\"}\n";
        let nodes = all(text).unwrap();
        let kinds: Vec<_> = nodes.iter().map(|node| node.text("kind").unwrap()).collect();
        assert_eq!(kinds, ["A", "B", "List", "C", "D"]);
        assert_eq!(nodes[0].get("items").unwrap().describe(), "a list");
        assert_eq!(nodes[1].place, Place { line: 5, column: 3 });
    }

    #[test]
    fn what_is_not_taken_says_where() {
        let rows = [
            ("a: 1\nb: 2\na: 3\n", "3:1: \"a\" stands twice in this mapping"),
            ("a: !secret x\n", "1:4: the tag !secret is not taken: write the value alone"),
            ("? [a]\n: b\n", "1:3: a list or a mapping can't be the name of a field"),
            ("a: [1, 2\nb: 3\n", "2:2: not YAML: illegal placement of ':' indicator"),
        ];
        for (text, expected) in rows {
            assert_eq!(all(text).unwrap_err(), expected, "{text}");
        }
        let many = (0..40).map(|i| format!("k{i}: 1\n")).collect::<String>() + "k3: 1\n";
        assert_eq!(all(&many).unwrap_err(), "41:1: \"k3\" stands twice in this mapping");
    }

    #[test]
    fn deep_nesting_and_multiplying_aliases_are_refused() {
        assert!(all(&"[".repeat(10_000)).unwrap_err().contains("not YAML"));
        assert!(all(&"- ".repeat(10_000)).unwrap_err().contains("not YAML"));
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..9 {
            let before = vec![format!("*a{}", i - 1); 10].join(", ");
            text += &format!("a{i}: &a{i} [{before}]\n");
        }
        assert!(all(&text).unwrap_err().ends_with("aliases stand for more than 100000 values"));
        // Each of 60 nested anchors names all that is inside: without aliases too, that multiplies.
        let inner = vec!["1"; 5000].join(",");
        let nested: String = (0..60).map(|i| format!("&a{i} [")).collect();
        let text = format!("{nested}{inner}{}", "]".repeat(60));
        assert!(all(&text).unwrap_err().ends_with("aliases stand for more than 100000 values"));
        let node = Objects::single("a: &x {b: 1}\nc: *x\n").unwrap();
        assert_eq!(node.get("c").unwrap().get("b").unwrap().scalar(), Some(Scalar::Integer(1)));
    }

    #[test]
    fn json_is_taken_tabs_and_long_lines_too() {
        let json = format!("{{\n\t\"kind\": \"A\",\n\t\"list\": [{}1]}}", "12345678, ".repeat(1000));
        let node = Objects::single(&json).unwrap();
        assert_eq!(node.text("kind"), Some("A"));
        assert!(matches!(&node.get("list").unwrap().value, Value::List(items) if items.len() == 1001));
    }
}
