//! A tree to text, as `kubectl get -o yaml` prints it: fields in order, lines of text as lines.

use serde_json::Value;

use super::{Objects, Scalar};

/// One document.
#[must_use]
pub fn to_text(value: &Value) -> String {
    let mut text = String::new();
    write(value, 0, &mut text);
    text
}

/// What stands behind `key:` or `-`, and what follows below it.
fn write(value: &Value, indent: usize, text: &mut String) {
    let spaces = " ".repeat(indent);
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (key, value) in fields {
                *text += &format!("{spaces}{}:", plain_or_quoted(key));
                below(value, indent, text);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                *text += &format!("{spaces}-");
                below(item, indent, text);
            }
        }
        scalar => *text += &format!("{spaces}{}\n", one_line(scalar)),
    }
}

fn below(value: &Value, indent: usize, text: &mut String) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            text.push('\n');
            write(value, indent + 2, text);
        }
        Value::Array(items) if !items.is_empty() => {
            text.push('\n');
            write(value, indent + 2, text);
        }
        Value::String(lines) if is_block(lines) => {
            text.push_str(" |\n");
            for line in lines.lines() {
                let spaces = if line.is_empty() { 0 } else { indent + 2 };
                *text += &format!("{:spaces$}{line}\n", "");
            }
        }
        scalar => *text += &format!(" {}\n", one_line(scalar)),
    }
}

/// Whether text says the same as a block of lines.
fn is_block(text: &str) -> bool {
    let printable = text.chars().all(|c| c == '\n' || !c.is_control());
    text.contains('\n')
        && printable
        && text.ends_with('\n')
        && !text.ends_with("\n\n")
        && !text.starts_with([' ', '\n'])
}

fn one_line(value: &Value) -> String {
    match value {
        Value::String(text) => plain_or_quoted(text),
        // Empty lists and mappings, numbers and words are the same in both.
        other => other.to_string(),
    }
}

/// Text without quotes where that means the same.
fn plain_or_quoted(text: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || "-_./ ".contains(c);
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic());
    let means_itself = || {
        let read = Objects::single(text);
        read.is_ok_and(|node| node.scalar() == Some(Scalar::Text(text)))
    };
    let words = ["y", "n", "yes", "no", "on", "off"];
    if begins
        && text.chars().all(safe)
        && !words.contains(&&*text.to_lowercase())
        && text.trim() == text
        && means_itself()
    {
        return text.to_owned();
    }
    // JSON's quotes are YAML's, too.
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::from_node;
    use super::*;

    #[test]
    fn what_is_written_is_read_and_reads_well() {
        let value = json!({
            "data": {"cluster": "drained", "nodes": "node-1\nnode-2\n", "odd": " a\nb", "last": "a\n\n", "no": "yes"},
            "list": [1, true, null, "true", "5", "", {"a": [], "b": {}}, "x: y", "- z", "#"],
            "metadata": {"annotations": {"a.io/b": "é\t\u{1}\"\\"}},
        });
        let text = to_text(&value);
        let back: Value = from_node(&Objects::single(&text).unwrap()).unwrap();
        assert_eq!(back, value, "{text}");
        let start = "data:\n  cluster: drained\n  last: \"a\\n\\n\"\n  \"no\": \"yes\"\n  nodes: |\n    node-1\n    node-2\n";
        assert!(text.starts_with(start), "{text}");
    }
}
