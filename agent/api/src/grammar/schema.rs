//! Schemas of ordinary types: what the grammar library cannot enforce in them.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::compile::WHITESPACE;

/// Keywords that the library knows and cannot enforce.
const UNENFORCED: [&str; 17] = [
    "uniqueItems",
    "not",
    "if",
    "then",
    "else",
    "contains",
    "minContains",
    "maxContains",
    "propertyNames",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "unevaluatedItems",
    "unevaluatedProperties",
    "contentSchema",
    "$dynamicRef",
    "$recursiveRef",
];
/// Formats of strings that the library enforces, or that stand for any string.
const FORMATS: [&str; 11] =
    ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri", "unknown"];
/// Most places that are found in one schema.
const MAX_PLACES: usize = 32;
/// Deepest level of a schema that is searched. The library refuses deeper ones.
const MAX_DEPTH: usize = 256;
/// Name under which a schema holds the library's options.
const OPTIONS: &str = "x-guidance";

/// Lets the library leave out what it cannot enforce. Returns the places in the schema of what it leaves out, as in
/// `properties.tags.uniqueItems`. A schema with options of its own stays as it is.
pub(crate) fn relax(schema: &mut Value) -> Vec<String> {
    let mut places = Vec::new();
    if schema.get(OPTIONS).is_some() {
        return places;
    }
    search(schema, "", MAX_DEPTH, &mut places);
    if let Some(fields) = schema.as_object_mut().filter(|_| !places.is_empty()) {
        fields.insert(OPTIONS.into(), json!({"whitespace_pattern": WHITESPACE, "lenient": true}));
    }
    places
}

fn search(schema: &Value, path: &str, depth: usize, places: &mut Vec<String>) {
    let Some(fields) = schema.as_object().filter(|_| depth > 0) else { return };
    let is_text = fields.get("type").and_then(Value::as_str).is_none_or(|kind| kind == "string");
    for (name, value) in fields {
        if places.len() == MAX_PLACES {
            return;
        }
        let place = format!("{path}{name}");
        match name.as_str() {
            name if UNENFORCED.contains(&name) => places.push(place),
            "format" if is_text && value.as_str().is_some_and(|format| !FORMATS.contains(&format)) => {
                places.push(place)
            }
            "minProperties" | "maxProperties" if !are_all_required(fields) => places.push(place),
            "properties" | "patternProperties" | "$defs" | "definitions" => {
                for (name, schema) in value.as_object().into_iter().flatten() {
                    search(schema, &format!("{place}.{name}."), depth - 1, places);
                }
            }
            "items" | "prefixItems" | "additionalItems" | "additionalProperties" | "anyOf" | "allOf" | "oneOf" => {
                search(value, &format!("{place}."), depth - 1, places);
                for (at, schema) in value.as_array().into_iter().flatten().enumerate() {
                    search(schema, &format!("{place}[{at}]."), depth - 1, places);
                }
            }
            _ => {}
        }
    }
}

/// Returns true if each property is required. The library can count properties only then.
fn are_all_required(fields: &Map<String, Value>) -> bool {
    let names = fields.get("required").and_then(Value::as_array).into_iter().flatten();
    let required: HashSet<&str> = names.filter_map(Value::as_str).collect();
    let mut properties = fields.get("properties").and_then(Value::as_object).into_iter().flatten();
    properties.all(|(name, _)| required.contains(name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grammar::{Grammar, Grammars};
    use crate::text::fixtures;

    /// Each case has a property's schema and the keyword that the library cannot enforce.
    #[test]
    fn what_cannot_be_enforced_is_found() {
        let grammars = Grammars::new(fixtures::byte_level(), fixtures::BYTE_LEVEL_VOCAB, vec![fixtures::END].into());
        let compiles = |schema: &Value| grammars.compile(&Grammar::JsonSchema(schema.clone())).is_ok();
        let cases = [
            (json!({"type": "array", "items": {"type": "integer"}, "uniqueItems": true}), "uniqueItems"),
            (json!({"type": "string", "format": "binary"}), "format"),
            (json!({"type": "string", "format": "password", "writeOnly": true}), "format"),
            (json!({"type": "string", "format": "file-path"}), "format"),
            (json!({"type": "string", "not": {"const": "x"}}), "not"),
            (json!({"type": "object", "if": {"required": ["b"]}, "properties": {}}), "if"),
            (json!({"type": "array", "contains": {"type": "integer"}}), "contains"),
            (json!({"type": "object", "propertyNames": {"maxLength": 3}}), "propertyNames"),
            (json!({"type": "object", "dependentRequired": {"a": ["b"]}}), "dependentRequired"),
            (json!({"type": "object", "properties": {"b": {}}, "minProperties": 1}), "minProperties"),
            (json!({"type": "array", "items": {"type": "array", "uniqueItems": false}}), "items.uniqueItems"),
            (json!({"anyOf": [{"type": "null"}, {"type": "string", "format": "path"}]}), "anyOf[1].format"),
        ];
        for (property, place) in cases {
            let mut schema = json!({"type": "object", "properties": {"a": property}, "required": ["a"]});
            assert!(!compiles(&schema), "{schema} needs no help");
            assert_eq!(relax(&mut schema), [format!("properties.a.{place}")]);
            assert!(compiles(&schema), "{schema}");
        }
        for format in FORMATS {
            let mut schema = json!({"type": "string", "format": format});
            assert!(compiles(&schema) && relax(&mut schema).is_empty(), "{format}");
        }
        let properties = json!({"not": {"type": "string"}, "n": {"type": "integer", "format": "int32"}});
        let mut plain = json!({"type": "object", "properties": properties, "required": ["not"]});
        assert!(relax(&mut plain).is_empty() && compiles(&plain));
    }

    #[test]
    fn own_options_stay() {
        let mut schema = json!({"type": "string", "format": "binary", "x-guidance": {"lenient": false}});
        let before = schema.clone();
        assert!(relax(&mut schema).is_empty());
        assert_eq!(schema, before);
    }
}
