//! The JSON Schema of a mapping, put together field by field.

use serde_json::{Map, Value, json};

use super::read::camel;

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
